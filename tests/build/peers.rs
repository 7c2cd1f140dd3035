//! What was built or committed runs where others run it, and travels unchanged.

use super::common::podman::Podman;
use super::*;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const TEXT: &str = "\
FROM localhost/box:1
RUN mkdir /app && echo made by RUN > /app/made && chown 1000:1000 /app && rm -r /opt/kept
COPY --chmod=755 tool /usr/local/bin/
WORKDIR /app
ENV GREETING=ahoy
USER alice
ENTRYPOINT [\"tool\"]
CMD [\"default\"]
";
const TOOL: &str = "#!/bin/sh\necho \"$GREETING $1 from $(pwd) as $(id -un)\"\ncat made\nls /opt\n";
const SAYS: &str = "ahoy default from /app as alice\nmade by RUN\nagain\n";
const SAYS_COMMITTED: &str = "ahoy default from /app as alice\nmade by RUN\nand committed\nagain\n";

/// What a container of the image changes before it is committed.
const CHANGE: &str =
    "cp made new && echo and committed >> new && mv -f new made && rm -r /app/none 2>&1; echo x > here";

struct Made {
    image: Image,
    name: &'static str,
    says: &'static str,
}

/// One that was built, one that was committed of it, and an archive of both that everybody loads.
fn made(store: &Store, dir: &Path) -> ([Made; 2], String) {
    let context = context(&[("Dockerfile", TEXT), ("tool", TOOL)]);
    let built = Build::context(context.path()).tag("localhost/built:1").run(store).unwrap();
    let container = sh(&built, CHANGE).entrypoint([] as [&str; 0]).create().unwrap();
    container.start().unwrap();
    container.wait().unwrap();
    let commit = container.committing().name("localhost/committed:1");
    let committed = commit.change("ENTRYPOINT [\"tool\"]").change("CMD [\"default\"]").run().unwrap();
    container.remove().unwrap();
    let archive = dir.join("made.tar");
    let save = coracle::Save::new().image(&built).unwrap().image(&committed).unwrap();
    save.write(fs::File::create(&archive).unwrap()).unwrap();
    let made = [
        Made { image: built, name: "localhost/built:1", says: SAYS },
        Made { image: committed, name: "localhost/committed:1", says: SAYS_COMMITTED },
    ];
    (made, archive.to_str().unwrap().to_owned())
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn it_runs_here() {
    let store = bases::store();
    let dir = tempfile::tempdir().unwrap();
    let (made, archive) = made(&store, dir.path());
    // And from its archive in a store that never saw the base.
    let elsewhere = Store::temp().unwrap();
    Image::load(&elsewhere, archive).unwrap();
    for Made { image, name, says } in made {
        let loaded = elsewhere.image(name).unwrap();
        assert_eq!(loaded.id(), image.id());
        for image in [image, loaded] {
            let out = coracle::Container::builder(&image).run().unwrap();
            assert_eq!(out.stdout_text(), says, "{}", out.stderr_text());
        }
    }
}

#[test]
#[ignore = "needs root, busybox and podman: run with --include-ignored"]
fn podman_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let (made, archive) = made(&bases::store(), dir.path());
    let podman = Podman::new();
    podman.run(&["load", "--quiet", "--input", &archive]);
    // Without the limits that it would raise above this process's own.
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let run = ["--cgroup-manager", "cgroupfs", "run", "--rm", "--network", "none"];
    for Made { image, name, says } in made {
        assert_eq!(podman.inspect("{{.Id}}", name), image.id().hex());
        assert_eq!(podman.run(&[&run[..], &limits, &[name]].concat()), says);
    }
    podman.clear();
}

#[test]
#[ignore = "needs root, busybox, umoci and runc: run with --include-ignored"]
fn runc_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = bases::store();
    let (made, _) = made(&store, dir.path());
    for (number, Made { name, says, .. }) in made.into_iter().enumerate() {
        let at = |name: &str| dir.path().join(format!("{name}-{number}")).to_str().unwrap().to_owned();
        // From the store itself, which is a layout.
        peer("umoci", ["unpack", "--image", &format!("{}:{name}", store.path().display()), &at("bundle")]);
        let path = Path::new(&at("bundle")).join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["rlimits"] = json!([]);
        fs::write(path, config.to_string()).unwrap();
        let name = format!("coracle-made-{}-{number}", std::process::id());
        assert_eq!(peer("runc", ["--root", &at("runc"), "run", "--bundle", &at("bundle"), &name]), says);
    }
}

/// A docker daemon of the test's own.
struct Docker {
    daemon: Child,
    dir: tempfile::TempDir,
}

impl Docker {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("coracle-docker-").tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["-H", &format!("unix://{}", at("socket"))]);
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        let log = fs::File::create(at("log")).unwrap();
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = command.spawn().unwrap_or_else(|error| panic!("dockerd: {error}; this test needs it"));
        let mut docker = Self { daemon, dir };
        let socket = docker.dir.path().join("socket");
        eventually("dockerd listens", || {
            let ended = docker.daemon.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(docker.dir.path().join("log")).unwrap());
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        docker
    }

    fn run(&self, args: &[&str]) -> String {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        peer(
            "docker",
            [&["--config", &at("config"), "-H", &format!("unix://{}", at("socket"))], args].concat(),
        )
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It has mounts to take down.
        let process = pidfd(self.daemon.id() as i32);
        let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::TERM);
        if !ends(&process, Duration::from_secs(30)) {
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
    }
}

