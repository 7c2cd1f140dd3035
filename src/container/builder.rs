//! The builder: docker's settings in Rust's manners.
#![forbid(unsafe_code)]

use super::devices::Device;
use super::given::Given;
use super::output::{Stdio, Stream, Streams};
use super::profile::Profile;
use super::protection::Protection;
use super::spec::{FileContent, Mount, Publish, SeccompChoice, Spec};
use super::{Container, Output};
use crate::cgroup::{Limits, Requirement};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::network::Network;
use crate::security::landlock::Landlock;
use crate::security::limit::{Sysctl, Ulimit};
use crate::security::paths::READ_ONLY;
use crate::signal::Signal;
use crate::sys::diagnose;
use crate::volume::Volume;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A container to be. Cheap to clone; [`start`](Self::start) may be called again.
///
/// Settings that can be wrong are checked when the container is made, so that the chain stays a chain.
///
/// ```no_run
/// use coracle::{Container, Image, Store};
/// let store = Store::open_default()?;
/// let out = Container::builder(&Image::host(&store)?)
///     .command(["sh", "-c", "echo $WHO; cat"])
///     .env("WHO", "me")
///     .stdin("from stdin")
///     .memory_max(64 << 20)
///     .run()?;
/// assert!(out.status.success());
/// assert_eq!(out.stdout, b"me\nfrom stdin");
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ContainerBuilder {
    pub(super) image: Image,
    pub(super) spec: Spec,
    pub(super) streams: Streams,
    pub(super) given: Arc<Given>,
    /// The first setting that can't be: reported when the container is made.
    pub(super) wrong: Option<Arc<Error>>,
}

impl ContainerBuilder {
    pub(super) fn new(image: &Image) -> Self {
        let (spec, streams, given) = (Spec::default(), Streams::default(), Arc::default());
        Self { image: image.clone(), spec, streams, given, wrong: None }
    }

