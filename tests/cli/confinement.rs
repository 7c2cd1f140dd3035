//! What confines a command, seen from inside: its network, its filter of system calls, Landlock, its limits.
#![forbid(unsafe_code)]

use super::*;

#[test]
fn the_network_is_a_loopback_or_the_hosts() {
    let w = World::new();
    let script = "readlink /proc/self/ns/net; sed -n 's/^ *\\([^ |]*\\):.*/\\1/p' /proc/net/dev; cat /proc/net/route | wc -l";
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let own = own.to_str().unwrap();
    let table = std::fs::read_to_string("/proc/net/dev").unwrap();
    let hosts: Vec<_> = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert!(hosts.contains(&"lo"), "{table}");
    let inside = |flags: &[&str]| {
        let out = w.ok(["run", "--rm"].iter().chain(flags).chain(&["@host", "sh", "-c", script]));
        let mut lines: Vec<_> = out.lines().map(str::to_owned).collect();
        let routes = lines.pop().unwrap();
        (lines.remove(0), lines, routes)
    };
    for flags in [&[][..], &["--network", "none"], &["--net=none"]] {
        let (namespace, devices, routes) = inside(flags);
        assert_ne!(namespace, own, "{flags:?}");
        // The heading alone.
        assert_eq!((devices, routes.as_str()), (vec!["lo".to_owned()], "1"), "{flags:?}");
    }
    let (namespace, devices, _) = inside(&["--network", "host"]);
    assert_eq!((namespace.as_str(), devices), (own, hosts.iter().map(|name| name.to_string()).collect()));
}

