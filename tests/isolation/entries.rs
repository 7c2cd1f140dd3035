//! An ordinary user's container on the host image has the entries of a directory one by one where something is mounted below it:
//! here in an /etc of the test's own.
use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Runs `script` where only it sees the /etc. Each `AS(role)` in it is the test again, as an ordinary user with that role.
fn where_etc_has_a_mount(test: &str, script: &str) {
    let other = super::host_program::OtherUser::new(65534);
    let etc = tempfile::tempdir().unwrap();
    let at = |name: &str| etc.path().join(name);
    fs::set_permissions(etc.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for file in ["passwd", "group", "subuid", "subgid"] {
        let _ = fs::copy(Path::new("/etc").join(file), at(file));
    }
    // Too large to be copied.
    fs::write(at("seen"), vec![b'x'; 100_000]).unwrap();
    fs::write(at("shadow"), "secret").unwrap();
    fs::set_permissions(at("shadow"), fs::Permissions::from_mode(0o600)).unwrap();
    for dir in ["b", "d", "f"] {
        fs::create_dir(at(dir)).unwrap();
        fs::write(at(dir).join("host"), dir).unwrap();
    }
    std::os::unix::fs::symlink("seen", at("link")).unwrap();
    let script = script.replace("AS(", &format!("env {ROLE}=")).replace(')', " \"$@\"");
    let script = format!(
        "set -e; mount -t tmpfs none /etc; cp -a \"$1/.\" /etc; mount --bind /etc/group /etc/group; shift\n{script}"
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(etc.path());
    command.args(other.become_it()).arg(&other.program).args(["--exact", test, "--include-ignored"]);
    let out = command.env("HOME", &other.own).env("TMPDIR", &other.own).env_remove("XDG_DATA_HOME").output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
    let runs = script.matches(ROLE).count();
    assert_eq!(text(&out.stdout).matches("1 passed").count(), runs, "{}", text(&out.stdout));
}

pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// What the roles of a test share.
fn shared(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap()).join(name)
}

pub fn store() -> coracle::Store {
    coracle::Store::open(shared("store")).unwrap()
}

/// Starts the kept container, whose command is the script in /script of the host.
pub fn again(container: &Container, script: &str) -> String {
    fs::write(shared("script"), script).unwrap();
    container.start().unwrap();
    assert!(container.wait().unwrap().success());
    fs::read_to_string(shared("out")).unwrap()
}

pub fn kept() -> Container {
    let image = Image::host(&store()).unwrap();
    fs::write(shared("out"), "").unwrap();
    fs::write(shared("script"), "").unwrap();
    let builder = Container::builder(&image).name("kept").command(["sh", "-c", ". /script >/out"]);
    let script = Mount::bind(shared("script"), "/script").read_only();
    builder.mount(script).mount(Mount::bind(shared("out"), "/out")).create().unwrap().keep().unwrap();
    store().container("kept").unwrap()
}

/// A mount of a file that the host removes during the start can't be covered any more.
#[test]
#[ignore = "needs root: mounts in /etc and becomes another user"]
fn what_is_hidden_is_not_mounted_either() {
    if role().is_none() {
        return where_etc_has_a_mount("entries::what_is_hidden_is_not_mounted_either", "AS(user)");
    }
    // The fourth word of a line is which file of its filesystem the mount shows (proc_pid_mountinfo(5)).
    let script = "while read -r _ _ _ file point _; do echo $file $point; done </proc/self/mountinfo; \
        stat -c %n:%s /etc/shadow /etc/seen";
    let out = say(&sh(&host(), script));
    assert!(out.ends_with("\n/etc/shadow:0\n/etc/seen:100000"), "{out}");
    assert!(out.lines().any(|line| line.ends_with(" /etc/seen")), "entry by entry: {out}");
    assert!(!out.lines().any(|line| line.starts_with("/shadow ")), "{out}");
}

#[test]
#[ignore = "needs root: mounts in /etc and becomes another user"]
fn the_hosts_files_come_and_go_while_containers_start() {
    if role().is_none() {
        let script = "while :; do mkdir -p /etc/dir/dir; ln -s seen /etc/way; cp /etc/seen /etc/secret; \
            chmod 600 /etc/secret; cp /etc/seen /etc/large; rm -r /etc/dir /etc/way /etc/secret /etc/large; done & \
            trap 'kill $!' EXIT; AS(user)";
        return where_etc_has_a_mount("entries::the_hosts_files_come_and_go_while_containers_start", script);
    }
    let image = host();
    for read_only in [false, true] {
        for _ in 0..tries(40) {
            let container = sh(&image, "cat /etc/shadow /etc/b/host").read_only(read_only);
            assert_eq!(say(&container), "b");
        }
    }
}

/// Each directory has its own writable layer, whatever the host has beside it by now.
#[test]
#[ignore = "needs root: mounts in /etc and becomes another user"]
fn what_a_kept_container_wrote_stays_where_it_was() {
    let Some(role) = role() else {
        let script = "AS(first); mkdir /etc/a /etc/c; echo a >/etc/a/host; echo c >/etc/c/host; rm -r /etc/f; AS(second)";
        return where_etc_has_a_mount("entries::what_a_kept_container_wrote_stays_where_it_was", script);
    };
    if role == "first" {
        let script = "echo d >/etc/d/own; chmod 711 /etc/b; rm /etc/link /etc/passwd; echo own >/etc/own; mkdir /etc/e; \
            cat /etc/*/host";
        assert_eq!(again(&kept(), script), "bdf");
        return;
    }
    let container = store().container("kept").unwrap();
    let script = "cat /etc/a/host /etc/b/host /etc/c/host /etc/d/*; ls /etc/f; stat -c %a /etc/b; cat /etc/own; \
        ls -d /etc/e /etc/link /etc/passwd 2>/dev/null; true";
    assert_eq!(again(&container, script), "a\nbc\ndd\n711\nown\n/etc/e\n");
}

/// It may do what it likes with a directory that is not itself a mount. Its next start is the host's doing.
#[test]
#[ignore = "needs root: mounts in /etc and becomes another user"]
fn a_link_in_place_of_a_directory_leads_nowhere() {
    let Some(role) = role() else {
        let script = "AS(first); mkdir /etc/new; ln -s seen /etc/way; AS(second)";
        return where_etc_has_a_mount("entries::a_link_in_place_of_a_directory_leads_nowhere", script);
    };
    let target = shared("target");
    if role == "first" {
        fs::create_dir_all(target.join("b")).unwrap();
        fs::set_permissions(target.join("b"), fs::Permissions::from_mode(0o700)).unwrap();
        let script = format!(
            "echo own >/etc/d/own; mv /etc /moved && ln -s {} /etc && cat /moved/b/host",
            target.display()
        );
        assert_eq!(again(&kept(), &script), "b");
        return;
    }
    let container = store().container("kept").unwrap();
    let error = container.start().unwrap_err();
    let left: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["b"]);
    assert_eq!(target.join("b").metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(count(target.join("b")), 0);
    // Nor is what it wrote there left out without a word.
    assert_eq!((error.kind(), error.path()), (ErrorKind::State, Some(Path::new("/etc/d"))), "{error}");
}

/// What lies below a mount of the host's can't be taken as a whole any more.
#[test]
#[ignore = "needs root: mounts in /etc and becomes another user"]
fn the_host_mounts_something_in_what_was_taken_whole() {
    let Some(role) = role() else {
        let script = "AS(first); mount --bind /etc/seen /etc/b/host; AS(nothing_was_written); mount --bind /etc/seen /etc/d/host; \
            AS(written); umount /etc/d/host; AS(as_before); umount /etc/b/host; AS(as_before)";
        return where_etc_has_a_mount("entries::the_host_mounts_something_in_what_was_taken_whole", script);
    };
    if role == "first" {
        assert_eq!(again(&kept(), "echo own >/etc/d/own; cat /etc/b/host"), "b");
        return;
    }
    let container = store().container("kept").unwrap();
    match role.as_str() {
        "nothing_was_written" => {
            let script = "cat /etc/d/own; wc -c </etc/b/host; echo own >/etc/b/own";
            assert_eq!(again(&container, script), "own\n100000\n");
        }
        "written" => {
            let error = container.start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::State, "{error}");
            assert_eq!(error.path(), Some(Path::new("/etc/d")), "{error}");
            assert!(error.remedy().unwrap().contains("unmount"), "{error}");
        }
        _ => assert_eq!(again(&container, "cat /etc/d/own /etc/b/own"), "own\nown\n"),
    }
}

