//! The command line's `build` and `builder prune`.

use super::*;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// A store of the program's own, in a directory that a container of an ordinary user can use too.
struct World {
    dir: tempfile::TempDir,
}

struct Done {
    code: i32,
    out: String,
    err: String,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("coracle-build-").tempdir_in("/var/tmp").unwrap();
        bases::fill(&Store::open(dir.path().join("store")).unwrap());
        Self { dir }
    }

    fn store(&self) -> Store {
        Store::open(self.dir.path().join("store")).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let test = std::env::current_exe().unwrap();
        let program = test.parent().unwrap().parent().unwrap().join("examples/coracle");
        assert!(program.exists(), "{} is missing: cargo build --example coracle", program.display());
        let mut command = Command::new(program);
        command.arg("--root").arg(self.dir.path().join("store")).args(args).current_dir(self.dir.path());
        command.env_remove("SOURCE_DATE_EPOCH");
        command
    }

    fn given(&self, args: &[&str], stdin: &[u8]) -> Done {
        Self::done(self.command(args), stdin)
    }

    fn done(mut command: Command, stdin: &[u8]) -> Done {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let Output { status, stdout, stderr } = std::thread::scope(|scope| {
            // Who does not want it closes it.
            scope.spawn(move || drop(input.write_all(stdin)));
            child.wait_with_output().unwrap()
        });
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Done { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let done = self.given(args, b"");
        assert_eq!(done.code, 0, "{}{}", done.out, done.err);
        done.out
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What an ordinary user's layers have is not the user's to remove.
        self.given(&["builder", "prune", "--all", "--force"], b"");
        let names = self.given(&["images", "-q"], b"").out;
        let names: Vec<_> = names.lines().collect();
        if !names.is_empty() {
            self.given(&[&["rmi", "-f"], &names[..]].concat(), b"");
        }
    }
}

