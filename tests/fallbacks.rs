//! What is done without system calls that older kernels lack, or that a filter over the program refuses.
//!
//! Each test is this program again, under a filter of its own. `.ci/without` puts one over whole test programs.

mod common;

use common::*;
use coracle::{
    ContainerBuilder, ErrorKind, Feature, Host, LimitKind, Namespaces, Overlay, Profile, Protection, Store,
};
use nix::libc;
use std::fs;
use std::process::Stdio;

const ROLE: &str = "CORACLE_TEST_ROLE";

/// From then on these calls, by their numbers, fail with this errno in this thread and in what it starts.
fn refuse(calls: &[u32], errno: i32) {
    let line = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let answer = line(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32);
    // Of struct seccomp_data the first word is the number. All of this program is of one architecture.
    let mut program = vec![line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        program.push(line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call));
        program.push(answer);
    }
    program.push(line(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: flags and a pointer to a structure that outlives the calls.
    let done = unsafe {
        if !is_root() {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Runs `test` in processes of their own, one for each name, where it is given that; `None` in the first.
fn role(test: &str, roles: &[&'static str]) -> Option<String> {
    if let Ok(role) = std::env::var(ROLE) {
        return Some(role);
    }
    for role in roles {
        let out = child(test, &[(ROLE, role.as_ref())]).stdin(Stdio::null()).output().unwrap();
        let said = format!("{role}: {}\n{}\n{}", out.status, text(&out.stdout), text(&out.stderr));
        assert!(out.status.success() && said.contains("1 passed"), "{said}");
    }
    None
}

/// What a filter answers: that there is no such call, as older kernels do, or that it is not allowed.
const ANSWERS: [(&str, i32); 2] = [("ENOSYS", libc::ENOSYS), ("EPERM", libc::EPERM)];

/// Likewise, with each answer to each call; gives which.
fn role_and_answer(test: &str, roles: &[&str]) -> Option<(String, i32)> {
    // What comes after an answer is this kernel's matter, which answer it was is not: an emulated machine has minutes of it.
    let emulated = std::env::var("CORACLE_LANE").is_ok_and(|lane| lane.starts_with("vm-"));
    let answers = &ANSWERS[..if emulated { 1 } else { 2 }];
    let both =
        roles.iter().flat_map(|role| answers.iter().map(move |(answer, _)| format!("{role} {answer}")));
    // The C library itself can't start anything then.
    let both: Vec<&str> =
        both.filter(|role| role != "clone3 EPERM" && role != "all EPERM").map(|role| &*role.leak()).collect();
    let role = role(test, &both)?;
    let (name, answer) = role.split_once(' ').unwrap();
    let (_, errno) = ANSWERS.into_iter().find(|(name, _)| *name == answer).unwrap();
    Some((name.to_owned(), errno))
}

/// The numbers of calls are the same on every architecture since they are given out together.
const OPEN_TREE: u32 = 428;
const MOVE_MOUNT: u32 = 429;
const FSOPEN: u32 = 430;
const PIDFD_OPEN: u32 = 434;
const CLONE3: u32 = 435;
const CLOSE_RANGE: u32 = 436;
const OPENAT2: u32 = 437;
const MOUNT_SETATTR: u32 = 442;
/// What tells a kernel that takes detached layers from one that does not.
const OPEN_TREE_ATTR: u32 = 467;

#[test]
fn what_has_another_way() {
    let all = ["open_tree_attr", "clone3", "close_range", "all"];
    let Some((role, errno)) = role_and_answer("what_has_another_way", &all) else { return };
    match role.as_str() {
        "open_tree_attr" => refuse(&[OPEN_TREE_ATTR], errno),
        "clone3" => refuse(&[CLONE3], errno),
        "close_range" => refuse(&[CLOSE_RANGE], errno),
        _ => refuse(&[OPEN_TREE_ATTR, CLONE3, CLOSE_RANGE], errno),
    }
    // A descriptor that a program leaves open to what it starts.
    let leak = fs::File::open("/etc/passwd").unwrap();
    let copy = rustix::io::dup(&leak).unwrap();
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();

    let image = host();
    // The last one is the shell's own, for the directory.
    let (open, opened) = ("cd /proc/self/fd; echo *", "0 1 2 3");
    assert_eq!(say(&sh(&image, open)), opened);
    let by_init = format!("{open}; ls /proc/1/fd 2>/dev/null | wc -l");
    assert_eq!(say(&sh(&image, &by_init).init(true)), format!("{opened}\n0"));
    assert_eq!(say(&sh(&image, "echo new >/etc/new; cat /etc/new").writable_in_memory(true)), "new");
    let container = ready(&sh(&image, "echo ready; sleep 1000").pids_max(50));
    let exec = container.exec(["sh", "-c", open]).output().unwrap();
    assert_eq!(text(&exec.stdout), opened);
    // Without CLONE_INTO_CGROUP it is in its group nevertheless, and so is what came later: the limit binds both.
    let command = container.exec(["sleep", "1000"]).spawn().unwrap();
    let mut processes = Vec::new();
    // Nobody has waited for what has ended, or the shell is about to begin its own.
    eventually("there are three", || {
        processes = container.top().unwrap();
        processes.len() == 3
    });
    for process in &processes {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap();
        let is_in = groups.lines().any(|line| line.ends_with(container.id()));
        assert!(is_in || !is_root(), "{process:?}: {groups}");
    }
    if is_root() {
        let stats = container.stats().unwrap();
        assert_eq!((stats.pids_current, stats.pids_max), (Some(3), Some(50)));
    }
    drop(command);
    container.kill(coracle::Signal::SIGKILL).unwrap();
    let many = "i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); echo $i; done 2>/dev/null; :";
    for (limit, all) in [(50, true), (10, false)] {
        let out = sh(&image, many).pids_max(limit).run().unwrap();
        assert_eq!(out.stdout_text().contains("20"), all, "of {limit}: {}", out.stdout_text());
    }

    let entered = Namespaces::new().user().pid().mount().command(["sh", "-c", "echo $$"]).output().unwrap();
    assert_eq!(text(&entered.stdout), "1");

    // More layers than a short list of options has room for.
    let dir = tempfile::tempdir().unwrap();
    let mut overlay = Overlay::new();
    for i in 0..120 {
        let lower = dir.path().join(format!("a lower directory, with a name:{i}"));
        fs::create_dir(&lower).unwrap();
        fs::write(lower.join("which"), i.to_string()).unwrap();
        fs::write(lower.join(i.to_string()), i.to_string()).unwrap();
        overlay = overlay.lower(lower);
    }
    let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let mounted = overlay.upper(&upper, work).mount().unwrap();
    assert_eq!(fs::read_to_string(mounted.path().join("which")).unwrap(), "0");
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 121);
    fs::write(mounted.path().join("which"), "new").unwrap();
    assert_eq!(fs::read_to_string(upper.join("which")).unwrap(), "new");
}

#[test]
fn what_has_none_is_named_with_the_remedy() {
    let calls = [
        ("open_tree", OPEN_TREE),
        ("move_mount", MOVE_MOUNT),
        ("fsopen", FSOPEN),
        ("pidfd_open", PIDFD_OPEN),
        ("openat2", OPENAT2),
        ("mount_setattr", MOUNT_SETATTR),
        ("memfd_create", libc::SYS_memfd_create as u32),
    ];
    let names = calls.map(|(name, _)| name);
    let Some((role, errno)) = role_and_answer("what_has_none_is_named_with_the_remedy", &names) else {
        return;
    };
    // Whatever comes before a start is not the matter.
    let store = Store::temp().unwrap();
    let image = coracle::Image::host(&store).unwrap();
    let (name, number) = calls.into_iter().find(|(name, _)| *name == role).unwrap();
    refuse(&[number], errno);
    let error = sh(&image, "true").run().unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
    // That may be about the path rather than the call.
    if errno == libc::EPERM && error.kind() == ErrorKind::PermissionDenied {
        return assert!(error.path().is_some(), "{error}");
    }
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("seccomp")), "{error}");
    // In the words of the probe.
    let missing = error.missing().expect("what is missing");
    let probed = Host::probe_at(store.path());
    assert_eq!(Some(missing), probed.get(missing.feature()).unwrap().missing(), "{error}");
}

/// By explicit choice it goes on without the filter, and both reports say so: the container's and the further command's.
#[test]
fn where_filters_are_refused() {
    let Some((_, errno)) = role_and_answer("where_filters_are_refused", &["seccomp"]) else { return };
    refuse(&[libc::SYS_seccomp as u32], errno);
    let builder = sh(&host(), "echo ready; exec sleep 1000").best_effort(Protection::Seccomp);
    let container = ready(&builder);
    let out = container.exec(["true"]).output().unwrap();
    for report in [container.report(), out.report] {
        let line = report.get("seccomp").unwrap();
        assert!(matches!(line.outcome(), coracle::Outcome::NotEnforced(_)), "{line}");
        assert!(!report.is_complete());
    }
    let error = sh(&host(), "true").run().unwrap_err();
    assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("seccomp")), "{error}");
    // In the words of the probe; those of a further command, too.
    let probed = Host::probe();
    let missing = probed.get(Feature::Seccomp).unwrap().missing();
    assert!(missing.is_some_and(|missing| missing.reason().contains("refuses seccomp")), "{probed}");
    assert_eq!(error.missing(), missing, "{error}");
    // Nor is it passed over by the strictest set: what else can't be had here is let off first. Its user is one that there is
    // without a range of ids, too: an ordinary user's filter takes no_new_privs, and with it newuidmap.
    let rest = [Protection::IdRange, Protection::Landlock, LimitKind::MemoryMax.into()];
    let rest = rest.into_iter().chain([LimitKind::MemorySwapMax.into(), LimitKind::CpuMax.into()]);
    let untrusted = sh(&host(), "true").profile(Profile::untrusted()).user("0:0");
    let error = rest.fold(untrusted, ContainerBuilder::best_effort).run().unwrap_err();
    assert_eq!((error.kind(), error.protection()), (ErrorKind::Unsupported, Some("seccomp")), "{error}");
    assert_eq!(error.missing(), missing, "{error}");
}
