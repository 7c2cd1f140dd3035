//! Filesystems that hang: a start has its time, and nothing of it stays.
//!
//! The filesystem is one of the kernel's FUSE kind (/dev/fuse, fuse(4)) that this test serves itself: whoever is not this
//! program is not answered about the name `hang`, until it is killed, and about the name `stuck` not even then.

mod common;

use common::*;
use coracle::{ContainerBuilder, ErrorKind};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
const INSIDE: &str = "CORACLE_TEST_OWN_MOUNTS";

/// In a mount namespace that goes with it.
fn has_own_mounts(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1", "--include-ignored"]).env(INSIDE, "1");
    let out = command.stdin(std::process::Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains("1 passed"));
    false
}

/// Mounts one with the directories `fine` and `hang`; tells the numbers of those who hang in it.
fn hanging(at: &Path) -> Receiver<i32> {
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let options = std::ffi::CString::new(options).unwrap();
    let flags = rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOSUID;
    rustix::mount::mount("coracle-test", at, "fuse", flags, Some(options.as_c_str())).unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || serve(device, &tell));
    told
}

/// The least that the kernel needs to walk over directories (linux/fuse.h).
fn serve(mut device: File, hung: &Sender<i32>) {
    const LOOKUP: u32 = 1;
    const GETATTR: u32 = 3;
    const INIT: u32 = 26;
    const INTERRUPT: u32 = 36;
    const SILENT: [u32; 2] = [2, 42]; // FORGET, BATCH_FORGET
    const INIT_EXT: u32 = 1 << 30;
    const ALLOW_IDMAP: u32 = 1 << 8;
    let mut request = vec![0; 1 << 18];
    let mut stuck = Vec::new();
    // It ends with the mount.
    while let Ok(len) = device.read(&mut request) {
        let u32_at = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let (kind, mut unique, node, pid) = (u32_at(4), request[8..16].to_vec(), u32_at(16), u32_at(32));
        let name = request[40..len].split(|byte| *byte == 0).next().unwrap_or_default();
        let attributes = |node: u64| {
            let mut bytes = [node, 0, 0, 0, 0, 0].map(u64::to_ne_bytes).concat();
            // Nanoseconds, mode, links, owner, device, block size, flags.
            bytes.extend([0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0u32].map(u32::to_ne_bytes).concat());
            bytes
        };
        let answer = match kind {
            INIT => {
                let minor = u32_at(44);
                let head = [7, minor, 0, INIT_EXT, 0, 1 << 16, 1, 0].map(u32::to_ne_bytes).concat();
                let tail = [ALLOW_IDMAP, 0, 0, 0, 0, 0, 0, 0u32].map(u32::to_ne_bytes).concat();
                Ok([head, tail].concat())
            }
            LOOKUP => match name {
                b"hang" if !Path::new(&format!("/proc/self/task/{pid}")).exists() => {
                    hung.send(pid as i32).unwrap();
                    continue;
                }
                b"stuck" => {
                    stuck = unique;
                    hung.send(pid as i32).unwrap();
                    continue;
                }
                b"fine" | b"hang" => {
                    let node = if name == b"fine" { 2 } else { 3 };
                    // Node, generation, and nothing of it may be remembered.
                    Ok([[node, 0, 0, 0, 0].map(u64::to_ne_bytes).concat(), attributes(node)].concat())
                }
                _ => Err(2),
            },
            GETATTR => Ok([vec![0; 16], attributes(node.into())].concat()),
            kind if SILENT.contains(&kind) => continue,
            // Who hangs is being killed: with that its request ends, as on a network filesystem.
            INTERRUPT if request[40..48] == stuck => continue,
            INTERRUPT => {
                unique = request[40..48].to_vec();
                Err(4)
            }
            _ => Err(38),
        };
        let (errno, body) = answer.map_or_else(|errno: i32| (-errno, Vec::new()), |body| (0, body));
        let mut reply = (16 + body.len() as u32).to_ne_bytes().to_vec();
        reply.extend(errno.to_ne_bytes());
        reply.extend(unique);
        reply.extend(body);
        // Whoever asked may have been killed.
        let _ = device.write(&reply);
    }
}

/// How long a start may take that must hang before it has taken so long: enough for all else of it, as the `usual` container
/// tells, however slow the machine is.
fn enough(usual: &ContainerBuilder) -> Duration {
    let since = Instant::now();
    assert_eq!(say(usual), "fine");
    Duration::from_millis(300) + 4 * since.elapsed()
}

