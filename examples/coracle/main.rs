//! `coracle`: containers on the command line. Its verbs, flags and exit codes are docker's.
//!
//! ```text
//! cargo run --example coracle -- run --rm -it @host sh
//! ```
//!
//! The image `@host` is this machine itself, read-only. Containers stay until `rm`, unless `run --rm` made them;
//! they run as long as the program that started them.
#![forbid(unsafe_code)]

mod args;
mod attach;
mod build;
mod commit;
mod containers;
mod copy;
mod fail;
mod flags;
mod format;
mod images;
mod inspect;
mod limits;
mod login;
mod moment;
mod mounts;
mod ports;
#[cfg(feature = "registry")]
mod progress;
mod pull;
mod push;
mod run;
mod save;
mod search;
mod serve;
mod system;
mod tree;
mod volumes;

use args::{ANY, Args, Flag, Syntax, flag, switch};
use coracle::Store;
use fail::{Fail, OURS, Result, usage};
use std::ffi::OsString;
use std::process::ExitCode;

type Work = fn(&Store, &Args) -> Result<u8>;

struct Verb {
    syntax: Syntax,
    work: Work,
}

const fn verb(
    name: &'static str,
    operands: &'static str,
    about: &'static str,
    flags: &'static [&'static [Flag]],
    (min, max): (usize, usize),
    work: Work,
) -> Verb {
    Verb { syntax: Syntax { name, operands, about, flags, min, max, command: false }, work }
}

impl Verb {
    /// What follows the first operand is a command's.
    const fn command(mut self) -> Self {
        self.syntax.command = true;
        self
    }
}

const CONTAINERS: &str = "CONTAINER...";

