//! What is to be seen only where the whole machine is changed: its settings, its modules, its swap, its disks' schedulers.
//! They are everybody's, so this is for a machine that is nobody's, and one test of it runs at a time.

mod common;

use common::*;
use coracle::{Cgroup, ErrorKind, Feature, Host, Limits, Namespaces, Outcome, Overlay};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

const SETTING: &str = "CORACLE_TEST_SETTING";
/// What emulated machines have and no other.
const EMULATED: &str = "/lane/host-release";
/// The file, what the reason has to say, and the remedy.
const SETTINGS: [[&str; 3]; 2] = [
    [
        "/proc/sys/kernel/unprivileged_userns_clone",
        "kernel.unprivileged_userns_clone=0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ],
    [
        "/proc/sys/user/max_user_namespaces",
        "user.max_user_namespaces=0",
        "sysctl -w user.max_user_namespaces=",
    ],
];

/// An ordinary user.
const USER: [&str; 4] = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];

/// This machine, for one test. Only .ci/vm makes the file: whoever asks for every ignored test on another machine hears why
/// not.
fn machine() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    assert!(
        Path::new(EMULATED).exists(),
        "this changes settings of the whole machine, and there is no {EMULATED}: run .ci/vm"
    );
    // Each puts back what it changed, in its own drops.
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What brings the machine back to what it was, when the test goes.
struct Afterwards(&'static str);

impl Drop for Afterwards {
    fn drop(&mut self) {
        peer("sh", ["-ec", self.0]);
    }
}

/// A setting that is 0 until the test goes.
struct Zero(&'static str, String);

impl Zero {
    fn new(file: &'static str) -> Self {
        let before = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_ne!(before.trim(), "0", "{file}");
        fs::write(file, "0").unwrap();
        Self(file, before)
    }
}

impl Drop for Zero {
    fn drop(&mut self) {
        fs::write(self.0, &self.1).unwrap();
    }
}

/// A shell script in a group.
fn inside(group: &Cgroup, script: &str) -> std::process::Output {
    let join: String =
        group.join_paths().map(|path| format!("echo 0 >{} || exit 99; ", path.display())).collect();
    let out = Command::new("sh").arg("-c").arg(join + script).output().unwrap();
    assert_ne!(out.status.code(), Some(99), "{out:?}");
    out
}

fn kept(group: &Cgroup, file: &str) -> String {
    let found: Option<PathBuf> = group.paths().map(|dir| dir.join(file)).find(|path| path.exists());
    fs::read_to_string(found.unwrap_or_else(|| panic!("no {file}"))).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs root of an emulated machine, as it changes settings of it: .ci/vm"]
fn ordinary_users_are_kept_from_user_namespaces() {
    let name = "ordinary_users_are_kept_from_user_namespaces";
    let Some(setting) = std::env::var_os(SETTING) else {
        let _machine = machine();
        for [file, ..] in SETTINGS {
            let _zero = Zero::new(file);
            again(name, &USER, &[(SETTING, Path::new(file))]);
        }
        // And as before they may.
        return again(name, &USER, &[(SETTING, Path::new("none"))]);
    };
    let host = Host::probe();
    let ability = host.get(Feature::UserNamespace).unwrap();
    let Some([_, reason, remedy]) = SETTINGS.into_iter().find(|[file, ..]| setting == *file) else {
        assert!(ability.is_available(), "{ability}");
        return;
    };
    let why = ability.missing().unwrap_or_else(|| panic!("{host}"));
    assert!(why.reason().contains(reason) && why.remedy().contains(remedy), "{why}");
    let error = Namespaces::new().user().command(["true"]).status().unwrap_err();
    assert_eq!((error.kind(), error.missing()), (ErrorKind::Unsupported, Some(why)), "{error}");
    // A start says the same.
    let error = sh(&common::host(), "true").run().unwrap_err();
    assert_eq!((error.kind(), error.remedy()), (ErrorKind::Unsupported, Some(why.remedy())), "{error}");
}

/// As on a kernel without it, or where an administrator keeps modules from being loaded: the mount finds no such filesystem,
/// and the modprobe that the kernel calls for it does nothing.
#[test]
#[ignore = "needs root of an emulated machine, as it unloads a module: .ci/vm"]
fn without_the_overlay_filesystem() {
    const NAME: &str = "without_the_overlay_filesystem";
    if std::env::var_os(ROLE).is_none() {
        let _machine = machine();
        let _afterwards = Afterwards("rm -f /etc/modprobe.d/none.conf; modprobe overlay");
        // The kernel takes the mounts of what has ended apart a little later.
        let remove = "echo install overlay /bin/false >/etc/modprobe.d/none.conf; n=0; \
            until modprobe -r overlay; do n=$((n+1)); [ $n -lt 300 ]; sleep 0.1; done";
        peer("sh", ["-ec", remove]);
        assert!(!fs::read_to_string("/proc/filesystems").unwrap().contains("overlay"));
        without_overlay();
        again(NAME, &USER, &[]);
        return;
    }
    without_overlay();
}

/// The probe, a mount and a start say the same.
#[track_caller]
fn without_overlay() {
    let image = common::host();
    let host = Host::probe();
    let why = host.get(Feature::Overlay).unwrap().missing().unwrap_or_else(|| panic!("{host}"));
    assert!(why.reason().contains("no overlay filesystem"), "{why}");
    assert!(why.remedy().contains("modprobe overlay") && why.remedy().contains("CONFIG_OVERLAY_FS"), "{why}");
    let started = sh(&image, "true").run().unwrap_err();
    assert_eq!((started.kind(), started.missing()), (ErrorKind::Unsupported, Some(why)), "{started}");
    assert!(
        started.to_string().contains(why.reason()) && started.to_string().contains(why.remedy()),
        "{started}"
    );
    let started = sh(&image, "true").writable_in_memory(true).run().unwrap_err();
    assert_eq!((started.kind(), started.missing()), (ErrorKind::Unsupported, Some(why)), "{started}");
    if is_root() {
        let mapped =
            host.get(Feature::OverlayIdMapped).unwrap().missing().unwrap_or_else(|| panic!("{host}"));
        assert_eq!((mapped.reason(), mapped.remedy()), (why.reason(), why.remedy()));
        let mounted = Overlay::new().lower("/etc").lower("/usr").mount().unwrap_err();
        assert_eq!((mounted.kind(), mounted.missing()), (ErrorKind::Unsupported, Some(why)), "{mounted}");
    }
}

/// What a group may have of memory and swap together is more than of memory, and no more than that.
#[test]
#[ignore = "needs root of an emulated machine, as it gives it swap: .ci/vm"]
fn swap_is_bounded() {
    const MIB: u64 = 1 << 20;
    let _machine = machine();
    let _afterwards = Afterwards("swapoff /lane/swap; rm /lane/swap");
    let swap = "dd if=/dev/zero of=/lane/swap bs=1M count=192 status=none; chmod 600 /lane/swap; mkswap /lane/swap; \
        swapon /lane/swap";
    peer("sh", ["-ec", swap]);
    let with = |swap: u64| Limits::new().memory_max(32 * MIB).memory_swap_max(swap * MIB);
    // Not of zeros: newer kernels give such pages back rather than swap them out.
    let touch = |mib: u64| format!("exec python3 -c 'b\"x\" * ({mib} << 20)'");
    let touches = |group: &Cgroup, mib: u64| {
        let out = inside(group, &touch(mib));
        assert!(out.status.success() || out.status.signal() == Some(9), "{out:?}");
        out.status.success()
    };
    // With room to spare: what is on its way to the disk counts as both.
    let group = Cgroup::create("swaps", &with(128)).unwrap();
    assert!(group.report().is_complete(), "{:?}", group.report());
    if group.paths().any(|dir| dir.join("memory.max").exists()) {
        assert_eq!(kept(&group, "memory.swap.max"), (96 * MIB).to_string(), "what is beyond memory");
    } else {
        assert_eq!(kept(&group, "memory.memsw.limit_in_bytes"), (128 * MIB).to_string());
    }
    assert_eq!(group.stats().unwrap().memory_max, Some(32 * MIB));
    assert!(touches(&group, 64), "most of it is swapped out");
    assert!(!touches(&group, 256), "more than both");
    assert_eq!(group.oom_kills().unwrap(), Some(1));
    group.remove().unwrap();
    // Without any it ends at the memory, although the machine has swap.
    let group = Cgroup::create("swaps-not", &with(32)).unwrap();
    assert!(!touches(&group, 48));
    group.remove().unwrap();
    // A container's.
    let image = common::host();
    let contained = |mib: u64| sh(&image, &touch(mib)).limits(with(128)).run().unwrap().status.success();
    assert!(contained(64) && !contained(256));
}

/// Where a disk's scheduler heeds weights, a group has one, and a container too.
#[test]
#[ignore = "needs root of an emulated machine, as it changes a disk's scheduler: .ci/vm"]
fn a_share_of_disk_time_is_given_where_a_disk_heeds_it() {
    let _machine = machine();
    let limits = Limits::new().io_weight(200);
    let error = Cgroup::create("weighs-nothing", &limits).unwrap_err();
    assert!(error.remedy().unwrap().contains("bfq"), "{error}");
    assert_eq!(error.missing(), Host::probe().get(Feature::IoWeight).unwrap().missing(), "{error}");
    // What the remedy says.
    let _afterwards = Afterwards("echo none >/sys/block/vda/queue/scheduler");
    peer("sh", ["-ec", "modprobe bfq; echo bfq >/sys/block/vda/queue/scheduler"]);
    let host = Host::probe();
    assert!(host.has(Feature::IoWeight), "{host}");
    let group = Cgroup::create("weighs", &limits).unwrap();
    assert!(group.report().is_complete(), "{:?}", group.report());
    let weight = |dir: &Path| {
        let files = ["io.bfq.weight", "io.weight", "blkio.bfq.weight"].map(|file| dir.join(file));
        let values: Vec<_> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
        assert!(!values.is_empty(), "no weight in {}", dir.display());
        values.concat()
    };
    let of = |dirs: Vec<PathBuf>| {
        let dirs = dirs
            .into_iter()
            .filter(|dir| dir.join("io.stat").exists() || dir.join("blkio.bfq.weight").exists());
        dirs.map(|dir| weight(&dir)).collect::<String>()
    };
    let values = of(group.paths().map(Path::to_owned).collect());
    assert!(values.contains("default 200") || values.trim() == "200", "{values}");
    group.remove().unwrap();
    let container = ready(&sh(&common::host(), "echo ready; exec sleep 1000").limits(limits));
    let values = of(cgroups_with(container.id()));
    assert!(values.contains("default 200") || values.trim() == "200", "{values}");
    let report = container.report();
    let outcome = report.get("io_weight").unwrap().outcome();
    assert!(matches!(outcome, Outcome::Enforced(_)), "{outcome:?}");
}
