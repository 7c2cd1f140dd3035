//! Access control lists (acl(5)): as star and GNU tar write them (`tar --acls`), and whom they name.
#![forbid(unsafe_code)]

const USER: u16 = 0x02;
const GROUP: u16 = 0x08;

/// Of a file, and what new files of a directory get, as the kernel names them.
pub(super) const ATTRIBUTES: [(&str, &str); 2] =
    [("SCHILY.acl.access", "system.posix_acl_access"), ("SCHILY.acl.default", "system.posix_acl_default")];

/// Whether the kernel has such an attribute only for directories.
pub(super) fn is_default(name: &[u8]) -> bool {
    name == b"system.posix_acl_default"
}

/// Whether an attribute's value is a list.
pub(super) fn is_list(name: &[u8]) -> bool {
    is_default(name) || name == b"system.posix_acl_access"
}

/// What the owning group may, by a list in the kernel's form; the mode of a file with a list has the mask in its place.
pub(super) fn of_group(list: &[u8]) -> Option<u32> {
    let (entries, _) = list.get(4..)?.as_chunks::<8>();
    let group = entries.iter().find(|entry| entry[..2] == [0x04, 0])?;
    Some(u32::from(group[2] & 7))
}

/// A list in the kernel's form with whom it names called otherwise; `None` where somebody has no other name. What is no list
/// stays as it is: the kernel says so.
pub(super) fn renamed(
    mut list: Vec<u8>,
    user: impl Fn(u32) -> Option<u32>,
    group: impl Fn(u32) -> Option<u32>,
) -> Option<Vec<u8>> {
    let (entries, _) = list.get_mut(4..).unwrap_or_default().as_chunks_mut::<8>();
    for [tag, tag_high, _, _, id @ ..] in entries {
        let old = u32::from_le_bytes(*id);
        let new = match u16::from_le_bytes([*tag, *tag_high]) {
            USER => user(old)?,
            GROUP => group(old)?,
            _ => continue,
        };
        *id = new.to_le_bytes();
    }
    Some(list)
}

/// The kernel's form (`struct posix_acl_xattr_header` and `_entry`). `None` for what is no list, or one that names users or
/// groups: those are of the machine that it comes from.
pub(super) fn parse(text: &[u8]) -> Option<Vec<u8>> {
    const VERSION: u32 = 2;
    const NO_ID: u32 = u32::MAX;
    let text = std::str::from_utf8(text).ok()?;
    let mut entries = Vec::new();
    for line in text.split([',', '\n']).map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if line.is_empty() {
            continue;
        }
        let fields: Vec<_> = line.split(':').map(str::trim).collect();
        let [tag, who, permissions, more @ ..] = &fields[..] else { return None };
        let tag: u16 = match (*tag, who.is_empty()) {
            ("user" | "u", true) => 0x01,
            ("user" | "u", false) => USER,
            ("group" | "g", true) => 0x04,
            ("group" | "g", false) => GROUP,
            ("mask" | "m", true) => 0x10,
            ("other" | "o", true) => 0x20,
            _ => return None,
        };
        // star writes the number of a name behind it.
        let id = match (who.is_empty(), more) {
            (true, []) => NO_ID,
            (false, []) => who.parse().ok()?,
            (false, [number]) => number.parse().ok()?,
            _ => return None,
        };
        entries.push((tag, id, bits(permissions)?));
    }
    // The order that the kernel wants, and what it takes (posix_acl_valid): the owner's, the group's and the others' once, all
    // else at most once, and a mask where somebody is named.
    entries.sort_unstable();
    let has = |wanted| entries.iter().any(|(tag, ..)| *tag == wanted);
    let is_twice = entries.windows(2).any(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1));
    if is_twice || ![0x01, 0x04, 0x20].into_iter().all(has) || (has(USER) || has(GROUP)) && !has(0x10) {
        return None;
    }
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    Some(bytes)
}

fn bits(permissions: &str) -> Option<u16> {
    permissions.chars().try_fold(0, |bits, letter| match letter {
        'r' => Some(bits | 4),
        'w' => Some(bits | 2),
        'x' => Some(bits | 1),
        '-' => Some(bits),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u16, permissions: u16, id: u32) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    }

    #[test]
    fn lists_of_numbers() {
        let none = u32::MAX;
        let expected = [
            vec![2, 0, 0, 0],
            entry(1, 6, none),
            entry(2, 7, 1000),
            entry(4, 4, none),
            entry(8, 1, 7),
            entry(16, 7, none),
            entry(32, 0, none),
        ]
        .concat();
        for text in [
            "user::rw-,user:1000:rwx,group::r--,group:7:--x,mask::rwx,other::---",
            "group:7:--x\nu::rw-\ng::r--\nm::rwx\no::---\nuser:1000:rwx\t#effective:rwx\n",
            "user::rw-,user:joe:rwx:1000,group::r--,group:adm:--x:7,mask::rwx,other::---",
        ] {
            assert_eq!(parse(text.as_bytes()).as_ref(), Some(&expected), "{text}");
        }
    }

    #[test]
    fn whom_a_list_names() {
        let list = [&[2, 0, 0, 0][..], &entry(1, 6, 7), &entry(2, 7, 10), &entry(8, 1, 20)].concat();
        let renamed = |text: &[u8], from| {
            let add = |id: u32| (id >= from).then_some(id + 100);
            super::renamed(text.to_vec(), add, |id| Some(id + 1000))
        };
        let expected = [&[2, 0, 0, 0][..], &entry(1, 6, 7), &entry(2, 7, 110), &entry(8, 1, 1020)].concat();
        assert_eq!(renamed(&list, 0), Some(expected));
        assert_eq!(renamed(&list, 11), None);
        for broken in [&b""[..], b"\x02\0", b"\x02\0\0\0junk"] {
            assert_eq!(renamed(broken, 11).as_deref(), Some(broken));
        }
    }

    #[test]
    fn what_names_others_or_is_no_list() {
        for text in [
            "",
            "user:joe:rwx",
            "user::q",
            "user",
            "mask:1:r",
            "other::r:1",
            "user:1:r:x",
            "x::r",
            "\u{1}",
            "u::r",
            "u::r,g::r,o::r,o::r",
            "u::r,user:1:r,g::r,o::r",
            "u::r,u::w,g::r,o::r",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(b"\xff"), None);
    }
}
