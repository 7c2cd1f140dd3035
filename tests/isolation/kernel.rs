//! Namespaces, /proc, /sys, devices, mounts.
use super::*;
use coracle::Device;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

fn namespace(of: &str, name: &str) -> String {
    fs::read_link(format!("/proc/{of}/ns/{name}")).unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_namespace_is_its_own() {
    let image = host();
    let names = ["pid", "uts", "net", "ipc", "user", "mnt", "cgroup"];
    let script = "for n in pid uts net ipc user mnt cgroup; do readlink /proc/self/ns/$n; done";
    let (one, two) = (say(&sh(&image, script)), say(&sh(&image, script)));
    for ((name, one), two) in names.iter().zip(one.lines()).zip(two.lines()) {
        assert!(one.starts_with(name), "{one}");
        assert_ne!(one, namespace("self", name));
        // Numbers are used again, but those of both can't be the host's.
        assert_ne!(two, namespace("self", name));
    }
    let host_network = sh(&image, "readlink /proc/self/ns/net").network(coracle::Network::host());
    assert_eq!(say(&host_network), namespace("self", "net"));
}

#[test]
fn it_sees_only_its_own_processes_network_and_names() {
    let image = host();
    assert_eq!(say(&sh(&image, "ls -d /proc/[0-9]* | wc -l; echo $$")).lines().last(), Some("1"));
    let pids = say(&sh(&image, "cd /proc; echo [0-9]*"));
    assert!(pids.split(' ').all(|pid| pid.parse::<u32>().unwrap() < 10), "{pids}");
    // The loopback is there and up, and nothing else.
    let links = say(&sh(
        &image,
        "cut -d: -f1 -s /proc/net/dev | tr -d ' ' | grep -v -e Inter -e face; cat /sys/class/net/lo/flags",
    ));
    let links: Vec<_> = links
        .lines()
        .filter(|name| {
            !["sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"]
                .contains(name)
        })
        .collect();
    assert_eq!(links, ["lo", "0x9"]);
    // A server of the host on the same loopback address is not reached.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let connect =
        format!("exec 2>/dev/null; bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' && echo reached || echo no");
    assert_eq!(say(&sh(&image, &connect)), "no");
    assert_eq!(say(&sh(&image, &connect).network(coracle::Network::host())), "reached");
    let before = fs::read("/proc/sys/kernel/hostname").unwrap();
    sh(&image, "hostname changed").cap_add("SYS_ADMIN").run().unwrap();
    assert_eq!(fs::read("/proc/sys/kernel/hostname").unwrap(), before);
}

#[test]
fn proc_and_sys_can_not_be_written_and_masked_paths_not_read() {
    let image = host();
    let writes = "for f in /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sysrq-trigger /sys/kernel/mm/ksm/run \
        /proc/sys/kernel/core_pattern /proc/irq/default_smp_affinity; do \
        { test -e $f && echo 1 >$f && echo wrote $f; } 2>/dev/null; done; \
        touch /sys/x 2>/dev/null && echo sys; mkdir /sys/fs/cgroup/x 2>/dev/null && echo cgroup; true";
    assert_eq!(say(&sh(&image, writes)), "");
    assert_eq!(say(&sh(&image, writes).cap_add("ALL")), "");
    let masked = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/latency_stats; do \
        { test -e $f && test $(head -c 100 $f | wc -c) -gt 0 && echo $f; } 2>/dev/null; done; \
        for d in /proc/acpi /proc/scsi /sys/firmware /proc/asound /sys/devices/virtual/powercap; do \
        { test -d $d && test -n \"$(ls -A $d)\" && echo $d; }; done; true";
    assert_eq!(say(&sh(&image, masked)), "");
}

/// The program's own /proc says nothing of the container's: here it has nothing but processes, as systemd's `ProcSubset=pid` does it.
#[test]
fn what_the_programs_proc_lacks_is_masked_all_the_same() {
    const TEST: &str = "kernel::what_the_programs_proc_lacks_is_masked_all_the_same";
    let script = "mount -t proc -o subset=pid proc /proc && exec \"$@\"";
    let user: &[&str] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
    let rest = ["--mount", "--pid", "--fork", "sh", "-c", script, "sh"];
    if !is_under(TEST, &[&["unshare"], user, &rest].concat()) {
        return;
    }
    assert!(!Path::new("/proc/interrupts").exists(), "the program's own has it");
    let image = host();
    let files =
        "cd /proc; for f in interrupts keys kcore timer_list; do head -c 1 $f 2>/dev/null; done | wc -c";
    let dirs =
        "for d in /proc/acpi /proc/scsi /proc/asound /sys/firmware; do ls -A $d 2>/dev/null; done | wc -l";
    let script = format!("{files}; {dirs}");
    let masked = sh(&image, &script).require(coracle::Protection::MaskedPaths);
    // Once more, as what is known then of the program's own.
    for _ in 0..2 {
        assert_eq!(say(&masked), "0\n0");
    }
    let bare = say(&sh(&image, &script).masked_paths([""; 0]));
    assert!(
        bare.lines().next().unwrap().parse::<u32>().unwrap() > 0,
        "there would be something to be read: {bare}"
    );
}

#[test]
fn no_device_can_be_made_or_used() {
    let image = host();
    let devices = say(&sh(&image, "cd /dev; echo *"));
    let allowed = [
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
        "tty", "urandom", "zero",
    ];
    assert_eq!(devices.split(' ').collect::<Vec<_>>(), allowed);
    let nodes = "for d in / /dev /tmp /dev/shm /etc /v; do \
        mknod $d/disk b 8 0 2>/dev/null && head -c 1 $d/disk >/dev/null 2>&1 && echo $d; \
        mknod $d/null c 1 3 2>/dev/null && echo x 2>/dev/null >$d/null && echo $d; done; true";
    let volume = coracle::Volume::create(image.store(), "v").unwrap();
    for cap in ["MKNOD", "ALL"] {
        let builder = sh(&image, nodes).volume(&volume, "/v").cap_add(cap);
        assert_eq!(say(&builder.clone().seccomp(coracle::Seccomp::Unconfined)), "", "{cap}");
        assert_eq!(say(&builder), "", "{cap}");
    }
    assert_eq!(
        say(&sh(&image, "echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c")),
        "3\n3"
    );
}

/// A mount that is read-only keeps nobody from writing to a device, so there is more to it.
#[test]
fn a_device_can_be_had_with_fewer_rights() {
    let image = host();
    let says = "r() { head -c 2 $1 2>/dev/null | wc -c; }; w() { (echo x >$1) 2>/dev/null && echo w || echo -; }; \
        rw() { (: <>$1) 2>/dev/null && echo b || echo -; }; \
        try() { for d in /dev/a /dev/sub/b /dev/c; do echo $(r $d) $(w $d) $(rw $d); done; }; try; \
        chmod 666 /dev/[a-c] 2>/dev/null && echo chmod; chown 0 /dev/[a-c] 2>/dev/null && echo chown; \
        mount -o remount,bind,rw /dev/a 2>/dev/null; umount /dev/a; echo x 2>/dev/null >/dev/a; test -c /dev/a; try";
    let all = Device::new("/dev/zero");
    let builder = sh(&image, says).device(all.clone().at("/dev/a").read_only());
    let builder = builder.device(all.clone().at("/dev/sub/b").write_only()).device(all.at("/dev/c"));
    for cap in ["KILL", "ALL"] {
        let builder = builder.clone().cap_add(cap).seccomp(coracle::Seccomp::Unconfined);
        if !is_root() {
            // No node can be made, so it is refused rather than given with all rights.
            let error = builder.run().unwrap_err();
            assert_eq!(
                (error.kind(), error.path()),
                (ErrorKind::Unsupported, Some(Path::new("/dev/zero"))),
                "{error}"
            );
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("CAP_MKNOD")));
            continue;
        }
        let said = say(&builder.clone());
        let expected = "2 - -\n0 w -\n2 w b";
        // Of the node in /dev/a there may be nothing left, but a file, when it has been unmounted.
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[..3].join("\n"), expected, "{cap}");
        assert!(lines.iter().all(|line| !line.starts_with("ch")), "{cap}: {said}");
        assert_eq!(lines[lines.len() - 2..], ["0 w -", "2 w b"], "{cap}: {said}");
    }
    let plain = sh(&image, "head -c 2 /dev/zz | wc -c; echo x >/dev/zz; : <>/dev/zz");
    assert_eq!(say(&plain.device(Device::new("/dev/zero").at("/dev/zz"))), "2");
    if is_root() {
        // What the host's own node keeps to itself stays so.
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("zero");
        assert!(
            Command::new("mknod")
                .args(["-m", "660"])
                .arg(&node)
                .args(["c", "1", "5"])
                .status()
                .unwrap()
                .success()
        );
        let closed = sh(&image, "stat -c %a /dev/zz; head -c 1 /dev/zz 2>/dev/null || echo closed");
        assert_eq!(say(&closed.device(Device::new(node).at("/dev/zz").read_only())), "0\nclosed");
    }
    for (device, kind) in [("/etc/passwd", ErrorKind::InvalidInput), ("/dev/no-such", ErrorKind::NotFound)] {
        let error = sh(&image, "true").device(Device::new(device).at("/dev/x")).run().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

/// Even with CAP_SYS_ADMIN and no filter, what is read-only or without devices stays so.
#[test]
fn mounts_can_not_be_changed() {
    let image = host();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("canary"), "canary").unwrap();
    let volume = coracle::Volume::create(image.store(), "v").unwrap();
    let script = "exec 2>/dev/null; for m in / /v /b /etc /usr /proc /sys /proc/sys; do \
        mount -o remount,bind,rw $m && touch $m/coracle-written && echo rw $m; \
        mount -o remount,bind,dev,suid,exec $m && mknod $m/n c 1 3 && echo x >$m/n && echo dev $m; \
        umount -l $m && case $m in /b|/v|/etc|/usr|/) echo unmounted $m;; esac; done; true";
    let builder = sh(&image, script)
        .mount(coracle::Mount::bind(dir.path(), "/b").read_only())
        .mount(coracle::Mount::volume("v", "/v").read_only())
        .read_only(true)
        .cap_add("ALL")
        .seccomp(coracle::Seccomp::Unconfined);
    assert_eq!(say(&builder), "");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(dir.path().join("canary")).unwrap(), "canary");
}

