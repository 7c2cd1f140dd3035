//! The files of /etc that are the container's, not the image's.
use super::*;
use std::fs;
use std::path::{Path, PathBuf};

const OWN: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                   ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
const ALL: &str = "cat /etc/hosts; echo =; cat /etc/hostname; echo =; cat /etc/resolv.conf; echo =; \
                   stat -c %a:%u:%g /etc/hosts /etc/hostname /etc/resolv.conf";
const MODES: &str = "644:0:0\n644:0:0\n644:0:0";

/// Docker's standard lines, then those asked for, then its own name; no resolver, as nothing could be asked.
#[test]
fn they_are_as_docker_writes_them() {
    let image = host();
    let container = sh(&image, ALL)
        .hostname("box")
        .host("peer", [192, 0, 2, 7].into())
        .host("six", "2001:db8::1".parse::<std::net::IpAddr>().unwrap());
    let hosts = format!("{OWN}192.0.2.7\tpeer\n2001:db8::1\tsix\n127.0.1.1\tbox\n");
    assert_eq!(say(&container), format!("{hosts}=\nbox\n=\n=\n{MODES}"));
}

/// Names are the host's then, and who is to be asked for them.
#[test]
fn on_the_hosts_network_they_are_the_hosts() {
    let image = host();
    let container =
        sh(&image, ALL).network(coracle::Network::host()).hostname("box").host("peer", [192, 0, 2, 7].into());
    let of_host = |path: &str| match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.unwrap(),
    };
    let (hosts, resolv) = (of_host("/etc/hosts"), of_host("/etc/resolv.conf"));
    assert_eq!(say(&container), format!("{hosts}192.0.2.7\tpeer\n=\nbox\n=\n{resolv}=\n{MODES}"));
}

/// All files below a directory that have one of these names.
fn named(dir: &Path, names: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let entry = entry.unwrap();
        if names.iter().any(|name| entry.file_name() == *name) {
            found.push(entry.path());
        }
        // The kernel's own, in which nothing of the container is.
        if entry.file_type().unwrap().is_dir() && !entry.path().ends_with("work/work") {
            found.extend(named(&entry.path(), names));
        }
    }
    found
}

/// Whether they are read, written, or the image has no /etc at all: none of it is in the writable layer.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn they_are_no_part_of_the_writable_layer() {
    let image = host();
    let store = image.store();
    let bare = storage::image_of(store, vec![storage::busybox(0o755, 0, 0)]);
    let read = "b=$(command -v busybox || echo); $b cat /etc/hosts /etc/hostname /etc/resolv.conf >/dev/null";
    let write = "echo mine >>/etc/hosts && echo mine >/etc/hostname && echo mine >/etc/resolv.conf && \
                 echo mine >/own-resolv.conf";
    for image in [&image, &bare] {
        for script in [read, write] {
            let shell: &[&str] = if image.id() == bare.id() { &["/bin/busybox", "sh"] } else { &["sh"] };
            let container = Container::builder(image)
                .command(shell.iter().copied().chain(["-c", script]))
                .create()
                .unwrap();
            let dir = store.path().join("containers").join(container.id());
            for _ in 0..2 {
                container.start().unwrap();
                let status = container.wait().unwrap();
                assert!(status.success(), "{status}: {}", text(&container.logs(Stream::Stderr).unwrap()));
                let found = named(&dir, &["hosts", "hostname", "resolv.conf"]);
                assert_eq!(found, Vec::<PathBuf>::new(), "{script}");
                // What else is written is there, so this looks where such files would be.
                let others = named(&dir, &["own-resolv.conf"]);
                assert_eq!(others.len(), usize::from(script == write), "{others:?}");
            }
        }
    }
}
