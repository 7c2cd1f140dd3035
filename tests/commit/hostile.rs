//! Containers that mean no good.

use super::*;

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn a_name_that_would_hide_others_is_an_error() {
    let store = Store::temp().unwrap();
    let base = base(&store);
    for name in ["/etc/.wh.keep", "/.wh..wh..opq", "/opt/.wh.dir/x"] {
        let (container, _) =
            ended(&changing(&base, &format!("mkdir -p $(dirname {name}); touch {name}; touch /zz")));
        let error = container.commit("hiding:1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.path().unwrap().to_str().unwrap().contains(".wh."), "{error}");
        assert!(store.image("hiding:1").is_err());
        assert!(shown(&container).iter().any(|line| line.contains(".wh.")));
    }
    // What was removed is freed by another thread.
    eventually("nothing half-made is left", || count(store.path().join("tmp")) == 0);
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn what_is_too_deep_for_an_image_is_an_error() {
    let store = Store::temp().unwrap();
    let script = "i=0; while [ $i -lt 600 ]; do mkdir d; cd d; i=$((i+1)); done; touch end";
    let (container, _) = ended(&sh(&base(&store), script));
    let error = container.commit("deep:1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert_eq!(container.diff().unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(container.export(std::io::sink()).unwrap_err().kind(), ErrorKind::TooLarge);
    container.remove().unwrap();
}

/// A layer hides a file by one with a longer name, and no directory takes that.
#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn a_name_that_is_too_long_to_be_hidden_is_an_error() {
    let store = Store::temp().unwrap();
    let (fits, long) = ("f".repeat(251), "n".repeat(252));
    let script = format!("mkdir /etc/long; touch /etc/long/{fits} /etc/long/{long}");
    let image = ended(&sh(&base(&store), &script)).0.commit("long:1").unwrap();
    let script = format!("rm /etc/long/{long}; echo; read line");
    let container = ready(&sh(&image, &script).stdin(coracle::Stdio::piped()));
    // One that is paused for it is not unpacked at once, so nobody would have met the name.
    for pause in [can_pause(&image), false] {
        let error = container.committing().pause(pause).run().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        assert_eq!(error.path(), Some(Path::new(&format!("etc/long/{long}"))), "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("directory")), "{error}");
    }
    for script in [format!("rm /etc/long/{fits}"), "rm -r /etc/long".into()] {
        let image = ended(&sh(&image, &script)).0.commit("hidden:1").unwrap();
        assert_eq!(say(&sh(&image, &format!("ls -d /etc/long/{fits} 2>/dev/null; true"))), "");
    }
}

/// A container can make no device nodes, and none that would count as a whiteout; marks of the overlay's that it sets are
/// none, and are left out.
#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn devices_and_marks_of_the_overlays() {
    let store = Store::temp().unwrap();
    let script = "! mknod /null c 1 3 2>/dev/null; ! mknod /etc/keep2 c 0 0 2>/dev/null; mkdir /dir; touch /dir/f
        for name in user.overlay.opaque user.overlay.whiteout trusted.overlay.opaque trusted.overlay.redirect; do
            setfattr -n $name -v y /usr/share/dir /etc/keep /etc/gone 2>/dev/null || true; done
        : > /empty; setfattr -n user.overlay.whiteout -v y /empty 2>/dev/null || true
        setfattr -n user.plain -v y /empty; ls /usr/share/dir/a /empty /etc/keep";
    let (container, _) = ended(&sh(&base(&store), script));
    let image = container.commit("marked:1").unwrap();
    let out = say(&sh(
        &image,
        "ls /usr/share/dir/a /empty /etc/keep /dir; getfattr -dm- /empty /usr/share/dir /etc/keep",
    ));
    assert!(out.contains("user.plain") && !out.contains("overlay"), "{out}");
    assert!(entries(&image).iter().all(|name| !name.contains(".wh.")), "{:?}", entries(&image));
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn sockets_are_left_out() {
    let store = Store::temp().unwrap();
    let script = "echo x > /x; mkfifo /pipe; mkdir /dir; ln -s /dir/socket /dev/log; syslogd -n -O - &
        until [ -S /dir/socket ]; do sleep 0.01; done";
    let (container, _) = ended(&sh(&base(&store), script));
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let to = told.clone();
    let commit = container.committing().name("sockets:1");
    let commit =
        commit.on_left_out(move |path, why| to.lock().unwrap().push((path.to_owned(), why.to_owned())));
    let image = commit.run().unwrap();
    assert_eq!(entries(&image), ["pipe", "x", "dir/"]);
    let left_out = [(Path::new("dir/socket").to_owned(), "a socket".to_owned())];
    assert_eq!(*told.lock().unwrap(), left_out);
    assert_eq!(container.export(std::io::sink()).unwrap(), left_out);
    // Also where it is all that there is.
    let script = "mkdir /tmp/dir; ln -s /etc/keep.d/socket /dev/log; syslogd -n -O - & until [ -S /etc/keep.d/socket ]; do sleep 0.01; done";
    let base = changing(&base(&store), "mkdir /etc/keep.d");
    let (with_dir, _) = ended(&base);
    let image = with_dir.commit("dir:1").unwrap();
    let (container, _) = ended(&sh(&image, &script.replace("mkdir /tmp/dir; ", "")));
    told.lock().unwrap().clear();
    let to = told.clone();
    let commit = container.committing();
    let commit =
        commit.on_left_out(move |path, why| to.lock().unwrap().push((path.to_owned(), why.to_owned())));
    commit.run().unwrap();
    assert_eq!(*told.lock().unwrap(), [(Path::new("etc/keep.d/socket").to_owned(), "a socket".to_owned())]);
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn a_hundred_thousand_files() {
    let store = Store::temp().unwrap();
    let script =
        "mkdir /many; cd /many; for d in $(seq 100); do mkdir $d; (cd $d; seq 1000 | xargs touch); done";
    let (container, _) = ended(&sh(&base(&store), script));
    let image = container.commit("many:1").unwrap();
    assert_eq!(entries(&image).len(), 100_101);
    assert_eq!(shown(&container).len(), 100_101);
    assert_eq!(say(&sh(&image, "find /many -type f | wc -l")), "100000");
}

/// Files of somebody whom the container does not know can be there by the host's hand alone.
#[test]
#[ignore = "needs root: gives a file in a writable layer away, beside busybox and attr"]
fn an_owner_whom_the_container_does_not_have_is_named() {
    let store = Store::temp().unwrap();
    let (container, _) = ended(&sh(&base(&store), "echo x > /etc/theirs"));
    let path = store.path().join("containers").join(container.id()).join("upper/etc/theirs");
    std::os::unix::fs::chown(&path, Some(12), None).unwrap();
    let error = container.commit("theirs:1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.path(), Some(Path::new("etc/theirs")), "{error}");
    // A whiteout by its mark, as other programs write them.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(path.with_file_name("gone"), "").unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path.parent().unwrap()).unwrap());
    std::os::unix::fs::chown(path.with_file_name("gone"), Some(owner), Some(owner)).unwrap();
    peer(
        "setfattr",
        ["-n", "trusted.overlay.whiteout", "-v", "y", path.with_file_name("gone").to_str().unwrap()],
    );
    assert_eq!(shown(&container), ["C /etc", "D /etc/gone"]);
    assert!(entries(&container.commit("marked:1").unwrap()).contains(&"etc/.wh.gone".to_owned()));
}