const VERBS: &[Verb] = &[
    verb(
        "run",
        "IMAGE [COMMAND] [ARG...]",
        "Make a container of an image and execute a command in it",
        &[flags::CONTAINER, flags::SHARED, pull::MISSING, pull::FROM, pull::REACH, run::RUN],
        (1, ANY),
        run::run,
    )
    .command(),
    verb(
        "create",
        "IMAGE [COMMAND] [ARG...]",
        "Make a container, to be started later",
        &[flags::CONTAINER, flags::SHARED, pull::MISSING, pull::FROM, pull::REACH],
        (1, ANY),
        run::create,
    )
    .command(),
    verb(
        "start",
        "CONTAINER",
        "Start a container and show its output until it ends",
        &[run::START],
        (1, 1),
        run::start,
    ),
    verb(
        "stop",
        CONTAINERS,
        "Stop containers: a signal, some time, SIGKILL",
        &[containers::STOP],
        (1, ANY),
        containers::stop,
    ),
    verb("kill", CONTAINERS, "Send a signal to containers", &[containers::KILL], (1, ANY), containers::kill),
    verb("pause", CONTAINERS, "Freeze all processes of containers", &[], (1, ANY), containers::pause),
    verb("unpause", CONTAINERS, "Let frozen containers go on", &[], (1, ANY), containers::unpause),
    verb(
        "wait",
        CONTAINERS,
        "Wait until containers end, and print their exit codes",
        &[],
        (1, ANY),
        containers::wait,
    ),
    verb(
        "cp",
        "CONTAINER:SOURCE DEST|- | SOURCE|- CONTAINER:DEST",
        "Copy files into a container or out of it",
        &[copy::CP],
        (2, 2),
        copy::cp,
    ),
    verb("rm", CONTAINERS, "Remove containers", &[containers::RM], (1, ANY), containers::rm),
    verb(
        "exec",
        "CONTAINER COMMAND [ARG...]",
        "Execute a further command in a running container",
        &[run::EXEC],
        (2, ANY),
        run::exec,
    )
    .command(),
    verb(
        "commit",
        "CONTAINER [NAME[:TAG]]",
        "Make an image of a container",
        &[commit::COMMIT],
        (1, 2),
        commit::commit,
    ),
    verb(
        "diff",
        "CONTAINER",
        "Show the files that a container has added (A), changed (C) and deleted (D)",
        &[commit::DIFF],
        (1, 1),
        commit::diff,
    ),
    verb(
        "export",
        "CONTAINER",
        "Write the root filesystem of a container into an archive",
        &[commit::EXPORT],
        (1, 1),
        commit::export,
    ),
    verb("ps", "", "List containers", &[containers::PS], (0, 0), containers::ps),
    verb(
        "port",
        "CONTAINER [PORT]",
        "Show where the host forwards published ports",
        &[],
        (1, 2),
        containers::port,
    ),
    verb("top", "CONTAINER", "Show the processes of a container", &[], (1, ANY), containers::top),
    verb(
        "stats",
        "[CONTAINER...]",
        "Show what containers use",
        &[containers::STATS],
        (0, ANY),
        containers::stats,
    ),
    verb(
        "build",
        "PATH|-",
        "Build an image from a Dockerfile and the files beside it",
        &[build::BUILD, flags::SHARED, pull::REACH],
        (1, 1),
        build::build,
    ),
    verb(
        "builder prune",
        "",
        "Remove what builds have left to be used again",
        &[build::PRUNE],
        (0, 0),
        build::prune,
    ),
    verb("images", "[NAME[:TAG]]", "List images", &[images::IMAGES], (0, 1), images::images),
    verb(
        "import",
        "FILE|DIR|- [NAME[:TAG]]",
        "Make an image of a root filesystem: an archive or a directory",
        &[images::IMPORT],
        (1, 2),
        images::import,
    ),
    verb(
        "load",
        "",
        "Load images from an archive (docker's or OCI's)",
        &[images::LOAD],
        (0, 0),
        images::load,
    ),
    verb(
        "login",
        "[SERVER]",
        "Log in to a registry (default: docker.io)",
        &[login::LOGIN, pull::REACH],
        (0, 1),
        login::login,
    ),
    verb("logout", "[SERVER]", "Log out of a registry (default: docker.io)", &[], (0, 1), login::logout),
    verb(
        "pull",
        "NAME[:TAG|@DIGEST]",
        "Get an image from its registry",
        &[pull::PULL, pull::FROM, pull::REACH],
        (1, 1),
        pull::pull,
    ),
    verb(
        "push",
        "NAME[:TAG]",
        "Send an image to its registry",
        &[push::PUSH, pull::REACH],
        (1, 1),
        push::push,
    ),
    verb(
        "search",
        "[HOST/]TERM",
        "Search docker.io or another registry for images",
        &[search::SEARCH, pull::REACH],
        (1, 1),
        search::search,
    ),
    verb("save", "IMAGE...", "Write images into an archive", &[save::SAVE], (1, ANY), save::save),
    verb("serve", "", "Serve the store as a registry", &[serve::SERVE], (0, 0), serve::serve),
    verb("history", "IMAGE", "Show how an image came to be", &[tree::HISTORY], (1, 1), tree::history),
    verb("tag", "IMAGE NAME[:TAG]", "Give an image a further name", &[], (2, 2), images::tag),
    verb("rmi", "IMAGE...", "Remove images or their names", &[images::RMI], (1, ANY), images::rmi),
    verb(
        "inspect",
        "NAME|ID...",
        "Show all about containers, images or volumes, as JSON",
        &[inspect::INSPECT],
        (1, ANY),
        inspect::inspect,
    ),
    verb(
        "image inspect",
        "IMAGE...",
        "Show all about images, as JSON",
        &[system::FORMAT],
        (1, ANY),
        inspect::images,
    ),
    verb(
        "image diff",
        "IMAGE OTHER",
        "Show the files that the other image adds (A), changes (C) and deletes (D)",
        &[commit::DIFF],
        (2, 2),
        tree::diff,
    ),
    verb("image prune", "", "Remove the images that nobody uses", &[images::PRUNE], (0, 0), images::prune),
    verb(
        "image rebase",
        "IMAGE OLD-BASE NEW-BASE NAME[:TAG]",
        "Name the image that has another base below the same layers",
        &[],
        (4, 4),
        images::rebase,
    ),
    verb(
        "image squash",
        "IMAGE NAME[:TAG]",
        "Name the image that has the same files in one layer",
        &[images::SQUASH],
        (2, 2),
        images::squash,
    ),
    verb(
        "info",
        "",
        "Show what is known of the store and this machine",
        &[system::FORMAT],
        (0, 0),
        system::info,
    ),
    verb("version", "", "Show the version", &[system::FORMAT], (0, 0), system::version),
    verb(
        "system verify",
        "",
        "Look at everything in the store and say what is damaged",
        &[system::FORMAT],
        (0, 0),
        system::verify,
    ),
    verb("volume create", "[NAME]", "Make a volume", &[volumes::CREATE], (0, 1), volumes::create),
    verb("volume ls", "", "List volumes", &[volumes::LS], (0, 0), volumes::ls),
    verb("volume rm", "VOLUME...", "Remove volumes", &[volumes::RM], (1, ANY), volumes::rm),
    verb(
        "volume inspect",
        "VOLUME...",
        "Show all about volumes, as JSON",
        &[volumes::INSPECT],
        (1, ANY),
        volumes::inspect,
    ),
    verb(
        "volume prune",
        "",
        "Remove the anonymous volumes that no container has",
        &[volumes::PRUNE],
        (0, 0),
        volumes::prune,
    ),
];

