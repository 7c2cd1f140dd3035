//! Limits: docker's defaults, the values in the control group, and that nothing said is lost.
#![forbid(unsafe_code)]

use super::*;

const MIB: u64 = 1 << 20;

/// The limits of a container that was made with these flags.
#[track_caller]
fn created(w: &World, flags: &[&str]) -> Value {
    let id = w.ok(["create"].iter().chain(flags).chain(&["@host", "true"]));
    w.inspect(id.trim())["HostConfig"]["Limits"].take()
}

/// Memory and swap together, and whether it is only best effort.
fn swap(limits: &Value) -> (Option<u64>, bool) {
    let lesser = limits["best_effort"].as_array().unwrap();
    (limits["memory_swap_max"].as_u64(), lesser.contains(&"MemorySwapMax".into()))
}

/// Docker's documentation, "--memory-swap details".
#[test]
fn swap_is_bounded_as_docker_does_it() {
    let w = World::new();
    let of = |flags: &[&str]| swap(&created(&w, flags));
    assert_eq!(of(&["-m", "64m"]), (Some(128 * MIB), true), "as much again");
    assert_eq!(of(&["-m", "64m", "--memory-swap", "0"]), (Some(128 * MIB), true), "0 is unset");
    assert_eq!(of(&["-m", "64m", "--memory-swap", "-1"]), (Some(u64::MAX), true));
    assert_eq!(of(&["-m", "64m", "--memory-swap", "64m"]), (Some(64 * MIB), false));
    assert_eq!(of(&["-m", "64m", "--memory-swap", "80m"]), (Some(80 * MIB), false));
    assert_eq!(of(&["--memory-swap", "0"]), (None, false));
    assert_eq!(of(&["--memory-swap", "-1"]), (None, false), "nothing limits it");
    assert_eq!(of(&["-m", "0", "--memory-swap", "-1"]), (None, false));
    let untrusted = ["--security-opt", "profile=untrusted"];
    let with = |more: &[&str]| of(&[&untrusted, more].concat());
    assert_eq!(with(&["-m", "1g"]), (Some(1024 * MIB), false), "a profile without swap stays one");
    assert_eq!(with(&["--memory-swap", "1g"]), (Some(1024 * MIB), false), "its memory is one");
    assert_eq!(
        with(&["--memory-swap", "-1"]),
        (Some(u64::MAX), true),
        "the machine's swap beside its memory"
    );
    for wrong in [
        &["--memory-swap", "1g"][..],
        &["-m", "0", "--memory-swap", "1g"],
        &["-m", "64m", "--memory-swap", "32m"],
        &["-m", "64m", "--memory-swap", "-2"],
    ] {
        let done = w.run(["run", "--rm"].iter().chain(wrong).chain(&["@host", "true"]));
        assert!(done.code == 125 && done.err.contains("memory"), "{wrong:?}: {done:?}");
    }
}

/// Docker's daemon takes them so: two flags that say the same are a conflict where both are more than 0.
#[test]
fn zero_is_unset() {
    let w = World::new();
    let values = |flags: &[&str]| {
        let mut limits = created(&w, flags);
        ["memory_max", "memory_swap_max", "memory_reservation", "cpu_max"].map(|name| limits[name].take())
    };
    let none = [(); 4].map(|()| Value::Null);
    assert_eq!(values(&["-m", "0", "--memory-reservation", "0", "--cpus", "0"]), none);
    assert_eq!(values(&["-m", "0b", "--memory-reservation=0m", "--cpus=0.0", "--cpu-quota=0"]), none);
    let profile = ["--security-opt", "profile=untrusted"];
    let unset = ["-m", "0", "--memory-reservation", "0", "--cpus", "0", "--cpu-quota", "0"];
    let (of_profile, with) = (values(&profile), values(&[&profile[..], &unset].concat()));
    assert!(of_profile[0].is_u64() && of_profile[3].is_object(), "{of_profile:?}");
    assert_eq!(with, of_profile, "no limit of a profile is taken off");
    let half = serde_json::json!({"quota": 50_000, "period": 100_000});
    assert_eq!(values(&["--cpus", "0.5", "--cpu-quota", "0", "--cpu-period", "0"])[3], half);
    assert_eq!(values(&["--cpus", "0", "--cpu-quota", "50000"])[3], half);
    for wrong in [
        &["--cpus", "0.5", "--cpu-quota", "50000"][..],
        &["--cpus", "0.5", "--cpu-quota", "-1"],
        &["--cpus", "-1"],
        &["-m", "-1"],
        &["-m", "1"],
    ] {
        let done = w.run(["create"].iter().chain(wrong).chain(&["@host", "true"]));
        assert_ne!(done.code, 0, "{wrong:?}: {done:?}");
    }
}

