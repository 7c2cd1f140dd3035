//! What several test programs need. A test that needs a peer (skopeo, umoci, …) is marked
//! `#[ignore = "needs …: run with --include-ignored"]`; run without the peer, it fails.
#![allow(dead_code)] // each test program uses its part

pub mod certificates;
pub mod distribution;
pub mod docker;
pub mod podman;

use coracle::Digest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Runs a peer tool and gives its output.
pub fn peer(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let mut command = Command::new(program);
    let Output { status, stdout, stderr } = command
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; this test needs it"));
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// A file to be archived.
pub enum Node<'a> {
    File(&'a [u8]),
    Program(&'a [u8]),
    Dir,
    Link(&'a str),
    HardLink(&'a str),
}

/// A tar archive of these files.
pub fn tar<'a>(files: impl IntoIterator<Item = (&'a str, Node<'a>)>) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, node) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_mode(if matches!(node, Node::Dir | Node::Program(_)) { 0o755 } else { 0o644 });
        let (kind, data, target) = match node {
            Node::File(data) | Node::Program(data) => (tar::EntryType::Regular, data, None),
            Node::Dir => (tar::EntryType::Directory, &b""[..], None),
            Node::Link(target) => (tar::EntryType::Symlink, &b""[..], Some(target)),
            Node::HardLink(target) => (tar::EntryType::Link, &b""[..], Some(target)),
        };
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        // By hand: hostile names are wanted too.
        let name = path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        if let Some(target) = target {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        archive.append(&header, data).unwrap();
    }
    archive.into_inner().unwrap()
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[cfg(feature = "zstd")]
pub fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

/// A small image: its layers as plain archives, and its configuration.
#[derive(Clone)]
pub struct Fixture {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
}

impl Fixture {
    /// An image with one file in each layer.
    pub fn new(texts: &[&str]) -> Self {
        let layer = |(n, text): (usize, &&str)| {
            tar([("dir/", Node::Dir), (format!("dir/file{n}").as_str(), Node::File(text.as_bytes()))])
        };
        Self::of(texts.iter().enumerate().map(layer).collect())
    }

    pub fn of(layers: Vec<Vec<u8>>) -> Self {
        let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        Self::of_machine(layers, arch)
    }

    pub fn of_machine(layers: Vec<Vec<u8>>, arch: &str) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "architecture": arch, "os": "linux", "created": "2026-01-02T03:04:05Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["A=1"], "Healthcheck": {"Test": ["NONE"]}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "test"}],
        });
        Self { layers, config: config.to_string().into_bytes() }
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    fn config_name(&self) -> String {
        format!("{}.json", self.id().hex())
    }
}

/// The members of a docker archive, by name.
pub fn docker_members(images: &[(&Fixture, &[&str])]) -> Vec<(String, Vec<u8>)> {
    let mut members = BTreeMap::new();
    let mut list = Vec::new();
    for (image, names) in images {
        let mut paths = Vec::new();
        for layer in &image.layers {
            let path = format!("{}/layer.tar", &Digest::of(layer).hex()[..12]);
            members.insert(path.clone(), layer.clone());
            paths.push(path);
        }
        members.insert(image.config_name(), image.config.clone());
        list.push(json!({"Config": image.config_name(), "RepoTags": names, "Layers": paths}));
    }
    members.insert("manifest.json".into(), Value::from(list).to_string().into_bytes());
    members.into_iter().collect()
}

pub fn pack(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    tar(members.iter().map(|(name, data)| (name.as_str(), Node::File(data))))
}

pub fn docker_archive(images: &[(&Fixture, &[&str])]) -> Vec<u8> {
    pack(&docker_members(images))
}

/// The members of an image layout; layers compressed by `compress`, whose media type ends in `suffix`.
pub fn oci_members(
    image: &Fixture,
    name: Option<&str>,
    suffix: &str,
    compress: fn(&[u8]) -> Vec<u8>,
) -> Vec<(String, Vec<u8>)> {
    let mut members = BTreeMap::new();
    let mut blob = |media_type: &str, data: Vec<u8>| {
        let digest = Digest::of(&data);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": data.len()});
        members.insert(format!("blobs/sha256/{}", digest.hex()), data);
        descriptor
    };
    let layer_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
    let layers: Vec<_> = image.layers.iter().map(|layer| blob(&layer_type, compress(layer))).collect();
    let config = blob("application/vnd.oci.image.config.v1+json", image.config.clone());
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    let mut listed = blob(media_type, manifest.to_string().into_bytes());
    if let Some(name) = name {
        listed["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    let index = json!({"schemaVersion": 2, "manifests": [listed]});
    members.insert("index.json".into(), index.to_string().into_bytes());
    members.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    members.into_iter().collect()
}

pub fn write_layout(dir: &Path, members: &[(String, Vec<u8>)]) {
    for (name, data) in members {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), data).unwrap();
    }
}

/// How many entries a directory has.
pub fn count(dir: impl AsRef<Path>) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// Runs one test of this program in a process of its own, with `COLUMN=value` in its environment.
pub fn child(test: &str, vars: &[(&str, &OsStr)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1", "--include-ignored"])
        .envs(vars.iter().copied());
    command
}

const ALONE: &str = "CORACLE_TEST_ALONE";

/// Runs a test of this program, named with its modules, again in a process of its own, where it finds `true`.
#[track_caller]
pub fn is_own_process(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    passes(child(test, &[(ALONE, "1".as_ref())]));
    false
}

/// A test in a process of its own has to run and to pass.
#[track_caller]
pub fn passes(mut test: Command) {
    let out = test.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains("1 passed"), "no such test: {test:?}");
}

/// This machine's own root as an image, in a store of its own.
pub fn host() -> coracle::Image {
    coracle::Image::host(&coracle::Store::temp().unwrap()).unwrap()
}

/// A shell script in a container.
pub fn sh(image: &coracle::Image, script: &str) -> coracle::ContainerBuilder {
    coracle::Container::builder(image).command(["sh", "-c", script])
}

/// Runs a shell script that has to succeed, and gives its output without the last newline.
#[track_caller]
pub fn say(builder: &coracle::ContainerBuilder) -> String {
    let out = builder.run().unwrap();
    assert!(out.status.success(), "{}: {}{}", out.status, out.stdout_text(), out.stderr_text());
    out.stdout_text().trim_end().to_owned()
}

/// Starts a container that says one line when it is ready, and waits for that line.
#[track_caller]
pub fn ready(builder: &coracle::ContainerBuilder) -> coracle::Container {
    use std::io::BufRead;
    let container = builder.clone().stdout(coracle::Stdio::piped()).start().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(container.take_stdout().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        panic!(
            "it ended: {:?}: {}",
            container.wait(),
            text(&container.logs(coracle::Stream::Stderr).unwrap())
        );
    }
    container
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// Whether a running container has one user id only, for want of a range.
pub fn is_single(container: &coracle::Container) -> bool {
    let report = container.report();
    matches!(report.get("id_range").unwrap().outcome(), coracle::Outcome::NotEnforced(_))
}

/// How many of so many tries. In an emulated machine each takes twenty times as long: there it is a fourth.
pub fn tries(all: u32) -> u32 {
    let is_emulated = std::env::var("CORACLE_LANE").is_ok_and(|lane| lane.starts_with("vm-"));
    if is_emulated { all / 4 } else { all }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A handle to a process, which no later process of the same number can be taken for.
pub fn pidfd(pid: i32) -> std::os::fd::OwnedFd {
    try_pidfd(pid).unwrap()
}

/// None of one that has ended.
pub fn try_pidfd(pid: i32) -> Option<std::os::fd::OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => None,
        other => Some(other.unwrap()),
    }
}

/// Whether the process ends in time.
pub fn ends(pidfd: &std::os::fd::OwnedFd, within: std::time::Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let time = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&time)).unwrap() > 0
}

