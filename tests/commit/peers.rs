//! What other tools make of it.

use super::common::podman::Podman;
use super::*;
use coracle::ArchiveFormat;

#[test]
#[ignore = "needs skopeo, umoci and podman, beside busybox and attr: run with --include-ignored"]
fn podman_and_skopeo_read_the_committed_image() {
    let store = Store::temp().unwrap();
    let script = "rm -rf /opt/whole; mkdir /opt/whole; echo f > /opt/whole/f; rm /etc/gone; echo new > /etc/new
        truncate -s 5M /holes; printf x | /bin/dd of=/holes bs=1 seek=3M conv=notrunc 2>/dev/null; ln /etc/new /etc/new2";
    let (container, _) = ended(&sh(&base(&store), script));
    let image = container.commit("me/app:1").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    image.save_as(ArchiveFormat::OciArchive, std::fs::File::create(at("app.tar")).unwrap()).unwrap();
    let source = format!("oci-archive:{}", at("app.tar"));
    let seen: serde_json::Value = serde_json::from_str(&peer("skopeo", ["inspect", &source])).unwrap();
    assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);
    peer("skopeo", ["copy", "-q", &source, &format!("oci:{}:app", at("copy"))]);
    peer("umoci", ["unpack", "--rootless", "--image", &format!("{}:app", at("copy")), &at("bundle")]);
    let root = dir.path().join("bundle/rootfs");
    assert_eq!(std::fs::read_to_string(root.join("opt/whole/f")).unwrap(), "f\n");
    assert_eq!(count(root.join("opt/whole")), 1);
    assert!(!root.join("etc/gone").exists());
    let holes = std::fs::read(root.join("holes")).unwrap();
    assert_eq!((holes.len(), holes[3 << 20]), (5 << 20, b'x'));
    let podman = Podman::new();
    podman.run(&["load", "-q", "-i", &at("app.tar")]);
    assert_eq!(podman.inspect("{{.Id}}", "me/app:1"), image.id().hex());
    assert_eq!(podman.inspect("{{len .RootFS.Layers}}", "me/app:1"), "2");
    podman.clear();
}

/// podman's comparison of directories is docker's.
#[test]
#[ignore = "needs root: changes files in the root of podman's container, beside busybox and attr"]
fn a_diff_is_what_podman_says() {
    const SCRIPT: &str = "echo new > /etc/new; rm /etc/gone; echo more >> /etc/modified; chmod 600 /opt/todir
        : >> /etc/same; rm -rf /opt/whole; mkdir /opt/whole; echo z > /opt/whole/x; mkdir /opt/whole/y
        rm -rf /opt/tofile; echo f > /opt/tofile; rm -rf /opt/tolink; ln -s /etc /opt/tolink
        rm -r /usr/share/dir/sub; mkdir -p /made/dir; touch /made/dir/f; touch /links/tmp; rm /links/tmp
        ln /links/one /links/three; mkfifo /fifo; chown 5:6 /private/secret; chmod 711 /private
        setcap cap_net_raw+ep /bin/busybox; mv /opt/moved /opt/renamed
        /bin/touch -d 2001-02-03 /opt/renamed; /bin/touch -d 2001-02-03 /usr/share/dir/a";
    let store = Store::temp().unwrap();
    let image = base(&store);
    let (container, _) = ended(&sh(&image, &format!("set -e\n{SCRIPT}")));
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("base.tar");
    image.save(std::fs::File::create(&archive).unwrap()).unwrap();
    let podman = Podman::new();
    podman.run(&["load", "-q", "-i", archive.to_str().unwrap()]);
    let theirs = podman.run(&["create", "base:1", "true"]);
    let root = podman.run(&["mount", theirs.trim()]);
    peer(
        "chroot",
        [root.trim(), "/bin/busybox", "env", "PATH=/bin", "sh", "-c", &format!("set -e\n{SCRIPT}")],
    );
    let said = podman.run(&["diff", theirs.trim()]);
    let mut said: Vec<_> = said.lines().map(str::to_owned).collect();
    said.sort();
    let mut ours = shown(&container);
    ours.sort();
    podman.run(&["umount", theirs.trim()]);
    podman.run(&["rm", "-f", theirs.trim()]);
    podman.clear();
    assert_eq!(ours, said);
}
