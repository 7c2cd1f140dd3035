//! The compiled programs are run by a small BPF machine and compared with a naive reading of the profile, and
//! with libseccomp's programs.
#![forbid(unsafe_code)]

use super::super::default;
use super::super::profile::{KernelVersion, Rule};
use super::*;
use crate::security::capability::{Capabilities, Capability};
use std::io::Write;
use std::process::{Command, Stdio};

const KERNEL: KernelVersion = KernelVersion(6, 18);
const ENOSYS_RET: u32 = 0x0005_0026;
const EPERM_RET: u32 = 0x0005_0001;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;

fn target(machine: &'static str, caps: Capabilities) -> Target {
    Target { machine, caps, kernel: KERNEL }
}

/// What the kernel's BPF machine does; it panics where the kernel's checker would refuse the program.
fn run(program: &[Insn], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(nr.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut pc, mut a) = (0usize, 0u32);
    loop {
        let Insn { code, jt, jf, k } = program[pc];
        pc += 1;
        let jump = |yes: bool| usize::from(if yes { jt } else { jf });
        match code {
            LD => {
                assert_eq!(k % 4, 0);
                a = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap());
            }
            AND => a &= k,
            JA => pc += k as usize,
            JEQ => pc += jump(a == k),
            JGT => pc += jump(a > k),
            JGE => pc += jump(a >= k),
            RET => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Every jump ends inside the program, and the last instruction returns (`bpf_check_classic`).
fn check(program: &[Insn]) {
    for (at, insn) in program.iter().enumerate() {
        let far = match insn.code {
            JA => insn.k as usize,
            JEQ | JGT | JGE => usize::from(insn.jt.max(insn.jf)),
            _ => 0,
        };
        assert!(
            at + far + 1 < program.len() || insn.code == RET,
            "instruction {at} {insn:?} leaves the program"
        );
    }
    assert_eq!(program.last().unwrap().code, RET);
}

/// A second reading of the rules, straight from the profile's text: no ranges, no tree.
struct Naive<'a> {
    profile: &'a Profile,
    abi: Abi,
    /// Each rule that applies, with the numbers it names.
    rules: Vec<(&'a Rule, HashSet<u32>)>,
    newest: Option<u32>,
}

impl<'a> Naive<'a> {
    fn new(profile: &'a Profile, target: &Target, abi: Abi) -> Self {
        let numbers =
            |rule: &Rule| rule.names.iter().filter_map(|name| abi.number(name)).collect::<HashSet<_>>();
        let rules =
            profile.rules.iter().filter(|rule| rule.applies(target)).map(|r| (r, numbers(r))).collect();
        let newest = profile.rules.iter().flat_map(numbers).filter(|number| *number < 0xf0000).max();
        Self { profile, abi, rules, newest }
    }

    fn of(&self, nr: u32) -> Vec<&'a Rule> {
        self.rules.iter().filter(|(_, numbers)| numbers.contains(&nr)).map(|(rule, _)| *rule).collect()
    }

    fn answer(&self, nr: u32, rules: &[&Rule], args: [u64; 6]) -> u32 {
        let default = self.profile.default;
        let holds = |condition: &Condition| {
            let arg = args[usize::from(condition.index)];
            match condition.op {
                Op::Ne(value) => arg != value,
                Op::Lt(value) => arg < value,
                Op::Le(value) => arg <= value,
                Op::Eq(value) => arg == value,
                Op::Ge(value) => arg >= value,
                Op::Gt(value) => arg > value,
                Op::MaskedEq { mask, value } => arg & mask == value,
            }
        };
        if self.abi == Abi::X86_64 && nr >= X32 {
            return ENOSYS_RET;
        }
        let mut plain = rules.iter().filter(|rule| rule.conditions.is_empty() && rule.action != default);
        if let Some(rule) = plain.next() {
            return rule.action.code();
        }
        let mut given = rules.iter().filter(|rule| !rule.conditions.is_empty());
        if let Some(rule) = given.find(|rule| rule.conditions.iter().all(holds)) {
            return rule.action.code();
        }
        match self.newest {
            Some(newest) if nr > newest && rules.is_empty() && !default.is_permissive() => ENOSYS_RET,
            _ => default.code(),
        }
    }
}

/// Values at which some comparison of the profile turns, and their neighbours, also in the upper word alone.
fn samples(profile: &Profile) -> Vec<u64> {
    let mut values = vec![0, 1, u64::MAX, 1 << 32, u64::from(u32::MAX)];
    for condition in profile.rules.iter().flat_map(|rule| &rule.conditions) {
        let (Op::Ne(v) | Op::Lt(v) | Op::Le(v) | Op::Eq(v) | Op::Ge(v) | Op::Gt(v)) = condition.op else {
            let Op::MaskedEq { mask, value } = condition.op else { unreachable!() };
            values.extend([value, value | !mask, !value, mask, mask & mask.wrapping_neg(), value ^ 1 << 40]);
            continue;
        };
        values.extend([
            v,
            v.wrapping_add(1),
            v.wrapping_sub(1),
            v ^ 1 << 32,
            v.wrapping_add(1 << 32),
            v << 32,
        ]);
    }
    values.sort_unstable();
    values.dedup();
    values
}

fn compare(profile: &Profile, target: &Target, abis: &[Abi]) {
    let program = compile(profile, target).unwrap();
    check(&program);
    let values = samples(profile);
    let numbers =
        (0..600).chain([0xf0000, 0xf0001, 0xf0002, 0xf0005, 0xf0007, X32, X32 + 1, X32 | 59, u32::MAX]);
    for abi in abis {
        let naive = Naive::new(profile, target, *abi);
        for nr in numbers.clone() {
            let rules = naive.of(nr);
            for (at, &value) in values.iter().enumerate() {
                let other = values[(at * 7 + 3) % values.len()];
                for args in
                    [[value; 6], [value, other, value, other, value, other], [other, value, 0, 0, 0, 0]]
                {
                    assert_eq!(
                        run(&program, abi.audit(), nr, args),
                        naive.answer(nr, &rules, args),
                        "{abi:?} {nr} {args:x?} {target:?}"
                    );
                }
            }
        }
    }
    for abi in Abi::ALL.iter().filter(|abi| !abis.contains(abi)) {
        assert_eq!(run(&program, abi.audit(), 0, [0; 6]), KILL, "{abi:?} is not spoken of");
    }
}

fn parse(json: &str) -> Profile {
    Profile::parse(json.as_bytes()).unwrap()
}

#[test]
fn the_default_profile_does_what_it_says() {
    let profile = default::profile();
    for caps in [
        Capabilities::NONE,
        Capabilities::DEFAULT,
        Capabilities::ALL,
        Capabilities::DEFAULT.with(Capability::SYS_ADMIN),
        Capabilities::NONE.with(Capability::BPF).with(Capability::SYS_PTRACE),
    ] {
        compare(&profile, &target("amd64", caps), &[Abi::X86_64, Abi::X86]);
        compare(&profile, &target("arm64", caps), &[Abi::Aarch64, Abi::Arm]);
    }
    let old = Target { kernel: KernelVersion(4, 4), ..target("amd64", Capabilities::DEFAULT) };
    compare(&profile, &old, &[Abi::X86_64, Abi::X86]);
}

/// Without the first, no program on aarch64 could look for a file.
#[test]
fn calls_have_the_kernels_names() {
    assert_eq!(Abi::Aarch64.number("newfstatat"), Some(79));
    assert_eq!(Abi::Arm.number("sync_file_range2"), Some(341));
}

#[test]
fn the_default_profile_in_words() {
    let of = |machine, caps| compile(&default::profile(), &target(machine, caps)).unwrap();
    let plain = of("amd64", Capabilities::DEFAULT);
    let admin = of("amd64", Capabilities::DEFAULT.with(Capability::SYS_ADMIN));
    let arm = of("arm64", Capabilities::DEFAULT);
    assert!(plain.len() < 1200, "{} instructions", plain.len());
    let call = |program: &[Insn], abi: Abi, name: &str, first: u64| {
        run(program, abi.audit(), abi.number(name).unwrap(), [first, 0, 0, 0, 0, 0])
    };
    let x86 = |name: &str, first: u64| call(&plain, Abi::X86_64, name, first);
    for name in ["read", "execve", "chroot", "openat2", "futex", "prctl", "seccomp", "ptrace", "arch_prctl"] {
        assert_eq!(x86(name, 0), ALLOW, "{name}");
    }
    for name in
        ["mount", "io_uring_setup", "keyctl", "kexec_load", "init_module", "bpf", "userfaultfd", "reboot"]
    {
        assert_eq!(x86(name, 0), EPERM_RET, "{name}");
    }
    assert_eq!(x86("clone", 0x11), ALLOW);
    for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(x86("clone", 0x11 | flag), EPERM_RET, "{flag:#x}");
        assert_eq!(call(&admin, Abi::X86_64, "clone", 0x11 | flag), ALLOW, "{flag:#x}");
    }
    assert_eq!((x86("clone3", 0), call(&admin, Abi::X86_64, "clone3", 0)), (ENOSYS_RET, ALLOW));
    assert_eq!((x86("unshare", 0), call(&admin, Abi::X86_64, "mount", 0)), (EPERM_RET, ALLOW));
    assert_eq!((x86("socket", 2), x86("socket", 38), x86("socket", 40)), (ALLOW, EPERM_RET, EPERM_RET));
    assert_eq!((x86("socket", 39), x86("socket", 41)), (ALLOW, ALLOW));
    assert_eq!((x86("personality", 0xffff_ffff), x86("personality", 0x4_0000)), (ALLOW, EPERM_RET));
    // Calls that no profile can know yet, and the 32-bit numbers on a 64-bit machine.
    assert_eq!(run(&plain, Abi::X86_64.audit(), 599, [0; 6]), ENOSYS_RET);
    assert_eq!(run(&plain, Abi::X86_64.audit(), X32, [0; 6]), ENOSYS_RET);
    assert_eq!(run(&plain, Abi::X86_64.audit(), X32 | 520, [0; 6]), ENOSYS_RET);
    assert_eq!(call(&plain, Abi::X86, "mmap2", 0), ALLOW);
    assert_eq!(call(&plain, Abi::X86, "mount", 0), EPERM_RET);
    assert_eq!(call(&arm, Abi::Aarch64, "openat", 0), ALLOW);
    assert_eq!(call(&arm, Abi::Aarch64, "mount", 0), EPERM_RET);
    assert_eq!(call(&arm, Abi::Arm, "set_tls", 0), ALLOW);
    assert_eq!(call(&arm, Abi::Arm, "arm_fadvise64_64", 0), ALLOW);
    assert_eq!(run(&arm, Abi::Arm.audit(), 0xf0003, [0; 6]), ENOSYS_RET);
}

