//! Settings that are seen from inside: groups, labels, files, what is covered, and how containers are stopped.
#![forbid(unsafe_code)]

use super::processes::terminal;
use super::*;

#[test]
fn groups_are_added() {
    let w = World::new();
    let script = "id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '";
    let done =
        w.run(["run", "--rm", "--group-add", "audio", "--group-add", "4321", "@host", "sh", "-c", script]);
    if !is_root() && done.code == 125 {
        // With one id only there is no other group.
        assert!(done.err.contains("group"), "{done:?}");
    } else {
        let audio = std::fs::read_to_string("/etc/group").unwrap();
        let audio = audio.lines().find_map(|line| line.strip_prefix("audio:x:")).unwrap();
        let audio = audio.split(':').next().unwrap();
        assert_eq!((done.code, done.out), (0, format!("0 {audio} 4321 ")), "{}", done.err);
    }
    let done = w.run(["run", "--rm", "--group-add", "no-such-group", "@host", "true"]);
    assert!(done.code == 125 && done.err.contains("no-such-group"), "{done:?}");
}

#[test]
fn labels_come_from_files_and_ids_go_into_one() {
    let w = World::new();
    let (labels, cid) = (w.path().join("labels"), w.path().join("cid"));
    std::fs::write(&labels, "# comment\na=1\n\nb\nc=x=y\n").unwrap();
    let mut command = w.command(["create", "--label-file"]);
    command.arg(&labels).args(["-l", "a=2", "--cidfile"]).arg(&cid).args(["@host", "true"]);
    let done = Done::of(command.output().unwrap());
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(std::fs::read_to_string(&cid).unwrap(), done.out.trim());
    let found = &w.inspect(done.out.trim())["Config"]["Labels"];
    assert_eq!(found, &serde_json::json!({"a": "2", "b": "", "c": "x=y"}));
    // What is there is somebody's.
    let again =
        Done::of(w.command(["run", "--rm", "--cidfile"]).arg(&cid).args(["@host", "true"]).output().unwrap());
    assert!(again.code == 125 && again.err.contains("exists"), "{again:?}");
    let done = w.run(["create", "--label-file", "/no/such/file", "@host", "true"]);
    assert!(done.code != 0 && done.err.contains("/no/such/file"), "{done:?}");
}

