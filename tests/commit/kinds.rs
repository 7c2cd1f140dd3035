//! Every kind of change comes back.

use super::*;
use std::time::{Duration, SystemTime};

/// All that can be done to files.
const EVERYTHING: &str = r#"
echo new > /etc/new
rm /etc/gone
echo more >> /etc/modified
chmod 0 /etc/keep
rm -r /usr/share/dir/sub
rm -rf /opt/whole; mkdir /opt/whole /opt/whole/y; echo fresh > /opt/whole/fresh
rm -rf /opt/tofile; echo now a file > /opt/tofile
rm -rf /opt/tolink; ln -s /etc /opt/tolink
rm /opt/todir; mkdir /opt/todir; echo in > /opt/todir/in
mv /opt/moved /opt/renamed
ln /links/one /links/three
echo first > /links/n1; ln /links/n1 /links/n2; ln /links/n1 /etc/n3
rm /links/soft; ln -s ../nowhere /links/soft
mkfifo -m 620 /fifo
chown 5:6 /private/secret || true
chown -h 7:8 /links/soft || true
mkdir -m 700 /secret; echo s > /secret/f; chmod 600 /secret/f; chown -R 9:10 /secret || true
cp /bin/getfattr /bin/able; setcap cap_net_raw+ep /bin/able
echo x > /setid; chown 1:2 /setid || true; chmod 6755 /setid
/bin/touch -d '2001-02-03 04:05:06.123456789' /old
/bin/touch -d '1960-02-03 04:05:06.5' /older
setfattr -n user.note -v hi /etc/modified
setfattr -n user.dir -v d /usr/share/dir
setfattr -n user.empty -v '' /old
truncate -s 300M /sparse; printf middle | /bin/dd of=/sparse bs=1 seek=150M conv=notrunc 2>/dev/null
/bin/dd if=/dev/zero of=/zeros bs=1M count=2 2>/dev/null
mkdir -p "/names/ " "/names/-n" '/names/*?[' "/names/$(printf 'new\nline')" "/names/$(printf 'b\377d')"
echo w > "/names/$(printf '%0255d' 0)"
i=0; p=/deep; while [ $i -lt 100 ]; do p=$p/directory-$i; i=$((i+1)); done; mkdir -p $p; echo end > $p/end
rm -rf /tmp; mkdir -m 1777 /tmp
mkdir /was; touch /was/x; rm -r /was
chmod 751 /
"#;

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn a_container_of_the_committed_image_sees_what_the_first_one_saw() {
    let store = Store::temp().unwrap();
    let (container, first) = ended(&changing(&base(&store), EVERYTHING));
    assert!(first.contains("user.note=0x6869") && first.contains("security.capability="), "{first}");
    let image = container.commit("me/changed:1").unwrap();
    assert_same(&first, &seen(&image));
    // As an archive of images in another store, and by hand from the blob.
    let mut archive = Vec::new();
    image.save(&mut archive).unwrap();
    let elsewhere = Store::temp().unwrap();
    let loaded = Image::load_reader(&elsewhere, &archive[..]).unwrap().remove(0);
    assert_eq!(loaded.digest(), image.digest());
    assert_same(&first, &seen(&loaded));
    // The layer has the changes alone, plain, and holes are none of it.
    let layers = image.layers().unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[1].media_type(), "application/vnd.oci.image.layer.v1.tar");
    assert_eq!(layers[1].digest(), layers[1].diff_id());
    assert!(layers[1].size() < 12 << 20, "{} bytes", layers[1].size());
    let names = entries(&image);
    for name in ["etc/.wh.gone", "opt/whole/.wh..wh..opq", "usr/share/dir/.wh.sub", "etc/keep"] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    for name in ["etc/same", "usr/share/dir/a", "opt/whole/.wh.x", "was", ".wh.was", "opt/.wh.tofile"] {
        assert!(!names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    // Once more on top of it, and back.
    let (again, second) =
        ended(&changing(&image, "rm -rf /names /secret; echo again > /etc/gone; chmod 755 /"));
    let image = again.commit("me/changed:2").unwrap();
    assert_same(&second, &seen(&image));
}

/// A tmpfs has users' attributes since Linux 6.6.
fn in_memory() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version: Vec<u32> =
        release.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).take(2).collect();
    let has_attributes = version >= vec![6, 6];
    let lines = EVERYTHING.lines().filter(|line| has_attributes || !line.starts_with("setfattr "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn a_writable_layer_in_memory_is_read_while_the_container_runs() {
    let store = Store::temp().unwrap();
    let base = base(&store);
    let script = format!("{}\n: > /done", in_memory());
    let builder =
        sh(&base, &format!("set -e\n{LIST}\n{script}\nlist > /dev/shm/list; echo ready; read line"))
            .writable_in_memory(true)
            .disk_max(1 << 30)
            .stdin(coracle::Stdio::piped());
    let container = ready(&builder);
    let first =
        container.exec(["cat", "/dev/shm/list"]).output().unwrap().stdout_text().trim_end().to_owned();
    let image = container.committing().name("me/memory:1").pause(can_pause(&base)).run().unwrap();
    assert_same(&first, &seen(&image));
    assert!(entries(&image).iter().all(|name| name != "etc/same"), "{:?}", entries(&image));
    let on_disk = ended(&changing(&base, &script)).0;
    assert_eq!(shown(&container), shown(&on_disk));
    let mut archive = Vec::new();
    container.export(&mut archive).unwrap();
    let imported = Import::new().env("PATH", "/bin").reader(&store, &archive[..]).unwrap();
    assert_same(&without_lone(&first), &without_lone(&seen(&imported)));
    // With the container it is gone.
    drop(container.take_stdin());
    container.wait().unwrap();
    let error = container.commit("me/memory:2").unwrap_err();
    assert!(error.kind() == ErrorKind::State && error.remedy().is_some(), "{error}");
}

/// An overlay counts the names of a file in its layer, those too that are covered: without the one of which only the count
/// tells that it had another.
fn without_lone(list: &str) -> String {
    let lone = |line: &&str| !line.starts_with("./links/two f");
    list.lines().filter(lone).map(|line| format!("{line}\n")).collect()
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn an_export_is_all_of_the_root() {
    let store = Store::temp().unwrap();
    let (container, first) = ended(&changing(&base(&store), EVERYTHING));
    let mut archive = Vec::new();
    container.export(&mut archive).unwrap();
    let imported = Import::new().env("PATH", "/bin").reader(&store, &archive[..]).unwrap();
    assert_same(&without_lone(&first), &without_lone(&seen(&imported)));
    // Of the image likewise, and the same every time.
    let image = container.commit("me/changed:1").unwrap();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    image.export(&mut one).unwrap();
    image.export(&mut two).unwrap();
    assert!(one == two);
    let imported = Import::new().env("PATH", "/bin").reader(&store, &one[..]).unwrap();
    assert_same(&without_lone(&first), &without_lone(&seen(&imported)));
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn the_same_changes_are_the_same_image() {
    let store = Store::temp().unwrap();
    let base = base(&store);
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let commit = |script: &str| {
        let container = ended(&changing(&base, script)).0;
        let commit = container.committing().source_date_epoch(epoch);
        let (one, two) = (commit.clone().run().unwrap(), commit.run().unwrap());
        assert_eq!(one.digest(), two.digest());
        // Times as they are, as long as nothing has changed them.
        let plain = || container.committing().created(epoch).run().unwrap().digest().to_owned();
        assert_eq!(plain(), plain());
        one
    };
    let layer = |image: &Image| image.layers().unwrap().last().unwrap().digest();
    // In another order and by other ways: all but the command is the same.
    let first =
        "echo a > /a; echo b > /b; mkdir /d; echo c > /d/c; ln /a /d/a; rm /etc/gone; rm -r /opt/whole";
    let one = commit(first);
    assert_eq!(commit(first).digest(), one.digest());
    let two = commit(
        "rm -r /opt/whole; rm /etc/gone; mkdir /d; echo c > /d/.c; mv /d/.c /d/c; echo b > /b; echo a > /d/a; ln /d/a /a",
    );
    assert_eq!(layer(&one), layer(&two));
    assert_eq!(one.created(), Some(epoch));
    let other = commit(
        "echo a > /a; echo c > /b; mkdir /d; echo c > /d/c; ln /a /d/a; rm /etc/gone; rm -r /opt/whole",
    );
    assert_ne!(layer(&one), layer(&other));
    for entry in one.layers().unwrap().last().unwrap().entries().unwrap() {
        assert!(entry.unwrap().modified().unwrap() <= epoch);
    }
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn without_changes_there_is_no_layer() {
    let store = Store::temp().unwrap();
    let base = base(&store);
    let before = count(store.path().join("blobs/sha256"));
    let (container, _) = ended(&changing(&base, "cat /etc/keep; ls /opt"));
    assert!(container.diff().unwrap().is_empty());
    let image = container.commit("same:1").unwrap();
    assert_eq!(image.layers().unwrap().len(), 1);
    let last = image.config().history().last().unwrap().clone();
    assert_eq!(last.empty_layer(), Some(true));
    // A manifest and a configuration.
    assert_eq!(count(store.path().join("blobs/sha256")), before + 2);
    // Nor of one that was never started.
    let image = sh(&base, "true").create().unwrap().commit("same:2").unwrap();
    assert_eq!(image.layers().unwrap().len(), 1);
}

#[test]
#[ignore = "needs busybox, attr and setcap: run with --include-ignored"]
fn what_changed_in_dockers_words() {
    let store = Store::temp().unwrap();
    let script = "echo new > /etc/new; rm /etc/gone; /bin/touch -r /etc/keep /etc/x; rm /etc/x; chmod 600 /opt/todir
        rm -rf /opt/whole; mkdir /opt/whole; echo z > /opt/whole/x
        rm -rf /opt/tofile; echo f > /opt/tofile; rm -r /usr/share/dir/sub; mkdir -p /made/dir; touch /made/dir/f
        : >> /etc/same; touch /links/tmp; rm /links/tmp";
    let (container, _) = ended(&changing(&base(&store), script));
    assert_eq!(
        shown(&container),
        [
            "C /etc",
            "D /etc/gone",
            "A /etc/new",
            "A /made",
            "A /made/dir",
            "A /made/dir/f",
            "C /opt",
            "C /opt/todir",
            "C /opt/tofile",
            "C /opt/whole",
            "C /opt/whole/x",
            "D /opt/whole/y",
            "C /usr",
            "C /usr/share",
            "C /usr/share/dir",
            "D /usr/share/dir/sub",
        ]
    );
}
