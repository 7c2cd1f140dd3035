//! The command line's `pull`, and what its `run` and `create` pull.

use super::*;
use std::fs::File;
use std::io::Read;
use std::process::{Command, Output};

/// A store of the program's own, which is emptied by it: what an ordinary user's layers have is not the user's to remove.
pub struct World(tempfile::TempDir);

pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl World {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("coracle-pull-").tempdir_in("/var/tmp").unwrap())
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let test = std::env::current_exe().unwrap();
        let program = test.parent().unwrap().parent().unwrap().join("examples/coracle");
        assert!(program.exists(), "{} is missing: cargo build --example coracle", program.display());
        let mut command = Command::new(program);
        command.arg("--root").arg(self.0.path().join("store")).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Done {
        Done::of(self.command(args))
    }

    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let Done { code, out, err } = self.run(args);
        assert_eq!(code, 0, "{out} {err}");
        out
    }
}

impl Done {
    pub fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (list, remove) in [(["ps", "-aq"], ["rm", "-f"]), (["images", "-q"], ["rmi", "-f"])] {
            let names = self.run(&list).out;
            let names: Vec<_> = names.lines().collect();
            if !names.is_empty() {
                self.run(&[&remove, &names[..]].concat());
            }
        }
    }
}

/// The beginning of a layer's digest, as it is shown.
fn short(content: &Content, at: usize) -> String {
    content.json("/v2/me/app/manifests/1")["layers"][at]["digest"].as_str().unwrap()[7..19].to_owned()
}

#[test]
fn pull_says_in_plain_lines_what_came() {
    let content = content(&["one", "two"]);
    let layers = [short(&content, 0), short(&content, 1)];
    let server = Server::honest(content);
    let (w, name) = (World::new(), server.name(NAME));
    let out = w.ok(&["pull", &name]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((lines[0], lines.len()), ("1: Pulling from me/app", 6), "{out}");
    for layer in &layers {
        assert!(lines[1..3].contains(&format!("{layer}: Pull complete").as_str()), "{out}");
    }
    let digest = w.ok(&["images", "--digests", "--format", "{{.Digest}}"]);
    assert_eq!(lines[3], format!("Digest: {}", digest.trim_end()));
    assert_eq!(lines[4], format!("Status: Downloaded newer image for {name}"));
    assert_eq!(lines[5], name);
    assert!(!out.contains('\x1b'), "no terminal is there: {out:?}");
    server.take_log();

    let again = w.ok(&["image", "pull", &name]);
    let status = format!("Status: Image is up to date for {name}\n");
    assert_eq!(again, format!("Digest: {digest}{status}{name}\n"));
    assert_eq!(w.ok(&["pull", "-q", &name]), format!("{name}\n"));
    assert_eq!(paths(&server.take_log()), ["HEAD /v2/me/app/manifests/1"; 2]);

    let done = w.run(&["pull", &server.name("me/app:none")]);
    assert_eq!((done.code, done.out.as_str()), (1, ""));
    assert!(done.err.contains("MANIFEST_UNKNOWN") && done.err.contains("me/app:none"), "{}", done.err);
    assert_eq!(w.run(&["pull"]).code, 125);
}

/// The two sides of a terminal of so many columns.
pub fn terminal(columns: u16) -> (File, File) {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    (master.into(), slave.into())
}

/// The lines that a terminal of so many columns shows in the end (console_codes(4)).
pub fn screen(columns: usize, shown: &str) -> Vec<String> {
    let (mut rows, mut row, mut column) = (vec![vec![' '; columns]], 0usize, 0usize);
    let mut chars = shown.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                assert_eq!(chars.next(), Some('['), "{shown:?}");
                let mut number = String::new();
                let verb = chars.by_ref().find(|c| match c {
                    '0'..='9' | '?' => {
                        number.push(*c);
                        false
                    }
                    _ => true,
                });
                let times = number.parse().unwrap_or(1);
                match verb {
                    Some('A') => row = row.saturating_sub(times),
                    Some('B') => row += times,
                    Some('C') => column += times,
                    Some('D') => column = column.saturating_sub(times),
                    Some('J') => {
                        rows.truncate(row + 1);
                        rows[row][column.min(columns)..].fill(' ');
                    }
                    Some('K') => rows[row][if number == "2" { 0 } else { column.min(columns) }..].fill(' '),
                    other => panic!("{other:?} {number}: {shown:?}"),
                }
            }
            c => {
                if column >= columns {
                    (row, column) = (row + 1, 0);
                }
                while rows.len() <= row {
                    rows.push(vec![' '; columns]);
                }
                rows[row][column] = c;
                column += 1;
            }
        }
        while rows.len() <= row {
            rows.push(vec![' '; columns]);
        }
    }
    let lines = rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned());
    let mut lines: Vec<_> = lines.collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

