//! What a host offers, against the facts of this machine, and with one thing after the other taken away.
//!
//! What is taken away is so from a process of its own: this test program again.

mod common;

use common::*;
use coracle::{CgroupVersion, ErrorKind, Feature, Host, Landlock, Missing, NamespaceKind, Namespaces};
use nix::libc;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

/// Whatever a host is like: an answer about everything, and no "no" without a reason and a remedy. Gives the lacks.
#[track_caller]
fn sound(host: &Host) -> BTreeSet<Feature> {
    let features: Vec<_> = host.iter().map(|ability| ability.feature()).collect();
    assert_eq!(features, Feature::ALL);
    let json = serde_json::to_value(host).unwrap();
    let mut lacks = BTreeSet::new();
    for (ability, json) in host.into_iter().zip(json["abilities"].as_array().unwrap()) {
        let feature = ability.feature();
        assert_eq!(
            (&json["feature"], &json["available"]),
            (&feature.name().into(), &ability.is_available().into())
        );
        assert_eq!(host.has(feature), ability.is_available());
        let required = host.require(feature);
        let Some(missing) = ability.missing() else {
            required.unwrap();
            continue;
        };
        lacks.insert(feature);
        assert!(missing.reason().len() > 10 && missing.remedy().len() > 10, "{feature}: {missing}");
        assert_eq!((&json["reason"], &json["remedy"]), (&missing.reason().into(), &missing.remedy().into()));
        let error = required.unwrap_err();
        assert_eq!((error.kind(), error.missing()), (ErrorKind::Unsupported, Some(missing)));
        assert_eq!(error.remedy(), Some(missing.remedy()));
        for text in [error.to_string(), ability.to_string(), host.to_string()] {
            assert!(text.contains(missing.reason()) && text.contains(missing.remedy()), "{text}");
        }
    }
    lacks
}

#[track_caller]
fn missing(host: &Host, feature: Feature) -> &Missing {
    host.get(feature).unwrap().missing().unwrap_or_else(|| panic!("{feature}: {host}"))
}

/// A command in namespaces fails with the very words of the answer.
#[track_caller]
fn assert_same_words(host: &Host, feature: Feature) {
    let error = Namespaces::new().user().pid().mount().command(["true"]).status().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.missing(), Some(missing(host, feature)), "{error}");
    assert!(error.to_string().contains(missing(host, feature).reason()), "{error}");
}

/// What depends on nothing but the kernel's version, as far as the kernel's own words go.
const BY_VERSION: [Feature; 11] = [
    Feature::OverlayAppend,
    Feature::OverlayDetached,
    Feature::IdMappedTmpfs,
    Feature::MountApi,
    Feature::MountSetattr,
    Feature::Openat2,
    Feature::Clone3,
    Feature::CloseRange,
    Feature::Pidfd,
    Feature::PidfdNamespaces,
    Feature::ExecutableMemfd,
];

#[test]
fn what_this_machine_has() {
    // Where nobody else has a probe under way.
    if !is_own_process("what_this_machine_has") {
        return;
    }
    let host = Host::probe();
    sound(&host);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(host.kernel(), release.trim());
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let running = (numbers.next().unwrap(), numbers.next().unwrap());
    for feature in BY_VERSION {
        assert_eq!(host.has(feature), feature.since().unwrap() <= running, "{}", host.get(feature).unwrap());
    }
    for (feature, file) in [
        (Feature::UserNamespace, "user"),
        (Feature::PidNamespace, "pid"),
        (Feature::MountNamespace, "mnt"),
        (Feature::NetNamespace, "net"),
        (Feature::IpcNamespace, "ipc"),
        (Feature::UtsNamespace, "uts"),
        (Feature::CgroupNamespace, "cgroup"),
        (Feature::TimeNamespace, "time"),
    ] {
        assert_eq!(host.has(feature), Path::new("/proc/self/ns").join(file).exists(), "{host}");
    }
    assert!(
        host.has(Feature::FreshProc) && host.has(Feature::Overlay) && host.has(Feature::Seccomp),
        "{host}"
    );
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounted = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    let version = match (mounted("cgroup"), mounted("cgroup2")) {
        (false, false) => CgroupVersion::None,
        (true, false) => CgroupVersion::V1,
        (false, true) => CgroupVersion::V2,
        (true, true) => CgroupVersion::Hybrid,
    };
    assert_eq!(host.cgroups(), version, "{mounts}");
    // What the emulated machines are for.
    let lane = std::env::var("CORACLE_LANE").unwrap_or_default();
    if lane.starts_with("vm-") {
        let said = if lane == "vm-v1" { CgroupVersion::V1 } else { CgroupVersion::V2 };
        assert_eq!(host.cgroups(), said, "{lane}: {mounts}");
    }
    assert_eq!(host.has(Feature::Privileges), is_root());
    if !is_root() {
        let layers = coracle::Overlay::new().lower("/etc").id_map(coracle::IdMap::range(100_000, 1));
        let error = layers.mount().unwrap_err();
        assert_eq!(error.missing(), Some(missing(&host, Feature::IdMappedMounts)), "{error}");
    }
    // Nothing of it stays, and the second one costs a new warden nothing.
    let pids = std::os::unix::fs::MetadataExt::ino(&fs::metadata("/proc/self/ns/pid").unwrap());
    assert_eq!(
        cgroups_with(&format!("probe-{pids}-{}-", std::process::id())),
        Vec::<std::path::PathBuf>::new()
    );
    let again = Host::probe();
    for (first, again) in host.iter().zip(&again) {
        // The detail of a group that could not be made has its name.
        assert_eq!(first.missing(), again.missing(), "{}", first.feature());
    }
}

