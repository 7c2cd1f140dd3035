//! The rules that look at variables.
#![forbid(unsafe_code)]

use super::super::Stage;
use super::super::instruction::Instruction;
use super::super::place::nearest;
use super::super::shell::Expansion;
use super::Checker;
use super::Rule;
use std::collections::{BTreeMap, BTreeSet};

/// What every build has for its FROMs.
const PLATFORM: [&str; 9] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

impl Checker<'_> {
    pub(super) fn variables(&mut self, base_env: &dyn Fn(&str) -> Option<Vec<String>>) {
        let file = self.file;
        let mut defaults: BTreeMap<String, Option<String>> = BTreeMap::new();
        for name in PLATFORM {
            // Whatever they are, they are something.
            defaults.insert(name.into(), Some(format!("<{name}>")));
        }
        for step in &file.globals {
            let known = defaults.clone();
            let env = |name: &str| known.get(name).cloned().flatten();
            let Ok(expanded) = step.expand(&env) else { return };
            let Instruction::Arg(args) = expanded.instruction else { continue };
            defaults.extend(args.into_iter().map(|arg| (arg.name, arg.value)));
        }
        let mut defined: Vec<Option<BTreeSet<String>>> = Vec::new();
        for (at, stage) in file.stages.iter().enumerate() {
            let env = |name: &str| defaults.get(name).cloned().flatten();
            let Ok(base) = stage.expand_base(&env) else { return };
            self.from(stage, &base, &defaults);
            if let Ok(Some(platform)) = stage.expand_platform(&env) {
                self.platform(stage, &platform, &defaults);
            }
            let begins = match file.stage(&base.text, at) {
                Some(stage) => defined.get(stage).cloned().flatten(),
                None if base.text == "scratch" => Some(BTreeSet::new()),
                None => base_env(&base.text).map(|names| names.into_iter().collect()),
            };
            let after = begins.map(|names| self.uses(stage, names));
            defined.push(after);
        }
    }

    fn from(&mut self, stage: &Stage, base: &Expansion, defaults: &BTreeMap<String, Option<String>>) {
        self.undeclared(stage, base, defaults);
        let text = &base.text;
        let is_edge = |c: char| matches!(c, '/' | ':' | '@' | '-' | '.' | '_');
        let is_wrong = text.is_empty()
            || text.starts_with(is_edge)
            || text.ends_with(is_edge)
            || text.contains(char::is_whitespace)
            || text.contains("//");
        if is_wrong && !(base.used.is_empty() && base.unset.is_empty()) {
            let what = format!(
                "with the defaults of its ARGs, {:?} is {text:?}, which is no image's name",
                stage.base
            );
            self.warn(Rule::InvalidDefaultArgInFrom, stage.span, &stage.comments, what);
        }
    }

    fn undeclared(&mut self, stage: &Stage, found: &Expansion, defaults: &BTreeMap<String, Option<String>>) {
        for name in found.unset.iter().filter(|name| !defaults.contains_key(*name)) {
            let what = format!("{name} of FROM is not an ARG before it{}", meant(name, defaults.keys()));
            self.warn(Rule::UndefinedArgInFrom, stage.span, &stage.comments, what);
        }
    }

    fn platform(&mut self, stage: &Stage, found: &Expansion, defaults: &BTreeMap<String, Option<String>>) {
        self.undeclared(stage, found, defaults);
        let written = stage.platform.as_deref().unwrap_or_default();
        let is_target =
            found.used.len() == 1 && found.unset.is_empty() && found.used.contains("TARGETPLATFORM");
        if is_target
            && defaults.get("TARGETPLATFORM").is_some_and(|value| value.as_ref() == Some(&found.text))
        {
            let what = format!("--platform={written} is what it is without");
            self.warn(Rule::RedundantTargetPlatform, stage.span, &stage.comments, what);
        }
        if found.used.is_empty() && found.unset.is_empty() {
            let name = stage.name.as_deref().unwrap_or_default();
            let mut parts = found.text.split('/');
            // A stage that is named after its platform means it so.
            if !parts.any(|part| !part.is_empty() && name.contains(part)) {
                let what = format!("--platform={written} is the same for every target");
                self.warn(Rule::FromPlatformFlagConstDisallowed, stage.span, &stage.comments, what);
            }
        }
    }

    /// What is used and not defined, and what is defined at the end.
    fn uses(&mut self, stage: &Stage, mut names: BTreeSet<String>) -> BTreeSet<String> {
        names.insert("PATH".into());
        for step in &stage.steps {
            let env = |name: &str| names.contains(name).then(|| "x".to_owned());
            let Ok(expanded) = step.expand(&env) else { continue };
            for name in &expanded.unset {
                let what = format!("${name} is used and not defined{}", meant(name, names.iter()));
                self.warn(Rule::UndefinedVar, step.span, &step.comments, what);
            }
            match &expanded.instruction {
                Instruction::Arg(args) => names.extend(args.iter().map(|arg| arg.name.clone())),
                Instruction::Env(variables) => names.extend(variables.iter().map(|one| one.name.clone())),
                _ => {}
            }
        }
        names
    }
}

fn meant<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    match nearest(name, known.map(String::as_str)) {
        Some(near) => format!(" (did you mean {near}?)"),
        None => String::new(),
    }
}
