//! Profiles in Docker's form.
use super::*;
use coracle::ErrorKind;
use serde_json::{Value, json};

/// Calls without arguments: the kernel ignores what a filter sees there, so that a call fails as the filter says or not
/// at all. Nothing else in the program makes them.
const CALLS: [(&str, u32); 5] = [
    ("sched_yield", n::__NR_sched_yield),
    ("getppid", n::__NR_getppid),
    ("geteuid", n::__NR_geteuid),
    ("getegid", n::__NR_getegid),
    ("sync", n::__NR_sync),
];

fn with(image: &Image, profile: &Value) -> ContainerBuilder {
    probing(image).seccomp(Seccomp::from_json(profile.to_string()).unwrap())
}

/// All calls are allowed, but for these rules.
fn but(rules: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})
}

fn errno(name: &str, errno: u32, args: Value) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args})
}

#[test]
fn every_comparison() {
    const V: u64 = 0x1_0000_0005;
    let (below, above, far) = (V - 1, V + 1, V + (1 << 32));
    // What holds for: the value below, itself, the one above, one that differs in the upper word only.
    let table = [
        ("SCMP_CMP_NE", [true, false, true, true]),
        ("SCMP_CMP_LT", [true, false, false, false]),
        ("SCMP_CMP_LE", [true, true, false, false]),
        ("SCMP_CMP_EQ", [false, true, false, false]),
        ("SCMP_CMP_GE", [false, true, true, true]),
        ("SCMP_CMP_GT", [false, false, true, true]),
    ];
    let image = host();
    for (op, expected) in table {
        for index in [0, 3, 5] {
            let profile = but(json!([errno("getppid", 77, json!([{"index": index, "value": V, "op": op}]))]));
            let calls = [below, V, above, far].map(|value| {
                let mut args = [9; 6];
                args[index] = value;
                call(n::__NR_getppid, &args)
            });
            let expected = expected.map(|holds| if holds { "errno 77" } else { "ok" });
            assert_eq!(probe(&with(&image, &profile), &calls), expected, "{op} {index}");
        }
    }
    let masked = json!([{"index": 1, "value": 0x00f0_0000_000f_u64, "valueTwo": 0x0010_0000_0003_u64, "op": "SCMP_CMP_MASKED_EQ"}]);
    let calls = [0x0010_0000_0003_u64, 0x000f_ff1f_ffff_fff3, 0x0010_0000_0002, 0x0020_0000_0003]
        .map(|value| call(n::__NR_getppid, &[0, value]));
    let said = probe(&with(&image, &but(json!([errno("getppid", 77, masked)]))), &calls);
    assert_eq!(said, ["errno 77", "errno 77", "ok", "ok"]);
    // All of a rule's conditions must hold; two on one argument are two rules.
    let both = |second: u8| {
        let args = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": second, "value": 2, "op": "SCMP_CMP_EQ"}]);
        let calls = [[1, 2], [1, 1], [2, 2], [3, 3]].map(|args| call(n::__NR_getppid, &args));
        probe(&with(&image, &but(json!([errno("getppid", 77, args)]))), &calls)
    };
    assert_eq!(both(1), ["errno 77", "ok", "ok", "ok"]);
    assert_eq!(both(0), ["errno 77", "errno 77", "errno 77", "ok"]);
}

#[test]
fn every_action() {
    let image = host();
    let calls = [call(n::__NR_getppid, &[]), call(n::__NR_geteuid, &[])];
    for (action, expected) in [
        ("SCMP_ACT_ERRNO", "errno 1"),
        ("SCMP_ACT_KILL", "signal 31"),
        ("SCMP_ACT_KILL_THREAD", "signal 31"),
        ("SCMP_ACT_KILL_PROCESS", "signal 31"),
        ("SCMP_ACT_TRAP", "signal 31"),
        // No tracer.
        ("SCMP_ACT_TRACE", "errno 38"),
        ("SCMP_ACT_LOG", "ok"),
        ("SCMP_ACT_ALLOW", "ok"),
    ] {
        let profile = but(json!([{"names": ["getppid"], "action": action}]));
        assert_eq!(probe(&with(&image, &profile), &calls), [expected, "ok"], "{action}");
    }
    let zero = but(json!([errno("getppid", 0, json!([]))]));
    assert_eq!(probe(&with(&image, &zero), &calls[..1]), ["ok"], "errno 0 is a success that did nothing");
    // The default, and its number. What the program needs is allowed.
    let closed = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 99,
        "syscalls": [{"names": [
            "execve", "exit", "exit_group", "brk", "mmap", "munmap", "mprotect", "openat", "read", "pread64", "write",
            "writev", "close", "fstat", "newfstatat", "access", "faccessat", "arch_prctl", "set_tid_address",
            "set_robust_list", "rseq", "prlimit64", "getrandom", "clone", "wait4", "geteuid", "readlinkat",
        ], "action": "SCMP_ACT_ALLOW"}],
    });
    assert_eq!(probe(&with(&image, &closed), &calls), ["errno 99", "ok"]);
    assert_eq!(
        probe(&with(&image, &closed), &[call(9999, &[])]),
        [ENOSYS],
        "a call that the profile's author could not know"
    );
    let unconfined = probing(&image).seccomp(Seccomp::Unconfined);
    assert_eq!(probe(&unconfined, &[call(n::__NR_keyctl, &[9999])]), ["errno 95"]);
    assert_eq!(say(&unconfined.command(["grep", "Seccomp:", "/proc/self/status"])), "Seccomp:\t0");
}

