//! Commands of the host in namespaces.
use super::LONG;
use super::common::{child, ends, is_root, pidfd, text};
use coracle::{
    Cgroup, Container, Entered, ErrorKind, Extent, IdMap, Limits, NamespaceKind, Namespaces, Signal, Stdio,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

const HOST: &str = "CORACLE_TEST_NAMESPACES";
const KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
const LINKS: &str = "for kind in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$kind; done";

/// What a script says that has to succeed.
#[track_caller]
fn say(namespaces: &Namespaces, script: &str) -> String {
    let out = namespaces.command(["/bin/sh", "-c", script]).output().unwrap();
    assert!(out.status.success(), "{:?}: {}", out.status, text(&out.stderr));
    text(&out.stdout)
}

/// Starts a script that says one line when it is ready; gives that line too.
#[track_caller]
fn ready(namespaces: &Namespaces, script: &str) -> (Entered, String) {
    // Other users may not enter this one's directories.
    let command = namespaces.command(["/bin/sh", "-c", script]).working_dir("/").stdin(Stdio::null());
    let entered = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(entered.take_stdout().unwrap()).read_line(&mut line).unwrap();
    (entered, line.trim().to_owned())
}

fn by_kind(links: &str) -> BTreeMap<String, String> {
    let all: BTreeMap<_, _> =
        KINDS.map(str::to_owned).into_iter().zip(links.lines().map(str::to_owned)).collect();
    assert_eq!(all.len(), KINDS.len(), "{links}");
    all
}

/// Those of the process with this number.
fn links_of(pid: impl std::fmt::Display) -> BTreeMap<String, String> {
    let link =
        |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_str().unwrap().to_owned();
    KINDS.iter().map(|kind| (kind.to_string(), link(kind))).collect()
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}

fn ids(pid: i32) -> (u32, u32) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let id = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (id("Uid:"), id("Gid:"))
}

fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

#[test]
fn all_of_its_own() {
    let before = (hostname(), links_of("self"));
    let all = Namespaces::all().hostname("ark");
    let inside = by_kind(&say(&all, LINKS));
    for kind in KINDS {
        assert_ne!(inside[kind], before.1[kind], "{kind}");
    }
    assert_eq!(say(&all, "echo $$ $(id -u) $(id -g); cat /proc/sys/kernel/hostname"), "1 0 0\nark");
    // A /proc of its own: the shell, cat and nobody else.
    assert_eq!(say(&all, "cd /proc; echo [0-9]*; cat self/stat").lines().next(), Some("1"));
    // One interface, and it is up: it has routes.
    let interfaces = say(&all, "tail -n +3 /proc/net/dev");
    assert_eq!(
        interfaces.lines().map(|line| line.trim().split(':').next().unwrap()).collect::<Vec<_>>(),
        ["lo"]
    );
    assert!(say(&all, "cat /proc/net/fib_trie").contains("127.0.0.1"));
    assert_eq!((hostname(), links_of("self")), before);
}

#[test]
fn what_is_not_asked_for_is_the_hosts() {
    let host = links_of("self");
    let inside = by_kind(&say(&Namespaces::new().user(), LINKS));
    for kind in ["cgroup", "ipc", "net", "uts"] {
        assert_eq!(inside[kind], host[kind], "{kind}");
    }
    for kind in ["mnt", "pid", "user"] {
        assert_ne!(inside[kind], host[kind], "{kind}");
    }
    // The warden's PID namespace, for one like the other; never its mount namespace.
    let other = by_kind(&say(&Namespaces::new().user(), LINKS));
    assert_eq!(other["pid"], inside["pid"]);
    let same = "test $(readlink /proc/self/ns/mnt) != $(readlink /proc/1/ns/mnt 2>/dev/null || echo none)";
    say(&Namespaces::new().user(), same);
    let bare = Namespaces::new().command(["true"]).output();
    if is_root() {
        assert!(bare.unwrap().status.success());
        assert_eq!(by_kind(&say(&Namespaces::new(), LINKS))["user"], host["user"]);
    } else {
        let error = bare.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.remedy().unwrap().contains("Namespaces::user"), "{error}");
    }
}

