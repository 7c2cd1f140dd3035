#![forbid(unsafe_code)]
use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

const NONE: &str = "/no/store";

struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn file(&self, path: &str, mode: u32) -> &Self {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), "canary").unwrap();
        fs::set_permissions(self.at(path), PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    fn dir(&self, path: &str, mode: u32) -> &Self {
        fs::create_dir_all(self.at(path)).unwrap();
        fs::set_permissions(self.at(path), PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    fn steps(&self, store: &str, exposed: &[&str]) -> Vec<String> {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        let root = Root::open(self.0.path()).unwrap();
        let steps = root.steps(Path::new(store), &paths(&["/"]), &paths(exposed)).unwrap();
        steps
            .iter()
            .map(|step| {
                let sign = if step.what == What::Hide { '-' } else { '+' };
                format!("{sign}{}{}", step.path.display(), if step.is_dir { "/" } else { "" })
            })
            .collect()
    }
}

/// Every line of the list hides what is there, file or directory.
#[test]
fn each_line_of_the_list_hides() {
    for pattern in HIDDEN {
        let path = pattern.replace('*', "x");
        let (as_file, as_dir) = (World::new(), World::new());
        as_file.file(&path, 0o644);
        as_dir.file(&format!("{path}/inside"), 0o644);
        assert_eq!(as_file.steps(NONE, &[]), [format!("-{path}")], "{pattern}");
        assert_eq!(as_dir.steps(NONE, &[]), [format!("-{path}/")], "{pattern}");
        assert!(as_file.steps(NONE, &[&path]).is_empty(), "{pattern}");
    }
}

#[test]
fn only_what_matches_and_exists() {
    let world = World::new();
    world.file("/etc/ssh/ssh_host_rsa_key", 0o644).file("/etc/ssh/ssh_host_ed25519_key", 0o600);
    world
        .file("/etc/ssh/ssh_host_rsa_key.pub", 0o644)
        .file("/etc/ssh/sshd_config", 0o644)
        .file("/usr/bin/x", 0o700);
    assert_eq!(world.steps(NONE, &[]), ["-/etc/ssh/ssh_host_ed25519_key", "-/etc/ssh/ssh_host_rsa_key"]);
}

#[test]
fn links_are_followed_within_the_root() {
    let world = World::new();
    world
        .dir("/run", 0o755)
        .dir("/var", 0o755)
        .file("/data/secret", 0o644)
        .file("/elsewhere/shadow", 0o644)
        .dir("/etc", 0o755);
    symlink("/run", world.at("/var/run")).unwrap();
    symlink("../data", world.at("/home")).unwrap();
    symlink("/elsewhere/shadow", world.at("/etc/shadow")).unwrap();
    symlink("/nowhere", world.at("/root")).unwrap();
    symlink("../../../../../../../../../elsewhere", world.at("/tmp")).unwrap();
    assert_eq!(world.steps(NONE, &[]), ["-/data/", "-/elsewhere/", "-/run/"]);
}

#[test]
fn what_others_may_not_read_is_hidden() {
    let world = World::new();
    world.file("/etc/app/deep/er/password", 0o640).file("/etc/app/deep/er/settings", 0o644);
    world.dir("/etc/closed", 0o750).file("/etc/closed/x", 0o644).file("/data/key", 0o600);
    symlink("/data/key", world.at("/etc/key")).unwrap();
    world
        .dir("/var/lib/postgresql", 0o700)
        .file("/var/lib/dpkg/status", 0o644)
        .file("/var/lib/dpkg/deeper", 0o600);
    world.file("/var/log/auth.log", 0o640).file("/usr/lib/private", 0o600);
    symlink("/usr/lib/private", world.at("/etc/linked")).unwrap();
    assert_eq!(
        world.steps(NONE, &[]),
        [
            "-/data/key",
            "-/etc/app/deep/er/password",
            "-/etc/closed/",
            "-/usr/lib/private",
            "-/var/lib/postgresql/",
            "-/var/log/auth.log"
        ]
    );
}

/// As passwd(1) and others write their files: under another name, which is then the file's.
#[test]
fn what_is_replaced_meanwhile_is_hidden() {
    let world = World::new();
    world.file("/etc/shadow", 0o640).file("/etc/app/key", 0o600);
    symlink("/etc/shadow", world.at("/etc/gshadow")).unwrap();
    let all = ["-/etc/app/key", "-/etc/shadow"];
    let wrong = std::thread::scope(|scope| {
        let looks = || (0..1000).map(|_| world.steps(NONE, &[])).find(|steps| *steps != all);
        let looks = scope.spawn(looks);
        while !looks.is_finished() {
            for (path, mode) in [("/etc/shadow", 0o640), ("/etc/app/key", 0o600)] {
                world.file("/new", mode);
                // It may go on under another name.
                let _ = fs::remove_file(world.at("/kept"));
                fs::hard_link(world.at(path), world.at("/kept")).unwrap();
                fs::rename(world.at("/new"), world.at(path)).unwrap();
            }
        }
        looks.join().unwrap()
    });
    assert_eq!(wrong, None);
}

#[test]
fn exposes_what_it_names_and_nothing_below() {
    let world = World::new();
    world
        .dir("/home/me/store/blobs", 0o755)
        .dir("/home/you", 0o755)
        .file("/etc/shadow", 0o640)
        .dir("/root", 0o700);
    let store = "/home/me/store";
    let all = ["-/etc/shadow", "-/home/", "-/root/"];
    assert_eq!(world.steps(store, &[]), all);
    assert_eq!(world.steps(store, &["/etc"]), all);
    assert_eq!(world.steps(store, &["/home"]), ["-/etc/shadow", "-/home/me/store/", "-/root/"]);
    assert_eq!(
        world.steps(store, &["/home/me", "/root"]),
        ["-/etc/shadow", "-/home/", "+/home/me/", "-/home/me/store/"]
    );
    assert_eq!(
        world.steps(store, &["/home/me/store/blobs"]),
        ["-/etc/shadow", "-/home/", "+/home/me/store/blobs/", "-/root/"]
    );
    let error =
        Root::open(world.0.path()).unwrap().steps(Path::new(NONE), &[], &["/nowhere".into()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn homes_of_people_wherever_they_are() {
    let world = World::new();
    world
        .dir("/srv/anna", 0o755)
        .dir("/var/www", 0o755)
        .dir("/usr/bin", 0o755)
        .dir("/usr/store", 0o755)
        .dir("/etc", 0o755);
    fs::write(
        world.at("/etc/passwd"),
        "root:x:0:0::/nowhere:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\nanna:x:1000:1000::/srv/anna:/bin/sh\nx:x:1001:1::/:\nbad\ny:x:1002:1::/usr/bin:\n",
    )
    .unwrap();
    assert_eq!(world.steps("/usr/store", &[]), ["-/srv/anna/", "-/usr/store/"]);
}

#[test]
fn this_machine_can_be_read() {
    let store = Store::temp().unwrap();
    let start = std::time::Instant::now();
    let steps = steps(&store, &[]).unwrap();
    println!("{} steps in {:?}", steps.len(), start.elapsed());
    let covers = |path: &Path| steps.iter().any(|step| path.starts_with(&step.path));
    assert!(covers(store.path()));
    assert!(covers(Path::new("/root")) && covers(Path::new("/run")) && covers(Path::new("/etc/shadow")));
    assert!(!covers(Path::new("/usr/bin/env")) && !covers(Path::new("/etc/passwd")));
}
