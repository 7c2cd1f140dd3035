//! What a build gets from elsewhere: bases from registries, files over HTTP, repositories of git.

use super::told::watched;
use super::*;
use coracle::ErrorKind;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BODY: &str = "from the network\n";
const MODIFIED: &str = "Fri, 14 Jul 2017 02:40:00 GMT";

/// A server of a few files, which notes who asked for what.
struct Web {
    authority: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = log.clone();
        // It ends with the program.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let noted = noted.clone();
                std::thread::spawn(move || {
                    let _ = answer(stream.unwrap(), &noted);
                });
            }
        });
        Self { authority, log }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn build(&self, rest: &str) -> Build {
        let text = format!(
            "FROM localhost/box:1\nADD {}\n",
            rest.replace("URL", &format!("http://{}", self.authority))
        );
        Build::empty().dockerfile_text(text)
    }
}

fn archive() -> Vec<u8> {
    gzip(&tar([("in/", Node::Dir), ("in/file", Node::File(b"archived"))]))
}

fn answer(mut stream: TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    log.lock().unwrap().push(first.clone());
    let (status, body, more) = match path.split('?').next().unwrap_or_default() {
        "/dir/file.txt" => ("200 OK", BODY.as_bytes().to_vec(), format!("Last-Modified: {MODIFIED}\r\n")),
        "/moved" => ("302 Found", Vec::new(), "Location: /dir/file.txt\r\n".to_owned()),
        "/loop" => ("302 Found", Vec::new(), "Location: /loop\r\n".to_owned()),
        "/to-file" => ("302 Found", Vec::new(), "Location: file:///etc/passwd\r\n".to_owned()),
        "/a.tar.gz" => ("200 OK", archive(), String::new()),
        "/short" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nshort")?;
            return stream.flush();
        }
        _ => ("404 Not Found", b"no such file".to_vec(), String::new()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n", body.len())?;
    if !first.starts_with("HEAD") {
        stream.write_all(&body)?;
    }
    stream.flush()
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn files_over_http() {
    let (store, web) = (bases::store(), Web::start());
    let file = |rest: &str, path: &str| {
        let image = web.build(rest).run(&store).unwrap_or_else(|error| panic!("{rest}: {error}"));
        seen::Seen::of_image(&image).file(path).map(str::to_owned)
    };
    let content = json!(BODY);
    // Nobody else's to read, as it is for docker.
    assert_eq!(file("URL/dir/file.txt /srv/", "/srv/file.txt"), Some(format!("file 600 0:0 {content}")));
    assert_eq!(file("URL/dir/file.txt /srv/name", "/srv/name"), Some(format!("file 600 0:0 {content}")));
    let both = file("--chmod=644 --chown=3:4 URL/dir/file.txt /srv/", "/srv/file.txt");
    assert_eq!(both, Some(format!("file 644 3:4 {content}")));
    assert_eq!(file("URL/moved /srv/as", "/srv/as"), Some(format!("file 600 0:0 {content}")));
    // An archive from there is a file, unless it is asked for otherwise.
    assert!(file("URL/a.tar.gz /srv/", "/srv/a.tar.gz").unwrap().starts_with("file 600 0:0 "));
    assert_eq!(
        file("--unpack=true URL/a.tar.gz /srv/", "/srv/in/file"),
        Some("file 644 0:0 \"archived\"".into())
    );
    let digest = coracle::Digest::of(BODY.as_bytes());
    assert!(file(&format!("--checksum={digest} URL/dir/file.txt /srv/sum"), "/srv/sum").is_some());
    assert!(store.verify().unwrap().is_sound());
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn files_over_http_that_are_not_what_they_should_be() {
    let (store, web) = (bases::store(), Web::start());
    let other = coracle::Digest::of(b"another");
    for rest in [
        &*format!("--checksum={other} URL/dir/file.txt /x"),
        "--checksum=sha256:12 URL/dir/file.txt /x",
        "URL/none /x",
        "URL/short /x",
        "URL/loop /x",
        "URL/to-file /x",
        "URL/ /x/",
        "http://127.0.0.1:1/x /x",
    ] {
        let error = web.build(rest).run(&store).unwrap_err();
        assert_eq!(error.position().map(|(line, _)| line), Some(2), "{rest}: {error}");
        assert!(store.verify().unwrap().is_sound());
        assert_eq!(count(store.path().join("tmp")), 0, "{rest}");
    }
}

/// The same content is the same step; what has a digest is not even asked for.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn files_over_http_are_found_again() {
    let (store, web) = (bases::store(), Web::start());
    web.build("URL/dir/file.txt /srv/").run(&store).unwrap();
    let (again, told) = watched(web.build("URL/dir/file.txt /srv/"), &store);
    again.unwrap();
    assert!(told::done(&told).is_empty());
    let digest = coracle::Digest::of(BODY.as_bytes());
    let with_sum = || web.build(&format!("--checksum={digest} URL/dir/file.txt /sum"));
    with_sum().run(&store).unwrap();
    web.take();
    let (again, told) = watched(with_sum(), &store);
    again.unwrap();
    assert!(told::done(&told).is_empty());
    assert_eq!(web.take(), [""; 0]);
}

/// Serves the repositories of a directory; ends with this.
struct Git {
    daemon: Child,
    port: u16,
    _port: Reserved,
}

impl Git {
    fn start(dir: &Path) -> Self {
        let reserved = Reserved::new();
        let port = reserved.address.port();
        let mut command = Command::new("git");
        command.args([
            "daemon",
            "--export-all",
            "--reuseaddr",
            "--listen=127.0.0.1",
            &format!("--port={port}"),
        ]);
        command.arg(format!("--base-path={}", dir.display())).arg(dir);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = command.spawn().unwrap_or_else(|error| panic!("git: {error}; this test needs it"));
        eventually("git daemon listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { daemon, port, _port: reserved }
    }
}

impl Drop for Git {
    fn drop(&mut self) {
        let process = pidfd(self.daemon.id() as i32);
        let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::TERM);
        let _ = self.daemon.wait();
    }
}

/// A server that says nothing, or one byte after the other of an answer without an end, as long as it is listened to.
struct Slow(String);

impl Slow {
    fn start(drips: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        // It ends with the program.
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().map(Result::unwrap) {
                match drips {
                    true => _ = std::thread::spawn(move || drip(stream)),
                    false => held.push(stream),
                }
            }
        });
        Self(authority)
    }
}

