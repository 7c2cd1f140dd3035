//! Every path of the list of what the host image hides, each with a canary in it.
//!
//! The machine's own places stay as they are: the test runs again in a root filesystem of its own, which has the
//! machine's programs, an `/etc` and a `/var` of nothing but canaries, and is gone with it.
use super::*;
use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "canaries::each_path_of_the_list_hides_its_canary";
/// What the canaries say, for the run that finds them there.
const TOKEN: &str = "CORACLE_TEST_CANARIES";
/// Where the homes and the temporary files of that run are: what hides these is not to hide a canary.
const SCRATCH: &str = "/scratch";
/// What the machine gives to its root filesystem, as far as it is there.
const GIVEN: [&str; 10] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "dev", "proc", "sys"];

/// The list itself. A line that is not understood fails the test.
fn listed() -> Vec<PathBuf> {
    let source = include_str!("../../src/image/host/hidden.rs");
    let (_, list) = source.split_once("HIDDEN: &[&str] = &[\n").expect("the list");
    let (list, _) = list.split_once("\n];").expect("its end");
    let lines = list.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let path = |line: &str| {
        let path = line.strip_prefix('"').and_then(|line| line.strip_suffix("\","));
        PathBuf::from(path.unwrap_or_else(|| panic!("not one path: {line}")).replace('*', "any"))
    };
    lines.map(path).collect()
}

/// All of the lines that a container on the image can read of these files, or find anywhere.
fn readable(image: &Image, files: &[PathBuf], token: &str) -> BTreeSet<String> {
    let list: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    let script = format!(
        "xargs cat </list 2>/dev/null; \
         grep -rhs {token} / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev --exclude-dir=usr; true"
    );
    say(&sh(image, &script).file("/list", list)).lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root: has a root filesystem of its own"]
fn each_path_of_the_list_hides_its_canary() {
    let Some(kind) = std::env::var_os(ROLE) else {
        for kind in ["files", "directories"] {
            in_a_root_of_its_own(kind);
        }
        return;
    };
    let listed = listed();
    assert!(listed.len() > 150, "{}", listed.len());
    let mut files = vec![PathBuf::from("/opt/visible")];
    for path in &listed {
        let has_below = listed.iter().any(|other| other != path && other.starts_with(path));
        files.push(if kind == "directories" || has_below { path.join("deep/canary") } else { path.clone() });
    }
    assert_eq!(files.len(), listed.len() + 1);
    let put = |token: &str| {
        // All may read each of them, so that no other rule hides it.
        for file in &files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{token} {}\n", file.display())).unwrap();
        }
    };
    match std::env::var(TOKEN) {
        Ok(token) => look(&listed, &files, &token),
        Err(_) => {
            let token = format!("canary-{}", std::process::id());
            put(&token);
            look(&listed, &files, &token);
            // Of an ordinary user's host image another layer is made.
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "4321", "--regid", "4321", "--clear-groups", "/program"]);
            command.args(["--exact", NAME, "--include-ignored", "--nocapture"]).env(TOKEN, token);
            passes(command);
        }
    }
}

/// What containers see of the canaries: that which is not listed, and all when each is exposed.
fn look(listed: &[PathBuf], files: &[PathBuf], token: &str) {
    let line = |path: &Path| format!("{token} {}", path.display());
    let all: BTreeSet<_> = files.iter().map(|file| line(file)).collect();
    assert_eq!(all.len(), files.len(), "a path is listed twice");
    for file in files {
        assert_eq!(
            fs::read_to_string(file).unwrap(),
            format!("{}\n", line(file)),
            "whoever looks may read it"
        );
    }
    let image = host();
    assert_eq!(readable(&image, files, token), BTreeSet::from([line(&files[0])]));
    let exposed = listed.iter().fold(image.clone(), |image, path| image.expose(path).unwrap());
    let missing: Vec<_> = all.difference(&readable(&exposed, files, token)).cloned().collect();
    assert_eq!(missing, Vec::<String>::new());
    for file in files {
        assert_eq!(fs::read_to_string(file).unwrap(), format!("{}\n", line(file)));
    }
}

fn in_a_root_of_its_own(kind: &str) {
    let root = tempfile::Builder::new().prefix("coracle-root-").tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| root.path().join(name);
    let mut mounted = Vec::new();
    for name in GIVEN {
        let real = Path::new("/").join(name);
        match fs::read_link(&real) {
            Ok(target) => symlink(target, at(name)).unwrap(),
            Err(_) if real.is_dir() => {
                fs::create_dir(at(name)).unwrap();
                mounted.push(name);
            }
            Err(_) => {}
        }
    }
    for name in ["etc", "opt", "old", &SCRATCH[1..]] {
        fs::create_dir(at(name)).unwrap();
    }
    let scratch = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(at(&SCRATCH[1..]), scratch).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    peer("cp", [std::env::current_exe().unwrap(), at("program")]);
    // A chroot would not do: no user namespace is made in one (clone(2), EPERM).
    let script = "mount --bind \"$1\" \"$1\" && cd \"$1\" && shift && \
        for dir in $1; do mount --rbind \"/$dir\" \"$dir\" || exit; done && shift && \
        pivot_root . old && umount -l /old && rmdir /old && exec /program \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(root.path());
    command.arg(mounted.join(" ")).args(["--exact", NAME, "--include-ignored", "--nocapture"]);
    command.env(ROLE, kind).env("TMPDIR", SCRATCH).env("HOME", SCRATCH).env_remove("XDG_DATA_HOME");
    passes(command);
}
