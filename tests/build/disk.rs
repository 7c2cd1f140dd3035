//! A RUN on a disk that it fills: a tmpfs in a mount namespace of its own.

use super::*;
use coracle::ErrorKind;

const MOUNTED: &str = "CORACLE_TEST_MOUNTED";

#[test]
#[ignore = "needs root: it mounts a small filesystem"]
fn a_command_that_fills_the_disk() {
    let Some(mounted) = std::env::var_os(MOUNTED) else {
        let mount = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=24m tmpfs \"$1\" && shift && exec \"$@\"";
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]).arg(mount.path());
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", "disk::a_command_that_fills_the_disk", "--nocapture", "--include-ignored"]);
        return passes({
            command.env(MOUNTED, mount.path());
            command
        });
    };
    let store = Store::open(Path::new(&mounted).join("store")).unwrap();
    bases::fill(&store);
    let before = rustix::fs::statvfs(Path::new(&mounted)).unwrap().f_bfree;
    for text in ["RUN yes > /big", "RUN --mount=type=cache,target=/c yes > /c/big", "COPY big /big"] {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("big")).unwrap().set_len(64 << 20).unwrap();
        let text = format!("FROM localhost/box:1\n{text}\n");
        let error = Build::context(dir.path()).dockerfile_text(&text).run(&store).unwrap_err();
        assert_eq!(error.position().map(|(line, _)| line), Some(2), "{error}");
        // The command's own, or this program's.
        let is_full = error.kind() == ErrorKind::StorageFull
            || error.to_string().to_lowercase().contains("no space left");
        assert!(is_full, "{error}");
        store.prune_cache(None, None).unwrap();
        assert!(store.verify().unwrap().is_sound());
        // What was removed is taken apart beside the program.
        eventually(&text, || rustix::fs::statvfs(Path::new(&mounted)).unwrap().f_bfree + 256 > before);
    }
    Build::empty().dockerfile_text("FROM localhost/box:1\nRUN echo small > /small\n").run(&store).unwrap();
}