#[test]
fn whose_ids_it_has() {
    let (mut sleeper, uid) = ready(&Namespaces::new().user(), "id -u; exec sleep 1000");
    assert_eq!((uid.as_str(), ids(sleeper.pid().unwrap())), ("0", own_ids()));
    // One that is not root.
    let own = own_ids();
    let one = |inside, outside| vec![Extent { inside, outside, count: 1 }];
    let map = IdMap { users: one(1234, own.0), groups: one(77, own.1) };
    (sleeper, _) = ready(&Namespaces::new().user_map(map), "echo $(id -u) $(id -g); exec sleep 1000");
    assert_eq!(ids(sleeper.pid().unwrap()), own);
    assert_eq!(say(&Namespaces::new().user_map(IdMap::available()), "id -u"), "0");
    let available = say(&Namespaces::new().user_map(IdMap::available()), "cat /proc/self/uid_map");
    if is_root() {
        let range = Namespaces::new().user_map(IdMap::range(1_500_000_000, 1000));
        let line = "echo $(id -u) $(id -g) $(cat /proc/self/uid_map); exec sleep 1000";
        let (sleeper, said) = ready(&range, line);
        assert_eq!(said, "0 0 0 1500000000 1000");
        assert_eq!(ids(sleeper.pid().unwrap()), (1_500_000_000, 1_500_000_000));
        // Its pipes are its own: a shell opens them again.
        assert_eq!(say(&range, "echo again > /dev/stdout"), "again");
        assert_eq!(available.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
    } else {
        for foreign in [IdMap::single(0, own.1), IdMap::single(own.0, 0), IdMap::range(0, 65536)] {
            let error = Namespaces::new().user_map(foreign).command(["true"]).spawn().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(error.remedy().is_some());
        }
        let sub_ids = available.lines().count() == 2;
        assert!(sub_ids || available.lines().count() == 1, "{available}");
        if sub_ids {
            let map = IdMap::available();
            let second = map.user(1).unwrap();
            let group = map.group(1).unwrap();
            let (sleeper, _) =
                ready(&Namespaces::new().user_map(IdMap::single(second, group)), "id -u; exec sleep 9");
            assert_eq!(ids(sleeper.pid().unwrap()), (second, group));
        }
    }
}

#[test]
fn mounts_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("canary"), "host").unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let script = format!(
        "mount -t tmpfs none {0} && test ! -e {0}/canary && echo x > {0}/new && grep -c {0} /proc/self/mountinfo",
        dir.path().display()
    );
    let mut all = vec![Namespaces::new().user().mount(), Namespaces::all()];
    if is_root() {
        all.extend([Namespaces::new(), Namespaces::new().mount(), Namespaces::new().pid()]);
    }
    for namespaces in all {
        assert_eq!(say(&namespaces, &script), "1", "{namespaces:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    // Nor are they in the way of what comes later.
    assert_eq!(say(&Namespaces::new().user(), &format!("cat {}/canary", dir.path().display())), "host");
    // Its own mounts are not there to be changed without a mount namespace of its own.
    let refused = Namespaces::new().user().command(["/bin/sh", "-c", &script]).output().unwrap();
    assert!(!refused.status.success());
}

#[test]
fn others_join() {
    let (first, _) = ready(&Namespaces::all().hostname("ark"), "echo ready; exec sleep 1000");
    let shared = first.namespaces().unwrap();
    assert_eq!(by_kind(&say(&shared, LINKS)), links_of(first.pid().unwrap()));
    assert_eq!(say(&shared, "cat /proc/sys/kernel/hostname; id -u; pwd"), "ark\n0\n/");
    assert!(
        say(&shared, "until grep -q ^sleep /proc/1/cmdline; do :; done; tr '\\0' ' ' </proc/1/cmdline")
            .starts_with("sleep 1000")
    );

    // One of them, by its descriptor, and the rest new.
    let net = first.namespace(NamespaceKind::Net).unwrap();
    let link = fs::read_link(format!("/proc/self/fd/{}", net.as_raw_fd())).unwrap();
    assert_eq!(link.to_str(), Some(links_of(first.pid().unwrap())["net"].as_str()));
    let mixed = Namespaces::new().user().pid().mount().join(NamespaceKind::Net, net.try_clone().unwrap());
    let inside = by_kind(&say(&mixed, LINKS));
    let outside = links_of(first.pid().unwrap());
    for kind in KINDS {
        assert_eq!(inside[kind] == outside[kind], kind == "net", "{kind}");
    }
    // The user namespace is joined, and a PID namespace new in it.
    let user = Namespaces::of(&first, [NamespaceKind::User, NamespaceKind::Mount]).unwrap().pid();
    assert_eq!(say(&user, "echo $$; cat /proc/sys/kernel/hostname | grep -c ark; true"), "1\n0");
    // A new user namespace in a mount namespace whose /proc is not this program's.
    let foreign = Namespaces::of(&first, [NamespaceKind::Mount]).unwrap().user();
    let (second, uid) = ready(&foreign, "id -u; exec sleep 1000");
    let inside = links_of(second.pid().unwrap());
    assert_eq!((uid.as_str(), &inside["mnt"]), ("0", &outside["mnt"]));
    assert_ne!(inside["user"], outside["user"]);
    // The host's own are root's to join.
    let host = fs::File::open("/proc/self/ns/net").unwrap();
    let host = Namespaces::new().user().join(NamespaceKind::Net, host);
    match is_root() {
        true => assert_eq!(by_kind(&say(&host, LINKS))["net"], links_of("self")["net"]),
        false => {
            let error = host.command(["true"]).spawn().unwrap_err();
            assert_eq!((error.kind(), error.step()), (ErrorKind::PermissionDenied, "setns(net)"), "{error}");
        }
    }
    // What it is not.
    let wrong = Namespaces::new().user().join(NamespaceKind::Uts, net.try_clone().unwrap());
    let error = wrong.command(["true"]).spawn().unwrap_err();
    assert_eq!((error.step(), error.raw_os_error()), ("setns(uts)", Some(22)), "{error}");

    // A namespace outlives its process for as long as somebody has it, but nobody is born where process 1 is dead.
    first.kill(Signal::SIGKILL).unwrap();
    assert_eq!(first.wait().unwrap().signal(), Some(9));
    assert_eq!(by_kind(&say(&mixed, LINKS))["net"], outside["net"]);
    let error = shared.command(["true"]).spawn().unwrap_err();
    assert!(error.remedy().unwrap().contains("PID namespace"), "{error}");
    assert_eq!(first.namespace(NamespaceKind::Net).unwrap_err().kind(), ErrorKind::State);
    assert_eq!(first.pid().unwrap_err().kind(), ErrorKind::State);
}

#[test]
fn a_containers_network_is_shared() {
    let image = super::common::host();
    let container = super::common::ready(&super::common::sh(&image, "echo ready; exec sleep 1000"));
    let process = pidfd(container.pid().unwrap());
    let beside = Namespaces::of(&process, [NamespaceKind::User, NamespaceKind::Net]).unwrap();
    let inside = by_kind(&say(&beside, LINKS));
    let theirs = links_of(container.pid().unwrap());
    for kind in KINDS {
        assert_eq!(inside[kind] == theirs[kind], ["user", "net"].contains(&kind), "{kind}");
    }
    Container::remove(container).unwrap();
}

#[test]
fn handles_go_between_threads() {
    fn threads<T: Send + Sync + 'static>(_: &T) {}
    let namespaces = Namespaces::new().user().pid();
    threads(&namespaces);
    threads(&namespaces.command(["true"]));
    let (entered, _) = ready(&namespaces, "echo ready; exec sleep 1000");
    threads(&entered);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| entered.wait().unwrap());
        entered.kill(Signal::SIGKILL).unwrap();
        assert_eq!(waiting.join().unwrap().signal(), Some(9));
    });
    // Many at once.
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn(move || {
                    say(&Namespaces::all().hostname(format!("n{n}")), "cat /proc/sys/kernel/hostname")
                })
            })
            .collect();
        for (n, start) in starts.into_iter().enumerate() {
            assert_eq!(start.join().unwrap(), format!("n{n}"));
        }
    });
}

