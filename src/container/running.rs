//! A container whose command runs, or has just ended: shared by its handle, its watching thread and its ports.
#![forbid(unsafe_code)]

use super::output::{Callback, Log, Ours, Pump, Stopped};
use super::reach::Forwarder;
use super::record::{Dir, Exited, RunningRecord};
use super::{Inner, KILL_TIME, Output, Process, lock, pausing};
use crate::cgroup::{Cgroup, OomEvents, Report, Stats};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, words};
use crate::signal::Signal;
use crate::sys::pids;
use crate::sys::time::after;
use crate::sys::warden::{self, Exit, Warden};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

pub(crate) struct Running {
    pub process: warden::Process,
    /// None of another program's container.
    pub warden: Option<Arc<Warden>>,
    /// Its user namespace has one id only.
    pub single: bool,
    /// Of another program's container: the way to its warden.
    pub door: Option<String>,
    pub cgroup: Mutex<Option<Cgroup>>,
    pub report: Report,
    pub started: SystemTime,
    pub deadline: Option<Instant>,
    pub log: Arc<Log>,
    pub ours: Mutex<Ours>,
    pub callback: Option<Callback>,
    pub terminal: Option<OwnedFd>,
    pub ports: Mutex<Vec<Forwarder>>,
    pub dir: Arc<Dir>,
    pub end: Mutex<Ending>,
    pub timed_out: AtomicBool,
    /// What went wrong first with its output or its time limit: whoever waits for the end is told.
    pub trouble: OnceLock<Error>,
    /// A thread takes its output.
    pub watched: AtomicBool,
    /// Somebody who asked for it has let it go on, which a killed program had paused.
    pub let_go: AtomicBool,
}

/// How the watching of a container stands.
#[derive(Default)]
pub(crate) enum Ending {
    /// Nobody has cleaned up yet.
    #[default]
    Not,
    Done(Exited),
    /// The warden went without telling.
    Lost,
}

impl Running {
    /// Of another program, in no control group, with nothing said or asked of it.
    pub fn new(process: warden::Process, dir: Arc<Dir>, started: SystemTime) -> Self {
        Self {
            process,
            warden: None,
            single: false,
            door: None,
            cgroup: Mutex::default(),
            report: Report::default(),
            started,
            deadline: None,
            log: Log::new(0, [false; 2]),
            ours: Mutex::default(),
            callback: None,
            terminal: None,
            ports: Mutex::default(),
            dir,
            end: Mutex::default(),
            timed_out: AtomicBool::new(false),
            trouble: OnceLock::new(),
            watched: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
        }
    }