/// The control groups whose name has this in it.
pub fn cgroups_with(part: &str) -> Vec<std::path::PathBuf> {
    fn walk(dir: &Path, part: &str, found: &mut Vec<std::path::PathBuf>) {
        // Others' groups come and go meanwhile.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(part) {
                    found.push(entry.path());
                }
                walk(&entry.path(), part, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), part, &mut found);
    found
}

/// Set in a process that a test has started from its own program.
pub const ROLE: &str = "CORACLE_TEST_ROLE";

/// Runs `test` again under a tool, where it finds `true`. It ends, too.
pub fn is_under(test: &str, flags: &[&str]) -> bool {
    if std::env::var_os(ROLE).is_some() {
        return true;
    }
    again(test, flags, &[]);
    false
}

/// This program where every user finds it.
pub fn own_copy() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("program");
    // By another process: what this one has open for writing, a child of another test has for a moment too, and then it can't
    // be executed.
    peer("cp", [std::env::current_exe().unwrap(), program.clone()]);
    (dir, program)
}

/// Runs `test` again under a tool, with `vars` in its environment.
pub fn again(test: &str, flags: &[&str], vars: &[(&str, &Path)]) {
    let (_dir, program) = own_copy();
    again_from(&program, test, flags, vars);
}

/// Likewise, from that copy of this program.
pub fn again_from(program: &Path, test: &str, flags: &[&str], vars: &[(&str, &Path)]) {
    let (tool, flags) = flags.split_first().unwrap();
    let mut command = Command::new(tool);
    command.args(flags).arg(program).args(["--exact", test, "--nocapture", "--include-ignored"]);
    command.env(ROLE, "1").env("HOME", program.parent().unwrap()).env_remove("XDG_DATA_HOME");
    command.envs(vars.iter().copied());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let process = pidfd(child.id() as i32);
    let said = std::thread::spawn(|| child.wait_with_output().unwrap());
    if !ends(&process, Duration::from_secs(100)) {
        rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL).unwrap();
        panic!("it hangs: {:?}", said.join().unwrap());
    }
    let out = said.join().unwrap();
    assert!(out.status.success(), "{}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains("1 passed"), "no test {test}");
}