#[test]
fn ends_are_told() {
    let user = Namespaces::new().user();
    let code = |script: &str| user.command(["sh", "-c", script]).status().unwrap();
    assert_eq!(code("exit 7").code(), Some(7));
    assert_eq!(code("kill -TERM $$").signal(), Some(15));
    let (entered, _) = ready(&user.clone().pid(), "sleep 1000 & echo ready; wait");
    let process = pidfd(entered.pid().unwrap());
    assert_eq!(entered.try_wait().unwrap(), None);
    assert_eq!(entered.wait_timeout(Duration::from_millis(1)).unwrap(), None);
    assert!(!ends(&entered.as_fd().try_clone_to_owned().unwrap(), Duration::ZERO));
    entered.kill(Signal::SIGKILL).unwrap();
    assert_eq!(entered.wait().unwrap().signal(), Some(9));
    assert_eq!(entered.wait().unwrap().signal(), Some(9), "again");
    assert!(ends(&process, LONG));
    assert_eq!(entered.kill(Signal::SIGKILL).unwrap_err().kind(), ErrorKind::State);
}

#[test]
fn a_handle_takes_all_of_a_pid_namespace_with_it() {
    let script = "setsid sleep 1000 & echo $(cat /proc/self/stat | cut -d' ' -f1) ready; wait";
    let (entered, _) = ready(&Namespaces::new().user().pid().mount(), script);
    let children = format!("/proc/{0}/task/{0}/children", entered.pid().unwrap());
    let child = fs::read_to_string(children).unwrap();
    let all = [entered.pid().unwrap(), child.split_whitespace().next().unwrap().parse().unwrap()].map(pidfd);
    assert!(all.iter().all(|process| !ends(process, Duration::ZERO)));
    drop(entered);
    assert!(all.iter().all(|process| ends(process, LONG)));
    let (kept, _) = ready(&Namespaces::new().user(), "echo ready; exec sleep 1000");
    let process = pidfd(kept.pid().unwrap());
    kept.keep();
    assert!(!ends(&process, Duration::ZERO));
    rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL).unwrap();
    assert!(ends(&process, LONG));
}