/// Whatever hands groups on, this user's systemd or nobody: where the probe says that they are made, a start has its own, and
/// what it says of a limit a start finds.
#[test]
fn what_this_machine_has_of_groups_a_start_uses() {
    let host = Host::probe();
    let started = sh(&common::host(), "exec sleep 1000").memory_max(64 << 20).start();
    assert_eq!(host.has(Feature::MemoryLimit), started.is_ok(), "{host}");
    let container = match started {
        Ok(container) => container,
        Err(error) => {
            assert_eq!(error.missing(), Some(missing(&host, Feature::MemoryLimit)), "{error}");
            return;
        }
    };
    let detail = host.get(Feature::Cgroup).unwrap().detail().unwrap();
    let rooms: Vec<_> = detail.split([' ', ',']).filter(|word| word.starts_with('/')).collect();
    let groups = cgroups_with(container.id());
    assert!(!groups.is_empty());
    for group in groups {
        let room = group.parent().unwrap().to_str().unwrap();
        assert!(rooms.contains(&room), "{} is not in {detail}", group.display());
    }
}

/// A disk whose node /dev has.
fn disk() -> Option<std::path::PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let disks = fs::read_dir("/sys/block").unwrap().map(|disk| disk.unwrap().file_name());
    let mut nodes: Vec<_> = disks.map(|name| Path::new("/dev").join(name)).collect();
    // One in memory or of a file comes last, as it may not be there in a moment.
    nodes.sort_by_key(|node| (node.to_string_lossy().contains("/dev/loop"), node.clone()));
    nodes.into_iter().find(|node| node.metadata().is_ok_and(|meta| meta.file_type().is_block_device()))
}

/// What the probe says of each limit and of Landlock, a start finds in the same words.
#[test]
fn what_this_machine_has_not_a_start_says_in_the_same_words() {
    let image = common::host();
    let host = Host::probe_at(image.store().path());
    let limits = coracle::Limits::new;
    let of = |limits: coracle::Limits| sh(&image, "true").limits(limits);
    let all = [
        (Feature::MemoryLimit, of(limits().memory_max(64 << 20))),
        // It goes with the other, which is not what is asked about.
        (
            Feature::SwapLimit,
            of(limits()
                .memory_max(64 << 20)
                .memory_swap_max(64 << 20)
                .best_effort(coracle::LimitKind::MemoryMax)),
        ),
        (Feature::MemoryHigh, of(limits().memory_high(64 << 20))),
        (Feature::CpuLimit, of(limits().cpus(1.0))),
        (Feature::CpusetLimit, of(limits().cpuset_mems("0"))),
        (Feature::IoWeight, of(limits().io_weight(100))),
        (Feature::HugetlbLimit, of(limits().hugetlb_max(2 << 20, 2 << 20))),
        (Feature::DeviceRules, of(limits().devices([coracle::DeviceRule::char(1, 3)]))),
        (Feature::LandlockScopes, sh(&image, "true").landlock(Landlock::new())),
        (Feature::ProjectQuota, sh(&image, "true").disk_max(64 << 20)),
    ];
    let disk = disk().map(|disk| coracle::IoMax::new(disk).read_bps(1 << 40));
    // Where none can be named, none is.
    assert!(
        disk.is_some() || missing(&host, Feature::IoLimit).reason().contains("its node in /dev"),
        "{host}"
    );
    let disk = disk.map(|disk| (Feature::IoLimit, of(limits().io_max(disk))));
    for (feature, builder) in all.into_iter().chain(disk) {
        match builder.start() {
            Ok(_) => assert!(host.has(feature), "{feature}: {host}"),
            Err(error) => {
                assert!(!host.has(feature), "{feature}: {error}; {host}");
                let (said, asked) = (error.missing().unwrap(), missing(&host, feature));
                assert_eq!((said.reason(), said.remedy()), (asked.reason(), asked.remedy()), "{error}");
                // Where there is no Landlock at all that is what is missing.
                let is_it = said.feature() == feature || feature == Feature::LandlockScopes;
                assert!(is_it && said == missing(&host, said.feature()), "{feature}: {error}");
            }
        }
    }
}

