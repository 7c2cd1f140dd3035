//! What is done of a start when a container is made, and that nobody has to know of it.
use super::*;
use std::collections::BTreeSet;

/// The processes that have this parent, but for those that have ended and wait to be reaped.
fn children(parent: i32) -> BTreeSet<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(path).unwrap();
    let living = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
    };
    children.split_whitespace().map(|pid| pid.parse().unwrap()).filter(living).collect()
}

#[test]
fn it_ends_with_a_container_that_is_never_started() {
    if !common::is_own_process("created::it_ends_with_a_container_that_is_never_started") {
        return;
    }
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let warden = common::warden_of(&container);
    // The warden takes one request after the other: once this one is answered, all before it were taken.
    let all_is_taken = || assert!(container.exec(["true"]).output().unwrap().status.success());
    all_is_taken();
    let before = children(warden);
    let wait_for = |allowed: &[usize]| {
        let mut begun = BTreeSet::new();
        // What has executed the last request may not have ended yet.
        common::eventually("those that wait are a few or none", || {
            begun = children(warden).difference(&before).copied().collect();
            allowed.contains(&begun.len())
        });
        begun
    };
    let create = || -> Vec<_> { (0..6).map(|_| sh(&image, "true").create().unwrap()).collect() };
    let is_in_its_group = |pid: &i32, of: &[coracle::Container]| {
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        of.iter().any(|container| group.contains(container.id()))
    };
    // Whoever is killed meanwhile is there again at the start: those that wait in the group of their container alone, those
    // that wait for them, or all.
    for kill in [[true, false], [false, true], [true, true]] {
        let created = create();
        all_is_taken();
        // A few at most, however many are made, each with two processes; none where that can't be.
        let begun = wait_for(&[0, 8]);
        if std::env::var("CORACLE_LANE").is_ok_and(|lane| lane == "root") {
            assert_eq!(begun.len(), 8);
        }
        let (inside, outside): (Vec<_>, Vec<_>) =
            begun.iter().partition(|pid| is_in_its_group(pid, &created));
        assert_eq!(inside.len(), outside.len());
        for (_, pids) in kill.iter().zip([inside, outside]).filter(|(kill, _)| **kill) {
            for handle in pids.into_iter().map(common::pidfd) {
                rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL).unwrap();
                assert!(common::ends(&handle, LONG));
            }
        }
        for container in &created {
            container.start().unwrap();
            assert!(container.wait().unwrap().success());
            // Where there was a group for what waited, there is one for this.
            assert!(begun.is_empty() || container.report().is_complete(), "{:?}", container.report());
        }
    }
    let created = create();
    all_is_taken();
    let again = wait_for(&[0, 8]);
    let ids: Vec<_> = created.iter().map(|container| container.id().to_owned()).collect();
    let groups = || ids.iter().filter(|id| !common::cgroups_with(id).is_empty()).count();
    assert_eq!(groups(), again.len() / 2);
    let handles: Vec<_> = again.iter().map(|pid| common::pidfd(*pid)).collect();
    drop(created);
    assert!(handles.iter().all(|handle| common::ends(handle, LONG)));
    // Where that took its time, the group goes a little later.
    common::eventually("their groups go", || groups() == 0);
    // Its place is free again.
    let created = sh(&image, "true").create().unwrap();
    all_is_taken();
    wait_for(&[again.len().min(2)]);
    created.start().unwrap();
    assert!(created.wait().unwrap().success());
}

#[test]
fn each_of_many_can_be_started() {
    let image = host();
    assert_eq!(say(&sh(&image, "echo up")), "up");
    let created: Vec<_> = (0..6).map(|n| sh(&image, &format!("exit {n}")).create().unwrap()).collect();
    for _ in 0..2 {
        for (n, container) in created.iter().enumerate().rev() {
            container.start().unwrap();
            assert_eq!(container.wait().unwrap().code(), Some(n as i32));
        }
    }
}