fn drip(mut stream: TcpStream) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 4000000\r\n\r\n")?;
    loop {
        stream.write_all(b" ")?;
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Fails when its time is up, long before anybody else would lose patience.
#[track_caller]
fn is_late(build: &Build, store: &Store, line: usize) {
    let ended = |seconds| {
        let (build, place) = (build.clone().timeout(Duration::from_secs(seconds)), store.clone());
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(build.run(&place)));
        ended.recv_timeout(Duration::from_secs(60)).expect("it waits still").unwrap_err()
    };
    // On a busy machine the first may be over before that line is come to.
    let mut errors = [1, 5, 25].into_iter().map(ended);
    let is_of_line = |error: &coracle::Error| error.position().is_some_and(|(at, _)| at == line);
    let error = errors.find(is_of_line).expect("no error of that line");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(error.position().map(|(line, _)| line), Some(line), "{error}");
    assert!(error.to_string().contains("the build's time is up"), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("Build::timeout")), "{error}");
    assert_eq!(count(store.path().join("tmp")), 0, "{error}");
    assert!(store.verify().unwrap().is_sound());
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_file_whose_server_never_ends() {
    let store = bases::store();
    for drips in [false, true] {
        let Slow(authority) = Slow::start(drips);
        for flags in ["", "--unpack=true", &format!("--checksum={}", coracle::Digest::of(b"x"))] {
            let text = format!("FROM localhost/box:1\nADD {flags} http://{authority}/file /x\n");
            is_late(&Build::empty().dockerfile_text(text), &store, 2);
        }
    }
}

