//! A further command in a running container.
//!
//! Its plan joins all namespaces of the container's command (setns(2) with its pidfd), joins the control
//! groups and executes. The process is a child of the warden's, as the container's own is.
#![forbid(unsafe_code)]

use super::inside::{self, Command};
use super::output::{Log, OUTPUT_MAX, Ours, Pipes, Pump, Stdio, Stopped, Streams};
use super::places;
use super::protection::{self, Ids, Protection, Wall};
use super::script::{Lacking, NewProcess, Script};
use super::stages::{BORN, Born, READY};
use super::{Container, ExitStatus, KILL_TIME, Output, accounts, lock, settings, terminal, users};
use crate::cgroup::Report;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, Missing, words};
use crate::namespace::{NamespaceKind, Namespaces};
use crate::security::landlock::Entering;
use crate::signal::Signal;
use crate::sys::diagnose;
use crate::sys::fork::Witness;
use crate::sys::idmap::IdMap;
use crate::sys::plan::Cell;
use crate::sys::time::after;
use crate::sys::warden::{self, Exit, Warden};
use linux_raw_sys::errno::ESRCH;
use linux_raw_sys::general as n;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A command to be executed in a running container. Its defaults are the container's.
///
/// ```no_run
/// # let container: coracle::Container = unimplemented!();
/// let out = container.exec(["nginx", "-t"]).user("www-data").output()?;
/// assert!(out.status.success());
/// # Ok::<(), coracle::Error>(())
/// ```
#[must_use]
pub struct Exec<'a> {
    container: &'a Container,
    words: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    working_dir: Option<PathBuf>,
    user: Option<String>,
    timeout: Option<Duration>,
    streams: Streams,
    tty: bool,
}

impl<'a> Exec<'a> {
    pub(super) fn new(container: &'a Container, words: Vec<OsString>) -> Self {
        Self {
            container,
            words,
            env: Vec::new(),
            working_dir: None,
            user: None,
            timeout: None,
            streams: Streams::default(),
            tty: false,
        }
    }