#[test]
fn rules_for_some_only() {
    let image = host();
    let refused = |extra: Value, cap: &str| {
        let mut rule = errno("getppid", 77, json!([]));
        rule.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let builder = with(&image, &but(json!([rule]))).cap_add(cap);
        let said = probe(&builder, &[call(n::__NR_getppid, &[])]).remove(0);
        assert!(said == "ok" || said == "errno 77", "{said}");
        said != "ok"
    };
    let (own, other) = if cfg!(target_arch = "x86_64") { ("amd64", "arm64") } else { ("arm64", "amd64") };
    for (extra, applies) in [
        (json!({}), true),
        (json!({"includes": {"caps": ["CAP_SYS_PTRACE"]}}), false),
        (json!({"includes": {"caps": ["CAP_KILL"]}}), true),
        (json!({"includes": {"caps": ["CAP_KILL", "CAP_SYS_PTRACE"]}}), false),
        (json!({"excludes": {"caps": ["CAP_KILL", "CAP_SYS_PTRACE"]}}), false),
        (json!({"excludes": {"caps": ["CAP_SYS_PTRACE"]}}), true),
        (json!({"includes": {"arches": [own, other]}}), true),
        (json!({"includes": {"arches": [other]}}), false),
        (json!({"excludes": {"arches": [own]}}), false),
        (json!({"excludes": {"arches": [other]}}), true),
        (json!({"includes": {"minKernel": "4.8"}}), true),
        (json!({"includes": {"minKernel": "99.0"}}), false),
        (json!({"excludes": {"minKernel": "4.8"}}), false),
        (json!({"includes": {"minKernel": "4.8", "caps": ["CAP_SYS_PTRACE"]}}), false),
    ] {
        assert_eq!(refused(extra.clone(), "KILL"), applies, "{extra}");
    }
    assert!(refused(json!({"includes": {"caps": ["CAP_SYS_PTRACE"]}}), "SYS_PTRACE"));
    assert!(!refused(json!({"excludes": {"caps": ["CAP_SYS_PTRACE"]}}), "SYS_PTRACE"));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn sub_architectures() {
    let image = host();
    let calls = ["i20".to_owned(), "i64".to_owned(), call(n::__NR_getppid, &[]), call(n::__NR_getpid, &[])];
    let said = |archs: Value| {
        let mut profile = but(json!([errno("getppid", 77, json!([]))]));
        profile.as_object_mut().unwrap().extend(archs.as_object().unwrap().clone());
        probe(&with(&image, &profile), &calls)
    };
    let kernels = probe(&probing(&image).seccomp(Seccomp::Unconfined), &calls);
    let theirs = if kernels[0] == "ok" { ["ok", "errno 77"] } else { [kernels[0].as_str(), &kernels[1]] };
    let along =
        json!({"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]});
    let list = json!({"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]});
    for archs in [along, list] {
        assert_eq!(said(archs), [theirs[0], theirs[1], "errno 77", "ok"]);
    }
    // Of another machine: not for this one. What the profile does not speak of is no way around it.
    let theirs = if kernels[0] == "ok" { "signal 31" } else { kernels[0].as_str() };
    let other =
        json!({"archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}]});
    for archs in [json!({}), other, json!({"architectures": ["SCMP_ARCH_X86_64"]})] {
        assert_eq!(said(archs), [theirs, theirs, "errno 77", "ok"]);
    }
}

/// Random rules over random arguments: the kernel's decision against a reading of the rules that is as plain as can be.
#[test]
fn the_kernel_decides_as_the_profile_reads() {
    // xorshift64*: the same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    };
    const OPS: [&str; 7] = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    // Few values, so that they meet; some in the upper word.
    let value = |random: &mut dyn FnMut(u64) -> u64| {
        [0, 1, 2, 3, 1 << 32, (1 << 32) + 1, u64::MAX][random(7) as usize]
    };
    let image = host();
    let mut refused = 0;
    for round in 0..8 {
        let mut rules = Vec::new();
        for number in 0..10 {
            let mut args = Vec::new();
            for index in 0..6 {
                if random(4) == 0 {
                    args.push((index, OPS[random(7) as usize], value(&mut random), value(&mut random)));
                }
            }
            if args.is_empty() {
                args.push((0, OPS[0], value(&mut random), 0));
            }
            rules.push((CALLS[random(5) as usize], 100 + number, args));
        }
        let json = rules.iter().map(|((name, _), number, args)| {
            let args = args.iter().map(
                |(index, op, value, two)| json!({"index": index, "op": op, "value": value, "valueTwo": two}),
            );
            errno(name, *number, args.collect())
        });
        let profile = but(json.collect());
        let holds = |(index, op, value, two): &(usize, &str, u64, u64), args: &[u64; 6]| {
            let arg = args[*index];
            match *op {
                "SCMP_CMP_NE" => arg != *value,
                "SCMP_CMP_LT" => arg < *value,
                "SCMP_CMP_LE" => arg <= *value,
                "SCMP_CMP_EQ" => arg == *value,
                "SCMP_CMP_GE" => arg >= *value,
                "SCMP_CMP_GT" => arg > *value,
                _ => arg & value == two & value,
            }
        };
        let mut calls = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..150 {
            let nr = CALLS[random(5) as usize].1;
            let args = std::array::from_fn(|_| value(&mut random));
            let first = rules.iter().find(|((_, of), _, conditions)| {
                *of == nr && conditions.iter().all(|condition| holds(condition, &args))
            });
            expected.push(first.map_or("ok".to_owned(), |(_, number, _)| format!("errno {number}")));
            calls.push(call(nr, &args));
        }
        refused += expected.iter().filter(|said| *said != "ok").count();
        let said = probe(&with(&image, &profile), &calls);
        for ((call, said), expected) in calls.iter().zip(said).zip(expected) {
            assert_eq!(said, expected, "round {round}: {call} under {profile}");
        }
    }
    assert!((200..1000).contains(&refused), "both answers are tried: {refused}");
}

#[test]
fn what_is_wrong_in_a_profile_is_named() {
    let allow = r#"{"names":["a"],"action":"SCMP_ACT_ALLOW"}"#;
    let rule = |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{allow},{rule}]}}"#);
    let arg = |arg: &str| rule(&format!(r#"{{"names":["a"],"action":"SCMP_ACT_ALLOW","args":[{arg}]}}"#));
    use ErrorKind::{InvalidData, TooLarge, Unsupported};
    let many: Vec<_> = (0..3000)
        .map(|value| errno("getppid", 1, json!([{"index": 0, "value": 2 * value, "op": "SCMP_CMP_EQ"}])))
        .collect();
    for (json, kind, words) in [
        ("{".to_owned(), InvalidData, &["line 1"][..]),
        ("{}".into(), InvalidData, &["defaultAction"]),
        (r#"{"defaultAction":"ALLOW"}"#.into(), InvalidData, &["defaultAction", "ALLOW"]),
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.into(), Unsupported, &["defaultAction", "SCMP_ACT_NOTIFY"]),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscall":[]}"#.into(), InvalidData, &["`syscall`"]),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":{}}"#.into(), InvalidData, &["sequence"]),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#.into(),
            InvalidData,
            &["ErrnoRet", "4096"],
        ),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["NEW"]}"#.into(), Unsupported, &["flags", "NEW"]),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#.into(), Unsupported, &["listenerPath"]),
        (rule(r#"{"names":["a"],"action":"PERMIT"}"#), InvalidData, &["syscalls[1]", "action", "PERMIT"]),
        (rule(r#"{"names":["a"]}"#), InvalidData, &["action"]),
        (rule(r#"{"action":"SCMP_ACT_ALLOW"}"#), InvalidData, &["syscalls[1]", "names no system call"]),
        (
            rule(r#"{"names":["a"],"action":"SCMP_ACT_ERRNO","errnoRet":5000}"#),
            InvalidData,
            &["syscalls[1]", "errnoRet", "5000"],
        ),
        (arg(r#"{"index":6,"value":0,"op":"SCMP_CMP_EQ"}"#), InvalidData, &["syscalls[1]", "index", "6"]),
        (arg(r#"{"index":0,"value":0,"op":"EQ"}"#), InvalidData, &["syscalls[1]", "op", "EQ"]),
        (arg(r#"{"index":0,"value":-1,"op":"SCMP_CMP_EQ"}"#), InvalidData, &["-1"]),
        (arg(r#"{"index":0,"op":"SCMP_CMP_EQ"}"#), InvalidData, &["`value`"]),
        (
            rule(r#"{"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}}"#),
            InvalidData,
            &["syscalls[1]", "minKernel", "new"],
        ),
        (but(json!([errno("no_such_call", 1, json!([]))])).to_string(), InvalidData, &["no_such_call"]),
        (but(many.into()).to_string(), TooLarge, &["4096", "instructions"]),
    ] {
        let error = Seccomp::from_json(&json).unwrap_err();
        let said = error.to_string();
        assert_eq!(error.kind(), kind, "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} in {said:?}");
    }
}
