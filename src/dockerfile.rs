//! Dockerfiles as values: text in, stages and instructions out, errors with the line and a caret. And what goes with them:
//! how variables are [expanded](Expander), and which files a `.dockerignore` [leaves out](Ignore).
//!
//! The language is that of the [Dockerfile reference](https://docs.docker.com/reference/dockerfile/), as BuildKit reads it,
//! with its test tables as the measure. Nothing here opens a file or builds anything: a program that only wants to know
//! what a Dockerfile says needs no [`Store`](crate::Store).
//!
//! ```
//! use coracle::dockerfile::{Dockerfile, Instruction};
//!
//! let file = Dockerfile::parse("
//! ARG VERSION=12
//! FROM debian:$VERSION AS base
//! WORKDIR /srv
//! FROM base
//! COPY --chown=$OWNER . .
//! ")?;
//! let [base, last] = file.stages() else { panic!() };
//! assert_eq!((base.name.as_deref(), last.base.as_str()), (Some("base"), "base"));
//!
//! let copy = &last.steps[0];
//! assert_eq!((copy.span.first, copy.text.as_str()), (6, "COPY --chown=$OWNER . ."));
//! let expanded = copy.expand(&|name: &str| (name == "OWNER").then(|| "me".to_owned()))?;
//! assert!(matches!(expanded.instruction, Instruction::Copy(copy) if copy.chown.as_deref() == Some("me")));
//!
//! let error = Dockerfile::parse("FROM debian\nCOPY --form=base a b").unwrap_err();
//! assert_eq!(error.position(), Some((2, 6)));
//! assert!(error.to_string().starts_with("line 2, column 6: COPY has no flag \"--form\"; help: did you mean --from?"));
//! # Ok::<(), coracle::Error>(())
//! ```
//!
//! From the text to its meaning it goes in four steps, each a file: lines (`reader`: directives, continuation,
//! here-documents), statements (`syntax`: keyword, flags, arguments), instructions (`read`: what each may have), and
//! expansion, which needs to know what came before and is therefore left to whoever runs the steps.
//!
//! Whatever the input is, the time and memory of reading it are linear in its size, which is bounded (16 MiB, 65535 bytes a
//! line), but for the logarithm of look-ups; those of [`Dockerfile::check`] are, too, times the patterns of the `.dockerignore` that
//! it is given. An expansion is no longer linear, as values are in it any number of times: what one instruction may come to has
//! bounds of its own, in bytes and in steps, and each is an error. A check has the same for the whole file.
#![forbid(unsafe_code)]

mod bounds;
mod check;
mod directive;
mod expand;
mod flags;
mod heredoc;
mod ignore;
mod instruction;
mod mount;
mod pattern;
mod place;
mod read;
mod reader;
mod shell;
mod stages;
mod syntax;
#[cfg(test)]
mod tests;
mod values;
mod words;

use crate::error::{Error, ErrorKind, Result};
use bounds::Left;
use place::{Fault, Found};
use read::Item;

pub use check::{CheckOptions, Rule, Warning};
pub use directive::{Directive, Directives, frontend};
pub use expand::Expanded;
pub use heredoc::Heredoc;
pub use ignore::{Ignore, Parents};
pub use instruction::{
    Add, Arg, Command, Copy, HealthTest, Healthcheck, Instruction, Onbuild, Run, RunDevice, RunNetwork,
    RunSecurity, Source, Variable,
};
pub use mount::{Mount, MountKind, RunMount, Sharing};
pub use place::Span;
pub(crate) use place::nearest;
pub use shell::{Expander, Expansion, Lookup};
pub use stages::Base;

/// A Dockerfile that was read: at least one stage, and every instruction in it is known and complete.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    directives: Directives,
    globals: Vec<Step>,
    stages: Vec<Stage>,
    names: stages::Names,
    gaps: Vec<Span>,
}

/// What begins with FROM, up to the next.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stage {
    /// The image, or an earlier stage, as it is written: variables are [replaced](Self::expand_base) by global ARGs.
    pub base: String,
    /// The name after AS, in small letters.
    pub name: Option<String>,
    /// `--platform`, as it is written.
    pub platform: Option<String>,
    /// What the comment before it says: `# NAME description`.
    pub description: Option<String>,
    /// The instructions, in their order.
    pub steps: Vec<Step>,
    /// The lines of FROM.
    pub span: Span,
    /// FROM, its lines as one.
    pub text: String,
    /// The word FROM itself, as it is written.
    pub keyword: String,
    /// The comments right before it.
    pub comments: Vec<String>,
    origin: Origin,
}

/// An instruction, and where it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Step {
    /// What it says.
    pub instruction: Instruction,
    /// Its lines.
    pub span: Span,
    /// Its lines as one, without comments and here-documents: what a history has.
    pub text: String,
    /// Its keyword as it is written.
    pub keyword: String,
    /// The comments right before it.
    pub comments: Vec<String>,
    origin: Origin,
}

