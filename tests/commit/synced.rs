//! What of a commit is on the disk when its name is.
use super::*;

const STORE: &str = "CORACLE_TEST_STORE";

/// Not a test when run by itself: what is traced.
#[test]
fn a_container_is_committed() {
    let Some(dir) = std::env::var_os(STORE) else { return };
    let store = Store::open(dir).unwrap();
    let (container, _) = ended(&sh(&store.image("base:1").unwrap(), "echo committed > /made"));
    container.commit("made:1").unwrap();
}

/// The layer is written to the disk once, as its blob. Unpacked, it is there as long as the machine runs, and made anew after that.
#[test]
#[ignore = "needs root, busybox and strace: under a user's own trace newuidmap is not set-user-id"]
fn the_blobs_are_on_the_disk_before_the_index_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    base(&store).tag("base:1").unwrap();
    let log = dir.path().join("log");
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-e", "trace=fsync,fdatasync,syncfs,renameat,renameat2", "-o"]).arg(&log);
    strace.arg(std::env::current_exe().unwrap());
    strace.args(["--exact", "synced::a_container_is_committed", "--test-threads=1"]).env(STORE, &path);
    passes(strace);

    let image = store.image("made:1").unwrap();
    let layers = image.layers().unwrap();
    let made = layers.last().unwrap();
    let calls = std::fs::read_to_string(log).unwrap();
    let calls: Vec<_> = calls.lines().collect();
    let last = |what: &dyn Fn(&str) -> bool, name: &str| {
        calls.iter().rposition(|call| what(call)).unwrap_or_else(|| panic!("{name}: {calls:#?}"))
    };
    let named = last(&|call| call.contains("rename") && call.contains("index.json"), "the index");
    let layer = last(&|call| call.contains("rename") && call.contains(&made.digest().hex()), "the layer");
    for digest in [made.digest(), *image.id(), *image.digest()] {
        let hex = digest.hex();
        let synced = last(&|call| call.contains("fdatasync") && call.contains(&hex), &hex);
        assert!(synced < named, "{calls:#?}");
    }
    let names = last(&|call| call.contains("fsync") && call.contains("blobs/sha256>"), "the names");
    assert!(layer < names && names < named, "{calls:#?}");
    assert!(!calls[layer..named].iter().any(|call| call.contains("syncfs")), "{calls:#?}");

    // It is started again.
    let chain = std::fs::read_dir(path.join("layers")).unwrap().map(|entry| entry.unwrap().path());
    let marked: Vec<_> = chain.map(|layer| layer.join("unsynced")).filter(|mark| mark.exists()).collect();
    let [mark] = &marked[..] else { panic!("{marked:?}") };
    assert_eq!(say(&sh(&image, "cat /made")), "committed");
    drop((layers, image));
    std::fs::write(mark, "another boot").unwrap();
    let image = Store::open(&path).unwrap().image("made:1").unwrap();
    assert_eq!(say(&sh(&image, "cat /made")), "committed");
    assert!(!mark.exists());
}