    /// Waits for the end; `None` at the deadline.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<Option<super::ExitStatus>> {
        let Some(status) = self.ended(deadline)? else { return Ok(None) };
        if self.watched.load(Ordering::Relaxed) {
            // Whoever looks at the output now finds all of it; the deadline bounds that, too.
            let last = Instant::now() + KILL_TIME;
            self.log.wait(deadline.map_or(last, |deadline| deadline.min(last)), |_| false);
        }
        let trouble = self.trouble.get().map(Error::again);
        if self.timed_out.load(Ordering::Relaxed) {
            let error = time_is_up();
            return Err(match trouble {
                Some(trouble) => error.with_source(trouble),
                None => error,
            });
        }
        trouble.map_or(Ok(Some(status)), Err)
    }

    fn ended(&self, deadline: Option<Instant>) -> Result<Option<super::ExitStatus>> {
        self.process_end(deadline)?.map(|exit| self.finish(exit)).transpose()
    }

    pub fn try_wait(&self) -> Result<Option<super::ExitStatus>> {
        match &*lock(&self.end) {
            Ending::Done(exited) => return Ok(Some(exited.status)),
            Ending::Lost | Ending::Not => {}
        }
        self.ended(Some(Instant::now()))
    }

    fn process_end(&self, deadline: Option<Instant>) -> Result<Option<Exit>> {
        if self.warden.is_some() {
            return self.process.wait(deadline);
        }
        // Another program's: its pidfd says when, its record says how.
        if !crate::sys::message::readable(&*self.process.pidfd, deadline)? {
            return Ok(None);
        }
        Ok(Some(Exit { how: 2, status: 9, user: Duration::ZERO, system: Duration::ZERO, peak_bytes: 0 }))
    }

    /// Once, by whoever comes first: reads what the control group counted, removes it, writes how it ended.
    fn finish(&self, exit: Exit) -> Result<super::ExitStatus> {
        let mut end = lock(&self.end);
        if let Ending::Done(exited) = &*end {
            return Ok(exited.status);
        }
        if self.warden.is_none() {
            // Its own program writes the record when it has seen the end.
            let exited = super::start::exited_of_other(&self.dir, self.started)?;
            let status = exited.status;
            *end = Ending::Done(exited);
            return Ok(status);
        }
        let oom = lock(&self.cgroup).as_ref().is_some_and(|cgroup| {
            // Of a group without a limit on memory there is nothing to read.
            cgroup.oom_kills().ok().flatten().is_some_and(|kills| kills > 0)
        });
        if !(self.watched.load(Ordering::Relaxed) && self.dir.is_ephemeral()) {
            self.release_group();
        }
        lock(&self.ports).clear();
        let status = super::ExitStatus::new(exit, oom);
        let exited = Exited { status, started: self.started, finished: SystemTime::now() };
        // Before anybody learns of the end and starts it again.
        if let Err(error) = self.write_end(&exited) {
            match self.dir.is_ephemeral() {
                // Nobody else asks how it ended, and it is removed soon, or that is told.
                true => {
                    tracing::warn!(%error, id = self.dir.id, "that a container has ended could not be written down")
                }
                false => drop(self.trouble.set(error)),
            }
        }
        *end = Ending::Done(exited);
        Ok(status)
    }

    /// Removes the control group. Whoever waits for the end of a container that nobody else starts need not wait for that:
    /// the thread that watches does it.
    pub fn release_group(&self) {
        let mut cgroup = lock(&self.cgroup);
        if let Some(cgroup) = cgroup.take()
            && let Err(error) = cgroup.remove()
        {
            tracing::warn!(%error, "a control group could not be removed; it is tried again");
        }
    }

    fn write_end(&self, exited: &Exited) -> Result<()> {
        let recorded = self.record_end(exited);
        // Where the end can't be written, on a full disk for one, it runs no more all the same.
        self.dir.set_running(None).and(recorded)
    }

    fn record_end(&self, exited: &Exited) -> Result<()> {
        if !self.dir.is_ephemeral()
            && let Some(mut record) = self.dir.record()?
        {
            record.exited = Some(exited.clone());
            self.dir.set_record(&record)?;
        }
        Ok(())
    }

    pub fn exited(&self) -> Option<Exited> {
        match &*lock(&self.end) {
            Ending::Done(exited) => Some(exited.clone()),
            _ => None,
        }
    }

    /// What was collected of an output.
    pub fn output(&self, stream: super::Stream) -> Result<Vec<u8>> {
        if self.log.collects(stream) {
            return Ok(self.log.get(stream).0);
        }
        let error =
            Error::new(ErrorKind::State, format!("{stream:?} of the container is not collected here"));
        Err(error.with_path(&self.dir.id).with_remedy(match self.warden {
            None => "ask the handle and the program that have started it",
            Some(_) => {
                "it goes where the builder or Container::set_streams said: to a terminal (Container::terminal), a pipe \
                 (Container::take_stdout, take_stderr), a file or nowhere"
            }
        }))
    }

    pub fn kill(&self, signal: Signal) -> Result<()> {
        if self.exited().is_some() {
            // Until the warden has reaped it, the kernel would take the signal.
            return Err(not_running(&self.dir.id));
        }
        match warden::signal(self.process.pidfd.as_fd(), signal, self.warden.as_deref(), None)? {
            true => Ok(()),
            false => Err(not_running(&self.dir.id)),
        }
    }

    /// Kills and reaps, and nothing is left of its control group.
    pub fn end(&self) -> Result<super::ExitStatus> {
        if let Some(exited) = self.exited() {
            self.release_group();
            return Ok(exited.status);
        }
        match self.kill(Signal::SIGKILL) {
            Err(error) if error.kind() == ErrorKind::State => {}
            other => other?,
        }
        match self.process_end(Some(Instant::now() + KILL_TIME))? {
            Some(exit) => {
                let status = self.finish(exit);
                self.release_group();
                status
            }
            None if crate::sys::message::readable(&*self.process.pidfd, Some(Instant::now()))? => {
                let error = Error::new(ErrorKind::TimedOut, "it has ended, but the warden does not tell how");
                Err(error.with_remedy(
                    "the process coracle-warden of this program is stopped or gets no time: continue it \
                     (SIGCONT), or kill it: everything that it started goes with it",
                ))
            }
            None => Err(Error::new(ErrorKind::TimedOut, "SIGKILL has not ended the container").with_remedy(
                "a process of it hangs in the kernel (state D), perhaps on a network filesystem; its name and its ids \
                 stay taken until that has ended and a Store::open has swept",
            )),
        }
    }

    /// As a caller asks for it; see [`freeze`](Self::freeze).
    pub fn pause(&self, freeze: bool) -> Result<()> {
        pausing::pause(self, freeze)
    }

    /// Has it stand still or go on, in the turn of whoever does that.
    ///
    /// # Errors
    /// `State` where it does so already, or has ended.
    pub(super) fn freeze(&self, freeze: bool) -> Result<()> {
        if self.exited().is_some() {
            return Err(not_running(&self.dir.id));
        }
        let cgroup = lock(&self.cgroup);
        let cgroup = cgroup.as_ref().ok_or_else(no_cgroup)?;
        // The kernel knows, whichever handle or program has done it.
        if cgroup.is_frozen()? == freeze {
            if !freeze {
                // Where nothing can be paused, that is the error.
                cgroup.thaw(KILL_TIME)?;
            }
            let what = if freeze { "the container is paused" } else { "the container is not paused" };
            return Err(Error::new(ErrorKind::State, what).with_path(&self.dir.id));
        }
        if freeze { cgroup.freeze(KILL_TIME) } else { cgroup.thaw(KILL_TIME) }
    }

    /// Lets it go on where it is paused.
    pub fn thaw(&self) -> Result<()> {
        match lock(&self.cgroup).as_ref() {
            Some(cgroup) if cgroup.is_frozen()? => cgroup.thaw(KILL_TIME),
            _ => Ok(()),
        }
    }

    pub fn is_paused(&self) -> bool {
        lock(&self.cgroup).as_ref().is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
    }

    pub fn stats(&self) -> Result<Stats> {
        if self.exited().is_some() {
            return Err(not_running(&self.dir.id));
        }
        let stats = lock(&self.cgroup).as_ref().ok_or_else(no_cgroup)?.stats()?;
        // Of a group that has no directory anywhere there is nothing to tell.
        if stats == Stats::default() { Err(no_cgroup()) } else { Ok(stats) }
    }

    pub fn oom_events(&self) -> Result<OomEvents> {
        if self.exited().is_some() {
            return Err(not_running(&self.dir.id));
        }
        lock(&self.cgroup).as_ref().ok_or_else(no_cgroup)?.oom_events()
    }

    /// The number of the first process here (pidfd's fdinfo, pidfd_open(2)).
    pub fn pid(&self) -> Result<i32> {
        let pid = self.process.pid()?;
        pid.ok_or_else(|| Error::new(ErrorKind::State, "the container is not running"))
    }

    /// A process whose namespaces and root this program may enter, or have entered: the first one, unless that is an
    /// init. It has never executed anything in the container, so an ordinary user may not look into it (ptrace(2),
    /// access mode checking), while its child, the command, is alive as long as it is.
    ///
    /// # Errors
    /// `State` when it has ended, also just now.
    pub fn member(&self) -> Result<(i32, Arc<OwnedFd>)> {
        self.find_member().map_err(|error| match error.kind() {
            // What /proc says of a process that is on its way out.
            ErrorKind::NotFound => not_running(&self.dir.id).with_source(error),
            _ => error,
        })
    }

    fn find_member(&self) -> Result<(i32, Arc<OwnedFd>)> {
        if self.exited().is_some() {
            return Err(not_running(&self.dir.id));
        }
        let first = self.pid()?;
        match namespace(first) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            other => {
                other.call_at("readlink", format!("/proc/{first}/ns/pid"))?;
                return Ok((first, self.process.pidfd.clone()));
            }
        }
        let path = format!("/proc/{first}/task/{first}/children");
        let children = fs::read_to_string(&path).call_at("read", path)?;
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let Some(Ok(pidfd)) = rustix::process::Pid::from_raw(pid)
                .map(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()))
            else {
                continue;
            };
            // Only now the number is known to be the child's, and not of one that came after it.
            if process(pid).is_some_and(|process| process.parent == first) && namespace(pid).is_ok() {
                return Ok((pid, Arc::new(pidfd)));
            }
        }
        // Of one that has ended nothing can be read either.
        let has_ended = crate::sys::message::readable(&*self.process.pidfd, Some(Instant::now()))?;
        if has_ended || !self.warden.as_ref().is_some_and(|warden| warden.is_beyond()) {
            return Err(not_running(&self.dir.id));
        }
        Err(Error::new(
            ErrorKind::PermissionDenied,
            "this program may not look into the container's processes (ptrace(2))",
        )
        .with_path(&self.dir.id)
        .with_remedy("use the container before the program gives up the rights that it was started with"))
    }

    /// All processes in the PID namespace of the first one.
    pub fn top(&self) -> Result<Vec<Process>> {
        let first = self.pid()?;
        let own =
            self.member().and_then(|(pid, _)| namespace(pid).call_at("readlink", "/proc/PID/ns/pid"))?;
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc").call_at("open", "/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Others' processes can't be looked at, and those that have just ended.
            if (pid == first || namespace(pid).is_ok_and(|found| found == own))
                && let Some(process) = process(pid)
            {
                all.push(process);
            }
        }
        all.sort_by_key(|process| process.pid);
        Ok(all)
    }

    /// The thread that takes a started container's output, keeps its time limit and cleans up when it ends.
    pub fn watch(self: Arc<Self>, inner: &Arc<Inner>) -> Result<()> {
        let mut pump = lock(&self.ours).pump().of_the_last();
        let end = inner.end().try_clone_to_owned().call("fcntl(F_DUPFD_CLOEXEC)")?;
        let name = format!("coracle-{}", &self.dir.id[..6]);
        self.watched.store(true, Ordering::Relaxed);
        let run = move || {
            let _ = nix::sys::signal::SigSet::all().thread_block();
            if let Err(error) = self.follow(&mut pump) {
                tracing::warn!(%error, id = self.dir.id, "watching a container");
            }
            self.log.close();
            let _ = rustix::io::write(&end, &1u64.to_ne_bytes());
        };
        std::thread::Builder::new()
            .name(name)
            .stack_size(256 << 10)
            .spawn(run)
            .call("pthread_create")
            .map(drop)
    }

    fn follow(&self, pump: &mut Pump) -> Result<()> {
        let pidfd = self.process.pidfd.as_fd();
        let (mut deadline, mut callback) = (self.deadline, self.callback.as_ref());
        loop {
            // Whatever goes wrong, the time limit is kept and the end is waited for.
            let trouble = match pump.run(&self.log, callback, Some(pidfd), deadline, false) {
                Ok(Stopped::Deadline) => {
                    self.timed_out.store(true, Ordering::Relaxed);
                    deadline = None;
                    self.kill(Signal::SIGKILL).err().filter(|error| error.kind() != ErrorKind::State)
                }
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Panicked => {
                    callback = None;
                    Some(error)
                }
                Err(error) if pump.close() => Some(error),
                Err(error) => {
                    let _ = self.trouble.set(error);
                    break;
                }
            };
            if let Some(trouble) = trouble {
                tracing::warn!(error = %trouble, id = self.dir.id, "watching a container");
                let _ = self.trouble.set(trouble);
            }
        }
        // All of it is there: whoever waits for the end need not wait for this thread.
        self.log.close();
        match self.process.wait(None) {
            Ok(Some(exit)) => {
                let finished = self.finish(exit).map(drop);
                self.release_group();
                finished
            }
            Ok(None) => Ok(()),
            Err(error) => {
                // With the warden the kernel has killed all that was in there.
                self.release_group();
                lock(&self.ports).clear();
                let mut end = lock(&self.end);
                if matches!(*end, Ending::Not) {
                    *end = Ending::Lost;
                    // Other programs may start it again.
                    let (started, finished) = (self.started, SystemTime::now());
                    self.write_end(&Exited { status: super::ExitStatus::lost(), started, finished })?;
                }
                Err(error)
            }
        }
    }

    /// As [`watch`](Self::watch), in the calling thread, for `run`.
    pub fn collect(&self) -> Result<Output> {
        let mut pump = lock(&self.ours).pump().of_the_last();
        let pidfd = self.process.pidfd.as_fd();
        let stopped = pump.run(&self.log, self.callback.as_ref(), Some(pidfd), self.deadline, true);
        let error = match stopped {
            Ok(Stopped::Done) => None,
            Ok(Stopped::Deadline) => Some(time_is_up()),
            Ok(Stopped::TooMuch(stream)) => {
                let error = Error::new(ErrorKind::TooLarge, format!("too much output on {stream:?}"));
                Some(error.with_remedy("raise ContainerBuilder::output_max, or stream the output"))
            }
            Err(error) => Some(error),
        };
        let error = error.map(|first| {
            let mut trouble = self.end().err();
            if first.kind() == ErrorKind::TimedOut {
                // What it still wrote before it was killed.
                let mut rest =
                    |callback| pump.run(&self.log, callback, Some(pidfd), Some(after(KILL_TIME)), false);
                if let Err(error) = rest(self.callback.as_ref()) {
                    trouble.get_or_insert(error);
                    let _ = rest(None);
                }
            }
            trouble.into_iter().fold(first, Error::with_source)
        });
        self.log.close();
        let (stdout, stderr) = (self.log.get(super::Stream::Stdout).0, self.log.get(super::Stream::Stderr).0);
        if let Some(error) = error {
            return Err(error.with_output(stdout, stderr));
        }
        let status = self.wait(None)?.ok_or_else(|| Error::new(ErrorKind::State, "not ended"))?;
        Ok(Output { status, stdout, stderr, report: self.report.clone() })
    }

    /// For other programs: where the first process is.
    pub fn publish_record(&self, ports: Vec<(u16, std::net::SocketAddr)>) -> Result<()> {
        let pid = self.pid()?;
        let store = &self.dir.store;
        let door = match &self.warden {
            Some(warden) => warden.open_door(store.locks_dir(), &store.path().join("locks"))?,
            None => String::new(),
        };
        let cgroups = lock(&self.cgroup).as_ref().map(|cgroup| cgroup.paths().map(Into::into).collect());
        self.dir.set_running(Some(&RunningRecord {
            pid,
            namespace: pids::own().unwrap_or(0),
            start_time: super::record::start_time(pid).unwrap_or(0),
            owner: super::record::this_program(),
            started: self.started,
            cgroups: cgroups.unwrap_or_default(),
            seat: Some(store.seat()?),
            door,
            single: self.single,
            ports,
            report: if self.dir.is_ephemeral() { Default::default() } else { self.report.to_json() },
        }))
    }
}

