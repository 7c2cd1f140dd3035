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

/// Who may do what: nothing, pull, push.
fn rights(name: &str, ca: Option<&[u8]>, credentials: coracle::Credentials, image: &Image) -> [bool; 2] {
    let mut pull = Pull::new(name).retries(0).credentials(credentials.clone());
    let mut push = coracle::Push::new(name).retries(0).credentials(credentials);
    if let Some(ca) = ca {
        (pull, push) = (pull.root_certificates(ca), push.root_certificates(ca));
    }
    let allowed = |result: coracle::Result<()>| match result {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            false
        }
        Ok(()) => true,
    };
    // First the push, so that there is what may be pulled.
    let may_push = allowed(push.run(image).map(drop));
    [allowed(pull.run(&Store::temp().unwrap()).map(drop)), may_push]
}

#[test]
#[ignore = "needs htpasswd and openssl: run with --include-ignored"]
fn who_may_do_what_is_said_on_the_command_line() {
    use coracle::Credentials;
    let dir = directory();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    common::certificates::certificates(dir.path());
    std::fs::write(at("users"), peer("htpasswd", ["-nbB", "me", "secret-word"])).unwrap();
    let ca = std::fs::read(at("ca.pem")).unwrap();
    let store = Store::open(at("image")).unwrap();
    let archive = docker_archive(&[(&Fixture::new(&["one"]), &["app:1"])]);
    let image = Image::load_reader(&store, &archive[..]).unwrap().remove(0);
    let (users, cert, key) = (at("users"), at("server.pem"), at("server.key"));
    let with_users = ["--htpasswd", &users];
    let with_tls = ["--tls-cert", &cert, "--tls-key", &key];
    // Who has the password, a wrong one, and none; each may pull, and push. Where nobody asks for it, a wrong one is not told.
    for (args, me, other, nobody) in [
        (&[][..], [true, true], [true, true], [true, true]),
        (&with_users, [true, true], [false, false], [false, false]),
        (&[&with_users[..], &["--anonymous", "none"]].concat(), [true, true], [false, false], [false, false]),
        (&[&with_users[..], &["--anonymous", "read"]].concat(), [true, true], [true, false], [true, false]),
        (&[&with_users[..], &["--anonymous", "write"]].concat(), [true, true], [true, true], [true, true]),
        (&["--anonymous", "write"], [true, true], [true, true], [true, true]),
    ] {
        for tls in [false, true] {
            let args = if tls { [args, &with_tls].concat() } else { args.to_vec() };
            let serving = Serving::start(Path::new(&at("served")), &args);
            assert_eq!(serving.url.starts_with("https://"), tls, "{}", serving.url);
            let name = format!("{}/me/app:1", serving.addr);
            let ca = tls.then_some(&ca[..]);
            let who = |credentials| rights(&name, ca, credentials, &image);
            assert_eq!(who(Credentials::basic("me", "secret-word")), me, "{args:?}");
            let has_users = args.contains(&"--htpasswd");
            if has_users {
                assert_eq!(who(Credentials::basic("me", "another-word")), other, "{args:?}");
            }
            assert_eq!(who(Credentials::anonymous()), nobody, "{args:?}");
        }
    }
}

/// In a network of its own, where nobody else is: passwords of other machines are taken without TLS only where that is said.
#[test]
#[ignore = "needs htpasswd: run with --include-ignored"]
fn passwords_of_other_machines_come_by_tls_unless_it_is_said_otherwise() {
    let dir = directory();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("users"), peer("htpasswd", ["-nbB", "me", "secret-word"])).unwrap();
    let start = |more: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "--kill-child", "--fork"]).arg(program());
        command.args(["--root", &at("store"), "serve", "--listen", "0.0.0.0:0", "--htpasswd", &at("users")]);
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let refused = start(&[]).wait_with_output().unwrap();
    let says = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && says.contains("would travel in the clear"), "{says}");
    let mut serving = start(&["--plain-http"]);
    let mut line = String::new();
    BufReader::new(serving.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // It and what it has started.
    serving.kill().unwrap();
    serving.wait().unwrap();
    assert!(line.contains("http://0.0.0.0:"), "{line:?}");
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
