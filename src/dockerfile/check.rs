//! What is right and yet not good: the rules of `docker build --check` ("Build checks" of docker's reference), as far as the file
//! says it alone. `InvalidBaseImagePlatform` needs the image, and is for who pulls it.
#![forbid(unsafe_code)]

mod rule;
mod variables;

use super::instruction::{Command, Instruction, Source};
use super::{Dockerfile, Ignore, Span, Stage, Step};
use crate::error::{Error, ErrorKind, Result};
pub use rule::Rule;

/// What a rule says of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The rule.
    pub rule: Rule,
    /// What is not good.
    pub message: String,
    /// Where.
    pub span: Span,
}

/// Which rules are not applied: `skip=all`, `skip=Rule,Rule`, `experimental=…`, `error=true`, with `;` between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckOptions {
    /// None but experimental ones that are named.
    pub skip_all: bool,
    /// Not these.
    pub skip: Vec<String>,
    /// All experimental rules, which are not applied by default.
    pub experimental_all: bool,
    /// These experimental ones.
    pub experimental: Vec<String>,
    /// Whether a warning fails the build.
    pub error: bool,
}

impl std::str::FromStr for CheckOptions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut options = Self::default();
        let wrong = |part: &str| {
            let why = format!("{} is no option of check", super::syntax::shortened(part));
            Err(Error::new(ErrorKind::InvalidData, why)
                .with_remedy("there are skip=, experimental= and error="))
        };
        for part in text.trim().splitn(3, ';').filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else { return wrong(part) };
            let value = value.trim();
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match (key.trim(), value) {
                ("skip", "all") => options.skip_all = true,
                ("skip", _) => options.skip = names(),
                ("experimental", "all") => options.experimental_all = true,
                ("experimental", _) => options.experimental = names(),
                ("error", _) => match super::values::boolean(value) {
                    Some(error) => options.error = error,
                    None => return wrong(part),
                },
                _ => return wrong(part),
            }
        }
        Ok(options)
    }
}

impl CheckOptions {
    fn applies(&self, rule: Rule) -> bool {
        let is_in = |names: &[String]| names.iter().any(|name| name == rule.name());
        match rule.is_experimental() {
            true => self.experimental_all || is_in(&self.experimental),
            false => !self.skip_all && !is_in(&self.skip),
        }
    }

    /// With what a comment before an instruction adds: `# check=skip=Rule`.
    fn with(&self, comments: &[String]) -> Self {
        let own = comments.iter().find_map(|comment| match super::directive::directive(comment) {
            Some(("check", value)) => value.split(' ').next()?.parse::<Self>().ok(),
            _ => None,
        });
        let Some(own) = own else { return self.clone() };
        Self {
            skip_all: self.skip_all || own.skip_all,
            skip: [&self.skip[..], &own.skip].concat(),
            experimental_all: self.experimental_all || own.experimental_all,
            experimental: [&self.experimental[..], &own.experimental].concat(),
            error: self.error,
        }
    }
}

pub(super) struct Checker<'a> {
    file: &'a Dockerfile,
    options: CheckOptions,
    warnings: Vec<Warning>,
}

impl Checker<'_> {
    fn warn(&mut self, rule: Rule, span: Span, comments: &[String], message: String) {
        if self.options.with(comments).applies(rule) {
            self.warnings.push(Warning { rule, message, span });
        }
    }
}

impl Dockerfile {
    /// What the rules say, in the order of lines. `ignore` is the context's; `base_env` says which variables an image has
    /// that a stage begins with, and `None` where that is not known: then nothing is said of undefined ones.
    ///
    /// ```
    /// use coracle::dockerfile::{Dockerfile, Rule};
    /// let file = Dockerfile::parse("FROM scratch\nWORKDIR app\nCMD run")?;
    /// let rules: Vec<_> = file.check(None, &|_| None)?.into_iter().map(|warning| warning.rule).collect();
    /// assert_eq!(rules, [Rule::WorkdirRelativePath, Rule::JsonArgsRecommended]);
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidData` for options after `# check=` that there are not.
    pub fn check(
        &self,
        ignore: Option<&Ignore>,
        base_env: &dyn Fn(&str) -> Option<Vec<String>>,
    ) -> Result<Vec<Warning>> {
        let mut checker = Checker { file: self, options: self.check_options()?, warnings: Vec::new() };
        for gap in &self.gaps {
            let what = "there is an empty line in this instruction, which will be an error".to_owned();
            checker.warn(Rule::NoEmptyContinuation, *gap, &[], what);
        }
        checker.casing();
        checker.globals();
        let mut names: Vec<&str> = Vec::new();
        for stage in &self.stages {
            checker.names(stage, &mut names);
            checker.steps(stage, ignore);
        }
        checker.variables(base_env);
        let mut warnings = checker.warnings;
        warnings.sort_by_key(|warning| warning.span);
        Ok(warnings)
    }

