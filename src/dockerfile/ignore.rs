//! `.dockerignore`, and the patterns of `--exclude` (".dockerignore files" of the Dockerfile reference).
//!
//! They look like those of git, and mean something else. A pattern is about the whole path from the context's root, not
//! about a name in any directory; `*` and `?` stop at a slash, `**` does not. What is below a directory that matches is
//! meant too. Each line has its say in turn, and the last one that applies decides, so `!` can bring back a file out of
//! a directory that is left out.
//!
//! The measure is moby's patternmatcher, with its test tables. It makes a regular expression of a pattern, and some of
//! what that does by the way is not imitated: here `\d` is the letter, `^` is a character, in brackets `*` and `?` are
//! no wildcards, and `**` matches a newline. Nor is a walk another thing than the path alone: there, a pattern that changes nothing
//! for a directory is not compared with it, and is then forgotten for what is in it, as the last one in `**`, `!a/b`, `a`.
#![forbid(unsafe_code)]

mod glob;

use super::place::{Fault, Source};
use super::syntax::shortened;
use crate::error::{Error, ErrorKind, Result};
use glob::Glob;
use std::path::Path;

const TEXT_MAX: usize = 16 << 20;
/// The longest pattern, in bytes: as long as a path can be.
const PATTERN_MAX: usize = 4096;

/// Which paths are left out.
///
/// ```
/// use coracle::dockerfile::Ignore;
/// let ignore = Ignore::parse("*.log\ntarget/**\n!target/release/app\n")?;
/// assert!(ignore.excludes("a.log") && !ignore.excludes("dir/a.log"));
/// assert!(ignore.excludes("target/debug/app") && !ignore.excludes("target/release/app"));
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    /// As it was cleaned, without its `!`.
    text: String,
    is_exception: bool,
    glob: Glob,
}

/// Which patterns match a directory: what is below it need not be compared with them again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parents(Option<Vec<Above>>);

/// What is known of a pattern and a directory, or one above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Above {
    Matches,
    Differs,
    /// It would have changed nothing, and was not compared. Below it may.
    Unknown,
}

