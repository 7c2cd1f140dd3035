//! What the host image hides.
use super::*;
use std::path::{Path, PathBuf};

/// Whether the path can be read in a container on the image.
fn sees(image: &Image, path: &str) -> bool {
    let out = Container::builder(image).command(["cat", path]).run().unwrap();
    out.status.success() && out.stdout == fs::read(path).unwrap()
}

#[test]
fn canaries_in_hidden_directories() {
    let image = host();
    let name = format!("coracle-canary-{}", std::process::id());
    let home = std::env::var("HOME").unwrap();
    let dirs =
        ["/root", "/home", "/tmp", "/run", "/var/tmp", "/dev/shm", &home, "/etc/ssl/private", "/var/backups"];
    let canaries: Vec<_> = dirs.into_iter().filter_map(|dir| canary_in(dir, &name)).collect();
    assert!(canaries.len() >= 3, "at least the home and both directories for temporary files");
    for canary in &canaries {
        assert!(!sees(&image, canary.path()), "{}", canary.path());
        canary.assert_untouched();
    }
    let visible = "/usr/bin/env";
    assert!(sees(&image, visible), "the test sees what is not hidden");
}

#[test]
fn an_exposed_path_comes_back_alone() {
    let image = host();
    let dir = tempfile::tempdir().unwrap();
    let (given, other) = (dir.path().join("given"), dir.path().join("other"));
    fs::write(&given, "given").unwrap();
    fs::write(&other, "other").unwrap();
    let exposing = image.expose(&given).unwrap();
    assert!(sees(&exposing, given.to_str().unwrap()));
    assert!(!sees(&exposing, other.to_str().unwrap()));
    assert!(!sees(&image, given.to_str().unwrap()), "the image itself is unchanged");
    let script = format!("echo x >{} 2>/dev/null || echo refused", given.display());
    assert_eq!(say(&sh(&exposing, &script)), "refused");
    assert_eq!(fs::read_to_string(&given).unwrap(), "given");
    let whole = image.expose(dir.path()).unwrap();
    assert!(sees(&whole, other.to_str().unwrap()));
    assert_eq!(
        image.expose("/no/such/path").and_then(|image| sh(&image, "true").run()).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn secrets_of_the_machine() {
    let image = host();
    let secrets =
        ["/etc/shadow", "/etc/gshadow", "/etc/shadow-", "/etc/gshadow-", "/var/log/btmp", "/etc/sudoers"];
    for secret in secrets.into_iter().filter(|path| Path::new(path).exists()) {
        let out = Container::builder(&image).command(["wc", "-c", secret]).run().unwrap();
        let bytes = text(&out.stdout);
        assert!(!out.status.success() || bytes.starts_with("0 "), "{secret}: {bytes}");
    }
    let keys = fs::read_dir("/etc/ssh").into_iter().flatten().flatten();
    let keys = keys.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("ssh_host_") && name.ends_with("_key")
    });
    for key in keys.collect::<Vec<PathBuf>>() {
        assert_eq!(
            say(&sh(&image, &format!("cat {} 2>/dev/null | wc -c", key.display()))),
            "0",
            "{}",
            key.display()
        );
    }
}

/// The store lies in a directory that is hidden for no other reason.
#[test]
#[ignore = "needs root: writes below /opt"]
fn the_store_itself() {
    let dir = tempfile::Builder::new().prefix("coracle-store").tempdir_in("/opt").unwrap();
    let store = coracle::Store::open(dir.path()).unwrap();
    let image = Image::host(&store).unwrap();
    assert_eq!(say(&sh(&image, &format!("ls -A {} | wc -l", dir.path().display()))), "0");
}

