//! From lines to statements: a keyword, its flags, its arguments. What they mean is [`super::read`]'s.
#![forbid(unsafe_code)]

use super::heredoc::Heredoc;
use super::place::{Fault, Found, Joined, Span};
use super::words::{List, Word, blank_separated, flags, is_blank, json_list, quoted_words, split_first};
use std::ops::Range;

/// `NAME=value`, or the old `NAME value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) name: Word,
    pub(super) value: Word,
    pub(super) equals: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Arguments {
    Words(Vec<Word>),
    Pairs(Vec<Pair>),
    /// Of ONBUILD.
    Statement(Box<Statement>),
}

/// An instruction as it is written. Places in it are places in the source.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) keyword: Word,
    pub(super) flags: Vec<Word>,
    pub(super) arguments: Arguments,
    /// Its words are those of a JSON list.
    pub(super) json: bool,
    pub(super) heredocs: Vec<Heredoc>,
    /// All its lines as one, without comments and here-documents.
    pub(super) text: String,
    pub(super) span: Span,
    pub(super) comments: Vec<String>,
}

impl Statement {
    /// Of a line that was put together.
    pub(super) fn parse(line: &Joined, escape: char, span: Span) -> Found<Self> {
        let moved = |fault: Fault| fault.moved(|at| line.place(at));
        let mut statement = Self::of(&line.text, 0, escape, span, false).map_err(moved)?;
        if statement.takes_heredocs() && line.text.contains("<<") {
            statement.heredocs = Heredoc::all_of(&line.text).map_err(moved)?;
        }
        statement.place(&|at| line.place(at));
        Ok(statement)
    }

    /// `inside` ONBUILD there is no other one, so this calls itself once at most.
    fn of(text: &str, offset: usize, escape: char, span: Span, inside: bool) -> Found<Self> {
        let at = offset + text.len() - text.trim_start().len();
        let text = text.trim();
        let (keyword, rest) = split_first(text);
        let (rest, by) = rest.unwrap_or(("", text.len()));
        let (flags, begin) = flags(rest, escape);
        let flags = flags.into_iter().map(|flag| Word { at: flag.at + at + by, ..flag }).collect();
        let arguments = &rest[begin..];
        let arguments_at = at + by + begin + arguments.len() - arguments.trim_start().len();
        let arguments = arguments.trim();
        let keyword = Word::new(keyword, at);
        let (arguments, json) = read(&keyword, arguments, arguments_at, escape, span, inside).map_err(
            |fault| match arguments {
                // Where there is nothing to point at.
                "" => fault.moved(|_| keyword.place()),
                _ => fault,
            },
        )?;
        let text = text.to_owned();
        let (heredocs, comments) = (Vec::new(), Vec::new());
        Ok(Self { keyword, flags, arguments, json, heredocs, text, span, comments })
    }

    fn takes_heredocs(&self) -> bool {
        let inner = match &self.arguments {
            Arguments::Statement(inner) => inner,
            _ => self,
        };
        let keyword = inner.keyword.text.to_ascii_lowercase();
        ["add", "copy", "run"].contains(&keyword.as_str()) && !inner.json
    }

    /// Its words, where it has words.
    pub(super) fn words(&self) -> &[Word] {
        match &self.arguments {
            Arguments::Words(words) => words,
            _ => &[],
        }
    }

    fn place(&mut self, by: &dyn Fn(Range<usize>) -> Range<usize>) {
        let place = |word: &mut Word| {
            let at = by(word.place());
            (word.at, word.length) = (at.start, at.len());
        };
        place(&mut self.keyword);
        self.flags.iter_mut().for_each(place);
        match &mut self.arguments {
            Arguments::Words(words) => words.iter_mut().for_each(place),
            Arguments::Pairs(pairs) => pairs.iter_mut().for_each(|pair| {
                place(&mut pair.name);
                place(&mut pair.value);
            }),
            Arguments::Statement(inner) => inner.place(by),
        }
    }
}

/// The arguments as the keyword has them, and whether they are JSON.
fn read(
    keyword: &Word,
    text: &str,
    at: usize,
    escape: char,
    span: Span,
    inside: bool,
) -> Found<(Arguments, bool)> {
    let whole = || match text {
        "" => Vec::new(),
        text => vec![Word::new(text, at)],
    };
    let listed = |text: &str, at: usize, otherwise: Vec<Word>| match json_list(text, at) {
        List::Strings(words) => Ok((words, true)),
        List::None => Ok((otherwise, false)),
        List::Other(word) => {
            let why = format!("a list of JSON has strings only, and {} is none", shortened(&word.text));
            Err(Fault::new(word.place(), why).with_remedy("put it in double quotes"))
        }
    };
    let name = keyword.text.to_ascii_uppercase();
    let (words, json) = match name.as_str() {
        "ADD" | "COPY" | "VOLUME" => listed(text, at, blank_separated(text, at))?,
        "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => listed(text, at, whole())?,
        "EXPOSE" | "FROM" => (blank_separated(text, at), false),
        "MAINTAINER" | "STOPSIGNAL" | "USER" | "WORKDIR" => (whole(), false),
        "ARG" => (quoted_words(text, at, escape), false),
        "ENV" | "LABEL" => return Ok((Arguments::Pairs(pairs(&name, text, at, escape)?), false)),
        "ONBUILD" if !text.is_empty() && !inside => {
            let inner = Statement::of(text, at, escape, span, true)?;
            return Ok((Arguments::Statement(Box::new(inner)), false));
        }
        "HEALTHCHECK" if !text.is_empty() => {
            let end = text.find(char::is_whitespace).unwrap_or(text.len());
            let command = text[end..].trim_start();
            let command_at = at + text.len() - command.len();
            let plain = Vec::from_iter((!command.is_empty()).then(|| Word::new(command, command_at)));
            let (mut words, json) = listed(command, command_at, plain)?;
            words.insert(0, Word::new(&text[..end], at));
            (words, json)
        }
        // What is unknown is said where instructions are read.
        _ => (Vec::new(), false),
    };
    Ok((Arguments::Words(words), json))
}

fn pairs(keyword: &str, text: &str, at: usize, escape: char) -> Found<Vec<Pair>> {
    let words = quoted_words(text, at, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.text.contains('=') {
        let (name, value) = split_first(text);
        let Some((value, by)) = value else {
            let why = format!("{keyword} needs a name and a value");
            let remedy = format!("write {keyword} {name}=value");
            return Err(Fault::new(first.place(), why).with_remedy(remedy));
        };
        let (name, value) = (Word::new(name, at), Word::new(value, at + by));
        return Ok(vec![Pair { name, value, equals: false }]);
    }
    let pair = |word: Word| match word.text.split_once('=') {
        Some((name, value)) => Ok(Pair {
            value: Word::new(value, word.at + name.len() + 1),
            name: Word::new(name, word.at),
            equals: true,
        }),
        None => {
            let why = format!("{} has no '='", shortened(&word.text));
            let remedy =
                format!("write name=value; a value with spaces in it is quoted: {keyword} name=\"a b\"");
            Err(Fault::new(word.place(), why).with_remedy(remedy))
        }
    };
    words.into_iter().map(pair).collect()
}

/// For a message: quoted, and not longer than one wants to read.
pub(super) fn shortened(text: &str) -> String {
    const MAX: usize = 80;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Whether the line is only blanks.
pub(super) fn is_empty(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || is_blank(c))
}
