use super::*;
use crate::cgroup::{LimitKind, Outcome};

#[test]
fn looks_upwards_to_the_mount_and_no_further() {
    let place =
        |mount: &str, own: &str| Hierarchy { controllers: vec![], mount: mount.into(), own: own.into() };
    let dirs =
        |mount, own| above(&place(mount, own)).map(|dir| dir.display().to_string()).collect::<Vec<_>>();
    assert_eq!(dirs("/c", "/c/a/b"), ["/c/a/b", "/c/a", "/c"]);
    assert_eq!(dirs("/c", "/c/"), ["/c/"]);
}

#[test]
fn knows_which_groups_are_systemds_own() {
    for dir in ["/c/user.slice", "/c/user.slice/user@1000.service", "/c/app.slice"] {
        assert!(is_systemds(Path::new(dir)), "{dir}");
    }
    for dir in ["/c", "/", "/c/run-u1.scope", "/c/session.slice/user@1000.service/x.service", "/c/delegated"]
    {
        assert!(!is_systemds(Path::new(dir)), "{dir}");
    }
}

#[test]
fn what_can_not_be_removed_is_left_to_somebody() {
    use crate::cgroup::{Cgroup, Remnant};
    let dir = tempfile::tempdir().unwrap();
    let (tell, told) = std::sync::mpsc::channel::<(String, Remnant)>();
    let remove = |group: Cgroup| assert!(group.remove().is_err());
    for (go, is_in_use) in [(drop as fn(_), true), (remove as fn(_), true), (drop as fn(_), false)] {
        // A plain directory with a file is as little removed as a group with a process.
        let path = dir.path().join("x");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("tasks"), "").unwrap();
        let mut group = Cgroup::open([&path]).unwrap();
        group.owner = Some(crate::sys::fork::Witness::current().unwrap());
        let tell = tell.clone();
        group.leave_to(move |name, remove| tell.send((name.to_owned(), remove)).unwrap());
        if !is_in_use {
            fs::remove_file(path.join("tasks")).unwrap();
        }
        go(group);
        assert_eq!(path.exists(), is_in_use);
        let Ok((name, mut remove)) = told.try_recv() else {
            assert!(!is_in_use, "nobody got it");
            continue;
        };
        assert!(is_in_use && name == "x", "{name}");
        assert!(remove().is_err());
        fs::remove_file(path.join("tasks")).unwrap();
        remove().unwrap();
        assert!(!path.exists());
        remove().unwrap();
    }
}

#[test]
fn what_is_no_group_is_not_swept_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join(ROOM).join("name");
    fs::create_dir_all(&plain).unwrap();
    // Were these looked at more closely, they would be errors.
    let paths = [
        "/sys/fs/cgroup",
        "/proc/self/coracle/other",
        "coracle/name",
        "/a/../coracle/name",
        "/x/coracle/name",
    ];
    let paths: Vec<_> = paths.map(PathBuf::from).into_iter().chain([plain.clone()]).collect();
    let parent = CgroupParent::new(Layout::default()).unwrap();
    parent.sweep_at("name", &paths).unwrap();
    assert!(plain.exists());
}

#[test]
fn a_plain_directory_is_no_control_group() {
    let dir = tempfile::tempdir().unwrap();
    let own = Hierarchy { controllers: vec![], mount: dir.path().into(), own: dir.path().into() };
    let parent = CgroupParent::new(Layout { v1: vec![], unified: Some(own) }).unwrap();
    let group = parent.create("x", &Limits::new()).unwrap();
    let error = group.freeze(std::time::Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.remedy().is_some() && error.to_string().contains("cgroup.procs"), "{error}");
    assert!(parent.create("x", &Limits::new().pids_max(5)).is_err(), "required");
    let group = parent.create("x", &Limits::new().pids_max(5).best_effort(LimitKind::PidsMax)).unwrap();
    assert!(matches!(group.report().get("pids_max").unwrap().outcome(), Outcome::NotEnforced(_)));
    drop((group, parent));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn controllers_must_be_there_to_be_handed_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
    fs::write(dir.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
    let new = &mut Vec::new();
    enable(dir.path(), &[], new).unwrap();
    enable(dir.path(), &["cpu"], new).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "cpu\n");
    enable(dir.path(), &["cpu", "memory"], new).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "+memory");
    assert_eq!(enable(dir.path(), &["pids"], new).unwrap_err().kind(), ErrorKind::Unsupported);
}

/// Another program had removed it, and has made it again for groups that need no controllers.
#[test]
#[ignore = "needs root and writable cgroups: makes groups in one of its own"]
fn what_another_program_has_made_anew_gets_what_is_lacking() {
    let limits = Limits::new().pids_max(5).cpuset_mems("0");
    let parent = CgroupParent::detect().unwrap();
    let outer = parent.create(&format!("test-{}-anew", std::process::id()), &limits).unwrap();
    let mut layout = Layout::detect().unwrap();
    let enter = |hierarchy: &mut Hierarchy| {
        let own = outer.paths().find(|dir| dir.starts_with(&hierarchy.mount));
        own.map(|own| hierarchy.own = own.to_owned()).is_some()
    };
    layout.v1.retain_mut(enter);
    layout.unified = layout.unified.and_then(|mut own| enter(&mut own).then_some(own));
    let inner = CgroupParent::new(layout).unwrap();
    for _ in 0..2 {
        let group = inner.create("x", &limits).unwrap();
        assert!(group.report().is_complete(), "{:?}", group.report());
        let rooms: Vec<_> = group.paths().map(|dir| dir.parent().unwrap().to_owned()).collect();
        group.remove().unwrap();
        for room in rooms {
            fs::remove_dir(&room).unwrap();
            fs::create_dir(&room).unwrap();
        }
    }
    drop(inner);
    outer.remove().unwrap();
}