#[test]
fn an_init_reaps_and_passes_on() {
    let namespaces = Namespaces::new().user().pid().mount();
    let command = |script| namespaces.command(["sh", "-c", script]).init(true);
    let out = command(
        "echo $$; cat /proc/1/comm; (sleep 0 & ); trap 'exit 9' TERM; sleep 1000 & kill -TERM 1; wait",
    );
    let out = out.output().unwrap();
    assert_eq!((text(&out.stdout).as_str(), out.status.code()), ("2\ncoracle-init", Some(9)));
    let entered = command("exec sleep 1000").spawn().unwrap();
    match (is_root(), entered.namespace(NamespaceKind::Pid)) {
        (true, opened) => drop(opened.unwrap()),
        (false, opened) => assert_eq!(opened.unwrap_err().kind(), ErrorKind::PermissionDenied),
    }
    assert_eq!(command("kill -KILL $$").status().unwrap().code(), Some(137));
}

#[test]
fn streams_environment_and_directory() {
    let user = Namespaces::new().user().ipc();
    let cat = user.command(["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    cat.take_stdin().unwrap().write_all(b"over and back").unwrap();
    let mut back = String::new();
    cat.take_stdout().unwrap().read_to_string(&mut back).unwrap();
    assert_eq!((back.as_str(), cat.wait().unwrap().code()), ("over and back", Some(0)));
    assert_eq!(user.command(["cat"]).stdin("given").output().unwrap().stdout, b"given");
    let out = user.command(["sh", "-c", "echo out; echo err >&2; read x || echo nothing"]).output().unwrap();
    assert_eq!((text(&out.stdout).as_str(), text(&out.stderr).as_str()), ("out\nnothing", "err"));
    let error = user.command(["head", "-c", "20M", "/dev/zero"]).output().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);

    let here = std::env::current_dir().unwrap();
    let own = say(&user, "pwd; echo $PATH");
    assert_eq!(own, format!("{}\n{}", here.display(), std::env::var("PATH").unwrap()));
    let env = user.command(["env"]).env_clear().env("A", "1").env("B", "x=y").env("A", "2").working_dir("/");
    assert_eq!(text(&env.output().unwrap().stdout), "A=2\nB=x=y");
    let at = user.command(["pwd"]).working_dir("/usr").output().unwrap();
    assert_eq!(text(&at.stdout), "/usr");
    // Nothing else is open in it.
    let open = say(&user, "exec ls /proc/self/fd");
    assert_eq!(open.lines().collect::<Vec<_>>(), ["0", "1", "2", "3"], "3 is ls's own");
}

#[test]
fn what_can_not_be_is_an_error() {
    let user = Namespaces::new().user();
    let kind = |command: coracle::Enter<'_>| command.spawn().unwrap_err().kind();
    let error = user.command(["no-such-program"]).spawn().unwrap_err();
    assert_eq!((error.kind(), error.path().unwrap().to_str()), (ErrorKind::Exec, Some("no-such-program")));
    assert_eq!(kind(user.command(["/nowhere/x"])), ErrorKind::Exec);
    assert_eq!(kind(user.command(["/etc/hostname"])), ErrorKind::Exec);
    assert_eq!(kind(user.command([] as [&str; 0])), ErrorKind::InvalidInput);
    assert_eq!(kind(user.command(["a\0b"])), ErrorKind::InvalidInput);
    assert_eq!(kind(user.command(["true"]).env("A=B", "c")), ErrorKind::InvalidInput);
    assert_eq!(kind(user.command(["true"]).env("A", "c\0")), ErrorKind::InvalidInput);
    let error = user.command(["true"]).working_dir("/nowhere").spawn().unwrap_err();
    assert_eq!((error.step(), error.path().unwrap().to_str()), ("chdir", Some("/nowhere")));
    for name in ["", "a\0", &"n".repeat(65)] {
        assert_eq!(kind(user.clone().hostname(name).command(["true"])), ErrorKind::InvalidInput, "{name:?}");
    }
    assert_eq!(say(&user.clone().hostname("n".repeat(64)), "cat /proc/sys/kernel/hostname").len(), 64);
    let empty = IdMap { users: Vec::new(), groups: Vec::new() };
    assert_eq!(kind(user.clone().user_map(empty).command(["true"])), ErrorKind::InvalidInput);
    let file = fs::File::open("/etc/hostname").unwrap();
    assert_eq!(kind(user.join(NamespaceKind::Net, file).command(["true"])), ErrorKind::Io);
    let gone = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    if !is_root() {
        // The host's namespaces are not an ordinary user's to join.
        let of = Namespaces::of(gone.unwrap(), [NamespaceKind::Net]);
        let error = of.and_then(|all| all.command(["true"]).spawn().map(drop)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
}

#[test]
#[ignore = "needs root: a control group"]
fn a_control_group_is_joined_before_the_first_instruction() {
    let name = format!("test-{}-enter", std::process::id());
    let group = Cgroup::create(&name, &Limits::new().pids_max(3)).unwrap();
    let namespaces = Namespaces::new().pid().mount().cgroup();
    let own = namespaces.command(["cat", "/proc/self/cgroup"]).control_group(group.join_fds());
    let own = text(&own.output().unwrap().stdout);
    assert!(own.lines().any(|line| line.ends_with(":pids:/") || line == "0::/"), "{own}");
    let bomb = "sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & echo forked";
    let bomb = namespaces.command(["sh", "-c", bomb]).control_group(group.join_fds()).output().unwrap();
    assert!(!bomb.status.success() && text(&bomb.stderr).contains("fork"), "{}", text(&bomb.stderr));
    group.wait_empty(LONG).unwrap();
    group.remove().unwrap();
}

/// Not a test when run by itself.
#[test]
fn host_program() {
    if std::env::var_os(HOST).is_none() {
        return;
    }
    let script = "trap '' HUP INT TERM; setsid sleep 1000 & echo ready; wait";
    let namespaces = [Namespaces::new().user(), Namespaces::new().user().pid(), Namespaces::all()];
    let all: Vec<_> = namespaces.iter().map(|namespaces| ready(namespaces, script).0).collect();
    let mut pids = Vec::new();
    for entered in &all {
        let pid = entered.pid().unwrap();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        pids.push(pid.to_string());
        pids.extend(children.split_whitespace().map(str::to_owned));
    }
    ready(&namespaces[0], script).0.keep();
    writeln!(std::io::stdout(), "\nPIDS {}", pids.join(" ")).unwrap();
    all[0].wait().unwrap();
    panic!("it goes on");
}

#[test]
fn killed_with_the_host_program() {
    let mut host = child("namespaces::host_program", &[(HOST, "1".as_ref())]);
    let host = host.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let mut host = host.stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pids = lines.find_map(|line| line.strip_prefix("PIDS ").map(str::to_owned)).unwrap();
    let processes: Vec<_> = pids.split(' ').map(|pid| pidfd(pid.parse().unwrap())).collect();
    assert_eq!(processes.len(), 6);
    assert!(processes.iter().all(|process| !ends(process, Duration::ZERO)));
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(processes.iter().all(|process| ends(process, LONG)));
}
