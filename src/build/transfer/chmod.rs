//! `--chmod`: octal, or as chmod(1) has it in letters, with no umask.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};

const REMEDY: &str = "an octal number up to 7777, or letters as chmod takes them: u=rwX,go=rX";
const ALL: u32 = 0o777;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chmod {
    Octal(u32),
    Letters(Vec<Change>),
}

/// `u=rwX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// What may be changed, by the bits of each class with those for set-id; 0 where nobody is named.
    who: u32,
    sign: u8,
    /// Bits for all classes.
    bits: u32,
    /// `X`.
    execute_if_any: bool,
    /// `u`, `g` or `o`: the permissions that the class has.
    copied: Option<u8>,
}

impl Chmod {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let bad =
            || Error::new(ErrorKind::InvalidInput, format!("--chmod={text}: no mode")).with_remedy(REMEDY);
        if text.bytes().next().is_some_and(|b| b.is_ascii_digit()) {
            let number = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return number.map(Self::Octal).ok_or_else(bad);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let letters = clause.bytes().take_while(|b| b"ugoa".contains(b)).count();
            let who = clause[..letters].bytes().fold(0, |who, letter| who | class(letter));
            let mut rest = &clause.as_bytes()[letters..];
            if rest.is_empty() {
                return Err(bad());
            }
            while let Some((&sign, after)) = rest.split_first() {
                if !b"+-=".contains(&sign) {
                    return Err(bad());
                }
                let length = after.iter().take_while(|b| !b"+-=".contains(b)).count();
                changes.extend(Change::parse(who, sign, &after[..length]).ok_or_else(bad)?);
                rest = &after[length..];
            }
        }
        Ok(Self::Letters(changes))
    }

    pub(super) fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Letters(changes) => {
                let may_execute = is_directory || mode & 0o111 != 0;
                changes.iter().fold(mode, |mode, change| change.apply(mode, may_execute))
            }
        }
    }
}

fn class(letter: u8) -> u32 {
    match letter {
        b'u' => 0o4700,
        b'g' => 0o2070,
        b'o' => 0o007,
        _ => 0o6777,
    }
}

impl Change {
    fn parse(who: u32, sign: u8, letters: &[u8]) -> Option<Vec<Self>> {
        let mut change = Self { who, sign, bits: 0, execute_if_any: false, copied: None };
        let mut copies = Vec::new();
        for letter in letters {
            match letter {
                b'r' => change.bits |= 0o444,
                b'w' => change.bits |= 0o222,
                b'x' => change.bits |= 0o111,
                b'X' if sign == b'-' => change.bits |= 0o111,
                b'X' => change.execute_if_any = true,
                // Others have neither.
                b's' if who != 0o007 => change.bits |= 0o6000,
                b't' if who != 0o007 => change.bits |= 0o1000,
                b's' | b't' => {}
                b'u' | b'g' | b'o' => copies.push(*letter),
                _ => return None,
            }
        }
        let is_all_copied = change.bits == 0 && !change.execute_if_any && !copies.is_empty();
        let mut changes = if is_all_copied { Vec::new() } else { vec![change.clone()] };
        for copied in copies {
            // What was there is taken away once.
            let sign = if sign == b'=' && !changes.is_empty() { b'+' } else { sign };
            let copied = Some(copied);
            changes.push(Self { sign, bits: 0, execute_if_any: false, copied, ..change });
        }
        Some(changes)
    }

    fn apply(&self, mode: u32, may_execute: bool) -> u32 {
        let who = if self.who == 0 { 0o6777 } else { self.who };
        if let Some(letter) = self.copied {
            let shift = match letter {
                b'u' => 6,
                b'g' => 3,
                _ => 0,
            };
            let bits = mode >> shift & 7;
            let bits = (bits << 6 | bits << 3 | bits) & who & ALL;
            return match self.sign {
                b'+' => mode | bits,
                b'-' => mode & !bits,
                _ => mode & !(who & ALL) | bits,
            };
        }
        let mut bits = self.bits & (who | 0o1000);
        if self.execute_if_any && may_execute {
            bits |= 0o111 & who;
        }
        match self.sign {
            b'+' => mode | bits,
            b'-' => mode & !bits,
            _ => mode & !(who | self.bits & 0o1000) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `chmod` of coreutils has it on a file, with a umask of 0.
    #[test]
    fn letters_are_those_of_chmod() {
        for (text, mode, is_directory, expected) in [
            ("755", 0o600, false, 0o755),
            ("0", 0o644, false, 0),
            ("04711", 0o644, true, 0o4711),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o744, false, 0o755),
            ("go-w", 0o666, false, 0o644),
            ("go=", 0o755, false, 0o700),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("o+t", 0o777, true, 0o777),
            ("g=u", 0o740, false, 0o770),
            ("go=u-w", 0o700, false, 0o755),
            ("u=g,o-r", 0o654, false, 0o550),
            ("=r", 0o777, false, 0o444),
            ("u-x+w", 0o500, false, 0o600),
            ("a-X", 0o755, false, 0o644),
        ] {
            let found = Chmod::parse(text).unwrap().apply(mode, is_directory);
            assert_eq!(format!("{found:o}"), format!("{expected:o}"), "{text} of {mode:o}");
        }
    }

    #[test]
    fn what_is_no_mode_says_so() {
        for bad in ["", "8", "64a", "10000", "0x1ff", "u", "u=z", "=,", "rwx", "u+rwx,", "+", "-1"] {
            let parsed = Chmod::parse(bad);
            if bad == "+" {
                // chmod takes it, too.
                assert!(parsed.is_ok());
                continue;
            }
            let error = parsed.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
