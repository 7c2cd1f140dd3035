//! A command in namespaces, from the builder to the handle on its process.
#![forbid(unsafe_code)]

use super::{Birth, Heard, KILL_TIME, NamespaceKind, Namespaces, READY, clone_into, open};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::signal::Signal;
use crate::sys::fork::Witness;
use crate::sys::output::{Log, OUTPUT_MAX, Ours, Pipes, Stdio, Stopped, Stream, Streams};
use crate::sys::plan::Cell;
use crate::sys::script::Script;
use crate::sys::time::after;
use crate::sys::warden::{self, Warden};
use linux_raw_sys::errno::EPERM;
use linux_raw_sys::general as n;
use std::ffi::{OsStr, OsString};
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where a command is looked for if its environment has no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that is to run in [`Namespaces`]; its manners are those of [`std::process::Command`].
///
/// It has this program's environment and working directory, the umask 022, and no other descriptor than its three.
///
/// ```
/// use coracle::{Namespaces, Stdio};
/// let cat = Namespaces::new().user().net().command(["cat"]).stdin("ahoy").output()?;
/// assert_eq!(cat.stdout, b"ahoy");
///
/// let sleeping = Namespaces::new().user().pid().command(["sleep", "1000"]).stdin(Stdio::null()).spawn()?;
/// drop(sleeping); // is killed
/// # Ok::<(), coracle::Error>(())
/// ```
#[must_use]
#[derive(Debug)]
pub struct Enter<'a> {
    namespaces: Namespaces,
    words: Vec<OsString>,
    cleared: bool,
    env: Vec<(OsString, OsString)>,
    working_dir: Option<PathBuf>,
    streams: Streams,
    groups: Vec<BorrowedFd<'a>>,
    init: bool,
}

impl<'a> Enter<'a> {
    pub(super) fn new(namespaces: Namespaces, words: Vec<OsString>) -> Self {
        Self {
            namespaces,
            words,
            cleared: false,
            env: Vec::new(),
            working_dir: None,
            streams: Default::default(),
            groups: Vec::new(),
            init: false,
        }
    }

    /// Appends an argument.
    pub fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.words.push(word.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Takes nothing over from this program's environment.
    pub fn env_clear(mut self) -> Self {
        self.cleared = true;
        self
    }

    /// The working directory, as the command sees it. By default this program's; `/` in a mount namespace that is joined.
    pub fn working_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.working_dir = Some(path.into());
        self
    }

