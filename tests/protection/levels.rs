//! What is required is there or an error says why not; what is best effort is in the report.

use super::common::*;
use coracle::{
    Container, ContainerBuilder, ErrorKind, Feature, Host, Image, Landlock, LimitKind, NamespaceKind,
    Network, Outcome, Protection, Report, ReportEntry, Requirement, Seccomp, Store,
};

#[track_caller]
fn outcome(report: &Report, protection: impl Into<Protection>) -> Outcome {
    let protection = protection.into();
    let entry = report.get(protection).unwrap_or_else(|| panic!("no line for {protection}: {report:?}"));
    entry.outcome().clone()
}

/// The kernel says the same as the report.
#[test]
fn the_report_of_a_usual_container() {
    let image = host();
    let container = ready(&sh(&image, "echo; exec sleep 1000"));
    let report = container.report();
    for kind in [
        NamespaceKind::Cgroup,
        NamespaceKind::Ipc,
        NamespaceKind::Mount,
        NamespaceKind::Net,
        NamespaceKind::Pid,
        NamespaceKind::User,
        NamespaceKind::Uts,
    ] {
        assert!(matches!(outcome(&report, kind), Outcome::Enforced(_)), "{report:?}");
        let path = format!("/proc/self/ns/{kind}");
        let own = std::fs::read_link(&path).unwrap();
        let theirs = container.exec(["readlink", &path]).output().unwrap();
        assert_ne!(text(&theirs.stdout), own.to_str().unwrap());
    }
    let status = container.exec(["cat", "/proc/self/status"]).output().unwrap().stdout_text().into_owned();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    };
    assert_eq!((field("Seccomp").as_str(), field("NoNewPrivs").as_str()), ("2", "1"));
    for protection in
        [Protection::Seccomp, Protection::NoNewPrivs, Protection::MaskedPaths, Protection::ReadOnlyPaths]
    {
        assert!(matches!(outcome(&report, protection), Outcome::Enforced(_)), "{report:?}");
    }
    let Outcome::Enforced(capabilities) = outcome(&report, Protection::Capabilities) else {
        panic!("{report:?}")
    };
    let bits = u64::from_str_radix(&field("CapBnd"), 16).unwrap();
    assert_eq!(capabilities.split(' ').count() as u32, bits.count_ones(), "{capabilities}");
    for protection in [
        Protection::Landlock,
        Protection::ReadOnlyRoot,
        Protection::DiskMax,
        LimitKind::MemoryMax.into(),
        LimitKind::CpuMax.into(),
    ] {
        assert!(matches!(outcome(&report, protection), Outcome::Off(_)), "{report:?}");
    }
    match outcome(&report, Protection::IdRange) {
        Outcome::Enforced(how) => assert!(how.starts_with("6553"), "{how}"),
        Outcome::NotEnforced(_) => assert!(!is_root()),
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(outcome(&report, Protection::Devices), Outcome::Enforced(how) if how.contains("null zero"))
    );
}

/// Each that can be turned off, one at a time: its line says so and no other changes; and required it is an error.
#[test]
fn what_is_turned_off_shows() {
    let image = host();
    let all_on = |builder: ContainerBuilder| {
        super::as_far_as_the_kernel(builder.landlock(Landlock::new()))
            .read_only(true)
            .memory_max(64 << 20)
            .best_effort(LimitKind::MemoryMax)
            .best_effort(Protection::Seccomp)
    };
    let builder = all_on(sh(&image, "true"));
    let usual = builder.run().unwrap().report;
    type Turn = fn(ContainerBuilder) -> ContainerBuilder;
    let off: [(Protection, Turn); 8] = [
        (NamespaceKind::Net.into(), |b| b.network(Network::host())),
        (Protection::Seccomp, |b| b.seccomp(Seccomp::Unconfined)),
        (Protection::NoNewPrivs, |b| b.no_new_privileges(false)),
        (Protection::Landlock, |b| b.landlock(None)),
        (Protection::Capabilities, |b| b.cap_add("ALL")),
        (Protection::MaskedPaths, |b| b.masked_paths(Vec::<&str>::new())),
        (Protection::ReadOnlyPaths, |b| b.read_only_paths(Vec::<&str>::new())),
        (Protection::ReadOnlyRoot, |b| b.read_only(false)),
    ];
    for (protection, turn) in off {
        let builder = turn(builder.clone());
        let report = builder.run().unwrap().report;
        assert!(matches!(outcome(&report, protection), Outcome::Off(_)), "{protection}: {report:?}");
        for entry in usual.entries().iter().filter(|entry| entry.name() != protection.name()) {
            // An unbounded root filesystem is the other half of one that can be written.
            let beside = protection == Protection::ReadOnlyRoot && entry.name() == "disk_max";
            let same = |entry: &ReportEntry| match entry.outcome() {
                // Which range is free is not the container's to say.
                Outcome::Enforced(how) => Outcome::Enforced(how.split(", root is ").next().unwrap().into()),
                other => other.clone(),
            };
            let now = report.get(entry.name()).unwrap();
            assert!(beside || same(now) == same(entry), "{protection} changes {entry} to {now}");
        }
        // Off or not after `require`: the order does not matter.
        let error = turn(all_on(sh(&image, "true")).require(protection)).run().unwrap_err();
        assert_eq!(
            (error.kind(), error.protection()),
            (ErrorKind::InvalidInput, Some(protection.name())),
            "{error}"
        );
    }
}