/// What comes with a second word.
const GROUPS: &[(&str, &str)] = &[
    ("builder", "build or prune"),
    (
        "image",
        "build, ls, rm, inspect, history, diff, import, load, pull, push, rebase, save, squash, tag or prune",
    ),
    ("system", "verify"),
    ("volume", "create, ls, rm, inspect or prune"),
];

/// Other names of verbs.
const ALIASES: &[(&str, &str)] = &[
    ("builder build", "build"),
    ("image build", "build"),
    ("image history", "history"),
    ("image import", "import"),
    ("image list", "images"),
    ("image load", "load"),
    ("image ls", "images"),
    ("image pull", "pull"),
    ("image push", "push"),
    ("image remove", "rmi"),
    ("image rm", "rmi"),
    ("image save", "save"),
    ("image tag", "tag"),
];

/// Before the verb.
const GLOBAL: &[Flag] = &[
    flag("root", "DIR", "The store (default: /var/lib/coracle, or ~/.local/share/coracle)"),
    switch("version", "Show the version").short('v'),
];

const PROGRAM: Syntax = Syntax {
    name: "",
    operands: "VERB",
    about: "Containers with no daemon and no root. The image @host is this machine itself.",
    flags: &[GLOBAL],
    min: 0,
    max: ANY,
    command: true,
};

fn help() -> String {
    let mut text = PROGRAM.help().replace("coracle  [", "coracle [");
    text.push_str("\nVerbs:\n");
    for verb in VERBS {
        text.push_str(&format!("  {:16} {}\n", verb.syntax.name, verb.syntax.about));
    }
    let second = ALIASES.iter().filter_map(|(alias, _)| alias.strip_prefix("image ")).collect::<Vec<_>>();
    text.push_str(&format!("\nAs in docker there is 'coracle image' {} too.\n", second.join(", ")));
    text.push_str("'coracle VERB --help' shows the options of a verb.\n");
    text
}

fn unknown(word: &str) -> Fail {
    usage(format!("'{word}' is not a coracle command.\nSee 'coracle --help'."))
}

/// The verb's exit code.
fn program(words: Vec<OsString>) -> Result<u8> {
    let Some(global) = PROGRAM.parse(words)? else {
        format::print(help())?;
        return Ok(0);
    };
    if global.has("version") {
        format::line(format!("coracle version {}", env!("CARGO_PKG_VERSION")))?;
        return Ok(0);
    }
    let mut words = global.operands.iter().cloned();
    let Some(first) = words.next() else {
        eprint!("{}", help());
        return Ok(OURS);
    };
    let mut name = first.to_string_lossy().into_owned();
    if name == "help" {
        format::print(help())?;
        return Ok(0);
    }
    if let Some((group, verbs)) = GROUPS.iter().find(|(group, _)| *group == name) {
        let second = words.next().ok_or_else(|| usage(format!("{group} {verbs}?")))?;
        if second == "--help" || second == "-h" {
            format::line(format!("Usage:  coracle {group} VERB\n\nVerbs: {verbs}"))?;
            return Ok(0);
        }
        name = format!("{name} {}", second.to_string_lossy());
    }
    if let Some((_, other)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        name = (*other).to_owned();
    }
    let verb = VERBS.iter().find(|verb| verb.syntax.name == name).ok_or_else(|| unknown(&name))?;
    let Some(args) = verb.syntax.parse(words)? else {
        format::print(verb.syntax.help())?;
        return Ok(0);
    };
    let store = match global.raw("root") {
        Some(path) => Store::open(path),
        None => Store::open_default(),
    };
    let ours = |fail: Fail| Fail { code: (name == "run").then_some(OURS), ..fail };
    (verb.work)(&store.map_err(|error| ours(error.into()))?, &args)
}

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).collect();
    match program(words) {
        Ok(code) => attach::exit(code),
        Err(fail) => {
            eprintln!("coracle: {fail}");
            attach::exit(fail.code.unwrap_or(1))
        }
    }
}
