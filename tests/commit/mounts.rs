//! Nothing of what is mounted gets in.

use super::*;
use coracle::{Mount, Volume};

const SCRIPT: &str = "echo hush-hush > /vol/s; echo hush-hush > /new/place/bind/s; echo hush-hush > /scratch/s; echo hush-hush > /etc/hosts
    echo hush-hush > /opt/linked/s; echo hush-hush > /dev/shm/s; echo own > /new/own; echo kept > /srv-made; cat /given";

fn container(store: &Store, base: &Image, dir: &Path, in_memory: bool) -> ContainerBuilder {
    let volume = Volume::create(store, "data").unwrap();
    sh(base, &format!("set -e\n{SCRIPT}\necho ready; read line"))
        .volume(&volume, "/vol")
        .bind(dir, "/new/place/bind")
        .mount(Mount::tmpfs("/scratch"))
        .bind(dir, "/links/soft-dir")
        .bind(dir, "/opt/linked")
        .file("/given", "given\n")
        .writable_in_memory(in_memory)
        .stdin(coracle::Stdio::piped())
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn nothing_of_volumes_and_binds_nor_their_places() {
    let store = Store::temp().unwrap();
    let base = base(&store);
    let dir = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    let pauses = can_pause(&base);
    for in_memory in [false, true] {
        let container = container(&store, &base, dir.path(), in_memory).start().unwrap();
        let path = dir.path().join("s");
        eventually("the script is done", || path.exists() && container.diff().unwrap().len() > 2);
        let expected = ["A /given", "A /new", "A /new/own", "A /srv-made"];
        eventually("all is written", || shown(&container) == expected);
        let image = container.committing().pause(pauses).run().unwrap();
        let names = entries(&image);
        assert_eq!(names, ["given", "srv-made", "new/", "new/own"], "in memory: {in_memory}");
        let mut archive = Vec::new();
        container.export(&mut archive).unwrap();
        assert!(!archive.windows(9).any(|window| window == b"hush-hush"));
        let exported = Import::new().reader(&store, &archive[..]).unwrap();
        let top: Vec<_> = exported.entries("/").unwrap();
        let top: Vec<_> = top.iter().map(|entry| entry.path().to_str().unwrap()).collect();
        let kept = [
            "bin", "etc", "given", "lib", "lib64", "links", "new", "opt", "private", "srv-made", "tmp", "usr",
        ];
        assert_eq!(top, kept, "in memory: {in_memory}");
        drop(container.take_stdin());
        container.wait().unwrap();
        std::fs::remove_file(path).unwrap();
        container.remove().unwrap();
        Volume::open(&store, "data").unwrap().remove().unwrap();
    }
}