#[test]
fn a_limit_without_a_value_is_not_there() {
    let image = host();
    for protection in [LimitKind::MemoryMax.into(), LimitKind::CpusetCpus.into(), Protection::DiskMax] {
        let error = sh(&image, "true").require(protection).run().unwrap_err();
        assert_eq!(
            (error.kind(), error.protection()),
            (ErrorKind::InvalidInput, Some(protection.name())),
            "{error}"
        );
    }
}

#[test]
fn without_a_lesser_form_there_is_no_best_effort() {
    let image = host();
    for protection in Protection::all() {
        let error = sh(&image, "true").best_effort(protection).create().err();
        let has = matches!(
            protection,
            Protection::IdRange
                | Protection::Seccomp
                | Protection::Landlock
                | Protection::IdMappedMounts
                | Protection::DiskMax
                | Protection::Limit(_)
        );
        assert_eq!(error.is_none(), has, "{protection}: {error:?}");
        assert!(error.is_none_or(|error| error.kind() == ErrorKind::InvalidInput));
    }
}

/// On disk, where the store's filesystem has no quotas or the caller may not set them.
#[test]
fn a_bound_on_disk_that_can_not_be_had() {
    let image = host();
    let bounded = sh(&image, "true").disk_max(64 << 20);
    let error = match bounded.run() {
        Err(error) => error,
        // Here it can.
        Ok(out) => return assert!(matches!(outcome(&out.report, Protection::DiskMax), Outcome::Enforced(_))),
    };
    assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("disk_max")), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("writable_in_memory")));
    let report = bounded.clone().best_effort(Protection::DiskMax).run().unwrap().report;
    assert!(
        matches!(outcome(&report, Protection::DiskMax), Outcome::NotEnforced(why) if why.contains("disk_max") || why.contains("quota"))
    );
    assert!(!report.is_complete());
    let report = bounded.writable_in_memory(true).run().unwrap().report;
    assert!(
        matches!(outcome(&report, Protection::DiskMax), Outcome::Enforced(how) if how.starts_with("67108864"))
    );
}

#[test]
fn limits_of_whoever_has_no_control_groups() {
    let image = host();
    let limited = sh(&image, "true").memory_max(64 << 20);
    match limited.run() {
        Ok(out) => assert!(matches!(outcome(&out.report, LimitKind::MemoryMax), Outcome::Enforced(_))),
        Err(error) => {
            assert!(!is_root(), "{error}");
            assert_eq!(
                (error.kind(), error.protection()),
                (ErrorKind::Unsupported, Some("memory_max")),
                "{error}"
            );
            let report =
                limited.requirement(LimitKind::MemoryMax, Requirement::BestEffort).run().unwrap().report;
            assert!(matches!(outcome(&report, LimitKind::MemoryMax), Outcome::NotEnforced(_)));
        }
    }
}

/// As tmpfs was before Linux 6.3. The probe tells before, and a start says the same of a bind and of layers.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_filesystem_that_can_not_be_id_mapped() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::write(dir.path().join("x"), "seen").unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.path().join("bin/busybox")).unwrap();
    let layers = Image::import(&store, root.path(), "own").unwrap();
    let builders = || {
        let of_layers = Container::builder(&layers).command(["/bin/busybox", "echo", "seen"]);
        [sh(&host(), "cat /b/x").bind(dir.path(), "/b"), of_layers]
    };
    // An ordinary user's containers have its files as they are.
    let probed = Host::probe();
    let lacking = probed.get(Feature::IdMappedTmpfs).unwrap().missing().filter(|_| is_root());
    for builder in builders() {
        let Some(lacking) = lacking else {
            assert_eq!(say(&builder), "seen");
            continue;
        };
        let error = builder.run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let missing = error.missing().unwrap();
        assert_eq!((missing.reason(), missing.remedy()), (lacking.reason(), lacking.remedy()), "{error}");
    }
    if lacking.is_some() {
        let [bind, _] = builders();
        let error = bind.run().unwrap_err();
        assert_eq!(error.protection(), Some(Protection::IdMappedMounts.name()), "{error}");
        let out = builders()[0].clone().best_effort(Protection::IdMappedMounts).run().unwrap();
        assert_eq!(out.stdout_text(), "seen");
        assert!(matches!(outcome(&out.report, Protection::IdMappedMounts), Outcome::NotEnforced(_)));
    }
}
