//! Which ids `/etc/subuid` and `/etc/subgid` give to users (subuid(5), subgid(5)).
//!
//! Whoever has sub-ids is root over them in a user namespace: a container with one of them would be that user's to kill, and
//! its files that user's to change. What root itself is given there is root's. Sub-ids from elsewhere (the line `subid` of
//! nsswitch.conf(5)) are not seen here.
#![forbid(unsafe_code)]

use super::super::lock;
use crate::error::{Call, Error, ErrorKind, Result};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// Of each file, in bytes: two hundred thousand users.
const FILE_MAX: u64 = 8 << 20;

/// The ids of users other than root, by the file and the name in it.
#[derive(Debug, Default)]
pub(super) struct Given(Vec<Span>);

/// Some ids in a row that somebody has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Span {
    first: u64,
    end: u64,
    whose: String,
    file: &'static str,
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first, end, whose, file } = self;
        write!(f, "{file} gives the ids {first} to {} to {whose}", end - 1)
    }
}

/// What tells that a file is another one, or has changed.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

fn stamp(of: &Metadata) -> Stamp {
    (of.dev(), of.ino(), of.size(), (of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec()))
}

impl Given {
    /// As the files are now. They are read anew only when they have changed: every start asks.
    ///
    /// # Errors
    /// Those of the file system, and `TooLarge`: what is not known can't be kept clear of. A file that is not there gives
    /// nothing.
    pub fn now() -> Result<Arc<Self>> {
        type Known = Option<([Option<Stamp>; 2], Arc<Given>)>;
        static KNOWN: Mutex<Known> = Mutex::new(None);
        let mut stamps = [None; 2];
        for (stamp_of, file) in stamps.iter_mut().zip(FILES) {
            *stamp_of = match std::fs::metadata(file) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                other => Some(stamp(&other.call_at("stat", file)?)),
            };
        }
        let mut known = lock(&KNOWN);
        if let Some((_, given)) = known.as_ref().filter(|(of, _)| *of == stamps) {
            return Ok(given.clone());
        }
        let mut given = Self::default();
        for file in FILES {
            given.read(file)?;
        }
        Ok(known.insert((stamps, Arc::new(given))).1.clone())
    }

    fn read(&mut self, file: &'static str) -> Result<()> {
        let opened = match File::open(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.call_at("open", file)?,
        };
        let mut bytes = Vec::new();
        opened.take(FILE_MAX + 1).read_to_end(&mut bytes).call_at("read", file)?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(Error::new(ErrorKind::TooLarge, format!("more than {FILE_MAX} bytes of sub-ids"))
                .with_path(file)
                .with_remedy("give several users' ids in fewer lines"));
        }
        self.add(file, &String::from_utf8_lossy(&bytes));
        Ok(())
    }

    /// Lines `name-or-id:first:count`. A line that is none gives nobody anything, as newuidmap(1) sees it.
    pub fn add(&mut self, file: &'static str, text: &str) {
        self.0.extend(text.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let whose = fields.next()?;
            let (first, count) = (number(fields.next()?)?, number(fields.next()?)?);
            let is_others = count > 0 && whose != "root" && number(whose) != Some(0);
            let end = first.saturating_add(count);
            is_others.then(|| Span { first, end, whose: whose.to_owned(), file })
        }));
    }

    /// Who has some of `count` ids from `first` on.
    pub fn some_of(&self, first: u32, count: u32) -> Option<&Span> {
        let (first, end) = (u64::from(first), u64::from(first) + u64::from(count));
        self.0.iter().find(|span| span.first < end && first < span.end)
    }
}

/// As strtoul(3) of any base, by which shadow's programs read these files.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => u64::from_str_radix(digits, 8).ok(),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(users: &str, groups: &str) -> Given {
        let mut given = Given::default();
        given.add(FILES[0], users);
        given.add(FILES[1], groups);
        given
    }

    #[test]
    fn each_id_of_a_range_counts_by_name_and_by_number_in_both_files() {
        let given = given("alice:1000:10\n1001:2000:1\n", "bob:3000:5\n");
        let whose = |first, count| given.some_of(first, count).map(|span| span.whose.as_str());
        assert_eq!(whose(1009, 1), Some("alice"));
        assert_eq!(whose(990, 11), Some("alice"));
        assert_eq!((whose(990, 10), whose(1010, 990)), (None, None));
        assert_eq!((whose(1500, 501), whose(2001, 999)), (Some("1001"), None));
        assert_eq!((whose(3004, 100), whose(3005, 100)), (Some("bob"), None));
        let said = given.some_of(3000, 1).unwrap().to_string();
        assert_eq!(said, "/etc/subgid gives the ids 3000 to 3004 to bob");
    }

    #[test]
    fn broken_lines_hide_no_other() {
        let given = given(
            "\n# a comment\nalice\nalice:1:\nalice:x:y\n:::\nalice:-5:10\nalice:5:0\n bob : 0x10 : 020 \u{0}\n\
             carol:100:18446744073709551615:more\ndave:0x20:020\n\u{fffd}:50:1",
            "",
        );
        assert_eq!(given.some_of(0, 32), None, "{given:?}");
        assert_eq!(given.some_of(0, 33).unwrap().whose, "dave");
        assert_eq!(given.some_of(47, 1).unwrap().whose, "dave");
        assert_eq!(given.some_of(48, 2), None);
        assert_eq!(given.some_of(50, 1).unwrap().whose, "\u{fffd}");
        // More than there are: all from there on.
        assert_eq!(given.some_of(u32::MAX, 1).unwrap().whose, "carol");
    }

    #[test]
    fn what_root_is_given_is_roots() {
        let given = given("root:1000000:1000000000\n0:500000:10\n00:600000:10\n", "root:1:1\n");
        assert_eq!(given.some_of(0, u32::MAX), None, "{given:?}");
    }
}
