//! The instructions as values. Texts in them are as they are written, with variables and quotes, until
//! [`Step::expand`](super::Step::expand) replaces them; which of them it replaces is said at each.
#![forbid(unsafe_code)]

use super::heredoc::Heredoc;
use super::mount::RunMount;
use std::time::Duration;

/// An instruction of a stage, each with the section of its name in the Dockerfile reference. FROM is none: it begins a
/// [`Stage`](super::Stage).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instruction {
    /// ADD: files from the context, from archives, from URLs and git repositories.
    Add(Add),
    /// ARG: nothing is replaced, as a default may not be needed: see [`Step::expand_default`](super::Step::expand_default).
    Arg(Vec<Arg>),
    /// CMD: nothing is replaced.
    Cmd(Command),
    /// COPY: files from the context, a stage or an image.
    Copy(Copy),
    /// ENTRYPOINT: nothing is replaced.
    Entrypoint(Command),
    /// ENV: names and values are replaced.
    Env(Vec<Variable>),
    /// EXPOSE: replaced, and what a variable has is split into words.
    Expose(Vec<String>),
    /// HEALTHCHECK: nothing is replaced.
    Healthcheck(Healthcheck),
    /// LABEL: names and values are replaced.
    Label(Vec<Variable>),
    /// MAINTAINER: nothing is replaced.
    Maintainer(String),
    /// ONBUILD: nothing is replaced before it is triggered.
    Onbuild(Onbuild),
    /// RUN: of it, only mounts are replaced. All else the shell reads.
    Run(Run),
    /// SHELL: nothing is replaced.
    Shell(Vec<String>),
    /// STOPSIGNAL: replaced.
    Stopsignal(String),
    /// USER: replaced.
    User(String),
    /// VOLUME: replaced.
    Volume(Vec<String>),
    /// WORKDIR: replaced.
    Workdir(String),
}

impl Instruction {
    /// The names of all, FROM among them.
    pub(super) const NAMES: [&'static str; 18] = [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];

    /// Its name, in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// A command of RUN, CMD, ENTRYPOINT or HEALTHCHECK ("Shell and exec form").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// One text for the stage's shell, `/bin/sh -c` or what SHELL says. Empty where nothing is written.
    Shell(String),
    /// Program and arguments, without a shell: a JSON list.
    Exec(Vec<String>),
}

/// `NAME=value` of ENV and LABEL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Variable {
    /// The name; never empty.
    pub name: String,
    /// The value.
    pub value: String,
    /// Whether it is written with `=`, not in the old form with a space, of which one instruction has but one.
    pub equals: bool,
}

/// A name of ARG, with its default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Arg {
    /// The name; never empty.
    pub name: String,
    /// The default, where there is one, as it is written.
    pub value: Option<String>,
    /// What the comment before it says of it: `# NAME description`.
    pub description: Option<String>,
}

/// Where COPY and ADD take something from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// A path or a pattern in the context; for ADD a URL, too. Replaced.
    Path(String),
    /// A file with this content, whose variables are replaced where it says so; quotes stay.
    Heredoc(Heredoc),
}

/// `COPY [flags] source... destination`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Copy {
    /// One at least, in their order.
    pub sources: Vec<Source>,
    /// A path; replaced.
    pub destination: String,
    /// `--from`: the name or number of a stage, a named context, or an image. It has no variables.
    pub from: Option<String>,
    /// `--chown=user:group`; replaced.
    pub chown: Option<String>,
    /// `--chmod`: octal, or in letters; replaced.
    pub chmod: Option<String>,
    /// `--link`: a layer of its own, whatever is below it. As in BuildKit it does nothing beside a `--chmod`.
    pub link: bool,
    /// `--parents`: the directories of a source come along.
    pub parents: bool,
    /// `--exclude`: patterns as in a `.dockerignore`. As in BuildKit they are not replaced.
    pub exclude: Vec<String>,
}

impl Copy {
    /// Whether it is a layer that doesn't look at what is below it.
    pub(crate) fn is_linked(&self) -> bool {
        self.link && self.chmod.is_none()
    }
}

/// `ADD [flags] source... destination`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Add {
    /// One at least, in their order.
    pub sources: Vec<Source>,
    /// A path; replaced.
    pub destination: String,
    /// `--chown=user:group`; replaced.
    pub chown: Option<String>,
    /// `--chmod`: octal, or in letters; replaced.
    pub chmod: Option<String>,
    /// `--link`: a layer of its own, whatever is below it. As in BuildKit it does nothing beside a `--chmod`.
    pub link: bool,
    /// `--keep-git-dir`, of git sources.
    pub keep_git_dir: Option<bool>,
    /// `--checksum=sha256:…` of a URL, or a commit of a git source; replaced.
    pub checksum: Option<String>,
    /// `--unpack`: of archives, whether to unpack them; local ones are by default, remote ones not.
    pub unpack: Option<bool>,
    /// `--exclude`: patterns as in a `.dockerignore`. As in BuildKit they are not replaced.
    pub exclude: Vec<String>,
}

impl Add {
    /// Whether it is a layer that doesn't look at what is below it.
    pub(crate) fn is_linked(&self) -> bool {
        self.link && self.chmod.is_none()
    }
}

/// `RUN [flags] command`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// The command; with here-documents, its line without their content.
    pub command: Command,
    /// What the command's line announces. Where the line is one alone, its content is a script of its own.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in their order.
    pub mounts: Vec<RunMount>,
    /// `--network`.
    pub network: RunNetwork,
    /// `--security`.
    pub security: RunSecurity,
    /// `--device`, in their order.
    pub devices: Vec<RunDevice>,
}

/// `RUN --network`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunNetwork {
    /// What the build has.
    #[default]
    Default,
    /// None.
    None,
    /// The host's.
    Host,
}

/// `RUN --security`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunSecurity {
    /// The usual walls.
    #[default]
    Sandbox,
    /// Without.
    Insecure,
}

/// `RUN --device=NAME[,required]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RunDevice {
    /// A name of the Container Device Interface.
    pub name: String,
    /// Whether to go on without it is an error.
    pub required: bool,
}

/// HEALTHCHECK.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Healthcheck {
    /// `NONE`: what the base has is off.
    None,
    /// `CMD`.
    Test(HealthTest),
}

/// `HEALTHCHECK [flags] CMD command`. What is not given, or 0, is the base's or the default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HealthTest {
    /// The command.
    pub command: Command,
    /// `--interval`.
    pub interval: Option<Duration>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--start-period`.
    pub start_period: Option<Duration>,
    /// `--start-interval`.
    pub start_interval: Option<Duration>,
    /// `--retries`.
    pub retries: Option<u32>,
}

/// `ONBUILD instruction`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Onbuild {
    /// As the configuration of an image has it: the instruction's line, and its here-documents.
    pub text: String,
    /// What it says.
    pub instruction: Box<Instruction>,
}
