//! Programs with fewer privileges than the two lanes have: a user without sub-ids, root without capabilities.
//!
//! Each is this test program again, with one test, as setpriv(1) makes it.
#![forbid(unsafe_code)]

mod common;

use common::*;
use coracle::{
    Container, ErrorKind, Feature, Host, IdMap, Image, Namespaces, Outcome, Protection, Signal, State, Store,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// An id that /etc/passwd and /etc/subuid don't know.
const NOBODYS: &str = "54321";

/// As an ordinary user who has no sub-ids, or may not use them.
fn is_single(test: &str) -> bool {
    let user = ["setpriv", &format!("--reuid={NOBODYS}"), &format!("--regid={NOBODYS}"), "--clear-groups"];
    is_under(test, if is_root() { &user } else { &["setpriv", "--no-new-privs"] })
}

/// Only the caller is in the container, the report says why, and all else is refused with the same remedy.
#[track_caller]
fn assert_single(image: &Image, why: &[&str]) {
    let container = ready(&sh(image, "id -u; exec sleep 1000"));
    let report = container.report();
    let entry = report.get("id_range").unwrap();
    let Outcome::NotEnforced(reason) = entry.outcome() else { panic!("{report:?}") };
    assert!(why.iter().any(|word| reason.contains(word)), "{reason}");
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let maps = container.exec(["cat", "/proc/self/uid_map", "/proc/self/gid_map"]).output().unwrap();
    let maps: Vec<Vec<u32>> = maps
        .stdout_text()
        .lines()
        .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
        .collect();
    // As the container sees it: its own user namespace in the warden's, which maps this user.
    assert_eq!(maps, [[0, 0, 1], [0, 0, 1]]);
    assert_eq!(say(&sh(image, "echo $(id -u) $(id -g); touch /srv/x; stat -c %u:%g /srv/x")), "0 0\n0:0");
    // What it writes is the caller's on the host.
    let dir = tempfile::tempdir().unwrap();
    say(&sh(image, "touch /shared/x").bind(dir.path(), "/shared"));
    let written = fs::metadata(dir.path().join("x")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((written.uid(), written.gid()), (uid, gid));
    let refused = [
        sh(image, "true").user("1000").run().unwrap_err(),
        sh(image, "true").user("0:1000").run().unwrap_err(),
        container.exec(["true"]).user("1000").output().unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(error.missing().map(ToString::to_string).as_ref(), Some(reason), "{error}");
    }
    let error = sh(image, "true").group("1000").run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.missing().map(ToString::to_string).as_ref(), Some(reason), "{error}");
}

#[test]
fn a_user_with_one_id() {
    if is_single("a_user_with_one_id") {
        assert_single(&host(), &["no sub-ids", "no_new_privs"]);
    }
}

const EXPECTED: &str = "CORACLE_TEST_EXPECTED";

/// Root's is the machine's, which this only asks for the name of; a user's is where his data are.
#[test]
fn the_default_store_is_where_its_user_has_data() {
    const TEST: &str = "the_default_store_is_where_its_user_has_data";
    if let Some(expected) = std::env::var_os(EXPECTED) {
        if expected.is_empty() {
            let error = Store::open_default().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(error.remedy().unwrap().contains("XDG_DATA_HOME"), "{error}");
            return;
        }
        let expected = Path::new(&expected);
        assert_eq!(Store::default_path().unwrap(), expected);
        assert!(!expected.exists());
        let store = Store::open_default().unwrap();
        assert_eq!(store.path(), expected);
        assert_eq!(fs::metadata(expected).unwrap().permissions().mode() & 0o7777, 0o700);
        say(&sh(&Image::host(&store).unwrap(), "true"));
        coracle::Volume::create(&store, "stays").unwrap();
        drop(store);
        assert_eq!(Store::open_default().unwrap().volumes().unwrap().len(), 1);
        return;
    }
    let user = ["setpriv", &format!("--reuid={NOBODYS}"), &format!("--regid={NOBODYS}"), "--clear-groups"];
    let flags: &[&str] = if is_root() {
        assert_eq!(Store::default_path().unwrap(), Path::new("/var/lib/coracle"));
        &user
    } else {
        &["env"]
    };
    let dir = tempfile::tempdir().unwrap();
    if is_root() {
        let nobodys = NOBODYS.parse().ok();
        std::os::unix::fs::chown(dir.path(), nobodys, nobodys).unwrap();
    }
    let (data, home, other) = (dir.path().join("data"), dir.path().join("home"), dir.path().join("other"));
    let none = Path::new("");
    for (xdg, home, expected) in [
        (&*data, &*home, data.join("coracle")),
        (none, &home, home.join(".local/share/coracle")),
        // The specification of base directories: a relative value counts as none.
        (Path::new("data"), &other, other.join(".local/share/coracle")),
        (none, none, none.to_owned()),
        (none, Path::new("home"), none.to_owned()),
    ] {
        again(TEST, flags, &[("XDG_DATA_HOME", xdg), ("HOME", home), (EXPECTED, &expected)]);
    }
    // It is not even asked for where nothing is set.
    let home = dir.path().join("unset");
    again(TEST, flags, &[("HOME", &home), (EXPECTED, &home.join(".local/share/coracle"))]);
}

/// An image with files of many owners.
fn owners(store: &Store, highest: u64) -> Image {
    let program = fs::read("/bin/busybox").expect("busybox-static, which this test needs");
    let mut archive = tar::Builder::new(Vec::new());
    for (path, data, mode, uid) in [
        ("bin/busybox", &program[..], 0o755, 0),
        ("theirs", b"of 33", 0o640, 33),
        ("private", b"of a high id", 0o600, highest),
        ("dir/file", b"below", 0o400, 1000),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid);
        header.set_size(data.len() as u64);
        archive.append_data(&mut header, path, data).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    fs::write(&path, archive.into_inner().unwrap()).unwrap();
    Image::import(store, &path, "owners:1").unwrap()
}

fn assert_reads(image: &Image) {
    let cat = Container::builder(image).command(["/bin/busybox", "cat", "/theirs", "/private", "/dir/file"]);
    assert_eq!(say(&cat), "of 33of a high idbelow");
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_user_with_one_id_reads_what_others_own_in_an_image() {
    if is_single("a_user_with_one_id_reads_what_others_own_in_an_image") {
        let store = Store::temp().unwrap();
        let image = owners(&store, 70_000);
        assert_reads(&image);
        // The image's own owners are not lost: a committed or exported layer would have them.
        let layer = image.layers().unwrap().remove(0);
        let mut uids: Vec<_> = layer.entries().unwrap().map(|entry| entry.unwrap().uid()).collect();
        uids.sort_unstable();
        uids.dedup();
        assert_eq!(uids, [0, 33, 1000, 70_000]);
    }
}

/// Runs `test` again as root of a user namespace that has sub-ids in /etc/subuid which do not exist in it, with these
/// newuidmap and newgidmap, scripts, instead of the machine's.
fn is_refused(test: &str, tools: &[(&str, &str)]) -> bool {
    is_in_path(test, tools, "$2:$PATH")
}

/// Likewise, with this PATH, where `$2` is the directory with the tools.
fn is_in_path(test: &str, tools: &[(&str, &str)], path: &str) -> bool {
    let script = format!(
        "mount --bind $1 /etc/subuid; mount --bind $1 /etc/subgid; PATH={path}; shift 2; exec \"$@\""
    );
    if std::env::var_os(ROLE).is_some() {
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("ids"), "0:100000:65536\n").unwrap();
    for (name, script) in tools {
        program(Path::new(&at(name)), script);
    }
    let unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", &script, "sh"];
    again(test, &[&unshare[..], &[&at("ids"), dir.path().to_str().unwrap()]].concat(), &[]);
    false
}

/// There is one id then, and everything that asks is told so in the same words.
#[track_caller]
fn assert_refused(why: &str) {
    // Before there is a warden, whose start it is that finds out.
    assert_eq!(IdMap::available(), IdMap::single(0, 0));
    let host = Host::probe();
    let missing = host.get(Feature::SubIds).unwrap().missing().unwrap();
    assert!(missing.reason().contains(why), "{missing}");
    assert_eq!(host.require(Feature::SubIds).unwrap_err().missing(), Some(missing));
    let image = self::host();
    assert_single(&image, &[why]);
    let builder = sh(&image, "true").require(Protection::IdRange);
    let error = builder.run().unwrap_err();
    assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("id_range")), "{error}");
    assert_eq!(error.missing(), Some(missing), "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[test]
fn without_newuidmap_there_is_one_id() {
    if is_in_path("without_newuidmap_there_is_one_id", &[], "$2") {
        assert_refused("newuidmap is not installed");
        assert!(Host::probe().get(Feature::SubIds).unwrap().to_string().contains("Debian's package: uidmap"));
    }
}

#[test]
fn without_newgidmap_there_is_one_id() {
    let tools = [("newuidmap", "#!/bin/sh\nexit 0\n")];
    if is_in_path("without_newgidmap_there_is_one_id", &tools, "$2") {
        assert_refused("newgidmap is not installed");
    }
}

#[test]
fn a_newuidmap_that_refuses_leaves_one_id() {
    let refuses = ("newuidmap", "#!/bin/sh\necho newuidmap: said so >&2\nexit 1\n");
    let other = ("newgidmap", "#!/bin/sh\nexit 0\n");
    if is_refused("a_newuidmap_that_refuses_leaves_one_id", &[refuses, other]) {
        assert_refused("newuidmap refused: said so");
    }
}

/// The map of users is written by then, which no process gets twice.
#[test]
fn a_newgidmap_that_refuses_leaves_one_id() {
    let users = ("newuidmap", "#!/bin/sh\necho 0 0 1 >/proc/$1/uid_map\n");
    let refuses = ("newgidmap", "#!/bin/sh\necho newgidmap: said so >&2\nexit 1\n");
    if is_refused("a_newgidmap_that_refuses_leaves_one_id", &[users, refuses]) {
        assert_refused("newgidmap refused: said so");
    }
}

#[test]
fn a_newuidmap_that_is_no_program_leaves_one_id() {
    let tools = [("newuidmap", "no program"), ("newgidmap", "no program")];
    if is_refused("a_newuidmap_that_is_no_program_leaves_one_id", &tools) {
        assert_refused("newuidmap refused: Exec format error");
    }
}

/// The machine's own, for ids that the namespace does not have, and where its set-user-ID bit does not count.
#[test]
#[ignore = "needs newuidmap: run with --include-ignored"]
fn sub_ids_that_do_not_exist_here_leave_one_id() {
    if is_refused("sub_ids_that_do_not_exist_here_leave_one_id", &[]) {
        assert_refused("newuidmap refused: ");
    }
}

/// What it has started stays its own, and what it starts then is that of whom it has become.
#[test]
#[ignore = "needs root: becomes another user"]
fn a_program_that_gives_up_its_privileges() {
    const DIR: &str = "CORACLE_TEST_DIR";
    let Some(dir) = std::env::var_os(DIR) else {
        let dir = tempfile::tempdir().unwrap();
        again("a_program_that_gives_up_its_privileges", &["env"], &[(DIR, dir.path())]);
        // What that one could not remove, the next one who may does.
        assert!(Store::open(dir.path()).unwrap().containers().unwrap().len() == 1);
        let left = fs::read_dir(dir.path().join("containers")).unwrap().count();
        assert_eq!(left, 1, "the kept one alone");
        return;
    };
    let store = Store::open(&dir).unwrap();
    let image = Image::host(&store).unwrap();
    let [first, second, third] =
        [(); 3].map(|()| ready(&sh(&image, "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done")));
    sh(&image, "sleep 1000").name("kept").create().unwrap().keep().unwrap();
    let kept = store.container("kept").unwrap();
    kept.start().unwrap();
    let created = sh(&image, "true").create().unwrap();
    let entered = Namespaces::new().pid().command(["sleep", "1000"]).spawn().unwrap();
    let kept_on = entered.pid().unwrap();
    entered.keep();
    let id = NOBODYS.parse::<u32>().unwrap();
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(id.into(), id.into(), id.into()).unwrap();
    nix::unistd::setresuid(id.into(), id.into(), id.into()).unwrap();

    // The root's files are no longer this program's to change, its containers are.
    assert_eq!(first.stop(Duration::from_secs(60)).unwrap().code(), Some(3));
    assert_eq!(first.wait().unwrap().code(), Some(3));
    second.pause().unwrap();
    assert_eq!(second.state(), State::Paused);
    second.unpause().unwrap();
    for error in [second.exec(["true"]).output().unwrap_err(), second.top().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("rights")), "{error}");
    }
    second.kill(Signal::SIGKILL).unwrap();
    assert_eq!(second.wait().unwrap().signal(), Some(Signal::SIGKILL.number()));
    for error in [second.remove().unwrap_err(), third.remove().unwrap_err(), created.start().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    // Of one that outlives this program it can't be written down how it ended, which is told, and each time alike.
    kept.kill(Signal::SIGKILL).unwrap();
    for _ in 0..2 {
        assert_eq!(kept.wait().unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    assert_eq!(kept.state(), State::Exited);
    assert_eq!(sh(&image, "true").run().unwrap_err().kind(), ErrorKind::PermissionDenied);

    let image = host();
    let own = ready(&sh(&image, "echo up; exec sleep 1000"));
    let map = own.exec(["cat", "/proc/self/uid_map"]).output().unwrap();
    assert_eq!(map.stdout_text().split_whitespace().collect::<Vec<_>>(), ["0", "0", "1"]);
    let shared = tempfile::tempdir().unwrap();
    say(&sh(&image, "touch /shared/x").bind(shared.path(), "/shared"));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(shared.path().join("x")).unwrap().uid(), id);
    own.remove().unwrap();
    // Nobody's handle holds it, and the warden that it came from is no longer asked.
    let stat = fs::read_to_string(format!("/proc/{kept_on}/stat")).unwrap();
    assert!(stat.contains("(sleep) S"), "{stat}");
}

/// Who may become root again at any time has given up nothing, and a warden in between could do neither's work.
#[test]
#[ignore = "needs root: becomes another user"]
fn a_program_that_gives_up_half_of_itself() {
    const DIR: &str = "CORACLE_TEST_DIR";
    if std::env::var_os(DIR).is_none() {
        let dir = tempfile::tempdir().unwrap();
        return again("a_program_that_gives_up_half_of_itself", &["env"], &[(DIR, dir.path())]);
    }
    let id: u32 = NOBODYS.parse().unwrap();
    let root = nix::unistd::Uid::from_raw(0);
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(id.into(), id.into(), id.into()).unwrap();
    nix::unistd::setresuid(root, id.into(), root).unwrap();
    let error = sh(&host(), "true").run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains(&format!("real user is 0 and its effective one {id}")), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("setresuid")), "{error}");
    nix::unistd::setresuid(id.into(), id.into(), id.into()).unwrap();
    say(&sh(&host(), "true"));
}