fn time_is_up() -> Error {
    Error::new(ErrorKind::TimedOut, "the container's time was up; it was killed")
        .with_remedy("give it more with ContainerBuilder::timeout")
}

pub(super) fn not_running(id: &str) -> Error {
    Error::new(ErrorKind::State, "the container is not running")
        .with_path(id)
        .with_remedy("it has ended: Container::start starts it again")
}

fn no_cgroup() -> Error {
    Error::new(ErrorKind::Unsupported, "the container has no control group")
        .lacks(words::NO_CGROUP.of(Feature::Cgroup))
}

fn namespace(pid: i32) -> std::io::Result<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid"))
}

/// Of a command, in bytes.
const COMMAND_MAX: u64 = 64 << 10;

/// proc_pid_stat(5), proc_pid_status(5), proc_pid_cmdline(5).
fn process(pid: i32) -> Option<Process> {
    // Its name is the process's own to choose, any bytes; and so is where its command lies (PR_SET_MM), and how long it is.
    let read = |file: &str| {
        let mut bytes = Vec::new();
        let file = fs::File::open(format!("/proc/{pid}/{file}")).ok()?;
        file.take(COMMAND_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let (stat, status, words) = (read("stat")?, read("status")?, read("cmdline")?);
    let [stat, status] = [&stat, &status].map(|bytes| String::from_utf8_lossy(bytes));
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let uid =
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())?;
    let words: Vec<_> =
        words.split(|b| *b == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
    let command = match words.is_empty() {
        false => words.join(" "),
        true => format!("[{}]", head.split_once('(')?.1),
    };
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        uid,
        state: fields.first()?.chars().next()?,
        time: Duration::from_micros(ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1)),
        command,
    })
}
