//! Two builds of the same give the same image.

use super::told::steps_done;
use super::*;
use std::time::{Duration, SystemTime};

const EPOCH: Duration = Duration::from_secs(1_500_000_000);

const TEXT: &str = "\
FROM localhost/box:1 AS made
RUN mkdir /out && for i in b a c; do echo $i > /out/$i; done && ln /out/a /out/hard && ln -s a /out/link
RUN rm /out/b && echo again > /out/b && rm -r /opt/kept
FROM localhost/box:1
ENV A=1
WORKDIR /w/o/r/k
COPY . .
COPY --from=made /out /out
COPY <<end /srv/here
text
end
RUN --mount=type=cache,target=/c echo x > /c/x && cp /c/x /srv/x && rm /etc/motd
ADD archive.tar /unpacked/
LABEL l=1
CMD [\"x\"]
";

/// Files that are younger than the epoch, each time by something else.
fn files(times: u64) -> tempfile::TempDir {
    let dir = context(&[("Dockerfile", TEXT), ("one", "1"), ("dir/two", "2"), ("dir/sub/three", "3")]);
    let mut archive = bases::Layer::new();
    archive.dir("a", 0o755, (0, 0));
    archive.file("a/b", 0o600, (3, 4), b"archived");
    fs::write(dir.path().join("archive.tar"), archive.end()).unwrap();
    for (at, name) in ["one", "dir/two", "dir/sub/three", "dir/sub", "dir", "archive.tar"].iter().enumerate()
    {
        let time = SystemTime::UNIX_EPOCH + EPOCH + Duration::from_secs(times + at as u64);
        fs::File::open(dir.path().join(name)).unwrap().set_modified(time).unwrap();
    }
    dir
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn two_stores_have_one_digest() {
    let built = [(1, 1), (1000, 4)].map(|(times, parallel)| {
        let (store, dir) = (bases::store(), files(times));
        let build =
            Build::context(dir.path()).source_date_epoch(SystemTime::UNIX_EPOCH + EPOCH).parallel(parallel);
        let image = build.clone().run(&store).unwrap();
        // Nor does doing it once more in the same store make a difference.
        assert_eq!(build.no_cache(true).run(&store).unwrap().digest(), image.digest());
        (*image.digest(), image.manifest_json().to_owned(), image.config().json().to_owned())
    });
    assert_eq!(built[0].2, built[1].2);
    assert_eq!(built[0], built[1]);
    assert!(built[0].2.contains("2017-07-14T02:40:00"), "{}", built[0].2);
}

/// Whoever builds it, on any kernel: no RUN is in it, which would give what its programs write.
#[test]
fn on_every_machine_it_is_this_digest() {
    use std::os::unix::fs::PermissionsExt;
    let text = "FROM scratch\nCOPY --chown=3:4 one /a/one\nCOPY dir /a/b/\nWORKDIR /a\nENV A=1 B=\"two words\"\nCOPY <<x /here\ny\nx\nCMD [\"/a/one\"]\n";
    let dir = context(&[("Dockerfile", text), ("one", "1"), ("dir/two", "2")]);
    for (name, mode) in [("one", 0o755), ("dir/two", 0o640), ("dir", 0o750)] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let build = Build::context(dir.path()).platform("linux/amd64".parse().unwrap());
    let image = build.source_date_epoch(SystemTime::UNIX_EPOCH + EPOCH).run(&Store::temp().unwrap()).unwrap();
    assert_eq!(
        image.digest().to_string(),
        "sha256:076b4ab12ef3da8bdb1a071c2985414edea1113fa016e040d624659eb9b6ea64",
        "{}",
        image.config().json()
    );
}

/// What a kernel is asked for by builds: each kind of mount, owners, links, what is removed and replaced.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn on_every_machine_commands_run_and_what_they_change_is_a_layer() {
    let text = "\
FROM localhost/box:1
COPY --chown=alice dir /home/alice
RUN --network=none --mount=type=cache,target=/cache --mount=type=secret,id=s --mount=type=tmpfs,target=/scratch \\
    --mount=type=bind,source=dir,target=/context --mount=type=bind,from=localhost/other:1,source=data,target=/other \\
    cat /context/two /other/file > /scratch/x && test -s /run/secrets/s && cp /scratch/x /cache/x && chown 7:8 /srv/file
RUN --mount=type=cache,target=/cache cp /cache/x /made && ln /made /hard && rm -r /opt/kept && rm /etc/motd && echo new > /etc/motd
USER alice
WORKDIR /home/alice
RUN id -un > mine && ls /cache /scratch /run/secrets /context > left 2>&1; test ! -s /srv/none
";
    let (store, dir) = (bases::store(), context(&[("Dockerfile", text), ("dir/two", "2\n")]));
    let build = Build::context(dir.path()).secret("s", "a secret");
    let (image, done) = steps_done(&build, &store);
    assert_eq!(done.len(), 6);
    let base = store.image(bases::BOX).unwrap();
    let changes = base.diff(&image).unwrap();
    let changes: Vec<_> =
        changes.iter().map(|change| format!("{:?} {}", change.kind, change.path.display())).collect();
    let added = ["/hard", "/home/alice", "/home/alice/left", "/home/alice/mine", "/home/alice/two", "/made"];
    let deleted = ["/opt/kept", "/opt/kept/a", "/opt/kept/b"];
    let expected: Vec<_> = std::iter::once("Modified /etc/motd".to_owned())
        .chain(added.map(|path| format!("Added {path}")))
        .chain(deleted.map(|path| format!("Deleted {path}")))
        .chain(["Modified /srv/file".to_owned()])
        .collect();
    assert_eq!(changes, expected);
    let out = sh(&image, "cat mine left /made /etc/motd; stat -c %u:%g /srv/file; stat -c %h /made; id -un")
        .run()
        .unwrap();
    let left = ["/cache", "/scratch", "/run/secrets", "/context"]
        .map(|path| format!("ls: {path}: No such file or directory\n"))
        .concat();
    let says = format!("alice\n{left}2\ndata\nnew\n7:8\n2\nalice\n");
    assert_eq!(out.stdout_text(), says, "{}", out.stderr_text());
    assert!(steps_done(&build, &store).1.is_empty());
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn a_directory_and_its_archive_are_one_context() {
    let dir = files(0);
    let build = |build: Build| {
        let build = build.source_date_epoch(SystemTime::UNIX_EPOCH + EPOCH);
        build.run(&bases::store()).unwrap().config().json().to_owned()
    };
    let archived = || {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_dir_all(".", dir.path()).unwrap();
        archive.into_inner().unwrap()
    };
    let of_dir = build(Build::context(dir.path()));
    assert_eq!(build(Build::context_tar(std::io::Cursor::new(archived()))), of_dir);
    assert_eq!(build(Build::context_tar(std::io::Cursor::new(gzip(&archived())))), of_dir);
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn no_file_is_younger_than_the_epoch() {
    let (store, dir) = (bases::store(), files(500));
    let image =
        Build::context(dir.path()).arg("SOURCE_DATE_EPOCH", EPOCH.as_secs().to_string()).run(&store).unwrap();
    let base = store.image(bases::BOX).unwrap().layer_descriptors().len();
    let mut looked_at = 0;
    for layer in &image.layer_descriptors()[base..] {
        let blob = fs::read(store.path().join("blobs/sha256").join(layer.digest.hex())).unwrap();
        for entry in tar::Archive::new(&blob[..]).entries().unwrap() {
            let entry = entry.unwrap();
            assert!(entry.header().mtime().unwrap() <= EPOCH.as_secs(), "{:?}", entry.path().unwrap());
            looked_at += 1;
        }
    }
    assert!(looked_at > 20, "{looked_at}");
    let config: Value = serde_json::from_str(image.config().json()).unwrap();
    for line in &config["history"].as_array().unwrap()[1..] {
        assert!(line["created"].as_str().unwrap().starts_with("2017-07-14T02:40:00"), "{line}");
    }
}

/// As after the same COPY once more, and with layers of nothing.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn an_image_that_has_a_layer_twice() {
    let (store, dir) = (bases::store(), context(&[("a", "1\n")]));
    let text = "FROM localhost/box:1\nCOPY a /data/a\nRUN true\nCOPY a /data/b\nCOPY a /data/a\nRUN cat /data/a /data/b > /got\n";
    let image = Build::context(dir.path()).dockerfile_text(text).run(&store).unwrap();
    let ids = image.config().diff_ids();
    assert_eq!(ids[1], ids[3], "{ids:?}");
    let mut got = String::new();
    std::io::Read::read_to_string(&mut image.open("/got").unwrap(), &mut got).unwrap();
    assert_eq!(got, "1\n1\n");
    // What was removed or replaced in between is there again, and what the layer removes is not.
    let layer = |builder: coracle::LayerBuilder| builder.build(&store).unwrap();
    let twice = layer(coracle::Layer::builder().file("d/f", "f").file("e", "e").whiteout("etc/motd"));
    let between = layer(coracle::Layer::builder().whiteout("e").file("d", "file").file("etc/motd", "new"));
    let base = store.image(bases::BOX).unwrap();
    let image = base.with_layer(&twice).unwrap().with_layer(&between).unwrap().with_layer(&twice).unwrap();
    image.tag("localhost/twice:1").unwrap();
    let text =
        "FROM localhost/twice:1\nRUN test \"$(cat /d/f)\" = f -a \"$(cat /e)\" = e -a ! -e /etc/motd\n";
    Build::empty().dockerfile_text(text).run(&store).unwrap();
}