#[test]
fn no_descriptor_of_the_program_comes_in() {
    let image = host();
    // One that is inherited by any child that does not close it.
    let (read, write) = rustix::pipe::pipe().unwrap();
    let list = "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> \\(.*\\)/\\1 \\2/p'";
    let seen = say(&sh(&image, list));
    let seen: Vec<_> = seen.lines().map(|line| line.split(' ').next().unwrap()).collect();
    // The fourth is the directory being listed.
    assert_eq!(seen, ["0", "1", "2", "3"]);
    // One that opens nothing any more: a program that is just beginning has its libraries open.
    let container = ready(&sh(&image, "echo ready; read line").stdin(coracle::Stdio::piped()));
    let out = container
        .exec(["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; ls /proc/1/fd | tr '\\n' ' '"])
        .output()
        .unwrap();
    assert_eq!(text(&out.stdout), "0 1 2 3 0 1 2");
    drop((read.as_raw_fd(), write));
    let inside = sh(&image, "ls /proc/self/fd | wc -l").init(true);
    assert_eq!(say(&inside), "4");
}

/// The kernel runs, for a script of this kind, what the process was before: not the host's program.
#[test]
fn a_script_of_proc_self_exe_does_not_run_the_host() {
    let image = host();
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    for words in [vec!["/entry"], vec!["/proc/self/exe"]] {
        let builder =
            Container::builder(&image).entrypoint(words).file_mode("/entry", "#!/proc/self/exe\n", 0o755);
        match builder.timeout(Duration::from_secs(10)).run() {
            Ok(out) => {
                assert!(!out.status.success());
                assert!(!text(&out.stdout).contains("running"), "the test program ran inside");
            }
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Exec | ErrorKind::TimedOut), "{error}"),
        }
    }
    assert_eq!(fs::read(std::env::current_exe().unwrap()).unwrap(), own);
}

