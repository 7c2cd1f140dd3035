//! The mounts that a thread sees, as proc_pid_mountinfo(5) tells them.
#![forbid(unsafe_code)]

use crate::error::{Call, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A line of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// The number of its filesystem: major, minor.
    pub filesystem: (u32, u32),
    /// What of the filesystem is seen.
    pub root: PathBuf,
    pub point: PathBuf,
    pub kind: String,
    /// The filesystem's own.
    pub options: String,
}

/// Those of the calling thread: it may be in a mount namespace of its own.
pub(crate) fn read() -> Result<Vec<Mounted>> {
    const PATH: &str = "/proc/thread-self/mountinfo";
    std::fs::read(PATH).call_at("read", PATH).map(|text| parse(&text))
}

/// What is no such line is left out.
pub(crate) fn parse(text: &[u8]) -> Vec<Mounted> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = String::from_utf8_lossy(fields.nth(2)?);
    let (major, minor) = number.split_once(':')?;
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    // The mount's options, and optional fields, which a dash ends.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let mut text = || rest.next().map(|field| String::from_utf8_lossy(field).into_owned());
    let (kind, _, options) = (text()?, text()?, text()?);
    Some(Mounted { filesystem: (major.parse().ok()?, minor.parse().ok()?), root, point, kind, options })
}

/// Space, tab, newline and backslash are written as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_line_has_optional_fields_and_escapes() {
        let text =
            b"36 35 98:0 /a\\040b /mnt\\134\xffc rw master:1 shared:2 - ext4 /dev/x rw,errors=continue\n";
        let mount = Mounted {
            filesystem: (98, 0),
            root: "/a b".into(),
            point: OsStr::from_bytes(b"/mnt\\\xffc").into(),
            kind: "ext4".into(),
            options: "rw,errors=continue".into(),
        };
        assert_eq!(parse(text), [mount]);
        assert_eq!(unescape(br"/plain\0"), PathBuf::from(r"/plain\0"));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for text in ["", "\n", "x", "1 2 3 / /x rw - a b c", "1 0 0:1 / /x rw a b c", "1 0 0:1 / /x rw - a b"]
        {
            assert_eq!(parse(text.as_bytes()), [], "{text:?}");
        }
    }

    #[test]
    fn this_thread_sees_proc() {
        let mounts = read().unwrap();
        assert!(mounts.iter().any(|mount| mount.kind == "proc"), "{mounts:?}");
    }
}
