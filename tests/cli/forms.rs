//! The forms in which docker takes what it takes.
use super::*;

#[test]
fn ports_are_published_in_every_form() {
    let w = World::new();
    let id = w.ok([
        "create",
        "-p",
        "80",
        "-p",
        "18080:81/tcp",
        "-p",
        "127.0.0.1:18081:82",
        "-p",
        "127.0.0.1::83",
        "-p",
        "[::1]:18082:84",
        "-p",
        "18090-18092:90-92",
        "-p",
        "100-101",
        "@host",
        "true",
    ]);
    let ports = &w.inspect(id.trim())["HostConfig"]["PortBindings"];
    let mut found: Vec<_> = ports
        .as_array()
        .unwrap()
        .iter()
        .map(|port| format!("{} {} {}", port["container"], port["address"].as_str().unwrap(), port["host"]))
        .collect();
    found.sort();
    let mut expected = [
        "80 0.0.0.0 0",
        "81 0.0.0.0 18080",
        "82 127.0.0.1 18081",
        "83 127.0.0.1 0",
        "84 ::1 18082",
        "90 0.0.0.0 18090",
        "91 0.0.0.0 18091",
        "92 0.0.0.0 18092",
        "100 0.0.0.0 0",
        "101 0.0.0.0 0",
    ];
    expected.sort();
    assert_eq!(found, expected);
    for wrong in
        ["", "x", "0", "80:", "1:2:3:4", "80-79", "8000-8010:80", "80/sctp", "70000", "300.0.0.1:1:1"]
    {
        assert_eq!(
            w.run(["create", "-p", wrong, "@host", "true"]).code,
            if wrong == "80/sctp" { 1 } else { 125 },
            "{wrong:?}"
        );
        assert_eq!(w.run(["run", "--rm", "-p", wrong, "@host", "true"]).code, 125, "{wrong:?}");
    }
    // What is exposed, once.
    let id =
        w.ok(["create", "-P", "--expose", "80-81", "--expose", "53/udp", "-p", "9000:80", "@host", "true"]);
    let ports = &w.inspect(id.trim())["HostConfig"]["PortBindings"];
    assert_eq!(ports.as_array().unwrap().len(), 2, "{ports}");
    let id = w.ok(["create", "--expose", "80", "@host", "true"]);
    assert_eq!(w.inspect(id.trim())["HostConfig"]["PortBindings"].as_array().map(Vec::len), Some(0));
}

#[test]
fn mounts_are_given_in_every_form() {
    let w = World::new();
    let dir = w.path().join("a,b");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "there\n").unwrap();
    // What a user's own container may read.
    let quoted = format!("type=bind,\"source={}\",target=/mnt,readonly", dir.display());
    let script = "cat /mnt/file; touch /mnt/x 2>/dev/null || echo read-only";
    assert_eq!(w.ok(["run", "--rm", "--mount", &quoted, "@host", "sh", "-c", script]), "there\nread-only\n");
    let script = "touch /mnt/x && stat -f -c %T /mnt && stat -c %a /mnt";
    for (spec, expected) in [
        ("type=tmpfs,destination=/mnt,tmpfs-size=1m,tmpfs-mode=700", "tmpfs\n700\n"),
        ("type=TMPFS,dst=/mnt,consistency=cached", "tmpfs\n1777\n"),
    ] {
        assert_eq!(w.ok(["run", "--rm", "--mount", spec, "@host", "sh", "-c", script]), expected, "{spec}");
    }
    w.ok(["run", "--rm", "--mount", "src=site,target=/mnt", "@host", "sh", "-c", "echo kept >/mnt/x"]);
    let again =
        ["run", "--rm", "--mount", "type=volume,source=site,dst=/mnt,ro=true", "@host", "cat", "/mnt/x"];
    assert_eq!(w.ok(again), "kept\n");
    assert_eq!(w.ok(["run", "--rm", "-v", "site:/mnt:ro,cached", "@host", "cat", "/mnt/x"]), "kept\n");
    w.ok(["volume", "rm", "site"]);
    for wrong in [
        "type=bind,target=/mnt",
        "type=bind,source=/no/such/place,target=/mnt",
        "type=volume",
        "type=tmpfs,source=/x,target=/mnt",
        "type=npipe,source=/x,target=/mnt",
        "type=bind,\"source=/x,target=/mnt",
        "type=bind,source=/,target=/mnt,tmpfs-size=1",
        "type=bind,source=/,target=/mnt,colour=red",
        "source=/x,target=/mnt",
    ] {
        assert_eq!(w.run(["run", "--rm", "--mount", wrong, "@host", "true"]).code, 125, "{wrong:?}");
    }
}