impl Ignore {
    /// A `.dockerignore`: a pattern on each line; a line that begins with `#` is a comment. A slash at the beginning means
    /// nothing.
    ///
    /// # Errors
    /// `InvalidData`, with the line, for a `!` alone, a bracket without its other half, a range from high to low, a
    /// backslash at the end; `TooLarge` for a pattern of more than 4096 bytes and a file of more than 16 MiB.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        if bytes.len() > TEXT_MAX {
            let why = format!("a .dockerignore of {} bytes, where {TEXT_MAX} are the most", bytes.len());
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        // A name of a file need not be UTF-8, and is compared as loosely.
        let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
        let (mut patterns, mut at) = (Vec::new(), 0);
        for line in text.split_inclusive('\n') {
            let begin = at;
            at += line.len();
            let line = line.trim_end_matches(['\r', '\n']);
            let Some(pattern) = cleaned_line(line) else { continue };
            match Pattern::new(&pattern) {
                Ok(found) => patterns.extend(found),
                Err((kind, why)) => {
                    let source = Source::new(text.as_ref().into());
                    return Err(source.error(Fault::new(begin..begin + line.len(), why).with_kind(kind)));
                }
            }
        }
        Ok(Self { patterns })
    }

    /// Patterns as they are, as those of `--exclude`. Spaces around them, and empty ones, mean nothing.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), without a line.
    pub fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self> {
        let new = |pattern: P| {
            let pattern = pattern.as_ref();
            let of = |why| format!("the pattern {}: {why}", shortened(pattern));
            Pattern::new(pattern).map_err(|(kind, why)| Error::new(kind, of(why))).transpose()
        };
        let patterns = patterns.into_iter().filter_map(new).collect::<Result<_>>()?;
        Ok(Self { patterns })
    }

    /// Whether this path is left out, by itself or with a directory that it is in. It begins at the context's root, without a
    /// slash. The root itself never is.
    pub fn excludes(&self, path: impl AsRef<Path>) -> bool {
        self.excludes_below(path, &Parents::default()).0
    }

    /// The same of what is in a directory, for which this said the second part; `Parents::default()` where nothing is known
    /// of one. Who walks a tree saves what every path would else be compared with again.
    pub fn excludes_below(&self, path: impl AsRef<Path>, parents: &Parents) -> (bool, Parents) {
        let path = path.as_ref().to_string_lossy();
        if path.is_empty() || path == "." {
            return (false, Parents::default());
        }
        let chars: Vec<char> = path.chars().collect();
        // Of each directory that it is in, itself not among them.
        let ends = std::cell::OnceCell::new();
        let (mut excluded, mut matched) = (false, Vec::with_capacity(self.patterns.len()));
        for (at, pattern) in self.patterns.iter().enumerate() {
            let known = parents.0.as_ref().and_then(|known| known.get(at)).copied().unwrap_or(Above::Unknown);
            let found = match known {
                Above::Matches => Above::Matches,
                // Only what changes something is compared.
                _ if pattern.is_exception != excluded => Above::Unknown,
                Above::Differs if pattern.glob.matches(&chars, &[]) => Above::Matches,
                Above::Unknown
                    if pattern.glob.matches(&chars, ends.get_or_init(|| ends_of_parents(&chars))) =>
                {
                    Above::Matches
                }
                _ => Above::Differs,
            };
            if found == Above::Matches {
                excluded = !pattern.is_exception;
            }
            matched.push(found);
        }
        (excluded, Parents(Some(matched)))
    }

    /// Whether anything below this directory may be brought back by a `!`: if not, and it is left out itself, nobody has to
    /// look into it.
    pub fn may_include_below(&self, directory: impl AsRef<Path>) -> bool {
        let directory = directory.as_ref().to_string_lossy();
        let is_root = directory.is_empty() || directory == ".";
        let mut exceptions = self.patterns.iter().filter(|pattern| pattern.is_exception);
        exceptions.any(|pattern| is_root || pattern.glob.may_match_below(&pattern.text, &directory))
    }

    /// Whether there is a `!` in it.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_exception)
    }

    /// The patterns as they were understood, and whether they are exceptions.
    pub fn patterns(&self) -> impl Iterator<Item = (&str, bool)> {
        self.patterns.iter().map(|pattern| (pattern.text.as_str(), pattern.is_exception))
    }
}

/// Where the directories end that a path is in; one with a slash at its end is in itself.
fn ends_of_parents(path: &[char]) -> Vec<usize> {
    (1..path.len()).filter(|at| path[*at] == '/' && path[at - 1] != '/').collect()
}

/// A line of the file as a pattern.
fn cleaned_line(line: &str) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let line = line.trim();
    let (sign, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if rest.is_empty() {
        return (!sign.is_empty()).then(|| sign.to_owned());
    }
    let cleaned = cleaned(rest);
    let relative = cleaned.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&cleaned);
    Some(format!("{sign}{relative}"))
}

/// The shortest path that means the same: no double slashes, no `.`, and no `..` but at the beginning.
pub(super) fn cleaned(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".into(),
        (false, path) => path,
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Option<Self>, (ErrorKind, String)> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if text.len() > PATTERN_MAX {
            let why = format!("a pattern of {} bytes, where {PATTERN_MAX} are the most", text.len());
            return Err((ErrorKind::TooLarge, why));
        }
        let cleaned = cleaned(text);
        let (text, is_exception) = match cleaned.strip_prefix('!') {
            Some("") => return Err((ErrorKind::InvalidData, "there is no pattern after the '!'".into())),
            Some(rest) => (rest, true),
            None => (cleaned.as_str(), false),
        };
        let glob = Glob::new(text).map_err(|why| (ErrorKind::InvalidData, why.to_owned()))?;
        Ok(Some(Self { text: text.to_owned(), is_exception, glob }))
    }
}
