//! The second wall holds by itself: each attack here gets through without it, where the first wall was opened on purpose.

use super::common::*;
use super::{as_far_as_the_kernel, has_landlock};
use coracle::{Container, ContainerBuilder, ErrorKind, Landlock, Network, Outcome, Protection};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A directory of the host that everybody may read and write, with a canary.
fn outside() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(dir.path().join("canary"), "the host's").unwrap();
    dir
}

fn with(builder: &ContainerBuilder) -> ContainerBuilder {
    as_far_as_the_kernel(builder.clone().landlock(Landlock::new()))
}

/// A descriptor of the host's that leaked: the command's own stdin.
fn leak(dir: &Path, builder: ContainerBuilder) -> ContainerBuilder {
    builder.stdin(File::open(dir).unwrap())
}

const TRY: &str = "cat /proc/self/fd/0/canary; ls /proc/self/fd/0/; (echo x >/proc/self/fd/0/made) && echo made; \
    cd /proc/self/fd/0/ && cat canary; true";

#[test]
fn a_leaked_directory_opens_nothing() {
    let image = host();
    let open = outside();
    let said = say(&leak(open.path(), sh(&image, TRY)));
    assert!(said.contains("the host's") && said.contains("made"), "the leak is none: {said}");
    assert!(open.path().join("made").exists());
    for read_only in [false, true] {
        let shut = outside();
        let out = leak(shut.path(), with(&sh(&image, TRY)).read_only(read_only)).run().unwrap();
        assert_eq!(out.stdout_text(), "", "{}", out.stderr_text());
        assert!(out.stderr_text().contains("Permission denied"), "{}", out.stderr_text());
        assert!(!shut.path().join("made").exists());
    }
}

#[test]
fn a_further_command_is_behind_it_too() {
    let image = host();
    let dir = outside();
    let container = ready(&with(&sh(&image, "echo; exec sleep 1000")));
    let exec = |script: &str| {
        let stdin = File::open(dir.path()).unwrap();
        container.exec(["sh", "-c", script]).stdin(stdin).output().unwrap()
    };
    let out = exec(TRY);
    assert_eq!(out.stdout_text(), "", "{}", out.stderr_text());
    assert!(!dir.path().join("made").exists());
    // What it is for still works: files of the container, and signals to it.
    let out = exec("echo y >/srv/x && cat /srv/x && kill -0 1 && echo alive");
    assert_eq!(out.stdout_text(), "y\nalive\n", "{}", out.stderr_text());
}

#[test]
fn nothing_is_mounted_in_it_with_whatever_capabilities() {
    let image = host();
    let mount = sh(&image, "mount -t tmpfs none /srv && umount /srv && echo mounted").cap_add("SYS_ADMIN");
    assert_eq!(say(&mount), "mounted");
    let out = with(&mount).run().unwrap();
    assert!(!out.status.success() && out.stdout.is_empty());
    // The covers over /proc, which are the container's own, stay.
    let unmask = sh(&image, "umount /proc/keys && echo gone").cap_add("SYS_ADMIN");
    assert_eq!(say(&unmask), "gone");
    assert!(!with(&unmask).run().unwrap().status.success());
}

/// What programs do all the time.
#[test]
fn usual_work_goes_on() {
    let image = host();
    let work = "set -e; d=$(mktemp -d); echo a >$d/a; mkdir $d/b; mv $d/a $d/b/c; ln $d/b/c $d/l; rm -r $d/b; \
        echo longer >$d/l; : >$d/l; mkfifo $d/p; ln -s l $d/s; cat $d/s; rm -r $d; echo x >/dev/null; \
        echo x >/dev/shm/x; mv /dev/shm/x /dev/shm/y; head -c 1 /dev/zero >/dev/null; echo y >/proc/self/comm; \
        (cat /proc/self/status | grep -c Name) && sleep 0.01 & wait; echo done";
    let rw = with(&sh(&image, work));
    assert!(say(&rw).ends_with("done"));
    // As root of a read-only filesystem, in mounts only.
    let volume = tempfile::tempdir().unwrap();
    let file = volume.path().join("file");
    fs::write(&file, "").unwrap();
    let ro = "set -e; cd /scratch; echo a >a; mkdir d; mv a d/b; rm -r d; echo x >/dev/null; echo x >/dev/shm/x; \
        echo w >/file; mkdir /bound/d; cat /etc/passwd >/bound/d/passwd; \
        for p in /etc/x /usr/x /x /proc/self/comm; do (echo x >$p) 2>/dev/null && echo $p can be written; done; echo done";
    let ro = with(&sh(&image, ro))
        .read_only(true)
        .tmpfs("/scratch")
        .bind(volume.path(), "/bound")
        .bind(&file, "/file");
    assert_eq!(say(&ro), "done");
    assert_eq!(fs::read_to_string(&file).unwrap(), "w\n");
    assert!(volume.path().join("d/passwd").exists());
}

