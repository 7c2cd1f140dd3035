//! Root's container on the host image has the host's root as a whole, and each filesystem that is mounted below by itself.
use super::entries::{again, kept, role, store};
use super::*;
use std::path::{Path, PathBuf};

const NAME: &str = "filesystems::what_a_kept_container_wrote_has_its_place_or_is_refused";
const PLACE: &str = "CORACLE_TEST_PLACE";

#[test]
#[ignore = "needs root: mounts filesystems"]
fn what_a_kept_container_wrote_has_its_place_or_is_refused() {
    let Some(role) = role() else {
        // Nothing of it is hidden.
        let place = tempfile::Builder::new().prefix("coracle-disks-").tempdir_in("/opt").unwrap();
        let own = tempfile::tempdir().unwrap();
        let script =
            "set -e; cd \"$2\"; for n in 1 2; do truncate -s 16M $n; mkfs.ext4 -q -O ^has_journal $n; done
            cd \"$1\"; mkdir a b; mount -o loop \"$2/1\" a; mkdir a/sub; shift 2
            AS(first); AS(again); mount -o loop \"$HOME/2\" b; AS(b); umount b; AS(again)
            mount -o loop \"$HOME/2\" a/sub; AS(a/sub); umount a/sub; AS(again)
            AS(removed); umount a; AS(a); mount -o loop \"$HOME/1\" a; mount -o loop \"$HOME/2\" b; AS(without)";
        let script = script.replace("AS(", &format!("env {ROLE}=")).replace(')', " \"$@\"");
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command.args([place.path(), own.path()]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--include-ignored"]).env(PLACE, place.path());
        let out = command.env("HOME", own.path()).env_remove("XDG_DATA_HOME").output().unwrap();
        assert!(out.status.success(), "{}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
        assert_eq!(text(&out.stdout).matches("1 passed").count(), script.matches(ROLE).count());
        return;
    };
    let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
    let at = |name: &str| place.join(name).display().to_string();
    if role == "first" {
        let script =
            format!("for dir in {} {} {}; do echo own >$dir/own; done", at("a"), at("b"), at("a/sub"));
        assert_eq!(again(&kept(), &script), "");
        return;
    }
    let container = store().container("kept").unwrap();
    match role.as_str() {
        "again" => {
            let script = format!("cat {} {} {}", at("a/own"), at("b/own"), at("a/sub/own"));
            assert_eq!(again(&container, &script), "own\nown\nown\n");
        }
        // A mount is nothing that can be removed, what it is mounted on can.
        "removed" => assert_eq!(again(&container, &format!("rm -r {}", at("b"))), ""),
        "without" => {
            let script = format!("cat {}; ls -d {} 2>/dev/null || echo none", at("a/own"), at("b"));
            assert_eq!(again(&container, &script), "own\nnone\n");
        }
        other => {
            let error = container.start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::State, "{error}");
            assert_eq!(error.path(), Some(Path::new(&at(other))), "{error}");
        }
    }
}