#[test]
fn every_comparison_in_all_64_bits() {
    for op in ["NE", "LT", "LE", "EQ", "GE", "GT"] {
        for value in [0u64, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, u64::MAX] {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
                {{"names":["socket","lsm_list_modules"],"action":"SCMP_ACT_TRAP",
                  "args":[{{"index":5,"value":{value},"op":"SCMP_CMP_{op}"}},
                          {{"index":0,"value":{value},"op":"SCMP_CMP_{op}"}}]}},
                {{"names":["socket"],"action":"SCMP_ACT_LOG",
                  "args":[{{"index":1,"value":{value},"op":"SCMP_CMP_{op}"}}]}}]}}"#
            );
            compare(&parse(&json), &target("amd64", Capabilities::NONE), &[Abi::X86_64]);
        }
    }
    let masked = r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW",
        "args":[{"index":0,"value":18446744069414584335,"valueTwo":4294967299,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
    compare(&parse(masked), &target("arm64", Capabilities::NONE), &[Abi::Aarch64]);
}

/// Random profiles, those that contradict themselves apart.
#[test]
fn random_profiles_do_what_they_say() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % below
    };
    const NAMES: [&str; 8] =
        ["read", "getppid", "socket", "clone", "openat2", "set_tls", "socketcall", "no_such_call"];
    const ACTIONS: [&str; 6] = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_LOG",
        "SCMP_ACT_TRAP",
    ];
    const OPS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    const VALUES: [u64; 6] = [0, 1, 2, 1 << 32, (1 << 32) | 1, u64::MAX];
    let mut compiled = 0;
    for _ in 0..400 {
        let mut rules = Vec::new();
        for _ in 0..random(8) {
            let mut args = Vec::new();
            for index in (0..6).filter(|_| random(5) == 0).collect::<Vec<_>>() {
                args.push(serde_json::json!({
                    "index": index, "op": format!("SCMP_CMP_{}", OPS[random(7) as usize]),
                    "value": VALUES[random(6) as usize], "valueTwo": VALUES[random(6) as usize],
                }));
            }
            let action = ACTIONS[random(6) as usize];
            rules.push(serde_json::json!({
                "names": [NAMES[random(8) as usize], NAMES[random(7) as usize]], "action": action,
                "errnoRet": (action == "SCMP_ACT_ERRNO").then(|| random(4096)), "args": args,
                "includes": {"caps": if random(4) == 0 { vec!["CAP_SYS_ADMIN"] } else { vec![] }},
                "excludes": {"arches": if random(4) == 0 { vec!["arm64"] } else { vec![] }},
            }));
        }
        let profile = serde_json::json!({
            "defaultAction": ACTIONS[random(6) as usize], "syscalls": rules,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            ],
        });
        let profile = parse(&profile.to_string());
        for (machine, abis) in [("amd64", [Abi::X86_64, Abi::X86]), ("arm64", [Abi::Aarch64, Abi::Arm])] {
            for caps in [Capabilities::DEFAULT, Capabilities::ALL] {
                let target = target(machine, caps);
                match compile(&profile, &target) {
                    Ok(program) => {
                        assert!(program.len() <= MAX_INSTRUCTIONS);
                        check(&program);
                        compiled += 1;
                        for abi in abis {
                            let naive = Naive::new(&profile, &target, abi);
                            for _ in 0..100 {
                                let named = abi.number(NAMES[random(8) as usize]);
                                let nr = named.filter(|_| random(8) > 0).unwrap_or(random(600) as u32);
                                let args = std::array::from_fn(|_| VALUES[random(6) as usize]);
                                assert_eq!(
                                    run(&program, abi.audit(), nr, args),
                                    naive.answer(nr, &naive.of(nr), args),
                                    "{abi:?} {nr} {args:x?} {target:?} {profile:?}"
                                );
                            }
                        }
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}"),
                }
            }
        }
    }
    assert!(compiled > 400, "{compiled}");
}