/// What the mount's flag keeps from being written is kept so also where another mount of the same files has none: here
/// the host's own view of the writable layer.
#[test]
fn a_read_only_root_is_so_twice() {
    let image = host();
    let write = |builder: ContainerBuilder| {
        let container = ready(&builder.read_only(true).init(true));
        let upper = image.store().path().join("containers").join(container.id()).join("upper");
        let exec = container.exec(["sh", "-c", "echo x >/proc/self/fd/0/made"]);
        let out = exec.stdin(File::open(&upper).unwrap()).output().unwrap();
        assert_eq!(out.status.success(), upper.join("made").exists());
        out.status.success()
    };
    let sleeper = sh(&image, "echo; exec sleep 1000");
    assert!(write(sleeper.clone()), "the other view is none");
    assert!(!write(with(&sleeper)));
}

/// A place that a container may write to is what was mounted there, not what it has put in its stead since: here a link to
/// a directory that it may only read, by a view of it that has no flag.
#[test]
fn a_place_that_was_swapped_for_a_link_is_none() {
    let image = host();
    let open = |script: &str| {
        let dir = outside();
        let builder = with(&sh(&image, &format!("set -e; {script}; echo; exec sleep 1000")))
            .read_only(true)
            .tmpfs("/tmp")
            .tmpfs("/tmp/parent/place")
            .mount(coracle::Mount::bind(dir.path(), "/srv").read_only());
        let container = ready(&builder);
        let exec =
            container.exec(["sh", "-c", "echo x >/proc/self/fd/0/made; echo x >/tmp/parent/place/made"]);
        let out = exec.stdin(File::open(dir.path()).unwrap()).output().unwrap();
        assert!(!dir.path().join("made").exists(), "{script}");
        out.status.success()
    };
    assert!(open("true"), "the place itself can be written");
    for thing in ["ln -s /srv place", "touch place"] {
        let way = format!("mv /tmp/parent /tmp/old; mkdir /tmp/parent; cd /tmp/parent; {thing}");
        open(&way);
    }
    open("mv /tmp/parent /tmp/old; mkdir /tmp/dir; ln -s /srv /tmp/dir/place; ln -s dir /tmp/parent");
}

/// A link in a mount that is read-only here and can be written elsewhere is nobody's word: whoever can write there would say
/// where the container may write.
#[test]
fn a_place_behind_a_link_that_others_can_change_is_none() {
    let image = host();
    let shared = outside();
    let target = outside();
    let link = shared.path().join("link");
    std::os::unix::fs::symlink("/tmp/real", &link).unwrap();
    let builder = with(&sh(&image, "echo x >/shared/link/x; echo; exec sleep 1000"))
        .read_only(true)
        .mount(coracle::Mount::bind(shared.path(), "/shared").read_only())
        .mount(coracle::Mount::bind(target.path(), "/srv").read_only())
        .tmpfs("/tmp/real")
        .tmpfs("/shared/link");
    let container = ready(&builder);
    let write = || {
        let exec = container.exec(["sh", "-c", "cat /tmp/real/x; echo x >/proc/self/fd/0/made"]);
        exec.stdin(File::open(target.path()).unwrap()).output().unwrap()
    };
    assert_eq!(write().stdout_text(), "x\n", "it was mounted where the link led");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("/srv", &link).unwrap();
    let out = write();
    assert!(!out.status.success() && !target.path().join("made").exists(), "{}", out.stderr_text());
}