/// Which part of which text.
#[derive(Clone, Debug)]
struct Origin {
    source: place::Source,
    at: usize,
    escape: char,
}

impl Origin {
    /// An error about something that these lines have in them; about the first of them, if it is not found.
    fn error(&self, span: Span, about: &str, fault: Fault) -> Error {
        let text = self.source.text();
        let last = self.source.line(span.last);
        let end = last.as_ptr() as usize + last.len() - text.as_ptr() as usize;
        let inside = &text[self.at..end.clamp(self.at, text.len())];
        let found = (!about.is_empty()).then(|| inside.find(about)).flatten();
        self.source.error(fault.moved(|range| match found {
            Some(found) => self.at + found + range.start..self.at + found + range.end,
            None => self.at..self.at + inside.lines().next().map_or(0, str::len),
        }))
    }

    fn expand(&self, span: Span, text: &str, env: &Lookup) -> Result<Expansion> {
        self.expanded(text, env, &mut Left::new()).map_err(|fault| self.error(span, text, fault))
    }

    /// Without looking for the place of what is wrong, which takes the length of the lines.
    fn expanded(&self, text: &str, env: &Lookup, left: &mut Left) -> Found<Expansion> {
        let expanded = Expander::new(self.escape).expand(text, env, left);
        expanded.map(|(expansion, _)| expansion)
    }
}

impl Step {
    /// With its variables replaced by what `env` says, as far as such an instruction has them replaced: see [`Instruction`].
    ///
    /// # Errors
    /// `InvalidData` for a quote or a brace that is not closed, for a modifier that does not exist, where `${name:?}` says
    /// so, and for a mount that can't be. `TooLarge`, for all of the instruction together: beyond 16 MiB, where the values that
    /// were looked up have more than 64 MiB, and where patterns would take more than 2²⁶ steps. With the line.
    pub fn expand(&self, env: &Lookup) -> Result<Expanded> {
        self.expand_within(env, &mut Left::new())
    }

    /// Of what is left for several.
    fn expand_within(&self, env: &Lookup, left: &mut Left) -> Result<Expanded> {
        let mut replacer = expand::Replacer::new(self.origin.escape, env, left);
        let expanded = replacer.expand(&self.instruction);
        expanded.map_err(|fault| self.origin.error(self.span, &replacer.last, fault))
    }

    /// The default of an [`Arg`] with its variables replaced. It is for who runs the steps to ask for it, one after the other and
    /// only where no build argument takes its place: `${name:?}` in one that does not count is no error, and of
    /// `ARG A=1 B=$A` the second sees the first.
    ///
    /// ```
    /// use coracle::dockerfile::{Dockerfile, Instruction};
    /// let file = Dockerfile::parse("ARG A=${B:?needed}\nFROM scratch")?;
    /// let step = &file.globals()[0];
    /// let Instruction::Arg(args) = &step.instruction else { panic!() };
    /// let default = args[0].value.as_deref().unwrap();
    /// assert_eq!(step.expand_default(default, &|_: &str| Some("b".into()))?.text, "b");
    /// assert_eq!(step.expand_default(default, &|_: &str| None).unwrap_err().position(), Some((1, 7)));
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`expand`](Self::expand).
    pub fn expand_default(&self, default: &str, env: &Lookup) -> Result<Expansion> {
        self.origin.expand(self.span, default, env)
    }

    /// An error of anything else that was met in this step, with its line, unless it has a place already.
    pub(crate) fn place(&self, error: Error) -> Error {
        if error.position().is_some() {
            return error;
        }
        error.at_place_of(&self.error(ErrorKind::InvalidData, "", ""))
    }

    /// An error of the caller's about this step: `what`, with the line of `about`, which is something that is written in it.
    pub fn error(&self, kind: ErrorKind, what: &str, about: &str) -> Error {
        let fault = Fault::new(0..about.len(), what).with_kind(kind);
        self.origin.error(self.span, about, fault)
    }
}

impl Stage {
    /// The base with variables replaced: those of the ARGs before the first FROM, and the platforms'.
    ///
    /// # Errors
    /// As [`Step::expand`].
    pub fn expand_base(&self, env: &Lookup) -> Result<Expansion> {
        self.origin.expand(self.span, &self.base, env)
    }

    /// `--platform` with variables replaced, likewise.
    ///
    /// # Errors
    /// As [`Step::expand`].
    pub fn expand_platform(&self, env: &Lookup) -> Result<Option<Expansion>> {
        let platform = self.platform.as_deref();
        platform.map(|platform| self.origin.expand(self.span, platform, env)).transpose()
    }