#[test]
fn volumes_are_pruned() {
    let w = World::new();
    w.ok(["volume", "create", "named"]);
    w.ok(["volume", "create", "used"]);
    w.ok(["create", "--name", "one", "-v", "used:/mnt", "@host", "true"]);
    w.ok(["volume", "prune"]);
    let left = |w: &World| {
        let mut names: Vec<_> = w.ok(["volume", "ls", "-q"]).lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(left(&w), "named used", "only the anonymous ones");
    let out = w.ok(["volume", "prune", "-a"]);
    assert!(out.contains("named") && !out.contains("used\n"), "{out}");
    assert_eq!(left(&w), "used");
}

#[test]
fn run_on_a_terminal() {
    let w = World::new();
    let (mut typed, slave) = terminal();
    let script = "echo ready; read x; echo \"<$x>\"; test -t 0 && exit 9";
    let mut child = w
        .command(["run", "--rm", "-it", "@host", "sh", "-c", script])
        .stdin(slave.try_clone().unwrap())
        .stdout(slave)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(typed.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap().trim_end(), "ready");
    typed.write_all(b"hello\r").unwrap();
    let said = lines.map(Result::unwrap).find(|line| line.contains('<'));
    assert_eq!(said.unwrap().trim_end(), "<hello>");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn a_container_is_stopped_as_it_was_made() {
    let w = World::new();
    // It hears SIGTERM and goes on: it is killed after its own time, not after docker's ten seconds.
    let deaf = r#"trap "echo term" TERM; echo ready; while :; do echo tick; sleep 0.2; done"#;
    let running = w.spawn(["run", "-i", "--name", "deaf", "--stop-timeout", "3", "@host", "sh", "-c", deaf]);
    w.ok(["stop", "deaf"]);
    let (code, rest) = running.end();
    assert_eq!(code, Some(137));
    let (_, after) = rest.split_once("term\n").unwrap();
    assert!((1..40).contains(&after.lines().count()), "{after}");
}

#[test]
#[ignore = "needs /bin/busybox (busybox-static): run with --include-ignored"]
fn an_images_stop_signal_is_sent() {
    let w = World::new();
    let root = w.path().join("rootfs");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/sh")).unwrap();
    for (name, number) in [("SIGUSR1", 10), ("SIGRTMIN+3", 37)] {
        let mut command = w.command(["import", "-c", &format!("STOPSIGNAL {name}")]);
        let done = Done::of(command.arg(packed(&root)).arg("stops").output().unwrap());
        assert_eq!(done.code, 0, "{done:?}");
        let script = format!("trap 'exit 5' {number}; echo ready; while :; do read x || exit 6; done");
        let running = w.spawn(["run", "-i", "--name", "one", "stops", "/bin/sh", "-c", &script]);
        w.ok(["stop", "-t", "50", "one"]);
        assert_eq!(running.end().0, Some(5), "{name}");
        w.ok(["rm", "one"]);
    }
}

#[test]
fn settings_of_the_builder_have_flags() {
    let w = World::new();
    let source = w.path().join("greeting");
    std::fs::write(&source, "hello\n").unwrap();
    let file = format!("{}:/srv/new/greeting:600", source.display());
    let script = "cat /srv/new/greeting; stat -c %a /srv/new/greeting; touch /srv/x && echo written";
    let flags = ["run", "--rm", "--writable-in-memory", "--start-timeout", "50", "--file", &file];
    assert_eq!(w.ok(flags.iter().chain(&["@host", "sh", "-c", script])), "hello\n600\nwritten\n");
    let kept = w.run(["create", "--writable-in-memory", "@host", "true"]);
    assert!(kept.code != 0 && kept.err.contains("memory"), "nothing of it would be left: {kept:?}");
    for wrong in ["/etc/hostname", "/etc/hostname:/srv/x:9", "/no/such/file:/srv/x", "/etc/hostname:/a:1:2"] {
        assert_eq!(w.run(["run", "--rm", "--file", wrong, "@host", "true"]).code, 125, "{wrong}");
    }
    assert_eq!(w.run(["run", "--rm", "--start-timeout", "x", "@host", "true"]).code, 125);
    let root = w.path().join("rootfs");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("x"), "").unwrap();
    let mut command = w.command(["import", "-c", "ENV FROM_IMAGE=1"]);
    assert_eq!(Done::of(command.arg(&root).arg("env").output().unwrap()).code, 0);
    let id = w.ok(["create", "--env-clear", "-e", "A=1", "env", "/x"]);
    let env = w.inspect(id.trim())["Config"]["Env"].to_string();
    assert!(env.contains("A=1") && !env.contains("FROM_IMAGE"), "{env}");
}

#[test]
fn parts_of_proc_are_covered_and_shown_one_by_one() {
    let w = World::new();
    let read = "head -c1 /proc/interrupts | wc -c; head -c1 /proc/uptime | wc -c; grep -c ' /proc/sys ' /proc/self/mountinfo";
    let counts = |flags: &[&str]| {
        let done = w.run(["run", "--rm"].iter().chain(flags).chain(&["@host", "sh", "-c", read]));
        done.out
    };
    assert_eq!(counts(&[]), "0\n1\n1\n");
    assert_eq!(counts(&["--security-opt", "mask=/proc/uptime"]), "0\n0\n1\n");
    assert_eq!(counts(&["--security-opt", "unmask=/proc/interrupts"]), "1\n1\n1\n");
    assert_eq!(counts(&["--security-opt", "unmask=/proc/interrupts:/proc/sys"]), "1\n1\n0\n");
    assert_eq!(counts(&["--security-opt", "unmask=ALL"]), "1\n1\n0\n");
    assert_eq!(counts(&["--read-only-paths", "/proc/bus"]), "0\n1\n0\n");
    assert_eq!(counts(&["--security-opt", "unmask=ALL", "--security-opt", "mask=/proc/uptime"]), "1\n0\n0\n");
    assert_eq!(
        counts(&["--security-opt", "systempaths=unconfined", "--read-only-paths", "/proc/sys"]),
        "1\n1\n1\n"
    );
    for (wrong, said) in
        [("unmask=/proc/uptime", "not covered"), ("mask=", "no path"), ("unmask=:", "no path")]
    {
        let done = w.run(["run", "--rm", "--security-opt", wrong, "@host", "true"]);
        assert!(done.code == 125 && done.err.contains(said), "{wrong}: {done:?}");
    }
}