const NONE: [&str; 3] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];

/// The kernel lets uid 0 into a user namespace by CAP_SETFCAP only.
#[test]
#[ignore = "needs root: its capabilities are taken away"]
fn root_without_capabilities() {
    if is_under("root_without_capabilities", &NONE) {
        assert_ne!(Store::default_path().unwrap(), Path::new("/var/lib/coracle"), "a user's");
        let image = host();
        let error = sh(&image, "true").run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("CAP_SETFCAP")), "{error:?}");
        // Nothing hangs, nor is anything left for the next try.
        assert_eq!(sh(&image, "true").start().unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
#[ignore = "needs root: most of its capabilities are taken away"]
fn root_that_may_map_itself() {
    let flags = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"];
    if is_under("root_that_may_map_itself", &flags) {
        assert_single(&host(), &["no sub-ids", "bounding set"]);
        assert_reads(&owners(&Store::temp().unwrap(), 70_000));
    }
}

/// As in a rootless container: all capabilities, and nothing of the host's to use them on.
#[test]
fn root_of_a_user_namespace() {
    if is_under("root_of_a_user_namespace", &["unshare", "--user", "--map-root-user"]) {
        assert_single(&host(), &["no sub-ids"]);
    }
}

/// As in other engines' containers: much, but not SYS_ADMIN.
#[test]
#[ignore = "needs root: some of its capabilities are taken away"]
fn root_with_a_containers_capabilities() {
    let caps = "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
        +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
    if is_under("root_with_a_containers_capabilities", &["setpriv", caps, "--inh-caps=-all"]) {
        assert_single(&host(), &["no sub-ids"]);
        assert_reads(&owners(&Store::temp().unwrap(), 70_000));
    }
}

/// The setting is one of each PID namespace (proc_sys_vm(5)): 2 refuses files in memory that may be executed.
#[test]
#[ignore = "needs root: a PID namespace whose setting it changes"]
fn without_programs_in_memory() {
    let script = "echo 2 >/proc/sys/vm/memfd_noexec && exec \"$@\"";
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"];
    if is_under("without_programs_in_memory", &unshare) {
        assert_eq!(fs::read_to_string("/proc/sys/vm/memfd_noexec").unwrap(), "2\n");
        assert_eq!(say(&sh(&host(), "echo runs")), "runs");
    }
}

/// Runs the rest of its words where the first three are /etc/passwd, /etc/subuid and /etc/subgid.
const ACCOUNTS: &str = "mount --bind $1 /etc/passwd; mount --bind $2 /etc/subuid; mount --bind $3 /etc/subgid; \
    shift 3; exec \"$@\"";

/// The store of a test whose steps are processes with different ids.
const STORE: &str = "CORACLE_TEST_STORE";

/// As a step: what an image's files belong to is seen in a container as the image says, by whomever the layer has been
/// unpacked before.
fn assert_owners_are_the_images() {
    let store = Store::open(std::env::var_os(STORE).unwrap()).unwrap();
    let image = match store.image("owners:1") {
        Err(error) if error.kind() == ErrorKind::NotFound => owners(&store, 7000),
        other => other.unwrap(),
    };
    let script = "stat -c %u:%g /theirs /dir/file; cat /theirs";
    let seen = say(&Container::builder(&image).command(["/bin/busybox", "sh", "-c", script]));
    assert_eq!(seen, "33:33\n1000:1000\nof 33");
}

/// Runs `test` once for each step: a line of /etc/subuid and /etc/subgid, and the words that change who it is.
fn as_each(test: &str, store: &Path, steps: &[(&str, &[&str])]) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(at("passwd"), format!("{passwd}nobodys:x:{NOBODYS}:{NOBODYS}::/:/bin/sh\n")).unwrap();
    for (ids, tool) in steps {
        fs::write(at("ids"), format!("{ids}\n")).unwrap();
        let (passwd, ids) = (at("passwd"), at("ids"));
        let mut words = vec!["unshare", "--mount", "sh", "-ec", ACCOUNTS, "sh", &passwd, &ids, &ids];
        words.extend_from_slice(tool);
        again(test, &words, &[(STORE, store)]);
    }
}

