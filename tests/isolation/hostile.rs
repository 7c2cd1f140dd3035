//! Images made to get out of their container.
use super::*;
use std::path::Path;

enum Entry<'a> {
    Link(&'a str),
    Dir,
    /// Block or character device: major, minor.
    Block(u32, u32),
    Char(u32, u32),
    Program(&'a [u8], u32),
}

fn import(store: &coracle::Store, entries: &[(&str, Entry<'_>)]) -> Image {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = tar::Header::new_ustar();
        let mut data: &[u8] = b"";
        header.set_mode(0o755);
        header.set_path(path).unwrap();
        match entry {
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name_literal(target).unwrap();
            }
            Entry::Dir => header.set_entry_type(tar::EntryType::Directory),
            Entry::Block(major, minor) | Entry::Char(major, minor) => {
                let is_block = matches!(entry, Entry::Block(..));
                header.set_entry_type(if is_block { tar::EntryType::Block } else { tar::EntryType::Char });
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                header.set_mode(0o666);
            }
            Entry::Program(bytes, mode) => {
                data = bytes;
                header.set_mode(*mode);
            }
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        archive.append(&header, data).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    fs::write(&path, archive.into_inner().unwrap()).unwrap();
    Image::import(store, &path, "hostile:1").unwrap()
}

/// An image whose only program is busybox.
fn busybox(more: Vec<(&str, Entry<'_>)>) -> Image {
    let program = fs::read("/bin/busybox").expect("busybox-static, which this test needs");
    let mut entries = vec![("bin/", Entry::Dir), ("bin/busybox", Entry::Program(&program, 0o755))];
    for applet in
        ["bin/sh", "bin/cat", "bin/ls", "bin/mknod", "bin/mount", "bin/head", "bin/touch", "bin/stat"]
    {
        entries.push((applet, Entry::Link("busybox")));
    }
    entries.extend(more);
    import(&coracle::Store::temp().unwrap(), &entries)
}

/// A directory of the host that an image's links lead to.
struct Target(tempfile::TempDir);

impl Target {
    fn new() -> Self {
        // Readable by all: what keeps a container out is not the mode.
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.path().join("canary"), "canary").unwrap();
        Self(dir)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(fs::read_to_string(self.0.path().join("canary")).unwrap(), "canary");
        assert_eq!(count(self.0.path()), 1);
    }
}

/// No program is needed for these: what they would harm is done before one is executed.
#[test]
fn links_at_the_places_of_mounts_and_files() {
    let target = Target::new();
    let climbing = format!("../../../../../../../..{}", target.path());
    for link in [target.path(), &climbing] {
        let store = coracle::Store::temp().unwrap();
        let image =
            import(&store, &[("way", Entry::Link(link)), ("x", Entry::Dir), ("x/way", Entry::Link(link))]);
        let volume = coracle::Volume::create(&store, "v").unwrap();
        let builders = [
            Container::builder(&image).file("/way/new", "written"),
            Container::builder(&image).file("/way/canary", "written"),
            Container::builder(&image).file("/way", "written"),
            Container::builder(&image).file("/x/way/deep/new", "written"),
            Container::builder(&image).tmpfs("/way/new"),
            Container::builder(&image).tmpfs("/way"),
            Container::builder(&image).volume(&volume, "/x/way/sub"),
            Container::builder(&image).bind(target.path(), "/way/again"),
            Container::builder(&image).working_dir("/way/made"),
        ];
        for builder in builders {
            let error = builder.command(["/no-program"]).run().unwrap_err();
            assert!(error.kind() != ErrorKind::Gone, "{error}");
            target.assert_untouched();
        }
    }
}

#[test]
fn links_in_place_of_proc_sys_and_dev() {
    let target = Target::new();
    let inside = format!("{}/", target.path().trim_start_matches('/'));
    for name in ["proc", "sys", "dev"] {
        for link in [target.path(), "/", ".", "elsewhere", "loop"] {
            let mut entries =
                vec![(name, Entry::Link(link)), ("loop", Entry::Link("loop")), ("elsewhere", Entry::Dir)];
            entries.push((&inside, Entry::Dir));
            let image = import(&coracle::Store::temp().unwrap(), &entries);
            let error = Container::builder(&image).command(["/no-program"]).run().unwrap_err();
            // Refused, or mounted where the link leads in the image: then only the program is missing.
            assert!(error.kind() != ErrorKind::Gone, "{name} {link}: {error}");
            target.assert_untouched();
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(target.path()));
}

/// What is made or mounted below those three is made in what the container has there, not where an image's link leads.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn links_in_place_of_what_lies_in_proc_sys_and_dev() {
    const PLACES: [&str; 18] = [
        "dev/pts",
        "dev/pts/ptmx",
        "dev/shm",
        "dev/mqueue",
        "dev/null",
        "dev/zero",
        "dev/random",
        "dev/tty",
        "dev/console",
        "dev/ptmx",
        "dev/fd",
        "dev/stdout",
        "sys/fs",
        "sys/fs/cgroup",
        "sys/kernel",
        "proc/sys",
        "proc/self",
        "proc/1",
    ];
    let target = Target::new();
    let climbing = format!("../../../../../../../..{}", target.path());
    let file = format!("{}/canary", target.path());
    let name = format!("coracle-hostile-{}", std::process::id());
    let script = format!(
        "echo x >/dev/shm/{name} || echo no shm; test -L /dev/mqueue && echo link; : 2>/dev/null >/dev/mqueue/{name}; for f in null zero random tty; do \
         test -c /dev/$f && ! test -L /dev/$f || echo no $f; done; echo x >/dev/null; test -c /dev/ptmx || echo no ptmx; \
         head -c 3 /dev/zero | busybox wc -c; \
         ls /dev/pts; echo x >/dev/stdout; test -d /proc/self/ns && test -d /proc/1/ns && test -d /proc/sys/kernel || \
         echo no proc; test -e /sys/fs/cgroup/canary && echo canary; echo $? >/dev/fd/1"
    );
    for link in [target.path(), &climbing, &file, "/etc", "../../..", "/", "."] {
        let program = fs::read("/bin/busybox").expect("busybox-static, which this test needs");
        for some in [&PLACES[..], &["dev/pts/ptmx"], &["sys/fs/cgroup"]] {
            let mut entries = vec![("bin/", Entry::Dir), ("bin/busybox", Entry::Program(&program, 0o755))];
            entries.extend(["bin/sh", "bin/ls", "bin/head"].map(|applet| (applet, Entry::Link("busybox"))));
            entries.extend(["dev/", "sys/", "proc/", "etc/"].map(|name| (name, Entry::Dir)));
            if some.len() == 1 {
                entries.extend(["dev/pts/", "sys/fs/"].map(|name| (name, Entry::Dir)));
            }
            // What would lie behind a link of the same image has no place.
            let below =
                |name: &str| some.iter().any(|at| name.strip_prefix(at).is_some_and(|n| n.starts_with('/')));
            entries.extend(some.iter().filter(|name| !below(name)).map(|name| (*name, Entry::Link(link))));
            let image = import(&coracle::Store::temp().unwrap(), &entries);
            for builder in [sh(&image, &script), sh(&image, &script).read_only(true)] {
                assert_eq!(say(&builder), "3\nptmx\nx\n1", "{link}");
                target.assert_untouched();
            }
        }
    }
    for dir in ["/etc", "/dev/shm", "/dev/mqueue", "/"] {
        assert!(!Path::new(dir).join(&name).exists(), "{dir}");
    }
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn devices_of_an_image_are_none() {
    let disk = fs::read_to_string("/proc/partitions").unwrap();
    let disk = disk.lines().skip(2).find_map(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u32>());
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    });
    let (major, minor) = disk.unwrap_or((8, 0));
    let image = busybox(vec![
        ("disk", Entry::Block(major, minor)),
        ("mem", Entry::Char(1, 1)),
        ("null", Entry::Char(1, 3)),
        ("dir/", Entry::Dir),
        ("dir/disk", Entry::Block(major, minor)),
    ]);
    let script = "for f in /disk /mem /null /dir/disk; do \
        head -c 1 $f >/dev/null 2>&1 && echo read $f; test -b $f && echo block $f; \
        test -e $f && { echo x >$f; } 2>/dev/null && test -c $f && echo wrote $f; done; \
        mknod /own b 8 0 2>/dev/null && head -c 1 /own >/dev/null 2>&1 && echo own; true";
    assert_eq!(say(&sh(&image, script)), "");
    let all = sh(&image, script).cap_add("ALL").seccomp(coracle::Seccomp::Unconfined);
    assert_eq!(say(&all), "");
}

/// A block device of this machine, as any disk of its is one: a file, which everybody may read and write as a disk.
struct Disk {
    file: tempfile::NamedTempFile,
    device: String,
}

const ON_DISK: &[u8; 4096] = &[b'S'; 4096];

impl Disk {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let content = ON_DISK.repeat(256);
        fs::write(file.path(), content).unwrap();
        let path = file.path().to_str().unwrap();
        let device = peer("losetup", ["--find", "--show", "--direct-io=off", path]).trim().to_owned();
        // What keeps anybody out is not its mode.
        fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).unwrap();
        Self { file, device }
    }

    fn numbers(&self) -> (u32, u32) {
        use std::os::unix::fs::MetadataExt;
        let number = fs::metadata(&self.device).unwrap().rdev();
        (rustix::fs::major(number), rustix::fs::minor(number))
    }

    #[track_caller]
    fn assert_untouched(&self) {
        peer("sync", [&self.device]);
        let content = fs::read(self.file.path()).unwrap();
        assert!(content == ON_DISK.repeat(256), "the disk was written");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        use std::os::unix::fs::PermissionsExt;
        let _ = fs::set_permissions(&self.device, fs::Permissions::from_mode(0o660));
        peer("losetup", ["--detach", &self.device]);
    }
}