/// A program that waits for a server leaves nobody behind who waits for it.
#[test]
#[ignore = "needs busybox and git: run with --include-ignored"]
fn a_repository_whose_server_says_nothing() {
    const STORE: &str = "CORACLE_TEST_STORE";
    const URL: &str = "CORACLE_TEST_URL";
    let build = |url: &str| Build::empty().dockerfile_text(format!("FROM scratch\nADD {url} /x\n"));
    if let Some(store) = std::env::var_os(STORE) {
        build(&std::env::var(URL).unwrap()).run(&Store::open(store).unwrap()).unwrap();
        return;
    }
    let (dir, listener) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let path = dir.path().join("store");
    let url = format!("git://{}/silent.git", listener.local_addr().unwrap());
    let hears_the_end = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    };
    let vars = [(STORE, path.as_os_str()), (URL, url.as_ref())];
    let mut program = child("remote::a_repository_whose_server_says_nothing", &vars)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let asked = listener.accept().unwrap().0;
    program.kill().unwrap();
    program.wait().unwrap();
    hears_the_end(asked);
    // Nor does it take longer than it may.
    let build = build(&url).timeout(Duration::from_secs(2));
    let store = Store::open(&path).unwrap();
    let failed = std::thread::scope(|scope| {
        let failed = scope.spawn(|| build.run(&store).unwrap_err());
        hears_the_end(listener.accept().unwrap().0);
        failed.join().unwrap()
    });
    assert_eq!(failed.kind(), ErrorKind::TimedOut, "{failed}");
    assert_eq!(count(path.join("tmp")), 0);
}

#[test]
#[ignore = "needs busybox and git: run with --include-ignored"]
fn a_submodule_is_no_repository_of_this_host() {
    let dir = tempfile::tempdir().unwrap();
    let (private, repository) = (dir.path().join("private"), dir.path().join("app.git"));
    let git = |at: &Path, args: &[&str]| {
        let own = ["-C", at.to_str().unwrap(), "-c", "user.name=me", "-c", "user.email=me@example.org"];
        peer("git", own.iter().chain(args)).trim().to_owned()
    };
    for at in [&private, &repository] {
        fs::create_dir(at).unwrap();
        git(at, &["init", "--quiet", "--initial-branch=main"]);
        write(at, "file", "canary-of-the-host");
        git(at, &["add", "."]);
        git(at, &["commit", "--quiet", "-m", "first"]);
    }
    let commit = git(&private, &["rev-parse", "HEAD"]);
    let (served, store) = (Git::start(dir.path()), bases::store());
    for url in [private.display().to_string(), format!("file://{}", private.display())] {
        write(&repository, ".gitmodules", &format!("[submodule \"s\"]\n\tpath = s\n\turl = {url}\n"));
        git(&repository, &["add", ".gitmodules"]);
        git(&repository, &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},s")]);
        git(&repository, &["commit", "--quiet", "-m", &url]);
        let text = format!("FROM scratch\nADD git://127.0.0.1:{}/app.git /app\n", served.port);
        let error = Build::empty().dockerfile_text(text).run(&store).unwrap_err();
        assert!(error.to_string().contains("transport 'file' not allowed"), "{url}: {error}");
    }
    assert_eq!(count(store.path().join("tmp")), 0);
}

