//! Real software in a real distribution: what a user's first hour looks like.

use coracle::{Container, Image, Network, Signal, Store};
use std::process::Command;
use std::time::Duration;

/// A Debian root filesystem, made by Debian's own tool.
fn debian(store: &Store) -> Image {
    let tar = store.path().join("debian.tar");
    let made = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "bookworm"])
        .arg(&tar)
        // Its own user namespace has to get there.
        .env("TMPDIR", "/tmp")
        .status()
        .expect("mmdebstrap (Debian's package of that name)");
    assert!(made.success(), "{made}");
    let image = Image::import(store, &tar, "debian:12").unwrap();
    std::fs::remove_file(tar).unwrap();
    image
}

#[test]
#[ignore = "needs mmdebstrap and Debian's archive: run with --include-ignored"]
fn debian_installs_compiles_and_runs() {
    let store = Store::temp().unwrap();
    let image = debian(&store);
    let release = Container::builder(&image).command(["cat", "/etc/os-release"]).run().unwrap();
    assert!(release.stdout_text().contains("bookworm"), "{}", release.stdout_text());

    // One container that changes, step by step, as somebody at a shell would.
    let machine = Container::builder(&image)
        .command(["sleep", "infinity"])
        .init(true)
        .network(Network::host())
        .start()
        .unwrap();
    let sh = |script: &str| {
        let out = machine
            .exec(["sh", "-ec", script])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .timeout(Duration::from_secs(400))
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{script}: {}\n{}\n{}",
            out.status,
            out.stdout_text(),
            out.stderr_text()
        );
        out.stdout_text().into_owned()
    };
    sh("apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-minimal gcc libc6-dev");
    sh(
        "printf '#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 0; }\n' > /tmp/h.c && gcc -O2 -o /usr/local/bin/h /tmp/h.c",
    );
    assert_eq!(sh("h"), "compiled\n");
    assert_eq!(sh("python3 -c 'print(sum(range(101)))'"), "5050\n");
    // apt's own user, a service user, and a file that only it may read.
    assert_eq!(
        sh("id -nu _apt; chown www-data /usr/local/bin/h; stat -c %U /usr/local/bin/h"),
        "_apt\nwww-data\n"
    );
    let status = machine.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(
        status.code(),
        Some(128 + Signal::SIGTERM as i32),
        "init passes the signal on and says how it ended"
    );
    machine.remove().unwrap();
    assert_eq!(std::fs::read_dir(store.path().join("containers")).unwrap().count(), 0);
}