/// Likewise of pausing.
#[test]
fn what_this_machine_has_of_pausing_a_container_says_in_the_same_words() {
    let host = Host::probe();
    let container = ready(&sh(&common::host(), "echo ready; exec sleep 1000"));
    match container.pause() {
        Ok(()) => assert!(host.has(Feature::Freeze), "{host}"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert_eq!(error.missing(), Some(missing(&host, Feature::Freeze)), "{error}");
        }
    }
}

/// A kernel that has Landlock may be booted without it: what lsm= lists is all that counts.
#[test]
fn what_this_machine_has_of_landlock() {
    let list = fs::read_to_string("/sys/kernel/security/lsm");
    let host = Host::probe();
    let is_off = list.is_ok_and(|list| !list.trim().split(',').any(|module| module == "landlock"));
    if std::env::var("CORACLE_LANE").is_ok_and(|lane| lane.starts_with("vm-")) {
        let is_v1 = host.cgroups() == CgroupVersion::V1;
        assert_eq!(is_off, is_v1, "the machine with v1 is the one that is booted without");
    }
    let image = common::host();
    let error = sh(&image, "true").landlock(Landlock::new()).run();
    if !is_off {
        assert_eq!(error.is_ok(), host.has(Feature::LandlockScopes), "{host}");
        return;
    }
    for feature in [Feature::Landlock, Feature::LandlockScopes] {
        let why = missing(&host, feature);
        assert!(why.reason().contains("switched off at boot") && why.remedy().contains("lsm="), "{why}");
    }
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("landlock")), "{error}");
    assert_eq!(error.missing(), Some(missing(&host, error.missing().unwrap().feature())), "{error}");
    let chosen = sh(&image, "echo ran").landlock(Landlock::new()).best_effort(coracle::Protection::Landlock);
    let out = chosen.run().unwrap();
    assert_eq!(out.stdout_text(), "ran\n");
    let line = out.report.get("landlock").unwrap();
    assert!(line.to_string().contains("switched off at boot"), "{line}");
}

