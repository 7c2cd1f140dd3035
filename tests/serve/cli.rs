//! The command line's `serve`.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/coracle");
    assert!(program.exists(), "{} is missing: cargo build --example coracle", program.display());
    program
}

/// `coracle serve`, which is killed with this.
pub struct Serving {
    child: Child,
    pub addr: SocketAddr,
    /// `http://127.0.0.1:PORT`
    pub url: String,
}

impl Serving {
    pub fn start(store: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.arg("--root").arg(store).args(["serve", "--listen", "127.0.0.1:0"]).args(args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim_end().rsplit(' ').next().unwrap().to_owned();
        let addr = url.split("://").nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        Self { child, addr, url }
    }

    pub fn end(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn coracle(store: &Path, args: &[&str]) -> String {
    peer(program().to_str().unwrap(), [&["--root", store.to_str().unwrap()], args].concat())
}

/// A store that a program of the test's has, in a directory that a container's writable layer could lie in.
fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("coracle-serve-").tempdir_in("/var/tmp").unwrap()
}

#[test]
fn a_store_is_served_until_a_signal_ends_it() {
    let dir = directory();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("hello"), "hello").unwrap();
    coracle(&here, &["import", root.to_str().unwrap(), "me/app:1"]);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let serving = Serving::start(&here, &[]);
        assert!(serving.url.starts_with("http://127.0.0.1:"));
        let name = format!("{}/me/app:1", serving.addr);
        assert_eq!(coracle(&there, &["pull", "-q", &name]), format!("{name}\n"));
        let content = b"a blob";
        let path = format!("/v2/me/app/blobs/uploads/?digest={}", Digest::of(content));
        ask(serving.addr, "POST", &path, &[], content).expect(201);
        assert!(serving.end(signal).success());
        assert_eq!(count(here.join("tmp")), 0);
    }
    let serving = Serving::start(&here, &["--read-only", "--prefix", "docker.io/me"]);
    ask(serving.addr, "GET", "/v2/app/manifests/1", &[], b"").expect(200);
    ask(serving.addr, "DELETE", "/v2/app/manifests/1", &[], b"").expect(405);
}

/// Pushes an image as far as anybody listens.
fn try_push(addr: SocketAddr, image: &Fixture, tag: &str) -> Option<()> {
    let say = |head: String, body: &[u8]| {
        let mut connection = Connection::try_to(addr)?;
        connection
            .send(format!("{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len()));
        connection.send(body);
        connection.answer(false)
    };
    for blob in image.layers.iter().chain([&image.config]) {
        say(format!("POST /v2/me/app/blobs/uploads/?digest={}", Digest::of(blob)), blob)?.expect(201);
    }
    say(format!("PUT /v2/me/app/manifests/{tag}"), manifest_of(image).to_string().as_bytes())?.expect(201);
    Some(())
}

#[test]
fn a_server_that_is_killed_leaves_no_image_and_its_uploads_are_swept() {
    let dir = directory();
    let store = dir.path().join("store");
    let image = Fixture::new(&["one"]);
    let mut whole = 0;
    for round in 0..10 {
        let serving = Serving::start(&store, &[]);
        let addr = serving.addr;
        let place = ask(addr, "POST", "/v2/me/app/blobs/uploads/", &[], b"").expect(202);
        ask(addr, "PATCH", place.header("location").unwrap(), &[], b"half of it").expect(202);
        // Killed somewhere in a push, or after it.
        let killer = std::thread::spawn(move || {
            std::thread::park_timeout(std::time::Duration::from_millis(round * 4));
            drop(serving);
        });
        whole += usize::from(try_push(addr, &image, &format!("r{round}")).is_some());
        killer.join().unwrap();
        let store = Store::open(&store).unwrap();
        assert_eq!(count(store.path().join("tmp")), 0);
        let found = store.verify().unwrap();
        assert!(found.is_sound(), "{:?}", found.problems);
        assert!(store.broken_images().unwrap().is_empty());
    }
    assert!(whole < 10, "none was killed in time");
    let again = Serving::start(&store, &[]);
    ask(again.addr, "GET", "/v2/", &[], b"").expect(200);
}

#[test]
fn what_can_t_be_served_is_said() {
    let dir = directory();
    let store = dir.path().join("store");
    let file = dir.path().join("file");
    std::fs::write(&file, "me:plain\n").unwrap();
    let file = file.to_str().unwrap();
    for (args, says) in [
        (&["--listen", "0.0.0.0:0"][..], "nothing says who may do what"),
        (&["--htpasswd", file], "line 1: not hashed with bcrypt"),
        (&["--htpasswd", "/nowhere"], "--htpasswd /nowhere"),
        (&["--tls-cert", file], "--tls-cert and --tls-key go together"),
        (&["--tls-cert", file, "--tls-key", file], "private key"),
        (&["--anonymous", "all"], "none, read or write"),
        (&["--prefix", "NO//"], "prefix of names"),
        (&["--listen", "nowhere"], "nowhere"),
    ] {
        let mut command = Command::new(program());
        let output =
            command.arg("--root").arg(&store).arg("serve").args(args).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(says), "{args:?}: {text}");
    }
}
