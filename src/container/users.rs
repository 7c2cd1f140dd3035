//! Looks users and groups up in the image's own /etc/passwd and /etc/group (passwd(5), group(5)).
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use std::path::PathBuf;

/// Who a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: PathBuf,
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

/// Of a line, as the kernel takes ids; the last of them means none.
fn id(field: &str) -> Option<u32> {
    field.parse().ok().filter(|id| *id <= i32::MAX as u32)
}

fn not_found(what: &str, name: &str, file: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no {what} {name:?} in the image's {file}"))
        .with_remedy("name one that is there, or give a number")
}

/// `spec` is `user[:group]`, names or numbers; `extra` are supplementary groups. A user given by name or number that
/// is in the file has its group, its home, and the groups that list it, unless a group is named. `root` needs no file: where
/// none has it, it is 0.
pub(crate) fn identify(spec: &str, extra: &[String], passwd: &str, group: &str) -> Result<Identity> {
    let (user, named_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = id(user);
    let or_root = |name: &str| (name == "root").then_some(0);
    let entry = passwd.lines().map(fields).find(|fields| {
        fields.len() >= 4 && (fields[0] == user || number.is_some() && id(fields[2]) == number)
    });
    let entry = entry.as_deref();
    let uid = match (entry.and_then(|fields| id(fields[2])), number.or_else(|| or_root(user))) {
        (Some(uid), _) | (None, Some(uid)) => uid,
        (None, None) => return Err(not_found("user", user, "/etc/passwd")),
    };
    let gid_of = |name: &str| -> Result<u32> {
        let line = group.lines().map(fields).find(|fields| fields.len() >= 3 && fields[0] == name);
        let found = line.and_then(|fields| id(fields[2])).or_else(|| id(name)).or_else(|| or_root(name));
        found.ok_or_else(|| not_found("group", name, "/etc/group"))
    };
    let gid = match named_group {
        Some(name) => gid_of(name)?,
        None => match entry {
            Some(fields) => id(fields[3]).ok_or_else(|| not_found("group", fields[3], "/etc/passwd"))?,
            None => 0,
        },
    };
    let mut groups = Vec::new();
    if let (Some(name), None) = (entry.map(|fields| fields[0]), named_group) {
        let member = |fields: &Vec<&str>| fields.len() >= 4 && fields[3].split(',').any(|one| one == name);
        groups.extend(group.lines().map(fields).filter(member).filter_map(|fields| id(fields[2])));
    }
    for name in extra {
        groups.push(gid_of(name)?);
    }
    groups.sort_unstable();
    groups.dedup();
    let home = entry.and_then(|fields| fields.get(5)).filter(|home| home.starts_with('/'));
    Ok(Identity { uid, gid, groups, home: home.map_or_else(|| "/".into(), PathBuf::from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:w:/var/www:/x\nbad\nnum:x:x:1:a:/b:/c\n\
                          huge:x:4294967295:0::/:\nhuge2:x:5:4294967295::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nadm:x:4:syslog,www\nrootish:x:9:root\nhuge:x:4294967294:www\n";

    fn who(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let id = identify(spec, &[], PASSWD, GROUP).unwrap();
        (id.uid, id.gid, id.groups, id.home.to_str().unwrap().into())
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(who(""), (0, 0, vec![9], "/root".into()));
        assert_eq!(who("www"), (33, 34, vec![4], "/var/www".into()));
        assert_eq!(who("33"), (33, 34, vec![4], "/var/www".into()));
        assert_eq!(who("www:adm"), (33, 4, vec![], "/var/www".into()));
        assert_eq!(who("1234"), (1234, 0, vec![], "/".into()));
        assert_eq!(who("1234:5"), (1234, 5, vec![], "/".into()));
        assert_eq!(identify("0", &["adm".into(), "77".into()], PASSWD, GROUP).unwrap().groups, [4, 9, 77]);
    }

    #[test]
    fn root_needs_no_files() {
        for (spec, ids) in
            [("root", (0, 0)), ("root:root", (0, 0)), ("5:root", (5, 0)), ("root:7", (0, 7)), ("0", (0, 0))]
        {
            for passwd in ["", "www:x:33:34:w:/var/www:/x\n"] {
                let who = identify(spec, &["root".into()], passwd, "www:x:34:\n").unwrap();
                assert_eq!((who.uid, who.gid, who.groups), (ids.0, ids.1, vec![0]), "{spec}");
            }
        }
        // Where they have one of the name, that one is meant.
        let who = identify("root:root", &[], "root:x:7:8::/r:/x\n", "root:x:9:\n").unwrap();
        assert_eq!((who.uid, who.gid), (7, 9));
        assert_eq!(identify("root:none", &[], "", "").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn unknown_ones_are_errors() {
        for spec in ["nobody", "www:nogroup", "num", "-1", "4294967295", "huge", "huge2", "www:huge"] {
            assert_eq!(identify(spec, &[], PASSWD, GROUP).unwrap_err().kind(), ErrorKind::NotFound, "{spec}");
        }
    }
}