/// The limit is one of each user namespace, and holds for those below it.
#[test]
fn without_user_namespaces() {
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let test = "without_user_namespaces";
    if is_under(test, &["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]) {
        let host = Host::probe();
        sound(&host);
        let why = missing(&host, Feature::UserNamespace);
        assert!(why.reason().contains("user.max_user_namespaces=0"), "{why}");
        assert!(why.remedy().contains("sysctl -w user.max_user_namespaces="), "{why}");
        assert_same_words(&host, Feature::UserNamespace);
        assert!(host.container().is_some());
    }
}

const LIMITED: &str = "CORACLE_TEST_LIMITED";

/// Each kind of namespace by itself: the limits are counted for each user namespace and those above it.
#[test]
fn without_one_kind_of_namespace() {
    const TEST: &str = "without_one_kind_of_namespace";
    let features = [
        ("pid", Feature::PidNamespace, Some(NamespaceKind::Pid)),
        ("mnt", Feature::MountNamespace, Some(NamespaceKind::Mount)),
        ("net", Feature::NetNamespace, Some(NamespaceKind::Net)),
        ("ipc", Feature::IpcNamespace, Some(NamespaceKind::Ipc)),
        ("uts", Feature::UtsNamespace, Some(NamespaceKind::Uts)),
        ("cgroup", Feature::CgroupNamespace, Some(NamespaceKind::Cgroup)),
        // No container has one.
        ("time", Feature::TimeNamespace, None),
    ];
    let Some(name) = std::env::var_os(LIMITED) else {
        let (_dir, program) = own_copy();
        for (name, ..) in features {
            let script = format!("echo 0 >/proc/sys/user/max_{name}_namespaces && exec \"$@\"");
            let unshare = ["unshare", "--user", "--map-root-user", "sh", "-c", &script, "sh"];
            again_from(&program, TEST, &unshare, &[(LIMITED, Path::new(name))]);
        }
        return;
    };
    let (name, feature, kind) = features.into_iter().find(|(kind, ..)| name == *kind).unwrap();
    let host = Host::probe();
    sound(&host);
    let why = missing(&host, feature);
    assert!(why.reason().contains(&format!("user.max_{name}_namespaces=0")), "{why}");
    assert!(why.remedy().contains(&format!("sysctl -w user.max_{name}_namespaces=")), "{why}");
    let image = common::host();
    let started = sh(&image, "echo ran").run();
    let Some(kind) = kind else {
        assert_eq!(started.unwrap().stdout_text(), "ran\n");
        return;
    };
    let entered = Namespaces::new().user().with(kind).command(["true"]).status();
    for error in [entered.unwrap_err(), started.unwrap_err()] {
        assert_eq!((error.kind(), error.missing()), (ErrorKind::Unsupported, Some(why)), "{error}");
    }
    // The others are there all the same, but for a container's processes nothing is without these.
    if !matches!(kind, NamespaceKind::Pid | NamespaceKind::Mount) {
        for (_, other, _) in features {
            assert_eq!(host.has(other), other != feature, "without {name}: {host}");
        }
    }
}

/// A directory that is no mount, with the host's own in it; as an ordinary user there.
#[test]
fn in_a_chroot() {
    let script = "d=$1 as=$2; shift 2; cd /; for f in *; do if [ -L $f ]; then ln -s $(readlink $f) $d/$f; \
        elif [ -d $f ]; then mkdir $d/$f && mount --rbind /$f $d/$f; fi; done; exec chroot $as $d \"$@\"";
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (unshare, user): (&[_], _) = match is_root() {
        true => (&["unshare"], "--userspec=54321:54321"),
        false => (&["unshare", "--user", "--map-root-user"], "--"),
    };
    if is_under("in_a_chroot", &[unshare, &["--mount", "sh", "-ec", script, "sh", place, user]].concat()) {
        let host = Host::probe();
        sound(&host);
        let why = missing(&host, Feature::UserNamespace);
        assert!(why.reason().contains("chroot") && why.remedy().contains("pivot_root"), "{why}");
        assert_same_words(&host, Feature::UserNamespace);
    }
}

/// The setting is one of each PID namespace, proc_sys_vm(5).
#[test]
#[ignore = "needs root: a PID namespace whose setting it changes"]
fn where_no_program_runs_from_memory() {
    let script = "echo 2 >/proc/sys/vm/memfd_noexec && exec \"$@\"";
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"];
    if is_under("where_no_program_runs_from_memory", &unshare) {
        let host = Host::probe();
        sound(&host);
        let why = missing(&host, Feature::ExecutableMemfd);
        assert!(why.reason().contains("vm.memfd_noexec=2"), "{why}");
        assert!(why.remedy().contains("TMPDIR") && why.remedy().contains("noexec"), "{why}");
    }
}

#[test]
fn as_nobody_in_a_user_namespace() {
    if is_under("as_nobody_in_a_user_namespace", &["unshare", "--user"]) {
        let host = Host::probe();
        assert!(sound(&host).contains(&Feature::Openat2), "nothing can be tried: {host}");
        assert!(missing(&host, Feature::UserNamespace).reason().contains("not mapped"), "{host}");
        assert_same_words(&host, Feature::UserNamespace);
    }
}

#[test]
#[ignore = "needs root: capabilities to be without"]
fn as_root_without_capabilities() {
    let flags = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    if is_under("as_root_without_capabilities", &flags) {
        let host = Host::probe();
        sound(&host);
        assert!(missing(&host, Feature::Privileges).reason().contains("CAP_SYS_ADMIN"), "{host}");
        assert!(missing(&host, Feature::UserNamespace).reason().contains("CAP_SETFCAP"), "{host}");
        assert_same_words(&host, Feature::UserNamespace);
    }
}

/// As containers have it: the kernel mounts no further proc in a user namespace that can't see the whole of one.
#[test]
#[ignore = "needs bubblewrap: run with --include-ignored"]
fn with_a_masked_proc() {
    let user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];
    let bwrap = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", "/dev/null", "/proc/cpuinfo"];
    let flags = if is_root() { [&user[..], &bwrap].concat() } else { bwrap.into() };
    if is_under("with_a_masked_proc", &flags) {
        let host = Host::probe();
        sound(&host);
        let why = missing(&host, Feature::FreshProc);
        assert!(why.reason().contains("masked") && why.remedy().contains("systempaths=unconfined"), "{why}");
        assert_same_words(&host, Feature::FreshProc);
    }
}

