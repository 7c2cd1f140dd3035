//! Where something is in a text, and errors that show it.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind};
use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

/// How much of a line an error shows, in characters.
const SHOWN_MAX: usize = 100;

/// The lines of an instruction, and the column in which it begins. All count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Span {
    /// The line in which it begins.
    pub first: usize,
    /// The line in which it ends, here-documents with it.
    pub last: usize,
    /// The column of its first character.
    pub column: usize,
}

impl Span {
    pub(super) fn new(first: usize, last: usize, column: usize) -> Self {
        Self { first, last, column }
    }
}

pub(super) type Found<T> = Result<T, Fault>;

/// What is wrong, and where in the text at hand. It becomes an error when that text's place is known.
#[derive(Debug)]
pub(super) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    at: Range<usize>,
    message: String,
    remedy: Option<Cow<'static, str>>,
    kind: ErrorKind,
}

impl Fault {
    pub(super) fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { at, message: message.into(), remedy: None, kind: ErrorKind::InvalidData }))
    }

    pub(super) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub(super) fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// The same where the text at hand begins at `by`, or is mapped otherwise.
    pub(super) fn moved(mut self, by: impl Fn(Range<usize>) -> Range<usize>) -> Self {
        self.0.at = by(self.0.at);
        self
    }

    pub(super) fn into_error(self, text: &str) -> Error {
        Source::new(text.into()).error(self)
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.0.message
    }
}

/// A text and where its lines begin.
#[derive(Clone, Debug)]
pub(super) struct Source {
    text: Arc<str>,
    starts: Arc<[usize]>,
}

