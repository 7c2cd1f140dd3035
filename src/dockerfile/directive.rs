//! Parser directives: `# syntax=`, `# escape=`, `# check=` ("Parser directives" of the Dockerfile reference).
#![forbid(unsafe_code)]

use super::place::{Fault, Found};
use super::syntax::shortened;
use std::ops::Range;

const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// The value of a directive and its line, from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Directive {
    /// All that is written after the `=`.
    pub value: String,
    /// The line.
    pub line: usize,
}

impl Directive {
    /// The value up to its first space: what follows is for people, or for the frontend.
    pub fn word(&self) -> &str {
        self.value.split(' ').next().unwrap_or_default()
    }
}

/// What the head of a Dockerfile says of the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Directives {
    /// `# syntax=`: the image of a frontend. This crate reads the file itself, whatever it says.
    pub syntax: Option<Directive>,
    /// `# check=`: which lint rules not to apply.
    pub check: Option<Directive>,
    /// `# escape=`: a backtick or, without, a backslash.
    pub escape: Option<Directive>,
}

impl Directives {
    /// With what a file that begins with `#!` has below that, which is a comment to all else.
    pub(super) fn new(text: &str) -> Self {
        let first = text.lines().next().unwrap_or_default();
        if !first.starts_with("#!") {
            return Self::default();
        }
        let find = |name: &str| find(text, name, "#");
        Self { syntax: find("syntax"), check: find("check"), escape: None }
    }

    /// The escape character.
    pub fn escape(&self) -> char {
        self.escape.as_ref().and_then(|escape| escape.value.chars().next()).unwrap_or('\\')
    }

    /// One more, of this line, which has this place.
    pub(super) fn add(&mut self, (name, value): (&str, &str), line: usize, place: Range<usize>) -> Found<()> {
        let slot = match name {
            "syntax" => &mut self.syntax,
            "check" => &mut self.check,
            _ => &mut self.escape,
        };
        if let Some(first) = slot {
            let why = format!("the directive {name:?} a second time, after line {}", first.line);
            return Err(Fault::new(place, why));
        }
        if name == "escape" && !["\\", "`"].contains(&value) {
            let why = format!("{} can't be the escape character", shortened(value));
            return Err(Fault::new(place, why).with_remedy("a backslash or a backtick can"));
        }
        *slot = Some(Directive { value: value.to_owned(), line });
        Ok(())
    }
}

/// `name = value` after the comment sign, if the name is one of a directive.
pub(super) fn directive(comment: &str) -> Option<(&'static str, &str)> {
    let is_space = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | '\r' | ' ');
    let (name, value) = comment.trim_start().split_once('=')?;
    let (name, value) = (name.trim_end_matches(is_space), value.trim_matches(is_space));
    let known = NAMES.into_iter().find(|known| known.eq_ignore_ascii_case(name))?;
    (!value.is_empty()).then_some((known, value))
}

/// A directive in the head of any file, under another sign for comments.
fn find(text: &str, wanted: &str, sign: &str) -> Option<Directive> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate().peekable();
    lines.next_if(|(_, first)| first.starts_with("#!"));
    for (at, line) in lines {
        let (name, value) = directive(line.strip_prefix(sign)?)?;
        if name == wanted {
            return Some(Directive { value: value.to_owned(), line: at + 1 });
        }
    }
    None
}

/// Which frontend a build's file asks for, if it is no Dockerfile: `# syntax=`, `// syntax=`, or `"syntax"` of a JSON
/// object, in each case also below a first line with `#!`.
///
/// ```
/// use coracle::dockerfile::frontend;
/// assert_eq!(frontend("//syntax=example/buildpack:1 x\n").unwrap().word(), "example/buildpack:1");
/// assert!(frontend("FROM debian\n").is_none());
/// ```
pub fn frontend(text: &str) -> Option<Directive> {
    if let Some(found) = find(text, "syntax", "#").or_else(|| find(text, "syntax", "//")) {
        return Some(found);
    }
    let json = if text.starts_with("#!") { text.split_once('\n')?.1 } else { text };
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
    let value = object.get("syntax")?.as_str()?.to_owned();
    Some(Directive { value, line: 1 + usize::from(text.starts_with("#!")) })
}

#[cfg(test)]
mod tests {
    use super::{find, frontend};

    /// What BuildKit's directives_test.go says.
    #[test]
    fn a_frontend_is_found_in_the_head_alone() {
        for (text, expected) in [
            (
                "# syntax = dockerfile:experimental // opts\nFROM busybox\n",
                Some(("dockerfile:experimental", 1)),
            ),
            (
                "#!/bin/sh\n# syntax = dockerfile:experimental\nFROM busybox\n",
                Some(("dockerfile:experimental", 2)),
            ),
            ("#!/bin/sh\n\n# syntax = dockerfile:experimental\n", None),
            ("FROM busybox\nRUN ls\n", None),
            ("//syntax=foo\n//key=value", Some(("foo", 1))),
            ("#!/bin/sh\n//syntax=x", Some(("x", 2))),
            ("{\"syntax\": \"foo\", \"bar\": [\"abc\"]}", Some(("foo", 1))),
            ("{\"syntax\": \"foo\"", None),
            ("{\"syntax\": \"foo\"}\n# syntax=bar", None),
            ("\u{feff}# syntax = myfrontend\nFROM busybox\n", Some(("myfrontend", 1))),
        ] {
            let found = frontend(text);
            let found = found.as_ref().map(|found| (found.word(), found.line));
            assert_eq!(found, expected, "{text:?}");
        }
        assert_eq!(frontend("# syntax = a // b\n").unwrap().value, "a // b");
    }

    #[test]
    fn other_directives_have_one_sign() {
        let check = |text: &str| find(text, "check", "#").map(|found| (found.word().to_owned(), found.line));
        assert_eq!(check("#check = skip=all // opts\nFROM busybox\n"), Some(("skip=all".into(), 1)));
        assert_eq!(check("#!/bin/sh\n# check = skip=all\nFROM busybox\n"), Some(("skip=all".into(), 2)));
        assert_eq!(check("#!/bin/sh\n\n# check = skip=all\n"), None);
        assert_eq!(check("FROM busybox\nRUN ls\n"), None);
        assert_eq!(check("//check=skip=all\n//key=value"), None);
    }
}
