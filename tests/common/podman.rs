//! A podman with a directory of its own.

use super::peer;

pub struct Podman {
    dir: tempfile::TempDir,
}

impl Podman {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn run(&self, args: &[&str]) -> String {
        let at = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let (root, run) = (at("root"), at("run"));
        // An ordinary user's podman leaves a process that holds its user namespace, for the next one: here our own.
        let runtime = format!("XDG_RUNTIME_DIR={}", self.dir.path().display());
        let own = [&runtime, "podman", "--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        peer("env", own.iter().chain(args))
    }

    /// What it says of an image.
    pub fn inspect(&self, format: &str, image: &str) -> String {
        self.run(&["image", "inspect", "--format", format, image]).trim().to_owned()
    }

    /// Removes all, and ends that process.
    pub fn clear(&self) {
        self.run(&["rmi", "--all", "--force"]);
        self.run(&["system", "migrate"]);
    }
}