#[test]
fn a_large_profile_jumps_far_and_a_huge_one_is_refused() {
    let rules = |conditions: u64| {
        let args: Vec<_> = (0..conditions)
            .map(|value| {
                format!(
                    r#"{{"names":["read","write","open","close","stat","poll","ioctl","dup"],"action":"SCMP_ACT_ALLOW",
                    "args":[{{"index":0,"value":{value},"op":"SCMP_CMP_EQ"}},{{"index":2,"value":7,"op":"SCMP_CMP_GT"}}]}}"#
                )
            })
            .collect();
        parse(&format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#, args.join(",")))
    };
    let target = target("amd64", Capabilities::NONE);
    compare(&rules(40), &target, &[Abi::X86_64]);
    assert!(compile(&rules(40), &target).unwrap().iter().any(|insn| insn.code == JA && insn.k > 255));
    assert_eq!(compile(&rules(80), &target).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn permissive_profiles_stay_permissive_but_not_on_x32() {
    let profile = parse(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
        {"names":["mkdir"],"action":"SCMP_ACT_ERRNO"},{"names":["ptrace"],"action":"SCMP_ACT_KILL"},
        {"names":["s390_pci_mmio_read","mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    let target = target("amd64", Capabilities::NONE);
    compare(&profile, &target, &[Abi::X86_64]);
    let program = compile(&profile, &target).unwrap();
    assert_eq!(run(&program, Abi::X86_64.audit(), 599, [0; 6]), ALLOW);
    assert_eq!(run(&program, Abi::X86_64.audit(), X32 | 83, [0; 6]), ENOSYS_RET);
}

#[test]
fn refuses_refusals_that_would_be_lost() {
    let kind = |default: &str, rules: &str| {
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_{default}","syscalls":[{rules}]}}"#);
        compile(&parse(&json), &target("amd64", Capabilities::NONE)).map(|_| ()).map_err(|error| error.kind())
    };
    let rule = |name: &str, action: &str, args: &str| {
        format!(r#"{{"names":["{name}"],"action":"SCMP_ACT_{action}","args":[{args}]}}"#)
    };
    let arg = r#"{"index":0,"value":5,"op":"SCMP_CMP_EQ"}"#;
    assert_eq!(kind("ALLOW", &rule("mkdirr", "ERRNO", "")), Err(ErrorKind::InvalidData));
    assert_eq!(kind("ERRNO", &rule("mkdirr", "ALLOW", "")), Ok(()));
    let lost = [rule("mkdir", "ALLOW", ""), rule("mkdir", "KILL", arg)].join(",");
    assert_eq!(kind("ERRNO", &lost), Err(ErrorKind::InvalidData));
    // Here the first rule says only what is the default anyway.
    assert_eq!(kind("ALLOW", &lost), Ok(()));
}

/// The same rules given to libseccomp, whose program is exported and run on the same machine.
#[test]
#[ignore = "needs python3 and libseccomp.so.2"]
fn agrees_with_libseccomp() {
    let profile = default::profile();
    for caps in [Capabilities::NONE, Capabilities::DEFAULT, Capabilities::ALL] {
        let target = target("amd64", caps);
        let mut text = format!("{}\n", profile.default.code());
        for rule in profile.rules.iter().filter(|rule| rule.applies(&target)) {
            for nr in rule.names.iter().filter_map(|name| Abi::X86_64.number(name)) {
                text += &format!("{} {nr}", rule.action.code());
                for Condition { index, op } in &rule.conditions {
                    let (op, a, b) = match *op {
                        Op::Ne(v) => (1, v, 0),
                        Op::Lt(v) => (2, v, 0),
                        Op::Le(v) => (3, v, 0),
                        Op::Eq(v) => (4, v, 0),
                        Op::Ge(v) => (5, v, 0),
                        Op::Gt(v) => (6, v, 0),
                        Op::MaskedEq { mask, value } => (7, mask, value),
                    };
                    text += &format!(" {index},{op},{a},{b}");
                }
                text.push('\n');
            }
        }
        let mut child = Command::new("python3")
            .args(["-c", LIBSECCOMP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "python3 failed");
        let theirs: Vec<Insn> = out
            .stdout
            .chunks_exact(8)
            .map(|b| Insn {
                code: u16::from_le_bytes([b[0], b[1]]),
                jt: b[2],
                jf: b[3],
                k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            })
            .collect();
        assert!(theirs.len() > 300);
        let ours = compile(&profile, &target).unwrap();
        let newest = Abi::X86_64.number("file_setattr").unwrap();
        for nr in 0..=newest {
            for &value in &samples(&profile) {
                let args = [value, 0, 0, 0, 0, 0];
                let (mine, other) =
                    (run(&ours, Abi::X86_64.audit(), nr, args), run(&theirs, Abi::X86_64.audit(), nr, args));
                // libseccomp has no answer of its own for calls newer than the profile.
                assert!(
                    mine == other || (mine == ENOSYS_RET && other == EPERM_RET && nr > 462),
                    "{nr} {value:#x}"
                );
            }
        }
    }
}

const LIBSECCOMP: &str = r#"
import ctypes, sys, os
lib = ctypes.CDLL("libseccomp.so.2")
class Arg(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_init.argtypes = [ctypes.c_uint32]
lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Arg)]
lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
lines = sys.stdin.read().splitlines()
ctx = lib.seccomp_init(int(lines[0]))
for line in lines[1:]:
    action, nr, *args = line.split()
    args = [Arg(*map(int, arg.split(","))) for arg in args]
    if lib.seccomp_rule_add_array(ctx, int(action), int(nr), len(args), (Arg * max(1, len(args)))(*args)):
        sys.exit("rule " + line)
if lib.seccomp_export_bpf(ctx, 1):
    sys.exit("export")
"#;
