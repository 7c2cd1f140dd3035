//! The flags of an instruction: `--name=value`, or `--name` alone.
#![forbid(unsafe_code)]

use super::place::{Fault, Found, nearest};
use super::syntax::{Statement, shortened};
use super::words::Word;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Without a value it is true.
    Switch,
    /// Once at most.
    Text,
    /// Any number of times.
    Many,
}

pub(super) struct Flags<'a>(Vec<(&'static str, &'a Word, Option<&'a str>)>);

impl<'a> Flags<'a> {
    pub(super) fn parse(statement: &'a Statement, known: &'static [(&'static str, Kind)]) -> Found<Self> {
        let keyword = statement.keyword.text.to_ascii_uppercase();
        let mut found: Vec<(&str, &Word, Option<&str>)> = Vec::new();
        for flag in &statement.flags {
            let (name, value) =
                flag.text.split_once('=').map_or((&flag.text[..], None), |(name, value)| (name, Some(value)));
            let fault = |why: String| Fault::new(flag.place(), why);
            let bare = name.trim_start_matches('-');
            let Some(&(name, kind)) = known.iter().find(|(known, _)| name.strip_prefix("--") == Some(known))
            else {
                let fault = fault(format!("{keyword} has no flag {}", shortened(name)));
                let names = known.iter().map(|(name, _)| *name);
                return Err(match (nearest(bare, names), known) {
                    (Some(near), _) => fault.with_remedy(format!("did you mean --{near}?")),
                    (None, []) => fault.with_remedy(format!("{keyword} has no flags at all")),
                    (None, _) => {
                        let all: Vec<_> = known.iter().map(|(name, _)| format!("--{name}")).collect();
                        fault.with_remedy(format!("it has {}", all.join(", ")))
                    }
                });
            };
            if kind != Kind::Many && found.iter().any(|(other, ..)| *other == name) {
                return Err(fault(format!("--{name} is given twice")));
            }
            match (kind, value) {
                (Kind::Switch, None) => {}
                (Kind::Switch, Some(value)) => {
                    if !["true", "false"].iter().any(|word| word.eq_ignore_ascii_case(value)) {
                        let why = format!("--{name} is true or false, not {}", shortened(value));
                        return Err(fault(why));
                    }
                }
                (_, None) => {
                    return Err(fault(format!("--{name} needs a value")).with_remedy(format!("--{name}=…")));
                }
                (_, Some(_)) => {}
            }
            found.push((name, flag, value));
        }
        Ok(Self(found))
    }

    fn find(&self, name: &str) -> Option<(&'a Word, Option<&'a str>)> {
        self.0.iter().find(|(other, ..)| *other == name).map(|(_, word, value)| (*word, *value))
    }

    /// A value that is not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.find(name)?.1.filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// The same with its place.
    pub(super) fn placed(&self, name: &str) -> Option<(&'a Word, &'a str)> {
        let (word, value) = self.find(name)?;
        Some((word, value.filter(|value| !value.is_empty())?))
    }

    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let (_, value) = self.find(name)?;
        Some(value.is_none_or(|value| value.eq_ignore_ascii_case("true")))
    }

    pub(super) fn many(&self, name: &str) -> Vec<(&'a Word, &'a str)> {
        let all = self.0.iter().filter(|(other, ..)| *other == name);
        all.map(|(_, word, value)| (*word, value.unwrap_or_default())).collect()
    }
}
