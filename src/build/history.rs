//! What a step is called in the history of its image, and by what it is found again: its key.
//!
//! The line of a RUN has all that it depends on, beside the image before it; that of COPY and ADD the digest of what was copied. So
//! an image with the same lines above the same layers is one of the same steps, wherever it comes from.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::dockerfile::{
    Add, Command, Copy, Healthcheck, Instruction, Mount, MountKind, Run, RunNetwork, RunSecurity, Sharing,
    Source, Variable,
};
use crate::error::Result;
use crate::manifest::ImageConfig;
use serde_json::{Value, json};
use std::fmt::Write;

/// A longer line ends with the digest of all of it: a configuration has bounds.
const LINE_MAX: usize = 16 << 10;

/// A word that can't be taken for several.
fn word(text: &str) -> String {
    let breaks = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\\');
    if !text.is_empty() && !text.contains(breaks) { text.to_owned() } else { json!(text).to_string() }
}

fn words<'a>(all: impl IntoIterator<Item = &'a String>) -> String {
    all.into_iter().map(|text| word(text)).collect::<Vec<_>>().join(" ")
}

fn bounded(line: String) -> String {
    if line.len() <= LINE_MAX {
        return line;
    }
    let end = line.floor_char_boundary(LINE_MAX);
    format!("{}… # {}", &line[..end], Digest::of(line.as_bytes()))
}

/// The line of a RUN: its flags and those of the build that it depends on, its ARGs as docker writes them (`|2 A=1 B=2`), its
/// command, and the digest of what it mounts.
pub(super) fn of_run<'a>(
    run: &Run,
    of_build: &str,
    mounts: &[Mount],
    args: impl Iterator<Item = (&'a str, &'a str)>,
    command: &[String],
    is_shell: bool,
    mounted: Option<&Digest>,
) -> String {
    let mut line = format!("RUN {of_build}");
    for mount in mounts {
        let _ = write!(line, "--mount={} ", mount_text(mount));
    }
    match run.network {
        RunNetwork::None => line.push_str("--network=none "),
        RunNetwork::Host => line.push_str("--network=host "),
        _ => {}
    }
    if run.security == RunSecurity::Insecure {
        line.push_str("--security=insecure ");
    }
    let args: Vec<_> = args.map(|(name, value)| word(&format!("{name}={value}"))).collect();
    if !args.is_empty() {
        let _ = write!(line, "|{} {} ", args.len(), args.join(" "));
    }
    match (is_shell, command.split_last()) {
        (true, Some((text, shell))) => {
            let _ = write!(line, "{} {text}", words(shell));
        }
        _ => {
            let _ = write!(line, "{}", json!(command));
        }
    }
    if let Some(mounted) = mounted {
        let _ = write!(line, " # {mounted}");
    }
    bounded(line)
}

fn mount_text(mount: &Mount) -> String {
    let kind = match mount.kind {
        MountKind::Cache => "cache",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Secret => "secret",
        MountKind::Ssh => "ssh",
        _ => "bind",
    };
    let mut text = format!("type={kind}");
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(text, ",{key}={}", word(&value));
        }
    };
    let sharing = mount.sharing.map(|sharing| match sharing {
        Sharing::Private => "private",
        Sharing::Locked => "locked",
        _ => "shared",
    });
    let is_usual = mount.read_only != matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs);
    add("id", mount.id.clone());
    add("from", mount.from.clone());
    add("source", mount.source.clone());
    add("target", mount.target.clone());
    add("env", mount.env.clone());
    add("size", mount.size.map(|size| size.to_string()));
    add("sharing", sharing.map(str::to_owned));
    add("mode", mount.mode.map(|mode| format!("{mode:04o}")));
    add("uid", mount.uid.map(|id| id.to_string()));
    add("gid", mount.gid.map(|id| id.to_string()));
    add("required", mount.required.then(|| "true".to_owned()));
    add("readonly", (!is_usual).then(|| mount.read_only.to_string()));
    text
}

/// The line of a COPY with its variables replaced.
pub(super) fn of_copy(copy: &Copy, copied: &Digest) -> String {
    let mut line = String::from("COPY ");
    let from = copy.from.as_ref().map(|from| format!("--from={}", word(from)));
    let flags = [from, flag("chown", &copy.chown), flag("chmod", &copy.chmod)];
    let switches = [("--link", copy.is_linked()), ("--parents", copy.parents)];
    files(&mut line, flags, &switches, &copy.exclude, &copy.sources, &copy.destination, copied);
    bounded(line)
}

/// The line of an ADD likewise.
pub(super) fn of_add(add: &Add, copied: &Digest) -> String {
    let mut line = String::from("ADD ");
    let flags = [flag("chown", &add.chown), flag("chmod", &add.chmod), flag("checksum", &add.checksum)];
    let switches = [
        ("--link", add.is_linked()),
        ("--unpack", add.unpack == Some(true)),
        ("--unpack=false", add.unpack == Some(false)),
    ];
    files(&mut line, flags, &switches, &add.exclude, &add.sources, &add.destination, copied);
    bounded(line)
}

