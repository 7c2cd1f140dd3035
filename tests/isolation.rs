//! What a container can't see, reach or keep alive, on this machine's own root filesystem.

mod common;

#[path = "isolation/canaries.rs"]
mod canaries;
#[path = "isolation/created.rs"]
mod created;
#[path = "isolation/death.rs"]
mod death;
#[path = "isolation/elsewhere.rs"]
mod elsewhere;
#[path = "isolation/entries.rs"]
mod entries;
#[path = "isolation/filesystems.rs"]
mod filesystems;
#[path = "isolation/hidden.rs"]
mod hidden;
#[path = "isolation/host_program.rs"]
mod host_program;
#[path = "isolation/hostile.rs"]
mod hostile;
#[path = "isolation/ids.rs"]
mod ids;
#[path = "isolation/kernel.rs"]
mod kernel;
#[path = "isolation/programs.rs"]
mod programs;

use common::*;
use coracle::{Container, ErrorKind, Image, Mount};
use std::fs;
use std::time::Duration;

/// Longer than anything here takes; shorter than a person's patience.
const LONG: Duration = Duration::from_secs(60);

/// A world-readable place for canaries that containers are not kept from by the place itself.
fn canary_in(dir: &str, name: &str) -> Option<Canary> {
    let path = std::path::Path::new(dir).join(name);
    // A user can't put one everywhere.
    fs::write(&path, "canary").ok()?;
    Some(Canary(path))
}

/// A file of the host that goes with its test.
struct Canary(std::path::PathBuf);

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Canary {
    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(fs::read_to_string(&self.0).unwrap(), "canary");
    }
}
