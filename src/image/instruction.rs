//! What the instructions of a Dockerfile do to an image's configuration, in a build and as `--change`.
#![forbid(unsafe_code)]

use super::settings::Settings;
use crate::dockerfile::{Command, Dockerfile, Healthcheck, Instruction, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{DEFAULT_PATH, Healthcheck as Check};
use serde_json::Value;
use std::time::Duration;

/// What `docker commit --change` and `docker import --change` take.
const CHANGES: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The shell of an image that names none.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Changes the configuration of an image as an instruction says whose variables are replaced already. `cmd_is_set`: whether
/// this stage has a CMD of its own; without one, ENTRYPOINT takes away what the base had. RUN, COPY, ADD and ARG
/// change nothing in it.
///
/// # Errors
/// `InvalidInput` for what can't be: an empty path of a volume, a port or a signal that is none.
pub(crate) fn apply(config: &mut Value, instruction: &Instruction, cmd_is_set: &mut bool) -> Result<()> {
    let mut settings = Settings::of(config);
    match instruction {
        Instruction::Cmd(command) => {
            let words = words(&settings, command);
            *cmd_is_set = true;
            settings.cmd(&words)
        }
        Instruction::Entrypoint(command) => {
            let words = words(&settings, command);
            if !*cmd_is_set {
                settings.cmd(&[])?;
            }
            settings.entrypoint(&words)
        }
        Instruction::Env(all) => {
            all.iter().try_for_each(|variable| settings.env(&variable.name, &variable.value))
        }
        Instruction::Label(all) => all.iter().try_for_each(|label| settings.label(&label.name, &label.value)),
        Instruction::Expose(ports) => ports.iter().try_for_each(|port| settings.exposed_port(port)),
        Instruction::Healthcheck(check) => settings.healthcheck(&healthcheck(check)?),
        Instruction::Maintainer(name) => settings.author(name),
        Instruction::Onbuild(onbuild) => {
            settings.on_build(&onbuild.text);
            Ok(())
        }
        Instruction::Shell(words) => settings.shell(words),
        Instruction::Stopsignal(signal) => settings.stop_signal(signal),
        Instruction::User(user) => settings.user(user),
        Instruction::Volume(paths) => paths.iter().try_for_each(|path| settings.volume(path)),
        Instruction::Workdir(path) => settings.working_dir(path),
        Instruction::Add(_) | Instruction::Arg(_) | Instruction::Copy(_) | Instruction::Run(_) => Ok(()),
    }
}

/// The words that a command comes to with the shell that the configuration has.
fn words(settings: &Settings<'_>, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(text) => {
            let mut words = settings.shell_words().unwrap_or_else(|| SHELL.map(str::to_owned).to_vec());
            words.push(text.clone());
            words
        }
    }
}

/// The shell that runs it is found when it runs.
fn healthcheck(check: &Healthcheck) -> Result<Check> {
    let test = match check {
        Healthcheck::None => return Ok(Check { test: vec!["NONE".to_owned()], ..Check::default() }),
        Healthcheck::Test(test) => test,
    };
    let words = match &test.command {
        Command::Exec(words) => [&["CMD".to_owned()], &words[..]].concat(),
        Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
    };
    let nanoseconds = |time: Option<Duration>| {
        i64::try_from(time.unwrap_or_default().as_nanos()).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, "HEALTHCHECK: a duration of more than 292 years")
        })
    };
    Ok(Check {
        test: words,
        interval: nanoseconds(test.interval)?,
        timeout: nanoseconds(test.timeout)?,
        start_period: nanoseconds(test.start_period)?,
        start_interval: nanoseconds(test.start_interval)?,
        retries: test.retries.unwrap_or_default().into(),
    })
}