fn flag(name: &str, value: &Option<String>) -> Option<String> {
    value.as_ref().map(|value| format!("--{name}={}", word(value)))
}

fn files(
    line: &mut String,
    flags: [Option<String>; 3],
    switches: &[(&str, bool)],
    exclude: &[String],
    sources: &[Source],
    destination: &str,
    copied: &Digest,
) {
    let flags = flags.into_iter().flatten();
    let switches = switches.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned());
    let exclude = exclude.iter().map(|pattern| format!("--exclude={}", word(pattern)));
    for text in flags.chain(switches).chain(exclude) {
        let _ = write!(line, "{text} ");
    }
    for source in sources {
        let _ = match source {
            Source::Path(path) => write!(line, "{} ", word(path)),
            Source::Heredoc(heredoc) => write!(line, "<<{} ", heredoc.name),
        };
    }
    let _ = write!(line, "{} # {copied}", word(destination));
}

/// The line of an instruction that changes the configuration only, with its variables replaced; `text` is how it is written.
pub(super) fn of_setting(instruction: &Instruction, text: &str) -> String {
    let name = instruction.name();
    let variables = |all: &[Variable]| {
        all.iter().map(|one| word(&format!("{}={}", one.name, one.value))).collect::<Vec<_>>().join(" ")
    };
    let command = |command: &Command| match command {
        Command::Exec(words) => json!(words).to_string(),
        Command::Shell(text) => text.clone(),
    };
    let rest = match instruction {
        Instruction::Env(all) | Instruction::Label(all) => variables(all),
        Instruction::Cmd(it) | Instruction::Entrypoint(it) => command(it),
        Instruction::Expose(all) | Instruction::Volume(all) => words(all),
        Instruction::User(text) | Instruction::Workdir(text) | Instruction::Stopsignal(text) => text.clone(),
        Instruction::Maintainer(text) => text.clone(),
        Instruction::Shell(words) => json!(words).to_string(),
        Instruction::Healthcheck(Healthcheck::None) => "NONE".to_owned(),
        Instruction::Onbuild(onbuild) => onbuild.text.clone(),
        _ => text.split_once(char::is_whitespace).map_or(text, |(_, rest)| rest).trim_start().to_owned(),
    };
    bounded(format!("{name} {rest}"))
}

/// What a step depends on of the image that it stands on, beside the steps before it that made files, and their files.
#[derive(Clone, Copy)]
pub(super) enum Ground {
    /// Nothing.
    Files,
    /// What a process has of it: its variables, its user, its working directory.
    Process,
    /// All of its settings.
    Settings,
}

/// Instructions that make no files: whoever depends on them depends on what they set. An ARG sets nothing that lasts: who uses one
/// has it in its own line.
const SETTINGS: [&str; 13] = [
    "ARG",
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
];

fn ground(image: &ImageConfig, of: Ground) -> Result<Digest> {
    let mut config = image.settings()?;
    if let Some(fields) = config.get_mut("config").and_then(Value::as_object_mut) {
        fields.retain(|field, _| match of {
            Ground::Files => false,
            Ground::Process => matches!(field.as_str(), "Env" | "User" | "WorkingDir"),
            Ground::Settings => true,
        });
    }
    let mut text = format!("{config}\n{:?}\n", image.diff_ids());
    for line in image.history() {
        let is_empty = line.empty_layer().unwrap_or(false);
        let line = line.created_by().as_deref().unwrap_or_default();
        let name = line.split_whitespace().next().unwrap_or_default();
        if !is_empty || !SETTINGS.contains(&name) {
            let _ = writeln!(text, "{} {line}", line.len());
        }
    }
    Ok(Digest::of(text.as_bytes()))
}

/// By what a step on an image is found again.
pub(super) fn key_on(image: &ImageConfig, of: Ground, parts: &[&str]) -> Result<Digest> {
    Ok(key(&ground(image, of)?, parts))
}

