//! Limits of containers: on devices, and those of an ordinary user.
use super::*;

/// Where nothing can be had it is an error, not a container without the limit.
#[test]
fn a_limit_on_memory_binds_or_the_error_says_what_to_do() {
    let own_group = || std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let before = own_group();
    let limited = sh(&host(), "echo ready; exec sleep 1000").memory_max(64 << 20);
    let is_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(std::path::PathBuf::from).unwrap_or_default();
    let has_systemd = is_v2 && runtime.join("systemd/private").exists();
    let container = match limited.start() {
        Ok(container) => container,
        Err(error) => {
            assert!(!rustix::process::geteuid().is_root() && !has_systemd, "{error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("Delegate=yes")), "{error}");
            return;
        }
    };
    container.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
    assert!(container.report().is_complete(), "{:?}", container.report());
    assert_eq!(container.stats().unwrap().memory_max, Some(64 << 20));
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid().unwrap())).unwrap();
    assert!(group.contains(container.id()), "{group}");
    if !rustix::process::geteuid().is_root() && has_systemd {
        assert!(group.contains(".scope/coracle/"), "a scope of its own: {group}");
    }
    assert_eq!(own_group(), before, "the program itself stays where it is");
    container.pause().unwrap();
    container.unpause().unwrap();
    assert!(container.exec(["true"]).output().unwrap().status.success(), "it joins the same groups");
    let id = container.id().to_owned();
    container.remove().unwrap();
    let found = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", &id]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

/// There is a limit on processes unless somebody says that there is to be none.
#[test]
fn processes_are_limited_by_default_or_not_at_all() {
    let usual = sh(&host(), "true");
    assert_eq!(usual.clone().run().unwrap().report.get("pids_max").unwrap().asked(), "2048");
    let out = usual.clone().pids_unlimited().run().unwrap();
    assert!(out.status.success() && out.report.get("pids_max").is_none(), "{:?}", out.report);
    let limited = usual.pids_unlimited().pids_max(64).run().unwrap();
    assert_eq!(limited.report.get("pids_max").unwrap().asked(), "64");
}

/// A second wall: the kernel asks the group's list as well.
#[test]
#[ignore = "needs root: a control group for devices"]
fn a_list_of_devices_has_the_containers_own_and_those_given() {
    let script = "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; : >/dev/null; : </dev/kmsg && echo kmsg";
    let none = coracle::Limits::new().devices([]);
    let with = |limits: coracle::Limits| {
        sh(&host(), script).device(coracle::Device::new("/dev/kmsg")).limits(limits)
    };
    let out = with(none.clone()).run().unwrap();
    assert!(out.report.is_complete(), "{:?}", out.report);
    let entry = out.report.get("device_rules").unwrap();
    assert!(entry.asked().contains("c 1:3 rw") && entry.asked().contains("c 1:11 rw"), "{entry}");
    assert!(out.stdout_text().starts_with("4\n4\n"), "{}", out.stdout_text());
    let terminal = sh(&host(), "test -t 0 && : </dev/tty").tty(true).limits(none);
    assert!(terminal.start().unwrap().wait().unwrap().success(), "its terminal is one of them");
}
