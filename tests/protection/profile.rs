//! `Profile::untrusted()`: what is in it, and that it fails where the host can't give it.

use super::common::*;
use super::{as_far_as_the_kernel, has_landlock};
use coracle::{
    Container, ContainerBuilder, ErrorKind, Feature, Host, Landlock, LimitKind, Network, Outcome, Profile,
    Protection, Seccomp, Ulimit,
};

fn untrusted(script: &str) -> ContainerBuilder {
    Container::builder(&host()).profile(Profile::untrusted()).command(["sh", "-c", script])
}

/// Without the limits that an ordinary user without a delegated group can't have, and what the kernel lacks.
fn as_far_as_can_be(builder: ContainerBuilder) -> ContainerBuilder {
    let builder = as_far_as_the_kernel(builder);
    if is_root() {
        return builder;
    }
    let limits = [LimitKind::MemoryMax, LimitKind::MemorySwapMax, LimitKind::CpuMax];
    limits.into_iter().fold(builder, ContainerBuilder::best_effort)
}

/// Where there is one id only, as for a user without sub-ids, the profile can't be had, and that is what is said.
#[track_caller]
fn unless_single(outcome: coracle::Result<coracle::Output>) -> Option<coracle::Result<coracle::Output>> {
    let host = Host::probe();
    let Some(missing) = host.get(Feature::SubIds).unwrap().missing() else { return Some(outcome) };
    let error = outcome.unwrap_err();
    assert_eq!((error.protection(), error.missing()), (Some("id_range"), Some(missing)), "{error}");
    None
}

#[test]
fn it_is_what_it_says() {
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; id -u; id -g; echo $HOME; ulimit -c; \
        ls /sys/class/net; touch /tmp/x && echo tmp; touch /dev/shm/x && echo shm; echo out >/dev/null; \
        for p in / /etc /var /usr /run /proc/self/comm /dev; do touch $p/x 2>/dev/null && echo $p; done; \
        printf '#!/bin/sh\\necho ran' >/tmp/p; chmod +x /tmp/p; /tmp/p 2>/dev/null; unshare -U true 2>/dev/null && echo unshared; \
        mount -t tmpfs none /tmp 2>/dev/null && echo mounted; true";
    let Some(out) = unless_single(as_far_as_can_be(untrusted(script)).run()) else { return };
    let out = out.unwrap();
    let none = "0000000000000000";
    let expected = format!(
        "CapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nCapAmb:\t{none}\nNoNewPrivs:\t1\nSeccomp:\t2\n\
         65534\n65534\n/tmp\n0\nlo\ntmp\nshm\n"
    );
    assert_eq!(out.stdout_text(), expected, "{}", out.stderr_text());
    let report = out.report;
    assert_eq!(
        report.is_complete(),
        has_landlock(6)
            && (is_root() || report.get("memory_max").unwrap().to_string().contains("enforced ("))
    );
    for protection in Protection::all() {
        const SET: [LimitKind; 4] =
            [LimitKind::MemoryMax, LimitKind::MemorySwapMax, LimitKind::CpuMax, LimitKind::PidsMax];
        let lacks = match protection {
            // About nothing here.
            Protection::IdMappedMounts => true,
            Protection::Limit(kind) => !SET.contains(&kind),
            _ => false,
        };
        let limit = matches!(protection, Protection::Limit(kind) if kind != LimitKind::PidsMax);
        match report.get(protection).map(|entry| entry.outcome()) {
            None => assert!(lacks, "{protection}"),
            Some(Outcome::Enforced(_)) => {}
            Some(Outcome::Partial(_)) => {
                assert!(protection == Protection::Landlock && !has_landlock(6), "{protection}");
            }
            Some(Outcome::NotEnforced(_)) => assert!(limit && !is_root(), "{protection}"),
            Some(other) => panic!("{protection}: {other:?}"),
        }
    }
}

#[test]
fn what_is_said_after_it_counts() {
    let builder =
        as_far_as_can_be(untrusted("id -u; touch /x && echo written; ulimit -c; cat /proc/self/comm"))
            .user("0")
            .read_only(false)
            .memory_max(1 << 30)
            .ulimit(Ulimit::new("core", 0, 0).unwrap())
            .landlock(None);
    let Some(out) = unless_single(builder.run()) else { return };
    let out = out.unwrap();
    assert_eq!(out.stdout_text(), "0\nwritten\n0\ncat\n", "{}", out.stderr_text());
    assert!(matches!(out.report.get("landlock").unwrap().outcome(), Outcome::Off(_)));
}

#[test]
fn what_was_said_before_is_not_lost_silently() {
    let image = host();
    let before: [ContainerBuilder; 6] = [
        sh(&image, "true").cap_add("NET_RAW"),
        sh(&image, "true").memory_max(4 << 30),
        sh(&image, "true").network(Network::host()),
        sh(&image, "true").seccomp(Seccomp::Unconfined),
        sh(&image, "true").user("daemon"),
        sh(&image, "true").best_effort(Protection::Landlock),
    ];
    for builder in before {
        let error = builder.profile(Profile::untrusted()).create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.remedy().unwrap().contains("first"), "{error}");
    }
    assert!("strange".parse::<Profile>().is_err());
    assert_eq!("untrusted".parse::<Profile>().unwrap(), Profile::untrusted());
}