/// By what a step is found again. `parts` are all that it depends on beside what it stands on, `parent`.
pub(super) fn key(parent: &Digest, parts: &[&str]) -> Digest {
    // A number for what this crate makes of it all: another one, and nothing is found.
    let mut text = format!("coracle build 3\n{parent}\n");
    for part in parts {
        let _ = writeln!(text, "{} {part}", part.len());
    }
    Digest::of(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::{Dockerfile, RunMount};

    fn steps(text: &str) -> Vec<(Instruction, String)> {
        let file = Dockerfile::parse(format!("FROM scratch\n{text}")).unwrap();
        let steps = file.stages()[0].steps.iter();
        steps.map(|step| (step.expand(&|_: &str| None).unwrap().instruction, step.text.clone())).collect()
    }

    fn run(text: &str, args: &[(&str, &str)], command: &[&str], is_shell: bool) -> String {
        let (Instruction::Run(run), _) = steps(text).remove(0) else { panic!() };
        let mounts: Vec<_> = run
            .mounts
            .iter()
            .map(|mount| match mount {
                RunMount::Read(mount) => mount.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
        of_run(&run, "", &mounts, args.iter().copied(), &command, is_shell, None)
    }

    #[test]
    fn a_run_says_all_that_it_depends_on() {
        let shell = ["/bin/sh", "-c", "echo  \"a b\""];
        assert_eq!(run("RUN x", &[], &shell, true), "RUN /bin/sh -c echo  \"a b\"");
        assert_eq!(
            run("RUN x", &[("A", "1"), ("B", "two words")], &shell, true),
            "RUN |2 A=1 \"B=two words\" /bin/sh -c echo  \"a b\""
        );
        assert_eq!(run("RUN x", &[], &["a b", "c"], false), "RUN [\"a b\",\"c\"]");
        assert_eq!(
            run(
                "RUN --network=none --mount=type=cache,target=/c,sharing=locked --mount=type=secret,id=k,mode=0440 x",
                &[],
                &["x"],
                false
            ),
            "RUN --mount=type=cache,target=/c,sharing=locked --mount=type=secret,id=k,mode=0440 --network=none [\"x\"]"
        );
        assert!(run("RUN --mount=type=cache,target=/c,ro x", &[], &["x"], false).contains(",readonly=true"));
        assert!(run("RUN --mount=target=/c,rw x", &[], &["x"], false).contains(",readonly=false"));
    }

    #[test]
    fn no_two_sets_of_args_read_the_same() {
        let line = |args: &[(&str, &str)]| run("RUN x", args, &["x"], false);
        assert_ne!(line(&[("A", "b B=c"), ("D", "e")]), line(&[("A", "b"), ("B", "c D=e")]));
        assert_ne!(line(&[("A", "\"b\"")]), line(&[("A", "b")]));
    }

    #[test]
    fn what_is_copied_is_in_the_line() {
        let copied = Digest::of(b"");
        let all = steps(
            "COPY --chown=1:2 --link --exclude=*.md [\"a\", \"b c\", \"/d/\"]\n\
             ADD --checksum=sha256:00 http://x/y /z",
        );
        let (Instruction::Copy(copy), Instruction::Add(add)) = (&all[0].0, &all[1].0) else { panic!() };
        let line = of_copy(copy, &copied);
        assert_eq!(line, format!("COPY --chown=1:2 --link --exclude=*.md a \"b c\" /d/ # {copied}"));
        assert_eq!(of_add(add, &copied), format!("ADD --checksum=sha256:00 http://x/y /z # {copied}"));
        // What does nothing there is not in it.
        let (Instruction::Copy(copy), _) = &steps("COPY --chmod=755 --link a /d/")[0] else { panic!() };
        assert_eq!(of_copy(copy, &copied), format!("COPY --chmod=755 a /d/ # {copied}"));
    }

    #[test]
    fn settings_read_as_they_are_meant() {
        let lines: Vec<_> = steps(
            "ENV A=1 B=\"two words\"\nLABEL x=y\nCMD [\"a\", \"b\"]\nCMD echo $HOME\nEXPOSE 80 443/udp\nWORKDIR /a\nHEALTHCHECK NONE\n\
             HEALTHCHECK --interval=5s CMD x\nONBUILD RUN y\nSHELL [\"/bin/bash\", \"-c\"]",
        )
        .iter()
        .map(|(instruction, text)| of_setting(instruction, text))
        .collect();
        assert_eq!(
            lines,
            [
                "ENV A=1 \"B=two words\"",
                "LABEL x=y",
                "CMD [\"a\",\"b\"]",
                "CMD echo $HOME",
                "EXPOSE 80 443/udp",
                "WORKDIR /a",
                "HEALTHCHECK NONE",
                "HEALTHCHECK --interval=5s CMD x",
                "ONBUILD RUN y",
                "SHELL [\"/bin/bash\",\"-c\"]",
            ]
        );
    }

    #[test]
    fn a_line_without_an_end_has_one_and_stays_its_own() {
        let (first, second) =
            (format!("RUN {}a", "x".repeat(1 << 20)), format!("RUN {}b", "x".repeat(1 << 20)));
        let (first, second) = (bounded(first), bounded(second));
        assert!(first.len() < 17 << 10 && first != second);
    }

    #[test]
    fn keys_differ_by_each_part() {
        let parent = Digest::of(b"p");
        let all = [
            key(&parent, &["a", "b"]),
            key(&parent, &["a b"]),
            key(&parent, &["ab", ""]),
            key(&parent, &["a", "b", ""]),
            key(&Digest::of(b"q"), &["a", "b"]),
        ];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_eq!(key(&parent, &["a", "b"]), all[0]);
    }
}
