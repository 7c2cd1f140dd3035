//! Whatever can be set of a container by the library can be set on the command line.
#![forbid(unsafe_code)]

use super::*;
use std::collections::BTreeSet;

/// The flag of each setting; of one without a flag, in brackets, what stands for it.
const BUILDER: &[(&str, &str)] = &[
    ("name", "--name"),
    ("hostname", "--hostname"),
    ("label", "--label"),
    ("command", "[COMMAND]"),
    ("entrypoint", "--entrypoint"),
    ("arg", "[ARG...]"),
    ("args", "[ARG...]"),
    ("env", "--env"),
    ("envs", "--env-file"),
    ("env_clear", "--env-clear"),
    ("working_dir", "--workdir"),
    ("user", "--user"),
    ("group", "--group-add"),
    ("read_only", "--read-only"),
    ("mount", "--mount"),
    ("tmpfs", "--tmpfs"),
    ("bind", "--volume"),
    ("volume", "--volume"),
    ("file", "--file"),
    ("file_mode", "--file"),
    ("device", "--device"),
    ("ulimit", "--ulimit"),
    ("sysctl", "--sysctl"),
    ("cap_add", "--cap-add"),
    ("cap_drop", "--cap-drop"),
    ("seccomp", "seccomp="),
    ("no_new_privileges", "no-new-privileges"),
    ("default_masked_paths", "[the list itself: nothing to be set]"),
    ("default_read_only_paths", "[the list itself: nothing to be set]"),
    ("masked_paths", "mask="),
    ("read_only_paths", "--read-only-paths"),
    ("init", "--init"),
    ("stop_signal", "--stop-signal"),
    ("stop_timeout", "--stop-timeout"),
    ("start_timeout", "--start-timeout"),
    ("stdin", "--interactive"),
    ("stdout", "[the shell's redirections]"),
    ("stderr", "[the shell's redirections]"),
    ("on_output", "[the program's own output]"),
    ("output_max", "[nothing is collected: output goes on as it comes]"),
    ("tty", "--tty"),
    ("timeout", "--timeout"),
    ("writable_in_memory", "--writable-in-memory"),
    ("disk_max", "--storage-opt"),
    ("memory_max", "--memory"),
    ("memory_swap_max", "--memory-swap"),
    ("cpus", "--cpus"),
    ("cpu_weight", "--cpu-shares"),
    ("cpuset_cpus", "--cpuset-cpus"),
    ("pids_max", "--pids-limit"),
    ("pids_unlimited", "--pids-limit"),
    ("limits", "[each limit has its own]"),
    ("profile", "profile="),
    ("requirement", "require="),
    ("require", "require="),
    ("best_effort", "best-effort="),
    ("landlock", "landlock"),
    ("network", "--network"),
    ("host", "--add-host"),
    ("publish", "--publish"),
    ("publish_at", "--publish"),
    ("create", "[a verb]"),
    ("start", "[a verb]"),
    ("run", "[a verb]"),
];

const LIMITS: &[(&str, &str)] = &[
    ("new", "[no limit]"),
    ("name", "[of a kind of them]"),
    ("memory_max", "--memory"),
    ("memory_swap_max", "--memory-swap"),
    ("memory_high", "[docker has none]"),
    ("memory_reservation", "--memory-reservation"),
    ("cpus", "--cpus"),
    ("cpu_quota", "--cpu-quota"),
    ("cpu_weight", "--cpu-shares"),
    ("cpu_shares", "--cpu-shares"),
    ("cpuset_cpus", "--cpuset-cpus"),
    ("cpuset_mems", "--cpuset-mems"),
    ("pids_max", "--pids-limit"),
    ("io_weight", "--blkio-weight"),
    ("io_max", "--device-write-iops"),
    ("hugetlb_max", "[docker has none]"),
    ("devices", "--device-cgroup-rule"),
    ("best_effort", "best-effort="),
    ("requirement", "require="),
    ("requirement_of", "[asks]"),
    ("kinds", "[asks]"),
];

/// The public functions of a source.
fn public(source: &str) -> BTreeSet<&str> {
    let lines = source.lines().filter_map(|line| line.trim_start().strip_prefix("pub fn "));
    lines.filter_map(|line| line.split(['(', '<']).next()).collect()
}

#[test]
fn each_setting_has_one() {
    let help = World::new().run(["run", "--help"]);
    assert_eq!(help.code, 0, "{}", help.err);
    let shown: BTreeSet<_> = help.out.split([' ', ',', '\n', '[']).collect();
    let sources = [
        (BUILDER, include_str!("../../src/container/builder.rs")),
        (LIMITS, include_str!("../../src/cgroup/limits.rs")),
    ];
    for (table, source) in sources {
        let named: BTreeSet<_> = table.iter().map(|(name, _)| *name).collect();
        assert_eq!(named, public(source), "a line here for each setting");
        for (name, flag) in table.iter().filter(|(_, flag)| !flag.starts_with('[')) {
            let there = match flag.ends_with('=') {
                true => shown.iter().any(|word| word.starts_with(flag)),
                false => shown.contains(flag),
            };
            assert!(there, "{name}: run --help has no {flag}\n{}", help.out);
        }
    }
}