    /// Where its input comes from; by default this program's, for [`output`](Self::output) nowhere.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.streams.stdin = stdin.into();
        self
    }

    /// Where its output goes; by default to this program's, for [`output`](Self::output) it is collected.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.streams.stdout = stdout.into();
        self
    }

    /// Where its errors go; by default to this program's, for [`output`](Self::output) they are collected.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.streams.stderr = stderr.into();
        self
    }

    /// The control group that it begins in: what [`Cgroup::join_fds`](crate::Cgroup::join_fds) gives.
    pub fn control_group(mut self, files: impl IntoIterator<Item = BorrowedFd<'a>>) -> Self {
        self.groups.extend(files);
        self
    }

    /// Starts an init process, the warden's own code, that is the command's parent: it passes signals on, reaps, and ends
    /// with the command's code, or 128 and the signal that ended it.
    pub fn init(mut self, init: bool) -> Self {
        self.init = init;
        self
    }

    /// Runs it, waits for its end and collects its output, 16 MiB of each stream at most.
    ///
    /// # Errors
    /// Those of [`spawn`](Self::spawn); `TooLarge` for more output, it is killed then.
    pub fn output(self) -> Result<Output> {
        let entered = self.start()?;
        let log = Log::new(OUTPUT_MAX, lock(&entered.ours).collected());
        let mut pump = lock(&entered.ours).pump();
        let stopped = pump.run(&log, None, Some(entered.process.pidfd.as_fd()), None, true)?;
        if let Stopped::TooMuch(stream) = stopped {
            return Err(Error::new(ErrorKind::TooLarge, format!("too much output on {stream:?}")));
        }
        let status = entered.wait()?;
        Ok(Output { status, stdout: log.get(Stream::Stdout).0, stderr: log.get(Stream::Stderr).0 })
    }

    /// Runs it with this program's streams and waits for its end.
    ///
    /// # Errors
    /// Those of [`spawn`](Self::spawn).
    pub fn status(self) -> Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Starts it.
    ///
    /// # Errors
    /// `InvalidInput` for what can't be a command, a host name or an id map. `PermissionDenied` where the kernel refuses,
    /// or an ordinary user asks for what only root may have. `Exec` when the command can't be executed. What fails in
    /// between names the system call. Nothing of it runs then.
    pub fn spawn(mut self) -> Result<Entered> {
        let Streams { stdin, stdout, stderr, .. } = &mut self.streams;
        for stream in [stdin, stdout, stderr].into_iter().filter(|stream| stream.is_default()) {
            *stream = Stdio::inherit();
        }
        self.start()
    }

    fn start(self) -> Result<Entered> {
        let witness = Witness::current()?;
        let warden = warden::warden()?;
        let namespaces = &self.namespaces;
        namespaces.validate(&warden)?;
        let (env, path) = self.environment();
        let working_dir = match &self.working_dir {
            Some(path) => path.clone(),
            None if namespaces.joins(NamespaceKind::Mount) => "/".into(),
            None => std::env::current_dir().call("getcwd")?,
        };
        self.validate(&env, &working_dir)?;
        let pipes = Pipes::new(&self.streams)?;
        let map = namespaces.has(NamespaceKind::User).then(|| namespaces.new_map());
        let first = map.as_ref().map(|map| map.first());

        let mut s = Script::new();
        let stdio = [0, 1, 2].map(|i| s.fd(pipes.theirs[i].as_fd()));
        let groups: Vec<Cell> = self.groups.iter().map(|fd| s.fd(*fd)).collect();
        let joined: Vec<_> = namespaces.joined.iter().map(|(kind, fd)| (*kind, s.fd(fd.as_fd()))).collect();
        // Else /proc/PID/uid_map of what this process clones would belong to the host's root.
        s.dumpable(warden.map().is_some() && map.is_some());
        // Before a mount namespace is joined whose /proc may be anything.
        let proc = s.open_path(Path::new("/proc"));
        s.during("joining the control group");
        for group in groups {
            s.write(group, b"0", Path::new("cgroup.procs"));
        }
        if let (Some(map), Some((uid, gid))) = (&map, first) {
            // `/dev/stdout` is opened again by many programs.
            let map = warden.map().map_or(Ok(map.clone()), |outer| map.beneath(outer))?;
            let owner = [map.user(uid), map.group(gid)].map(|id| id.unwrap_or(u32::MAX));
            for (fd, _) in stdio.into_iter().zip(pipes.made).filter(|(_, made)| *made) {
                s.op(n::__NR_fchown, "fchown(pipe)", [fd.into(), owner[0].into(), owner[1].into()])
                    .tolerate_all();
            }
        }
        if !namespaces.has(NamespaceKind::Mount) && !namespaces.joins(NamespaceKind::Mount) {
            // Never the warden's own: what the command mounts would be in the way of all that comes later.
            s.during("leaving the warden's mount namespace");
            s.unshare_mounts();
        }
        namespaces.join_all(&mut s, &joined);
        let birth = Birth { outer: warden.map(), proc: Some(proc), ..Birth::default() };
        clone_into(
            &mut s,
            namespaces,
            &birth,
            None,
            |_, _| (),
            |s| {
                let joins = namespaces.joins(NamespaceKind::User);
                if let Some(first) = first.or(joins.then_some(namespaces.first)) {
                    become_first(s, first, map.as_ref().map(|map| !map.is_single()));
                }
                s.dumpable(false);
                s.session();
                if namespaces.has(NamespaceKind::Mount) {
                    mounts(s, namespaces.has(NamespaceKind::Pid) || namespaces.joins(NamespaceKind::Pid));
                }
                namespaces.settle(s);
                s.stdio(stdio);
                if self.init {
                    s.init();
                }
                s.during("entering the working directory");
                let at = s.string(&working_dir);
                s.op(n::__NR_chdir, "chdir", [at.into()])
                    .path(&working_dir)
                    .remedy("choose one that the command can enter with Enter::working_dir");
                let missing = "execve: not found in the PATH";
                s.execute(&self.words, &env, &path, &[u64::from(READY), 0], missing);
            },
        )?;
        let mut started = warden.start_plan(s.plan).map_err(during)?;
        drop(pipes.theirs);
        let process = match Heard::of(&mut started, None, |_| ())? {
            Heard { process: Some(process), ready: true, failed: None } => process,
            Heard { process, failed, .. } => {
                // It ends by itself and is waited for, so that nothing of it is left.
                let exit = process.map(|process| process.wait(Some(Instant::now() + KILL_TIME)));
                let exit = exit.transpose()?.flatten();
                let killed = || Error::new(ErrorKind::Setup, format!("the set-up was killed ({exit:?})"));
                return Err(during(failed.unwrap_or_else(killed)));
            }
        };
        let kinds = super::NamespaceKind::ALL.into_iter();
        let kinds = kinds.filter(|kind| namespaces.has(*kind) || namespaces.joins(*kind)).collect();
        Ok(Entered {
            process,
            kinds,
            first: first.unwrap_or(namespaces.first),
            ours: Mutex::new(pipes.ours),
            warden,
            witness,
            kept: false,
        })
    }

    /// As `execve` takes it, and where it says that commands are.
    fn environment(&self) -> (Vec<OsString>, OsString) {
        let mut all: Vec<(OsString, OsString)> = Vec::new();
        let inherited = (!self.cleared).then(std::env::vars_os);
        for (name, value) in inherited.into_iter().flatten().chain(self.env.iter().cloned()) {
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => all.push((name, value)),
            }
        }
        let path = all.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone());
        let joined = all.into_iter().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        });
        (joined.collect(), path.unwrap_or_else(|| PATH.into()))
    }

    fn validate(&self, env: &[OsString], working_dir: &Path) -> Result<()> {
        let invalid = |what: &str| Err(Error::new(ErrorKind::InvalidInput, what.to_owned()));
        let has_nul = |text: &OsStr| text.as_bytes().contains(&0);
        if self.words.first().is_none_or(|word| word.is_empty()) {
            return invalid("no command");
        }
        if self.words.iter().chain(env).any(|text| has_nul(text)) || has_nul(working_dir.as_os_str()) {
            return invalid("a NUL byte in the command, its environment or its working directory");
        }
        if self.env.iter().any(|(name, _)| name.is_empty() || name.as_bytes().contains(&b'=')) {
            return invalid("a name of an environment variable that is empty or has a '='");
        }
        Ok(())
    }
}

