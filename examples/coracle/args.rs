//! A small parser of command lines, driven by tables; the help texts come from the same tables.
#![forbid(unsafe_code)]

use crate::fail::{Fail, usage};
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// One flag. `value` names what follows it; a switch has none. With `bare` it may be left out, and is that then.
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    pub value: Option<&'static str>,
    pub bare: Option<&'static str>,
    pub help: &'static str,
}

/// A flag with a value.
pub const fn flag(long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { long, short: None, value: Some(value), bare: None, help }
}

/// A flag that is there or not.
pub const fn switch(long: &'static str, help: &'static str) -> Flag {
    Flag { long, short: None, value: None, bare: None, help }
}

impl Flag {
    pub const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    /// What it is without a value, which then only follows after `=`.
    pub const fn bare(mut self, bare: &'static str) -> Self {
        self.bare = Some(bare);
        self
    }
}

/// What a verb takes.
pub struct Syntax {
    /// Its words: `volume ls`.
    pub name: &'static str,
    pub operands: &'static str,
    pub about: &'static str,
    pub flags: &'static [&'static [Flag]],
    pub min: usize,
    pub max: usize,
    /// The first operand ends the flags: what follows belongs to the container's command.
    pub command: bool,
}

pub const ANY: usize = usize::MAX;

/// A command line that was understood.
pub struct Args {
    given: Vec<(&'static str, OsString)>,
    pub operands: Vec<OsString>,
}

impl Args {
    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| value == "true")
    }

    /// A switch that is on unless it says `=false`.
    pub fn is_off(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|value| value == "false")
    }

    /// The value of a flag; the last one counts.
    pub fn raw(&self, name: &str) -> Option<&OsStr> {
        self.given.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_os_str())
    }

    pub fn all_raw(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        self.given.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_os_str())
    }

    pub fn get(&self, name: &str) -> Result<Option<&str>, Fail> {
        self.raw(name).map(|value| text(name, value)).transpose()
    }

    pub fn all(&self, name: &str) -> Result<Vec<&str>, Fail> {
        self.all_raw(name).map(|value| text(name, value)).collect()
    }

    /// The operands as text.
    pub fn names(&self) -> Result<Vec<&str>, Fail> {
        self.operands.iter().map(|name| text("operand", name)).collect()
    }

    /// A number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Fail> {
        self.get(name)?.map(|value| parse(name, value)).transpose()
    }
}

pub fn parse<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Fail> {
    value.trim().parse().map_err(|_| usage(format!("invalid argument {value:?} for --{name}")))
}

pub fn text<'a>(name: &str, value: &'a OsStr) -> Result<&'a str, Fail> {
    value.to_str().ok_or_else(|| usage(format!("{name}: {value:?} is not UTF-8")))
}

/// The two sides of the first `=`.
pub fn pair(word: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let bytes = word.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (OsStr::from_bytes(&bytes[..at]), Some(OsStr::from_bytes(&bytes[at + 1..]))),
        None => (word, None),
    }
}

impl Syntax {
    fn each(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().flat_map(|group| group.iter())
    }

