//! Overlays that are in no mount table.
use super::LONG;
use super::common::{ends, is_root};
use coracle::{ErrorKind, IdMap, Layer, Namespaces, Overlay, OverlayMount, Store};
use rustix::fs::inotify;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags, makedev, mknodat, openat};
use rustix::io::Errno;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Directories with a file in each, named after it.
fn dirs(names: &[&str]) -> (TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &&str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        if *name != "upper" && *name != "work" {
            fs::write(path.join(name), *name).unwrap();
        }
        path
    };
    let paths = names.iter().map(make).collect();
    (dir, paths)
}

/// Over one lower directory.
fn writable(names: &[&str]) -> (TempDir, Overlay) {
    let (dir, lowers) = dirs(names);
    for name in ["upper", "work"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let overlay = lowers.into_iter().fold(Overlay::new(), Overlay::lower);
    let overlay = overlay.upper(dir.path().join("upper"), dir.path().join("work"));
    (dir, overlay)
}

#[track_caller]
fn read(mounted: &OverlayMount, name: &str) -> String {
    fs::read_to_string(mounted.path().join(name)).unwrap()
}

fn mountinfo() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn whiteout(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
}

fn is_whiteout(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

#[test]
fn reads_through_and_writes_above() {
    let (dir, overlay) = writable(&["a", "b"]);
    fs::write(dir.path().join("b/a"), "hidden").unwrap();
    let before = mountinfo();
    let mounted = overlay.mount().unwrap();
    assert_eq!((read(&mounted, "a").as_str(), read(&mounted, "b").as_str()), ("a", "b"));
    fs::write(mounted.path().join("a"), "changed").unwrap();
    fs::create_dir_all(mounted.path().join("new/deep")).unwrap();
    fs::remove_file(mounted.path().join("b")).unwrap();
    assert_eq!(read(&mounted, "a"), "changed");
    assert!(!mounted.path().join("b").exists());
    assert_eq!(fs::metadata(mounted.path().join("new")).unwrap().uid(), rustix::process::geteuid().as_raw());
    // Below nothing has changed; above is what has.
    assert_eq!(fs::read_to_string(dir.path().join("a/a")).unwrap(), "a");
    assert_eq!(fs::read_to_string(dir.path().join("b/b")).unwrap(), "b");
    assert_eq!(fs::read_to_string(dir.path().join("upper/a")).unwrap(), "changed");
    assert!(dir.path().join("upper/new/deep").is_dir());
    assert!(is_whiteout(&dir.path().join("upper/b")));
    assert_eq!(mountinfo(), before);
    drop(mounted);
    // Its upper directory is what the next one goes on with.
    let mounted = overlay.mount().unwrap();
    assert_eq!(read(&mounted, "a"), "changed");
    assert!(!mounted.path().join("b").exists());
}

#[test]
fn whiteouts_and_opaque_directories_hide() {
    let (_dir, lowers) = dirs(&["top", "bottom"]);
    for name in ["gone", "kept"] {
        fs::write(lowers[1].join(name), name).unwrap();
    }
    whiteout(&lowers[0].join("gone"));
    for lower in &lowers {
        fs::create_dir(lower.join("opaque")).unwrap();
    }
    fs::write(lowers[0].join("opaque/new"), "").unwrap();
    fs::write(lowers[1].join("opaque/old"), "").unwrap();
    let name = if is_root() { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
    rustix::fs::setxattr(lowers[0].join("opaque"), name, b"y", XattrFlags::empty()).unwrap();
    let mounted = Overlay::new().lower(&lowers[0]).lower(&lowers[1]).mount().unwrap();
    let names = |dir: &str| {
        let entries = fs::read_dir(mounted.path().join(dir)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["bottom", "kept", "opaque", "top"]);
    assert_eq!(names("opaque"), ["new"]);
}

#[test]
fn read_only_without_an_upper_directory() {
    let (_dir, lowers) = dirs(&["one", "two"]);
    for count in [1, 2] {
        let overlay = lowers[..count].iter().fold(Overlay::new(), Overlay::lower);
        // As often as one likes.
        let (mounted, again) = (overlay.mount().unwrap(), overlay.mount().unwrap());
        assert_eq!((read(&mounted, "one"), read(&again, "one")), ("one".into(), "one".into()));
        assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), count);
        let error = fs::write(mounted.path().join("new"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
        let error = fs::write(mounted.path().join("one"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    }
    assert_eq!(fs::read_to_string(lowers[0].join("one")).unwrap(), "one");
}

/// inotify(7) tells when a filesystem is unmounted for good.
fn watch(mounted: &OverlayMount) -> OwnedFd {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&inotify, mounted.path(), inotify::WatchFlags::DELETE_SELF).unwrap();
    inotify
}

#[test]
fn gone_with_its_last_descriptor() {
    let (dir, overlay) = writable(&["lower"]);
    let mounted = overlay.mount().unwrap();
    let told = watch(&mounted);
    let mut file = fs::File::open(mounted.path().join("lower")).unwrap();
    let path = mounted.path().join("lower");
    assert!(!ends(&told, std::time::Duration::ZERO));
    // Another test's descriptor may have the number then, and a file of that name.
    let seen = || fs::metadata(&path).ok().map(|meta| (meta.dev(), meta.ino()));
    let before = seen();
    assert!(before.is_some());
    drop(mounted);
    assert_ne!(seen(), before);
    // An open file holds it.
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "lower");
    assert!(!ends(&told, std::time::Duration::ZERO));
    drop(file);
    assert!(ends(&told, LONG), "the overlay is still there");
    let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
    let mut events = inotify::Reader::new(&told, &mut buffer);
    assert!(events.next().unwrap().events().contains(inotify::ReadFlags::UNMOUNT));
    assert!(!mountinfo().contains(dir.path().to_str().unwrap()));
}

#[test]
fn sixty_lower_directories_in_their_order() {
    let names: Vec<_> = (0..60).map(|n| format!("dir{n}")).collect();
    let (_dir, lowers) = dirs(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for (n, lower) in lowers.iter().enumerate() {
        // Each hides what the next ones have.
        fs::write(lower.join("all"), n.to_string()).unwrap();
        fs::write(lower.join(format!("from{}", n / 7)), n.to_string()).unwrap();
    }
    let mounted = lowers.iter().fold(Overlay::new(), Overlay::lower).mount().unwrap();
    assert_eq!(read(&mounted, "all"), "0");
    for n in 0..60 {
        assert_eq!(read(&mounted, &format!("dir{n}")), format!("dir{n}"));
    }
    for n in 0..9 {
        assert_eq!(read(&mounted, &format!("from{n}")), (n * 7).to_string());
    }
    drop(mounted);
    let many = lowers.iter().cycle().take(501).fold(Overlay::new(), Overlay::lower);
    assert_eq!(many.mount().unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn five_hundred_lower_directories() {
    let names: Vec<_> = (0..500).map(|n| format!("dir{n}")).collect();
    let (_dir, lowers) = dirs(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mounted = lowers.iter().fold(Overlay::new(), Overlay::lower).mount().unwrap();
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 500);
}

/// As openat2(2), asked again when a rename anywhere in the system made the kernel give up (EAGAIN).
fn openat2(
    dir: &OverlayMount,
    path: &str,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    loop {
        match rustix::fs::openat2(dir, path, flags, mode, resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

#[test]
fn the_descriptor_is_a_root() {
    let (dir, overlay) = writable(&["lower"]);
    fs::create_dir_all(dir.path().join("lower/etc")).unwrap();
    fs::write(dir.path().join("lower/etc/hostname"), "inside").unwrap();
    symlink("/etc/hostname", dir.path().join("lower/link")).unwrap();
    symlink("../../../../etc/hostname", dir.path().join("lower/up")).unwrap();
    let mounted = overlay.mount().unwrap();
    let text = |fd: OwnedFd| std::io::read_to_string(fs::File::from(fd)).unwrap();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    assert_eq!(text(openat(&mounted, "etc/hostname", flags, Mode::empty()).unwrap()), "inside");
    for link in ["link", "up"] {
        let inside = openat2(&mounted, link, flags, Mode::empty(), ResolveFlags::IN_ROOT).unwrap();
        assert_eq!(text(inside), "inside", "{link}");
        let beneath = openat2(&mounted, link, flags, Mode::empty(), ResolveFlags::BENEATH);
        assert_eq!(beneath.unwrap_err(), Errno::XDEV, "{link}");
    }
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    drop(openat2(&mounted, "etc/new", create, Mode::from(0o640), ResolveFlags::IN_ROOT).unwrap());
    assert!(dir.path().join("upper/etc/new").is_file());
    rustix::fs::renameat(&mounted, "etc/new", &mounted, "newer").unwrap();
    rustix::fs::unlinkat(&mounted, "link", rustix::fs::AtFlags::empty()).unwrap();
    assert!(dir.path().join("upper/newer").is_file() && is_whiteout(&dir.path().join("upper/link")));
    // It is not the mount that a child of this program gets by accident.
    assert!(rustix::io::fcntl_getfd(&mounted).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert!(mounted.as_fd().try_clone_to_owned().is_ok());
}

#[test]
fn ids_of_lower_directories_are_mapped() {
    let (dir, overlay) = writable(&["lower"]);
    let overlay = overlay.id_map(IdMap::range(1_600_000_000, 1000));
    if !is_root() {
        let error = overlay.mount().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.remedy().is_some());
        return;
    }
    let file = dir.path().join("lower/lower");
    std::os::unix::fs::chown(&file, Some(33), Some(44)).unwrap();
    fs::write(dir.path().join("lower/far"), "").unwrap();
    std::os::unix::fs::chown(dir.path().join("lower/far"), Some(5000), Some(0)).unwrap();
    let mounted = overlay.mount().unwrap();
    let owner = |path: &str| {
        let meta = fs::metadata(mounted.path().join(path)).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!(owner("lower"), (1_600_000_033, 1_600_000_044));
    assert_eq!(owner("far"), (65534, 1_600_000_000), "beyond the map");
    // What is copied up has the ids that were seen.
    fs::set_permissions(mounted.path().join("lower"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    assert_eq!(fs::metadata(dir.path().join("upper/lower")).unwrap().uid(), 1_600_000_033);
    assert_eq!(fs::metadata(file).unwrap().uid(), 33);
}

#[test]
fn layers_of_a_store() {
    let store = Store::temp().unwrap();
    let base = Layer::builder().file("etc/a", "base").file("etc/b", "base").build(&store).unwrap();
    let top = Layer::builder().file("etc/a", "top").whiteout("etc/b").build(&store).unwrap();
    let mounted = Overlay::new().layers(&[top.clone(), base.clone()]).unwrap().mount().unwrap();
    drop((top, base));
    assert_eq!(read(&mounted, "etc/a"), "top");
    assert!(!mounted.path().join("etc/b").exists());
    assert_eq!(fs::write(mounted.path().join("etc/c"), "").unwrap_err().raw_os_error(), Some(30));
}

/// The call that says what is wrong with the whole, from Linux 6.15 on and before.
const REFUSING: [&str; 2] = ["fsconfig(FSCONFIG_CMD_CREATE)", "mount(\"overlay\")"];

#[test]
fn options() {
    // Renaming a directory that is below.
    let (dir, overlay) = writable(&["lower"]);
    fs::create_dir(dir.path().join("lower/dir")).unwrap();
    fs::write(dir.path().join("lower/dir/file"), "moved").unwrap();
    let rename = |overlay: &Overlay| {
        let mounted = overlay.mount()?;
        let done = fs::rename(mounted.path().join("dir"), mounted.path().join("renamed"));
        let done = done.map(|()| read(&mounted, "renamed/file"));
        Ok::<_, coracle::Error>(done.map_err(|error| error.raw_os_error()))
    };
    assert_eq!(rename(&overlay).unwrap(), Err(Some(Errno::XDEV.raw_os_error())));
    let redirect = overlay.clone().redirect_dir(true);
    match is_root() {
        true => assert_eq!(rename(&redirect).unwrap(), Ok("moved".into())),
        false => assert_eq!(rename(&redirect).unwrap_err().kind(), ErrorKind::InvalidInput),
    }
    let both = redirect.userxattr(true);
    assert_eq!(both.mount().unwrap_err().kind(), ErrorKind::InvalidInput);
    // The kernel's mark on one that is not synced.
    let (dir, overlay) = writable(&["lower"]);
    let overlay = overlay.volatile(true);
    drop(overlay.mount().unwrap());
    let mark = dir.path().join("work/work/incompat/volatile");
    let again = overlay.mount().unwrap_err();
    assert!(REFUSING.contains(&again.step()), "{again}");
    if is_root() {
        fs::remove_dir_all(mark).unwrap();
        overlay.mount().unwrap();
    }
    let (dir, overlay) = writable(&["lower"]);
    let user = overlay.userxattr(true).mount().unwrap();
    fs::create_dir(user.path().join("new")).unwrap();
    assert!(dir.path().join("upper/new").is_dir());
}

#[test]
fn what_can_not_be_is_an_error() {
    let (dir, overlay) = writable(&["lower"]);
    let lower = dir.path().join("lower");
    assert_eq!(Overlay::new().mount().unwrap_err().kind(), ErrorKind::InvalidInput);
    let error = overlay.clone().lower("/nowhere/at/all").mount().unwrap_err();
    assert_eq!(
        (error.kind(), error.path().unwrap().to_str()),
        (ErrorKind::NotFound, Some("/nowhere/at/all"))
    );
    let kind = |overlay: Overlay| overlay.mount().unwrap_err().kind();
    assert_eq!(kind(Overlay::new().lower(lower.join("lower"))), ErrorKind::InvalidInput);
    assert_eq!(kind(Overlay::new().lower("a\0b")), ErrorKind::InvalidInput);
    assert_eq!(kind(Overlay::new().lower(&lower).upper("/nowhere", "/nowhere")), ErrorKind::NotFound);
    // Another overlay is in no mount table, so its path means something else to everybody else.
    let below = Overlay::new().lower(&lower).mount().unwrap();
    assert_eq!(kind(Overlay::new().lower(below.path())), ErrorKind::Unsupported);
    // The kernel's own: a work directory on another filesystem.
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let upper = dir.path().join("upper");
    let error = Overlay::new().lower(&lower).upper(upper, shm.path()).mount().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(22), "{error}");
    // A work directory that is not on the upper's filesystem: some kernels say so at once.
    assert!(REFUSING.contains(&error.step()) || error.step() == "fsconfig(workdir)", "{error}");
}

#[test]
#[ignore = "needs root: a device node"]
fn device_nodes_are_not_opened() {
    let (dir, overlay) = writable(&["lower"]);
    let node = dir.path().join("lower/null");
    mknodat(CWD, &node, FileType::CharacterDevice, Mode::from(0o666), makedev(1, 3)).unwrap();
    fs::read(&node).unwrap();
    let mounted = overlay.mount().unwrap();
    let error = fs::File::open(mounted.path().join("null")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
}

/// As it is no mount of the warden's either, a command in namespaces does not see it.
#[test]
fn no_mount_table_has_it() {
    let (dir, overlay) = writable(&["lower"]);
    let mounted = overlay.mount().unwrap();
    let table = Namespaces::new().user().command(["cat", "/proc/self/mountinfo"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains(" / ") && !table.contains(dir.path().to_str().unwrap()), "{table}");
    assert_eq!(read(&mounted, "lower"), "lower");
}

/// Mount options of old end at commas, colons and 255 bytes.
#[test]
fn any_name_is_a_directory() {
    let long = ["n".repeat(200), "m".repeat(200)].concat();
    let (dir, _) = dirs(&[]);
    let make = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let odd = make("a:b,c\\d e\"");
    let deep = make(&format!("{}/{}", &long[..200], &long[200..]));
    fs::write(odd.join("odd"), "1").unwrap();
    fs::write(deep.join("deep"), "2").unwrap();
    let overlay = Overlay::new().lower(&odd).lower(&deep).upper(make("up:per"), make("wo,rk"));
    let mounted = overlay.mount().unwrap();
    assert_eq!((read(&mounted, "odd"), read(&mounted, "deep")), ("1".into(), "2".into()));
    fs::write(mounted.path().join("new"), "3").unwrap();
    assert!(dir.path().join("up:per/new").exists());
}
