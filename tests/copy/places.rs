//! What a container has mounted, and what it may not write to.

use super::*;
use coracle::{ErrorKind, Mount, State, Volume};

/// The same container, as it was made, and running.
fn twice(builder: &coracle::ContainerBuilder, test: impl Fn(&Container)) {
    let container = builder.create().unwrap();
    test(&container);
    container.start().unwrap();
    test(&container);
    assert_eq!(container.state(), State::Running);
}

#[test]
fn volumes_and_binds_are_there_whether_it_runs_or_not() {
    let image = host();
    let volume = Volume::create(image.store(), "v").unwrap();
    let bound = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "f").unwrap();
    let builder = sh(&image, "sleep 1000")
        .volume(&volume, "/srv/v")
        .mount(Mount::bind(bound.path(), "/srv/bound"))
        .mount(Mount::bind(bound.path(), "/srv/ro").read_only());
    twice(&builder, |container| {
        for to in ["/srv/v", "/srv/bound"] {
            container.copy_in(dir.path().join("f"), to).unwrap();
            assert_eq!(read(container, &format!("{to}/f")), "f");
        }
        assert_eq!(fs::read_to_string(bound.path().join("f")).unwrap(), "f");
        // The container's root is the caller there.
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert_eq!((stat(&bound.path().join("f")).0, stat(&bound.path().join("f")).1), me);
        let other = sh(&image, "cat /v/f").volume(&volume, "/v");
        assert_eq!(say(&other), "f");
        fs::remove_file(bound.path().join("f")).unwrap();
        assert_eq!(say(&sh(&image, "rm /v/f; ls /v").volume(&volume, "/v")), "");
        let error = container.copy_in(dir.path().join("f"), "/srv/ro").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
        assert_eq!(outside(bound.path()), [""; 0]);
    });
}

#[test]
fn what_is_in_memory_is_there_while_it_runs() {
    let image = host();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "f").unwrap();
    let container = sh(&image, "echo; sleep 1000").mount(Mount::tmpfs("/srv/t")).create().unwrap();
    let error = container.copy_in(dir.path().join("f"), "/srv/t").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    container.start().unwrap();
    container.copy_in(dir.path().join("f"), "/srv/t").unwrap();
    assert_eq!(text(&container.exec(["cat", "/srv/t/f"]).output().unwrap().stdout), "f");
    assert_eq!(read(&container, "/srv/t/f"), "f");

    let container = sh(&image, "sleep 1000").writable_in_memory(true).create().unwrap();
    let error = container.copy_in(dir.path().join("f"), "/f").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
    container.start().unwrap();
    container.copy_in(dir.path().join("f"), "/f").unwrap();
    assert_eq!(read(&container, "/f"), "f");
}

#[test]
fn a_root_that_is_read_only_stays_so() {
    let image = host();
    let volume = Volume::create(image.store(), "v").unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "f").unwrap();
    twice(&sh(&image, "sleep 1000").read_only(true).volume(&volume, "/srv/v"), |container| {
        for to in ["/f", "/etc", "/etc/passwd", "/etc/new"] {
            let error = container.copy_in(dir.path().join("f"), to).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("read-only")), "{error}");
        }
        container.copy_in(dir.path().join("f"), "/srv/v").unwrap();
        container.copy_out("/etc/passwd", dir.path()).unwrap();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("passwd")).unwrap(), passwd);
    });
}

#[test]
fn a_file_that_is_mounted_is_not_replaced() {
    let image = host();
    let dir = tempfile::tempdir().unwrap();
    let (mounted, new) = (dir.path().join("mounted"), dir.path().join("new"));
    fs::write(&mounted, "mounted").unwrap();
    fs::write(&new, "new").unwrap();
    twice(&sh(&image, "sleep 1000").mount(Mount::bind(&mounted, "/srv/file")), |container| {
        let error = container.copy_in(&new, "/srv/file").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
        assert!(error.remedy().is_some(), "{error}");
        assert_eq!(read(container, "/srv/file"), "mounted");
    });
    assert_eq!(fs::read_to_string(&mounted).unwrap(), "mounted");
}

#[test]
fn a_paused_container_is_reached() {
    let image = host();
    let container = ready(&sh(&image, "echo; sleep 1000"));
    match container.pause() {
        Ok(()) => {}
        // Where nothing can be paused.
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
    container.copy_in("/etc/passwd", "/p").unwrap();
    assert_eq!(read(&container, "/p"), fs::read_to_string("/etc/passwd").unwrap());
    assert_eq!(container.state(), State::Paused);
}

#[test]
fn a_kept_container_keeps_what_was_copied() {
    let image = host();
    let store = image.store().clone();
    let container = sh(&image, "cat /into; echo out >/from").name("kept").create().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "into\n").unwrap();
    container.keep().unwrap();
    let container = store.container("kept").unwrap();
    container.copy_in(dir.path().join("f"), "/into").unwrap();
    drop(container);
    let container = store.container("kept").unwrap();
    container.start().unwrap();
    assert!(container.wait().unwrap().success());
    assert_eq!(text(&container.logs(coracle::Stream::Stdout).unwrap()), "into");
    drop(container);
    let container = store.container("kept").unwrap();
    assert_eq!(read(&container, "/from"), "out\n");
    container.remove().unwrap();
}

/// An overlay does not share its writable layer: one waits for the other, and neither loses anything.
#[test]
fn copies_and_starts_wait_for_each_other() {
    let image = host();
    let container = sh(&image, "cat /n* | wc -l; echo x >/w$(date +%N)").create().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "line\n").unwrap();
    container.copy_in(dir.path().join("f"), "/n").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let copies: Vec<_> = (0..2)
            .map(|thread| {
                let (container, done, file) = (&container, &done, dir.path().join("f"));
                scope.spawn(move || {
                    let mut n = 0;
                    while n == 0 || !done.load(std::sync::atomic::Ordering::Relaxed) {
                        container.copy_in(&file, format!("/n{thread}-{n}")).unwrap();
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        for _ in 0..tries(8) {
            container.start().unwrap();
            assert!(container.wait().unwrap().success());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let copied: usize = copies.into_iter().map(|thread| thread.join().unwrap()).sum();
        container.start().unwrap();
        assert!(container.wait().unwrap().success());
        let lines = text(&container.logs(coracle::Stream::Stdout).unwrap());
        assert_eq!(lines, (copied + 1).to_string());
    });
}