    fn check<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong.get_or_insert_with(|| Arc::new(error));
                None
            }
        }
    }

    /// The name, as docker allows it (`[a-zA-Z0-9][a-zA-Z0-9_.-]*`) and unique in the store. By default one is made.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.spec.name = Some(name.into());
        self
    }

    /// The host name in the container, at most 64 bytes; by default the first 12 digits of its id.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.spec.hostname = Some(name.into());
        self
    }

    /// A label: found by filters, of no meaning to this crate.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.insert(key.into(), value.into());
        self
    }

    /// Replaces the image's CMD: what is executed, or, where there is an entrypoint, its arguments.
    pub fn command<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.spec.command = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Replaces the image's ENTRYPOINT and clears its CMD.
    pub fn entrypoint<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.spec.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Appends one argument to the command.
    pub fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.spec.args.push(word.into());
        self
    }

    /// Appends arguments to the command.
    pub fn args<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.spec.args.extend(words.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable, over the image's.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.spec.env.push((name.into(), value.into()));
        self
    }

    /// Sets several environment variables.
    pub fn envs<K: Into<OsString>, V: Into<OsString>>(
        mut self,
        vars: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.spec.env.extend(vars.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Drops the image's environment, and what was set so far.
    pub fn env_clear(mut self) -> Self {
        self.spec.env.clear();
        self.spec.env_cleared = true;
        self
    }

    /// The working directory, absolute; made if it is missing.
    pub fn working_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.spec.working_dir = Some(path.into());
        self
    }

    /// The user (and group): `name`, `uid`, `name:group`, `uid:gid`. Names are looked up in the image; `root` is 0 where it has none.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.spec.user = Some(user.into());
        self
    }

    /// A supplementary group, by name or number.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.spec.groups.push(group.into());
        self
    }

    /// The root filesystem can't be written; mounts can.
    pub fn read_only(mut self, yes: bool) -> Self {
        self.spec.read_only = yes;
        self
    }

    /// A mount.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.spec.mounts.push(mount);
        self
    }

    /// A tmpfs with the defaults of [`Mount::tmpfs`].
    pub fn tmpfs(self, target: impl Into<PathBuf>) -> Self {
        self.mount(Mount::tmpfs(target))
    }

    /// A directory or file of the host. See [`Mount::bind`].
    pub fn bind(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.mount(Mount::bind(source, target))
    }

    /// A volume. On its first use it gets a copy of what the image has at `target`.
    pub fn volume(self, volume: &Volume, target: impl Into<PathBuf>) -> Self {
        self.mount(Mount::volume(volume.name(), target))
    }

    /// Writes a file (mode 0644, root's) before the start. Its directory is made if it is missing. It is kept in the
    /// container's record, which is for small files: about 15 MiB in all, else an error of kind `TooLarge`. In a tmpfs it is
    /// written anew at each start; in a volume or a bind it is an error of kind `InvalidInput`, and so is, at the start, one that
    /// a mount would hide because a symbolic link of the image's leads there; `ReadOnly` where the link leads into /proc, /sys
    /// or /dev.
    pub fn file(self, path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> Self {
        self.file_mode(path, bytes, 0o644)
    }

    /// The same with a mode.
    pub fn file_mode(mut self, path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.spec.files.push(FileContent { path: path.into(), bytes: bytes.into(), mode });
        self
    }

    /// A device of the host: its path, or a [`Device`] that says more.
    pub fn device(mut self, device: impl Into<Device>) -> Self {
        self.spec.devices.push(device.into());
        self
    }

    /// A resource limit of each process (setrlimit(2)).
    pub fn ulimit(mut self, limit: Ulimit) -> Self {
        self.spec.ulimits.push(limit);
        self
    }

    /// A namespaced kernel parameter, such as `net.ipv4.ip_forward`.
    ///
    /// By default every user of a container with a network of its own may listen on all of its ports
    /// (`net.ipv4.ip_unprivileged_port_start` is 0) and may ping (`net.ipv4.ping_group_range` has its groups to 65535), ip(7),
    /// icmp(7). The usual `1024` and `1 0` take that back; the latter not where there is one id, as there is no group 1.
    /// These two are left out where the kernel has them not, or does not let them be written; what is said here has to be
    /// written, else the start is an error.
    pub fn sysctl(mut self, name: &str, value: impl Into<String>) -> Self {
        if let Some(sysctl) = self.check(Sysctl::new(name, value)) {
            self.spec.sysctls.push(sysctl);
        }
        self
    }

    /// Adds a capability to docker's default set: `"NET_ADMIN"`, `"CAP_SYS_PTRACE"`, `"ALL"`.
    pub fn cap_add(mut self, name: impl Into<String>) -> Self {
        self.spec.cap_add.push(name.into());
        self
    }

    /// Takes a capability away, or `"ALL"`.
    pub fn cap_drop(mut self, name: impl Into<String>) -> Self {
        self.spec.cap_drop.push(name.into());
        self
    }

    /// The filter of system calls: docker's default profile, unless this says otherwise.
    pub fn seccomp(mut self, seccomp: crate::security::seccomp::Seccomp) -> Self {
        use crate::security::seccomp::Seccomp;
        self.spec.seccomp = match seccomp {
            Seccomp::Default => SeccompChoice::Default,
            Seccomp::Strict => SeccompChoice::Strict,
            Seccomp::Unconfined => SeccompChoice::Unconfined,
            Seccomp::Profile(profile) => SeccompChoice::Profile(profile.json().to_owned()),
        };
        self
    }

    /// Whether setuid programs and file capabilities do nothing (`PR_SET_NO_NEW_PRIVS`); true by default. `sudo`,
    /// `su` and a `ping` with file capabilities need false.
    pub fn no_new_privileges(mut self, yes: bool) -> Self {
        self.spec.new_privileges = !yes;
        self
    }

    /// What [`masked_paths`](Self::masked_paths) replaces: docker's list, also those of it that this kernel has not.
    ///
    /// ```
    /// # fn show(builder: coracle::ContainerBuilder) -> coracle::ContainerBuilder {
    /// let mut paths = coracle::ContainerBuilder::default_masked_paths();
    /// paths.push("/proc/uptime".into());
    /// builder.masked_paths(paths)
    /// # }
    /// ```
    pub fn default_masked_paths() -> Vec<PathBuf> {
        super::start::all_masked().collect()
    }

    /// What [`read_only_paths`](Self::read_only_paths) replaces: docker's list.
    pub fn default_read_only_paths() -> Vec<PathBuf> {
        READ_ONLY.iter().map(PathBuf::from).collect()
    }

    /// Replaces the list of paths that are hidden: docker's, which are all in /proc and /sys. Others can be named as well,
    /// `/etc/passwd` for one; a directory is covered by an empty one, a file by /dev/null.
    pub fn masked_paths<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.spec.masked = Some(paths.into_iter().map(Into::into).collect());
        self
    }

    /// Replaces the list of paths that can't be written: docker's, which are all in /proc. Others can be named as well, with
    /// all that is mounted in them.
    pub fn read_only_paths<P: Into<PathBuf>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.spec.read_only_paths = Some(paths.into_iter().map(Into::into).collect());
        self
    }

    /// Whether PID 1 is a small init that reaps orphans and passes signals on, and the command its child.
    pub fn init(mut self, yes: bool) -> Self {
        self.spec.init = yes;
        self
    }

    /// The signal that [`Container::stop`] sends first; by default the image's, else SIGTERM.
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.spec.stop_signal = Some(signal.number());
        self
    }

    /// How long whoever stops the container shall wait before it is killed; kept for
    /// [`Container::stop_timeout`].
    pub fn stop_timeout(mut self, time: Duration) -> Self {
        self.spec.stop_timeout = Some(time);
        self
    }

    /// How long making the container's root filesystem, its namespaces and its command may take: by default a minute, which
    /// is for filesystems that hang (a network's, whose server is away). The start fails with `TimedOut` then, names the
    /// call that has not come back, and what was made is killed. What this program looks up itself before, like the
    /// source of a bind mount, waits as any access of a program's does.
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.spec.start_timeout = Some(time);
        self
    }

    /// Where the command's input comes from; by default nowhere. Bytes and strings convert to [`Stdio`].
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.streams.stdin = stdin.into();
        self
    }

    /// Where the command's output goes; by default it is collected, see [`Stdio`].
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.streams.stdout = stdout.into();
        self
    }

    /// Where the command's errors go; by default they are collected.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.streams.stderr = stderr.into();
        self
    }

    /// Called with the output as it comes, from a thread of the library (of [`run`](Self::run): the caller's).
    ///
    /// When it panics it is not called again, and `wait` fails with kind `Panicked` at the command's end; `run` kills the
    /// command then.
    pub fn on_output(mut self, callback: impl Fn(Stream, &[u8]) + Send + Sync + 'static) -> Self {
        self.streams.on_output = Some(Arc::new(callback));
        self
    }

    /// At most so many bytes are collected of each stream, 16 MiB by default. [`run`](Self::run) ends with an error
    /// of kind `TooLarge` at more; of a started container the last bytes are kept.
    pub fn output_max(mut self, bytes: usize) -> Self {
        self.streams.output_max = Some(bytes);
        self
    }

    /// Gives the command a terminal: its own PTY as stdin, stdout and stderr, whatever was said of these.
    pub fn tty(mut self, yes: bool) -> Self {
        self.spec.tty = yes;
        self
    }

    /// The container is killed after this time. `wait` and `run` then fail with an error of kind `TimedOut`.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.spec.timeout = Some(time);
        self
    }

    /// The writable layer is in memory: faster, and gone when the container ends.
    pub fn writable_in_memory(mut self, yes: bool) -> Self {
        self.spec.in_memory = yes;
        self
    }

    /// At most so many bytes can be written to the root filesystem, and 1048576 files. In memory always; on disk, as
    /// root, where the store's filesystem has project quotas (ext4 with the features `quota` and `project`, or xfs, mounted
    /// with `prjquota`), else an error of kind `Unsupported`. A write beyond is ENOSPC in memory and EDQUOT on disk; what
    /// is removed is free again. Directories count, of which an empty layer on disk has some (64 KiB are enough for them);
    /// volumes and other mounts don't.
    pub fn disk_max(mut self, bytes: u64) -> Self {
        self.spec.disk_max = Some(bytes);
        self
    }

    fn limit(mut self, change: impl FnOnce(Limits) -> Limits) -> Self {
        self.spec.limits = change(std::mem::take(&mut self.spec.limits));
        self
    }

    /// Memory in bytes. Above it the kernel kills (see [`ExitStatus::oom_killed`](super::ExitStatus::oom_killed)).
    pub fn memory_max(self, bytes: u64) -> Self {
        self.limit(|limits| limits.memory_max(bytes))
    }

    /// Memory and swap together, in bytes; as much as `memory_max` means no swap.
    pub fn memory_swap_max(self, bytes: u64) -> Self {
        self.limit(|limits| limits.memory_swap_max(bytes))
    }

    /// Processors' worth of time: 0.5 is half of one.
    pub fn cpus(self, cpus: f64) -> Self {
        self.limit(|limits| limits.cpus(cpus))
    }

    /// The share of processor time against neighbours, 1 to 10000, 100 by default.
    pub fn cpu_weight(self, weight: u64) -> Self {
        self.limit(|limits| limits.cpu_weight(weight))
    }

    /// The processors it may run on: `"0-1,3"`.
    pub fn cpuset_cpus(self, cpus: impl Into<String>) -> Self {
        self.limit(|limits| limits.cpuset_cpus(cpus))
    }

    /// Processes and threads, of all users of the container together; 2048 (best effort) by default.
    ///
    /// Where no control group can be had, as for most ordinary users, it is enforced by RLIMIT_NPROC of a user namespace of
    /// the container's own (2 at least), and the report says so. All containers of an ordinary user count on that user's own
    /// limit as well (`ulimit -u`), whatever users they have inside: a container that uses it up leaves none to the user's
    /// other programs, so give it a smaller number. Whoever is refused a process then gets `ResourceExhausted`.
    pub fn pids_max(mut self, pids: u64) -> Self {
        self.spec.pids_unlimited = false;
        self.limit(|limits| limits.pids_max(pids))
    }

    /// As many processes and threads as the host lets this program have: without the limit that is there by default, unless
    /// [`pids_max`](Self::pids_max) or [`limits`](Self::limits) sets one. For programs that are trusted: a fork bomb in such a
    /// container is one of the host's.
    pub fn pids_unlimited(mut self) -> Self {
        self.spec.pids_unlimited = true;
        self
    }

    /// All limits at once.
    pub fn limits(mut self, limits: Limits) -> Self {
        // What was required before and is best effort now.
        self.spec.levels.retain(|(protection, _)| match protection {
            Protection::Limit(kind) => limits.requirement_of(*kind) == Requirement::Required,
            _ => true,
        });
        self.limit(|_| limits)
    }

    /// Settings that belong together, to begin with: [`Profile::untrusted`] is the strictest set. What is said after it
    /// counts; what it decides and was said before is an error of kind `InvalidInput`, as one of both would be lost.
    pub fn profile(mut self, profile: Profile) -> Self {
        let result = profile.apply(&mut self.spec);
        self.check(result);
        self
    }

    /// Whether a protection or limit that this host can't enforce is an error (the default of most) or only a line in the
    /// report. The last word on each counts.
    pub fn requirement(mut self, protection: impl Into<Protection>, requirement: Requirement) -> Self {
        let result = self.spec.set_level(protection.into(), requirement);
        self.check(result);
        self
    }

    /// It is enforced, or there is an error and no container: also where it was turned off (kind `InvalidInput`), or is a
    /// limit without a value. [`Error::protection`] names it.
    pub fn require(self, protection: impl Into<Protection>) -> Self {
        self.requirement(protection, Requirement::Required)
    }

    /// It is enforced as far as this host can, and the [`Report`](crate::Report) says what became of it. For those of which
    /// there is a lesser form, see [`Protection`]; else an error of kind `InvalidInput`.
    pub fn best_effort(self, protection: impl Into<Protection>) -> Self {
        self.requirement(protection, Requirement::BestEffort)
    }

    /// A second wall around its files, see [`Landlock`]; `None` for none, which is the default. To say of
    /// [`Protection::Landlock`] how much it matters asks for it, too.
    pub fn landlock(mut self, landlock: impl Into<Option<Landlock>>) -> Self {
        self.spec.landlock = landlock.into();
        self
    }

    /// The network; [`Network::none`] by default.
    pub fn network(mut self, network: Network) -> Self {
        self.spec.network = network;
        self
    }

    /// A line for /etc/hosts.
    pub fn host(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.spec.hosts.push((name.into(), address.to_string()));
        self
    }

    /// Forwards a free port of the host's loopback to a TCP port of the container. See
    /// [`Container::host_addr`](super::Container::host_addr).
    pub fn publish(self, port: u16) -> Self {
        self.publish_at(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), port)
    }

    /// Forwards this address of the host; port 0 is a free one.
    pub fn publish_at(mut self, host: SocketAddr, port: u16) -> Self {
        self.spec.publish.push(Publish { container: port, address: host.ip(), host: host.port() });
        self
    }

    /// Makes the container, without starting it.
    ///
    /// # Errors
    /// `InvalidInput` for a setting that can't be, also a VOLUME of the image; `AlreadyExists` for a name that is taken; and what
    /// the store says.
    pub fn create(&self) -> Result<Container> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.again());
        }
        Container::create(self).map_err(diagnose::explain_call)
    }

    /// Makes the container and starts it.
    ///
    /// # Errors
    /// Also `Exec` when the command can't be executed, `Unsupported` for what this host can't have, `Setup`, and the
    /// error of the system call that failed.
    pub fn start(&self) -> Result<Container> {
        let container = self.create()?;
        container.start()?;
        Ok(container)
    }

    /// Starts the container, waits for its end, collects its output and removes it.
    ///
    /// # Errors
    /// Also `TooLarge` for more output than [`output_max`](Self::output_max), `TimedOut`: these have the output until then,
    /// [`Error::stdout`](crate::Error::stdout) and [`Error::stderr`](crate::Error::stderr).
    pub fn run(&self) -> Result<Output> {
        if self.spec.tty {
            return Err(Error::new(ErrorKind::InvalidInput, "run() with a terminal has nobody to talk to")
                .with_remedy("use start() and Container::terminal()"));
        }
        self.create()?.run_to_end()
    }
}
