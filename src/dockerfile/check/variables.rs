//! The rules that look at variables.
#![forbid(unsafe_code)]

use super::super::bounds::Left;
use super::super::instruction::{Arg, Instruction};
use super::super::place::nearest;
use super::super::shell::Expansion;
use super::super::syntax::shortened;
use super::super::{Base, Stage, Step};
use super::scope::{Scope, UNKNOWN, VALUE_MAX};
use super::steps::Traits;
use super::{Checker, Rule};
use std::collections::{BTreeSet, HashMap};

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

/// The ARGs before the first FROM. One without a value is a name all the same.
pub(super) type Globals = HashMap<String, Option<String>>;

impl Checker<'_> {
    pub(super) fn variables(&mut self, base_env: &dyn Fn(&str) -> Option<Vec<String>>) {
        let file = self.file;
        let globals = self.globals();
        // The stages that begin with each, and those that begin with none.
        let (mut above, mut roots) = (vec![Vec::new(); file.stages.len()], Vec::new());
        for (at, stage) in file.stages.iter().enumerate() {
            let base = self.base(at, stage, &globals);
            match base {
                Some(Base::Stage(base)) => above[base].push(at),
                base => roots.push((at, base)),
            }
        }
        // From each root up, with what is below in the scope, and out of it again on the way back.
        let mut traits = vec![Traits::default(); file.stages.len()];
        let mut scope = Scope::default();
        for (root, base) in roots {
            let known = match base {
                Some(Base::Scratch) => Some(Vec::new()),
                Some(Base::Image(name)) => base_env(&name),
                _ => None,
            };
            traits[root].complete = known.is_some();
            known.iter().flatten().for_each(|name| scope.set(name, UNKNOWN));
            scope.set("PATH", UNKNOWN);
            let mut path = vec![(root, 0, None)];
            while let Some((at, next, place)) = path.last_mut() {
                if place.is_none() {
                    *place = Some(scope.place());
                    self.steps(&file.stages[*at], &mut traits[*at], &globals, &mut scope);
                }
                match above[*at].get(*next).copied() {
                    Some(child) => {
                        *next += 1;
                        traits[child] = traits[*at];
                        path.push((child, 0, None));
                    }
                    None => {
                        scope.undo(place.unwrap_or_default());
                        path.pop();
                    }
                }
            }
            scope.undo(0);
        }
    }

    /// With their defaults; what each build has is something, whatever it is.
    fn globals(&mut self) -> Globals {
        let mut globals: Globals =
            PLATFORM.into_iter().map(|name| (name.into(), Some(format!("<{name}>")))).collect();
        for step in &self.file.globals {
            let Instruction::Arg(args) = &step.instruction else { continue };
            for arg in args {
                let env = |name: &str| globals.get(name).cloned().flatten();
                let left = &mut self.left;
                let value = arg.value.as_deref().map(|text| match step.origin.expanded(text, &env, left) {
                    Ok(expansion) if expansion.text.len() <= VALUE_MAX => expansion.text,
                    _ => UNKNOWN.to_owned(),
                });
                globals.insert(arg.name.clone(), value);
            }
        }
        globals
    }

    /// What it begins with, as far as that is known.
    fn base(&mut self, at: usize, stage: &Stage, globals: &Globals) -> Option<Base> {
        let env = |name: &str| globals.get(name).cloned().flatten();
        let (origin, left) = (&stage.origin, &mut self.left);
        let base = origin.expanded(&stage.base, &env, left).ok();
        let platform = stage.platform.as_deref();
        let platform = platform.and_then(|platform| origin.expanded(platform, &env, left).ok());
        let is_known = |text: &Expansion| !text.text.contains(UNKNOWN);
        if let Some(base) = &base {
            self.from(stage, base, globals);
        }
        if let Some(platform) = platform {
            self.platform(stage, &platform, globals);
        }
        base.filter(is_known).and_then(|base| self.file.base(at, &base.text).ok())
    }

    fn from(&mut self, stage: &Stage, base: &Expansion, defaults: &Globals) {
        self.undeclared(stage, base, defaults);
        let text = &base.text;
        let is_edge = |c: char| matches!(c, '/' | ':' | '@' | '-' | '.' | '_');
        let is_wrong = text.is_empty()
            || text.starts_with(is_edge)
            || text.ends_with(is_edge)
            || text.contains(char::is_whitespace)
            || text.contains("//");
        if is_wrong && !text.contains(UNKNOWN) && !(base.used.is_empty() && base.unset.is_empty()) {
            let what = format!(
                "with the defaults of its ARGs, {:?} is {}, which is no image's name",
                stage.base,
                shortened(text)
            );
            self.warn(Rule::InvalidDefaultArgInFrom, stage.span, &stage.comments, what);
        }
    }

    fn undeclared(&mut self, stage: &Stage, found: &Expansion, defaults: &Globals) {
        for name in found.unset.iter().filter(|name| !defaults.contains_key(*name)) {
            let what = format!(
                "{name} of FROM is not an ARG before it{}",
                self.meant(name, defaults.keys().map(String::as_str))
            );
            self.warn(Rule::UndefinedArgInFrom, stage.span, &stage.comments, what);
        }
    }

    fn platform(&mut self, stage: &Stage, found: &Expansion, defaults: &Globals) {
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

    /// The instruction with its variables replaced, if they can be; what is used and not defined; and what it defines.
    pub(super) fn uses(
        &mut self,
        step: &Step,
        complete: bool,
        globals: &Globals,
        scope: &mut Scope,
    ) -> Option<Instruction> {
        if let Instruction::Arg(args) = &step.instruction {
            let mut unset = BTreeSet::new();
            for arg in args {
                let value = default(step, arg, complete, scope, &mut unset, &mut self.left);
                let global = || globals.get(&arg.name).cloned().flatten();
                scope.set(&arg.name, &value.or_else(global).unwrap_or_else(|| UNKNOWN.to_owned()));
            }
            self.undefined(step, &unset, scope);
            return None;
        }
        let env = |name: &str| value(scope, complete, name);
        let expanded = step.expand_within(&env, &mut self.left).ok();
        if let Some(expanded) = &expanded {
            self.undefined(step, &expanded.unset, scope);
        }
        let instruction = expanded.map(|expanded| expanded.instruction);
        match (&step.instruction, &instruction) {
            (_, Some(Instruction::Env(variables))) => {
                variables.iter().for_each(|one| scope.set(&one.name, &one.value));
            }
            (Instruction::Env(variables), None) => {
                variables.iter().for_each(|one| scope.set(&one.name, UNKNOWN));
            }
            _ => {}
        }
        instruction
    }

    fn undefined(&mut self, step: &Step, unset: &BTreeSet<String>, scope: &Scope) {
        for name in unset {
            let what = format!("${name} is used and not defined{}", self.meant(name, scope.names()));
            self.warn(Rule::UndefinedVar, step.span, &step.comments, what);
        }
    }

    fn meant<'a>(&mut self, name: &str, known: impl ExactSizeIterator<Item = &'a str>) -> String {
        let Some(left) = self.suggestions.checked_sub(known.len()) else { return String::new() };
        self.suggestions = left;
        match nearest(name, known) {
            Some(near) => format!(" (did you mean {near}?)"),
            None => String::new(),
        }
    }
}

/// What a variable has. Where not all are known, any may have something.
fn value(scope: &Scope, complete: bool, name: &str) -> Option<String> {
    scope.get(name).or((!complete).then_some(UNKNOWN)).map(str::to_owned)
}

/// The default of an ARG, if it has one.
fn default(
    step: &Step,
    arg: &Arg,
    complete: bool,
    scope: &Scope,
    unset: &mut BTreeSet<String>,
    left: &mut Left,
) -> Option<String> {
    let env = |name: &str| value(scope, complete, name);
    Some(match step.origin.expanded(arg.value.as_deref()?, &env, left) {
        Ok(expansion) => {
            unset.extend(expansion.unset);
            expansion.text
        }
        Err(_) => UNKNOWN.to_owned(),
    })
}