/// The group of what waits is in nobody's way, and nobody takes it away.
#[test]
#[ignore = "needs root and writable cgroups: limits that are required"]
fn its_group_is_the_one_of_the_start() {
    let image = host();
    assert_eq!(say(&sh(&image, "echo up")), "up");
    let limited = sh(&image, "exit 3").memory_max(64 << 20).pids_max(32);
    let starts = |container: &coracle::Container| {
        container.start().unwrap();
        assert_eq!(container.wait().unwrap().code(), Some(3));
        assert!(container.report().is_complete(), "{:?}", container.report());
    };
    let created = limited.create().unwrap();
    // Whoever opens a store sweeps the groups of those that are gone.
    drop(coracle::Store::open(image.store().path()).unwrap());
    starts(&created);
    starts(&created);
    for _ in 0..10 {
        let kept = limited.create().unwrap();
        let id = kept.id().to_owned();
        kept.keep().unwrap();
        let kept = image.store().container(&id).unwrap();
        starts(&kept);
        kept.remove().unwrap();
        assert_eq!(common::cgroups_with(&id), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn a_forked_copy_does_not_end_it() {
    if !common::is_own_process("created::a_forked_copy_does_not_end_it") {
        return;
    }
    let image = host();
    assert_eq!(say(&sh(&image, "echo up")), "up");
    let created = sh(&image, "exit 3").create().unwrap();
    // SAFETY: this process has one thread that does anything; the copy ends without returning.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            drop(created);
            // SAFETY: ends the copy, without its destructors.
            unsafe { nix::libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
    created.start().unwrap();
    assert_eq!(created.wait().unwrap().code(), Some(3));
}

#[test]
fn a_warden_that_was_killed_meanwhile_is_another_one_at_the_start() {
    if !common::is_own_process("created::a_warden_that_was_killed_meanwhile_is_another_one_at_the_start") {
        return;
    }
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let created = sh(&image, "exit 3").create().unwrap();
    let warden = nix::unistd::Pid::from_raw(common::warden_of(&container));
    nix::sys::signal::kill(warden, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(container.wait().unwrap_err().kind(), ErrorKind::Gone);
    created.start().unwrap();
    assert_eq!(created.wait().unwrap().code(), Some(3));
}

/// The first process of a start has its own mounts from then on.
#[test]
#[ignore = "needs root: mounts a filesystem"]
fn what_the_host_mounts_before_the_start_is_there() {
    const INSIDE: &str = "CORACLE_TEST_OWN_MOUNTS";
    let name = "created::what_the_host_mounts_before_the_start_is_there";
    if std::env::var_os(INSIDE).is_none() {
        // Shared with those that are made from there, and with nobody else.
        let script = "mount --make-rshared / && exec \"$@\"";
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--include-ignored"]).env(INSIDE, "1");
        return common::passes(command);
    }
    let image = host();
    assert_eq!(say(&sh(&image, "echo up")), "up");
    let dir = tempfile::tempdir().unwrap();
    let builder =
        sh(&image, "cat /in/file").mount(Mount::bind(dir.path(), "/in")).stdout(coracle::Stdio::piped());
    let gone = tempfile::tempdir().unwrap();
    let mount = |at: &std::path::Path| {
        let flags = rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOSUID;
        rustix::mount::mount("coracle-test", at, "tmpfs", flags, None).unwrap();
    };
    mount(gone.path());
    let created = builder.create().unwrap();
    mount(dir.path());
    fs::write(dir.path().join("file"), "mounted").unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Nor does it keep busy what the host unmounts.
    rustix::mount::unmount(gone.path(), rustix::mount::UnmountFlags::empty()).unwrap();
    created.start().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut created.take_stdout().unwrap(), &mut said).unwrap();
    assert_eq!(said, "mounted");
    assert!(created.wait().unwrap().success());
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}
