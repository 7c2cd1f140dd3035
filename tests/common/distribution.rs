//! Debian's docker-registry, and skopeo, which looks into it.

use super::{Reserved, eventually, peer};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// docker-registry on a port of its own; it ends with this.
pub struct Distribution {
    child: Child,
    pub authority: String,
    /// A line for each request that was answered.
    access: Arc<Mutex<Vec<String>>>,
    storage: PathBuf,
    _port: Reserved,
    _dir: tempfile::TempDir,
}

impl Distribution {
    /// `more` goes on with the section `http` of its configuration, then with others.
    pub fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = dir.path().join("storage");
        Self::with(more, dir, storage)
    }

    /// One that has what another one has.
    pub fn start_in(more: &str, storage: &Path) -> Self {
        Self::with(more, tempfile::tempdir().unwrap(), storage.to_owned())
    }

    /// What was asked since the last time, up to an answer to what `last` says.
    pub fn take_access(&self, last: &str) -> Vec<String> {
        self.take_answers(last, 1)
    }

    /// Likewise, up to so many answers to what has this in it.
    pub fn take_answers(&self, what: &str, times: usize) -> Vec<String> {
        eventually("the registry's log", || {
            let access = self.access.lock().unwrap();
            access.iter().filter(|line| line.contains(what)).count() >= times
        });
        std::mem::take(&mut self.access.lock().unwrap())
    }

    pub fn storage(&self) -> &Path {
        &self.storage
    }

    fn with(more: &str, dir: tempfile::TempDir, storage: PathBuf) -> Self {
        let config = dir.path().join("config.yml");
        let port = Reserved::new();
        let authority = port.address.to_string();
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {authority}\n{more}",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("docker-registry: {error}; this test needs it"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().any(|line| line.unwrap().contains("listening on"));
        assert!(ready, "docker-registry ended");
        // It must not stand still for want of a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let access = Arc::new(Mutex::new(Vec::new()));
        let (log, lines) = (access.clone(), BufReader::new(child.stdout.take().unwrap()).lines());
        std::thread::spawn(move || lines.for_each(|line| log.lock().unwrap().push(line.unwrap())));
        Self { child, authority, access, storage, _port: port, _dir: dir }
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A peer that looks for nobody's credentials on this machine.
pub fn skopeo(args: &[&str]) -> String {
    let nobody = tempfile::NamedTempFile::new().unwrap();
    fs::write(nobody.path(), "{}").unwrap();
    let (verb, rest) = args.split_first().unwrap();
    peer("skopeo", [&[verb, "--authfile", nobody.path().to_str().unwrap()], rest].concat())
}
