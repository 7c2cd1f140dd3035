//! Variables: what a build is given, what is there before the first FROM, and what a stage has.
//!
//! - ARGs before the first FROM are for FROMs; a stage has their values where it names them again.
//! - A value that the build is given takes the place of a default, which is then not even looked at.
//! - Platforms are such ARGs that are always there. Proxies need no ARG, and are no part of what a step depends on.
//! - Of an ENV and an ARG with a value the later one counts, as with BuildKit: docker's classic builder and buildah have ENV win. What a
//!   stage begins with counts as an ENV there. A stage on another one has its variables.
#![forbid(unsafe_code)]

use crate::dockerfile::{Arg, Dockerfile, Instruction, Step};
use crate::error::Result;
use crate::manifest::{DEFAULT_PATH, Platform};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Each in both writings, whichever a build is given: curl heeds `http_proxy` alone, others the other one.
const PROXIES: [(&str, &str); 5] = [
    ("HTTP_PROXY", "http_proxy"),
    ("HTTPS_PROXY", "https_proxy"),
    ("FTP_PROXY", "ftp_proxy"),
    ("NO_PROXY", "no_proxy"),
    ("ALL_PROXY", "all_proxy"),
];

/// Those that a build understands by itself (BuildKit's are for its own frontend, and do nothing here).
const OWN: [&str; 1] = [EPOCH];
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What the build is given.
pub(super) struct Given {
    values: BTreeMap<String, String>,
    /// Those that an ARG asked for.
    asked: Mutex<BTreeSet<String>>,
}

impl Given {
    pub(super) fn new(args: &[(String, String)]) -> Self {
        Self { values: args.iter().cloned().collect(), asked: Mutex::default() }
    }

    fn ask(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name)?;
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Some(value)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Those that nothing asked for.
    pub(super) fn unused(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_proxy = |name: &str| PROXIES.iter().any(|(upper, lower)| [*upper, *lower].contains(&name));
        let is_known = |name: &str| is_proxy(name) || OWN.contains(&name) || name.starts_with("BUILDKIT_");
        self.values.keys().filter(|name| !asked.contains(*name) && !is_known(name)).cloned().collect()
    }

    /// What every RUN has in its environment.
    fn proxies(&self) -> impl Iterator<Item = (&str, &str)> {
        let both = PROXIES.iter().flat_map(|&(upper, lower)| [(upper, lower), (lower, upper)]);
        both.filter_map(|(name, other)| Some((name, self.get(name).or_else(|| self.get(other))?)))
    }
}

/// What is there before the first FROM. One without a value is a name all the same.
pub(super) struct Globals(BTreeMap<String, Option<String>>);

impl Globals {
    pub(super) fn new(
        file: &Dockerfile,
        given: &Given,
        build: &Platform,
        target: &Platform,
        stage: &str,
    ) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (prefix, platform) in [("BUILD", build.normal()), ("TARGET", target.normal())] {
            let variant = platform.variant.clone().unwrap_or_default();
            let parts = [
                ("PLATFORM", platform.to_string()),
                ("OS", platform.os.clone()),
                ("ARCH", platform.architecture.clone()),
                ("VARIANT", variant),
            ];
            values.extend(parts.map(|(name, value)| (format!("{prefix}{name}"), Some(value))));
        }
        // As it is asked for, and without that as the last one is called.
        let last = file.stages().last().and_then(|stage| stage.name.as_deref());
        let stage = Some(stage).filter(|stage| !stage.is_empty()).or(last).unwrap_or("default");
        values.insert("TARGETSTAGE".to_owned(), Some(stage.to_owned()));
        for (name, value) in &mut values {
            // These, too, a build may be given otherwise.
            if let Some(other) = given.ask(name) {
                *value = Some(other.to_owned());
            }
        }
        let mut globals = Self(values);
        for step in file.globals() {
            let Instruction::Arg(args) = &step.instruction else { continue };
            for arg in args {
                let value = value_of(step, arg, given, &|name| globals.get(name))?;
                // Without a value it is a name, and takes none away: those of the platforms stay.
                let known = globals.0.entry(arg.name.clone()).or_default();
                if value.is_some() {
                    *known = value;
                }
            }
        }
        Ok(globals)
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned().flatten()
    }
}