#[test]
#[ignore = "needs root: a user whose sub-ids change, beside busybox and uidmap"]
fn an_image_has_its_owners_whatever_sub_ids_its_user_has() {
    const TEST: &str = "an_image_has_its_owners_whatever_sub_ids_its_user_has";
    if std::env::var_os(STORE).is_some() {
        return assert_owners_are_the_images();
    }
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let id = NOBODYS.parse().unwrap();
    std::os::unix::fs::chown(home.path(), Some(id), Some(id)).unwrap();
    let reuid = format!("--reuid={NOBODYS}");
    let regid = format!("--regid={NOBODYS}");
    let user = ["setpriv", &reuid, &regid, "--clear-groups"];
    let (old, new) = ("nobodys:3000000:65536", "nobodys:4000000:65536");
    as_each(TEST, &home.path().join("store"), &[(old, &user), (new, &user), (old, &user)]);
    assert_eq!(count(home.path().join("store/layers")), 2);
}

#[test]
#[ignore = "needs root: some of its capabilities are taken away, beside busybox and uidmap"]
fn an_image_has_its_owners_whatever_capabilities_root_has() {
    const TEST: &str = "an_image_has_its_owners_whatever_capabilities_root_has";
    if std::env::var_os(STORE).is_some() {
        return assert_owners_are_the_images();
    }
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let with = ["setpriv"];
    let without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"];
    let ids = "root:3000000:65536";
    as_each(TEST, &home.path().join("store"), &[(ids, &with), (ids, &without), (ids, &with)]);
    assert_eq!(count(home.path().join("store/layers")), 2);
}