#[test]
#[ignore = "needs root, busybox and docker: run with --include-ignored"]
fn docker_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let (made, archive) = made(&bases::store(), dir.path());
    let docker = Docker::start();
    docker.run(&["load", "--quiet", "--input", &archive]);
    for Made { image, name, says } in made {
        let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", name]);
        assert_eq!(id.trim(), image.id().to_string());
        assert_eq!(docker.run(&["run", "--rm", "--network", "none", name]), says);
    }
    // What it shows of how it came to be.
    let lines = docker.run(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "localhost/built:1"]);
    assert_eq!(lines.lines().count(), 8, "{lines}");
    assert!(lines.starts_with("CMD [\"default\"]\n"), "{lines}");
}

#[cfg(feature = "registry")]
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn it_is_pushed_and_pulled_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let store = bases::store();
    let ([Made { image, .. }, committed], _) = made(&store, dir.path());
    let registry = coracle::Registry::builder().anonymous(coracle::Access::Write);
    let there = Store::temp().unwrap();
    let serving = registry.serve(&there, "127.0.0.1:0").unwrap();
    let name = format!("{}/me/built:1", serving.addr());
    image.tag(&name).unwrap();
    coracle::Push::new(&name).run(&store.image(&name).unwrap()).unwrap();
    let other = Store::temp().unwrap();
    let pulled = Image::pull(&other, &name).unwrap();
    assert_eq!(pulled.id(), image.id());
    assert_eq!(pulled.config().json(), image.config().json());
    assert_eq!(coracle::Container::builder(&pulled).run().unwrap().stdout_text(), SAYS);
    // So does one that was committed.
    let other_name = format!("{}/me/committed:1", serving.addr());
    committed.image.tag(&other_name).unwrap();
    coracle::Push::new(&other_name).run(&store.image(&other_name).unwrap()).unwrap();
    let pulled_too = Image::pull(&Store::temp().unwrap(), &other_name).unwrap();
    assert_eq!(
        (pulled_too.id(), pulled_too.config().json()),
        (committed.image.id(), committed.image.config().json())
    );
    assert_eq!(coracle::Container::builder(&pulled_too).run().unwrap().stdout_text(), SAYS_COMMITTED);
    // Pulled, it is a cache as well, where it is said to be one: of what made it nothing is done again.
    let context = context(&[("Dockerfile", TEXT), ("tool", TOOL)]);
    bases::fill(&other);
    let (again, told) = told::watched(Build::context(context.path()).cache_from(&name), &other);
    assert_eq!(again.unwrap().config().diff_ids(), image.config().diff_ids());
    let works =
        told.iter().filter(|told| told.step.text.starts_with("RUN") || told.step.text.starts_with("COPY"));
    assert!(works.clone().count() == 2 && works.clone().all(|told| told.is_cached));
}
