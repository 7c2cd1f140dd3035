//! The filters of system calls, end to end: in containers, by a small program that makes the calls.
#![forbid(unsafe_code)]

mod common;

#[path = "seccomp/profiles.rs"]
mod profiles;

use common::*;
use coracle::{ContainerBuilder, Image, Seccomp};
use linux_raw_sys::general as n;
use std::fs;
use std::process::Command;
use std::sync::LazyLock;

const EPERM: &str = "errno 1";
const ENOSYS: &str = "errno 38";
const EINVAL: &str = "errno 22";
const EFAULT: &str = "errno 14";

/// `probe.c`, compiled by what cargo links with.
static PROBE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("probe.c"), dir.path().join("probe"));
    fs::write(&source, include_str!("seccomp/probe.c")).unwrap();
    let cc = Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(&source).output().unwrap();
    assert!(cc.status.success(), "{}", text(&cc.stderr));
    fs::read(program).unwrap()
});

/// A container with the program in it.
fn probing(image: &Image) -> ContainerBuilder {
    coracle::Container::builder(image).file_mode("/probe", &PROBE[..], 0o755)
}

/// What comes of each call.
#[track_caller]
fn probe<S: AsRef<str>>(builder: &ContainerBuilder, calls: &[S]) -> Vec<String> {
    let words = std::iter::once("/probe").chain(calls.iter().map(AsRef::as_ref));
    let said = say(&builder.clone().command(words));
    let said: Vec<_> = said.lines().map(str::to_owned).collect();
    assert_eq!(said.len(), calls.len());
    said
}

/// A call by its number and arguments.
fn call(nr: u32, args: &[u64]) -> String {
    args.iter().fold(nr.to_string(), |text, arg| format!("{text},{arg}"))
}

/// The first table: what no container may do by default. Each with arguments that the kernel itself would answer
/// otherwise, where it can be told apart: then an EPERM is the filter's.
#[test]
fn the_default_profile_refuses_what_dockers_does() {
    const BAD: u64 = 1;
    let denied: &[(&str, u32, &[u64])] = &[
        ("add_key", n::__NR_add_key, &[BAD, BAD]),
        ("request_key", n::__NR_request_key, &[BAD]),
        ("keyctl", n::__NR_keyctl, &[9999]),
        ("mount", n::__NR_mount, &[BAD, BAD, BAD]),
        ("umount2", n::__NR_umount2, &[BAD, 0]),
        ("pivot_root", n::__NR_pivot_root, &[BAD, BAD]),
        ("fsopen", n::__NR_fsopen, &[BAD]),
        ("fsmount", n::__NR_fsmount, &[u64::MAX]),
        ("move_mount", n::__NR_move_mount, &[u64::MAX, BAD, u64::MAX, BAD]),
        ("open_tree", n::__NR_open_tree, &[u64::MAX, BAD]),
        ("mount_setattr", n::__NR_mount_setattr, &[u64::MAX, BAD]),
        ("unshare(NEWUSER)", n::__NR_unshare, &[n::CLONE_NEWUSER.into()]),
        ("unshare(0)", n::__NR_unshare, &[0]),
        ("setns", n::__NR_setns, &[u64::MAX]),
        ("bpf", n::__NR_bpf, &[BAD, BAD, 1 << 20]),
        ("perf_event_open", n::__NR_perf_event_open, &[BAD]),
        ("userfaultfd", n::__NR_userfaultfd, &[1 | 1 << 30]),
        ("io_uring_setup", n::__NR_io_uring_setup, &[1, BAD]),
        ("io_uring_enter", n::__NR_io_uring_enter, &[u64::MAX]),
        ("io_uring_register", n::__NR_io_uring_register, &[u64::MAX]),
        ("reboot", n::__NR_reboot, &[BAD]),
        ("settimeofday", n::__NR_settimeofday, &[BAD]),
        ("clock_settime", n::__NR_clock_settime, &[0, BAD]),
        ("sethostname", n::__NR_sethostname, &[BAD, 1]),
        ("quotactl", n::__NR_quotactl, &[u64::MAX, BAD]),
        ("set_mempolicy", n::__NR_set_mempolicy, &[9999]),
        ("move_pages", n::__NR_move_pages, &[u64::from(u32::MAX >> 1), 1]),
        ("personality(ADDR_NO_RANDOMIZE)", n::__NR_personality, &[0x0004_0000]),
        ("personality(READ_IMPLIES_EXEC)", n::__NR_personality, &[0x0040_0000]),
        ("socket(AF_VSOCK)", n::__NR_socket, &[40, 9999]),
        ("socket(AF_ALG)", n::__NR_socket, &[38, 9999]),
    ];
    // The kernel refuses these likewise.
    let both: &[(&str, u32, &[u64])] = &[
        ("open_by_handle_at", n::__NR_open_by_handle_at, &[u64::MAX]),
        ("swapon", n::__NR_swapon, &[BAD]),
        ("swapoff", n::__NR_swapoff, &[BAD]),
        ("fanotify_init", n::__NR_fanotify_init, &[u64::MAX]),
        ("acct", n::__NR_acct, &[BAD]),
        ("syslog", n::__NR_syslog, &[3, BAD]),
        ("vhangup", n::__NR_vhangup, &[]),
        ("init_module", n::__NR_init_module, &[BAD]),
        ("finit_module", n::__NR_finit_module, &[u64::MAX]),
        ("delete_module", n::__NR_delete_module, &[BAD]),
        ("kexec_file_load", n::__NR_kexec_file_load, &[u64::MAX]),
        ("kexec_load", n::__NR_kexec_load, &[0]),
    ];
    let image = host();
    let calls = |table: &[(&str, u32, &[u64])]| -> Vec<_> {
        table.iter().map(|(_, nr, args)| call(*nr, args)).collect()
    };
    let unconfined = probing(&image).cap_add("ALL").seccomp(Seccomp::Unconfined);
    let filtered = probe(&probing(&image), &calls(denied));
    let kernels = probe(&unconfined, &calls(denied));
    for (((name, ..), filtered), kernels) in denied.iter().zip(filtered).zip(kernels) {
        assert_eq!(filtered, EPERM, "{name}");
        assert_ne!(kernels, EPERM, "{name}: not the filter's");
    }
    for ((name, ..), filtered) in both.iter().zip(probe(&probing(&image), &calls(both))) {
        assert_eq!(filtered, EPERM, "{name}");
    }
}

