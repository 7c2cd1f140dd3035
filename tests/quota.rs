//! `disk_max` of a writable layer on disk.

mod common;

use common::*;
use coracle::{ErrorKind, Image, Outcome, Store};
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;
const MOUNTED: &str = "CORACLE_TEST_MOUNTED";

/// Runs `test` again where an ext4 of its own, made with `features`, is mounted with `options`: in a mount namespace
/// that goes with it, whatever happens. `None` when this kernel can't mount that.
fn on_own_filesystem(test: &str, features: &str, options: &str) -> Option<()> {
    let temp = tempfile::tempdir().unwrap();
    let (file, mount) = (temp.path().join("image"), temp.path().join("mounted"));
    std::fs::create_dir(&mount).unwrap();
    std::fs::File::create(&file).unwrap().set_len(256 * MIB).unwrap();
    peer("mkfs.ext4", format!("-q {features} {}", file.display()).split_whitespace());
    // 77: the kernel refused. Else what the test says.
    let script = "mount -o \"$1\" \"$2\" \"$3\" || exit 77; shift 3; exec \"$@\"";
    let test = child(test, &[(MOUNTED, mount.as_os_str())]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", options]);
    command.arg(&file).arg(&mount).arg(test.get_program()).args(test.get_args());
    command.envs(test.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = command.output().unwrap();
    if out.status.code() == Some(77) {
        eprintln!("not mounted: {}", text(&out.stderr));
        return None;
    }
    assert!(out.status.success(), "{}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
    assert!(text(&out.stdout).contains("1 passed"));
    Some(())
}

fn mounted() -> Option<std::path::PathBuf> {
    std::env::var_os(MOUNTED).map(Into::into)
}

/// The limit of a project in KiB and what it uses, as quotactl(2) tells another program than this crate.
fn project(mount: &Path, number: u64) -> (u64, u64) {
    let script = "import ctypes,os,struct,sys\n\
        b=ctypes.create_string_buffer(72)\n\
        f=os.open(sys.argv[1],os.O_RDONLY)\n\
        r=ctypes.CDLL(None,use_errno=True).syscall(443,f,0x80000702,int(sys.argv[2]),b)\n\
        v=struct.unpack('8Q',b.raw[:64])\n\
        print(r,v[0],v[2])";
    let said = peer("python3", ["-c", script, mount.to_str().unwrap(), &number.to_string()]);
    let numbers: Vec<u64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(numbers[0], 0);
    (numbers[1], numbers[2])
}

fn number_of(container: &coracle::Container) -> u64 {
    let record: serde_json::Value = serde_json::from_str(&container.inspect().unwrap()).unwrap();
    record["project"].as_u64().unwrap()
}

#[test]
#[ignore = "needs root: mounts a filesystem of its own"]
fn on_a_filesystem_without_them_it_is_an_error() {
    on_own_filesystem("without_quotas_it_is_an_error_that_says_what_to_do", "", "loop").unwrap();
}

#[test]
#[ignore = "needs root, and a kernel with project quotas (CONFIG_QFMT_V2)"]
fn it_is_a_project_quota_where_the_filesystem_has_them() {
    let Some(mount) = mounted() else {
        const TEST: &str = "it_is_a_project_quota_where_the_filesystem_has_them";
        on_own_filesystem(TEST, "-O quota,project -E quotatype=prjquota", "loop,prjquota").unwrap();
        return;
    };
    let store = Store::open(mount.join("store")).unwrap();
    let image = Image::host(&store).unwrap();
    let fill = "head -c 20000000 /dev/zero >/filler 2>/dev/null || echo full; \
        head -c 9000000 /dev/zero >/usr/filler 2>/dev/null || echo full; \
        rm -f /filler /usr/filler; head -c 3000000 /dev/zero >/again && echo room";
    let one = ready(&sh(&image, "echo; sleep 1000").disk_max(8 * MIB).name("one"));
    let report = one.report();
    let line = report.get("disk_max").unwrap();
    assert!(matches!(line.outcome(), Outcome::Enforced(how) if how.starts_with("8388608, ")), "{line}");
    let exec = |script: &str| text(&one.exec(["sh", "-c", script]).output().unwrap().stdout);
    assert_eq!(exec(fill), "full\nfull\nroom");
    assert_eq!(exec("df -B1 --output=size / | tail -1").trim(), (8 * MIB).to_string());
    let number = number_of(&one);
    let (limit, used) = project(&mount, number);
    assert_eq!(limit, 8 * 1024);
    assert!((3_000_000..8 * MIB).contains(&used), "{used}");

    // Another one has its own, also at the same time.
    let two = sh(&image, fill).disk_max(16 * MIB).name("two").create().unwrap();
    two.start().unwrap();
    assert!(two.wait().unwrap().success());
    assert_eq!(text(&two.logs(coracle::Stream::Stdout).unwrap()), "full\nfull\nroom");
    assert_ne!(number_of(&two), number);

    // A full layer keeps nobody from writing the record.
    let again = number_of(&two);
    assert!(two.start().and_then(|()| two.wait()).unwrap().success(), "a second start");
    assert_eq!(number_of(&two), again);
    two.keep().unwrap();
    assert_eq!(project(&mount, again).0, 16 * 1024, "kept with the container");
    let two = Store::open(mount.join("store")).unwrap().container("two").unwrap();
    two.start().unwrap();
    two.wait().unwrap();
    two.remove().unwrap();
    assert_eq!(project(&mount, again), (0, 0), "gone with the container");

    // In a copy of the store the number is still that of the original, which goes on.
    let copy = mount.join("copy");
    peer("cp", ["-a".as_ref(), mount.join("store").as_os_str(), copy.as_os_str()]);
    drop(Store::open(&copy).unwrap());
    assert_eq!(project(&mount, number).0, 8 * 1024, "swept in the copy");
    sh(&image, fill).disk_max(4 * MIB).name("three").create().unwrap().keep().unwrap();
    let three = store.container("three").unwrap();
    three.start().unwrap();
    three.wait().unwrap();
    let original = number_of(&three);
    std::fs::remove_dir_all(&copy).unwrap();
    peer("cp", ["-a".as_ref(), mount.join("store").as_os_str(), copy.as_os_str()]);
    let copied = Store::open(&copy).unwrap().container("three").unwrap();
    copied.start().unwrap();
    copied.wait().unwrap();
    assert_eq!(text(&copied.logs(coracle::Stream::Stdout).unwrap()), "full\nfull\nroom");
    let own = number_of(&copied);
    assert_ne!(own, original);
    copied.remove().unwrap();
    assert_eq!((project(&mount, own), project(&mount, original).0), ((0, 0), 4 * 1024));
    three.remove().unwrap();
    assert_eq!(project(&mount, original), (0, 0));

    one.remove().unwrap();
    assert_eq!(project(&mount, number), (0, 0));

    // What a killed program leaves is swept.
    let exe = std::env::current_exe().unwrap();
    let mut killed = Command::new(exe);
    killed.args(["--exact", "a_program_that_is_killed", "--nocapture", "--include-ignored"]);
    killed.env("CORACLE_TEST_KILLED", mount.join("store")).stdout(std::process::Stdio::piped());
    let mut killed = killed.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(killed.stdout.take().unwrap()));
    let number = lines.find_map(|line| line.unwrap().strip_prefix("project ")?.parse().ok()).unwrap();
    assert_eq!(project(&mount, number).0, 4 * 1024);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let done = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while project(&mount, number) != (0, 0) {
        assert!(std::time::Instant::now() < done, "{:?}", project(&mount, number));
        drop(Store::open(mount.join("store")).unwrap());
    }
}

/// Not a test by itself: the program that the one above kills.
#[test]
#[ignore = "needs root: mounts a filesystem of its own"]
fn a_program_that_is_killed() {
    let Some(path) = std::env::var_os("CORACLE_TEST_KILLED") else { return };
    let store = Store::open(path).unwrap();
    let image = Image::host(&store).unwrap();
    let container = ready(&sh(&image, "head -c 9000000 /dev/zero >/f; echo; sleep 1000").disk_max(4 * MIB));
    println!("\nproject {}", number_of(&container));
    loop {
        std::thread::park();
    }
}

#[test]
fn without_quotas_it_is_an_error_that_says_what_to_do() {
    let store = match mounted() {
        Some(mount) => Store::open(mount.join("store")).unwrap(),
        None => Store::temp().unwrap(),
    };
    let image = Image::host(&store).unwrap();
    let error = sh(&image, "true").disk_max(MIB).run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let (reason, remedy) = match is_root() {
        true => ("no project quotas", "prjquota"),
        false => ("CAP_SYS_ADMIN", "run as root"),
    };
    let missing = error.missing().unwrap();
    assert!(missing.reason().contains(reason) && missing.remedy().contains(remedy), "{error}");
    assert!(error.remedy().unwrap().contains("writable_in_memory"), "{error}");
    // In the words of the probe.
    let probed = coracle::Host::probe_at(store.path());
    assert_eq!(Some(missing), probed.get(coracle::Feature::ProjectQuota).unwrap().missing(), "{error}");
    assert!(store.containers().unwrap().is_empty());
    assert_eq!(say(&sh(&image, "echo on").disk_max(16 * MIB).writable_in_memory(true)), "on");
}