#[test]
#[ignore = "needs root: puts secrets where they lie"]
fn files_that_others_may_not_read() {
    use std::os::unix::fs::PermissionsExt;
    let image = host();
    let name = format!("coracle-canary-{}", std::process::id());
    for dir in ["/etc", "/etc/ssl", "/var/log"] {
        let canary = canary_in(dir, &name).unwrap();
        assert!(sees(&image, canary.path()), "{}", canary.path());
        fs::set_permissions(&canary.0, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(!sees(&image, canary.path()), "{}", canary.path());
        assert!(sees(&image.expose(canary.path()).unwrap(), canary.path()), "{}", canary.path());
    }
}

#[test]
#[ignore = "needs root: puts secrets where they lie"]
fn the_data_of_a_daemon() {
    use std::os::unix::fs::{PermissionsExt, chown};
    struct Dir(PathBuf);
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
    let image = host();
    for dir in ["/var/lib", "/var/spool"] {
        // As PostgreSQL has it: everybody may enter the upper two.
        let dir = Dir(Path::new(dir).join(format!("coracle-canary-{}", std::process::id())));
        let main = dir.0.join("15/main");
        fs::create_dir_all(&main).unwrap();
        let canary = canary_in(main.to_str().unwrap(), "secret").unwrap();
        assert!(sees(&image, canary.path()), "root's own");
        for path in [&dir.0, &dir.0.join("15"), &main] {
            chown(path, Some(1), Some(1)).unwrap();
        }
        fs::set_permissions(&main, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!sees(&image, canary.path()), "{}", canary.path());
        assert!(sees(&image.expose(&main).unwrap(), canary.path()), "{}", canary.path());
        // What covers it has room for what is asked for, and for nothing else.
        let own = dir.0.join("data");
        let script = format!("cd {} && ls && echo x >data/x && ! echo x >y", dir.0.display());
        assert_eq!(say(&sh(&image, &script).tmpfs(&own)), "data");
    }
}

#[test]
fn the_hosts_files_stay_as_they_are() {
    let image = host();
    let mut script = "rm /etc/passwd; echo x >/etc/new; echo x >/usr/new; echo x >/tmp/coracle-new; \
        chown 1:1 /etc /usr 2>/dev/null; chmod 777 /etc /usr; ls /usr/new"
        .to_owned();
    if is_root() {
        // For an ordinary user's container, what lies deeper belongs to nobody.
        script.push_str("; rm -rf /usr/share/doc; mv /usr/bin/env /usr/bin/env2; ls /usr/bin/env2");
    }
    assert!(say(&sh(&image, &script)).starts_with("/usr/new"));
    // By content: others may add users meanwhile.
    assert!(fs::read_to_string("/etc/passwd").unwrap().starts_with("root:"));
    use std::os::unix::fs::MetadataExt;
    for dir in ["/etc", "/usr"] {
        let meta = fs::metadata(dir).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 0, 0o755), "{dir}");
    }
    for path in ["/etc/new", "/usr/new", "/tmp/coracle-new", "/usr/bin/env2"] {
        assert!(!Path::new(path).exists(), "{path}");
    }
}

/// Also where the first start went wrong on its way.
#[test]
fn files_directly_in_the_root_are_there() {
    let files = fs::read_dir("/").unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file())).collect();
    files.sort();
    let dir = tempfile::tempdir().unwrap();
    let given = dir.path().join("given");
    fs::create_dir(&given).unwrap();
    let image = host();
    let script = "find / -maxdepth 1 -type f | LC_ALL=C sort";
    let builder = sh(&image, script).bind(&given, "/mnt").stdout(coracle::Stdio::piped());
    let container = builder.create().unwrap();
    fs::remove_dir(&given).unwrap();
    assert_eq!(container.start().unwrap_err().kind(), ErrorKind::NotFound);
    fs::create_dir(&given).unwrap();
    for _ in 0..2 {
        container.start().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut container.take_stdout().unwrap(), &mut said).unwrap();
        assert!(container.wait().unwrap().success());
        assert_eq!(said.lines().map(PathBuf::from).collect::<Vec<_>>(), files);
    }
}