#[test]
fn a_profile_for_system_calls_is_read_from_a_file() {
    let w = World::new();
    let file = w.path().join("profile.json");
    // An error that nothing else gives.
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    std::fs::write(&file, profile).unwrap();
    let script = "LC_ALL=C mkdir /tmp/x 2>&1 || rm -f /tmp/x; sed -n 's/^Seccomp:\\s*//p' /proc/self/status";
    let words = ["@host", "sh", "-c", script];
    let with = |option: &str| w.ok(["run", "--rm", "--security-opt", option].iter().chain(&words));
    let out = with(&format!("seccomp={}", file.display()));
    assert!(out.contains("No space left on device") && out.ends_with("\n2\n"), "{out}");
    assert_eq!(with("seccomp=builtin"), "2\n");
    assert_eq!(with("seccomp=unconfined"), "0\n");
    std::fs::write(&file, r#"{"defaultAction": "SCMP_ACT_PERHAPS"}"#).unwrap();
    let option = format!("seccomp={}", file.display());
    let done = w.run(["run", "--rm", "--security-opt", &option, "@host", "true"]);
    assert!(done.code == 125 && done.err.contains("SCMP_ACT_PERHAPS"), "{done:?}");
}

#[test]
#[ignore = "needs python3"]
fn the_strict_filter_has_fewer_sockets() {
    let w = World::new();
    let script = "import socket\nfor family, kind, proto in (1, 1, 0), (16, 3, 0), (16, 3, 9):\n \
        try: socket.socket(family, kind, proto); print('ok')\n except PermissionError: print('refused')";
    let inside =
        |flags: &[&str]| w.ok(["run", "--rm"].iter().chain(flags).chain(&["@host", "python3", "-c", script]));
    assert_eq!(inside(&[]), "ok\nok\nok\n");
    assert_eq!(inside(&["--security-opt", "seccomp=strict"]), "ok\nok\nrefused\n");
}

/// Nothing else stands between such a container and a mount of its own.
#[test]
fn landlock_is_turned_on_and_off() {
    let w = World::new();
    let open = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"];
    let script = "mount -t tmpfs none /mnt 2>/dev/null && echo mounted || echo refused";
    let inside = |flags: &[&str]| {
        w.run(["run", "--rm"].iter().chain(&open).chain(flags).chain(&["@host", "sh", "-c", script]))
    };
    assert_eq!(inside(&[]).out, "mounted\n");
    assert_eq!(inside(&["--security-opt", "landlock=false"]).out, "mounted\n");
    let Ok(abi) = coracle::Landlock::abi() else {
        let done = inside(&["--security-opt", "landlock"]);
        assert!(done.code == 125 && done.err.contains("andlock"), "{done:?}");
        return;
    };
    for option in ["landlock", "landlock=true"] {
        // A kernel that has a part of it says so where all is required.
        if abi < 6 {
            let done = inside(&["--security-opt", option]);
            assert!(done.code == 125 && done.err.contains("andlock"), "{done:?}");
        }
        let flags = ["--security-opt", option, "--security-opt", "best-effort=landlock"];
        let done = inside(if abi < 6 { &flags } else { &flags[..2] });
        assert_eq!((done.code, done.out.as_str()), (0, "refused\n"), "{option}: {done:?}");
    }
}

#[test]
fn what_can_be_written_is_bounded() {
    let w = World::new();
    let script = "head -c 9000000 /dev/zero >/var/x 2>/dev/null || echo full";
    let inside =
        |flags: &[&str]| w.run(["run", "--rm"].iter().chain(flags).chain(&["@host", "sh", "-c", script]));
    assert_eq!(w.ok(["run", "--rm", "--writable-in-memory", "@host", "sh", "-c", script]), "");
    let done = inside(&["--writable-in-memory", "--storage-opt", "size=4m"]);
    assert_eq!((done.code, done.out.as_str()), (0, "full\n"), "{done:?}");
    // On disk by a quota, where the filesystem has one.
    let done = inside(&["--storage-opt", "size=4m"]);
    if done.code == 125 {
        let is_named = ["quota", "disk_max"].iter().any(|word| done.err.contains(word));
        assert!(is_named && done.err.contains("help:"), "{done:?}");
    } else {
        assert_eq!((done.code, done.out.as_str()), (0, "full\n"), "{done:?}");
    }
    for wrong in ["4m", "size", "colour=red", "size=much"] {
        let done = w.run(["run", "--rm", "--storage-opt", wrong, "@host", "true"]);
        assert!(done.code == 125 && done.err.contains("storage-opt"), "{wrong}: {done:?}");
    }
}

/// The command would go on for longer than any test.
#[test]
fn a_command_is_killed_after_its_time() {
    let w = World::new();
    let script = "echo begun; exec sleep 100000";
    // On a busy machine it takes longer to begin.
    let run = |time| w.run(["run", "--rm", "--timeout", time, "@host", "sh", "-c", script]);
    let done = ["1", "5", "25"].into_iter().map(run).find(|done| !done.out.is_empty()).unwrap();
    assert_eq!((done.code, done.out.as_str()), (125, "begun\n"), "{done:?}");
    assert!(done.err.contains("timeout"), "{done:?}");
    assert_eq!(w.ok(["ps", "-aq"]), "");
    // One that is done before does not hear of it.
    let done = w.run(["run", "--rm", "--timeout", "100", "@host", "sh", "-c", "exit 3"]);
    assert_eq!(done.code, 3, "{done:?}");
    for wrong in ["", "x", "-1"] {
        assert_eq!(w.run(["run", "--rm", "--timeout", wrong, "@host", "true"]).code, 125, "{wrong:?}");
    }
}

#[test]
fn processes_can_be_without_a_limit() {
    let w = World::new();
    let script = "cd /sys/fs/cgroup; for f in pids/pids.max pids.max; do if test -e $f; then cat $f; exit; fi; done; \
        i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; echo all";
    let inside = |limit: &str| w.ok(["run", "--rm", "--pids-limit", limit, "@host", "sh", "-c", script]);
    let bounded = inside("77");
    for limit in ["-1", "0"] {
        let said = inside(limit);
        match bounded.as_str() {
            // Greater than what a kernel has numbers for is none.
            "77\n" => assert!(["max\n", "4194304\n"].contains(&said.as_str()), "{limit}: {said}"),
            // No group: then by RLIMIT_NPROC, which is not seen from inside.
            other => assert_eq!((other, said.as_str()), ("all\n", "all\n"), "{limit}"),
        }
    }
    assert!(bounded == "77\n" || !is_root(), "{bounded}");
}