#[test]
fn new_namespaces_are_refused_by_every_flag() {
    let image = host();
    const SIGCHLD: u64 = 17;
    let flags = [
        n::CLONE_NEWNS,
        n::CLONE_NEWCGROUP,
        n::CLONE_NEWUTS,
        n::CLONE_NEWIPC,
        n::CLONE_NEWUSER,
        n::CLONE_NEWPID,
        n::CLONE_NEWNET,
    ];
    let mut calls: Vec<_> =
        flags.iter().map(|flag| call(n::__NR_clone, &[u64::from(*flag) | SIGCHLD])).collect();
    calls.push(call(n::__NR_clone, &[SIGCHLD]));
    let refused = probe(&probing(&image), &calls);
    assert!(refused[..flags.len()].iter().all(|said| said == EPERM), "{refused:?}");
    assert_eq!(refused[flags.len()], "ok", "an ordinary clone");
    let open = probe(&probing(&image).cap_add("SYS_ADMIN"), &calls);
    assert!(open.iter().all(|said| said == "ok"), "{open:?}");
    // A filter can't read its flags: ENOSYS makes a libc fall back.
    let clone3 = [call(n::__NR_clone3, &[1, 1])];
    assert_eq!(probe(&probing(&image), &clone3), [ENOSYS]);
    assert_eq!(probe(&probing(&image).cap_add("SYS_ADMIN"), &clone3), [EINVAL]);
}