const OLD: &str = "nobodys:3000000:60000";

/// As a step: containers and a volume that were made with the ids of [`OLD`].
fn assert_files_are_whose_they_were() {
    let store = Store::open(std::env::var_os(STORE).unwrap()).unwrap();
    let ids = fs::read_to_string("/etc/subuid").unwrap();
    if matches!(store.container("own"), Err(error) if error.kind() == ErrorKind::NotFound) {
        assert_eq!(ids.trim(), OLD);
        let image = owners(&store, 7000);
        let look = "cd /srv 2>/dev/null || mkdir -m 700 /srv; cd /srv; test -e f || { echo mine >f; chmod 600 f; \
            chown 33:44 f .; }; stat -c %u:%g f . /theirs; cat f";
        let builder = |script| Container::builder(&image).command(["/bin/busybox", "sh", "-c", script]);
        let volume = coracle::Volume::create(&store, "v").unwrap();
        let in_volume = "test -e /v/f || { echo theirs >/v/f; chown 44:55 /v/f; }; stat -c %u:%g /v/f";
        for builder in [
            builder(look).name("own"),
            builder(in_volume).volume(&volume, "/v").name("volume"),
            builder("echo x >>/srv; cat /theirs").name("roots"),
        ] {
            builder.create().unwrap().keep().unwrap();
        }
    }
    let has = ids.trim() == OLD || ids.contains(":3000000:65536");
    for (name, said) in [("own", "33:44\n33:44\n33:33\nmine"), ("volume", "44:55"), ("roots", "of 33")] {
        let container = store.container(name).unwrap();
        match container.start() {
            Ok(()) if has || name == "roots" => {
                assert!(container.wait().unwrap().success());
                assert_eq!(text(&container.logs(coracle::Stream::Stdout).unwrap()), said, "{ids}");
            }
            other => {
                let error = other.expect_err(&format!("{name} with {ids}"));
                assert!(!has && name != "roots", "{error}");
                assert_eq!(error.kind(), ErrorKind::State, "{error}");
                let named = if name == "own" { "srv" } else { "volumes/v/data/f" };
                assert!(error.path().unwrap().ends_with(named), "{error}");
                assert!(error.remedy().is_some_and(|remedy| remedy.contains("1 3000000 60000")), "{error}");
                let out = tempfile::tempdir().unwrap();
                let copied = container.copy_out("/", out.path().join("all"));
                assert_eq!(copied.unwrap_err().kind(), ErrorKind::State);
            }
        }
        if name == "own" {
            assert_eq!(container.export(std::io::sink()).map_err(|error| error.kind()).is_ok(), has, "{ids}");
        }
    }
}