#[test]
#[ignore = "needs busybox and git: run with --include-ignored"]
fn repositories_of_git() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("app.git");
    fs::create_dir(&repository).unwrap();
    let git = |args: &[&str]| {
        let own =
            ["-C", repository.to_str().unwrap(), "-c", "user.name=me", "-c", "user.email=me@example.org"];
        peer("git", own.iter().chain(args)).trim().to_owned()
    };
    git(&["init", "--quiet", "--initial-branch=main"]);
    write(&repository, "one", "first");
    write(&repository, "sub/two", "two");
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "first"]);
    let first = git(&["rev-parse", "HEAD"]);
    git(&["tag", "v1"]);
    write(&repository, "one", "second");
    git(&["commit", "--quiet", "-a", "-m", "second"]);
    let (served, store) = (Git::start(dir.path()), bases::store());
    let url = format!("git://127.0.0.1:{}/app.git", served.port);
    let built = |flags: &str, fragment: &str| {
        let text = format!("FROM localhost/box:1\nADD {flags} {url}{fragment} /app\n");
        let image = Build::empty().dockerfile_text(text).run(&store);
        seen::Seen::of_image(&image.unwrap_or_else(|error| panic!("{fragment}: {error}")))
    };
    let content = |fragment: &str, path: &str| {
        let seen = built("", fragment);
        assert!(!seen.files().any(|path| path.starts_with("/app/.git")), "{fragment}");
        seen.file(path).map(|line| line.rsplit(' ').next().unwrap().to_owned())
    };
    assert_eq!(content("", "/app/one").as_deref(), Some("\"second\""));
    assert_eq!(content("#v1", "/app/one").as_deref(), Some("\"first\""));
    assert_eq!(content(&format!("#{first}"), "/app/one").as_deref(), Some("\"first\""));
    assert_eq!(content("#main:sub", "/app/two").as_deref(), Some("\"two\""));
    assert!(built("--keep-git-dir=true", "#v1").files().any(|path| path.starts_with("/app/.git/")));
    let text = format!("FROM localhost/box:1\nADD {url}#none /app\n");
    let error = Build::empty().dockerfile_text(text).run(&store).unwrap_err();
    assert_eq!(error.position().map(|(line, _)| line), Some(2), "{error}");
}

#[cfg(feature = "registry")]
mod registry {
    use super::*;
    use coracle::{Access, BuildEvent, ErrorKind, PullPolicy, Push, Registry};

    /// A store as a registry, with the image to build on.
    fn served() -> (coracle::Registry, String) {
        let there = Store::temp().unwrap();
        bases::fill(&there);
        let registry = Registry::builder().anonymous(Access::Write).serve(&there, "127.0.0.1:0").unwrap();
        let name = format!("{}/bases/box:1", registry.addr());
        let from = bases::store();
        from.image(bases::BOX).unwrap().tag(&name).unwrap();
        Push::new(&name).run(&from.image(&name).unwrap()).unwrap();
        (registry, name)
    }