/// What the default profile lets through and this one does not.
#[test]
#[ignore = "needs python3"]
fn its_filter_is_stricter() {
    let script = "import ctypes, socket\nlibc = ctypes.CDLL(None, use_errno=True)\ndef call(name, *args):\n \
        r = getattr(libc, name)(*args)\n print(name, 'ok' if r >= 0 else 'refused')\n\
        call('ptrace', 0, 0, 0, 0)\ncall('process_vm_readv', 0, 0, 0, 0, 0, 0)\n\
        def sock(family, kind, proto=0):\n try: socket.socket(family, kind, proto); print(family, proto, 'ok')\n \
        except PermissionError: print(family, proto, 'refused')\n except OSError: print(family, proto, 'unknown')\n\
        sock(1, 1); sock(2, 1); sock(10, 2); sock(16, 3, 0); sock(16, 3, 9); sock(17, 3); sock(38, 5)\n\
        socket.socketpair()\nsocket.getaddrinfo('127.0.0.1', 80)";
    let python = |builder: ContainerBuilder| say(&builder.command(["python3", "-c", script]));
    let strict = python(Container::builder(&host()).seccomp(Seccomp::Strict));
    let expected = "ptrace refused\nprocess_vm_readv refused\n1 0 ok\n2 0 ok\n10 0 ok\n16 0 ok\n16 9 refused\n17 0 refused\n38 0 refused";
    assert_eq!(strict, expected);
    let usual = python(Container::builder(&host()));
    assert!(usual.contains("ptrace ok") && usual.contains("16 9 ok"), "{usual}");
}

/// A part of the wall is not the profile.
#[test]
fn where_the_kernel_has_less_of_landlock() {
    let limits = [LimitKind::MemoryMax, LimitKind::MemorySwapMax, LimitKind::CpuMax];
    let builder = limits.into_iter().fold(untrusted("echo ran"), ContainerBuilder::best_effort);
    let Some(outcome) = unless_single(builder.run()) else { return };
    if has_landlock(6) {
        assert_eq!(outcome.unwrap().stdout_text(), "ran\n");
        return;
    }
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("landlock")), "{error}");
    let missing = error.missing().unwrap();
    let probed = coracle::Host::probe();
    assert_eq!(Some(missing), probed.get(coracle::Feature::LandlockScopes).unwrap().missing(), "{error}");
}

/// Ordinary users have no control groups, unless one was delegated.
#[test]
fn where_a_limit_can_not_be_had() {
    let Some(outcome) = unless_single(as_far_as_the_kernel(untrusted("true")).run()) else { return };
    match outcome {
        Ok(out) => assert_eq!(out.report.is_complete(), has_landlock(6), "{:?}", out.report),
        Err(error) => {
            assert!(!is_root(), "{error}");
            assert_eq!(
                (error.kind(), error.protection()),
                (ErrorKind::Unsupported, Some("memory_max")),
                "{error}"
            );
            assert!(error.remedy().unwrap().contains("Delegate=yes"), "{error}");
        }
    }
}

/// As that user runs it, who has no sub-ids, or may not use them.
#[test]
fn where_there_is_one_id_only() {
    let flags: &[&str] = match is_root() {
        true => &["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"],
        false => &["setpriv", "--no-new-privs"],
    };
    if !is_under("profile::where_there_is_one_id_only", flags) {
        return;
    }
    let error = as_far_as_the_kernel(untrusted("true")).run().unwrap_err();
    assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("id_range")), "{error}");
    assert!(error.remedy().is_some(), "{error}");
}

/// A filter around this program that refuses what Landlock is made of, as an old container engine's does.
#[test]
#[ignore = "needs python3"]
fn where_landlock_is_refused() {
    // BPF: load the number; 444 to 446 fail with EPERM; all else is allowed. seccomp(2), bpf(4).
    let python = "import ctypes, os, struct, sys\n\
        op = lambda c, t, f, k: struct.pack('HBBI', c, t, f, k)\n\
        code = op(0x20, 0, 0, 0) + op(0x35, 0, 2, 444) + op(0x25, 1, 0, 446) + op(6, 0, 0, 0x50001) + op(6, 0, 0, 0x7fff0000)\n\
        text = ctypes.create_string_buffer(code)\n\
        prog = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(code) // 8, ctypes.addressof(text)))\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        if os.geteuid() != 0: assert libc.prctl(38, 1, 0, 0, 0) == 0\n\
        assert libc.prctl(22, 2, prog, 0, 0) == 0\n\
        os.execv(sys.argv[1], sys.argv[1:])";
    if !is_under("profile::where_landlock_is_refused", &["python3", "-c", python]) {
        return;
    }
    let error = Landlock::abi().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Unsupported, Some(1)), "{error}");
    let builder = untrusted("echo ran").best_effort(Protection::IdRange);
    let error = builder.run().unwrap_err();
    assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("landlock")), "{error}");
    let missing = error.missing().unwrap();
    assert!(
        missing.reason().contains("landlock_create_ruleset") && missing.remedy().contains("seccomp"),
        "{error}"
    );
    // In the words of the probe.
    assert_eq!(Some(missing), Host::probe().get(Feature::Landlock).unwrap().missing(), "{error}");
    // By explicit choice it goes on, and the report says so; exec as well.
    let builder = sh(&host(), "echo; exec sleep 1000").best_effort(Protection::Landlock);
    let container = ready(&builder);
    let report = container.report();
    let line = report.get("landlock").unwrap();
    assert!(
        matches!(line.outcome(), Outcome::NotEnforced(why) if why.contains("landlock_create_ruleset")),
        "{line}"
    );
    assert!(!report.is_complete());
    assert!(container.exec(["true"]).output().unwrap().status.success());
}