#[test]
fn environments_come_from_files() {
    let w = World::new();
    let file = w.path().join("env");
    std::fs::write(&file, "\u{feff}A=1\r\n  B= two words \n#C=3\n\nD\nE=\nF==x=\n").unwrap();
    let mut command = w.command(["run", "--rm", "-e", "A=over", "--env-file"]);
    command.arg(&file).env_remove("D").args([
        "@host",
        "sh",
        "-c",
        "echo \"$A|$B|$C|${D-none}|${E-none}|$F\"",
    ]);
    assert_eq!(Done::of(command.output().unwrap()).out, "over| two words ||none||=x=\n");
    for wrong in ["A B=1\n", "=1\n", "A\tB\n"] {
        std::fs::write(&file, wrong).unwrap();
        let mut command = w.command(["run", "--rm", "--env-file"]);
        let done = Done::of(command.arg(&file).args(["@host", "true"]).output().unwrap());
        assert_eq!(done.code, 125, "{wrong:?}: {done:?}");
    }
}

#[test]
fn devices_have_rights() {
    let w = World::new();
    let script = "head -c 1 /dev/zz | wc -c; (echo x >/dev/zz) 2>/dev/null || echo closed";
    let done = w.run(["run", "--rm", "--device", "/dev/zero:/dev/zz:r", "@host", "sh", "-c", script]);
    if is_root() {
        assert_eq!((done.code, done.out.as_str()), (0, "1\nclosed\n"), "{done:?}");
    } else {
        assert!(done.code == 125 && done.err.contains("CAP_MKNOD"), "{done:?}");
    }
    assert_eq!(w.ok(["run", "--rm", "--device", "/dev/zero:/dev/zz", "@host", "sh", "-c", script]), "1\n");
    let id = w.ok(["create", "--device", "/dev/zero:r", "--device", "/dev/full:/dev/x:rwm", "@host", "true"]);
    let devices = &w.inspect(id.trim())["HostConfig"]["Devices"];
    assert_eq!(devices[0]["CgroupPermissions"], "r");
    assert_eq!(
        (&devices[1]["PathInContainer"], &devices[1]["CgroupPermissions"]),
        (&"/dev/x".into(), &"rw".into())
    );
    for wrong in [
        "/dev/zero:/dev/zz:x",
        "/dev/zero:/dev/zz:m",
        "/dev/zero:/srv/zz",
        "/etc/passwd:/dev/zz",
        "/dev/no-such",
    ] {
        assert_eq!(w.run(["run", "--rm", "--device", wrong, "@host", "true"]).code, 125, "{wrong:?}");
    }
}

#[test]
fn limits_are_given_as_docker_takes_them() {
    let w = World::new();
    let flags = "--memory 64m --memory-reservation 32m --blkio-weight 300 --device-read-bps /dev/sda:1mb \
        --device-write-iops /dev/sda:50 --device-write-bps /dev/sdb:2m --device-read-iops /dev/sdb:9";
    let mut words = vec!["create"];
    words.extend(flags.split_whitespace());
    words.extend([
        "--device-cgroup-rule",
        "c 10:229 rwm",
        "--device-cgroup-rule",
        "b *:* r",
        "@host",
        "true",
    ]);
    let id = w.ok(words);
    let limits = &w.inspect(id.trim())["HostConfig"]["Limits"];
    assert_eq!((&limits["memory_reservation"], &limits["io_weight"]), (&(32 << 20).into(), &300.into()));
    let (a, b) = (&limits["io_max"][0], &limits["io_max"][1]);
    assert_eq!(a["device"], "/dev/sda");
    assert_eq!(
        (&a["read_bps"], &a["write_iops"], a["write_bps"].as_u64()),
        (&(1 << 20).into(), &50.into(), None)
    );
    assert_eq!((&b["write_bps"], &b["read_iops"]), (&(2 << 20).into(), &9.into()));
    assert_eq!(limits["devices"], serde_json::json!(["c 10:229 rwm", "b *:* r"]));
    for wrong in [
        ["--device-read-bps", "/dev/sda"],
        ["--device-read-bps", ":1mb"],
        ["--device-write-iops", "/dev/sda:1k"],
        ["--device-read-bps", "/dev/null:1mb"],
        ["--device-read-iops", "/dev/sda:0"],
        ["--device-cgroup-rule", "c 10 rwm"],
        ["--blkio-weight", "20000"],
    ] {
        let done = w.run(["run", "--rm", wrong[0], wrong[1], "@host", "true"]);
        assert_eq!(done.code, 125, "{wrong:?} {done:?}");
    }
}