/// A start that hangs has its time, and whoever hung in it is no more.
fn assert_ends(
    usual: &ContainerBuilder,
    builder: &ContainerBuilder,
    call: &str,
    path: &Path,
    hung: &Receiver<i32>,
) {
    let mut time = enough(usual);
    let mut tries = 0;
    let (error, pid) = loop {
        let since = Instant::now();
        let error = builder.clone().start_timeout(time).start().unwrap_err();
        assert!(since.elapsed() >= time, "{error}");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(since.elapsed() < time + LONG / 4, "{:?}", since.elapsed());
        if let Ok(pid) = hung.try_recv() {
            break (error, pid);
        }
        // The machine has become slower than it was for the usual one.
        tries += 1;
        assert!(tries < 5, "it never hangs: {error}");
        time *= 3;
    };
    assert!(error.step().starts_with(call) && error.path() == Some(path), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("start_timeout")), "{error}");
    assert!(try_pidfd(pid).is_none_or(|process| ends(&process, LONG)), "{call}");
}

#[test]
#[ignore = "needs root: mounts a filesystem of its own"]
fn a_start_that_hangs_while_the_root_filesystem_is_built() {
    if !has_own_mounts("a_start_that_hangs_while_the_root_filesystem_is_built") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at: PathBuf = dir.path().canonicalize().unwrap();
    let hung = hanging(&at);
    let image = host();
    let bound = sh(&image, "true").bind(at.join("hang"), "/mnt");
    let usual = sh(&image, "echo fine");
    assert_ends(&usual, &bound, "open", &at.join("hang"), &hung);
    assert_eq!(image.store().containers().unwrap().len(), 0);
    assert_eq!(say(&usual), "fine");
}

/// What is mounted for root is id-mapped, which this kind of filesystem takes since Linux 6.12.
#[test]
#[ignore = "needs root: mounts a filesystem of its own"]
fn a_start_that_hangs_after_the_root_filesystem_has_been_entered() {
    if !has_own_mounts("a_start_that_hangs_after_the_root_filesystem_has_been_entered") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at: PathBuf = dir.path().canonicalize().unwrap();
    let hung = hanging(&at);
    let image = host();
    let entered = sh(&image, "true").bind(at.join("fine"), "/mnt").working_dir("/mnt/hang");
    let usual = sh(&image, "cd /mnt; echo fine").bind(at.join("fine"), "/mnt");
    assert_ends(&usual, &entered, "chdir", Path::new("/mnt/hang"), &hung);
    assert_eq!(image.store().containers().unwrap().len(), 0);
    assert_eq!(say(&usual), "fine");
}

/// A warden that is stopped is not needed for the end of a start.
#[test]
#[ignore = "needs root: mounts a filesystem of its own"]
fn a_start_that_hangs_ends_although_the_warden_is_stopped() {
    if !has_own_mounts("a_start_that_hangs_ends_although_the_warden_is_stopped") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at: PathBuf = dir.path().canonicalize().unwrap();
    let hung = hanging(&at);
    let image = host();
    let other = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let warden = pidfd(warden_of(&other));
    // The warden is stopped while it hangs.
    let time = Duration::from_secs(2) + enough(&sh(&image, "echo fine"));
    let bound = sh(&image, "true").bind(at.join("hang"), "/mnt").start_timeout(time);
    let (told, heard) = channel();
    let start = std::thread::spawn(move || told.send(bound.start().map(drop)));
    hung.recv_timeout(LONG).unwrap();
    let signal = |signal| rustix::process::pidfd_send_signal(&warden, signal).unwrap();
    signal(rustix::process::Signal::STOP);
    let ended = heard.recv_timeout(LONG);
    signal(rustix::process::Signal::CONT);
    assert_eq!(ended.expect("it waits for the warden").unwrap_err().kind(), ErrorKind::TimedOut);
    start.join().unwrap().unwrap();
}

/// Its ids and its directory are nobody else's as long as a process of it is there.
#[test]
#[ignore = "needs root: mounts a filesystem of its own"]
fn what_can_not_be_killed_keeps_its_ids() {
    if !has_own_mounts("what_can_not_be_killed_keeps_its_ids") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at: PathBuf = dir.path().canonicalize().unwrap();
    let hung = hanging(&at);
    let image = host();
    let path = image.store().path().to_owned();
    let container = sh(&image, "exec stat /mnt/stuck")
        .bind(at.join("fine"), "/mnt")
        .best_effort(coracle::Protection::IdMappedMounts)
        .start()
        .unwrap();
    hung.recv_timeout(LONG).unwrap();
    let process = pidfd(container.pid().unwrap());
    let own = path.join("containers").join(container.id());
    let error = container.remove().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.remedy().unwrap().contains("state D"), "{error}");
    let is_there = || {
        let store = coracle::Store::open(&path).unwrap();
        assert_eq!(store.containers().unwrap().len(), usize::from(own.exists()));
        own.exists()
    };
    assert!(!ends(&process, Duration::ZERO) && is_there(), "also after a sweep");
    let ids = std::fs::read_dir(path.join("ids")).unwrap().map(|entry| entry.unwrap().path());
    let holders: Vec<_> = ids.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(holders.contains(&own.file_name().unwrap().to_str().unwrap().to_owned()), "{holders:?}");
    // Its requests fail from now on.
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::FORCE | rustix::mount::UnmountFlags::DETACH)
        .unwrap();
    assert!(ends(&process, LONG));
    eventually("it is swept", || !is_there());
}