    #[test]
    #[ignore = "needs busybox: run with --include-ignored"]
    fn a_base_that_is_missing_is_pulled() {
        let (registry, name) = served();
        let store = Store::temp().unwrap();
        let text = format!(
            "FROM {name} AS unused\nFROM {name}\nRUN echo on it > /srv/made\nCOPY --from={name} /etc/motd /srv/\n"
        );
        let pulls = Arc::new(Mutex::new(0));
        let told = pulls.clone();
        let build = Build::empty().dockerfile_text(text).on_event(move |event| {
            if let BuildEvent::Pull { .. } = event {
                *told.lock().unwrap() += 1;
            }
        });
        assert_eq!(
            build.clone().pull(PullPolicy::Never).run(&store).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        let image = build.run(&store).unwrap();
        assert!(*pulls.lock().unwrap() > 0);
        assert_eq!(say(&sh(&image, "cat /srv/made /srv/motd")), "on it\nahoy");
        // It is there now, and nobody is asked.
        drop(registry);
        *pulls.lock().unwrap() = 0;
        assert_eq!(build.run(&store).unwrap().id(), image.id());
        assert_eq!(*pulls.lock().unwrap(), 0);
        assert!(build.pull(PullPolicy::Always).run(&store).is_err());
    }

    /// However long the registry may be silent: the time is the build's.
    #[test]
    #[ignore = "needs busybox: run with --include-ignored"]
    fn a_base_whose_registry_never_ends() {
        let store = bases::store();
        let build = |text: String| {
            let day = Duration::from_secs(86_400);
            Build::empty().dockerfile_text(text).pull_with(move |pull| pull.patience(day).retries(20))
        };
        for drips in [false, true] {
            let Slow(authority) = Slow::start(drips);
            let name = format!("{authority}/a/base:1");
            is_late(&build(format!("FROM {name}\n")), &store, 1);
            is_late(&build(format!("FROM localhost/box:1\nCOPY --from={name} /x /x\n")), &store, 2);
            is_late(
                &build(format!("FROM localhost/box:1\nRUN --mount=from={name},target=/x true\n")),
                &store,
                2,
            );
            // Two stages, of which one waits for the other's pull.
            let text = format!("FROM {name} AS one\nFROM {name}\nCOPY --from=one /x /x\n");
            let error = build(text).timeout(Duration::from_millis(500)).run(&store).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        }
    }

    /// A program that keeps credentials, and waits for somebody who is not there.
    #[test]
    #[ignore = "needs busybox: run with --include-ignored"]
    fn a_base_whose_credentials_never_come() {
        const NAME: &str = "CORACLE_TEST_NAME";
        if let Some(name) = std::env::var_os(NAME) {
            let text = format!("FROM {}\n", name.to_str().unwrap());
            is_late(&Build::empty().dockerfile_text(text), &Store::temp().unwrap(), 1);
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map(Result::unwrap) {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
                let asks = "WWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close";
                let _ = write!(stream, "HTTP/1.1 401 Unauthorized\r\n{asks}\r\n\r\n");
            }
        });
        let dir = context(&[("config.json", &json!({"credHelpers": {&authority: "silent"}}).to_string())]);
        program(&dir.path().join("docker-credential-silent"), "#!/bin/sh\nexec sleep 1000\n");
        let name = format!("{authority}/a/base:1");
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let vars =
            [(NAME, name.as_ref()), ("DOCKER_CONFIG", dir.path().as_os_str()), ("PATH", path.as_ref())];
        let mut again = child("remote::registry::a_base_whose_credentials_never_come", &vars);
        again.env_remove("REGISTRY_AUTH_FILE");
        passes(again);
    }

    /// Of two programs that want the same image, one waits for the other; no longer than it may.
    #[test]
    #[ignore = "needs busybox: run with --include-ignored"]
    fn a_base_that_another_program_pulls_for_ever() {
        const NAME: &str = "CORACLE_TEST_NAME";
        const PLACE: &str = "CORACLE_TEST_STORE";
        if let Some(name) = std::env::var_os(NAME) {
            let store = Store::open(std::env::var_os(PLACE).unwrap()).unwrap();
            coracle::Pull::new(name.to_str().unwrap()).run(&store).unwrap();
            return;
        }
        let store = bases::store();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = format!("{}/a/base:1", listener.local_addr().unwrap());
        let vars = [(NAME, name.as_ref()), (PLACE, store.path().as_os_str())];
        let mut other = child("remote::registry::a_base_that_another_program_pulls_for_ever", &vars)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It asks, so it has the name.
        let asked = listener.accept().unwrap();
        is_late(&Build::empty().dockerfile_text(format!("FROM {name}\n")), &store, 1);
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "the second one asks, too");
        other.kill().unwrap();
        other.wait().unwrap();
        drop(asked);
    }

    #[test]
    #[ignore = "needs busybox: run with --include-ignored"]
    fn a_base_that_has_changed_is_pulled_when_asked_for() {
        let (registry, name) = served();
        let store = Store::temp().unwrap();
        let build =
            || Build::empty().dockerfile_text(format!("FROM {name}\nRUN cat /etc/motd > /srv/made\n"));
        let first = build().run(&store).unwrap();
        let changed =
            Build::empty().dockerfile_text(format!("FROM {name}\nRUN echo changed > /etc/motd\n")).tag(&name);
        let other = Store::temp().unwrap();
        Push::new(&name).run(&changed.run(&other).unwrap()).unwrap();
        assert_eq!(build().run(&store).unwrap().id(), first.id());
        let second = build().pull(PullPolicy::Always).run(&store).unwrap();
        assert_eq!(say(&sh(&second, "cat /srv/made")), "changed");
        drop(registry);
    }
}
