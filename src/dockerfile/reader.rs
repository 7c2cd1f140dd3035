//! Lines: directives, comments, continuation, here-documents ("Format", "Parser directives" of the Dockerfile reference).
//!
//! Linear in the text, and every error has its line. As in BuildKit a line has at most 65535 bytes; the whole file
//! has at most 16 MiB.
#![forbid(unsafe_code)]

use super::directive::{Directives, directive};
use super::heredoc::Heredoc;
use super::place::{Fault, Found, Joined, Source, Span};
use super::syntax::{Statement, is_empty, shortened};
use crate::error::{Error, ErrorKind, Result};

const LINE_MAX: usize = 65535;
const TEXT_MAX: usize = 16 << 20;

/// The file as text.
pub(super) fn source(bytes: &[u8]) -> Result<Source> {
    if bytes.len() > TEXT_MAX {
        let why = format!("a Dockerfile of {} bytes, where {TEXT_MAX} are the most", bytes.len());
        return Err(Error::new(ErrorKind::TooLarge, why).with_remedy("copy large content from the context"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let (good, rest) = bytes.split_at(error.valid_up_to());
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let shown = [good, &line[..line.len().min(100)]].concat();
            let source = Source::new(String::from_utf8_lossy(&shown).into());
            let why = format!("the byte {:#04x} is not UTF-8", rest.first().copied().unwrap_or_default());
            let fault = Fault::new(good.len()..good.len(), why).with_remedy("save the file as UTF-8");
            return Err(source.error(fault));
        }
    };
    let source = Source::new(text.into());
    let mut at = 0;
    for line in text.split('\n') {
        if line.len() > LINE_MAX {
            let why = format!("a line of {} bytes, where {LINE_MAX} are the most", line.len());
            let remedy = "break it up with the escape character, or copy its content from a file";
            let fault = Fault::new(at..at, why).with_kind(ErrorKind::TooLarge).with_remedy(remedy);
            return Err(source.error(fault));
        }
        if let Some(nul) = line.find('\0') {
            return Err(source.error(Fault::new(at + nul..at + nul + 1, "a NUL byte")));
        }
        at += line.len() + 1;
    }
    Ok(source)
}

/// All that a file has.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) statements: Vec<Statement>,
    pub(super) directives: Directives,
    /// Instructions with an empty line amid them.
    pub(super) gaps: Vec<Span>,
}

struct Lines<'a> {
    text: &'a str,
    at: usize,
    number: usize,
}

/// A line with its end, and where it begins.
#[derive(Clone, Copy)]
struct Line<'a> {
    whole: &'a str,
    at: usize,
}

impl<'a> Line<'a> {
    fn text(&self) -> &'a str {
        self.whole.trim_end_matches(['\r', '\n'])
    }

    fn comment(&self) -> Option<&'a str> {
        self.text().trim_start().strip_prefix('#')
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let line = Line { whole: &rest[..length], at: self.at };
        self.at += length;
        self.number += 1;
        Some(line)
    }
}

/// Without the escape character at its end, if it has one that continues it.
fn continued(line: &str, escape: char) -> (&str, bool) {
    let shorter = line.trim_end_matches([' ', '\t']).strip_suffix(escape);
    match shorter {
        // One that is escaped itself continues nothing.
        Some(shorter) if !shorter.ends_with(escape) => (shorter, true),
        _ => (line, false),
    }
}

pub(super) fn read(source: &Source) -> Found<Read> {
    let mut lines = Lines { text: source.text(), at: 0, number: 0 };
    let (mut statements, mut gaps, mut comments) = (Vec::new(), Vec::new(), Vec::new());
    let (mut directives, mut head) = (Directives::new(source.text()), true);
    while let Some(line) = lines.next() {
        if let Some(comment) = line.comment() {
            match directive(comment).filter(|_| head) {
                Some(found) => directives.add(found, lines.number, line.at..line.at + line.text().len())?,
                None => {
                    head = false;
                    match comment.trim() {
                        "" => comments.clear(),
                        comment => comments.push(comment.to_owned()),
                    }
                }
            }
            continue;
        }
        head = false;
        let text = line.text().trim_start();
        let begin = line.at + line.text().len() - text.len();
        let (text, mut goes_on) = continued(text, directives.escape());
        if text.is_empty() && !goes_on {
            continue;
        }
        let (first, mut joined, mut gap) = (lines.number, Joined::default(), None);
        joined.push(text, begin);
        while goes_on {
            let Some(line) = lines.next() else { break };
            if line.comment().is_some() {
                continue;
            }
            if is_empty(line.text()) {
                gap.get_or_insert(lines.number);
                continue;
            }
            let text;
            (text, goes_on) = continued(line.text(), directives.escape());
            joined.push(text, line.at);
        }
        let mut span = Span::new(first, lines.number, source.column(begin));
        if gap.is_some() {
            gaps.push(span);
        }
        if is_empty(&joined.text) {
            // Only escape characters: nothing that could be an instruction.
            let why = "an escape character, and nothing before or after it";
            return Err(Fault::new(begin..begin + 1, why));
        }
        let mut statement = Statement::parse(&joined, directives.escape(), span)?;
        for heredoc in &mut statement.heredocs {
            content(heredoc, &mut lines, joined.place(0..joined.text.len()))?;
        }
        span.last = lines.number;
        statement.span = span;
        statement.comments = std::mem::take(&mut comments);
        statements.push(statement);
    }
    if statements.is_empty() {
        let remedy = "a Dockerfile begins with FROM and the name of an image";
        let end = source.text().trim_end_matches(['\r', '\n']).len();
        return Err(Fault::new(end..end, "there is no instruction in it").with_remedy(remedy));
    }
    Ok(Read { statements, directives, gaps })
}

fn content(heredoc: &mut Heredoc, lines: &mut Lines, announced: std::ops::Range<usize>) -> Found<()> {
    let begin = lines.at;
    while let Some(line) = lines.next() {
        if heredoc.ends_with(line.whole) {
            heredoc.content = lines.text[begin..line.at].into();
            return Ok(());
        }
    }
    let remedy = format!("end it by a line with {} alone", shortened(&heredoc.name));
    Err(Fault::new(announced, "a here-document does not end").with_remedy(remedy))
}