/// The warden that a container has; none once it or the container has ended. Right after its start, the parent of its first
/// process may still be the process that built its root filesystem: the warden is the first one of its PID namespace.
pub fn find_warden(container: &coracle::Container) -> Option<i32> {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while std::time::Instant::now() < deadline {
        let first = container.pid().ok()?;
        let parent = container.top().ok()?.iter().find(|process| process.pid == first)?.parent;
        let status = fs::read_to_string(format!("/proc/{parent}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        // A number of its own in this namespace as well (proc_pid_status(5)).
        if numbers.is_some_and(|numbers| {
            let mut numbers = numbers.split_whitespace().rev();
            numbers.next() == Some("1") && numbers.next().is_some()
        }) {
            return Some(parent);
        }
        std::thread::park_timeout(Duration::from_micros(100));
    }
    panic!("the warden of {} is not found", container.id());
}

/// The same of a container that runs.
#[track_caller]
pub fn warden_of(container: &coracle::Container) -> i32 {
    find_warden(container).expect("the container's warden")
}

/// Waits until it is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// An executable file. Another process writes it: whatever is forked of this one meanwhile has no descriptor of it, with which nobody
/// could execute it (ETXTBSY, execve(2)).
pub fn program(path: &Path, script: &str) {
    let arguments = ["-m", "755", "/dev/stdin"].map(OsStr::new).into_iter().chain([path.as_os_str()]);
    let mut install = Command::new("install").args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    install.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success(), "{}", path.display());
}

/// An address of this machine that nobody else is given as long as this is there: it is bound, and nobody listens on it. Whoever is
/// told it may listen there all the same, with SO_REUSEADDR (socket(7)); a port that was only looked up would be anybody's again.
pub struct Reserved {
    pub address: std::net::SocketAddr,
    _socket: std::os::fd::OwnedFd,
}

impl Reserved {
    pub fn new() -> Self {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = getsockname(&socket).unwrap().try_into().unwrap();
        Self { address, _socket: socket }
    }
}

const MOUNTED: &str = "CORACLE_TEST_MOUNTED";

/// Runs `tests`, named with their modules, one after the other where a tmpfs with these options is mounted; `between` is a command
/// of the shell that is executed after the first, with the mount's path as `$m`.
///
/// It is in a mount namespace of its own, which goes with the test whatever happens. An ordinary user mounts it in a user namespace,
/// and runs the test in one below, as an ordinary user again.
#[track_caller]
pub fn on_small_filesystem(options: &str, tests: &[&str], between: &str) {
    let mount = tempfile::tempdir().unwrap();
    let mut words = Vec::new();
    if !is_root() {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        words.extend(["unshare", "--user"].map(str::to_owned));
        words.extend([format!("--map-user={uid}"), format!("--map-group={gid}")]);
    }
    let program = std::env::current_exe().unwrap();
    words.extend(
        [program.to_str().unwrap(), "--nocapture", "--test-threads=1", "--include-ignored"]
            .map(str::to_owned),
    );
    // "1 passed" of each: a name that does not exist would pass as well.
    let mut script = "m=$1 o=$2; shift 2; mount -t tmpfs -o \"$o\" tmpfs \"$m\" || exit 77\n".to_owned();
    for (number, test) in tests.iter().enumerate() {
        if number == 1 {
            script += &format!("{between}\n");
        }
        script += &format!("\"$@\" --exact {test} || exit 1\n");
    }
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]);
    command.arg(mount.path()).arg(options).args(&words).env(MOUNTED, mount.path()).stdin(Stdio::null());
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
    assert_eq!(text(&out.stdout).matches("1 passed").count(), tests.len(), "{}", text(&out.stdout));
}

/// Where it is mounted, in such a test.
pub fn mounted() -> Option<PathBuf> {
    std::env::var_os(MOUNTED).map(Into::into)
}
