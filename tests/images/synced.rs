//! What reaches the disk, and when: of a store that is to outlive the machine's power.
use super::*;
use std::collections::BTreeMap;

/// How many files a layer has.
const FILES: &str = "CORACLE_TEST_FILES";
const STORE: &str = "CORACLE_TEST_STORE";
const LAYERS: usize = 3;

/// Not a test when run by itself: what is traced.
#[test]
fn an_image_comes_into_a_store() {
    let (Some(dir), Ok(files)) = (std::env::var_os(STORE), std::env::var(FILES)) else { return };
    let files: usize = files.parse().unwrap();
    let layer = |layer: usize| {
        let names: Vec<_> = (0..files).map(|n| format!("dir{layer}/file{n}")).collect();
        let dir = format!("dir{layer}/");
        let entries = names.iter().map(|name| (name.as_str(), Node::File(name.as_bytes())));
        tar(std::iter::once((dir.as_str(), Node::Dir)).chain(entries))
    };
    let image = Fixture::of((0..LAYERS).map(layer).collect());
    let store = Store::open(dir).unwrap();
    let loaded = load(&store, &docker_archive(&[(&image, &["app:1"])])).unwrap();
    assert_eq!(loaded[0].layers().unwrap().len(), LAYERS);
}

/// Its calls by name, with the lines of those that matter for their order.
fn traced(files: usize) -> (BTreeMap<String, usize>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut strace = std::process::Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-y",
        "-e",
        "trace=fsync,fdatasync,syncfs,sync,sync_file_range,msync,rename,renameat,renameat2",
    ]);
    strace.arg("-o").arg(&log).arg(std::env::current_exe().unwrap());
    strace.args(["--exact", "synced::an_image_comes_into_a_store", "--test-threads=1"]);
    strace.env(FILES, files.to_string()).env(STORE, dir.path().join("store"));
    passes(strace);
    let layers = dir.path().join("store/layers");
    assert_eq!(count(&layers), LAYERS);
    let log = fs::read_to_string(log).unwrap();
    let calls = log
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(_, call)| call.trim_start());
    let calls: Vec<_> = calls
        .filter(|call| !["+++", "---", "<..."].iter().any(|other| call.starts_with(other)))
        .map(str::to_owned)
        .collect();
    let mut counted = BTreeMap::new();
    for call in &calls {
        *counted.entry(call.split('(').next().unwrap().to_owned()).or_default() += 1;
    }
    (counted, calls)
}

/// One call for all of a layer's files, before the layer has its name; the few others don't depend on what is in it.
#[test]
#[ignore = "needs root and strace: under a user's own trace newuidmap is not set-user-id"]
fn a_layer_is_synced_once_and_then_named() {
    let (few, _) = traced(3);
    let (many, calls) = traced(400);
    // And one for the blobs, before the index names them.
    assert_eq!(many.get("syncfs"), Some(&(LAYERS + 1)), "{many:?}");
    assert_eq!(few.get("syncfs"), many.get("syncfs"));
    let others = |counted: &BTreeMap<String, usize>| {
        ["fsync", "fdatasync", "sync", "sync_file_range", "msync"]
            .map(|name| counted.get(name).copied().unwrap_or(0))
    };
    assert_eq!(others(&many), others(&few), "{few:?} {many:?}");
    assert!(others(&many).iter().sum::<usize>() <= 3, "{many:?}");
    // A name for each, and each behind a sync of its own.
    let is_layer = |call: &String| call.starts_with("rename") && call.contains("/layers");
    let mut synced = 0;
    for call in &calls {
        synced += usize::from(call.starts_with("syncfs"));
        if is_layer(call) {
            assert!(synced > 0, "{calls:#?}");
            synced -= 1;
        }
    }
    assert_eq!(calls.iter().filter(|call| is_layer(call)).count(), LAYERS, "{calls:#?}");
}