/// Reads changes, each one instruction or several lines of them.
///
/// # Errors
/// `InvalidData` with the line for what is no instruction, `InvalidInput` for one that is no change.
pub(crate) fn parse_changes(changes: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Vec<Step>> {
    let mut all = Vec::new();
    for change in changes {
        let change = change.as_ref();
        let steps = Dockerfile::parse_steps(change);
        let steps = steps.map_err(|error| error.during(format!("reading the change {change:?}")))?;
        for step in &steps {
            let name = step.instruction.name();
            if !CHANGES.contains(&name) {
                let error = Error::new(ErrorKind::InvalidInput, format!("{name} is no change to an image"));
                return Err(error.with_remedy(format!("there are {}", CHANGES.join(", "))));
            }
        }
        all.extend(steps);
    }
    Ok(all)
}

/// Makes these changes one after the other. Variables in them are those that the configuration has by then.
///
/// # Errors
/// As [`apply`], and `InvalidData` where a variable can't be replaced.
pub(crate) fn apply_changes(config: &mut Value, changes: &[Step]) -> Result<()> {
    let mut cmd_is_set = false;
    for change in changes {
        let env = config["config"]["Env"].as_array().cloned().unwrap_or_default();
        let value = |name: &str| {
            let mut pairs = env.iter().filter_map(|entry| entry.as_str()?.split_once('='));
            match pairs.find(|(key, _)| *key == name) {
                Some((_, value)) => Some(value.to_owned()),
                None => (name == "PATH").then(|| DEFAULT_PATH.to_owned()),
            }
        };
        let expanded = change.expand(&value)?;
        apply(config, &expanded.instruction, &mut cmd_is_set)
            .map_err(|error| error.during(format!("making the change {:?}", change.text)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn changed(before: Value, changes: &[&str]) -> Result<Value> {
        let mut config = json!({ "config": before });
        apply_changes(&mut config, &parse_changes(changes)?)?;
        Ok(config["config"].take())
    }

    #[test]
    fn changes_are_those_of_docker() {
        let base = || json!({ "Cmd": ["old"], "Env": ["PATH=/bin", "A=1"], "WorkingDir": "/srv" });
        for (changes, expected) in [
            (&["CMD echo \"$A\" b"][..], json!({ "Cmd": ["/bin/sh", "-c", "echo \"$A\" b"] })),
            (&["cmd [\"a\", \"$A\"]"], json!({ "Cmd": ["a", "$A"] })),
            (&["CMD []"], json!({ "Cmd": null })),
            (&["CMD"], json!({ "Cmd": ["/bin/sh", "-c", ""] })),
            (&["ENTRYPOINT [\"e\"]"], json!({ "Cmd": null, "Entrypoint": ["e"] })),
            (&["CMD x", "ENTRYPOINT [\"e\"]"], json!({ "Cmd": ["/bin/sh", "-c", "x"], "Entrypoint": ["e"] })),
            (&["ENTRYPOINT [\"e\"]\nCMD [\"x\"]"], json!({ "Cmd": ["x"], "Entrypoint": ["e"] })),
            (&["ENTRYPOINT []"], json!({ "Cmd": null })),
            (&["ENV A=2 B=$A", "ENV C $A  x"], json!({ "Env": ["PATH=/bin", "A=2", "B=1", "C=2  x"] })),
            (&["ENV PATH=$PATH:/usr/bin"], json!({ "Env": ["PATH=/bin:/usr/bin", "A=1"] })),
            (&["LABEL a=$A \"b c\"='$A'"], json!({ "Labels": { "a": "1", "b c": "$A" } })),
            (
                &["EXPOSE 80 53/udp 9$A", "EXPOSE 80"],
                json!({ "ExposedPorts": { "80/tcp": {}, "53/udp": {}, "91/tcp": {} } }),
            ),
            (
                &["VOLUME /a /b", "VOLUME [\"/c d\"]"],
                json!({ "Volumes": { "/a": {}, "/b": {}, "/c d": {} } }),
            ),
            (&["USER $A:x"], json!({ "User": "1:x" })),
            (&["WORKDIR a/../b", "WORKDIR c"], json!({ "WorkingDir": "/srv/b/c" })),
            (&["STOPSIGNAL TERM"], json!({ "StopSignal": "TERM" })),
            (&["ONBUILD RUN  echo $A"], json!({ "OnBuild": ["RUN  echo $A"] })),
            (&["HEALTHCHECK NONE"], json!({ "Healthcheck": { "Test": ["NONE"] } })),
            (
                &["HEALTHCHECK --interval=1m30s --timeout=2ms --retries=3 CMD curl $A || exit 1"],
                json!({ "Healthcheck": { "Test": ["CMD-SHELL", "curl $A || exit 1"], "Interval": 90_000_000_000i64,
                    "Timeout": 2_000_000, "Retries": 3 } }),
            ),
            (
                &["HEALTHCHECK --start-period=1s --start-interval=2s CMD [\"curl\", \"-f\"]"],
                json!({ "Healthcheck": { "Test": ["CMD", "curl", "-f"], "StartPeriod": 1_000_000_000,
                    "StartInterval": 2_000_000_000 } }),
            ),
        ] {
            let mut whole = base();
            for (key, value) in expected.as_object().unwrap() {
                match value {
                    Value::Null => drop(whole.as_object_mut().unwrap().remove(key)),
                    value => whole[key] = value.clone(),
                }
            }
            assert_eq!(changed(base(), changes).unwrap(), whole, "{changes:?}");
        }
    }

    #[test]
    fn the_shell_is_the_images() {
        let shell = json!({ "Shell": ["/bin/bash", "-eu", "-c"] });
        let changed = changed(shell, &["CMD a  b", "ENTRYPOINT c"]).unwrap();
        assert_eq!(changed["Cmd"], json!(["/bin/bash", "-eu", "-c", "a  b"]));
        assert_eq!(changed["Entrypoint"], json!(["/bin/bash", "-eu", "-c", "c"]));
    }

    #[test]
    fn what_builds_or_can_not_be_is_no_change() {
        for (change, kind, words) in [
            ("RUN true", ErrorKind::InvalidInput, "RUN is no change"),
            ("SHELL [\"/bin/sh\"]", ErrorKind::InvalidInput, "SHELL is no change"),
            ("MAINTAINER me", ErrorKind::InvalidInput, "MAINTAINER is no change"),
            ("ENV A=1\nCOPY a b", ErrorKind::InvalidInput, "COPY is no change"),
            ("FROM debian", ErrorKind::InvalidData, "FROM"),
            ("", ErrorKind::InvalidData, "no instruction"),
            ("ENV", ErrorKind::InvalidData, "ENV needs"),
            ("HELO x", ErrorKind::InvalidData, "unknown instruction"),
            ("EXPOSE x", ErrorKind::InvalidInput, "EXPOSE x"),
            ("EXPOSE 1-70000", ErrorKind::InvalidInput, "no port"),
            ("STOPSIGNAL SIGNO", ErrorKind::InvalidInput, "SIGNO"),
            ("VOLUME $NOTHING", ErrorKind::InvalidInput, "VOLUME"),
            ("USER ${A:?no user}", ErrorKind::InvalidData, "no user"),
        ] {
            let error = changed(json!({}), &[change]).unwrap_err();
            assert_eq!(error.kind(), kind, "{change:?}: {error}");
            assert!(error.to_string().contains(words), "{change:?}: {error}");
        }
    }

    #[test]
    fn an_instruction_that_builds_changes_no_setting() {
        let file = "FROM x\nRUN a\nCOPY a b\nADD a b\nARG a\nMAINTAINER me\nSHELL [\"s\", \"-c\"]";
        let (mut config, mut cmd_is_set) = (json!({}), false);
        for step in &Dockerfile::parse(file).unwrap().stages()[0].steps {
            apply(&mut config, &step.instruction, &mut cmd_is_set).unwrap();
        }
        assert_eq!(config, json!({ "author": "me", "config": { "Shell": ["s", "-c"] } }));
        assert!(!cmd_is_set);
    }
}