fn during(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Exec => error,
        _ => error.during("starting a command in namespaces"),
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::State, "the command has ended")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever the command begins as. Whether groups can be given up is known of a new user namespace only.
fn become_first(s: &mut Script<'_>, (uid, gid): (u32, u32), groups_allowed: Option<bool>) {
    s.during("becoming a user of the user namespace");
    if groups_allowed != Some(false) {
        let op = s.op(n::__NR_setgroups, "setgroups", [0.into(), 0.into()]);
        if groups_allowed.is_none() {
            op.tolerate(&[EPERM]);
        }
    }
    s.op(n::__NR_setresgid, "setresgid", [gid.into(), gid.into(), gid.into()]).path(gid.to_string());
    s.op(n::__NR_setresuid, "setresuid", [uid.into(), uid.into(), uid.into()]).path(uid.to_string());
}

/// In a new mount namespace: nothing comes in or goes out any more.
fn mounts(s: &mut Script<'_>, proc: bool) {
    s.during("cutting the mounts off from the host's");
    s.private_mounts();
    if proc {
        s.during("mounting /proc");
        let fs = s.fsopen(c"proc");
        let plain = n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOEXEC;
        let mount = s.fsmount(fs, "proc", plain);
        let target = s.open_path(Path::new("/proc"));
        s.attach(mount, target, Path::new("/proc"));
    }
}

