//! Limits on disks, huge pages and devices, memory's softer ones, and what is counted. On v1 and v2.
use super::*;
use coracle::{DeviceRule, IoMax};

/// A node of the whole disk on which `file` lies: made in `dir` where /dev has none, which takes root.
fn disk_of(file: &Path, dir: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let number = file.metadata().unwrap().dev();
    let link = format!("/sys/dev/block/{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let mut device = Path::new(&link).canonicalize().expect("TMPDIR on a disk");
    if device.join("partition").exists() {
        device.pop();
    }
    let number = fs::read_to_string(device.join("dev")).unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    let node = Path::new("/dev").join(device.file_name().unwrap());
    let is =
        |node: fs::Metadata| format!("{}:{}", rustix::fs::major(node.rdev()), rustix::fs::minor(node.rdev()));
    if node.metadata().is_ok_and(|node| is(node) == number.trim()) {
        return node;
    }
    let node = dir.join("disk");
    assert!(Command::new("mknod").arg(&node).args(["b", major, minor]).status().unwrap().success());
    node
}

#[test]
#[ignore = "needs root and writable cgroups: reads slowly from the disk of TMPDIR"]
fn a_disk_is_read_no_faster_than_asked_and_counted() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &[7; 1 << 20]).unwrap();
    file.as_file().sync_all().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = disk_of(file.path(), dir.path());
    let limits = Limits::new().io_max(IoMax::new(&disk).read_bps(512 << 10).write_iops(1000));
    let group = Cgroup::create(&name("disk"), &limits).unwrap();
    assert!(group.report().is_complete(), "{:?}", group.report());
    let begin = Instant::now();
    let dd = format!("exec dd if={} of=/dev/null bs=64k count=16 iflag=direct", file.path().display());
    let out = output(&group, &dd);
    assert!(out.status.success(), "{out:?}");
    // A megabyte takes two seconds, without the limit some milliseconds.
    assert!(begin.elapsed() > Duration::from_millis(1000), "{:?}", begin.elapsed());
    let stats = group.stats().unwrap();
    let read: u64 = stats.io.as_ref().unwrap().iter().map(|disk| disk.read_bytes).sum();
    let reads: u64 = stats.io.as_ref().unwrap().iter().map(|disk| disk.reads).sum();
    assert!(read >= 1 << 20 && reads >= 16, "{stats:?}");
    group.remove().unwrap();
}

#[test]
#[ignore = "needs root and writable cgroups: writes slowly to the disk of TMPDIR"]
fn a_disk_is_written_and_asked_no_more_often_than_allowed() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &[7; 1 << 20]).unwrap();
    file.as_file().sync_all().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = disk_of(file.path(), dir.path());
    let path = file.path().display();
    // 16 of each: two seconds, without the limit some milliseconds.
    let write = format!("exec dd if=/dev/zero of={path} bs=64k count=16 oflag=direct conv=notrunc");
    let read = format!("exec dd if={path} of=/dev/null bs=4k count=16 iflag=direct");
    for (limit, dd) in
        [(IoMax::new(&disk).write_bps(512 << 10), write), (IoMax::new(&disk).read_iops(8), read)]
    {
        let group = Cgroup::create(&name("slow"), &Limits::new().io_max(limit)).unwrap();
        assert!(group.report().is_complete(), "{:?}", group.report());
        let begin = Instant::now();
        let out = output(&group, &dd);
        assert!(out.status.success(), "{out:?}");
        assert!(begin.elapsed() > Duration::from_millis(1000), "{dd}: {:?}", begin.elapsed());
        group.remove().unwrap();
    }
}

#[test]
#[ignore = "needs root and writable cgroups: asks for bounds of what is no disk"]
fn only_whole_disks_are_bounded() {
    let of = |path: &str| Limits::new().io_max(IoMax::new(path).read_bps(1 << 20));
    let error = Cgroup::create(&name("nodisk"), &of("/dev/null")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.remedy().unwrap().contains("whole disk"), "{error}");
    let error = Cgroup::create(&name("nodisk"), &of("/dev/not-there")).unwrap_err();
    assert_eq!((error.kind(), error.path().unwrap()), (ErrorKind::NotFound, Path::new("/dev/not-there")));
}

