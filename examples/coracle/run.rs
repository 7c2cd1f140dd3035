//! `run`, `create`, `start`, `exec`: what executes commands.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::attach::{self, Signals, Streams, Wanted};
use crate::fail::{Fail, OURS, Result, context, fail, usage};
use crate::flags;
use crate::format::line;
use coracle::{Container, State, Stdio, Store};
use std::fs::File;
use std::io::Write;

pub const RUN: &[Flag] = &[
    switch("detach", "Not yet: a container ends with its program").short('d'),
    switch("sig-proxy", "Pass signals on to the command (default true)"),
];

pub const START: &[Flag] = &[
    switch("attach", "Always so: its output is shown until it ends").short('a'),
    switch("interactive", "Connect stdin").short('i'),
    switch("sig-proxy", "Pass signals on to the command (default true)"),
];

pub const EXEC: &[Flag] = &[
    switch("detach", "Not yet: commands end with this program").short('d'),
    flag("env", "NAME[=VALUE]", "Set an environment variable").short('e'),
    flag("env-file", "FILE", "Set the environment variables of a file"),
    switch("interactive", "Connect stdin").short('i'),
    flag("timeout", "SECONDS", "Kill the command after this time"),
    switch("tty", "Give the command a terminal").short('t'),
    flag("user", "USER[:GROUP]", "Name or id").short('u'),
    flag("workdir", "PATH", "Working directory").short('w'),
];

/// Every failure before the command runs is ours.
fn ours(fail: Fail) -> Fail {
    Fail { code: fail.code.or(Some(OURS)), ..fail }
}

fn no_detach(args: &Args) -> Result<()> {
    if args.has("detach") {
        return Err(usage("--detach: containers that outlive their program can't be had yet"));
    }
    Ok(())
}

fn make(store: &Store, args: &Args) -> Result<Container> {
    let cidfile = args.raw("cidfile").map(|path| {
        let file = File::options().write(true).create_new(true).open(path);
        file.map_err(context(format!("container ID file {}", path.display())))
    });
    let cidfile = cidfile.transpose()?;
    let container = flags::builder(store, args)?.create()?;
    if let Some(mut file) = cidfile {
        file.write_all(container.id().as_bytes())?;
    }
    Ok(container)
}

/// In the store from now on, whatever becomes of this program.
fn kept(store: &Store, container: Container) -> Result<Container> {
    let id = container.id().to_owned();
    container.keep()?;
    Ok(store.container(&id)?)
}

pub fn run(store: &Store, args: &Args) -> Result<u8> {
    run_ours(store, args).map_err(ours)
}

fn run_ours(store: &Store, args: &Args) -> Result<u8> {
    no_detach(args)?;
    let wanted =
        Wanted { stdin: args.has("interactive"), tty: args.has("tty"), proxy: !args.is_off("sig-proxy") };
    let wanted = wanted.check()?;
    let container = make(store, args)?;
    if args.has("rm") {
        let ended = start_and_follow(&container, wanted);
        let removed = container.remove();
        let code = ended?;
        removed?;
        return Ok(code);
    }
    start_and_follow(&kept(store, container)?, wanted)
}

fn start_and_follow(container: &Container, wanted: Wanted) -> Result<u8> {
    let signals = Signals::take(wanted.proxy)?;
    container.set_streams(wanted.stdin(), Stdio::piped(), Stdio::piped());
    container.start()?;
    let streams = attach::streams_of(container, wanted.tty)?;
    attach::follow(container, streams, wanted, &signals).map(attach::code)
}

pub fn create(store: &Store, args: &Args) -> Result<u8> {
    if args.has("rm") {
        // It would have to be removed by whoever starts it, who does not know.
        return Err(usage("--rm belongs to run: a created container is there to stay"));
    }
    let container = kept(store, make(store, args)?)?;
    line(container.id())?;
    Ok(0)
}

pub fn start(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    if args.is_off("attach") {
        return Err(usage("--attach=false: containers that outlive their program can't be had yet"));
    }
    let container = store.container(names[0])?;
    let tty = record(&container)?["spec"]["tty"].as_bool().unwrap_or(false);
    let wanted = Wanted { stdin: args.has("interactive"), tty, proxy: !args.is_off("sig-proxy") };
    start_and_follow(&container, wanted.check()?)
}

/// The container's record, as JSON.
pub fn record(container: &Container) -> Result<serde_json::Value> {
    serde_json::from_str(&container.inspect()?).map_err(context("the container's record"))
}

pub fn exec(store: &Store, args: &Args) -> Result<u8> {
    no_detach(args)?;
    let (name, words) = args.operands.split_first().ok_or_else(|| usage("no container"))?;
    let container = store.container(crate::args::text("container", name)?)?;
    match container.state() {
        State::Running => {}
        State::Paused => {
            return Err(fail(format!("container {} is paused: unpause it first", container.name())));
        }
        _ => return Err(fail(format!("container {} is not running", container.name()))),
    }
    let wanted = Wanted { stdin: args.has("interactive"), tty: args.has("tty"), proxy: true }.check()?;
    let mut exec = container.exec(words.iter().cloned());
    for (name, value) in flags::variables(args)? {
        exec = exec.env(name, value);
    }
    if let Some(path) = args.raw("workdir") {
        exec = exec.working_dir(path);
    }
    if let Some(user) = args.get("user")? {
        exec = exec.user(user);
    }
    if let Some(text) = args.get("timeout")? {
        exec = exec.timeout(flags::seconds("timeout", text)?);
    }
    exec = exec.tty(wanted.tty).stdin(wanted.stdin()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let signals = Signals::take(wanted.proxy)?;
    let executed = exec.spawn()?;
    let streams = Streams {
        stdin: executed.take_stdin(),
        stdout: executed.take_stdout(),
        stderr: executed.take_stderr(),
        terminal: wanted.tty.then(|| executed.terminal()).transpose()?,
    };
    attach::follow(&executed, streams, wanted, &signals).map(attach::code)
}