    /// Reads the words behind the verb. `None`: help was asked for.
    pub fn parse(&self, words: impl IntoIterator<Item = OsString>) -> Result<Option<Args>, Fail> {
        let mut args = Args { given: Vec::new(), operands: Vec::new() };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let bytes = word.as_bytes();
            if bytes == b"--" {
                args.operands.extend(words.by_ref());
            } else if bytes == b"--help" {
                return Ok(None);
            } else if let Some(long) = bytes.strip_prefix(b"--") {
                let (name, value) = pair(OsStr::from_bytes(long));
                let flag = self.each().find(|flag| flag.long == name);
                let flag = flag.ok_or_else(|| self.wrong(format!("unknown flag: --{}", name.display())))?;
                let value = match (flag.value, value.or(flag.bare.map(OsStr::new))) {
                    (Some(_), Some(value)) => value.to_owned(),
                    (Some(_), None) => {
                        let missing = || self.wrong(format!("flag needs an argument: --{}", flag.long));
                        words.next().ok_or_else(missing)?
                    }
                    (None, value) => self.boolean(flag, value)?,
                };
                args.given.push((flag.long, value));
            } else if bytes.len() > 1 && bytes[0] == b'-' {
                if let Help::Asked = self.shorts(&bytes[1..], &mut words, &mut args)? {
                    return Ok(None);
                }
            } else {
                args.operands.push(word);
                if self.command {
                    args.operands.extend(words.by_ref());
                }
            }
        }
        let count = args.operands.len();
        if count < self.min {
            let s = if self.min == 1 { "" } else { "s" };
            return Err(self.wrong(format!("coracle {} needs {} argument{s} at least", self.name, self.min)));
        }
        if count > self.max {
            let s = if self.max == 1 { "" } else { "s" };
            return Err(self.wrong(format!("coracle {} takes {} argument{s} at most", self.name, self.max)));
        }
        Ok(Some(args))
    }

    /// `-it`, `-eA=1`, `-e A=1`, `-h=x`.
    fn shorts(
        &self,
        mut rest: &[u8],
        words: &mut impl Iterator<Item = OsString>,
        args: &mut Args,
    ) -> Result<Help, Fail> {
        while let [first, tail @ ..] = rest {
            let letter = char::from(*first);
            rest = tail;
            let Some(flag) = self.each().find(|flag| flag.short == Some(letter)) else {
                if letter == 'h' {
                    return Ok(Help::Asked);
                }
                return Err(self.wrong(format!("unknown shorthand flag: -{letter}")));
            };
            let value = match (flag.value, rest) {
                (None, [b'=', value @ ..]) => {
                    rest = &[];
                    self.boolean(flag, Some(OsStr::from_bytes(value)))?
                }
                (None, _) => "true".into(),
                (Some(_), []) => {
                    let missing = || self.wrong(format!("flag needs an argument: -{letter}"));
                    words.next().ok_or_else(missing)?
                }
                (Some(_), value) => {
                    let value = value.strip_prefix(b"=").unwrap_or(value);
                    rest = &[];
                    OsString::from_vec(value.to_vec())
                }
            };
            args.given.push((flag.long, value));
        }
        Ok(Help::NotAsked)
    }

    fn boolean(&self, flag: &Flag, value: Option<&OsStr>) -> Result<OsString, Fail> {
        match value.map(OsStr::as_bytes) {
            None | Some(b"true" | b"1" | b"t") => Ok("true".into()),
            Some(b"false" | b"0" | b"f") => Ok("false".into()),
            Some(_) => Err(self.wrong(format!("--{} is true or false", flag.long))),
        }
    }

    fn wrong(&self, what: String) -> Fail {
        usage(format!("{what}\nSee 'coracle {} --help'.", self.name))
    }

    pub fn help(&self) -> String {
        let mut help = format!("Usage:  coracle {}", self.name);
        let mut flags: Vec<_> = self.each().collect();
        flags.sort_by_key(|flag| flag.long);
        if !flags.is_empty() {
            help.push_str(" [OPTIONS]");
        }
        let _ = writeln!(help, " {}\n\n{}", self.operands, self.about);
        if !flags.is_empty() {
            help.push_str("\nOptions:\n");
        }
        let left = |flag: &Flag| {
            let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
            match (flag.value, flag.bare) {
                (Some(value), Some(_)) => format!("{short}--{}[={value}]", flag.long),
                (value, _) => format!("{short}--{} {}", flag.long, value.unwrap_or_default()),
            }
        };
        let width = flags.iter().map(|flag| left(flag).len()).max().unwrap_or(0);
        for flag in flags {
            let _ = writeln!(help, "  {:width$}  {}", left(flag), flag.help);
        }
        help
    }
}

enum Help {
    Asked,
    NotAsked,
}
