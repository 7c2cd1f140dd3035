//! Which fields of which instruction are expanded, and how.
#![forbid(unsafe_code)]

use super::bounds::Left;
use super::instruction::{Add, Copy, Instruction, Run, Source, Variable};
use super::mount::RunMount;
use super::place::Found;
use super::shell::{Expander, Lookup};
use std::collections::BTreeSet;

/// An instruction with its variables replaced, and which those were.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expanded {
    /// What is to be done.
    pub instruction: Instruction,
    /// The variables that it named and that have a value.
    pub used: BTreeSet<String>,
    /// Those that have none.
    pub unset: BTreeSet<String>,
}

/// The word that is being expanded, for an error to find it in the file.
pub(super) struct Replacer<'a> {
    word: Expander,
    content: Expander,
    env: &'a Lookup<'a>,
    left: &'a mut Left,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
    /// What was expanded last.
    pub(super) last: String,
}

impl<'a> Replacer<'a> {
    pub(super) fn new(escape: char, env: &'a Lookup<'a>, left: &'a mut Left) -> Self {
        Self {
            word: Expander::new(escape),
            // Whatever the file's escape character is, as in BuildKit.
            content: Expander::new('\\').plain_quotes(true),
            env,
            left,
            used: BTreeSet::new(),
            unset: BTreeSet::new(),
            last: String::new(),
        }
    }

    fn with(&mut self, content: bool, text: &str) -> Found<(String, Vec<String>)> {
        self.last.clear();
        self.last.push_str(text);
        let expander = if content { &self.content } else { &self.word };
        let (expansion, words) = expander.expand(text, self.env, self.left)?;
        self.used.extend(expansion.used);
        self.unset.extend(expansion.unset);
        Ok((expansion.text, words))
    }

    fn text(&mut self, text: &str) -> Found<String> {
        self.with(false, text).map(|(text, _)| text)
    }

    fn optional(&mut self, text: &Option<String>) -> Found<Option<String>> {
        text.as_deref().map(|text| self.text(text)).transpose()
    }

    fn texts(&mut self, texts: &[String]) -> Found<Vec<String>> {
        texts.iter().map(|text| self.text(text)).collect()
    }

    fn variables(&mut self, variables: &[Variable]) -> Found<Vec<Variable>> {
        let replace = |variable: &Variable| {
            let (name, value) = (self.text(&variable.name)?, self.text(&variable.value)?);
            Ok(Variable { name, value, equals: variable.equals })
        };
        variables.iter().map(replace).collect()
    }

    fn sources(&mut self, sources: &[Source]) -> Found<Vec<Source>> {
        let replace = |source: &Source| {
            Ok(match source {
                Source::Path(path) => Source::Path(self.text(path)?),
                Source::Heredoc(heredoc) => {
                    let mut heredoc = heredoc.clone();
                    if heredoc.strip_tabs || heredoc.expand {
                        // Each source that names it has its own now.
                        self.left.grow(0..0, heredoc.content.len())?;
                    }
                    // Tabs of the file go, those of a variable do not.
                    if heredoc.strip_tabs {
                        heredoc.content = heredoc.stripped().into();
                        heredoc.strip_tabs = false;
                    }
                    if heredoc.expand {
                        heredoc.content = self.with(true, &heredoc.content)?.0.into();
                        heredoc.expand = false;
                    }
                    Source::Heredoc(heredoc)
                }
            })
        };
        sources.iter().map(replace).collect()
    }

    fn replace(&mut self, instruction: &Instruction) -> Found<Instruction> {
        Ok(match instruction {
            Instruction::Add(add) => Instruction::Add(Add {
                chown: self.optional(&add.chown)?,
                chmod: self.optional(&add.chmod)?,
                checksum: self.optional(&add.checksum)?,
                sources: self.sources(&add.sources)?,
                destination: self.text(&add.destination)?,
                ..add.clone()
            }),
            Instruction::Copy(copy) => Instruction::Copy(Copy {
                chown: self.optional(&copy.chown)?,
                chmod: self.optional(&copy.chmod)?,
                sources: self.sources(&copy.sources)?,
                destination: self.text(&copy.destination)?,
                ..copy.clone()
            }),
            Instruction::Env(variables) => Instruction::Env(self.variables(variables)?),
            Instruction::Label(variables) => Instruction::Label(self.variables(variables)?),
            Instruction::Expose(ports) => {
                let split: Found<Vec<_>> =
                    ports.iter().map(|port| self.with(false, port).map(|(_, words)| words)).collect();
                Instruction::Expose(split?.concat())
            }
            Instruction::Run(run) => {
                let replace =
                    |mount: &RunMount| mount.expand(&mut |value| self.text(value)).map(RunMount::Read);
                let mounts = run.mounts.iter().map(replace).collect::<Found<_>>()?;
                Instruction::Run(Run { mounts, ..run.clone() })
            }
            Instruction::Stopsignal(text) => Instruction::Stopsignal(self.text(text)?),
            Instruction::User(text) => Instruction::User(self.text(text)?),
            Instruction::Workdir(text) => Instruction::Workdir(self.text(text)?),
            Instruction::Volume(paths) => Instruction::Volume(self.texts(paths)?),
            Instruction::Arg(_)
            | Instruction::Cmd(_)
            | Instruction::Entrypoint(_)
            | Instruction::Healthcheck(_)
            | Instruction::Maintainer(_)
            | Instruction::Onbuild(_)
            | Instruction::Shell(_) => instruction.clone(),
        })
    }

    pub(super) fn expand(&mut self, instruction: &Instruction) -> Found<Expanded> {
        let instruction = self.replace(instruction)?;
        let (used, unset) = (std::mem::take(&mut self.used), std::mem::take(&mut self.unset));
        Ok(Expanded { instruction, used, unset })
    }
}