#[test]
#[ignore = "needs root: a user whose sub-ids change, beside busybox and uidmap"]
fn a_kept_container_whose_user_gets_other_sub_ids() {
    const TEST: &str = "a_kept_container_whose_user_gets_other_sub_ids";
    if std::env::var_os(STORE).is_some() {
        return assert_files_are_whose_they_were();
    }
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let id = NOBODYS.parse().unwrap();
    std::os::unix::fs::chown(home.path(), Some(id), Some(id)).unwrap();
    let (reuid, regid) = (format!("--reuid={NOBODYS}"), format!("--regid={NOBODYS}"));
    let user = ["setpriv", &*reuid, &*regid, "--clear-groups"];
    // Others, the same for other users, none, the same again, and more.
    let all = [OLD, "nobodys:4000000:65536", "nobodys:2999990:65536", "", OLD, "nobodys:3000000:65536"];
    as_each(TEST, &home.path().join("store"), &all.map(|ids| (ids, &user[..])));
}

/// Ranges of ids are for whoever may id-map the host's mounts; without, a start would be of somebody else.
#[test]
#[ignore = "needs root: some of its capabilities are taken away, beside busybox and uidmap"]
fn a_kept_container_of_root_with_other_capabilities() {
    const TEST: &str = "a_kept_container_of_root_with_other_capabilities";
    if std::env::var_os(STORE).is_some() {
        let store = Store::open(std::env::var_os(STORE).unwrap()).unwrap();
        let mine = if store.containers().unwrap().is_empty() { "with" } else { "without" };
        let image = match store.image("owners:1") {
            Err(error) if error.kind() == ErrorKind::NotFound => owners(&store, 7000),
            other => other.unwrap(),
        };
        let builder = Container::builder(&image).command(["/bin/busybox", "true"]);
        builder.name(mine).create().unwrap().keep().unwrap();
        for container in store.containers().unwrap() {
            match container.start() {
                Ok(()) => {
                    assert!(container.wait().unwrap().success());
                    assert_eq!(container.name(), mine);
                }
                Err(error) => {
                    assert_eq!(
                        (&*container.name(), error.kind()),
                        ("with", ErrorKind::Unsupported),
                        "{error}"
                    );
                    assert!(error.remedy().unwrap().contains("capabilities"), "{error}");
                    container.remove().unwrap();
                }
            }
        }
        return;
    }
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"];
    let ids = "root:3000000:65536";
    as_each(TEST, &home.path().join("store"), &[(ids, &["setpriv"]), (ids, &without)]);
}

