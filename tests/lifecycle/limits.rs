//! Limits of containers: on devices, and those of an ordinary user.
use super::*;
use coracle::{Feature, Host};
use std::path::{Path, PathBuf};

/// Whether this user has an instance of systemd that can hand control groups on.
fn has_systemd() -> bool {
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_default();
    !is_root() && is_v2 && runtime.join("systemd/private").exists()
}

fn group_of(container: &Container) -> String {
    std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid().unwrap())).unwrap()
}

/// Where nothing can be had it is an error, not a container without the limit.
#[test]
fn a_limit_on_memory_binds_or_the_error_says_what_to_do() {
    let own_group = || std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let before = own_group();
    let image = host();
    let limited = sh(&image, "echo ready; exec sleep 1000").memory_max(64 << 20);
    let container = match limited.start() {
        Ok(container) => container,
        Err(error) => {
            assert!(!is_root() && !has_systemd(), "{error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("Delegate=yes")), "{error}");
            return;
        }
    };
    container.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
    assert!(container.report().is_complete(), "{:?}", container.report());
    assert_eq!(container.stats().unwrap().memory_max, Some(64 << 20));
    let group = group_of(&container);
    assert!(group.contains(container.id()), "{group}");
    if has_systemd() {
        assert!(group.contains(".scope/coracle/"), "a scope of its own: {group}");
    }
    assert_eq!(own_group(), before, "the program itself stays where it is");
    match container.pause() {
        Err(error) if !Host::probe().has(Feature::Freeze) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
        paused => {
            paused.unwrap();
            container.unpause().unwrap();
        }
    }
    assert!(container.exec(["true"]).output().unwrap().status.success(), "it joins the same groups");
    let id = container.id().to_owned();
    container.remove().unwrap();
    assert_eq!(cgroups_with(&id), Vec::<PathBuf>::new());
    let hog = sh(&image, "exec tail /dev/zero").memory_max(32 << 20).memory_swap_max(32 << 20).run().unwrap();
    assert!(hog.status.oom_killed(), "{} {}", hog.status, hog.stderr_text());
}

#[test]
fn statistics_have_figures_or_say_what_to_do() {
    let container = ready(&sh(&host(), "echo ready; exec sleep 1000"));
    match container.stats() {
        Ok(stats) => assert!(stats.cpu_usage.is_some() || stats.pids_current.is_some(), "{stats:?}"),
        Err(error) => {
            assert!(!is_root(), "{error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.remedy().is_some(), "{error}");
        }
    }
}

/// What is killed in it for its memory is told and counted while it runs, and the time for which it waited, where the kernel
/// measures.
#[test]
#[ignore = "needs root and writable cgroups: a process is killed for its memory"]
fn what_runs_out_of_memory_is_counted_while_the_container_runs() {
    let script = "echo ready; read line; tail /dev/zero; echo killed; exec sleep 1000";
    let limited = sh(&host(), script).memory_max(32 << 20).memory_swap_max(32 << 20);
    let container = limited.stdin(coracle::Stdio::piped()).start().unwrap();
    container.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
    let mut events = container.oom_events().unwrap();
    assert!(!events.wait(Duration::ZERO).unwrap());
    std::io::Write::write_all(&mut container.take_stdin().unwrap(), b"go on\n").unwrap();
    assert!(events.wait(LONG).unwrap());
    container.wait_until(coracle::Ready::log("killed"), LONG).unwrap();
    let stats = container.stats().unwrap();
    assert_eq!(stats.oom_kills, Some(1), "{stats:?}");
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    assert_eq!(stats.ooms.is_some_and(|times| times > 0), is_v2, "{stats:?}");
    if is_v2 {
        assert!(stats.memory_max_events.is_some_and(|times| times > 0), "{stats:?}");
        // All of it waited for the pages that could not be had.
        let measured = std::fs::read_to_string("/proc/pressure/memory").is_ok();
        let waited =
            stats.memory_pressure.map(|pressure| pressure.full.is_some_and(|full| !full.total.is_zero()));
        assert_eq!(waited, measured.then_some(true), "{stats:?}");
    }
    container.kill(coracle::Signal::SIGKILL).unwrap();
    assert_eq!(container.wait().unwrap().signal(), Some(9));
    // Whoever waits for what can't come any more is not left waiting.
    let error = (0..3).find_map(|_| events.wait(LONG).err()).expect("an error");
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
    assert_eq!(container.oom_events().unwrap_err().kind(), ErrorKind::State);
}

/// A record that nobody could read again is not written.
#[test]
fn limits_that_can_not_be_are_refused_before_there_is_a_container() {
    use coracle::{DeviceRule, Limits};
    let image = host();
    let nothing = DeviceRule::char(1, 3).access(false, false, false);
    for limits in [Limits::new().devices([nothing]), Limits::new().pids_max(0)] {
        let error = sh(&image, "true").limits(limits).create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    assert_eq!(image.store().containers().unwrap().len(), 0);
}

/// Where something is left in a group when its container goes, it goes as soon as it is empty: with no opening of the store,
/// and its container's directory, by which a sweep would know it, has gone.
#[test]
#[ignore = "needs root and writable cgroups: moves another process into the group"]
fn a_group_that_was_not_empty_goes_later() {
    let image = host();
    let container = ready(&sh(&image, "echo ready; exec sleep 1000").memory_max(64 << 20));
    let id = container.id().to_owned();
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let groups = cgroups_with(&id);
    for group in &groups {
        std::fs::write(group.join("cgroup.procs"), other.id().to_string()).unwrap();
    }
    container.remove().unwrap();
    assert!(!groups.is_empty() && cgroups_with(&id) == groups, "{groups:?}");
    assert_eq!(count(image.store().path().join("containers")), 0);
    other.kill().unwrap();
    other.wait().unwrap();
    eventually("the group goes", || cgroups_with(&id).is_empty());
}

const PROGRAM: &str = "CORACLE_TEST_PROGRAM";

/// Not a test by itself: a program that ends as the one below wants it to.
#[test]
fn a_program_with_limits() {
    let Some(path) = std::env::var_os(PROGRAM) else { return };
    let image = Image::host(&Store::open(path).unwrap()).unwrap();
    let container = match sh(&image, "echo ready; exec sleep 1000").memory_max(64 << 20).start() {
        Ok(container) => container,
        Err(error) => {
            assert!(!is_root() && !has_systemd(), "{error}");
            println!("\nrefused");
            return;
        }
    };
    container.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
    println!(
        "\nlimited {} {} {}",
        container.pid().unwrap(),
        container.id(),
        group_of(&container).contains(".scope/")
    );
    let mut how = String::new();
    std::io::stdin().read_line(&mut how).unwrap();
    match how.trim() {
        "return" => {}
        "exit" => std::process::exit(0),
        other => panic!("{other:?}"),
    }
}

/// A scope of systemd's goes by itself; other groups the next who opens the store removes.
#[test]
fn nothing_is_left_of_the_groups_of_a_program_that_ended() {
    use std::io::{BufRead, BufReader, Write};
    for how in ["return", "exit", "be killed"] {
        let store = tempfile::tempdir().unwrap();
        let mut program = child("limits::a_program_with_limits", &[(PROGRAM, store.path().as_os_str())]);
        let mut program =
            program.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = lines.find(|line| line.starts_with("limited ") || line == "refused").unwrap();
        if said != "refused" {
            let words: Vec<_> = said.split(' ').collect();
            let (process, id) = (pidfd(words[1].parse().unwrap()), words[2]);
            let scope = format!("coracle-{}-", program.id());
            assert!(!cgroups_with(id).is_empty());
            assert_eq!(
                (words[3] == "true", !cgroups_with(&scope).is_empty()),
                (has_systemd(), has_systemd())
            );
            if how == "be killed" {
                program.kill().unwrap();
            } else {
                writeln!(program.stdin.take().unwrap(), "{how}").unwrap();
            }
            assert!(ends(&process, LONG), "{how}");
            eventually(&format!("groups of the container in a program that has to {how}"), || {
                drop(Store::open(store.path()).unwrap());
                cgroups_with(id).is_empty()
            });
            eventually(&format!("scope of a program that has to {how}"), || cgroups_with(&scope).is_empty());
            if has_systemd() {
                let listed = ["--user", "list-units", "--all", "--no-legend", &format!("{scope}*")];
                eventually("systemd knows it no more", || peer("systemctl", listed).is_empty());
            }
        }
        assert_eq!(program.wait().unwrap().success(), how != "be killed" || said == "refused");
    }
}

const KILLED: &str = "CORACLE_TEST_KILLED";

/// Not a test by itself: a program that is killed.
#[test]
fn a_program_that_is_killed() {
    let Some(path) = std::env::var_os(KILLED) else { return };
    let store = if path.is_empty() { Store::temp() } else { Store::open(path) }.unwrap();
    let mut all = Vec::new();
    match store.container("kept") {
        Ok(kept) => {
            kept.start().unwrap();
            all.push(kept);
        }
        Err(_) => {
            let image = Image::host(&store).unwrap();
            all.push(ready(&sh(&image, "echo ready; exec sleep 1000")));
            // Its start has begun, which nothing but its making says.
            all.push(sh(&image, "true").create().unwrap());
        }
    }
    let ids: Vec<_> = all.iter().map(Container::id).collect();
    println!("\nkilled {} {}", all[0].pid().unwrap(), ids.join(" "));
    std::io::stdin().read_line(&mut String::new()).unwrap();
    panic!("it goes on");
}

/// As a service whose store an administrator opens in a session.
#[test]
#[ignore = "needs root: a program in a control group of its own is killed"]
fn groups_of_a_killed_program_are_swept_from_another_group() {
    use std::io::{BufRead, BufReader};
    let name = format!("test-{}-killed", std::process::id());
    let group = coracle::Cgroup::create(&name, &coracle::Limits::new().pids_max(1000)).unwrap();
    let join: String =
        group.join_paths().map(|path| format!("echo 0 > {} || exit 99\n", path.display())).collect();
    for how in ["temporary", "swept", "removed", "started"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        if ["removed", "started"].contains(&how) {
            let kept = sh(&Image::host(&store).unwrap(), "exec sleep 1000").name("kept").create().unwrap();
            kept.keep().unwrap();
        }
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(format!("{join} exec \"$@\"")).arg("sh").arg(std::env::current_exe().unwrap());
        command.args(["--exact", "limits::a_program_that_is_killed", "--nocapture", "--test-threads=1"]);
        command.env(KILLED, if how == "temporary" { Path::new("") } else { dir.path() });
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut program = command.spawn().unwrap();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = lines.find_map(|line| line.strip_prefix("killed ").map(str::to_owned)).unwrap();
        let (pid, ids) = said.split_once(' ').unwrap();
        let process = pidfd(pid.parse().unwrap());
        let left = || ids.split(' ').flat_map(cgroups_with).collect::<Vec<_>>();
        let groups = left();
        let is_within = |path: &PathBuf| path.ancestors().any(|dir| dir.ends_with(&name));
        // Where there is v2 alone they lie beside the program's: a group with processes has none below it (cgroups(7)).
        let has_v1 = std::fs::read_to_string("/proc/self/cgroup")
            .unwrap()
            .lines()
            .any(|line| !line.starts_with("0::"));
        assert!(!groups.is_empty() && groups.iter().any(is_within) == has_v1, "{groups:?}");
        program.kill().unwrap();
        program.wait().unwrap();
        assert!(ends(&process, LONG));
        match how {
            "temporary" => eventually("the groups are swept", || {
                drop(Store::temp().unwrap());
                left().is_empty()
            }),
            "swept" => {
                eventually("the groups are swept", || {
                    drop(Store::open(dir.path()).unwrap());
                    left().is_empty()
                });
                assert_eq!(count(dir.path().join("containers")), 0);
            }
            "removed" => store.container("kept").unwrap().remove().unwrap(),
            _ => {
                let kept = store.container("kept").unwrap();
                kept.start().unwrap();
                assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
                kept.remove().unwrap();
            }
        }
        assert_eq!(left(), Vec::<PathBuf>::new(), "{how}");
    }
    group.remove().unwrap();
    assert_eq!(cgroups_with(&name), Vec::<PathBuf>::new());
}

/// There is a limit on processes unless somebody says that there is to be none.
#[test]
fn processes_are_limited_by_default_or_not_at_all() {
    let usual = sh(&host(), "true");
    assert_eq!(usual.clone().run().unwrap().report.get("pids_max").unwrap().asked(), "2048");
    let out = usual.clone().pids_unlimited().run().unwrap();
    assert!(out.status.success() && out.report.get("pids_max").is_none(), "{:?}", out.report);
    let limited = usual.pids_unlimited().pids_max(64).run().unwrap();
    assert_eq!(limited.report.get("pids_max").unwrap().asked(), "64");
}

/// A second wall: the kernel asks the group's list as well.
#[test]
#[ignore = "needs root: a control group for devices"]
fn a_list_of_devices_has_the_containers_own_and_those_given() {
    let script = "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; : >/dev/null; : </dev/kmsg && echo kmsg";
    let none = coracle::Limits::new().devices([]);
    let with = |limits: coracle::Limits| {
        sh(&host(), script).device(coracle::Device::new("/dev/kmsg")).limits(limits)
    };
    let out = with(none.clone()).run().unwrap();
    assert!(out.report.is_complete(), "{:?}", out.report);
    let entry = out.report.get("device_rules").unwrap();
    assert!(entry.asked().contains("c 1:3 rw") && entry.asked().contains("c 1:11 rw"), "{entry}");
    assert!(out.stdout_text().starts_with("4\n4\n"), "{}", out.stdout_text());
    let terminal = sh(&host(), "test -t 0 && : </dev/tty").tty(true).limits(none);
    assert!(terminal.start().unwrap().wait().unwrap().success(), "its terminal is one of them");
}