/// As in docker without a volume: the kernel takes no upper directory that is on another overlay.
#[test]
fn where_the_store_is_on_an_overlay() {
    const PLACE: &str = "CORACLE_TEST_PLACE";
    let script = "m=$1; shift; mount -t tmpfs tmpfs $m && cd $m && mkdir lower upper work store && mount -t overlay \
        -o lowerdir=lower,upperdir=upper,workdir=work,userxattr overlay store && cd / && \
        CORACLE_TEST_PLACE=$m/store exec \"$@\"";
    let dir = tempfile::tempdir().unwrap();
    let unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"];
    let flags = [&unshare[..], &[dir.path().to_str().unwrap()]].concat();
    if !is_under("where_the_store_is_on_an_overlay", &flags) {
        return;
    }
    let store = coracle::Store::open(std::env::var_os(PLACE).unwrap()).unwrap();
    let image = coracle::Image::host(&store).unwrap();
    let error = sh(&image, "true").run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let why = error.missing().unwrap_or_else(|| panic!("{error}"));
    assert_eq!(why.feature(), Feature::Overlay, "{error}");
    assert!(why.reason().contains("the store's filesystem (overlay) can't hold a writable layer"), "{error}");
    assert!(why.remedy().contains("ext4, xfs, btrfs or tmpfs"), "{error}");
    assert!(error.to_string().contains("mounting the root filesystem"), "{error}");
    assert!(why.remedy().contains("writable_in_memory(true)"), "{error}");
    assert_eq!(say(&sh(&image, "echo ran").writable_in_memory(true)), "ran");
}

/// Without a control group, on a kernel that says to be an old one (personality(2), UNAME26).
#[test]
fn where_an_older_kernel_counts_processes_otherwise() {
    let script = "mount -t tmpfs tmpfs /sys/fs/cgroup && exec setarch --uname-2.6 \"$@\"";
    let unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"];
    if !is_under("where_an_older_kernel_counts_processes_otherwise", &unshare) {
        return;
    }
    let image = common::host();
    let plain = sh(&image, "echo ran");
    for required in [plain.clone().pids_max(16), plain.clone().require(coracle::LimitKind::PidsMax)] {
        let error = required.run().unwrap_err();
        assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("pids_max")), "{error}");
        let why = error.missing().unwrap_or_else(|| panic!("{error}"));
        assert!(why.reason().contains("(2.6.") && why.reason().contains("since 5.14"), "{why}");
        assert!(why.remedy().contains("5.14") && why.remedy().contains("control group"), "{why}");
    }
    for lesser in [plain.clone().pids_max(16).best_effort(coracle::LimitKind::PidsMax), plain] {
        let out = lesser.run().unwrap();
        assert_eq!(out.stdout_text(), "ran\n");
        let line = out.report.get("pids_max").unwrap();
        let is_told =
            matches!(line.outcome(), coracle::Outcome::NotEnforced(why) if why.contains("since 5.14"));
        assert!(is_told, "{line}");
    }
}