    /// Appends an argument.
    pub fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.words.push(word.into());
        self
    }

    /// Sets an environment variable, over the container's.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The working directory, which has to be there; by default the container's.
    pub fn working_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.working_dir = Some(path.into());
        self
    }

    /// The user (and group), as [`ContainerBuilder::user`](super::ContainerBuilder::user).
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Where its input comes from; by default nowhere.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.streams.stdin = stdin.into();
        self
    }

    /// Where its output goes; by default it is collected.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.streams.stdout = stdout.into();
        self
    }

    /// Where its errors go; by default they are collected.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.streams.stderr = stderr.into();
        self
    }

    /// Gives it a terminal of the container: a PTY as stdin, stdout and stderr and as the controlling terminal of its
    /// own session, and `TERM=xterm` where nothing else is said. [`spawn`](Self::spawn) it and talk to
    /// [`Executed::terminal`]. What was said of the three streams has no effect then.
    pub fn tty(mut self, yes: bool) -> Self {
        self.tty = yes;
        self
    }

    /// It is killed after this time, whoever waits for it or not, and `output`, `status` and [`Executed::wait`] fail with kind
    /// `TimedOut`. What it has started itself goes on: that ends with the container.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// At most so many bytes are collected of each stream, 16 MiB by default.
    pub fn output_max(mut self, bytes: usize) -> Self {
        self.streams.output_max = Some(bytes);
        self
    }

    /// Executes it, waits for its end and collects its output.
    ///
    /// # Errors
    /// `Exec` when it can't be executed, `State` when the container does not run, `TooLarge` and `TimedOut`, which have the
    /// output until then ([`Error::stdout`], [`Error::stderr`]), `InvalidInput` for a NUL byte in an argument, a variable or the
    /// working directory, for a variable's name that is empty or has a `=`, and with a terminal, which somebody has to talk to.
    pub fn output(self) -> Result<Output> {
        if self.tty {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "output() with a terminal has nobody to talk to",
            )
            .with_remedy("use spawn() and Executed::terminal()"));
        }
        let deadline = self.timeout.map(after);
        self.spawn_by(deadline)?.output()
    }

    /// Executes it with this program's streams and waits for its end.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub fn status(mut self) -> Result<ExitStatus> {
        for stream in [&mut self.streams.stdin, &mut self.streams.stdout, &mut self.streams.stderr] {
            if stream.is_default() {
                *stream = Stdio::inherit();
            }
        }
        self.output().map(|output| output.status)
    }

    /// Executes it. A [`timeout`](Self::timeout) counts from here, and a thread keeps it.
    ///
    /// # Errors
    /// `Exec` when it can't be executed, `State` when the container does not run, `TimedOut` also where the program that
    /// runs the container is stopped and its warden does not answer within 10 s, `Setup` when a terminal is
    /// wanted and the container has hidden its devpts, `InvalidInput` as [`output`](Self::output).
    pub fn spawn(self) -> Result<Executed> {
        let deadline = self.timeout.map(after);
        let executed = self.spawn_by(deadline)?;
        if let Some(deadline) = deadline
            && let Err(error) = executed.kept_by_a_thread(deadline)
        {
            executed.give_up()?;
            return Err(error);
        }
        Ok(executed)
    }

    /// What can be seen to be wrong before anything is asked for.
    fn validate(&self) -> Result<()> {
        let invalid = |what| Error::new(ErrorKind::InvalidInput, what);
        if self.words.is_empty() {
            return Err(invalid("no command"));
        }
        settings::check_command(&self.words, &self.env)?;
        match self.working_dir.as_ref().filter(|path| settings::has_nul(path.as_os_str())) {
            Some(path) => Err(invalid("a working directory with a NUL byte").with_path(path)),
            None => Ok(()),
        }
    }

    fn spawn_by(self, deadline: Option<Instant>) -> Result<Executed> {
        self.joined_by(deadline).map_err(diagnose::explain_call)
    }

    fn joined_by(self, deadline: Option<Instant>) -> Result<Executed> {
        self.validate()?;
        let container = self.container;
        let running = container.running()?;
        let (warden, life) = match (&running.warden, &running.door) {
            (Some(warden), _) => (warden.clone(), None),
            // Another program's warden starts it; this socket's end tells there that we have gone.
            (None, Some(door)) => (Warden::connect(running.dir.store.locks_dir(), door)?, Some(Life::new()?)),
            (None, None) => return Err(Error::new(ErrorKind::State, "the container has no warden")),
        };
        let locked = lock(&container.0.held);
        let held = locked.as_ref().ok_or_else(super::removed)?;
        let spec = &held.record.spec;
        let image = container.0.image.as_ref().ok_or_else(super::removed)?;
        let (member, member_fd) = running.member()?;
        let root = root_of(member, &*member_fd).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::State, "the container is not running").with_source(error)
            }
            _ => error,
        })?;
        let read = |path| accounts::in_mounted(root.as_fd(), path);
        let user = self.user.as_deref().or(spec.user.as_deref()).unwrap_or(image.config().user());
        let identity = users::identify(user, &spec.groups, &read("etc/passwd")?, &read("etc/group")?)?;
        let base = held.record.base;
        let map = match warden.map() {
            Some(map) => map.clone(),
            None if base > 0 => IdMap::range(base, super::ids::COUNT),
            // Which ids another program of an ordinary user has, that container shows.
            None => IdMap::of(&format!("/proc/{member}"))?,
        };
        let alone =
            running.single.then(|| Missing::new(Feature::SubIds, "it has one id only", words::UIDMAP));
        let single = warden.single().or(alone.as_ref());
        Ids { map: &map, base, single }.check_identity(&identity)?;
        let resolved = settings::resolve(&held.record, image.config(), identity)?;
        let own = self.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let pairs = resolved.pairs.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let term = self.tty.then_some((OsStr::new("TERM"), OsStr::new("xterm")));
        let pairs = settings::environment(term.into_iter().chain(pairs).chain(own));
        let path = settings::path_of(&pairs);
        let env = settings::joined(&pairs);
        let capabilities = settings::capabilities(spec)?;
        let wall = Wall::of(spec)?;
        let command = Command {
            words: &self.words,
            env: &env,
            path: &path,
            working_dir: self.working_dir.as_deref().unwrap_or(&resolved.working_dir),
            make_working_dir: false,
            identity: &resolved.identity,
            capabilities,
            no_new_privileges: !spec.new_privileges,
            seccomp: settings::seccomp(&spec.seccomp)?.program(capabilities)?,
            seccomp_best_effort: spec.is_best_effort(Protection::Seccomp),
            landlock: wall
                .domain()
                .map(|domain| Ok((domain, places::as_named(root.as_fd(), spec.places())?, Entering::Further)))
                .transpose()?,
            ulimits: &spec.ulimits,
            init: false,
            groups_allowed: !running.single,
        };
        let (master, pipes) = if self.tty {
            let (master, slave) = terminal::open(&root)?;
            (Some(master), Pipes::terminal(slave)?)
        } else {
            (None, Pipes::new(&self.streams)?)
        };
        let cgroup = lock(&running.cgroup);
        let mut s = Script::new();
        let pidfd = s.fd(member_fd.as_fd());
        let stdio = [0, 1, 2].map(|i| s.fd(pipes.theirs[i].as_fd()));
        let joins: Vec<Cell> =
            cgroup.iter().flat_map(|cgroup| cgroup.join_fds()).map(|fd| s.fd(fd)).collect();
        let theirs = life.as_ref().map(|(_, theirs)| theirs.each_ref().map(|fd| s.fd(fd.as_fd())));
        let shift = super::rootfs::Shift(held.record.base);
        let (uid, gid) = shift.owner(command.identity.uid, command.identity.gid);
        // A terminal's group is its devpts' affair.
        let gid = if self.tty { u32::MAX } else { gid };
        inside::give_pipes(&mut s, stdio, pipes.made, (uid, gid));
        join(&mut s, pidfd, spec.network.is_host(), command.groups_allowed, &joins, theirs, |s| {
            s.session();
            if self.tty {
                inside::control(s, stdio[0]);
            }
            inside::bound(s, command.capabilities);
            inside::execute(s, &command, stdio, &[u64::from(READY), 0]);
        });
        let mut started = warden.start_plan_by(s.plan, deadline)?;
        drop(pipes.theirs);
        // It takes as long as the container's processes want: nothing else waits for that.
        drop(cgroup);
        drop(locked);
        let born = Born::hear(
            &mut started,
            || lock(&running.cgroup).as_ref()?.oom_kills().ok().flatten(),
            deadline,
        )?;
        // What protects the host from the container does so from all in it, but for what each process brings itself.
        let mut report = running.report.clone();
        for without in &born.without {
            protection::without(&mut report, *without, &[]);
        }
        Ok(Executed {
            process: born.process,
            report,
            deadline,
            late: Arc::default(),
            log: Log::new(self.streams.output_max.unwrap_or(OUTPUT_MAX), pipes.ours.collected()),
            ours: Mutex::new(pipes.ours),
            warden,
            terminal: master,
            life: life.map(|(ours, _)| ours),
        })
    }
}