    /// What `# check=` says.
    ///
    /// # Errors
    /// `InvalidData` for options that there are not.
    pub fn check_options(&self) -> Result<CheckOptions> {
        match &self.directives.check {
            Some(check) => check.word().parse(),
            None => Ok(CheckOptions::default()),
        }
    }
}

impl Checker<'_> {
    fn casing(&mut self) {
        let stages = self.file.stages.iter();
        let words: Vec<(&str, Span, &[String])> = stages
            .flat_map(|stage| {
                let steps = stage.steps.iter();
                let steps = steps.map(|step| (step.keyword.as_str(), step.span, &step.comments[..]));
                std::iter::once((stage.keyword.as_str(), stage.span, &stage.comments[..])).chain(steps)
            })
            .collect();
        let count = |is: fn(char) -> bool| words.iter().filter(|(word, ..)| !word.chars().any(is)).count();
        let (lower, upper) = (count(|c| c.is_uppercase()), count(|c| c.is_lowercase()));
        let (want, wrong): (_, fn(char) -> bool) = match lower > upper {
            true => ("lowercase", |c| c.is_uppercase()),
            false => ("uppercase", |c| c.is_lowercase()),
        };
        for (word, span, comments) in words {
            if word.chars().any(wrong) {
                let what = format!("{word} is not in {want}, which most instructions here are");
                self.warn(Rule::ConsistentInstructionCasing, span, comments, what);
            }
        }
    }

    fn globals(&mut self) {
        let file = self.file;
        for step in &file.globals {
            self.described(step);
        }
    }

    /// Whether a comment right before names what it stands before.
    fn definition(&mut self, keyword: &str, names: &[&str], span: Span, comments: &[String]) {
        let Some(last) = comments.last() else { return };
        let first = last.split(' ').next().unwrap_or_default();
        if let Some(example) = names.first().filter(|_| !names.contains(&first)) {
            let example = if names.len() > 1 { "NAME" } else { example };
            let what = format!("the comment before {keyword} is not of the form \"# {example} description\"");
            self.warn(Rule::InvalidDefinitionDescription, span, comments, what);
        }
    }

    fn described(&mut self, step: &Step) {
        if let Instruction::Arg(args) = &step.instruction {
            let names: Vec<_> = args.iter().map(|arg| arg.name.as_str()).collect();
            self.definition("ARG", &names, step.span, &step.comments);
        }
    }

    fn names<'s>(&mut self, stage: &'s Stage, names: &mut Vec<&'s str>) {
        let Some(name) = stage.name.as_deref() else { return };
        let (span, comments) = (stage.span, &stage.comments[..]);
        self.definition("FROM", &[name], span, comments);
        let words: Vec<_> = stage.text.split_whitespace().collect();
        if let [.., keyword, written] = words.as_slice() {
            if *written != name {
                let what = format!("the name {written:?} of a stage is not in lowercase");
                self.warn(Rule::StageNameCasing, span, comments, what);
            }
            let is = |word: &str, wrong: fn(char) -> bool| !word.chars().any(wrong);
            let (is_upper, is_lower) =
                (is(&stage.keyword, char::is_lowercase), is(&stage.keyword, char::is_uppercase));
            if is_upper && !is(keyword, char::is_lowercase) || is_lower && !is(keyword, char::is_uppercase) {
                let what = format!("{keyword} and {} are not in the same case", stage.keyword);
                self.warn(Rule::FromAsCasing, span, comments, what);
            }
        }
        if ["context", "scratch"].contains(&name) {
            let what = format!("{name:?} means something else already");
            self.warn(Rule::ReservedStageName, span, comments, what);
        }
        if names.contains(&name) {
            let what = format!("there is a stage {name:?} already");
            self.warn(Rule::DuplicateStageName, span, comments, what);
        }
        names.push(name);
    }

    fn steps(&mut self, stage: &Stage, ignore: Option<&Ignore>) {
        let (mut has_shell, mut has_workdir) = (false, false);
        let mut once: [Option<&Step>; 3] = [None; 3];
        for step in &stage.steps {
            let name = step.instruction.name();
            let warn = |this: &mut Self, rule, what: String| this.warn(rule, step.span, &step.comments, what);
            self.described(step);
            if let Some(at) = ["CMD", "ENTRYPOINT", "HEALTHCHECK"].iter().position(|once| *once == name)
                && let Some(before) = once[at].replace(step)
            {
                let what = format!("of several {name} in a stage only the last one counts");
                self.warn(Rule::MultipleInstructionsDisallowed, before.span, &before.comments, what);
            }
            match &step.instruction {
                Instruction::Cmd(Command::Shell(_)) | Instruction::Entrypoint(Command::Shell(_))
                    if !has_shell =>
                {
                    let what = format!("{name} in shell form: signals reach the shell, not the program");
                    warn(self, Rule::JsonArgsRecommended, what);
                }
                Instruction::Shell(_) => has_shell = true,
                Instruction::Maintainer(_) => {
                    let what =
                        "MAINTAINER is a label now: LABEL org.opencontainers.image.authors=…".to_owned();
                    warn(self, Rule::MaintainerDeprecated, what);
                }
                Instruction::Workdir(path) => {
                    if !has_workdir && !path.starts_with(['/', '$']) {
                        let what = format!("{path:?} is below whatever the base has as its directory");
                        warn(self, Rule::WorkdirRelativePath, what);
                    }
                    has_workdir = true;
                }
                Instruction::Env(variables) | Instruction::Label(variables) => {
                    for variable in variables {
                        if !variable.equals {
                            let what = format!("{name} {0} … is the old form of {name} {0}=…", variable.name);
                            warn(self, Rule::LegacyKeyValueFormat, what);
                        }
                        if name == "ENV" && is_secret(&variable.name) {
                            let what = format!("{:?} of ENV is in the image for everybody", variable.name);
                            warn(self, Rule::SecretsUsedInArgOrEnv, what);
                        }
                    }
                }
                Instruction::Arg(args) => {
                    for arg in args.iter().filter(|arg| is_secret(&arg.name)) {
                        let what = format!("{:?} of ARG is in the image's history for everybody", arg.name);
                        warn(self, Rule::SecretsUsedInArgOrEnv, what);
                    }
                }
                Instruction::Expose(ports) => {
                    for port in ports {
                        if port.split_once('/').is_some_and(|(_, proto)| proto.contains(char::is_uppercase)) {
                            warn(
                                self,
                                Rule::ExposeProtoCasing,
                                format!("the protocol of {port:?} is not in lowercase"),
                            );
                        }
                        if port.contains(':') && !port.contains('$') {
                            let what =
                                format!("{port:?} has more than a port, which is left to who runs the image");
                            warn(self, Rule::ExposeInvalidFormat, what);
                        }
                    }
                }
                Instruction::Copy(copy) if copy.from.is_none() => self.ignored(step, &copy.sources, ignore),
                Instruction::Add(add) => self.ignored(step, &add.sources, ignore),
                _ => {}
            }
        }
    }

    fn ignored(&mut self, step: &Step, sources: &[Source], ignore: Option<&Ignore>) {
        // With exceptions there is no saying without the files.
        let Some(ignore) = ignore.filter(|ignore| !ignore.has_exceptions()) else { return };
        for source in sources {
            let Source::Path(path) = source else { continue };
            if path.contains(['$', '*', '?', '[']) || path.contains("://") {
                continue;
            }
            let cleaned = super::ignore::cleaned(path);
            let relative = cleaned.trim_start_matches('/');
            let is_ignored = match relative {
                "" | "." => ignore.patterns().any(|(pattern, _)| ["*", "**", "**/*"].contains(&pattern)),
                path => ignore.excludes(path),
            };
            if is_ignored {
                let what = format!("{path:?} is left out of the context by .dockerignore");
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