/// From then on these calls, by their numbers, fail with this errno in this thread and in what it starts.
fn refuse(calls: &[u32], errno: i32) {
    use nix::libc;
    let line = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number is the first word of struct seccomp_data.
    let mut program = vec![line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        program.push(line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call));
        program.push(line(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32));
    }
    program.push(line(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: flags and a pointer to a structure that outlives the calls.
    let done = unsafe {
        if !is_root() {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// The numbers of those without a name here are the same on every architecture.
const CALLS: [(&str, u32, Feature); 10] = [
    ("move_mount", 429, Feature::MountApi),
    ("fsopen", 430, Feature::MountApi),
    ("pidfd_open", 434, Feature::Pidfd),
    ("clone3", 435, Feature::Clone3),
    ("close_range", 436, Feature::CloseRange),
    ("openat2", 437, Feature::Openat2),
    ("mount_setattr", 442, Feature::MountSetattr),
    ("landlock_create_ruleset", 444, Feature::Landlock),
    ("seccomp", libc::SYS_seccomp as u32, Feature::Seccomp),
    ("memfd_create", libc::SYS_memfd_create as u32, Feature::ExecutableMemfd),
];

#[test]
fn under_a_filter() {
    let Ok(role) = std::env::var(ROLE) else {
        for (name, _, _) in CALLS {
            for errno in ["EPERM", "ENOSYS"] {
                // The C library itself can't start anything then.
                if (name, errno) == ("clone3", "EPERM") {
                    continue;
                }
                let role = format!("{name} {errno}");
                let mut again = child("under_a_filter", &[(ROLE, role.as_ref())]);
                let out = again.stdin(Stdio::null()).output().unwrap();
                let said = format!("{role}: {}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
                assert!(out.status.success() && said.contains("1 passed"), "{said}");
            }
        }
        return;
    };
    let (name, errno) = role.split_once(' ').unwrap();
    let (_, number, feature) = CALLS.into_iter().find(|(call, _, _)| *call == name).unwrap();
    refuse(&[number], if errno == "EPERM" { libc::EPERM } else { libc::ENOSYS });
    let host = Host::probe();
    let lacks = sound(&host);
    assert!(lacks.contains(&feature), "{host}");
    let why = missing(&host, feature);
    assert!(why.reason().contains("seccomp filter") && why.reason().contains(name), "{feature}: {why}");
    assert!(why.remedy().contains("seccomp=unconfined"), "{why}");
    // A start says the same of what it is asked for; of the rest tests/fallbacks.rs.
    let image = common::host();
    let builder = match feature {
        Feature::Landlock => sh(&image, "true").landlock(Landlock::new()),
        Feature::Seccomp => sh(&image, "true"),
        _ => return,
    };
    let error = builder.run().unwrap_err();
    assert_eq!((error.kind(), error.missing()), (ErrorKind::Unsupported, Some(why)), "{error}");
}

#[test]
#[ignore = "needs root and writable cgroups: makes groups of a dead program"]
fn what_a_killed_probe_left_goes_with_the_next() {
    use std::os::unix::fs::MetadataExt;
    let pids = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let parent = coracle::CgroupParent::detect().unwrap();
    let name = |pid: u32, of: u64| format!("probe-{of}-{pid}-{pids:x}left");
    let used = name(std::process::id(), pids);
    parent.create(&used, &coracle::Limits::new().pids_max(10)).unwrap().keep();
    let places = cgroups_with(&used);
    // Another test's probe may be the next one, as soon as there is such a group: nothing more is done in it.
    let make = |of: u64| {
        let name = name(dead.id(), of);
        places.iter().for_each(|place| fs::create_dir(place.with_file_name(&name)).unwrap());
        name
    };
    let (left, other, unknown) = (make(pids), make(pids + 1), make(0));
    Host::probe();
    let found = [&left, &used, &other, &unknown].map(|name| cgroups_with(name));
    found.iter().flatten().for_each(|dir| fs::remove_dir(dir).unwrap());
    assert_eq!(found.map(|dirs| !dirs.is_empty()), [false, true, true, true]);
}

/// The table of kernels names each feature and says its first kernel as the library does.
#[test]
fn the_documentation_has_every_feature() {
    let table = fs::read_to_string("docs/kernel-features.md").unwrap();
    for feature in Feature::ALL {
        let row = table.lines().find(|line| line.starts_with(&format!("| `{}` |", feature.name())));
        let row = row.unwrap_or_else(|| panic!("no row for {}", feature.name()));
        let since = feature.since().map_or("-".to_owned(), |(major, minor)| format!("{major}.{minor}"));
        assert_eq!(row.split('|').nth(2).unwrap().trim(), since, "{row}");
    }
}