/// Beside v1 as well: what a pure v2 would do, here in the unified hierarchy.
#[test]
#[ignore = "needs root and cgroup2: has the kernel run a program for devices"]
fn on_v2_a_program_decides_on_devices() {
    let layout = Layout { v1: Vec::new(), ..Layout::detect().unwrap() };
    let parent = CgroupParent::new(layout).unwrap();
    let name = format!("test-{}-program", std::process::id());
    let rules = ["c 1:3 rw", "c 1:5 w"].map(|rule| rule.parse().unwrap());
    let group = parent.create(&name, &Limits::new().devices(rules)).unwrap();
    assert!(matches!(group.report().get("device_rules").unwrap().outcome(), Outcome::Enforced(_)));
    let procs = group.join_paths().next().unwrap();
    let opens = |redirection: &str| {
        let script = format!("echo 0 > {} && true {redirection}", procs.display());
        let out = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        let refused = String::from_utf8_lossy(&out.stderr).contains("not permitted");
        assert!(out.status.success() || refused, "{out:?}");
        out.status.success()
    };
    assert!(opens("</dev/null") && opens(">/dev/null") && opens(">/dev/zero"));
    assert!(!opens("</dev/zero") && !opens("</dev/urandom"));
    group.remove().unwrap();
}

/// As before Linux 5.14, and as before 5.2. Each process of the group lives just long enough to fork the next one.
#[test]
#[ignore = "needs root and cgroup2: kills processes that fork all the time"]
fn who_forks_all_the_time_is_killed_one_by_one() {
    let layout = Layout { v1: Vec::new(), ..Layout::detect().unwrap() };
    let parent = CgroupParent::new(layout).unwrap();
    for (round, is_frozen) in [true, true, true, false].into_iter().enumerate() {
        let name = format!("test-{}-forks-{round}", std::process::id());
        let mut group = parent.create(&name, &Limits::new()).unwrap();
        let unified = group.unified.as_mut().unwrap();
        let kill = unified.kill.take();
        if !is_frozen {
            unified.freeze = None;
        }
        let procs = group.join_paths().next().unwrap();
        let script = format!("echo 0 >{} && next() {{ next & }} && next", procs.display());
        let null = std::process::Stdio::null;
        let mut shell = std::process::Command::new("sh");
        let shell = shell.args(["-c", &script]).stdin(null()).stdout(null()).stderr(null());
        assert!(shell.status().unwrap().success());
        let killed = group.kill();
        if let (false, Err(error)) = (is_frozen, &killed) {
            // By luck alone, and said.
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            rustix::io::write(kill.as_ref().unwrap(), b"1").unwrap();
        } else {
            killed.unwrap();
            assert_eq!(group.procs().unwrap(), Vec::<i32>::new());
        }
        group.remove().unwrap();
    }
}

struct Reaped(std::process::Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An ordinary user under systemd gets a scope for another process, with the controllers that systemd hands on; it
/// goes when that process ends. Elsewhere the group is where the program's own is, or it is said what to do.
#[test]
fn a_users_systemd_hands_a_group_on_for_another_process() {
    let child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let mut child = Reaped(child);
    let pid = i32::try_from(child.0.id()).unwrap();
    let group_of = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let (own, before) = (group_of("self"), group_of(&pid.to_string()));
    let scope = OnceLock::new();
    let origin = Origin { pid: &|| Ok(pid), scope: &scope };
    let parent = CgroupParent::detect().unwrap();
    let name = format!("test-{}-scope", std::process::id());
    let made = parent.create_for(origin, &name, &Limits::new().memory_max(64 << 20).pids_max(9));
    assert_eq!(group_of("self"), own, "this program stays where it is");
    let is_user = !rustix::process::geteuid().is_root() && parent.0.layout.v1.is_empty();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_default();
    let is_there = ["systemd/private", "bus"].iter().any(|socket| runtime.join(socket).exists());
    if !(is_user && is_there) {
        assert_eq!(group_of(&pid.to_string()), before, "nobody is moved");
        match made {
            Ok(group) => assert!(group.report().is_complete() && !matches!(scope.get(), Some(Ok(_)))),
            Err(error) => assert!(error.remedy().is_some(), "{error}"),
        }
        return;
    }
    let group = made.unwrap();
    assert!(group.report().is_complete(), "{:?}", group.report());
    let dir = scope.get().unwrap().clone().unwrap();
    println!("{} from {}", dir.display(), own.trim());
    assert!(group_of(&pid.to_string()).trim().ends_with(".scope/warden"));
    assert_eq!(group.paths().next().unwrap(), dir.join(ROOM).join(&name));
    assert_eq!(fs::read_to_string(dir.join(ROOM).join(&name).join("memory.max")).unwrap(), "67108864\n");
    // A second group needs no second scope.
    let second = parent.create_for(origin, &format!("{name}-2"), &Limits::new().pids_max(3)).unwrap();
    assert!(second.paths().all(|path| path.starts_with(&dir)));
    // As at the end of a program that is killed: nobody removes the groups.
    group.keep();
    second.keep();
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while dir.exists() {
        assert!(std::time::Instant::now() < deadline, "{} is left", dir.display());
        std::thread::yield_now();
    }
}
