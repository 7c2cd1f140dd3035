//! `--chown`: whom the files belong to, in the image that is built.
#![forbid(unsafe_code)]

use super::super::files::text_of;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Below;

/// It needs no look-up.
const ROOT: &str = "root";

/// `user[:group]`, each a number or a name of the image's /etc/passwd or /etc/group. As in BuildKit a user that is a number alone
/// has the group of the same number, a name that of its line; and `root` is 0, whatever the files say or whether there are any.
pub(in crate::build) fn owner(text: &str, below: Option<&mut Below<'_>>) -> Result<(u32, u32)> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let mut below = below;
    let mut lines = |file: &str| match below.as_deref_mut() {
        Some(below) => text_of(below, file),
        None => Ok(None),
    };
    let missing = |what: &str, name: &str, file: &str| {
        let what = format!("--chown={text}: the image has no {what} {name:?} in its /{file}");
        Error::new(ErrorKind::NotFound, what).with_remedy("name one that is there, or give a number")
    };
    let (uid, own_group) = match (user, id(user)) {
        ("" | ROOT, _) => (0, 0),
        (_, Some(uid)) => (uid, uid),
        (name, None) => {
            let file = lines("etc/passwd")?.unwrap_or_default();
            let line = file.lines().map(fields).find(|fields| fields.len() >= 4 && fields[0] == name);
            let found = line.and_then(|fields| Some((id(fields[2])?, id(fields[3])?)));
            found.ok_or_else(|| missing("user", name, "etc/passwd"))?
        }
    };
    let gid = match group.map(|group| (group, id(group))) {
        None => own_group,
        Some((ROOT, _)) => 0,
        Some((_, Some(gid))) => gid,
        Some((name, None)) => {
            let file = lines("etc/group")?.unwrap_or_default();
            let line = file.lines().map(fields).find(|fields| fields.len() >= 3 && fields[0] == name);
            line.and_then(|fields| id(fields[2])).ok_or_else(|| missing("group", name, "etc/group"))?
        }
    };
    Ok((uid, gid))
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

/// The last of all numbers means none to the kernel.
fn id(field: &str) -> Option<u32> {
    let is_number = !field.is_empty() && field.bytes().all(|b| b.is_ascii_digit());
    field.parse().ok().filter(|id| is_number && *id != u32::MAX)
}
