//! The rules that look at the instructions of a stage.
#![forbid(unsafe_code)]

use super::super::instruction::{Command, Instruction, Source};
use super::super::syntax::shortened;
use super::super::{Stage, Step};
use super::scope::{Scope, UNKNOWN};
use super::variables::Globals;
use super::{Checker, Rule};

/// How many words of one EXPOSE are looked at that are not written, but are of what its variables have.
const SPLIT_MAX: usize = 256;
/// How long a path can be, in bytes: `PATH_MAX` of limits.h.
const PATH_MAX: usize = 4096;

/// What a stage has, and whoever is FROM it from there on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traits {
    /// SHELL chose one.
    pub(super) shell: bool,
    /// A WORKDIR of this file: what a relative one is below is known.
    pub(super) workdir: bool,
    /// Every name that its base defines is known.
    pub(super) complete: bool,
}

impl Checker<'_> {
    /// The instructions of a stage, one after the other; `traits` and `scope` are what its base left, and what it leaves.
    pub(super) fn steps(&mut self, stage: &Stage, traits: &mut Traits, globals: &Globals, scope: &mut Scope) {
        let mut once: [Option<&Step>; 3] = [None; 3];
        for step in &stage.steps {
            let name = step.instruction.name();
            self.described(step);
            if let Some(at) = ["CMD", "ENTRYPOINT", "HEALTHCHECK"].iter().position(|once| *once == name)
                && let Some(before) = once[at].replace(step)
            {
                let what = format!("of several {name} in a stage only the last one counts");
                self.warn(Rule::MultipleInstructionsDisallowed, before.span, &before.comments, what);
            }
            self.written(step, traits);
            if let Some(expanded) = self.uses(step, traits.complete, globals, scope) {
                self.expanded(step, &expanded, traits);
            }
        }
    }

    /// What needs no variables.
    fn written(&mut self, step: &Step, traits: &mut Traits) {
        let name = step.instruction.name();
        let mut warn = |rule, what: String| self.warn(rule, step.span, &step.comments, what);
        match &step.instruction {
            Instruction::Cmd(Command::Shell(_)) | Instruction::Entrypoint(Command::Shell(_))
                if !traits.shell =>
            {
                let what = format!("{name} in shell form: signals reach the shell, not the program");
                warn(Rule::JsonArgsRecommended, what);
            }
            Instruction::Shell(shell) => traits.shell = !shell.is_empty(),
            Instruction::Maintainer(_) => {
                let what = "MAINTAINER is a label now: LABEL org.opencontainers.image.authors=…".to_owned();
                warn(Rule::MaintainerDeprecated, what);
            }
            Instruction::Env(variables) | Instruction::Label(variables) => {
                for variable in variables {
                    if !variable.equals {
                        let what = format!("{name} {0} … is the old form of {name} {0}=…", variable.name);
                        warn(Rule::LegacyKeyValueFormat, what);
                    }
                    if name == "ENV" && is_secret(&variable.name) {
                        let what = format!("{:?} of ENV is in the image for everybody", variable.name);
                        warn(Rule::SecretsUsedInArgOrEnv, what);
                    }
                }
            }
            Instruction::Arg(args) => {
                for arg in args.iter().filter(|arg| is_secret(&arg.name)) {
                    let what = format!("{:?} of ARG is in the image's history for everybody", arg.name);
                    warn(Rule::SecretsUsedInArgOrEnv, what);
                }
            }
            _ => {}
        }
    }

    /// What is looked at with its variables replaced.
    fn expanded(&mut self, step: &Step, expanded: &Instruction, traits: &mut Traits) {
        let mut warn = |rule, what: String| self.warn(rule, step.span, &step.comments, what);
        match (expanded, &step.instruction) {
            (Instruction::Workdir(path), Instruction::Workdir(written)) => {
                if !traits.workdir && !path.starts_with('/') {
                    let what = format!("{written:?} is below whatever the base has as its directory");
                    warn(Rule::WorkdirRelativePath, what);
                }
                traits.workdir = true;
            }
            (Instruction::Expose(ports), Instruction::Expose(written)) => {
                for port in ports.iter().take(written.len() + SPLIT_MAX) {
                    let shown = shortened(&port.replace(UNKNOWN, "…"));
                    if port.split_once('/').is_some_and(|(_, proto)| proto.contains(char::is_uppercase)) {
                        let what = format!("the protocol of {shown} is not in lowercase");
                        warn(Rule::ExposeProtoCasing, what);
                    }
                    if port.contains(':') {
                        let what =
                            format!("{shown} has more than a port, which is left to who runs the image");
                        warn(Rule::ExposeInvalidFormat, what);
                    }
                }
            }
            (Instruction::Copy(copy), _) if copy.from.is_none() => self.ignored(step, &copy.sources),
            (Instruction::Add(add), _) => self.ignored(step, &add.sources),
            _ => {}
        }
    }

    fn ignored(&mut self, step: &Step, sources: &[Source]) {
        // With exceptions there is no saying without the files.
        let Some(ignore) = self.ignore.filter(|ignore| !ignore.has_exceptions()) else { return };
        for source in sources {
            let Source::Path(path) = source else { continue };
            // What is no path has no file that would be left out.
            if path.len() > PATH_MAX
                || path.contains(['*', '?', '['])
                || path.contains("://")
                || path.contains(UNKNOWN)
            {
                continue;
            }
            let cleaned = super::super::ignore::cleaned(path);
            let relative = cleaned.trim_start_matches('/');
            let is_ignored = match relative {
                "" | "." => ignore.patterns().any(|(pattern, _)| ["*", "**", "**/*"].contains(&pattern)),
                path => ignore.excludes(path),
            };
            if is_ignored {
                let what = format!("{} is left out of the context by .dockerignore", shortened(path));
                self.warn(Rule::CopyIgnoredFile, step.span, &step.comments, what);
            }
        }
    }
}

/// A name that says password, and not that it is a file's, or public.
fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    let lower = name.to_ascii_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&WORDS) && !has(&["public", "file", "version"])
}