impl Source {
    pub(super) fn new(text: Arc<str>) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(ends).collect();
        Self { text, starts }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The line, from 1, that has this place.
    pub(super) fn line_at(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// A line by its number, without its end.
    pub(super) fn line(&self, number: usize) -> &str {
        let start = self.starts.get(number.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let end = self.starts.get(number).copied().unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\r', '\n'])
    }

    /// In characters, from 1.
    pub(super) fn column(&self, at: usize) -> usize {
        let start = self.starts[self.line_at(at) - 1];
        let end = self.text.floor_char_boundary(at.min(self.text.len()));
        self.text[start..end].chars().count() + 1
    }

    pub(super) fn error(&self, fault: Fault) -> Error {
        let Inner { at, message, remedy, kind } = *fault.0;
        let (line, column) = (self.line_at(at.start), self.column(at.start));
        let start = self.text.floor_char_boundary(at.start.min(self.text.len()));
        let end = self.text.floor_char_boundary(at.end.clamp(start, self.text.len()));
        let marked = self.text[start..end].lines().next().map_or(0, |first| first.chars().count());
        let error = Error::new(kind, format!("line {line}, column {column}: {message}"));
        let error = error.at_place(line, column, self.excerpt(line, column, marked));
        match remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }

    /// The line and below it a caret for each character that is meant.
    fn excerpt(&self, line: usize, column: usize, marked: usize) -> String {
        let text = self.line(line);
        let skipped = if column > SHOWN_MAX { column - SHOWN_MAX / 2 } else { 0 };
        // A terminal is not to obey what is in a file.
        let shown = |c: char| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        let mut excerpt = format!("{line:>5} | ");
        let gap = if skipped > 0 { "… " } else { "" };
        excerpt.push_str(gap);
        excerpt.extend(text.chars().skip(skipped).take(SHOWN_MAX).map(shown));
        if text.chars().count() > skipped + SHOWN_MAX {
            excerpt.push('…');
        }
        let before = gap.chars().count() + column - 1 - skipped;
        let room = SHOWN_MAX.saturating_sub(column - 1 - skipped);
        let _ =
            write!(excerpt, "\n      | {}{}", " ".repeat(before), "^".repeat(marked.clamp(1, room.max(1))));
        excerpt
    }
}

/// A line that was put together from several, and where its pieces are from.
#[derive(Clone, Debug, Default)]
pub(super) struct Joined {
    pub(super) text: String,
    /// Where a piece begins here, and in the source.
    pieces: Vec<(usize, usize)>,
}

impl Joined {
    pub(super) fn push(&mut self, piece: &str, from: usize) {
        self.pieces.push((self.text.len(), from));
        self.text.push_str(piece);
    }

    /// What is `at` here is there in the source.
    pub(super) fn place(&self, at: Range<usize>) -> Range<usize> {
        let piece = self.pieces.partition_point(|(here, _)| *here <= at.start);
        let Some((here, there)) = self.pieces.get(piece.saturating_sub(1)) else { return at };
        let start = there + (at.start - here);
        start..start + at.len()
    }
}

/// The word that is meant, where one is nearly what was written.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).flat_map(char::to_lowercase).collect();
    // What is longer or shorter by more than that is further away.
    let is_alike = |other: &&str| other.chars().take(word.len() + 4).count().abs_diff(word.len()) <= 3;
    let distances = known.filter(is_alike).map(|other| (distance(&word, &other.to_lowercase()), other));
    distances
        .filter(|(far, other)| *far <= 3 && *far * 2 < other.len())
        .min_by_key(|(far, other)| (*far, *other))
        .map(|(_, other)| other)
}

/// How many characters are to be changed, added, left out, or to change places with the next one.
fn distance(word: &[char], other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let (mut before, mut row) = (Vec::new(), (0..=word.len()).collect::<Vec<_>>());
    for (line, c) in other.iter().enumerate() {
        let mut next = vec![line + 1; word.len() + 1];
        for at in 0..word.len() {
            let changed = row[at] + usize::from(word[at] != *c);
            next[at + 1] = changed.min(row[at + 1] + 1).min(next[at] + 1);
            if line > 0 && at > 0 && word[at] == other[line - 1] && word[at - 1] == *c {
                next[at + 1] = next[at + 1].min(before[at - 1] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[word.len()]
}

#[cfg(test)]
mod tests {
    use super::{Fault, Joined, Source, nearest};

    #[test]
    fn an_error_shows_the_line_and_what_is_meant_in_it() {
        let source = Source::new("one\n\ttwö\u{1b}[m four\r\nfive".into());
        let at = source.text().find("four").unwrap();
        let error = source.error(Fault::new(at..at + 4, "no such word").with_remedy("take another"));
        assert_eq!(error.position(), Some((2, 9)));
        assert_eq!(
            error.to_string(),
            "line 2, column 9: no such word; help: take another\n    2 |  twö\u{fffd}[m four\n      |         ^^^^"
        );
        let end = source.text().len();
        let error = source.error(Fault::new(end..end, "the end"));
        assert_eq!(error.position(), Some((3, 5)));
        assert!(error.to_string().ends_with("    3 | five\n      |     ^"));
        // What goes over the end of its line is marked up to there.
        let error = source.error(Fault::new(0..end, "all"));
        assert!(error.to_string().ends_with("    1 | one\n      | ^^^"));
    }

    #[test]
    fn of_a_long_line_a_part_is_shown() {
        let source = Source::new(format!("{}x{}", "a".repeat(60_000), "b".repeat(5_000)).into());
        let text = source.error(Fault::new(60_000..60_001, "here")).to_string();
        assert!(text.len() < 500, "{text}");
        let (line, mark) = text.rsplit_once('\n').unwrap();
        let line = line.rsplit('\n').next().unwrap();
        let at = line.chars().position(|c| c == 'x').unwrap();
        assert_eq!(mark.chars().position(|c| c == '^').unwrap(), at);
    }

    #[test]
    fn places_of_a_joined_line_are_those_of_its_pieces() {
        let mut joined = Joined::default();
        joined.push("RUN a ", 10);
        joined.push("b c", 30);
        assert_eq!(joined.text, "RUN a b c");
        assert_eq!(joined.place(4..5), 14..15);
        assert_eq!(joined.place(6..7), 30..31);
        assert_eq!(joined.place(8..9), 32..33);
    }

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["from", "chown", "chmod", "exclude"];
        assert_eq!(nearest("frm", known.into_iter()), Some("from"));
        assert_eq!(nearest("CHOWN", known.into_iter()), Some("chown"));
        assert_eq!(nearest("excluded", known.into_iter()), Some("exclude"));
        assert_eq!(nearest("x", known.into_iter()), None);
        assert_eq!(nearest("platform", known.into_iter()), None);
    }
}