/// Set for who is to try it: the device's numbers.
const DISK: &str = "CORACLE_TEST_DISK";

/// Not a test when run by itself: what is tried with a disk, as whoever this is.
#[test]
fn a_disk_of_the_host_is_tried() {
    let Ok(numbers) = std::env::var(DISK) else { return };
    let (major, minor) = numbers.split_once(':').unwrap();
    let [major, minor] = [major, minor].map(|number| number.parse().unwrap());
    let image = busybox(vec![
        ("disk", Entry::Block(major, minor)),
        ("dir/", Entry::Dir),
        ("dir/disk", Entry::Block(major, minor)),
    ]);
    let script = format!(
        "exec 2>/dev/null; mknod /own b {major} {minor} && echo own; busybox mkdir -p /at; \
         for f in /disk /dir/disk /own; do head -c 3 $f; busybox dd if=$f bs=512 count=1; \
         test -b $f && {{ echo written | busybox dd of=$f conv=notrunc; busybox cp $f /copy; head -c 3 /copy; }}; \
         mount -t ext4 $f /at && echo mounted; mount -o bind,dev $f /at/f && echo bound; done; true"
    );
    for builder in [
        sh(&image, &script),
        sh(&image, &script).cap_add("MKNOD").cap_add("SYS_RAWIO"),
        sh(&image, &script).cap_add("ALL").seccomp(coracle::Seccomp::Unconfined),
        sh(&image, &script).network(coracle::Network::host()),
    ] {
        let out = builder.run().unwrap();
        assert!(!out.stdout_text().contains('S'), "{}", out.stdout_text());
        assert!(
            !["own", "mounted", "bound"].iter().any(|word| out.stdout_text().contains(word)),
            "{}",
            out.stdout_text()
        );
    }
    println!("tried");
}