#[test]
#[ignore = "needs root and writable cgroups: asks for a share of disk time"]
fn a_share_of_disk_time_is_refused_where_no_disk_heeds_it() {
    let group = Cgroup::create(&name("weight"), &Limits::new().io_weight(200));
    let schedulers =
        fs::read_dir("/sys/block").unwrap().map(|disk| disk.unwrap().path().join("queue/scheduler"));
    let bfq = schedulers.filter_map(|file| fs::read_to_string(file).ok()).any(|text| text.contains("[bfq]"));
    let costs = fs::read_to_string("/sys/fs/cgroup/io.cost.qos").is_ok_and(|text| text.contains("enable=1"));
    match group {
        Ok(group) => {
            assert!(bfq || costs);
            let kept = file(&group, &["blkio.bfq.weight", "io.bfq.weight", "io.weight"]);
            assert!(kept.starts_with("200") || kept.starts_with("default 200"), "{kept}");
        }
        Err(error) => {
            assert!(!bfq && !costs, "{error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.remedy().unwrap().contains("bfq"), "{error}");
        }
    }
}

#[test]
#[ignore = "needs root and writable cgroups, python3, and huge pages in the kernel: maps them"]
fn huge_pages_are_refused_beyond_the_limit() {
    const PAGE: u64 = 2 << 20;
    let group = Cgroup::create(&name("huge"), &Limits::new().hugetlb_max(PAGE, 2 * PAGE)).unwrap();
    assert!(group.report().is_complete(), "{:?}", group.report());
    let refused = || {
        let events = file(&group, &["hugetlb.2MB.events", "hugetlb.2MB.rsvd.failcnt"]);
        events.trim_start_matches("max ").parse::<u64>().unwrap()
    };
    // Whether the machine has any to give is another matter: the group is asked first.
    let map = |pages: u64| {
        let size = pages * PAGE;
        let flags = "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000";
        let out =
            output(&group, &format!("exec python3 -c 'import mmap; mmap.mmap(-1, {size}, flags={flags})'"));
        assert!(out.status.success() || String::from_utf8_lossy(&out.stderr).contains("Errno 12"), "{out:?}");
    };
    map(2);
    assert_eq!(refused(), 0);
    map(3);
    assert!(refused() > 0);
    let error = Cgroup::create(&name("huger"), &Limits::new().hugetlb_max(1 << 50, 1 << 50)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.remedy().unwrap().contains("hugepages"), "{error}");
}

#[test]
#[ignore = "needs root: a program decides on devices"]
fn devices_that_are_not_listed_are_refused() {
    let rules = ["c 1:3 rw", "c 1:5 w"].map(|rule| rule.parse::<DeviceRule>().unwrap());
    let group = Cgroup::create(&name("devices"), &Limits::new().devices(rules)).unwrap();
    assert!(matches!(group.report().get("device_rules").unwrap().outcome(), Outcome::Enforced(_)));
    let opens = |redirection: &str| {
        let out = output(&group, &format!("true {redirection}"));
        let refused = String::from_utf8_lossy(&out.stderr).contains("not permitted");
        assert!(out.status.success() || refused, "{out:?}");
        out.status.success()
    };
    assert!(opens("</dev/null") && opens(">/dev/null") && opens(">/dev/zero"));
    assert!(!opens("</dev/zero"), "only for writing");
    assert!(!opens("</dev/urandom"), "not listed");
    let none = Cgroup::create(&name("nodevice"), &Limits::new().devices([])).unwrap();
    assert!(!output(&none, "true >/dev/null").status.success(), "none at all");
}

#[test]
#[ignore = "needs root and writable cgroups: creates groups with softer limits on memory"]
fn softer_limits_on_memory() {
    let limits = Limits::new().memory_max(64 << 20);
    match Cgroup::create(&name("soft"), &limits.clone().memory_reservation(16 << 20)) {
        Ok(group) => {
            assert_eq!(file(&group, &["memory.soft_limit_in_bytes", "memory.low"]), (16 << 20).to_string());
            assert!(group.report().is_complete(), "{:?}", group.report());
        }
        // On v2, where nothing above is protected.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.path().is_some_and(|path| path.ends_with("memory.low")), "{error}");
            assert!(error.remedy().is_some());
        }
    }
    match Cgroup::create(&name("high"), &limits.clone().memory_high(16 << 20)) {
        Ok(group) => {
            // dd's buffer is memory it touches: beyond the limit it is slowed down, and counted.
            let out = output(&group, "exec dd if=/dev/zero of=/dev/null bs=24M count=1");
            assert!(out.status.success(), "{out:?}");
            let stats = group.stats().unwrap();
            assert!(stats.memory_high_events.is_some_and(|events| events > 0), "{stats:?}");
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.remedy().unwrap().contains("cgroup v2"), "{error}");
            let limits = limits.memory_high(16 << 20).best_effort(LimitKind::MemoryHigh);
            let group = Cgroup::create(&name("high"), &limits).unwrap();
            assert!(matches!(group.report().get("memory_high").unwrap().outcome(), Outcome::NotEnforced(_)));
            assert!(matches!(group.report().get("memory_max").unwrap().outcome(), Outcome::Enforced(_)));
        }
    }
}

