//! The bundled command line (`examples/coracle`), run as a program: exit codes, flags, verbs between processes.
#![forbid(unsafe_code)]

#[path = "cli/broken.rs"]
mod broken;
#[path = "cli/commit.rs"]
mod commit;
mod common;
#[path = "cli/confinement.rs"]
mod confinement;
#[path = "cli/copy.rs"]
mod copy;
#[path = "cli/flags.rs"]
mod flags;
#[path = "cli/forms.rs"]
mod forms;
#[path = "cli/images.rs"]
mod images;
#[path = "cli/limits.rs"]
mod limits;
#[path = "cli/processes.rs"]
mod processes;
#[path = "cli/settings.rs"]
mod settings;

use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use tempfile::TempDir;

/// Cargo builds the examples with the tests, and puts them beside: `target/PROFILE/{deps,examples}`.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/coracle");
    assert!(path.exists(), "{} is missing: cargo build --example coracle", path.display());
    path
}

/// A store of its own in a directory that a container of an ordinary user can use too.
struct World(TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("coracle-cli-").tempdir_in("/var/tmp").unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.path().join("store")).args(args).stdin(Stdio::null());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        Done::of(self.command(args).output().unwrap())
    }

    /// Its stdout, when it succeeded.
    #[track_caller]
    fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let done = self.run(args);
        assert_eq!(done.code, 0, "{done:?}");
        done.out
    }

    fn inspect(&self, name: &str) -> Value {
        let text = self.ok(["inspect", name]);
        serde_json::from_str::<Value>(&text).unwrap()[0].take()
    }

    /// Starts a command line that says `ready` when its container's command runs.
    fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Background {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Background { child, stdin, out }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What containers and layers have is not always this user's to remove: the program can.
        for (list, remove) in [(["ps", "-aq"], ["rm", "-f"]), (["images", "-q"], ["rmi", "-f"])] {
            let names = self.run(list).out;
            let names: Vec<_> = names.lines().collect();
            if !names.is_empty() {
                self.run(remove.iter().chain(&names));
            }
        }
        self.run(["volume", "prune", "-a"]);
    }
}

/// A command line in the background.
struct Background {
    child: Child,
    stdin: Option<ChildStdin>,
    out: BufReader<ChildStdout>,
}