#[test]
#[ignore = "needs root and busybox: a loop device"]
fn a_device_of_an_image_reaches_no_disk() {
    let disk = Disk::new();
    // It is one, for whoever can open it.
    assert_eq!(peer("head", ["-c", "3", &disk.device]), "SSS");
    let (major, minor) = disk.numbers();
    let numbers = format!("{major}:{minor}");
    let other = super::host_program::OtherUser::new(543_212);
    let test = ["--exact", "hostile::a_disk_of_the_host_is_tried", "--nocapture"];
    let as_root = std::process::Command::new(std::env::current_exe().unwrap());
    let mut as_user = std::process::Command::new("setpriv");
    as_user.args(&other.become_it()[1..]).arg(&other.program);
    as_user.env("HOME", &other.own).env("TMPDIR", &other.own).env_remove("XDG_DATA_HOME").current_dir("/");
    for mut command in [as_root, as_user] {
        let out = command.args(test).env(DISK, &numbers).stdin(std::process::Stdio::null()).output().unwrap();
        let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
        assert!(out.status.success() && said.contains("tried"), "{said}");
        disk.assert_untouched();
    }
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn set_user_id_programs_of_an_image_are_none() {
    let program = fs::read("/bin/busybox").unwrap();
    let image = busybox(vec![
        ("bin/id", Entry::Program(&program, 0o4755)),
        ("etc/", Entry::Dir),
        ("etc/passwd", Entry::Program(b"root:x:0:0::/:/bin/sh\nuser:x:5:5::/:/bin/sh\n", 0o644)),
    ]);
    let builder = Container::builder(&image).command(["/bin/id", "-u"]).user("user");
    match builder.run() {
        Ok(out) => assert_eq!(text(&out.stdout), "5"),
        // A single id only.
        Err(error) => assert!(error.remedy().is_some(), "{error}"),
    }
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn mounts_of_an_image_can_not_be_changed() {
    let target = Target::new();
    let image = busybox(vec![("v/", Entry::Dir)]);
    let script = "exec 2>/dev/null; for m in / /v /proc /sys; do \
        mount -o remount,bind,rw $m && touch $m/written && echo rw $m; \
        mount -o remount,bind,dev,suid,exec $m && mknod $m/n c 1 3 && echo x >$m/n && echo dev $m; done; true";
    let builder = sh(&image, script)
        .mount(coracle::Mount::bind(target.path(), "/v").read_only())
        .read_only(true)
        .cap_add("ALL")
        .seccomp(coracle::Seccomp::Unconfined);
    assert_eq!(say(&builder), "");
    target.assert_untouched();
}

/// What the kernel would execute for it is what the process was before: never a program of the host.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn an_entry_point_that_is_proc_self_exe() {
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    let image = busybox(vec![
        ("entry", Entry::Program(b"#!/proc/self/exe\n", 0o755)),
        ("link", Entry::Link("/proc/self/exe")),
    ]);
    for word in ["/entry", "/link"] {
        match Container::builder(&image).entrypoint([word]).timeout(Duration::from_secs(10)).run() {
            Ok(out) => assert!(!text(&out.stdout).contains("running"), "{word}: {}", text(&out.stdout)),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Exec | ErrorKind::TimedOut), "{word}: {error}")
            }
        }
    }
    assert!(Path::new("/proc/self/exe").exists());
    assert_eq!(fs::read(std::env::current_exe().unwrap()).unwrap(), own);
}

