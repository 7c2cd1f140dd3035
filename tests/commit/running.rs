//! Containers that run.

use super::*;
use std::io::Write;

/// Writes the same number into two files, one after the other, for ever.
const WRITER: &str = "n=0; echo 0 > /one; echo 0 > /two; echo ready; while :; do n=$((n+1)); echo $n > /one; echo $n > /two; done";

#[test]
#[ignore = "needs root and writable cgroups: pauses a container, of busybox and attr"]
fn a_commit_while_a_writer_runs_is_consistent() {
    let store = Store::temp().unwrap();
    let container = ready(&sh(&base(&store), WRITER));
    // Two at once: neither takes the other's pause for one that stays.
    let commit = |name: &str| (0..tries(8)).map(|_| container.commit(name).unwrap()).collect::<Vec<_>>();
    let images = std::thread::scope(|scope| {
        let other = scope.spawn(|| commit("written:other"));
        let mut images = commit("written:1");
        images.extend(other.join().unwrap());
        images
    });
    assert_eq!(container.state(), coracle::State::Running);
    for image in images {
        let read = |path: &str| {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut image.open(path).unwrap(), &mut text).unwrap();
            text.trim().parse::<u64>().unwrap_or(0)
        };
        let (one, two) = (read("/one"), read("/two"));
        // It may have stood between the two, or between opening a file and writing to it.
        assert!(one == two || one == two + 1 || one == 0 || two == 0, "{one} and {two}");
    }
    // One that was paused stays so.
    container.pause().unwrap();
    container.commit("written:2").unwrap();
    assert_eq!(container.state(), coracle::State::Paused);
    container.unpause().unwrap();
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn it_is_not_paused_by_choice_and_the_choice_is_named() {
    let store = Store::temp().unwrap();
    let base = base(&store);
    let container =
        ready(&sh(&base, "echo x > /x; echo ready; read line; echo y > /y").stdin(coracle::Stdio::piped()));
    match (container.commit("paused:1"), can_pause(&base)) {
        (Ok(_), true) => {}
        (Err(error), false) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.remedy().unwrap().contains("pause(false)"), "{error}");
        }
        (other, can) => panic!("{other:?}, where it can be paused: {can}"),
    }
    let image = container.committing().pause(false).run().unwrap();
    assert!(image.open("/x").is_ok() && image.open("/y").is_err());
    // From another handle, as another program would have it.
    let other = store.container(container.id()).unwrap();
    assert_eq!(shown(&other), ["A /x"]);
    assert_eq!(other.committing().pause(false).run().unwrap().layers().unwrap().len(), 2);
    container.take_stdin().unwrap().write_all(b"go\n").unwrap();
    container.wait().unwrap();
    assert!(container.commit("paused:1").unwrap().open("/y").is_ok());
    // Started anew it has its changes still.
    assert_eq!(shown(&container), ["A /x", "A /y"]);
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn without_a_pause_what_comes_and_goes_is_no_error() {
    let store = Store::temp().unwrap();
    let script = "echo ready; while :; do mkdir -p /t/a/b; : > /t/a/b/c; : > /t/x; rm -rf /t/a /t/x; ln -s /etc /t/a; rm /t/a; done";
    let container = ready(&sh(&base(&store), script));
    let mut committed = 0;
    for _ in 0..tries(40) {
        container.diff().unwrap_or_else(|error| panic_unless_moving(error, Vec::new()));
        match container.committing().pause(false).run() {
            Ok(_) => committed += 1,
            Err(error) => panic_unless_moving(error, ()),
        }
    }
    assert!(committed > 0);
}

/// Another kind of file may just have taken the place of one that was about to be opened.
#[track_caller]
fn panic_unless_moving<T>(error: coracle::Error, other: T) -> T {
    assert!(error.kind() == ErrorKind::InUse && error.remedy().is_some(), "{error}");
    other
}

#[test]
fn the_host_image_is_refused() {
    let container = sh(&host(), "true").create().unwrap();
    for error in [
        container.diff().unwrap_err(),
        container.export(std::io::sink()).unwrap_err(),
        container.commit("host:1").unwrap_err(),
    ] {
        assert!(error.kind() == ErrorKind::Unsupported && error.remedy().is_some(), "{error}");
    }
}

const COMMITS: &str = "CORACLE_TEST_COMMITS";

#[test]
#[ignore = "needs root and writable cgroups: pauses a container, of busybox and attr"]
fn a_program_that_is_killed_while_it_commits_leaves_nothing_paused() {
    if let Some(id) = std::env::var_os(COMMITS) {
        let store = Store::open(std::env::var_os("STORE").unwrap()).unwrap();
        let container = store.container(id.to_str().unwrap()).unwrap();
        // Until it is killed.
        loop {
            container.commit("killed:1").unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let write = "dd if=/dev/urandom of=/big bs=1M count=16 2>/dev/null; echo ready; exec sleep 1000";
    let container = ready(&sh(&base(&store), write));
    let is_paused = || container.state() == coracle::State::Paused;
    let mark = store.path().join("containers").join(container.id()).join("pausing");
    let test = "running::a_program_that_is_killed_while_it_commits_leaves_nothing_paused";
    let kill = || {
        eventually("it is killed while the container is paused", || {
            let mut program =
                child(test, &[(COMMITS, container.id().as_ref()), ("STORE", store.path().as_ref())]);
            let mut program = program.stdout(std::process::Stdio::null()).spawn().unwrap();
            eventually("it is paused", || {
                assert!(program.try_wait().unwrap().is_none(), "it can't commit");
                is_paused()
            });
            program.kill().unwrap();
            program.wait().unwrap();
            mark.exists()
        });
    };
    kill();
    // By the handle that was there before, too.
    assert_eq!(container.state(), coracle::State::Running);
    assert!(!mark.exists());
    // Who opens it to let it go on finds that done, which is no error; a second time it is.
    kill();
    let other = store.container(container.id()).unwrap();
    assert!(!mark.exists());
    other.unpause().unwrap();
    assert_eq!(other.unpause().unwrap_err().kind(), ErrorKind::State);
    assert_eq!(other.state(), coracle::State::Running);
    // What is no mark is nobody's.
    for text in ["", "1"] {
        std::fs::write(&mark, text).unwrap();
        other.pause().unwrap();
        assert!(!mark.exists());
        std::fs::write(&mark, text).unwrap();
        other.unpause().unwrap();
        std::fs::write(&mark, text).unwrap();
        container.commit("killed:1").unwrap();
        assert!(!mark.exists());
    }
    // Of a pause that somebody has ended nothing keeps others from committing: here of one that this program would have begun.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let began = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap();
    let namespace = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/pid").unwrap());
    let living = format!("[{},{began},{namespace},1000000]", std::process::id());
    other.pause().unwrap();
    std::fs::write(&mark, &living).unwrap();
    assert_eq!(other.state(), coracle::State::Paused);
    other.unpause().unwrap();
    assert!(!mark.exists());
    container.commit("killed:1").unwrap();
    // One that somebody pauses stays so, whoever looks.
    other.pause().unwrap();
    assert!(store.containers().unwrap().iter().all(|container| container.state() == coracle::State::Paused));
    container.unpause().unwrap();
    container.commit("killed:1").unwrap();
    assert!(!is_paused());
}