    /// An error of anything else that was met at its FROM, whatever place it has.
    pub(crate) fn place(&self, error: Error) -> Error {
        error.at_place_of(&self.error(ErrorKind::InvalidData, "", ""))
    }

    /// An error of the caller's about its FROM, as [`Step::error`].
    pub fn error(&self, kind: ErrorKind, what: &str, about: &str) -> Error {
        let fault = Fault::new(0..about.len(), what).with_kind(kind);
        self.origin.error(self.span, about, fault)
    }
}

impl Dockerfile {
    /// Reads the whole file, and checks each instruction by itself.
    ///
    /// # Errors
    /// `InvalidData`, with [line and column](Error::position), for what is no Dockerfile: an unknown instruction or flag, an
    /// argument that is missing, a here-document without an end, an instruction before FROM, no FROM at all, a NUL
    /// byte, text that is not UTF-8. `TooLarge` for a line of more than 65535 bytes and a file of more than 16 MiB.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self> {
        let source = reader::source(bytes.as_ref())?;
        Self::read(&source).map_err(|fault| source.error(fault))
    }

    fn read(source: &place::Source) -> Found<Self> {
        let reader::Read { statements, directives, gaps } = reader::read(source)?;
        let escape = directives.escape();
        let (mut globals, mut stages) = (Vec::new(), Vec::<Stage>::new());
        let last = statements.last().map_or(0, |statement| statement.keyword.at);
        for statement in statements {
            let item = read::item(&statement, escape)?;
            let keyword = statement.keyword;
            let origin = Origin { source: source.clone(), at: keyword.at, escape };
            let (span, text) = (statement.span, statement.text);
            let instruction = match item {
                Item::From(read::From { base, name, platform }) => {
                    let described = read::descriptions(&statement.comments);
                    let description = name.as_deref().and_then(|name| described.get(name));
                    let description = description.map(|text| (*text).to_owned());
                    let (steps, keyword) = (Vec::new(), keyword.text);
                    let comments = statement.comments;
                    stages.push(Stage {
                        base,
                        name,
                        platform,
                        description,
                        steps,
                        span,
                        text,
                        keyword,
                        comments,
                        origin,
                    });
                    continue;
                }
                Item::Instruction(instruction) => instruction,
            };
            let steps = match stages.last_mut() {
                Some(stage) => &mut stage.steps,
                None if matches!(instruction, Instruction::Arg(_)) => &mut globals,
                None => {
                    let why = format!("{} before the first FROM", instruction.name());
                    return Err(Fault::new(keyword.place(), why).with_remedy("only ARG may be before it"));
                }
            };
            let (comments, keyword) = (statement.comments, keyword.text);
            steps.push(Step { instruction, span, text, keyword, comments, origin });
        }
        if stages.is_empty() {
            return Err(
                Fault::new(last..last, "there is no FROM in it").with_remedy("FROM scratch has no base")
            );
        }
        let names = stages::Names::new(&stages);
        Ok(Self { directives, globals, stages, names, gaps })
    }

    /// What its head says of it.
    pub fn directives(&self) -> &Directives {
        &self.directives
    }

    /// The ARGs before the first FROM, for the names of bases; a stage has them where it names them again.
    pub fn globals(&self) -> &[Step] {
        &self.globals
    }

    /// One at least, in their order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Instructions with an empty line amid them, which a backslash leads over: they will be errors, says BuildKit.
    pub fn gaps(&self) -> &[Span] {
        &self.gaps
    }

    /// What is written in an instruction, with the instructions that ONBUILD has in an image's configuration.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_trigger(text: &str) -> Result<Step> {
        let source = reader::source(text.as_bytes())?;
        let read = || {
            let mut steps = steps(&source)?.into_iter();
            match (steps.next(), steps.next()) {
                (Some(step), None) => Ok(step),
                _ => Err(Fault::new(0..text.len(), "a trigger is one instruction")),
            }
        };
        read().map_err(|fault| source.error(fault))
    }

    /// Instructions without a stage that they would be of.
    pub(crate) fn parse_steps(text: &str) -> Result<Vec<Step>> {
        let source = reader::source(text.as_bytes())?;
        steps(&source).map_err(|fault| source.error(fault))
    }
}

fn steps(source: &place::Source) -> Found<Vec<Step>> {
    let step = |statement: syntax::Statement| {
        let Item::Instruction(instruction) = read::item(&statement, '\\')? else {
            return Err(Fault::new(statement.keyword.place(), "FROM, where there is no stage to begin"));
        };
        let origin = Origin { source: source.clone(), at: statement.keyword.at, escape: '\\' };
        let (span, text, comments) = (statement.span, statement.text, statement.comments);
        Ok(Step { instruction, span, text, keyword: statement.keyword.text, comments, origin })
    };
    reader::read(source)?.statements.into_iter().map(step).collect()
}

impl std::str::FromStr for Dockerfile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}