#[test]
fn on_a_terminal_each_layer_on_its_way_has_a_bar() {
    let content = Content::of(REPOSITORY, "1", &noise(600_000));
    let layer = short(&content, 0);
    let server = Server::honest(content);
    // Narrower than a bar, and wide enough.
    for columns in [40, 132] {
        let (w, name) = (World::new(), server.name(NAME));
        let (mut master, slave) = terminal(columns);
        let mut child = w.command(&["pull", &name]).env("TERM", "xterm").stdout(slave).spawn().unwrap();
        let mut shown = Vec::new();
        // The end is an error: nobody has the other side any more.
        let _ = master.read_to_end(&mut shown);
        assert!(child.wait().unwrap().success());
        let shown = String::from_utf8(shown).unwrap();
        assert!(
            shown.contains(&format!("{layer}: Downloading [                         ] 0B/")),
            "{shown:?}"
        );
        // Of the bars nothing stays: the lines are those that are there without a terminal.
        let lines = screen(columns.into(), &shown).concat();
        let digest = w.ok(&["images", "--digests", "--format", "{{.Digest}}"]);
        let plain = format!(
            "1: Pulling from me/app{layer}: Pull completeDigest: {}Status: Downloaded newer image for {name}{name}",
            digest.trim()
        );
        assert_eq!(lines, plain, "{shown:?}");
    }
}

#[test]
fn a_layer_that_is_there_is_told_as_such() {
    let (base, child) = (Fixture::new(&["base"]), Fixture::new(&["base", "child"]));
    let mut both = Content::of(REPOSITORY, "base", &base);
    let (media_type, manifest) = both.add(REPOSITORY, &child, gzip, "+gzip");
    both.manifest(REPOSITORY, "1", &media_type, manifest);
    let layers = [short(&both, 0), short(&both, 1)];
    let server = Server::honest(both);
    let w = World::new();
    w.ok(&["pull", "--quiet", &server.name("me/app:base")]);
    let out = w.ok(&["pull", &server.name(NAME)]);
    assert!(out.contains(&format!("{}: Already exists\n", layers[0])), "{out}");
    assert!(out.contains(&format!("{}: Pull complete\n", layers[1])), "{out}");
}

