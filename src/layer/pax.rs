//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"): `LENGTH KEY=VALUE\n`, where LENGTH
//! counts the whole record. A value may hold anything, newlines included, so only the length tells
//! where a record ends: reading by lines would let a file's attribute smuggle a record.
#![forbid(unsafe_code)]

use super::acl;
use super::entry::Mtime;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// The kernel takes no longer name of an extended attribute (xattr(7)), and writers have their names from it.
const XATTR_NAME_MAX: usize = 255;

/// The records of one header, or of all global headers so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    /// An empty value means that the key's value in the global header is not to be used.
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// GNU.sparse.offset and GNU.sparse.numbytes of format 0.0 come once for each piece.
    pieces: Vec<(u64, u64)>,
    offset: Option<u64>,
}

fn bad(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidData, format!("PAX header: {what}"))
}

impl Pax {
    pub(super) fn parse(mut text: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        while !text.is_empty() {
            let space = text
                .iter()
                .take(20)
                .position(|&b| b == b' ')
                .ok_or_else(|| bad("a record does not begin with its length"))?;
            let length = decimal(&text[..space])
                .and_then(|n| usize::try_from(n).ok())
                .filter(|&n| n > space + 1 && n <= text.len())
                .ok_or_else(|| bad("a record's length is not that of a record"))?;
            let (record, rest) = text.split_at(length);
            text = rest;
            let [body @ .., b'\n'] = &record[space + 1..] else {
                return Err(bad("a record does not end where its length says"));
            };
            let equals = body.iter().position(|&b| b == b'=').ok_or_else(|| bad("a record has no ="))?;
            pax.record(&body[..equals], &body[equals + 1..])?;
        }
        if pax.offset.is_some() {
            return Err(bad("GNU.sparse.offset without GNU.sparse.numbytes"));
        }
        Ok(pax)
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if key.is_empty() || key.contains(&0) {
            return Err(bad("a record's key is empty or has a NUL"));
        }
        match key {
            b"GNU.sparse.offset" => {
                let offset = decimal(value).ok_or_else(|| bad("GNU.sparse.offset is no number"))?;
                if self.offset.replace(offset).is_some() {
                    return Err(bad("GNU.sparse.offset without GNU.sparse.numbytes"));
                }
            }
            b"GNU.sparse.numbytes" => {
                let length = decimal(value).ok_or_else(|| bad("GNU.sparse.numbytes is no number"))?;
                let offset =
                    self.offset.take().ok_or_else(|| bad("GNU.sparse.numbytes without GNU.sparse.offset"))?;
                self.pieces.push((offset, length));
            }
            _ => {
                self.records.insert(key.to_vec(), value.to_vec());
            }
        }
        Ok(())
    }

    /// Adds a global header to those before it, which it overrides key by key.
    pub(super) fn add_global(&mut self, newer: Self, max: usize) -> Result<()> {
        // Nothing writes these for all entries; readers that disagree about them see different files.
        let names_one = |key: &Vec<u8>| {
            matches!(key.as_slice(), b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.")
        };
        if !newer.pieces.is_empty() || newer.records.keys().any(names_one) {
            return Err(bad("a global header has a path, a size or a sparse map"));
        }
        self.records.extend(newer.records);
        if self.records.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > max {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("global PAX headers: more than {max} bytes"),
            ));
        }
        Ok(())
    }

    /// This entry's value, else the global one.
    pub(super) fn get<'a>(&'a self, global: &'a Self, key: &str) -> Option<&'a [u8]> {
        let key = key.as_bytes();
        let value = self.records.get(key).or_else(|| global.records.get(key))?;
        (!value.is_empty()).then_some(value)
    }

    /// A path: not empty, without NUL.
    pub(super) fn path(&self, global: &Self, key: &str) -> Result<Option<Vec<u8>>> {
        match self.get(global, key) {
            Some(value) if value.contains(&0) => Err(bad(format_args!("{key} has a NUL"))),
            value => Ok(value.map(<[u8]>::to_vec)),
        }
    }

    pub(super) fn number(&self, global: &Self, key: &str) -> Result<Option<u64>> {
        self.get(global, key)
            .map(|value| decimal(value).ok_or_else(|| bad(format_args!("{key} is not a number"))))
            .transpose()
    }

    pub(super) fn mtime(&self, global: &Self) -> Result<Option<Mtime>> {
        self.get(global, "mtime")
            .map(|value| time(value).ok_or_else(|| bad("mtime is not a time")))
            .transpose()
    }

    /// The pieces of sparse format 0.0.
    pub(super) fn pieces(&self) -> &[(u64, u64)] {
        &self.pieces
    }

    /// Extended attributes in the spellings of star and GNU tar (raw) and of libarchive (encoded), by name; access control
    /// lists are such attributes.
    pub(super) fn xattrs(&self, global: &Self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = BTreeMap::new();
        for source in [global, self] {
            for (key, value) in &source.records {
                // An attribute may be empty, so here an empty value does not take it back.
                if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = unescape(name).ok_or_else(|| bad("LIBARCHIVE.xattr: the name"))?;
                    let value = base64(value).ok_or_else(|| bad("LIBARCHIVE.xattr: not base64"))?;
                    found.insert(name, value);
                }
            }
            for (key, value) in &source.records {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    found.insert(name.to_vec(), value.clone());
                }
            }
        }
        for (key, name) in acl::ATTRIBUTES {
            if let Some(text) = self.get(global, key) {
                let attribute = acl::parse(text).map(|list| (name.into(), list));
                // What can't be told in the kernel's form keeps its name, by which it is left out.
                let (name, value) = attribute.unwrap_or_else(|| (key.into(), text.to_vec()));
                found.entry(name).or_insert(value);
            }
        }
        if found.keys().any(|name| name.is_empty() || name.contains(&0)) {
            return Err(bad("an extended attribute has no name, or a NUL in it"));
        }
        if let Some(name) = found.keys().find(|name| name.len() > XATTR_NAME_MAX) {
            return Err(bad(format_args!(
                "the name of an extended attribute has {} bytes, more than 255",
                name.len()
            ))
            .with_kind(ErrorKind::TooLarge));
        }
        Ok(found.into_iter().collect())
    }
}

