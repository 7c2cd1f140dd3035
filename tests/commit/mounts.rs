//! Nothing of what is mounted gets in.

use super::*;
use coracle::{Mount, Volume};

const SCRIPT: &str = "echo secret > /vol/s; echo secret > /new/place/bind/s; echo secret > /scratch/s; echo secret > /etc/hosts
    echo secret > /opt/linked/s; echo secret > /dev/shm/s; echo own > /new/own; echo kept > /srv-made; cat /given";

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
        let mut line = String::new();
        let path = dir.path().join("s");
        eventually("the script is done", || path.exists() && container.diff().unwrap().len() > 2);
        let expected = ["A /given", "A /new", "A /new/own", "A /srv-made"];
        eventually("all is written", || shown(&container) == expected);
        let image = container.committing().pause(pauses).run().unwrap();
        let names = entries(&image);
        assert_eq!(names, ["given", "srv-made", "new/", "new/own"], "in memory: {in_memory}");
        let mut archive = Vec::new();
        container.export(&mut archive).unwrap();
        let found = archive.windows(6).filter(|window| window == b"secret").count();
        // The image's own.
        assert_eq!(found, 3, "/private/secret, its name and its content");
        drop(container.take_stdin());
        container.wait().unwrap();
        line.clear();
        std::fs::remove_file(path).unwrap();
        container.remove().unwrap();
        Volume::open(&store, "data").unwrap().remove().unwrap();
    }
}
