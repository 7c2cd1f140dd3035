//! Secrets: read when a build begins, held in memory, looked for in what a RUN writes.
#![forbid(unsafe_code)]

use super::{BuildSecret, Secret};
use crate::error::{Call, Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

/// As docker has it.
const SECRET_MAX: u64 = 500 << 10;

/// Something shorter is in any output by chance.
const LOOKED_FOR: usize = 8;

const STARS: &[u8] = b"***";

/// By id.
pub(super) struct Secrets(BTreeMap<String, Arc<[u8]>>);

impl Secrets {
    pub(super) fn read(given: &[(String, BuildSecret)]) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (id, secret) in given {
            let bytes = match &secret.0 {
                Secret::Bytes(bytes) => bytes.clone(),
                Secret::File(path) => {
                    let mut bytes = Vec::new();
                    let read = std::fs::File::open(path)
                        .and_then(|file| file.take(SECRET_MAX + 1).read_to_end(&mut bytes));
                    read.call_at("read", path)
                        .map_err(|error| error.during(format!("reading the secret {id:?}")))?;
                    bytes.into()
                }
            };
            if bytes.len() as u64 > SECRET_MAX {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!("the secret {id:?} has more than 500 KiB"),
                ));
            }
            all.insert(id.clone(), bytes);
        }
        Ok(Self(all))
    }

    pub(super) fn get(&self, id: &str) -> Option<&Arc<[u8]>> {
        self.0.get(id)
    }
}

fn trimmed(bytes: &[u8]) -> Option<&[u8]> {
    Some(bytes.trim_ascii()).filter(|bytes| bytes.len() >= LOOKED_FOR)
}

/// Whether a secret is somewhere in these bytes.
pub(super) fn is_in(secret: &[u8], bytes: &[u8]) -> bool {
    let Some(secret) = trimmed(secret) else { return false };
    let Some((first, rest)) = secret.split_first() else { return false };
    let mut left = bytes;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = &left[at + 1..];
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

/// Replaces secrets in a stream, however it is cut. What may be the beginning of one is held back until more comes.
pub(super) struct Redactor {
    /// The longest first.
    patterns: Arc<[Vec<u8>]>,
    held: Vec<u8>,
}

/// What a [`Redactor`] looks for: each secret, and each line of one that has several.
pub(super) fn patterns<'a>(secrets: impl Iterator<Item = &'a Arc<[u8]>>) -> Arc<[Vec<u8>]> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for secret in secrets {
        let lines = secret.split(|byte| *byte == b'\n');
        all.extend(std::iter::once(&secret[..]).chain(lines).filter_map(trimmed).map(<[u8]>::to_vec));
    }
    all.sort_by_key(|pattern| std::cmp::Reverse(pattern.len()));
    all.dedup();
    all.into()
}

impl Redactor {
    pub(super) fn new(patterns: Arc<[Vec<u8>]>) -> Self {
        Self { patterns, held: Vec::new() }
    }

    /// What may be shown by now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.shown(false)
    }

    /// The rest.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        self.shown(true)
    }

    fn shown(&mut self, is_all: bool) -> Vec<u8> {
        if self.patterns.is_empty() {
            return std::mem::take(&mut self.held);
        }
        let (mut shown, mut at) = (Vec::with_capacity(self.held.len()), 0);
        while at < self.held.len() {
            let left = &self.held[at..];
            // First, as one may begin with another.
            let may_become = |pattern: &Vec<u8>| pattern.len() > left.len() && pattern.starts_with(left);
            if !is_all && self.patterns.iter().any(may_become) {
                break;
            }
            if let Some(found) = self.patterns.iter().find(|pattern| left.starts_with(pattern)) {
                shown.extend_from_slice(STARS);
                at += found.len();
            } else {
                shown.push(left[0]);
                at += 1;
            }
        }
        self.held.drain(..at);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        let secrets: Vec<Arc<[u8]>> = secrets.iter().map(|secret| secret.as_bytes().into()).collect();
        Redactor::new(patterns(secrets.iter()))
    }

    #[test]
    fn a_secret_is_found_however_the_stream_is_cut() {
        let text = "a hunter22 b\nhunter2hunter22\nhunter2";
        for cut in 0..text.len() {
            let mut redactor = redactor(&["hunter22\n"]);
            let mut shown = redactor.push(&text.as_bytes()[..cut]);
            shown.extend(redactor.push(&text.as_bytes()[cut..]));
            shown.extend(redactor.finish());
            assert_eq!(String::from_utf8(shown).unwrap(), "a *** b\nhunter2***\nhunter2", "{cut}");
        }
    }

    #[test]
    fn so_is_each_line_of_one_with_several() {
        let mut redactor = redactor(&["-----BEGIN-----\nabcdefgh\n", "short"]);
        let mut shown = redactor.push(b"x abcdefgh y -----BEGIN-----\nabcdefgh short");
        shown.extend(redactor.finish());
        assert_eq!(String::from_utf8(shown).unwrap(), "x *** y *** short");
    }

    #[test]
    fn of_one_that_begins_with_another_nothing_is_left() {
        let text = "a hunter22secret b hunter22 c hunter22";
        for cut in 0..text.len() {
            let mut redactor = redactor(&["hunter22", "hunter22secret"]);
            let mut shown = redactor.push(&text.as_bytes()[..cut]);
            shown.extend(redactor.push(&text.as_bytes()[cut..]));
            shown.extend(redactor.finish());
            assert_eq!(String::from_utf8(shown).unwrap(), "a *** b *** c ***", "{cut}");
        }
    }

    #[test]
    fn one_in_a_layer_is_found() {
        assert!(is_in(b"12345678\n", b"..12345678"));
        assert!(is_in(b"11111112", b"1111111111112"));
        assert!(!is_in(b"12345678", b"1234567 8"));
        assert!(!is_in(b"short", b"short"), "of these there are too many");
    }

    #[test]
    fn what_is_too_large_is_none() {
        let large = vec![("k".to_owned(), BuildSecret::from(vec![0; 600 << 10]))];
        assert_eq!(Secrets::read(&large).err().unwrap().kind(), ErrorKind::TooLarge);
        let missing = vec![("k".to_owned(), BuildSecret::file("/nonexistent/secret"))];
        assert_eq!(Secrets::read(&missing).err().unwrap().kind(), ErrorKind::NotFound);
    }
}