#[test]
fn pull_gets_the_machine_that_was_asked_for() {
    let mut content = Content::default();
    let listed: Vec<_> = ["amd64", "arm64"]
        .iter()
        .map(|architecture| {
            let image = Fixture::of_machine(vec![tar([("x", Node::File(b"y"))])], architecture);
            let (_, manifest) = content.add(REPOSITORY, &image, gzip, "+gzip");
            let digest = content.manifest(REPOSITORY, "none", MANIFEST, manifest.clone());
            let platform = json!({"os": "linux", "architecture": architecture});
            json!({"mediaType": MANIFEST, "digest": digest, "size": manifest.len(), "platform": platform})
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).to_string();
    content.manifest(REPOSITORY, "1", INDEX, index.into_bytes());
    let server = Server::honest(content);
    let (w, name) = (World::new(), server.name(NAME));
    for architecture in ["arm64", "amd64"] {
        w.ok(&["pull", "-q", "--platform", &format!("linux/{architecture}"), &name]);
        assert!(w.ok(&["image", "inspect", &name]).contains(&format!("{architecture:?}")));
    }
    // Another machine's under the name is not what is missing.
    server.take_log();
    w.ok(&["create", "-q", "--platform", "linux/amd64", &name, "x"]);
    assert_eq!(server.take_log().len(), 0);
    let wrong = w.run(&["pull", "--platform", "linux/riscv64", &name]);
    assert!(wrong.code == 1 && wrong.err.contains("riscv64"), "{}", wrong.err);
}

#[test]
fn a_digest_is_a_name() {
    let (server, index, _) = platforms::registry();
    let (w, name) = (World::new(), server.name(NAME));
    let (repository, by_digest) = (server.name(REPOSITORY), server.name(&format!("{REPOSITORY}@{index}")));
    let status = |status: &str, name: &str| format!("Status: {status} for {name}\n{name}\n");
    let out = w.ok(&["pull", &by_digest]);
    let end = format!("Digest: {index}\n{}", status("Downloaded newer image", &by_digest));
    assert!(out.ends_with(&end), "{out}");
    server.take_log();
    let again = w.ok(&["pull", &by_digest]);
    assert_eq!(again, format!("Digest: {index}\n{}", status("Image is up to date", &by_digest)));
    let format = "{{.Repository}} {{.Tag}} {{.Digest}}";
    let listed = || w.ok(&["images", "--digests", "--format", format]);
    assert_eq!(listed(), format!("{repository} <none> {index}\n"));
    let dangling = ["images", "-q", "--filter", "dangling=true"];
    assert_eq!(w.ok(&dangling).lines().count(), 1);
    let inspect = |name: &str| {
        let text = w.ok(&["image", "inspect", name]);
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[0].take()
    };
    let seen = inspect(&by_digest);
    assert_eq!((&seen["RepoTags"], &seen["RepoDigests"]), (&json!([]), &json!([by_digest])));
    let id = w.ok(&["create", "--pull", "never", &by_digest, "x"]);
    w.ok(&["rm", id.trim_end()]);
    assert_eq!(server.take_log().len(), 0);

    w.ok(&["tag", &by_digest, "mine:1"]);
    assert_eq!(w.ok(&["rmi", &by_digest]), format!("Untagged: {by_digest}\n"));
    assert!(w.ok(&["rmi", "mine:1"]).contains("Deleted: "));
    // A tag's image has the digest of what the tag leads to.
    let out = w.ok(&["pull", &name]);
    assert!(out.contains(&format!("\nDigest: {index}\n")), "{out}");
    assert_eq!(listed(), format!("{repository} 1 {index}\n"));
    let seen = inspect(&by_digest);
    assert_eq!((&seen["RepoTags"], &seen["RepoDigests"]), (&json!([name]), &json!([by_digest])));
    assert!(w.ok(&dangling).is_empty());
}

#[test]
fn run_and_create_pull_what_is_missing_or_as_they_are_told() {
    let server = Server::honest(content(&["one"]));
    let (w, name) = (World::new(), server.name(NAME));
    let never = w.run(&["run", "--pull", "never", &name, "x"]);
    assert_eq!((never.code, server.take_log().len()), (125, 0), "{}", never.err);
    // No program is in it, which is known when it was there to be looked into.
    let run = w.run(&["run", "--rm", &name, "/no/such/program"]);
    assert_eq!((run.code, run.out.as_str()), (127, ""), "{}", run.err);
    assert!(
        run.err.starts_with(&format!("Unable to find image '{name}' locally\n1: Pulling from")),
        "{}",
        run.err
    );
    assert!(run.err.contains("Pull complete\n"), "{}", run.err);
    assert_eq!(server.take_log().len(), 3);

    let id = w.ok(&["create", &name, "x"]);
    assert_eq!((id.trim_end().len(), server.take_log().len()), (64, 0), "{id}");
    w.ok(&["create", "--pull=always", "--quiet", &name, "x"]);
    assert_eq!(paths(&server.take_log()), ["HEAD /v2/me/app/manifests/1"]);
    assert_eq!(w.run(&["run", "--pull", "sometimes", &name, "x"]).code, 125);
    let nowhere = w.run(&["run", "-q", "127.0.0.1:1/me/app", "x"]);
    assert!(nowhere.code == 125 && nowhere.err.contains("127.0.0.1:1"), "{}", nowhere.err);
}

#[test]
fn mirrors_are_named_with_their_registry_or_without() {
    let image = Fixture::new(&["one"]);
    let mirror = Server::honest(Content::of(REPOSITORY, "1", &image));
    let origin = Server::honest(Content::of(REPOSITORY, "1", &image));
    let (w, name, there) = (World::new(), origin.name(NAME), mirror.authority());
    let registry = format!("{}={there}", origin.authority());
    w.ok(&["pull", "-q", "--mirror", &there, "--parallel=1", &name]);
    w.ok(&["create", "-q", "--pull=always", "--mirror", &registry, &name, "x"]);
    assert_eq!((mirror.take_log().len(), origin.take_log().len()), (4, 0));
    w.ok(&["pull", "-q", "--mirror", &format!("docker.io={there}"), &name]);
    assert_eq!((mirror.take_log().len(), origin.take_log().len()), (0, 1));
    for args in [["--parallel=0"], ["--parallel=x"], ["--mirror=docker.io/x"]] {
        let done = w.run(&[&["pull", &name], &args[..]].concat());
        assert!([1, 125].contains(&done.code) && origin.take_log().is_empty(), "{args:?} {}", done.err);
    }
}
