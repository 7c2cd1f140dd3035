//! What is right and yet not good: the rules of `docker build --check` ("Build checks" of docker's reference), as far as the file
//! says it alone. `InvalidBaseImagePlatform` needs the image, and is for who pulls it.
#![forbid(unsafe_code)]

mod rule;
mod scope;
mod steps;
mod variables;

use super::bounds::Left;
use super::instruction::Instruction;
use super::{Dockerfile, Ignore, Span, Stage, Step};
use crate::error::{Error, ErrorKind, Result};
pub use rule::Rule;

/// How many names are looked at, all in all, for one that was meant.
const SUGGESTIONS_MAX: usize = 1 << 16;

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

/// The options as sets of rules, a bit each.
#[derive(Clone, Copy, Debug)]
struct Rules {
    skip: u32,
    experimental: u32,
}

impl Rules {
    fn new(options: &CheckOptions) -> Self {
        let of = |all: bool, names: &[String]| {
            let named = Rule::ALL.iter().filter(|rule| all || names.iter().any(|name| name == rule.name()));
            named.fold(0, |bits, rule| bits | Self::bit(*rule))
        };
        let skip = of(options.skip_all, &options.skip);
        Self { skip, experimental: of(options.experimental_all, &options.experimental) }
    }

    fn bit(rule: Rule) -> u32 {
        1 << rule as u32
    }

    fn applies(self, rule: Rule) -> bool {
        match rule.is_experimental() {
            true => self.experimental & Self::bit(rule) != 0,
            false => self.skip & Self::bit(rule) == 0,
        }
    }

    /// With what a comment before an instruction adds: `# check=skip=Rule`.
    fn with(self, comments: &[String]) -> Self {
        let own = comments.iter().find_map(|comment| match super::directive::directive(comment) {
            Some(("check", value)) => value.split(' ').next()?.parse().ok(),
            _ => None,
        });
        let Some(own) = own.as_ref().map(Self::new) else { return self };
        Self { skip: self.skip | own.skip, experimental: self.experimental | own.experimental }
    }
}

struct Checker<'a> {
    file: &'a Dockerfile,
    ignore: Option<&'a Ignore>,
    rules: Rules,
    /// Those of the instruction that was warned about last, by its place.
    own: Option<(Span, Rules)>,
    /// What may still be expanded, in the whole file.
    left: Left,
    /// How many more names may be looked at for one that was meant.
    suggestions: usize,
    warnings: Vec<Warning>,
}

impl Checker<'_> {
    fn warn(&mut self, rule: Rule, span: Span, comments: &[String], message: String) {
        let rules = match self.own {
            Some((at, rules)) if at == span => rules,
            _ => self.rules.with(comments),
        };
        self.own = Some((span, rules));
        if rules.applies(rule) {
            self.warnings.push(Warning { rule, message, span });
        }
    }
}

impl Dockerfile {
    /// What the rules say, in the order of lines. `ignore` is the context's; `base_env` says which variables an image has
    /// that a stage begins with, and `None` where that is not known: then nothing is said of undefined ones. Once all variables of the
    /// file came to what those of one instruction [may](Step::expand), others are not replaced, and what needs it is not said.
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
        let rules = Rules::new(&self.check_options()?);
        let (own, suggestions, warnings) = (None, SUGGESTIONS_MAX, Vec::new());
        let left = Left::new();
        let mut checker = Checker { file: self, ignore, rules, own, left, suggestions, warnings };
        for gap in self.gaps.iter().filter(|_| rules.applies(Rule::NoEmptyContinuation)) {
            let message = "there is an empty line in this instruction, which will be an error".to_owned();
            checker.warnings.push(Warning { rule: Rule::NoEmptyContinuation, message, span: *gap });
        }
        checker.casing();
        for step in &self.globals {
            checker.described(step);
        }
        for (at, stage) in self.stages.iter().enumerate() {
            checker.names(stage, at);
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

    fn names(&mut self, stage: &Stage, at: usize) {
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
        if self.file.names.is_again(name, at) {
            let what = format!("there is a stage {name:?} already");
            self.warn(Rule::DuplicateStageName, span, comments, what);
        }
    }
}