/// A command that runs in namespaces.
///
/// Drop kills it and waits until it is gone, and what it has started with it where it has a PID namespace of its own; [`keep`](Self::keep) lets it run on, until the program ends. In a forked copy
/// of the program Drop does nothing. `AsFd` is its pidfd: readable when it has ended, and good for pidfd_send_signal(2),
/// setns(2) and [`Namespaces::of`].
pub struct Entered {
    process: warden::Process,
    /// Not the warden's: new, or joined.
    kinds: Vec<NamespaceKind>,
    first: (u32, u32),
    ours: Mutex<Ours>,
    warden: Arc<Warden>,
    witness: Witness,
    kept: bool,
}

impl Entered {
    /// The number of its process in this program's PID namespace.
    ///
    /// # Errors
    /// `State` when it has ended.
    pub fn pid(&self) -> Result<i32> {
        self.alive()?;
        self.process.pid()?.ok_or_else(ended)
    }

    /// That it has not been heard to have ended: until its zombie is reaped the kernel would not say so.
    fn alive(&self) -> Result<()> {
        self.try_wait()?.map_or(Ok(()), |_| Err(ended()))
    }

    /// Waits for its end; repeats its answer.
    ///
    /// # Errors
    /// `Gone` when the program's warden was killed, and with it the command, or in a forked copy of the program.
    pub fn wait(&self) -> Result<ExitStatus> {
        let status = self.wait_until(None)?;
        status.ok_or_else(|| Error::new(ErrorKind::TimedOut, "waiting without a limit"))
    }

    /// Waits for its end, but not longer than this; `None` when it still runs then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, time: Duration) -> Result<Option<ExitStatus>> {
        self.wait_until(Some(after(time)))
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.wait_until(Some(Instant::now()))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
        self.witness.check()?;
        Ok(self.process.wait(deadline)?.map(ExitStatus::from))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `State` when it has ended.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.alive()?;
        match warden::signal(self.process.pidfd.as_fd(), signal, Some(&self.warden), None)? {
            true => Ok(()),
            false => Err(ended()),
        }
    }

    /// A namespace that it is in, of any kind, as a descriptor for setns(2) and [`Namespaces::join`]. The namespace exists
    /// as long as the descriptor does.
    ///
    /// # Errors
    /// `State` when it has ended; `PermissionDenied` for an ordinary user whose command has
    /// an [init process](Enter::init), which nobody may look into.
    pub fn namespace(&self, kind: NamespaceKind) -> Result<OwnedFd> {
        self.alive()?;
        let opened = open(&self.warden, self, &[kind])?.into_iter().next();
        opened.ok_or_else(|| Error::new(ErrorKind::Gone, "the warden has sent no namespace"))
    }

    /// The namespaces that are its own or that it has joined, for a further command that is to share them.
    ///
    /// # Errors
    /// As [`namespace`](Self::namespace).
    pub fn namespaces(&self) -> Result<Namespaces> {
        self.alive()?;
        let mut namespaces = Namespaces::of(self, self.kinds.iter().copied())?;
        namespaces.first = self.first;
        Ok(namespaces)
    }

    /// The other end of a piped stdin, once.
    pub fn take_stdin(&self) -> Option<PipeWriter> {
        lock(&self.ours).stdin.take()
    }

    /// The other end of a piped stdout, once.
    pub fn take_stdout(&self) -> Option<PipeReader> {
        lock(&self.ours).stdout.take()
    }

    /// The other end of a piped stderr, once.
    pub fn take_stderr(&self) -> Option<PipeReader> {
        lock(&self.ours).stderr.take()
    }

    /// Lets it run on without a handle. It still ends with the program.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.kept || !self.witness.is_here() || matches!(self.try_wait(), Ok(Some(_))) {
            return;
        }
        match self.kill(Signal::SIGKILL) {
            Ok(()) => drop(self.process.wait(Some(Instant::now() + KILL_TIME))),
            Err(error) if error.kind() == ErrorKind::State => {}
            Err(error) => tracing::warn!(%error, "a command runs on until the end of the program"),
        }
    }
}

impl AsFd for Entered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }
}

impl AsRawFd for Entered {
    fn as_raw_fd(&self) -> RawFd {
        self.process.pidfd.as_raw_fd()
    }
}

impl std::fmt::Debug for Entered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entered").field("namespaces", &self.kinds).finish_non_exhaustive()
    }
}
