//! A docker daemon of a test's own.

use super::{ends, eventually, peer, pidfd};
use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// With a directory of its own and no network; it ends with this.
pub struct Docker {
    daemon: Child,
    dir: tempfile::TempDir,
}

impl Docker {
    pub fn start() -> Self {
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

    fn args(&self, args: &[&str]) -> Vec<String> {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let own = ["--config".into(), at("config"), "-H".into(), format!("unix://{}", at("socket"))];
        own.into_iter().chain(args.iter().map(|&arg| arg.to_owned())).collect()
    }

    pub fn run(&self, args: &[&str]) -> String {
        peer("docker", self.args(args))
    }

    /// What may fail, or says what is no text.
    pub fn output(&self, args: &[&str]) -> Output {
        Command::new("docker").args(self.args(args)).stdin(Stdio::null()).output().unwrap()
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