/// Who has sub-ids is root over them: no container of root's is to have one, and of one that had them first the report says so.
#[test]
#[ignore = "needs root: its containers have ranges of their own"]
fn sub_ids_of_users_are_no_containers() {
    const TEST: &str = "sub_ids_of_users_are_no_containers";
    let Some(store) = std::env::var_os(STORE) else {
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        return as_each(TEST, &home.path().join("store"), &[("", &["setpriv"])]);
    };
    let store = Store::open(store).unwrap();
    let image = Image::host(&store).unwrap();
    let base = |container: &Container| {
        let record: serde_json::Value = serde_json::from_str(&container.inspect().unwrap()).unwrap();
        record["base"].as_u64().unwrap()
    };
    let sleeper = sh(&image, "exec sleep 1000");
    let strict = sleeper.clone().require(Protection::IdRange);
    let all = [sleeper.clone().name("lax"), strict.clone().name("strict"), sleeper.clone().name("none")];
    let all: Vec<_> = all.iter().map(|builder| builder.create().unwrap()).collect();
    let bases: Vec<u64> = all.iter().map(base).collect();
    let mut all = all.into_iter();
    all.by_ref().take(2).for_each(|container| container.keep().unwrap());
    drop(all);
    // Both files; here they are one, of this mount namespace only.
    let lines = |owner: &str| bases.iter().map(|base| format!("{owner}:{base}:10\n")).collect::<String>();
    fs::write("/etc/subgid", lines("root")).unwrap();
    assert_eq!(base(&sleeper.create().unwrap()), bases[2], "what root has is root's");
    fs::write("/etc/subgid", format!("nobodys\n{}", lines("nobodys"))).unwrap();
    let other = strict.start().unwrap();
    assert!(!bases.contains(&base(&other)), "{bases:?}");
    assert!(matches!(other.report().get("id_range").unwrap().outcome(), Outcome::Enforced(_)));

    let lax = store.container("lax").unwrap();
    lax.start().unwrap();
    let report = lax.report();
    let Outcome::Partial(why) = report.get("id_range").unwrap().outcome() else { panic!("{report:?}") };
    assert!(why.contains("to nobodys") && why.contains("/etc/subuid"), "{why}");
    let error = store.container("strict").unwrap().start().unwrap_err();
    assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("id_range")), "{error}");
    assert!(error.to_string().contains("to nobodys"), "{error}");

    fs::write("/etc/subgid", "nobodys:0:4294967295\n").unwrap();
    let error = sleeper.create().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert!(error.remedy().unwrap().contains("/etc/subuid"), "{error}");
}
