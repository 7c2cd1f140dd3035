//! What many containers leave behind in the program that had them.
use super::*;

const ROUNDS: &str = "CORACLE_TEST_ROUNDS";

/// Descriptors and threads of this process, and the children of its warden.
fn held() -> [usize; 3] {
    let warden = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        // The host's pidfd is its second descriptor, which only the warden has.
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/1")).ok()?;
        let of = info.lines().find_map(|line| line.strip_prefix("Pid:\t"))?.parse::<u32>().ok()?;
        // And those whom it has just made, for a moment: it is the first of its PID namespace (proc_pid_status(5)).
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        (of == std::process::id() && numbers.split_whitespace().nth(1) == Some("1")).then_some(pid)
    });
    assert!(warden.is_some() || !is_root(), "the warden");
    let children = warden.map_or(0, |pid| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        fs::read_to_string(path).unwrap_or_default().split_whitespace().count()
    });
    [count("/proc/self/fd"), count("/proc/self/task"), children]
}

fn round(image: &coracle::Image, number: usize) {
    let volume = coracle::Volume::create(image.store(), &format!("v{number}")).unwrap();
    let container =
        ready(&sh(image, "echo ready; sleep 1000").volume(&volume, "/v").init(number.is_multiple_of(2)));
    assert!(container.exec(["true"]).output().unwrap().status.success());
    assert!(container.exec(["/no-program"]).output().is_err());
    assert!(container.connect(9).is_err());
    container.top().unwrap();
    if number.is_multiple_of(3) {
        container.remove().unwrap();
    }
    assert!(Container::builder(image).command(["/no-program"]).run().is_err());
    assert!(sh(image, "true").working_dir("/etc/passwd").run().is_err());
}

/// Not a test when run by itself.
#[test]
fn host_program() {
    let Some(rounds) = std::env::var(ROUNDS).ok().and_then(|n| n.parse::<usize>().ok()) else { return };
    let image = host();
    // What is made once and kept: the warden, its threads, namespaces of id ranges.
    (0..5).for_each(|number| round(&image, number));
    let before = held();
    (5..5 + rounds).for_each(|number| round(&image, number));
    // Threads may still be on their way out, now as well as before: less is no leak.
    let more = |after: &[usize; 3]| after.iter().zip(&before).any(|(after, before)| after > before);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut after = held();
    while more(&after) && std::time::Instant::now() < deadline {
        std::thread::yield_now();
        after = held();
    }
    assert!(!more(&after), "descriptors, threads, children of the warden: {before:?}, {after:?}");
    assert_eq!(count(image.store().path().join("containers")), 0);
}

#[test]
fn many_containers_leave_nothing_in_their_program() {
    let rounds = std::env::var_os(ROUNDS).unwrap_or_else(|| "25".into());
    let status = child("leaks::host_program", &[(ROUNDS, &rounds)]).status().unwrap();
    assert!(status.success(), "{status}");
}

/// Not a test when run by itself.
#[test]
fn host_program_with_many_stores() {
    if std::env::var_os(ROUNDS).is_none() {
        return;
    }
    let round = || say(&sh(&host(), "true"));
    round();
    let before = count("/proc/self/fd");
    (0..150).for_each(|_| drop(round()));
    // What is kept for the next container of a store is bounded, and stores close theirs soon.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while count("/proc/self/fd") > before + 70 && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    let more = count("/proc/self/fd").saturating_sub(before);
    assert!(more <= 70, "{more} descriptors of stores that are gone");
}

#[test]
fn many_stores_leave_little_in_their_program() {
    let status = child("leaks::host_program_with_many_stores", &[(ROUNDS, "1".as_ref())]).status().unwrap();
    assert!(status.success(), "{status}");
}