/// What is given, else the default.
fn value_of(
    step: &Step,
    arg: &Arg,
    given: &Given,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>> {
    if let Some(value) = given.ask(&arg.name) {
        return Ok(Some(value.to_owned()));
    }
    let Some(default) = &arg.value else { return Ok(None) };
    Ok(Some(step.expand_default(default, &|name: &str| env(name))?.text))
}

/// The ARGs of a stage, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scope(Vec<Declared>);

#[derive(Clone, Debug, PartialEq)]
struct Declared {
    name: String,
    value: Option<String>,
    /// An ENV of that name came later.
    is_hidden: bool,
}

impl Declared {
    /// What it stands for beside the image's variables.
    fn shown(&self, env: &[String]) -> Option<&str> {
        self.value.as_deref().filter(|_| !self.is_hidden || of_image(env, &self.name).is_none())
    }
}

fn of_image<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter()
        .rev()
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value)
}

impl Scope {
    /// What a name stands for; `env` is the image's.
    pub(super) fn get(&self, env: &[String], name: &str) -> Option<String> {
        let own = self.declared(name).and_then(|declared| declared.shown(env));
        // What a RUN has, too, where the image says nothing of it.
        let usual = || (name == "PATH").then_some(DEFAULT_PATH);
        own.or_else(|| of_image(env, name)).or_else(usual).map(str::to_owned)
    }

    fn declared(&self, name: &str) -> Option<&Declared> {
        self.0.iter().find(|declared| declared.name == name)
    }

