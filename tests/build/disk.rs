//! Builds on a disk that they fill.

use super::*;
use coracle::ErrorKind;

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn builds_that_fill_the_disk() {
    on_small_filesystem("size=24m,mode=777", &["disk::fill"], "");
}

/// Not a test when run by itself.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn fill() {
    let Some(mount) = mounted() else { return };
    let store = Store::open(mount.join("store")).unwrap();
    bases::fill(&store);
    let dir = context(&[("none", "")]);
    fs::File::create(dir.path().join("big")).unwrap().set_len(64 << 20).unwrap();
    let caches = mount.join("caches");
    let free = || rustix::fs::statvfs(&mount).unwrap().f_bfree;
    let before = free();
    for (text, is_own) in [
        // The command meets it, and says so.
        ("RUN yes > /big", true),
        ("RUN --mount=type=cache,target=/c yes > /c/big", true),
        // Or it has room, and its layer has none.
        ("RUN head -c 14000000 /dev/urandom > /big", false),
        ("RUN --mount=target=/c true", false),
        ("COPY big /big", false),
        ("COPY --link big /big", false),
        ("ADD big /big", false),
    ] {
        let what = format!("FROM localhost/box:1\n# fills it\n{text}\n");
        let build = Build::context(dir.path()).dockerfile_text(&what).cache_dir(&caches);
        let (result, told) = told::watched(build, &store);
        let error = result.unwrap_err();
        assert_eq!(error.position().map(|(line, _)| line), Some(3), "{error}");
        if is_own {
            assert_eq!(error.kind(), ErrorKind::Command, "{error}");
            assert!(error.to_string().to_lowercase().contains("no space left"), "{error}");
        } else {
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            assert!(
                error.path().is_some() && error.remedy().is_some_and(|it| it.contains("room")),
                "{error}"
            );
        }
        assert!(told.iter().all(|told| told.id.is_none() || told.step.line == 1), "{told:?}");
        let found = store.verify().unwrap();
        assert!(found.is_sound(), "{text}: {found:?}");
        let _ = fs::remove_dir_all(&caches);
        store.prune_cache(None, None).unwrap();
        // What was removed is taken apart beside the program.
        eventually(&what, || count(store.path().join("tmp")) == 0 && free() + 256 > before);
        assert_eq!(count(store.path().join("containers")), 0, "{text}");
    }
    let small = "FROM localhost/box:1\nCOPY none /\nRUN echo small > /small\n";
    Build::context(dir.path()).dockerfile_text(small).run(&store).unwrap();
}