/// With ids as `ID`.
fn without_ids(text: &str) -> String {
    let is_id = |word: &str| word.len() == 12 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let line = |line: &str| {
        let words: Vec<_> = line.split(' ').map(|word| if is_id(word) { "ID" } else { word }).collect();
        words.join(" ") + "\n"
    };
    text.lines().map(line).collect()
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn plain_progress_is_the_classic_builders() {
    let w = World::new();
    let text = "FROM localhost/box:1 AS base\nRUN echo said\nFROM base\nCOPY one \\\n  /srv/\nCMD [\"x\"]\n";
    let dir = context(&[("Dockerfile", text), ("one", "1")]);
    let dir = dir.path().to_str().unwrap();
    let out = w.ok(&["build", "-t", "app:1", "-t", "app:2", "--iidfile", "iid", dir]);
    assert_eq!(
        without_ids(&out),
        "Step 1/5 : FROM localhost/box:1 AS base\n ---> ID\nStep 2/5 : RUN echo said\n ---> Running in ID\nsaid\n ---> ID\n\
         Step 3/5 : FROM base\n ---> ID\nStep 4/5 : COPY one   /srv/\n ---> ID\nStep 5/5 : CMD [\"x\"]\n ---> ID\n\
         Successfully built ID\nSuccessfully tagged app:1\nSuccessfully tagged app:2\n"
    );
    let store = w.store();
    let image = store.image("app:2").unwrap();
    assert_eq!(fs::read_to_string(w.dir.path().join("iid")).unwrap(), image.id().to_string());
    for line in out.lines().filter_map(|line| line.strip_prefix(" ---> ")).filter(|line| !line.contains(' '))
    {
        store.image(line).unwrap();
    }
    let again = w.ok(&["build", "--progress", "plain", dir]);
    assert_eq!(again.matches(" ---> Using cache\n").count(), 3, "{again}");
    assert_eq!(w.ok(&["build", "-q", dir]), format!("{}\n", image.id()));
    assert_eq!(w.ok(&["image", "build", "--progress=quiet", dir]), "");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn on_a_terminal_each_step_is_a_line() {
    let w = World::new();
    let dir = context(&[("Dockerfile", "FROM localhost/box:1\nRUN echo said\nRUN true\n")]);
    w.ok(&["build", dir.path().to_str().unwrap()]);
    write(dir.path(), "Dockerfile", "FROM localhost/box:1\nRUN echo said\nRUN echo the reason; exit 3\n");
    let command = w.command(&["build", dir.path().to_str().unwrap()]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    // util-linux's, which gives it a terminal.
    let mut script = Command::new("script");
    script.args(["-qec", &words.join(" "), "/dev/null"]).env("TERM", "xterm").env("COLUMNS", "100");
    let done = World::done(script, b"");
    assert_eq!(done.code, 1, "{}", done.err);
    for part in [
        "=> [1/3] FROM localhost/box:1 DONE",
        "=> [2/3] RUN echo said CACHED",
        "the reason",
        "coracle: line 3",
    ] {
        assert!(done.out.contains(part), "{part}: {}", done.out);
    }
    assert!(!done.out.contains("Step 1/3") && !done.out.contains("RUN echo said DONE"), "{}", done.out);
}

/// Steps come in the order of the file, each whole, whichever is done first.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn stages_at_once_are_shown_one_after_the_other() {
    let w = World::new();
    let mut text = String::new();
    for stage in 0..5 {
        text +=
            &format!("FROM localhost/onbuild:1 AS s{stage}\nRUN seq 300 | sed 's/^/stage {stage} line /'\n");
    }
    text += "FROM scratch\n";
    for stage in 0..5 {
        text += &format!("COPY --from=s{stage} /etc/motd /{stage}\n");
    }
    let done = w.given(&["build", "--jobs", "5", "-"], text.as_bytes());
    assert_eq!(done.code, 0, "{}", done.err);
    let steps: Vec<_> = done.out.lines().filter(|line| line.starts_with("Step ")).collect();
    let numbers: Vec<_> =
        steps.iter().map(|line| line.split(['/', ' ']).nth(1).unwrap().parse::<usize>().unwrap()).collect();
    assert_eq!(numbers, (1..=16).collect::<Vec<_>>(), "{}", done.out);
    for stage in 0..5 {
        let lines: Vec<_> = (1..=300).map(|n| format!("stage {stage} line {n}\n")).collect();
        assert!(done.out.contains(&lines.concat()), "stage {stage} is not in one piece");
    }
    assert_eq!(done.out.matches("# Executing trigger: ").count(), 15);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn dockerfiles_and_contexts_from_everywhere() {
    let w = World::new();
    let dir = context(&[
        ("ctx/Dockerfile", "FROM localhost/box:1\nLABEL from=default\n"),
        ("ctx/sub/Other", "FROM localhost/box:1\nCOPY one /srv/\nLABEL from=other\n"),
        ("ctx/one", "1"),
        ("outside", "FROM localhost/box:1\nCOPY one /srv/\nLABEL from=outside\n"),
    ]);
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let label = |args: &[&str], stdin: &[u8]| {
        let done = w.given(&[&["build", "-q"], args].concat(), stdin);
        assert_eq!(done.code, 0, "{args:?}: {}", done.err);
        let image = w.store().image(done.out.trim()).unwrap();
        let config: Value = serde_json::from_str(image.config().json()).unwrap();
        config["config"]["Labels"]["from"].as_str().unwrap().to_owned()
    };
    let context = at("ctx");
    assert_eq!(label(&[&context], b""), "default");
    assert_eq!(label(&["-f", &at("ctx/sub/Other"), &context], b""), "other");
    assert_eq!(label(&["--file", &at("outside"), &context], b""), "outside");
    let given = b"FROM localhost/box:1\nCOPY one /srv/\nLABEL from=stdin\n";
    assert_eq!(label(&["-f", "-", &context], given), "stdin");
    assert_eq!(label(&["-"], b"FROM localhost/box:1\nLABEL from=alone\n"), "alone");
    let packed = peer("sh", ["-c", &format!("tar -C {context} -c . | base64 -w0")]);
    let plain = Command::new("tar").args(["-C", &context, "-c", "."]).output().unwrap().stdout;
    assert!(!packed.is_empty());
    assert_eq!(label(&["-"], &plain), "default");
    assert_eq!(label(&["-f", "sub/Other", "-"], &gzip(&plain)), "other");
    // As docker, from where one is.
    let mut command = w.command(&["build", "-q", "-f", "outside", "ctx"]);
    command.current_dir(dir.path());
    assert_eq!(World::done(command, b"").code, 0);
    for (args, says) in [
        (&["build", "-f", "-", "-"][..], "stdin"),
        (&["build", "/no/such/dir"], "no directory"),
        (&["build", "https://example.org/x.git"], "a directory"),
        (&["build"], "needs 1 argument"),
        (&["build", "--frob", "."], "unknown flag"),
        (&["build", "--progress", "loud", &context], "--progress"),
        (&["build", "--output", "type=nothing", &context], "--output"),
        (&["build", "--secret", "src=x", &context], "--secret"),
    ] {
        let done = w.given(args, b"");
        assert!(done.code != 0 && done.err.contains(says), "{args:?}: {} {}", done.code, done.err);
    }
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn flags_reach_the_build() {
    let w = World::new();
    let text = "\
FROM localhost/box:1 AS first
ARG A
ARG FROM_ENV
RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=VARIABLE \\
    echo \"$A $FROM_ENV $(cat /run/secrets/file) $VARIABLE\" | tr -d - > /args
RUN --mount=type=cache,target=/c touch /c/cached; grep -c 'here.test' /etc/hosts > /hosts; ulimit -n > /files
RUN awk 'NR > 1' /proc/net/route > /routes
COPY --from=more one /one
FROM scratch
";
    let dir = context(&[("Dockerfile", text), ("secret", "a-secret-in-a-file"), ("further/one", "further")]);
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut command = w.command(&[
        "build",
        "-t",
        "app:1",
        "--target",
        "first",
        "--build-arg",
        "A=1",
        "--build-arg",
        "FROM_ENV",
        "--build-arg",
        "UNSET_ANYWHERE",
        "--secret",
        &format!("id=file,src={}", at("secret")),
        "--secret",
        "id=variable,env=OF_THE_TEST",
        "--build-context",
        &format!("more={}", at("further")),
        "--label",
        "of=the command line",
        "--label",
        "alone",
        "--add-host",
        "here.test:1.2.3.4",
        "--ulimit",
        "nofile=100:100",
        "--network",
        "none",
        "--cache-dir",
        &at("caches"),
        &at(""),
    ]);
    command.env("FROM_ENV", "environment").env("OF_THE_TEST", "a-secret-of-the-environment");
    let done = World::done(command, b"");
    assert_eq!(done.code, 0, "{}", done.err);
    let store = w.store();
    let image = store.image("app:1").unwrap();
    let read = |path: &str| std::io::read_to_string(image.open(path).unwrap()).unwrap();
    assert_eq!(read("/args"), "1 environment asecretinafile asecretoftheenvironment\n");
    assert_eq!(
        (read("/hosts"), read("/files"), read("/routes")),
        ("1\n".into(), "100\n".into(), String::new())
    );
    assert_eq!(read("/one"), "further");
    assert_eq!(count(at("caches")), 1);
    let config: Value = serde_json::from_str(image.config().json()).unwrap();
    assert_eq!(config["config"]["Labels"], json!({"of": "the command line", "alone": ""}));
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn flags_about_steps_reach_the_build() {
    let w = World::new();
    let built = |text: &str, flags: &[&str]| {
        let args = [&["build", "-t", "app:1"], flags, &["-f", "-", "."]].concat();
        w.given(&args, text.as_bytes())
    };
    let made = |text: &str, flags: &[&str]| {
        let done = built(text, flags);
        assert_eq!(done.code, 0, "{flags:?}: {}", done.err);
        w.store().image("app:1").unwrap()
    };
    let once = "FROM localhost/box:1\nRUN cat /proc/sys/kernel/random/uuid > /uuid\n";
    let first = *made(once, &[]).id();
    assert_eq!(*made(once, &[]).id(), first);
    let anew = *made(once, &["--no-cache"]).id();
    assert_ne!(anew, first);
    // With nothing left of the builds, the image is believed when it is named.
    w.ok(&["builder", "prune", "--all", "--force"]);
    assert_eq!(
        made(once, &["--cache-from", "app:1"]).config().diff_ids(),
        w.store().image("app:1").unwrap().config().diff_ids()
    );
    assert_eq!(made(once, &[]).config().diff_ids().len(), 2);

    assert_eq!(made("FROM scratch\nENV A=1\n", &["--platform", "linux/arm64"]).architecture(), "arm64");
    let insecure = "FROM localhost/box:1\nRUN --security=insecure true\n";
    let refused = built(insecure, &[]);
    assert!(refused.code != 0 && refused.err.contains("insecure"), "{}", refused.err);
    made(insecure, &["--allow", "security.insecure"]);
    let greedy = built(
        "FROM localhost/box:1\nRUN awk 'BEGIN { s = \"x\"; while (1) s = s s }'\n",
        &["--memory", "32m"],
    );
    assert!(greedy.code != 0 && greedy.err.contains("memory"), "{}", greedy.err);
    let socket = w.dir.path().join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let ssh = "FROM localhost/box:1\nRUN --mount=type=ssh,id=mine,required test -S \"$SSH_AUTH_SOCK\"\n";
    assert_ne!(built(ssh, &[]).code, 0);
    made(ssh, &["--ssh", &format!("mine={}", socket.display())]);
    let shown = built(once, &["--progress", "tty"]);
    assert!(shown.code == 0 && shown.out.contains("Successfully tagged app:1"), "{}{}", shown.out, shown.err);
    if cfg!(feature = "registry") {
        let never = built("FROM localhost/nowhere:1\n", &["--pull=never"]);
        assert!(never.code != 0 && never.err.contains("localhost/nowhere:1"), "{}", never.err);
    }
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_was_built_as_files() {
    let w = World::new();
    let text = "FROM scratch\nCOPY --from=localhost/box:1 /etc /etc\nCOPY --from=localhost/box:1 /srv /srv\nRUN [\"\"]\n".replace("RUN [\"\"]\n", "");
    let dir = context(&[("Dockerfile", &text)]);
    let dir = dir.path().to_str().unwrap();
    let at = |name: &str| w.dir.path().join(name).to_str().unwrap().to_owned();
    w.ok(&["build", "--output", &at("files"), dir]);
    assert_eq!(fs::read_to_string(at("files/etc/motd")).unwrap(), "ahoy\n");
    assert_eq!(fs::read_link(at("files/srv/link")).unwrap(), Path::new("file"));
    w.ok(&["build", "-o", &format!("type=tar,dest={}", at("files.tar")), dir]);
    assert!(peer("tar", ["-tf", &at("files.tar")]).contains("etc/motd"));
    let stdout = w.command(&["build", "-o", "-", dir]).output().unwrap();
    assert_eq!(stdout.stdout, fs::read(at("files.tar")).unwrap());
    assert!(text_of(&stdout.stderr).contains("Step 1/3 : FROM scratch"));
    for (kind, name) in [("oci", "oci.tar"), ("docker", "docker.tar")] {
        w.ok(&["build", "-t", "app:1", "-o", &format!("type={kind},dest={}", at(name)), dir]);
        let loaded = Image::load(&Store::temp().unwrap(), at(name)).unwrap().remove(0);
        assert_eq!(loaded.id(), w.store().image("app:1").unwrap().id(), "{kind}");
    }
    w.ok(&["build", "-o", "type=image,name=other:1", dir]);
    assert_eq!(w.store().image("other:1").unwrap().id(), w.store().image("app:1").unwrap().id());
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn nothing_of_it_is_executed_as_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let w = World::new();
    let text = "FROM localhost/box:1\nRUN cp /bin/busybox /suid && chmod 6755 /suid && mkdir /dir && chmod 2777 /dir\n";
    let dir = context(&[("Dockerfile", text)]);
    let at = |name: &str| w.dir.path().join("files").join(name);
    w.ok(&["build", "--output", at("").to_str().unwrap(), dir.path().to_str().unwrap()]);
    let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("suid"), mode("dir"), mode("tmp")), (0o755, 0o777, 0o1777));
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn failures_and_checks() {
    let w = World::new();
    let dir = context(&[(
        "Dockerfile",
        "FROM localhost/box:1\n# why\nRUN echo the reason && \\\n    exit 3\nRUN later\n",
    )]);
    let done = w.given(&["build", dir.path().to_str().unwrap()], b"");
    assert_eq!(done.code, 1);
    assert!(done.out.ends_with("the reason\n"), "{}", done.out);
    for part in ["coracle: line 3", "exit code 3", "^", "the reason"] {
        assert!(done.err.contains(part), "{}", done.err);
    }
    let checked = context(&[("Dockerfile", "FROM localhost/box:1 as Base\nWORKDIR here\nCMD echo\n")]);
    let done = w.given(&["build", "--check", checked.path().to_str().unwrap()], b"");
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.out.starts_with("Check complete, "), "{}", done.out);
    for rule in ["StageNameCasing", "FromAsCasing", "WorkdirRelativePath", "JSONArgsRecommended"] {
        assert!(
            done.out.contains(&format!("WARNING: {rule} - https://docs.docker.com/")),
            "{rule}: {}",
            done.out
        );
    }
    assert!(
        done.out.contains("Dockerfile:2\n") && done.out.contains("   2 | >>> WORKDIR here\n"),
        "{}",
        done.out
    );
    let good = context(&[("Dockerfile", "FROM localhost/box:1\nRUN no-such-program\n")]);
    assert_eq!(
        w.ok(&["build", "--check", good.path().to_str().unwrap()]),
        "Check complete, no warnings found.\n"
    );
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_limit_of_processes() {
    let w = World::new();
    let dir =
        context(&[("Dockerfile", "FROM localhost/box:1\nRUN for n in $(seq 60); do sleep 60 & done\n")]);
    let dir = dir.path().to_str().unwrap();
    let done = w.given(&["build", "--pids-limit", "50", dir], b"");
    assert!(done.code == 1 && done.err.contains("can't fork"), "{} {}", done.code, done.err);
    w.ok(&["build", dir]);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_is_left_is_pruned() {
    let w = World::new();
    let text = b"FROM localhost/box:1\nRUN --mount=type=cache,target=/c head -c 100000 /dev/urandom | tee /c/x > /x\n";
    assert_eq!(w.given(&["build", "-"], text).code, 0);
    assert!(
        w.ok(&["builder", "prune", "--filter", "until=24h"])
            .starts_with("Removed: 0 steps, 0 cache mounts\n")
    );
    assert!(w.ok(&["builder", "prune", "--keep-storage", "1g"]).starts_with("Removed: 0 steps"));
    let out = w.ok(&["builder", "prune", "-af"]);
    assert!(out.contains(", 1 cache mounts\n") && !out.contains("Removed: 0 steps"), "{out}");
    assert_eq!(w.given(&["builder", "prune", "--filter", "age=1"], b"").code, 125);
    w.ok(&["image", "prune", "--force"]);
    let again = w.given(&["build", "-"], text).out;
    assert!(!again.contains("Using cache"), "{again}");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn the_same_time_for_everything_from_the_environment() {
    let ids = [(), ()].map(|()| {
        let w = World::new();
        let mut command = w.command(&["build", "-q", "-"]);
        command.env("SOURCE_DATE_EPOCH", "1500000000");
        World::done(command, b"FROM localhost/box:1\nRUN echo x > /x\n").out
    });
    assert_eq!(ids[0], ids[1]);
    assert!(ids[0].starts_with("sha256:"));
    // A time that no clock has, and none at all.
    let w = World::new();
    for wrong in ["18446744073709551615", "-1", "now"] {
        let mut command = w.command(&["build", "-"]);
        command.env("SOURCE_DATE_EPOCH", wrong);
        let done = World::done(command, b"FROM scratch\nLABEL a=b\n");
        assert!(done.code == 125 && done.err.contains("SOURCE_DATE_EPOCH"), "{wrong}: {}", done.err);
    }
}