#[test]
fn privileges_do_not_come_back() {
    let image = host();
    // Set-user-id programs of the image do nothing.
    let script = "cp /usr/bin/id /usr/bin/suid-id; chmod 4755 /usr/bin/suid-id; chmod 755 /usr/bin; \
        exec setpriv --reuid 5 --regid 5 --clear-groups /usr/bin/suid-id -u";
    let out = sh(&image, script).run().unwrap();
    if out.status.success() {
        assert_eq!(text(&out.stdout), "5");
    }
    let unshare = sh(
        &image,
        "unshare -U true 2>/dev/null && echo user; unshare -m true 2>/dev/null && echo mount; true",
    );
    assert_eq!(say(&unshare), "");
    assert_eq!(say(&sh(&image, "chroot / true && nsenter -t 1 -m true 2>/dev/null && echo in; true")), "");
}

/// Every control group that a container sees is its own. A user without a delegated group sees none.
#[test]
fn control_groups_of_others_are_not_seen() {
    let image = host();
    let neighbour = ready(&sh(&image, "echo; exec sleep 1000"));
    let look = "find /sys/fs/cgroup -mindepth 1 -name 'coracle*' | sed 's/^/seen /'; \
        cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; \
        for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/x 2>/dev/null && echo wrote; done; \
        for f in $(find /sys/fs/cgroup -name cgroup.procs -o -name tasks); do wc -l <$f; done; echo end";
    for network in [coracle::Network::none(), coracle::Network::host()] {
        let said = say(&sh(&image, look).pids_max(41).network(network));
        let mut lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.pop(), Some("end"), "{said}");
        if is_root() {
            assert_eq!(lines.remove(0), "41", "{said}");
            assert!(!lines.is_empty(), "{said}");
        }
        // Its own processes: the shell and wc.
        for count in lines {
            assert!(["1", "2", "3"].contains(&count), "{said}");
        }
    }
    neighbour.remove().unwrap();
}