/// What a link of the image's would lead beneath a mount is not written for nobody to see.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_file_that_a_mount_would_hide_is_an_error() {
    let dirs = ["real/", "real/c/", "t/", "t/in/", "data/", "data/c/", "x/"].map(|name| (name, Entry::Dir));
    let links = [
        ("way", Entry::Link("/real")),
        ("far", Entry::Link("/t/in")),
        ("deep", Entry::Link("/real/c")),
        ("app", Entry::Link("data/c")),
        ("status", Entry::Link("/proc")),
        ("knobs", Entry::Link("/sys")),
        ("nodes", Entry::Link("/dev")),
    ];
    let image = busybox(dirs.into_iter().chain(links).collect());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("own"), "").unwrap();
    // What is mounted may have links as well.
    let others = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/x", others.path().join("c")).unwrap();
    let into_proc = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/proc", into_proc.path().join("c")).unwrap();
    let plain = |path: &str| sh(&image, "true").file(path, "x");
    for builder in [
        plain("/way/a").tmpfs("/real"),
        plain("/real/a").tmpfs("/way"),
        plain("/deep/a").tmpfs("/real"),
        plain("/way/deep/a").bind(dir.path(), "/real"),
        plain("/real/a").bind(dir.path().join("own"), "/way/a"),
        plain("/t/in/a").tmpfs("/t").tmpfs("/far"),
        plain("/app/a").bind(others.path(), "/data"),
        plain("/app/a").file("/x/a", "y").bind(others.path(), "/data"),
        plain("/app/a").bind(into_proc.path(), "/data"),
    ] {
        let error = builder.run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let path = error.path().unwrap();
        assert!(path.ends_with("a") && error.remedy().unwrap().contains("behind the link"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::read(dir.path().join("own")).unwrap(), b"");
    // What is mounted later than all else.
    for link in ["/status", "/knobs", "/nodes"] {
        for builder in [plain(&format!("{link}/a")), sh(&image, "true").tmpfs(format!("{link}/a"))] {
            let error = builder.run().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
            assert!(error.remedy().unwrap().contains("leads into /proc, /sys or /dev"), "{error}");
        }
        for builder in [sh(&image, "true").tmpfs(link), sh(&image, "true").bind(dir.path(), link)] {
            let error = builder.run().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.remedy().unwrap().contains("leads a mount there"), "{error}");
        }
    }
    let seen = sh(&image, "cat /real/b /t/in/a").file("/way/b", "b").file("/t/in/a", "a").tmpfs("/t");
    assert_eq!(say(&seen.read_only(true)), "ba");
    // As many as are asked for: none of them keeps a descriptor of the set-up.
    let many = (0..600)
        .fold(sh(&image, "ls /way | busybox grep -c ^[0-9]"), |b, n| b.file(format!("/way/{n}"), "x"));
    assert_eq!(say(&many), "600");
}