impl Background {
    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill")
                .args(["-s", signal, &self.child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Its exit code, and the rest of its output.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.stdin.take());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[derive(Debug)]
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The archive of a directory.
fn packed(dir: &Path) -> PathBuf {
    let path = dir.with_extension("tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&path).unwrap());
    archive.follow_symlinks(false);
    archive.append_dir_all("", dir).unwrap();
    archive.finish().unwrap();
    path
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Ends with 7 at SIGTERM.
const LOOP: &str = r#"trap "exit 7" TERM; echo ready; while :; do read line || sleep 0.05; done"#;

#[test]
fn exit_codes_are_dockers() {
    let w = World::new();
    let code = |words: &[&str]| {
        let done = w.run(["run", "--rm", "@host"].iter().chain(words));
        assert_eq!(done.code > 124 && done.code < 128, done.err.starts_with("coracle: "), "{done:?}");
        done.code
    };
    assert_eq!(code(&["true"]), 0);
    assert_eq!(code(&["sh", "-c", "exit 3"]), 3);
    assert_eq!(code(&["no-such-program"]), 127);
    assert_eq!(code(&["/no/such/program"]), 127);
    assert_eq!(code(&["/etc/passwd"]), 126);
    assert_eq!(code(&["/"]), 126);
    // The first process ignores its own signals: its child's counts.
    assert_eq!(code(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]), 137);
    assert_eq!(w.run(["run", "--pull=never", "no-such-image"]).code, 125);
    assert_eq!(w.run(["run", "--no-such-flag", "@host"]).code, 125);
    assert_eq!(w.run(["run", "--memory", "much", "@host"]).code, 125);
    assert_eq!(w.run(["run", "-d", "@host", "true"]).code, 125);
    assert_eq!(w.run(["run"]).code, 125);
    assert_eq!(w.run(["no-such-verb"]).code, 125);
    assert_eq!(w.run(["rm", "no-such-container"]).code, 1);
    assert_eq!(w.run(["inspect", "no-such-thing"]).code, 1);
    assert_eq!(w.ok(["ps", "-aq"]), "");
}

#[test]
fn help_names_every_flag() {
    let w = World::new();
    let help = w.ok(["run", "--help"]);
    for flag in ["-e, --env", "-v, --volume", "--cap-add"] {
        assert!(help.contains(flag), "{flag}: {help}");
    }
    assert!(w.ok(["--help"]).contains("volume prune"));
    assert!(!w.path().join("store").exists(), "help needs no store");
}

#[test]
fn options_end_at_the_image() {
    let w = World::new();
    let out = w.ok([
        "run",
        "--rm",
        "-eA=1",
        "-e",
        "B=2",
        "--env=C=3",
        "@host",
        "sh",
        "-c",
        "echo $A$B$C \"$@\"",
        "x",
        "-e",
        "--rm",
    ]);
    assert_eq!(out, "123 -e --rm\n");
}

#[test]
fn settings_reach_the_command() {
    let w = World::new();
    let file = w.path().join("env");
    std::fs::write(&file, "# comment\nFROM_FILE=f f\n\nINHERITED\n").unwrap();
    let mut command = w.command(["run", "--rm", "-w", "/usr", "-h", "box", "--env-file"]);
    command.arg(&file).env("INHERITED", "yes").args([
        "--add-host",
        "peer:10.1.2.3",
        "--ulimit",
        "nofile=77:88",
    ]);
    command.args(["--sysctl", "net.ipv4.ip_default_ttl=33", "--read-only", "--tmpfs", "/mnt:size=1m"]);
    let script = r#"pwd; hostname; echo "$FROM_FILE $INHERITED"; grep peer /etc/hosts; ulimit -Sn; ulimit -Hn
        cat /proc/sys/net/ipv4/ip_default_ttl; touch /usr/x 2>/dev/null || echo read-only
        echo t > /mnt/t && cat /mnt/t; df -k /mnt | tail -1 | awk '{print $2}'"#;
    let done = Done::of(command.args(["@host", "sh", "-c", script]).output().unwrap());
    let lines: Vec<_> = done.out.lines().collect();
    let peer = "10.1.2.3\tpeer";
    assert_eq!(
        lines,
        ["/usr", "box", "f f yes", peer, "77", "88", "33", "read-only", "t", "1024"],
        "{}",
        done.err
    );
}

#[test]
fn users_and_capabilities() {
    let w = World::new();
    let caps = |flags: &[&str]| {
        let words = [
            "@host",
            "sh",
            "-c",
            "sed -n 's/^CapBnd:\\s*//p; s/^NoNewPrivs:\\s*//p; s/^Seccomp:\\s*//p' /proc/self/status",
        ];
        w.ok(["run", "--rm"].iter().chain(flags).chain(&words))
    };
    assert_eq!(caps(&[]), "00000000a80425fb\n1\n2\n");
    assert_eq!(caps(&["--cap-drop", "ALL", "--cap-add=NET_ADMIN"]), "0000000000001000\n1\n2\n");
    let open = ["--security-opt", "no-new-privileges=false", "--security-opt", "seccomp=unconfined"];
    assert_eq!(caps(&open), "00000000a80425fb\n0\n0\n");
    // The flags count after the profile, wherever they stand.
    let lesser = ["memory_max", "memory_swap_max", "cpu_max"].map(|name| format!("best-effort={name}"));
    let mut strict = vec!["-u", "0", "--security-opt", "profile=untrusted", "-m", "1g"];
    if !is_root() {
        strict.extend(lesser.iter().flat_map(|option| ["--security-opt", option]));
    }
    let host = coracle::Host::probe();
    match host.get(coracle::Feature::SubIds).unwrap().missing() {
        None => assert_eq!(caps(&strict), "0000000000000000\n1\n2\n"),
        // The profile is for nobody with one id only.
        Some(missing) => {
            let refused = w.run(["run", "--rm"].iter().chain(&strict).chain(&["@host", "true"]));
            assert!(refused.code == 125 && refused.err.contains(missing.reason()), "{}", refused.err);
        }
    }
    let mut wrong =
        vec!["run", "--rm", "--security-opt", "require=landlock", "--security-opt", "landlock=false"];
    wrong.extend(["--security-opt", "require=read_only_root", "@host", "true"]);
    let refused = w.run(&wrong);
    assert_eq!(refused.code, 125);
    assert!(refused.err.contains("read_only_root is required and off"), "{}", refused.err);
    assert_eq!(w.run(["run", "--security-opt", "profile=lax", "@host", "true"]).code, 125);
    if is_root() {
        let out = w.ok(["run", "--rm", "-u", "33:4", "@host", "sh", "-c", "id -u; id -g"]);
        assert_eq!(out, "33\n4\n");
    }
}

#[test]
fn files_of_the_host_and_volumes() {
    let w = World::new();
    let dir = w.path().join("shared");
    let bind = format!("{}:/mnt", dir.display());
    // Made as docker does.
    w.ok(["run", "--rm", "-v", &bind, "@host", "sh", "-c", "echo from inside > /mnt/file"]);
    assert_eq!(std::fs::read_to_string(dir.join("file")).unwrap(), "from inside\n");
    let read_only = format!("{bind}:ro");
    assert_ne!(w.run(["run", "--rm", "-v", &read_only, "@host", "touch", "/mnt/x"]).code, 0);
    let covered = w.run(["run", "--rm", "-v", &format!("{}:/proc/x", dir.display()), "@host", "true"]);
    assert!(covered.code == 125 && covered.err.contains("/proc"), "{covered:?}");
    let size = w.ok([
        "run",
        "--rm",
        "--shm-size",
        "1m",
        "@host",
        "sh",
        "-c",
        "df -k /dev/shm | tail -1 | awk '{print $2}'",
    ]);
    assert_eq!(size, "1024\n");
    let missing = w.run(["run", "--rm", "--mount", "type=bind,src=/no/such,dst=/mnt", "@host", "true"]);
    assert_eq!(missing.code, 125, "{missing:?}");

    assert_eq!(w.ok(["volume", "create", "--label", "a=b", "site"]), "site\n");
    w.ok(["run", "--rm", "-v", "site:/mnt", "@host", "sh", "-c", "echo kept > /mnt/file"]);
    let mount = "type=volume,source=site,target=/srv,readonly";
    assert_eq!(w.ok(["run", "--rm", "--mount", mount, "@host", "cat", "/srv/file"]), "kept\n");
    assert_eq!(w.ok(["volume", "ls", "-q", "-f", "label=a=b"]), "site\n");
    assert_eq!(w.ok(["volume", "inspect", "-f", "{{.Labels.a}}", "site"]), "b\n");
    w.ok(["create", "--name", "user", "-v", "site:/mnt", "@host", "true"]);
    assert_eq!(w.run(["volume", "rm", "site"]).code, 1, "a container has it");
    w.ok(["rm", "user"]);
    assert_eq!(w.ok(["volume", "rm", "site"]), "site\n");
    assert_eq!(w.ok(["volume", "ls", "-q"]), "");
}

#[test]
fn containers_stay_unless_told_otherwise() {
    let w = World::new();
    let done = w.run([
        "run",
        "--name",
        "one",
        "--label",
        "k=v",
        "@host",
        "sh",
        "-c",
        "echo $RANDOM > /srv/x; exit 3",
    ]);
    assert_eq!(done.code, 3, "{done:?}");
    assert_eq!(w.ok(["ps", "-q"]), "");
    assert_eq!(w.ok(["ps", "-a", "--format", "{{.Names}} {{.State}}"]), "one exited\n");
    assert_eq!(w.ok(["ps", "-aq", "-f", "label=k=v", "-f", "status=exited"]).lines().count(), 1);
    assert_eq!(w.ok(["ps", "-aq", "-f", "status=running"]), "");
    assert!(w.ok(["ps", "-a"]).contains("Exited (3)"));
    let state = w.inspect("one");
    assert_eq!((&state["State"]["ExitCode"], &state["Name"]), (&3.into(), &"/one".into()));
    let taken = w.run(["run", "--name", "one", "@host", "true"]);
    assert_eq!(taken.code, 125, "{taken:?}");

    let id = w.ok([
        "create",
        "--name",
        "two",
        "@host",
        "sh",
        "-c",
        "echo ready; test -e /srv/y || { touch /srv/y; exit 4; }",
    ]);
    assert_eq!(id.trim().len(), 64);
    assert_eq!(w.ok(["inspect", "-f", "{{.State.Status}}", "two"]), "created\n");
    let first = w.run(["start", &id[..9]]);
    assert_eq!((first.code, first.out.as_str()), (4, "ready\n"), "{first:?}");
    let second = w.run(["start", "-a", "two"]);
    assert_eq!((second.code, second.out.as_str()), (0, "ready\n"), "its changes stay: {second:?}");
    assert_eq!(w.ok(["wait", "one", "two"]), "3\n0\n");
    assert_eq!(w.ok(["rm", "one", "two"]), "one\ntwo\n");
    assert_eq!(w.ok(["ps", "-aq"]), "");
}

#[test]
fn stdin_and_outputs() {
    let w = World::new();
    let mut command =
        w.command(["run", "--rm", "-i", "@host", "sh", "-c", "cat; echo err >&2; echo again > /dev/stdout"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let sent = "line\n".repeat(100_000);
    let mut stdin = child.stdin.take().unwrap();
    let done = std::thread::scope(|scope| {
        let sent = &sent;
        // Beside the reading: it is more than pipes hold.
        scope.spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
        Done::of(child.wait_with_output().unwrap())
    });
    assert_eq!((done.code, done.err.as_str()), (0, "err\n"));
    assert!(done.out == sent + "again\n");
    // Without -i there is none.
    let mut command = w.command(["run", "--rm", "@host", "cat"]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert!(child.wait_with_output().unwrap().stdout.is_empty());
    // A terminal that is not there.
    let done = w.run(["run", "--rm", "-it", "@host", "true"]);
    assert!(done.code == 125 && done.err.contains("not a TTY"), "{done:?}");
    // A terminal without input.
    assert_eq!(w.ok(["run", "--rm", "-t", "@host", "sh", "-c", "test -t 1 && echo yes"]), "yes\r\n");
}

#[test]
fn limits_bite_or_are_refused() {
    let w = World::new();
    let words = ["@host", "sh", "-c", "head -c 200m /dev/zero | tail | wc -c"];
    let flags =
        ["run", "--name", "hog", "--memory", "32m", "--memory-swap=32m", "--cpus", "0.5", "--pids-limit=20"];
    let done = w.run(flags.iter().chain(&words));
    if !is_root() && done.code == 125 {
        assert!(done.err.contains("help:"), "the reason and the remedy: {done:?}");
        return;
    }
    assert_ne!(done.out.trim(), "209715200", "{done:?}");
    assert_eq!(w.ok(["inspect", "-f", "{{.State.OOMKilled}}", "hog"]), "true\n");
}

#[test]
fn images_go_in_and_out() {
    let w = World::new();
    let root = w.path().join("rootfs");
    for dir in ["bin", "etc"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::write(root.join("etc/greeting"), "hello\n").unwrap();
    let mut command = w.command(["import", "-c", "CMD [\"/bin/cat\", \"/etc/greeting\"]", "-c", "ENV A=1"]);
    let done = Done::of(command.arg(packed(&root)).arg("me/greeter:1").output().unwrap());
    assert_eq!(done.code, 0, "{done:?}");
    let id = done.out.trim().to_owned();
    assert!(id.starts_with("sha256:"));
    assert_eq!(w.ok(["images", "--format", "{{.Repository}}:{{.Tag}}"]), "me/greeter:1\n");
    w.ok(["tag", "me/greeter:1", "greeter"]);
    assert_eq!(w.ok(["images", "-q"]).lines().count(), 1);
    assert_eq!(w.ok(["images", "-q", "greeter"]).lines().count(), 1);
    assert_eq!(w.ok(["images", "-q", "other"]), "");
    let image = w.inspect("greeter");
    assert_eq!((&image["Id"], &image["Config"]["Env"][0]), (&id.as_str().into(), &"A=1".into()));
    w.ok(["create", "--name", "one", "greeter"]);
    assert_eq!(w.inspect("one")["Path"], "/bin/cat");
    for (words, why) in [(&["tag", "@host", "mine"][..], "has no name"), (&["rmi", "@host"], "in no store")] {
        let refused = w.run(words);
        assert!(refused.code != 0 && refused.err.contains(why), "{refused:?}");
    }
    assert_eq!(w.ok(["rmi", "greeter"]), "Untagged: greeter:latest\n");
    assert_eq!(w.run(["rmi", "me/greeter:1"]).code, 1, "a container has it");
    w.ok(["rm", "one"]);
    assert_eq!(w.ok(["rmi", "me/greeter:1"]), format!("Untagged: me/greeter:1\nDeleted: {id}\n"));
    assert_eq!(w.run(["run", "--rm", "greeter"]).code, 125);
}

#[test]
#[ignore = "needs /bin/busybox (busybox-static): run with --include-ignored"]
fn runs_an_imported_root() {
    let w = World::new();
    let root = w.path().join("rootfs");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    let mut command =
        w.command(["import", "--change", "ENTRYPOINT [\"/bin/sh\",\"-c\"]", "-c", "CMD [\"echo cmd\"]"]);
    let done = Done::of(command.arg(packed(&root)).arg("busybox").output().unwrap());
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(w.ok(["run", "--rm", "busybox"]), "cmd\n");
    assert_eq!(w.ok(["run", "--rm", "busybox", "echo other"]), "other\n");
    assert_eq!(w.ok(["run", "--rm", "--entrypoint", "/bin/busybox", "busybox", "echo", "third"]), "third\n");
    // An entrypoint clears the image's command.
    assert_eq!(w.run(["run", "--rm", "--entrypoint", "/bin/sh", "busybox"]).code, 0);
}

#[test]
#[ignore = "needs /bin/busybox (busybox-static): run with --include-ignored"]
fn published_ports_are_forwarded() {
    let w = World::new();
    let root = w.path().join("rootfs");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::fs::write(root.join("page"), "hello").unwrap();
    let done = Done::of(w.command(["import"]).arg(packed(&root)).arg("web").output().unwrap());
    assert_eq!(done.code, 0, "{done:?}");
    // httpd goes into the background once it listens.
    let script = "/bin/busybox httpd -p 80 -h / && echo ready && read line";
    let flags =
        ["run", "-i", "--rm", "--name", "one", "-p", "127.0.0.1::80", "web", "/bin/busybox", "sh", "-c"];
    let running = w.spawn(flags.iter().chain(&[script]));
    let address = w.ok(["port", "one", "80"]);
    assert_eq!(w.ok(["ps", "--format", "{{.Ports}}"]).trim(), format!("{}->80/tcp", address.trim()));
    let mut stream = std::net::TcpStream::connect(address.trim()).unwrap();
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    running.end();
    assert!(std::net::TcpStream::connect(address.trim()).is_err(), "gone with the container");
}

#[test]
fn info_is_json() {
    let w = World::new();
    let info: Value = serde_json::from_str(&w.ok(["info", "--format", "json"])).unwrap();
    let root = w.path().join("store").canonicalize().unwrap();
    assert_eq!(info["CoracleRootDir"], root.to_str().unwrap());
    let features = info["Features"].as_array().unwrap();
    let names: Vec<_> = features.iter().map(|feature| feature["feature"].as_str().unwrap()).collect();
    assert_eq!(names, coracle::Feature::ALL.map(|feature| feature.name()));
    let shown = w.ok(["info"]);
    for feature in features.iter().filter(|feature| feature["available"] == false) {
        for part in ["reason", "remedy"] {
            assert!(shown.contains(feature[part].as_str().unwrap()), "{feature}: {shown}");
        }
    }
    assert!(shown.lines().any(|line| line.starts_with("yes  ")), "{shown}");
    assert_eq!(w.ok(["version", "-f", "{{.Version}}"]).trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn tables_do_not_command_the_terminal() {
    let world = World::new();
    let script = r#"echo ready; exec -a "$(printf '\033[2Jmine\nFORGED 1\a')" sleep 1000"#;
    let mut running = world.spawn(["run", "--rm", "--name", "named", "@host", "bash", "-c", script]);
    // The name is changed after the line, and for a moment there is none.
    let mut top = String::new();
    common::eventually("the name is changed", || {
        top = world.ok(["top", "named"]);
        top.contains("mine")
    });
    assert!(top.contains(r"\u{1b}[2Jmine\nFORGED 1\u{7} 1000"), "{top:?}");
    assert_eq!((top.lines().count(), top.chars().filter(|c| c.is_control()).count()), (2, 2), "{top:?}");
    world.ok(["kill", "named"]);
    running.child.wait().unwrap();
}