/// The root directory of a running container, found through a process in it.
///
/// # Errors
/// `NotFound` when that has ended. Its number may be somebody else's then, whose root is the host's.
pub(super) fn root_of(pid: i32, process: impl AsFd) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let path = format!("/proc/{pid}/root");
    let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call_at("open", &path)?;
    // As it lives now, the number was its own before.
    match crate::sys::message::readable(process, Some(Instant::now()))? {
        false => Ok(root),
        true => Err(Error::new(ErrorKind::NotFound, "the process has ended").with_path(path)),
    }
}

/// Stage A joins the namespaces and clones the process that will be in them (a PID namespace takes effect for
/// children only).
fn join(
    s: &mut Script<'_>,
    pidfd: Cell,
    host_network: bool,
    groups_allowed: bool,
    joins: &[Cell],
    life: Option<[Cell; 2]>,
    inside: impl FnOnce(&mut Script<'_>),
) {
    s.during("joining the container");
    for join in joins {
        s.write(*join, b"0", Path::new("cgroup.procs"));
    }
    let mut namespaces = Namespaces::all();
    if host_network {
        namespaces = namespaces.without(NamespaceKind::Net);
    }
    s.op(n::__NR_setns, "setns(pidfd)", [pidfd.into(), namespaces.flags().into()]);
    // Nothing hostile may look at the process that is born into the container's PID namespace. With fs.suid_dumpable=1
    // each change of ids takes that protection away, so they change here, where nobody of the container sees it.
    inside::become_root(s, groups_allowed);
    let born = s.letter(BORN);
    const CLONE_PARENT: u32 = 0x8000;
    s.clone_process(&NewProcess {
        flags: CLONE_PARENT.into(),
        exit_signal: 0,
        pid: born.value,
        pidfd: Some(born.fd),
        cgroup: None,
        detail: "",
        lacking: Lacking::Remedy("see what bounds the processes of the container: pids_max"),
    });
    let child = s.label();
    s.jump_if_zero(born.value, child);
    s.post(born);
    if let Some(life) = life {
        guard(s, life, born.fd);
    }
    s.op(crate::sys::plan::format::OP_END, "end", [0.into()]);
    s.place(child);
    inside(s);
}

/// Whoever asked for a command in another program's container: the command is not to outlive that, nor its handle.
struct Life {
    socket: OwnedFd,
    witness: Witness,
}

impl Life {
    /// And what becomes readable at its end: the socket's other end, and this program's pidfd, as a forked copy of the
    /// program has the socket, too.
    fn new() -> Result<(Self, [OwnedFd; 2])> {
        use rustix::process::{PidfdFlags, getpid, pidfd_open};
        let (socket, theirs) = crate::sys::message::pair()?;
        let program = pidfd_open(getpid(), PidfdFlags::empty()).call("pidfd_open")?;
        Ok((Self { socket, witness: Witness::current()? }, [theirs, program]))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.witness.is_here() {
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        }
    }
}

/// Stage A stays until the command has ended, or whoever asked for it: then it kills it.
fn guard(s: &mut Script<'_>, life: [Cell; 2], pidfd: Cell) {
    const POLLIN: u64 = 1 << 32;
    const SIGKILL: i32 = 9;
    let status = s.status();
    // Else the asker would wait for this process to close it.
    s.op(n::__NR_close, "close", [status.into()]);
    // struct pollfd: descriptor, events, revents.
    let polled = s.words64(&[POLLIN; 3]);
    for (i, fd) in life.into_iter().chain([pidfd]).enumerate() {
        s.op(n::__NR_fcntl, "fcntl(F_DUPFD_CLOEXEC)", [fd.into(), n::F_DUPFD_CLOEXEC.into(), 3.into()])
            .store(Cell(polled.0 + 8 * i as u64));
    }
    s.op(n::__NR_ppoll, "ppoll", [polled.into(), 3.into(), 0.into(), 0.into(), 8.into()]);
    s.op(n::__NR_pidfd_send_signal, "pidfd_send_signal", [pidfd.into(), SIGKILL.into(), 0.into(), 0.into()])
        .tolerate(&[ESRCH]);
}

/// A further command that runs. Drop leaves it running: it ends with its container.
///
/// In a forked copy of the program its methods fail with kind `Gone`.
pub struct Executed {
    process: warden::Process,
    report: Report,
    deadline: Option<Instant>,
    /// It was killed then, or could not be: what who waits for it is told at its end.
    late: Arc<Mutex<Option<Error>>>,
    ours: Mutex<Ours>,
    log: Arc<Log>,
    warden: Arc<Warden>,
    terminal: Option<OwnedFd>,
    /// In another program's container: at its end the command is killed.
    life: Option<Life>,
}

impl Executed {
    /// Waits for its end.
    ///
    /// # Errors
    /// `Gone` when the program's warden was killed, and with it the command, or in a forked copy of the program; `TimedOut`
    /// when its [`timeout`](Exec::timeout) ended it, or when it has ended and the container is another program's, whose
    /// warden does not tell how within 10 s.
    pub fn wait(&self) -> Result<ExitStatus> {
        let last = match self.life {
            None => None,
            Some(_) => {
                self.process.check()?;
                crate::sys::message::readable(self, None)?;
                // How it ended the other program's warden tells at once.
                Some(Instant::now() + KILL_TIME)
            }
        };
        let exit = self.process.wait(last)?;
        self.status(exit)?.ok_or_else(warden::unanswered)
    }

    fn status(&self, exit: Option<Exit>) -> Result<Option<ExitStatus>> {
        match (exit, &*lock(&self.late)) {
            // It had ended by itself when it was to be killed.
            (Some(exit), Some(error)) if error.kind() == ErrorKind::TimedOut && !exit.is_killed() => {
                Ok(Some(ExitStatus::new(exit, false)))
            }
            (Some(_), Some(error)) => Err(error.again()),
            (exit, _) => Ok(exit.map(|exit| ExitStatus::new(exit, false))),
        }
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.status(self.process.wait(Some(Instant::now()))?)
    }

    /// What protects the host from it: what the container's [report](Container::report) says, with what this command goes on
    /// without where that is best effort. Empty, and so not complete, where that one is.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `State` when it has ended; `Gone` in a forked copy of the program.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        kill(&self.process, &self.warden, signal)
    }

    /// Kills it at the deadline.
    fn kept_by_a_thread(&self, deadline: Instant) -> Result<()> {
        let (process, warden) = (self.process.clone(), self.warden.clone());
        let late = self.late.clone();
        let run = move || {
            let _ = nix::sys::signal::SigSet::all().thread_block();
            let ended = crate::sys::message::readable(&*process.pidfd, Some(deadline));
            match ended.or_else(|_| process.wait(Some(deadline)).map(|exit| exit.is_some())) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    *lock(&late) = Some(error.during("keeping the time of a command"));
                    return;
                }
            }
            // Who sees its end sees this, too.
            *lock(&late) = Some(time_is_up());
            if let Err(error) = kill(&process, &warden, Signal::SIGKILL) {
                let has_ended = error.kind() == ErrorKind::State;
                *lock(&late) = (!has_ended).then(|| error.during("killing a command whose time was up"));
            }
        };
        let thread = std::thread::Builder::new().name("coracle-exec".into()).stack_size(256 << 10);
        thread.spawn(run).call("pthread_create").map(drop)
    }

    /// Kills and reaps it.
    fn give_up(&self) -> Result<()> {
        match self.kill(Signal::SIGKILL) {
            Err(error) if error.kind() == ErrorKind::State => {}
            other => other?,
        }
        match self.process.wait(Some(Instant::now() + KILL_TIME))? {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::TimedOut, "SIGKILL has not ended the command").with_remedy(
                "it is frozen, or hangs in the kernel (state D), perhaps on a network filesystem",
            )),
        }
    }

    /// The other end of a piped stdin.
    pub fn take_stdin(&self) -> Option<std::io::PipeWriter> {
        lock(&self.ours).stdin.take()
    }

    /// The other end of a piped stdout.
    pub fn take_stdout(&self) -> Option<std::io::PipeReader> {
        lock(&self.ours).stdout.take()
    }

    /// The other end of a piped stderr.
    pub fn take_stderr(&self) -> Option<std::io::PipeReader> {
        lock(&self.ours).stderr.take()
    }

    /// The host's side of its terminal: what is written to it was typed, what is read was printed. When nobody has it
    /// any more, the command gets SIGHUP.
    ///
    /// # Errors
    /// `State` for a command without one; `Gone` in a forked copy of the program.
    pub fn terminal(&self) -> Result<File> {
        self.process.check()?;
        terminal::master(self.terminal.as_ref())
    }

    /// Sets the size of its terminal, in characters.
    ///
    /// # Errors
    /// `State` for a command without one.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        terminal::resize(self.terminal()?, columns, rows)
    }

    /// Collects its output and waits for its end.
    ///
    /// # Errors
    /// `TooLarge` for more output than [`output_max`](Exec::output_max), it is killed then; else as [`wait`](Self::wait).
    /// The output until then is in the error ([`Error::stdout`], [`Error::stderr`]).
    pub fn output(self) -> Result<Output> {
        let mut pump: Pump = lock(&self.ours).pump();
        let pidfd = self.process.pidfd.as_fd();
        let error = match pump.run(&self.log, None, Some(pidfd), self.deadline, true) {
            Ok(Stopped::Done) => None,
            // What it has left behind still has its streams, and nobody waits for that.
            Ok(Stopped::Deadline) if self.try_wait().is_ok_and(|status| status.is_some()) => None,
            Ok(Stopped::Deadline) => Some(time_is_up()),
            Ok(Stopped::TooMuch(stream)) => {
                let error = Error::new(ErrorKind::TooLarge, format!("too much output on {stream:?}"));
                Some(error.with_remedy("raise Exec::output_max, or stream the output"))
            }
            Err(error) => Some(error),
        };
        let ended = match error {
            Some(error) => self.give_up().and(Err(error)),
            None => self.wait(),
        };
        if ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut) {
            // What it still wrote before it was killed; who else has the streams is not waited for.
            let _ = pump.of_the_last().run(&self.log, None, Some(pidfd), Some(after(KILL_TIME)), false);
        }
        let (stdout, stderr) = (self.log.get(super::Stream::Stdout).0, self.log.get(super::Stream::Stderr).0);
        let status = match ended {
            Ok(status) => status,
            Err(error) => return Err(error.with_output(stdout, stderr)),
        };
        Ok(Output { status, stdout, stderr, report: self.report })
    }
}

fn time_is_up() -> Error {
    Error::new(ErrorKind::TimedOut, "the command's time was up; it was killed")
        .with_remedy("give it more with Exec::timeout")
}

fn kill(process: &warden::Process, warden: &Warden, signal: Signal) -> Result<()> {
    process.check()?;
    match warden::signal(process.pidfd.as_fd(), signal, Some(warden), None)? {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::State, "the command has ended")),
    }
}

impl AsFd for Executed {
    /// Becomes readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }
}

impl std::fmt::Debug for Executed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executed").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_given_again_has_no_root_here() {
        use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
        let pidfd = |pid| pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = pidfd(Pid::from_child(&child));
        child.wait().unwrap();
        let own = getpid();
        assert!(root_of(own.as_raw_nonzero().get(), pidfd(own)).is_ok());
        let error = root_of(own.as_raw_nonzero().get(), ended).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}