/// Of the image, which this machine does not have, and of mounts.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn other_paths_can_be_covered_and_made_read_only() {
    let entries = [
        ("own/", Entry::Dir),
        ("own/data", Entry::Program(b"x", 0o644)),
        ("note", Entry::Program(b"secret", 0o644)),
    ];
    let image = busybox(entries.into());
    let volume = coracle::Volume::create(image.store(), "v").unwrap();
    let script = "ls /own; cat /note; echo $?";
    let builder = sh(&image, script).masked_paths(["/own", "/note", "/nowhere"]);
    assert_eq!(say(&builder), "0");
    let script = "cat /own/data; echo; for f in /own/new /own/in/new; do (echo >$f) 2>/dev/null || echo no; done; \
        busybox cp /bin/busybox /other; /own/in/busybox true && echo runs; cat /own/in/kept";
    let fill =
        sh(&image, "busybox cp /bin/busybox /own/in; echo kept >/own/in/kept").volume(&volume, "/own/in");
    say(&fill);
    let builder = sh(&image, script).volume(&volume, "/own/in").read_only_paths(["/own", "/nowhere"]);
    assert_eq!(say(&builder), "x\nno\nno\nruns\nkept");
    // A part of what can't be written is covered all the same, of docker's list and of another.
    let builder = sh(&image, "cat /proc/sys/kernel/ostype /own/data; echo none");
    let builder = builder.masked_paths(["/proc/sys/kernel/ostype", "/own/data"]);
    assert_eq!(say(&builder), "none");
    assert_eq!(say(&builder.clone().read_only_paths(["/own"])), "none");
    for path in ["/", "", "own", "/own/../note", "/no\0te"] {
        for builder in [builder.clone().masked_paths([path]), builder.clone().read_only_paths([path])] {
            let error = builder.create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}: {error}");
        }
    }
}

/// What every container gets in /etc has to find a file there, or nothing.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_directory_in_place_of_a_file_of_etc_is_told() {
    for name in ["etc/hosts/", "etc/resolv.conf/"] {
        let error = sh(&busybox(vec![("etc/", Entry::Dir), (name, Entry::Dir)]), "true").run().unwrap_err();
        assert_eq!(error.path(), Some(Path::new("/").join(name.trim_end_matches('/')).as_path()), "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("no file")), "{error}");
    }
}

/// A container that runs may have made anything of /etc/passwd by the time that a command joins it.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_a_container_makes_of_its_users_is_not_read() {
    let container = sh(&busybox(vec![]), "busybox sleep 1000").start().unwrap();
    let run = |script: &str| container.exec(["/bin/sh", "-c", script]).user("0:0").output().unwrap();
    for make in
        ["ln -s /proc/kmsg", "ln -s /proc/version", "ln -s /etc/passwd", "mkfifo", "mkdir", "ln -s /dev/null"]
    {
        let out = run(&format!(
            "busybox rm -rf /etc/passwd; busybox mkdir -p /etc; busybox {make} /etc/passwd && echo made"
        ));
        assert_eq!(out.stdout_text(), "made\n", "{make}: {}", out.stderr_text());
        assert_eq!(run("echo joined").stdout_text(), "joined\n", "{make}");
        let error = container.exec(["/bin/sh"]).user("Linux").output().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{make}: {error}");
    }
}