#[test]
fn the_default_profile_lets_through_what_dockers_does() {
    let image = host();
    let allowed: &[(&str, u32, &[u64], &str)] = &[
        ("ptrace(TRACEME)", n::__NR_ptrace, &[0], "ok"),
        ("process_vm_readv", n::__NR_process_vm_readv, &[0, 1, 1, 1, 1, 9999], EINVAL),
        ("chroot", n::__NR_chroot, &[1], EFAULT),
        ("personality(PER_LINUX)", n::__NR_personality, &[0], "ok"),
        ("personality(PER_LINUX32)", n::__NR_personality, &[8], "ok"),
        ("personality(UNAME26)", n::__NR_personality, &[0x2_0000], "ok"),
        ("personality(PER_LINUX32 | UNAME26)", n::__NR_personality, &[0x2_0008], "ok"),
        ("personality(query)", n::__NR_personality, &[0xffff_ffff], "ok"),
        ("socket(AF_UNIX)", n::__NR_socket, &[1, 1], "ok"),
        ("socket(AF_INET)", n::__NR_socket, &[2, 1], "ok"),
        ("socket(AF_NETLINK)", n::__NR_socket, &[16, 3], "ok"),
        ("openat2", n::__NR_openat2, &[0, 1, 1, 0], EINVAL),
        ("mknodat", n::__NR_mknodat, &[0, 1], EFAULT),
        ("name_to_handle_at", n::__NR_name_to_handle_at, &[0, 1, 1, 0, 0x4000_0000], EINVAL),
        ("seccomp", n::__NR_seccomp, &[9999], EINVAL),
        ("memfd_create", n::__NR_memfd_create, &[1], EFAULT),
        ("no such call", 9999, &[], ENOSYS),
    ];
    let calls: Vec<_> = allowed.iter().map(|(_, nr, args, _)| call(*nr, args)).collect();
    for ((name, .., expected), said) in allowed.iter().zip(probe(&probing(&image), &calls)) {
        assert_eq!(said, *expected, "{name}");
    }
}

/// Without the capability the filter's EPERM, with it the kernel's own opinion of bad arguments.
#[test]
fn a_capability_opens_its_rule() {
    let image = host();
    for (cap, nr, args, expected) in [
        ("SYS_ADMIN", n::__NR_mount, &[1, 1, 1][..], EFAULT),
        ("SYS_ADMIN", n::__NR_unshare, &[0], "ok"),
        ("SYS_ADMIN", n::__NR_setns, &[u64::MAX], "errno 9"),
        ("SYS_BOOT", n::__NR_reboot, &[1], EINVAL),
        ("SYS_TIME", n::__NR_settimeofday, &[1], EFAULT),
        ("SYS_NICE", n::__NR_set_mempolicy, &[9999], EINVAL),
        // Not the first of its commands, which kernel.unprivileged_bpf_disabled refuses.
        ("BPF", n::__NR_bpf, &[1, 1, 1 << 20], "errno 7"),
        ("PERFMON", n::__NR_perf_event_open, &[1], EFAULT),
    ] {
        let calls = [call(nr, args)];
        assert_eq!(probe(&probing(&image).cap_add(cap), &calls), [expected], "{cap} {nr}");
        assert_eq!(probe(&probing(&image).cap_add("KILL"), &calls), [EPERM], "{cap} {nr}");
    }
    // And one that docker gives by default closes its own.
    let chroot = [call(n::__NR_chroot, &[1])];
    assert_eq!(probe(&probing(&image), &chroot), [EFAULT]);
    assert_eq!(probe(&probing(&image).cap_drop("SYS_CHROOT"), &chroot), [EPERM]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_other_ways_into_the_kernel_are_filtered_too() {
    let image = host();
    // x32 calls have the machine's own architecture value, and a bit in their number.
    let x32 = |nr: u32, args: &[u64]| call(nr | 0x4000_0000, args);
    let calls = [x32(n::__NR_getpid, &[]), x32(n::__NR_keyctl, &[9999]), x32(520, &[])];
    assert_eq!(probe(&probing(&image), &calls), [ENOSYS; 3]);
    // getpid, keyctl, mount, unshare, socketcall(socket), clone of 32-bit programs.
    let i386 = ["i20", "i288,9999", "i21,1,1,1", "i310,0", "i359,40,9999", "i120,0x10000011", "i359,1,1"];
    let kernels = probe(&probing(&image).cap_add("ALL").seccomp(Seccomp::Unconfined), &i386);
    assert!(kernels.iter().all(|said| said != EPERM), "{kernels:?}");
    let filtered = probe(&probing(&image), &i386);
    match kernels[0].as_str() {
        "ok" => assert_eq!(filtered, ["ok", EPERM, EPERM, EPERM, EPERM, EPERM, "ok"]),
        // This kernel has no such way in.
        _ => assert_eq!(filtered, kernels),
    }
}
