//! The default seccomp profile: the facts of Docker's own, in this crate's form.
//!
//! Which calls are let through, under which condition, is taken from `seccomp/default.json` of moby/profiles at
//! cd3bed8 (2026-06-30; Copyright The Moby Authors, Apache-2.0, see `LICENSE-APACHE`). What only concerns
//! machines that this crate does not run on (s390, ppc64le, riscv64, mips) is left out; it never applies here.
//!
//! What is not listed fails with EPERM: io_uring, keyrings, kexec, `userfaultfd`, modules, `mount` and the
//! other calls of an administrator, and sockets of the families AF_ALG and AF_VSOCK. `clone` with a namespace
//! flag fails with EPERM, and `clone3`, whose flags a filter can't read, with ENOSYS, so that a libc falls back
//! to `clone`: both unless the container holds CAP_SYS_ADMIN.
#![forbid(unsafe_code)]

use super::profile::{Action, Arches, Condition, Filter, KernelVersion, Op, Profile, Rule};
use crate::security::capability::Capability;
use linux_raw_sys::errno::{ENOSYS, EPERM};

/// Allowed without a condition.
const PLAIN: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64
    fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv
    futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority
    getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid
    getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link
    linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod
    mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat
    openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
    restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity
    sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send
    sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32
    setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area
    set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack
    signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill
    truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64
    utimes vfork vmsplice wait4 waitid waitpid write writev
";

/// Allowed to a container that holds the capability.
const WITH_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DAC_READ_SEARCH, "open_by_handle_at"),
    (
        Capability::SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    (Capability::SYS_BOOT, "reboot"),
    (Capability::SYS_CHROOT, "chroot"),
    (Capability::SYS_MODULE, "delete_module init_module finit_module"),
    (Capability::SYS_PACCT, "acct"),
    (Capability::SYS_PTRACE, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SYS_RAWIO, "iopl ioperm"),
    (Capability::SYS_TIME, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SYS_TTY_CONFIG, "vhangup"),
    (Capability::SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::SYSLOG, "syslog"),
    (Capability::BPF, "bpf"),
    (Capability::PERFMON, "perf_event_open"),
];

/// Allowed on these machines, by the names that profiles use for them.
const ON_ARCH: &[(&[&str], &str)] = &[
    (
        &["arm", "arm64"],
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    (&["amd64", "x32"], "arch_prctl"),
    (&["amd64", "x32", "x86"], "modify_ldt"),
];

/// `personality` may set PER_LINUX and PER_LINUX32, each with or without UNAME26; 0xffffffff only asks.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NEW: u64 = 0x7e02_0000;

const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// The profile.
pub(super) fn profile() -> Profile {
    let mut rules = vec![
        allow(PLAIN),
        Rule {
            includes: Filter { min_kernel: Some(KernelVersion(4, 8)), ..Filter::default() },
            // Before 4.8 a tracer could change a call after the filter had seen it.
            ..allow("process_vm_readv process_vm_writev ptrace")
        },
        given("socket", 0, Op::Lt(AF_ALG)),
        given("socket", 0, Op::Eq(AF_ALG + 1)),
        given("socket", 0, Op::Gt(AF_VSOCK)),
    ];
    rules.extend(PERSONALITIES.map(|persona| given("personality", 0, Op::Eq(persona))));
    rules.extend(ON_ARCH.iter().map(|(arches, names)| Rule {
        includes: Filter { arches: arches.iter().map(|&arch| arch.into()).collect(), ..Filter::default() },
        ..allow(names)
    }));
    rules.extend(WITH_CAPABILITY.iter().map(|(cap, names)| Rule { includes: holding(*cap), ..allow(names) }));
    rules.push(Rule {
        excludes: holding(Capability::SYS_ADMIN),
        ..given("clone", 0, Op::MaskedEq { mask: CLONE_NEW, value: 0 })
    });
    rules.push(Rule {
        action: Action::Errno(ENOSYS as u16),
        excludes: holding(Capability::SYS_ADMIN),
        ..allow("clone3")
    });
    Profile {
        default: Action::Errno(EPERM as u16),
        arches: Arches::Map(vec![
            ("SCMP_ARCH_X86_64".into(), vec!["SCMP_ARCH_X86".into(), "SCMP_ARCH_X32".into()]),
            ("SCMP_ARCH_AARCH64".into(), vec!["SCMP_ARCH_ARM".into()]),
        ]),
        rules,
        flags: 0,
    }
}

/// What the strict profile has not, whatever the capabilities.
///
/// Reading and changing other processes; names for files that outlive the permission to look them up; memory that the
/// kernel itself can't see; segment descriptors of 16-bit programs; watching whole filesystems; setting the clock's
/// discipline; giving pages to pipes.
const NOT_STRICT: &str = "
    adjtimex clock_adjtime clock_adjtime64 fanotify_init fanotify_mark kcmp map_shadow_stack memfd_secret
    modify_ldt name_to_handle_at open_by_handle_at pidfd_getfd process_madvise process_vm_readv
    process_vm_writev ptrace remap_file_pages socketcall socketpair vmsplice
";

/// The default profile without [`NOT_STRICT`], for the machine's own system calls only, and with few kinds of socket.
///
/// Families: AF_UNIX, AF_INET, AF_INET6, and AF_NETLINK for NETLINK_ROUTE alone, by which a libc looks at interfaces.
pub(super) fn strict() -> Profile {
    const AF_UNIX: u64 = 1;
    const AF_INET: u64 = 2;
    const AF_INET6: u64 = 10;
    const AF_NETLINK: u64 = 16;
    const NETLINK_ROUTE: u64 = 0;
    let mut profile = profile();
    let gone: Vec<_> = NOT_STRICT.split_whitespace().collect();
    for rule in &mut profile.rules {
        rule.names.retain(|name| !gone.contains(&&**name));
    }
    profile.rules.retain(|rule| !rule.names.is_empty() && rule.names.iter().all(|name| **name != *"socket"));
    profile.rules.extend([AF_UNIX, AF_INET, AF_INET6].map(|family| given("socket", 0, Op::Eq(family))));
    let mut route = given("socket", 0, Op::Eq(AF_NETLINK));
    route.conditions.push(Condition { index: 2, op: Op::Eq(NETLINK_ROUTE) });
    profile.rules.extend([route, given("socketpair", 0, Op::Eq(AF_UNIX))]);
    profile.arches = Arches::List(Vec::new());
    profile
}

fn allow(names: &str) -> Rule {
    Rule {
        names: names.split_whitespace().map(Into::into).collect(),
        action: Action::Allow,
        conditions: Vec::new(),
        includes: Filter::default(),
        excludes: Filter::default(),
    }
}

fn given(name: &str, index: u8, op: Op) -> Rule {
    Rule { conditions: vec![Condition { index, op }], ..allow(name) }
}

fn holding(cap: Capability) -> Filter {
    Filter { caps: vec![Some(cap)], ..Filter::default() }
}