/// Digits only: `str::parse` would also take a sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`; digits below the nanosecond are cut off.
fn time(text: &[u8]) -> Option<Mtime> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let secs = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |n, digit| n * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, _) => Mtime { secs, nanos },
        (true, 0) => Mtime { secs: -secs, nanos },
        // -1.25 is 0.75 s after -2.
        (true, _) => Mtime { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// `%41` to `A`.
pub(super) fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    Some(out)
}

/// RFC 4648 section 4; libarchive writes no padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = &text[..text.iter().rposition(|&b| b != b'=').map_or(0, |last| last + 1)];
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for &byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        out.extend_from_slice(match group.len() {
            4 => &bytes[1..4],
            3 => &bytes[1..3],
            2 => &bytes[1..2],
            _ => return None,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::testing::record;

    #[test]
    fn a_value_may_hold_what_looks_like_a_record() {
        let text = b"41 SCHILY.xattr.user.a=\n19 linkpath=/evil\n";
        assert_eq!(text.len(), 42);
        let text = [b"42", &text[2..]].concat();
        let pax = Pax::parse(&text).unwrap();
        let none = Pax::default();
        assert_eq!(pax.get(&none, "linkpath"), None);
        assert_eq!(pax.xattrs(&none).unwrap(), [(b"user.a".to_vec(), b"\n19 linkpath=/evil".to_vec())]);
    }

    #[test]
    fn refuses_names_of_attributes_that_no_file_has() {
        for (key, rest) in [("SCHILY.xattr.", "user."), ("LIBARCHIVE.xattr.", "user%2e")] {
            let named = |length: usize| {
                let name = format!("user.{}", "n".repeat(length - 5));
                let text = record(&format!("{key}{rest}{}", &name[5..]), b"");
                (name, Pax::parse(&text).unwrap().xattrs(&Pax::default()))
            };
            let (name, found) = named(255);
            assert_eq!(found.unwrap(), [(name.into_bytes(), Vec::new())]);
            assert_eq!(named(256).1.unwrap_err().kind(), ErrorKind::TooLarge);
        }
    }

    #[test]
    fn refuses_broken_records() {
        for text in [
            &b"x"[..],
            b"5 a=b\n",  // one byte short
            b"7 a=b\n",  // one too many
            b"6 a=bb",   // no newline
            b"6 abb\n",  // no =
            b"5 =b\n",   // no key
            b"+6 a=b\n", // a sign
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"24 GNU.sparse.offset=1\n",
        ] {
            let kind = Pax::parse(text).map_err(|error| error.kind()).err();
            assert_eq!(kind, Some(ErrorKind::InvalidData), "{}", text.escape_ascii());
        }
        assert!(Pax::parse(b"6 a=b\n").is_ok());
    }

    #[test]
    fn times_before_1970_and_below_the_second() {
        let at = |text: &str| time(text.as_bytes()).map(|t| (t.secs, t.nanos));
        assert_eq!(at("1.5"), Some((1, 500_000_000)));
        assert_eq!(at("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(at("-3"), Some((-3, 0)));
        assert_eq!(at("0.1234567899"), Some((0, 123_456_789)));
        assert_eq!(at("9223372036854775808"), None);
        assert_eq!(at("1e5"), None);
        assert_eq!(at(""), None);
    }

    #[test]
    fn decodes_libarchive_attributes() {
        assert_eq!(base64(b"aGVsbG8").unwrap(), b"hello");
        assert_eq!(base64(b"aGVsbG8=").unwrap(), b"hello");
        assert_eq!(base64(b"").unwrap(), b"");
        assert_eq!(base64(b"a"), None);
        assert_eq!(base64(b"aG!s"), None);
        assert_eq!(unescape(b"user.a%20b").unwrap(), b"user.a b");
        assert_eq!(unescape(b"user.%2"), None);
    }
}
