//! The examples show what is true: each is run as a reader would, and must end well.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// `cargo test` builds the examples beside the tests.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name);
    assert!(path.exists(), "{path:?} is missing: cargo build --examples makes it");
    path
}

fn run(name: &str) -> String {
    let out = Command::new(example(name)).stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{name}: {}\n{stdout}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    stdout
}

#[test]
fn quickstart() {
    assert!(!run("quickstart").is_empty());
}

#[test]
fn test_harness() {
    let said = run("test_harness");
    for line in ["each answered for itself", "tests had ended", "had panicked", "SIGKILL"] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn untrusted() {
    let said = run("untrusted");
    assert_eq!(said.lines().count(), 6, "{said}");
    assert!(said.starts_with("untrusted "), "{said}");
    let root = std::fs::metadata("/proc/self").unwrap();
    if std::os::unix::fs::MetadataExt::uid(&root) == 0 {
        assert!(said.contains("all of the profile is enforced"), "{said}");
    }
    // What every host can enforce.
    for attack in ["fork bomb", "endless loop", "disk filler", "flood of output"] {
        assert!(said.contains(&format!("{attack:16} contained")), "{said}");
    }
    assert!(!said.contains("NOT CONTAINED"), "{said}");
}