/// The image's own links are not the container's.
#[test]
fn a_place_behind_a_link_of_the_image_is_one() {
    let image = host();
    let container = ready(
        &with(&sh(&image, "test -L /var/run && echo; exec sleep 1000")).read_only(true).tmpfs("/var/run"),
    );
    let out = container.exec(["sh", "-c", "echo x >/var/run/x && cat /run/x"]).output().unwrap();
    assert_eq!(out.stdout_text(), "x\n", "{}", out.stderr_text());
}

#[test]
fn devices_take_no_ioctl_but_terminals_do() {
    let image = host();
    let script = "stty -F /dev/zero 2>&1; true";
    assert!(say(&sh(&image, script)).contains("Inappropriate ioctl"));
    assert!(say(&with(&sh(&image, script))).contains("Permission denied"));
    let mine = with(&sh(&image, "stty -F /dev/mine 2>&1; true"))
        .device(coracle::Device::new("/dev/zero").at("/dev/mine"));
    assert!(say(&mine).contains("Inappropriate ioctl"));
    let container = with(&sh(&image, "stty size </dev/tty && tty && echo it is")).tty(true).start().unwrap();
    let mut said = Vec::new();
    let _ = std::io::Read::read_to_end(&mut container.terminal().unwrap(), &mut said);
    assert!(text(&said).contains("it is"), "{}", text(&said));
}

#[test]
fn ports_of_the_host() {
    let image = host();
    let (one, two) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let [one_port, two_port] = [&one, &two].map(|listener| listener.local_addr().unwrap().port());
    let script = format!(
        "(exec 3<>/dev/tcp/127.0.0.1/{one_port}) 2>&1 && echo one; (exec 3<>/dev/tcp/127.0.0.1/{two_port}) 2>&1 && echo two; true"
    );
    let both = Container::builder(&image).command(["bash", "-c", &script]).network(Network::host());
    assert_eq!(say(&both), "one\ntwo");
    assert_eq!(say(&with(&both)), "one\ntwo", "no list, no rule");
    let said = say(&both.clone().landlock(Landlock::new().connect_tcp([one_port])));
    assert!(
        said.starts_with("one\n") && said.contains("Permission denied") && !said.contains("two"),
        "{said}"
    );
    let said = say(&both.clone().landlock(Landlock::new().connect_tcp([])));
    assert!(!said.contains("one") && !said.contains("two"), "{said}");
}

/// Abstract Unix sockets have no file and no mode: on the host's network every container reaches them.
#[test]
#[ignore = "needs python3"]
fn abstract_sockets_of_the_host() {
    use std::os::linux::net::SocketAddrExt;
    let image = host();
    let name = format!("coracle-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ntry:\n s.connect('\\0{name}')\n print('connected')\n\
         except PermissionError: print('refused')"
    );
    let python = Container::builder(&image).command(["python3", "-c", &script]).network(Network::host());
    assert_eq!(say(&python), "connected");
    assert_eq!(say(&with(&python)), "refused");
    let container = ready(&with(&sh(&image, "echo; exec sleep 1000")).network(Network::host()));
    let out = container.exec(["python3", "-c", &script]).output().unwrap();
    assert_eq!(out.stdout_text(), "refused\n", "{}", out.stderr_text());
}

/// Required, it is an error where the kernel has a part of it only.
#[test]
fn the_report_names_the_abi() {
    let image = host();
    let report = with(&sh(&image, "true")).run().unwrap().report;
    let line = report.get(Protection::Landlock).unwrap();
    let abi = format!("ABI {}: files", Landlock::abi().unwrap());
    let required = sh(&image, "true").landlock(Landlock::new()).run();
    if has_landlock(6) {
        assert!(matches!(line.outcome(), Outcome::Enforced(how) if how.starts_with(&abi)), "{line}");
        assert!(required.unwrap().status.success());
    } else {
        assert!(matches!(line.outcome(), Outcome::Partial(how) if how.starts_with(&abi)), "{line}");
        let error = required.unwrap_err();
        assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("landlock")), "{error}");
        assert!(error.to_string().contains("abstract sockets") && error.remedy().unwrap().contains("6.12"));
    }
    let report = sh(&image, "true").run().unwrap().report;
    assert!(matches!(report.get("landlock").unwrap().outcome(), Outcome::Off(_)), "{report:?}");
}