#[test]
#[ignore = "needs root and writable cgroups: reads what they count"]
fn memory_and_pressure_are_counted() {
    let group = Cgroup::create(&name("counted"), &Limits::new().memory_max(64 << 20).pids_max(2)).unwrap();
    let mut child = Reaped(
        // tail keeps what it has read, as there is no end of a line in it.
        shell(&group, "head -c 16M /dev/zero | tail -n 1 >/dev/null & wait; exec sleep 600")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    // The shell and two children are more than the two that are allowed: it says so and ends.
    assert!(!child.0.wait().unwrap().success());
    let stats = group.stats().unwrap();
    assert!(stats.pids_refused.is_some_and(|times| times > 0), "{stats:?}");
    assert!(stats.memory_anon.is_some() && stats.memory_file.is_some(), "{stats:?}");
    let out = output(&group, "exec dd if=/dev/zero of=/dev/null bs=96M count=1");
    assert!(!out.status.success());
    let stats = group.stats().unwrap();
    assert!(stats.memory_max_events.is_some_and(|times| times > 0), "{stats:?}");
    // Beside v1, too, as long as there is v2 and the kernel measures it.
    let measured = fs::read_to_string("/proc/pressure/memory").is_ok();
    assert_eq!(stats.memory_pressure.is_some(), measured && group.v2_dir().is_some(), "{stats:?}");
    if let Some(pressure) = stats.cpu_pressure {
        assert!((0.0..=100.0).contains(&pressure.some.avg10), "{pressure:?}");
    }
}

#[test]
#[ignore = "needs root and writable cgroups: a process is killed for its memory"]
fn running_out_of_memory_is_told() {
    let group = Cgroup::create(&name("told"), &Limits::new().memory_max(16 << 20)).unwrap();
    let mut events = group.oom_events().unwrap();
    assert!(!events.wait(Duration::ZERO).unwrap());
    let out = output(&group, "exec dd if=/dev/zero of=/dev/null bs=4M count=1");
    assert!(out.status.success() && !events.wait(Duration::ZERO).unwrap());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| events.wait(SOON).unwrap());
        let out = output(&group, "exec dd if=/dev/zero of=/dev/null bs=256M count=1");
        assert_eq!(out.status.signal(), Some(9), "{out:?}");
        assert!(waits.join().unwrap());
    });
    assert_eq!(group.oom_kills().unwrap(), Some(1));
    let path = group.paths().next().unwrap().to_owned();
    group.remove().unwrap();
    // Whoever waits for a group that goes is not left waiting.
    let error = (0..3).find_map(|_| events.wait(SOON).err()).expect("an error");
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
    assert!(!path.exists());
    let group = Cgroup::create(&name("untold"), &Limits::new().pids_max(8)).unwrap();
    // On v2 it may be counted for a neighbour's sake.
    match (group.oom_events(), group.stats().unwrap().memory_current) {
        (Err(error), None) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
        (Ok(_), Some(_)) => {}
        other => panic!("{other:?}"),
    }
}

const INSIDE: &str = "CORACLE_TEST_INSIDE";

/// As in an outer container that is given v2: the first group of its namespace is the one that the program is in. What the
/// error says to do helps.
#[test]
#[ignore = "needs root, and control groups v2 alone: a namespace of them"]
fn where_the_first_group_is_the_programs_own() {
    let below = "mkdir /sys/fs/cgroup/own && echo $$ >/sys/fs/cgroup/own/cgroup.procs";
    let limits = Limits::new().memory_max(16 << 20);
    match std::env::var(INSIDE).as_deref() {
        Ok("as it is") => {
            let error = Cgroup::create("inside", &limits).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.remedy().is_some_and(|remedy| remedy.contains(below)), "{error}");
            let missing = Cgroup::create("inside", &limits.best_effort(LimitKind::MemoryMax)).unwrap();
            assert!(!missing.report().is_complete(), "{:?}", missing.report());
        }
        Ok(_) => {
            let group = Cgroup::create("inside", &limits).unwrap();
            assert!(group.report().is_complete(), "{:?}", group.report());
            let out = output(&group, "exec dd if=/dev/zero of=/dev/null bs=256M count=1");
            assert_eq!(out.status.signal(), Some(9), "{out:?}");
        }
        Err(_) => {
            let dir = Path::new("/sys/fs/cgroup").join(name("namespace"));
            let enter = "echo $$ >$1/cgroup.procs; do=$2; shift 2; exec unshare --mount --cgroup sh -ec \
                \"umount -l /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; $do; exec \\\"\\$@\\\"\" sh \"$@\"";
            for (how, commands) in [("as it is", ":"), ("below", below)] {
                fs::create_dir(&dir).unwrap();
                let mut command = Command::new("sh");
                command.args(["-ec", enter, "sh"]).arg(&dir).arg(commands);
                command.arg(std::env::current_exe().unwrap()).args(["--include-ignored", "--exact"]);
                command.arg("limits::where_the_first_group_is_the_programs_own").env(INSIDE, how);
                let out = command.output().unwrap();
                let own = dir.join("own");
                assert!(!own.exists() || fs::remove_dir(&own).is_ok());
                fs::remove_dir(&dir).unwrap();
                assert!(out.status.success(), "{how}: {out:?}");
                assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"), "{how}: {out:?}");
            }
        }
    }
}