    /// What is in the image now, as ENV has just set it, counts more than the ARGs so far.
    pub(super) fn set_by_env<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            if let Some(declared) = self.0.iter_mut().find(|declared| declared.name == name) {
                declared.is_hidden = true;
            }
        }
    }

    /// A stage begins, with the image's variables.
    pub(super) fn begin(&mut self, env: &[String]) {
        self.set_by_env(env.iter().filter_map(|pair| pair.split_once('=').map(|(name, _)| name)));
    }

    /// Takes in an ARG. Gives what the history says of it.
    pub(super) fn declare(
        &mut self,
        step: &Step,
        args: &[Arg],
        given: &Given,
        globals: &Globals,
        env: &[String],
    ) -> Result<String> {
        let mut told = String::from("ARG");
        for arg in args {
            let own = value_of(step, arg, given, &|name| self.get(env, name))?;
            let declared = match (own.or_else(|| globals.get(&arg.name)), self.declared(&arg.name)) {
                // Without a value it changes nothing.
                (None, Some(before)) => before.clone(),
                (value, _) => Declared { name: arg.name.clone(), value, is_hidden: false },
            };
            told.push(' ');
            told.push_str(&arg.name);
            if let Some(value) = &declared.value {
                told.push('=');
                told.push_str(value);
            }
            self.0.retain(|before| before.name != arg.name);
            self.0.push(declared);
        }
        Ok(told)
    }

    /// The ARGs with a value that counts, as a RUN depends on them.
    pub(super) fn of_run<'a>(&'a self, env: &'a [String]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(|declared| Some((declared.name.as_str(), declared.shown(env)?)))
    }

    /// What a RUN has in its environment, in place of what the image has of these names.
    pub(super) fn env_of_run<'a>(
        &'a self,
        env: &'a [String],
        given: &'a Given,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        given.proxies().filter(|(name, _)| of_image(env, name).is_none()).chain(self.of_run(env))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(args: &[(&str, &str)]) -> Given {
        Given::new(&args.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect::<Vec<_>>())
    }

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    fn globals(file: &Dockerfile, given: &Given) -> Globals {
        Globals::new(file, given, &platform("linux/amd64"), &platform("linux/arm64/v8"), "").unwrap()
    }

    fn scope_of(file: &Dockerfile, given: &Given, env: &[&str]) -> (Scope, Vec<String>) {
        let globals = globals(file, given);
        let env: Vec<_> = env.iter().map(|pair| (*pair).to_owned()).collect();
        let (mut scope, mut told) = (Scope::default(), Vec::new());
        for step in &file.stages()[0].steps {
            if let Instruction::Arg(args) = &step.instruction {
                told.push(scope.declare(step, args, given, &globals, &env).unwrap());
            }
        }
        (scope, told)
    }

    #[test]
    fn what_is_given_wins_over_defaults_which_may_use_what_came_before() {
        let file = Dockerfile::parse("ARG A=1\nARG B=$A-2\nARG C\nFROM scratch").unwrap();
        let plain = globals(&file, &given(&[]));
        assert_eq!((plain.get("B").as_deref(), plain.get("C")), (Some("1-2"), None));
        let other = globals(&file, &given(&[("A", "9"), ("C", "c")]));
        assert_eq!((other.get("B").as_deref(), other.get("C").as_deref()), (Some("9-2"), Some("c")));
    }

    #[test]
    fn without_a_value_it_takes_none_away() {
        let text = "ARG TARGETARCH\nARG A=1\nARG A\nFROM scratch\nARG TARGETARCH\nARG B=2\nARG B\nARG A";
        let file = Dockerfile::parse(text).unwrap();
        let (given, env) = (given(&[]), Vec::new());
        assert_eq!(globals(&file, &given).get("TARGETARCH").as_deref(), Some("arm64"));
        let (scope, told) = scope_of(&file, &given, &[]);
        assert_eq!(told, ["ARG TARGETARCH=arm64", "ARG B=2", "ARG B=2", "ARG A=1"]);
        assert_eq!(scope.get(&env, "B").as_deref(), Some("2"));
    }

    #[test]
    fn there_is_a_path_where_the_image_has_none() {
        let scope = Scope::default();
        assert!(scope.get(&[], "PATH").unwrap().ends_with(":/sbin:/bin"));
        assert_eq!(scope.get(&["PATH=/x".to_owned()], "PATH").as_deref(), Some("/x"));
        assert_eq!(scope.of_run(&[]).count(), 0);
    }

    #[test]
    fn a_default_that_is_not_needed_is_not_expanded() {
        let file = Dockerfile::parse("ARG A=${B:?needed}\nFROM scratch").unwrap();
        assert_eq!(globals(&file, &given(&[("A", "x")])).get("A").as_deref(), Some("x"));
        let error = Globals::new(&file, &given(&[]), &platform("linux/amd64"), &platform("linux/amd64"), "");
        assert_eq!(error.err().unwrap().position(), Some((1, 7)));
    }

    #[test]
    fn platforms_are_there_and_seen_by_a_stage_that_names_them() {
        let file = Dockerfile::parse("FROM scratch\nARG TARGETPLATFORM\nARG TARGETVARIANT").unwrap();
        let (given, env) = (given(&[]), Vec::new());
        let (scope, told) = scope_of(&file, &given, &[]);
        assert_eq!(scope.get(&env, "TARGETPLATFORM").as_deref(), Some("linux/arm64"));
        assert_eq!(scope.get(&env, "TARGETVARIANT").as_deref(), Some(""));
        let globals_of =
            |target: &str| Globals::new(&file, &given, &platform("amd64"), &platform(target), "").unwrap();
        for (target, wanted) in [
            ("linux/arm", ["linux/arm/v7", "arm", "v7"]),
            ("linux/arm/v6", ["linux/arm/v6", "arm", "v6"]),
            ("x86_64", ["linux/amd64", "amd64", ""]),
        ] {
            let globals = globals_of(target);
            let found =
                ["PLATFORM", "ARCH", "VARIANT"].map(|name| globals.get(&format!("TARGET{name}")).unwrap());
            assert_eq!(found, wanted, "{target}");
        }
        assert_eq!(scope.get(&env, "BUILDPLATFORM"), None);
        assert_eq!(globals(&file, &given).get("BUILDPLATFORM").as_deref(), Some("linux/amd64"));
        assert_eq!(told[1], "ARG TARGETVARIANT=");
    }

    #[test]
    fn the_target_is_the_last_stage_where_none_is_asked_for() {
        let stage = |text: &str, target: &str| {
            let file = Dockerfile::parse(text).unwrap();
            let (given, here) = (given(&[]), platform("linux/amd64"));
            Globals::new(&file, &given, &here, &here, target).unwrap().get("TARGETSTAGE").unwrap()
        };
        let named = "FROM scratch AS one\nFROM scratch AS two";
        assert_eq!((stage(named, "").as_str(), stage(named, "one").as_str()), ("two", "one"));
        assert_eq!(stage("FROM scratch AS one\nFROM scratch", ""), "default");
    }

    #[test]
    fn a_stage_sees_a_global_only_where_it_names_it() {
        let file = Dockerfile::parse("ARG A=1\nARG B=2\nFROM scratch\nARG A\nARG B=own").unwrap();
        let (scope, told) = scope_of(&file, &given(&[]), &[]);
        assert_eq!(told, ["ARG A=1", "ARG B=own"]);
        assert_eq!(scope.get(&[], "A").as_deref(), Some("1"));
        let file = Dockerfile::parse("ARG A=1\nFROM scratch").unwrap();
        assert_eq!(scope_of(&file, &given(&[]), &[]).0.get(&[], "A"), None);
    }

    #[test]
    fn of_env_and_arg_the_later_one_counts() {
        let file = Dockerfile::parse("FROM scratch\nARG A=arg\nARG B=arg\nARG NONE\nARG SAME").unwrap();
        let env = ["A=env", "NONE=env", "SAME=env"];
        let (mut scope, _) = scope_of(&file, &given(&[("B", "given"), ("SAME", "env")]), &env);
        let env = env.map(str::to_owned);
        let get = |scope: &Scope, name| scope.get(&env, name);
        // One without a value takes none away.
        assert_eq!((get(&scope, "A").as_deref(), get(&scope, "NONE").as_deref()), (Some("arg"), Some("env")));
        assert_eq!(scope.of_run(&env).collect::<Vec<_>>(), [("A", "arg"), ("B", "given"), ("SAME", "env")]);
        scope.set_by_env(["A", "SAME"]);
        assert_eq!(get(&scope, "A").as_deref(), Some("env"));
        assert_eq!(scope.of_run(&env).collect::<Vec<_>>(), [("B", "given")]);
        // Nor does it then.
        let again = Dockerfile::parse("FROM scratch\nARG A").unwrap();
        let Instruction::Arg(args) = &again.stages()[0].steps[0].instruction else { unreachable!() };
        let step = &again.stages()[0].steps[0];
        scope.declare(step, args, &given(&[]), &globals(&again, &given(&[])), &env).unwrap();
        assert_eq!(get(&scope, "A").as_deref(), Some("env"));
        // What the next stage begins with is all of the image.
        scope.begin(&["B=image".to_owned()]);
        assert_eq!(scope.get(&["B=image".to_owned()], "B").as_deref(), Some("image"));
    }

    #[test]
    fn proxies_need_no_arg_and_count_only_with_one() {
        let file = Dockerfile::parse("FROM scratch\nARG http_proxy").unwrap();
        let both = given(&[("HTTP_PROXY", "a"), ("http_proxy", "b"), ("LOST", "c"), ("BUILDKIT_X", "1")]);
        let (scope, _) = scope_of(&file, &both, &[]);
        assert_eq!(scope.of_run(&[]).collect::<Vec<_>>(), [("http_proxy", "b")]);
        let env: Vec<_> = scope.env_of_run(&[], &both).collect();
        assert_eq!(env, [("HTTP_PROXY", "a"), ("http_proxy", "b"), ("http_proxy", "b")]);
        assert_eq!(both.unused(), ["LOST"]);
        // In one writing it is there in both, but for what the image says itself.
        let one = given(&[("https_proxy", "s"), ("NO_PROXY", "n")]);
        let image = ["NO_PROXY=image".to_owned()];
        let env: Vec<_> =
            scope_of(&file, &one, &[]).0.env_of_run(&image, &one).map(|(name, _)| name.to_owned()).collect();
        assert_eq!(env, ["HTTPS_PROXY", "https_proxy", "no_proxy"]);
        assert!(one.unused().is_empty());
    }
}