#[test]
fn lists_are_filtered_and_formatted() {
    let w = World::new();
    for (name, label) in [("one", "a=1"), ("one-two", "a=2"), ("three", "b")] {
        w.ok(["create", "--name", name, "--label", label, "@host", "true"]);
    }
    w.ok(["start", "three"]);
    let names = |filters: &[&str]| {
        let mut args = vec!["ps", "-a", "--format", "{{.Names}}"];
        filters.iter().for_each(|filter| args.extend(["--filter", filter]));
        w.ok(args)
    };
    assert_eq!(names(&[]), "three\none-two\none\n");
    assert_eq!(names(&["name=one"]), "one-two\none\n");
    assert_eq!(names(&["name=^/one$"]), "one\n");
    assert_eq!(names(&["name=^one"]), "one-two\none\n");
    assert_eq!(names(&["name=two$"]), "one-two\n");
    assert_eq!(names(&["name=one", "label=a=2"]), "one-two\n");
    assert_eq!(names(&["label=a", "label=a=1"]), "one\n");
    assert_eq!(names(&["status=created"]), "one-two\none\n");
    assert_eq!(names(&["exited=0"]), "three\n");
    assert_eq!(names(&["before=three"]), "one-two\none\n");
    assert_eq!(names(&["since=one", "before=three"]), "one-two\n");
    assert_eq!(names(&["ancestor=@host", "status=dead"]), "");
    for (wrong, code) in [("status=asleep", 125), ("colour=red", 125), ("name", 125), ("before=no-such", 1)] {
        assert_eq!(w.run(["ps", "-a", "--filter", wrong]).code, code, "{wrong}");
    }
    assert_eq!(w.ok(["ps", "-aq"]).lines().count(), 3);
    assert_eq!(w.ok(["ps", "-aql"]).lines().count(), 1);
    assert_eq!(w.ok(["ps", "-q"]), "", "none runs");
    let table = w.ok([
        "ps",
        "-a",
        "--filter",
        "name=^one$",
        "--format",
        "table {{.Names}}\\t{{.State}}\\t{{.Labels}}",
    ]);
    assert_eq!(table, "NAMES   STATE     LABELS\none     created   a=1\n");
    let done = w.run(["rm", "-f", "no-such", "one"]);
    assert_eq!((done.code, done.out.as_str()), (0, "one\n"), "{done:?}");
    assert!(done.err.contains("no-such"), "{done:?}");
    assert_eq!(w.run(["rm", "no-such"]).code, 1);
}

#[test]
fn images_are_filtered() {
    let w = World::new();
    let root = w.path().join("rootfs");
    std::fs::create_dir(&root).unwrap();
    for (name, label) in [("me/app:1", "LABEL a=1"), ("me/app:2", "LABEL a=2"), ("other", "ENV X=1")] {
        std::fs::write(root.join("name"), name).unwrap();
        let done = Done::of(w.command(["import", "-c", label]).arg(&root).arg(name).output().unwrap());
        assert_eq!(done.code, 0, "{done:?}");
    }
    let names = |filters: &[&str]| {
        let mut args = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        filters.iter().for_each(|filter| args.extend(["-f", filter]));
        let out = w.ok(args);
        let mut lines: Vec<_> = out.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(names(&[]), "me/app:1 me/app:2 other:latest");
    assert_eq!(names(&["reference=me/*"]), "me/app:1 me/app:2");
    assert_eq!(names(&["reference=*/*:2"]), "me/app:2");
    assert_eq!(names(&["reference=other"]), "other:latest");
    assert_eq!(names(&["reference=*"]), "other:latest", "a star ends at a slash");
    assert_eq!(names(&["label=a"]), "me/app:1 me/app:2");
    assert_eq!(names(&["label=a=2", "reference=me/app"]), "me/app:2");
    assert_eq!(names(&["dangling=true"]), "");
    assert_eq!(names(&["before=other", "label=a"]), "me/app:1 me/app:2");
    assert_eq!(names(&["since=me/app:1"]), "me/app:2 other:latest");
    assert_eq!(w.ok(["images", "-q", "-f", "label=a=1"]).lines().count(), 1);
    assert_eq!(w.run(["images", "-f", "colour=red"]).code, 125);
}

#[test]
fn signals_init_and_confinement() {
    let w = World::new();
    let script = "trap 'exit 5' USR1; echo ready; while :; do read x || exit 6; done";
    let running = w.spawn([
        "run",
        "-i",
        "--name",
        "one",
        "--stop-signal",
        "SIGUSR1",
        "--init",
        "@host",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(w.inspect("one")["Config"]["StopSignal"], "SIGUSR1");
    assert_eq!(w.ok(["exec", "one", "cat", "/proc/1/comm"]), "coracle-init\n");
    w.ok(["stop", "-t", "50", "one"]);
    assert_eq!(running.end().0, Some(5));
    for option in ["apparmor=unconfined", "label=disable", "no-new-privileges", "seccomp=unconfined"] {
        w.ok(["run", "--rm", "--security-opt", option, "@host", "true"]);
    }
    for option in ["apparmor=mine", "label=type:x", "seccomp=/no/such/file"] {
        assert_eq!(w.run(["run", "--rm", "--security-opt", option, "@host", "true"]).code, 125, "{option}");
    }
    for (network, code) in [("none", 0), ("host", 0), ("bridge", 125), ("container:one", 125)] {
        assert_eq!(w.run(["run", "--rm", "--network", network, "@host", "true"]).code, code, "{network}");
    }
}