#[test]
fn nothing_said_is_lost() {
    let w = World::new();
    let untrusted = ["--security-opt", "profile=untrusted"];
    for (flags, named) in [
        (&["--cpu-period", "50000"][..], "--cpu-quota"),
        (&["--cpu-period", "50000", "--cpu-quota", "-1"], "--cpu-quota"),
        (&["--cpu-quota", "-2"], "--cpu-quota"),
        (&["--cpus", "1", "--cpu-period", "50000"], "--cpu-period"),
        (&[untrusted[0], untrusted[1], "--cpu-quota", "-1"], "profile"),
        (&["--tmpfs", "/mnt:exec,noexec"], "exec and noexec"),
        (&["--tmpfs", "/mnt:ro,rw"], "ro and rw"),
        (&["-v", "site:/mnt:rw,ro"], "ro and rw"),
        (&["--net", "none", "--network", "host"], "--network"),
    ] {
        let done = w.run(["run", "--rm"].iter().chain(flags).chain(&["@host", "true"]));
        assert!(done.code == 125 && done.err.contains(named), "{flags:?}: {done:?}");
    }
    // For docker these are unset.
    let limits = created(&w, &["--cpu-period", "0", "--cpu-quota", "0", "--cpu-shares", "0"]);
    assert_eq!((&limits["cpu_max"], &limits["cpu_weight"]), (&Value::Null, &Value::Null));
    let limits = created(&w, &["--cpu-period", "50000", "--cpu-quota", "20000", "-c", "512"]);
    assert_eq!(limits["cpu_max"], serde_json::json!({"quota": 20_000, "period": 50_000}));
    assert_eq!(limits["cpu_weight"], 50);
    // The last word on what a profile says.
    let id = w.ok(untrusted
        .iter()
        .fold(vec!["create", "--read-only=false"], |mut words, word| {
            words.push(word);
            words
        })
        .into_iter()
        .chain(["@host", "true"]));
    assert_eq!(w.inspect(id.trim())["HostConfig"]["ReadonlyRootfs"], false);
    assert_eq!(w.run(["start", "-a=false", id.trim()]).code, 125);
    assert_eq!(w.run(["rm", "-v=false", id.trim()]).code, 125);
    // An image may expose what can't be forwarded: that is told.
    let done = w.run(["create", "-P", "--expose", "53/udp", "--expose", "80", "@host", "true"]);
    assert!(done.code == 0 && done.err.contains("53/udp"), "{done:?}");
}

/// What the command says, or nothing where this user can have no control group: then the error has said so.
#[track_caller]
fn said(w: &World, flags: &[&str], script: &str) -> Option<String> {
    let done = w.run(["run", "--rm"].iter().chain(flags).chain(&["@host", "sh", "-c", script]));
    if !is_root() && done.code == 125 {
        assert!(done.err.contains("help:"), "the reason and the remedy: {done:?}");
        return None;
    }
    assert_eq!(done.code, 0, "{flags:?}: {done:?}");
    Some(done.out)
}

/// The first of some files that is there; `none` where none is. Control groups v1 and v2 name theirs differently.
const FIRST: &str = r#"first() { for file in "$@"; do if test -e "$file"; then cat "$file"; return; fi; done; echo none; }
    cd /sys/fs/cgroup"#;

#[test]
fn values_are_in_the_control_group() {
    let w = World::new();
    let script = format!(
        "{FIRST}
        first memory/memory.limit_in_bytes memory.max
        first memory/memory.memsw.limit_in_bytes memory.swap.max
        first pids/pids.max pids.max
        first cpu*/cpu.shares cpu.weight
        echo $(first cpu*/cpu.cfs_quota_us cpu.max) $(first cpu*/cpu.cfs_period_us)"
    );
    let flags = "-m 64m --pids-limit 33 -c 512 --cpu-period 50000 --cpu-quota 20000";
    let Some(out) = said(&w, &flags.split_whitespace().collect::<Vec<_>>(), &script) else { return };
    let lines: Vec<_> = out.lines().map(|line| line.trim_end_matches(" none")).collect();
    let [memory, swap, pids, share, quota] = lines[..] else { panic!("{out}") };
    assert_eq!((memory, pids, quota), ("67108864", "33", "20000 50000"), "{out}");
    // Together on v1, swap alone on v2, and best effort where nobody counts it.
    assert!(["134217728", "67108864", "none"].contains(&swap), "{out}");
    assert!(["512", "50"].contains(&share), "{out}");
    let script = format!("{FIRST}; first cpu*/cpu.cfs_quota_us cpu.max");
    let out = said(&w, &["--cpus", "0.5"], &script).unwrap_or("50000".into());
    assert_eq!(out.split_whitespace().next(), Some("50000"), "{out}");
    let out = said(&w, &["--cpu-shares=2048"], &format!("{FIRST}; first cpu*/cpu.shares cpu.weight"));
    assert!(["2048\n", "200\n"].contains(&out.unwrap().as_str()));
}

#[test]
fn processors_and_memory_nodes_are_the_lists() {
    let w = World::new();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let first = |field: &str| {
        let list = status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim();
        list.split([',', '-']).next().unwrap().to_owned()
    };
    let (cpu, node) = (first("Cpus_allowed_list:"), first("Mems_allowed_list:"));
    let script = "sed -n 's/^\\(Cpus\\|Mems\\)_allowed_list:\\s*//p' /proc/self/status; nproc";
    let flags = ["--cpuset-cpus", &cpu, "--cpuset-mems", &node];
    if let Some(out) = said(&w, &flags, script) {
        assert_eq!(out, format!("{cpu}\n{node}\n1\n"));
    }
    for flags in [["--cpuset-cpus", "9-"], ["--cpuset-mems", "x"], ["--cpuset-cpus", "99999"]] {
        let done = w.run(["run", "--rm"].iter().chain(&flags).chain(&["@host", "true"]));
        assert_eq!(done.code, 125, "{flags:?}: {done:?}");
    }
}

/// With a control group or without: then it is RLIMIT_NPROC.
#[test]
fn processes_are_counted_for_every_user() {
    let w = World::new();
    let script = "i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done; echo all";
    let done = w.run(["run", "--rm", "--pids-limit", "20", "@host", "sh", "-c", script]);
    assert!(done.code != 0 && done.code != 125 && done.out.is_empty(), "{done:?}");
    let done = w.run(["run", "--rm", "--pids-limit", "60", "@host", "sh", "-c", script]);
    assert_eq!((done.code, done.out.as_str()), (0, "all\n"), "{done:?}");
    for wrong in ["-2", "x"] {
        assert_eq!(w.run(["run", "--rm", "--pids-limit", wrong, "@host", "true"]).code, 125, "{wrong}");
    }
}
