//! Further commands in a running container.
use super::*;

fn sleeper(image: &Image) -> Container {
    ready(
        &sh(image, "echo ready; exec sleep 1000")
            .env("FROM", "container")
            .working_dir("/usr")
            .hostname("box"),
    )
}

/// Only the first command is left: what has ended is reaped soon.
#[track_caller]
fn assert_alone(container: &Container) {
    let deadline = Instant::now() + LONG;
    while container.top().unwrap().len() != 1 {
        assert!(Instant::now() < deadline, "{:?}", container.top());
        std::thread::yield_now();
    }
}

#[test]
fn it_runs_beside_the_first_command() {
    let image = host();
    let container = sleeper(&image);
    let out = container
        .exec(["sh", "-c", "echo $FROM; pwd; hostname; tr '\\0' ' ' </proc/1/cmdline"])
        .output()
        .unwrap();
    assert_eq!(text(&out.stdout), "container\n/usr\nbox\nsleep 1000");
    let out = container.exec(["sh", "-c", "echo oops >&2; exit 6"]).output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr).as_str()), (Some(6), "oops"));
    let out =
        container.exec(["sh", "-c", "echo $FROM$OWN; pwd"]).env("OWN", "+exec").working_dir("/etc").output();
    assert_eq!(text(&out.unwrap().stdout), "container+exec\n/etc");
    let out = container.exec(["cat"]).stdin("given").output().unwrap();
    assert_eq!(out.stdout, b"given");
    assert_eq!(container.state(), State::Running);
}

#[test]
fn it_has_the_same_rights_and_namespaces() {
    let container = sleeper(&host());
    let script = "for n in pid mnt uts ipc net user cgroup; do \
        [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done; \
        grep -E 'Cap(Eff|Bnd|Prm)|NoNew|Seccomp:' /proc/self/status >/srv/me; \
        grep -E 'Cap(Eff|Bnd|Prm)|NoNew|Seccomp:' /proc/1/status | diff - /srv/me";
    let out = container.exec(["sh", "-c", script]).output().unwrap();
    assert_eq!((text(&out.stdout).as_str(), text(&out.stderr).as_str()), ("", ""));
    let group =
        container.exec(["sh", "-c", "cat /proc/self/cgroup >/srv/me; diff /proc/1/cgroup /srv/me"]).output();
    assert_eq!(text(&group.unwrap().stdout), "");
}

#[test]
fn all_run_on_any_processor() {
    let image = host();
    let allowed = "grep Cpus_allowed_list /proc/self/status";
    // The host's own first process is not held to any.
    let all = std::fs::read_to_string("/proc/1/status").unwrap();
    let all = all.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap();
    let container = sleeper(&image);
    let exec = container.exec(["sh", "-c", allowed]).output().unwrap();
    assert_eq!(text(&exec.stdout), all);
    for builder in [sh(&image, allowed), sh(&image, allowed).init(true)] {
        assert_eq!(say(&builder), all);
    }
}

#[test]
fn it_can_be_another_user() {
    let image = host();
    let container = sleeper(&image);
    let out = container.exec(["id", "-u"]).user("0").output().unwrap();
    assert_eq!(text(&out.stdout), "0");
    let single = container.report().get("ids").is_some();
    if !single {
        let out = container
            .exec(["sh", "-c", "id -u; id -g; grep CapEff /proc/self/status"])
            .user("33:44")
            .output();
        assert_eq!(text(&out.unwrap().stdout), "33\n44\nCapEff:\t0000000000000000");
    }
    let error = container.exec(["id"]).user("nobody-of-this-name").output().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn what_cannot_be_executed_is_an_error() {
    let container = sleeper(&host());
    for words in [["no-such-program"], ["/etc/passwd"]] {
        let error = container.exec(words).output().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exec, "{error}");
    }
    assert_alone(&container);
    container.kill(Signal::SIGKILL).unwrap();
    container.wait().unwrap();
    assert_eq!(container.exec(["true"]).output().unwrap_err().kind(), ErrorKind::State);
}

#[test]
fn it_is_bounded_and_spawned() {
    let container = sleeper(&host());
    let error = container.exec(["sleep", "1000"]).timeout(Duration::from_millis(50)).output().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let error = container.exec(["yes"]).output_max(1000).output().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let spawned = container.exec(["sleep", "1000"]).spawn().unwrap();
    assert_eq!(spawned.try_wait().unwrap(), None);
    spawned.kill(Signal::SIGTERM).unwrap();
    assert_eq!(spawned.wait().unwrap().signal(), Some(15));
    assert_alone(&container);
}

#[test]
fn it_ends_with_its_container() {
    let container = sleeper(&host());
    let spawned = container.exec(["sleep", "1000"]).spawn().unwrap();
    let handles: Vec<_> = container.top().unwrap().iter().map(|process| pidfd(process.pid)).collect();
    assert_eq!(handles.len(), 2);
    container.remove().unwrap();
    assert!(handles.iter().all(|handle| ends(handle, LONG)));
    assert_eq!(spawned.wait().unwrap().signal(), Some(9));
}

#[test]
fn many_at_once() {
    let container = sleeper(&host());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let container = &container;
            scope.spawn(move || {
                let word = thread.to_string();
                let out = container.exec(["echo", &word]).output().unwrap();
                assert_eq!(text(&out.stdout), word);
            });
        }
    });
    assert_alone(&container);
}