/// Where a directory of the host's has gone, its place is the container's, until there is one again.
#[test]
#[ignore = "needs root: mounts in /etc and becomes another user"]
fn what_was_made_in_place_of_a_directory_that_had_gone() {
    let Some(role) = role() else {
        let script = "AS(first); rm -r /etc/f; AS(made); mkdir /etc/f; echo f >/etc/f/host; AS(refused); mkdir /etc/f/m; \
            mount --bind /etc/b /etc/f/m; AS(refused); umount /etc/f/m; rm -r /etc/f; AS(as_before)";
        return where_etc_has_a_mount("entries::what_was_made_in_place_of_a_directory_that_had_gone", script);
    };
    if role == "first" {
        assert_eq!(again(&kept(), "cat /etc/f/host"), "f");
        return;
    }
    let container = store().container("kept").unwrap();
    match role.as_str() {
        // To open it for writing would wait for ever.
        "made" => assert_eq!(again(&container, "ls /etc/f; mkfifo /etc/f/host; echo own >/etc/f/own"), ""),
        "refused" => {
            let error = container.start().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::State, "{error}");
            assert_eq!(error.path(), Some(Path::new("/etc/f")), "{error}");
        }
        _ => assert_eq!(again(&container, "[ -p /etc/f/host ] && cat /etc/f/own"), "own\n"),
    }
}
