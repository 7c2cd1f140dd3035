//! A container that moves its files about while they are copied.

use super::*;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// What nobody may read or write.
struct Canary {
    dir: tempfile::TempDir,
    /// Links to it, as a container may make them.
    links: [String; 3],
}

const SECRET: &str = "the canary's own";

impl Canary {
    /// Where the containers of this machine's own root see nothing: their /tmp is empty.
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        fs::write(dir.path().join("f"), SECRET).unwrap();
        fs::create_dir(dir.path().join("s")).unwrap();
        fs::write(dir.path().join("s/f"), SECRET).unwrap();
        let path = dir.path().to_str().unwrap();
        let links =
            [path.to_owned(), format!("{}{}", "../".repeat(30), &path[1..]), format!("/proc/1/root/{path}")];
        Self { dir, links }
    }

    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(outside(self.dir.path()), [format!("f={SECRET}"), "s/".into(), format!("s/f={SECRET}")]);
    }
}

/// A container that swaps the directory `x` for a link, and back, and says how often.
fn swapping(image: &Image, link: &str) -> Container {
    let script = format!(
        "mkdir -p /t/x/s; cd /t; echo own >x/f; echo own >x/s/f; ln -s {link} l; echo; \
         while :; do mv -T x y; mv -T l x; mv -T x l; rm -rf x; mv -T y x; done 2>/dev/null"
    );
    ready(&sh(image, &script))
}

/// Copies again and again, until it has met the directory as well as the link, or what is there instead.
fn again(mut copy: impl FnMut() -> coracle::Result<coracle::Copied>) {
    let (copied, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let met = || copied.load(Ordering::Relaxed).min(refused.load(Ordering::Relaxed));
    let mut n = 0;
    while n < tries(100) || met() < 2 {
        assert!(std::time::Instant::now() < deadline, "{copied:?} copied and {refused:?} refused");
        match copy() {
            Ok(copied_now) if copied_now.left_out().is_empty() => copied.fetch_add(1, Ordering::Relaxed),
            Ok(_) | Err(_) => refused.fetch_add(1, Ordering::Relaxed),
        };
        n += 1;
    }
}

fn source() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("x/s")).unwrap();
    fs::write(dir.path().join("x/f"), "evil").unwrap();
    fs::write(dir.path().join("x/s/f"), "evil").unwrap();
    dir
}

#[test]
fn nothing_is_written_behind_a_link_that_is_put_in_the_way() {
    let (image, canary, from) = (host(), Canary::new(), source());
    for link in &canary.links {
        let container = swapping(&image, link);
        again(|| container.copy_in(from.path().join("x/f"), "/t/x/f"));
        canary.is_untouched();
        again(|| container.copy_in(from.path().join("x/."), "/t/x"));
        canary.is_untouched();
        again(|| container.copy_in(from.path().join("x"), "/t"));
        canary.is_untouched();
        let archive = tar([
            ("x/", Node::Dir),
            ("x/s/", Node::Dir),
            ("x/s/f", Node::File(b"evil")),
            ("x/hard", Node::HardLink("x/f")),
            ("x/f", Node::File(b"evil")),
        ]);
        again(|| container.copying().copy_in_tar(&archive[..], "/t"));
        canary.is_untouched();
    }
}

#[test]
fn nothing_is_read_behind_a_link_that_is_put_in_the_way() {
    let (image, canary) = (host(), Canary::new());
    let out = tempfile::tempdir().unwrap();
    let mut n = 0;
    for link in &canary.links {
        let container = swapping(&image, link);
        let mut look = |source: &str| {
            again(|| {
                n += 1;
                let to: PathBuf = out.path().join(n.to_string());
                let copied = container.copying().follow(true).copy_out(source, &to);
                let found =
                    if to.is_dir() { outside(&to) } else { fs::read_to_string(&to).into_iter().collect() };
                assert!(found.iter().all(|line| !line.contains(SECRET)), "{found:?}");
                copied
            });
        };
        look("/t/x/f");
        look("/t/x/.");
        let mut archive = Vec::new();
        for _ in 0..tries(50) {
            let _ = container.copying().copy_out_tar("/t", &mut archive);
        }
        assert!(!String::from_utf8_lossy(&archive).contains(SECRET));
    }
    canary.is_untouched();
}

/// What a container's tree is called by its links does not decide where on this machine it is written.
#[test]
fn a_tree_that_comes_out_stays_where_it_is_put() {
    let (image, canary) = (host(), Canary::new());
    let link = &canary.links[0];
    let script = format!(
        "mkdir -p /t/a; echo evil >/t/a/f; ln -s {link} /t/b; ln -s {link}/f /t/c; echo; \
         while :; do mv -T /t/a /t/d; mv -T /t/b /t/a; mv -T /t/a /t/b; mv -T /t/d /t/a; done 2>/dev/null"
    );
    let container = ready(&sh(&image, &script));
    let out = tempfile::tempdir().unwrap();
    // Links of this machine's own there are not followed either.
    symlink(canary.dir.path(), out.path().join("d")).unwrap();
    symlink(canary.dir.path().join("f"), out.path().join("c")).unwrap();
    for _ in 0..tries(100) {
        let _ = container.copy_out("/t/.", out.path());
        canary.is_untouched();
    }
}

#[test]
fn the_courier_is_no_more_than_the_containers_root() {
    // A root filesystem that leads to the kernel's settings, by a link and by a mount of the container's own.
    let image = host();
    let container =
        ready(&sh(&image, "ln -s /proc/sys/kernel /k; ln -s /proc/sysrq-trigger /s; echo; sleep 1000"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("core_pattern");
    fs::write(&file, "|/evil").unwrap();
    let before = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for to in ["/k", "/k/core_pattern", "/s"] {
        container.copy_in(&file, to).unwrap_err();
    }
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
}
