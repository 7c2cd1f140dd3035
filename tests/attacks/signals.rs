//! Signals from inside to whoever is just coming in.
use super::*;
use std::sync::mpsc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

#[test]
fn stopping_all_that_joins_stops_nobody_outside() {
    // A shell without forks: it stops whatever it finds, again and again.
    let script = "echo ready; while :; do kill -STOP -1 2>/dev/null; done";
    let container = std::sync::Arc::new(ready(&sh(&host(), script)));
    let (tell, told) = mpsc::channel();
    for _ in 0..4 {
        let (container, tell) = (container.clone(), tell.clone());
        std::thread::spawn(move || {
            let exec = || container.exec(["sleep", "1000"]).timeout(Duration::from_millis(500)).output();
            // Of several, one is stopped before it is its program.
            let ends: Vec<_> = (0..4).map(|_| exec().unwrap_err().kind()).collect();
            tell.send(ends)
        });
    }
    drop(tell);
    for _ in 0..4 {
        let ends = told.recv_timeout(LONG).expect("the time limit of a further command");
        assert!(ends.iter().all(|end| *end == ErrorKind::TimedOut), "{ends:?}");
    }
    container.top().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        container.kill(coracle::Signal::SIGKILL).unwrap();
        container.wait().unwrap();
        tell.send(())
    });
    told.recv_timeout(LONG).expect("its end");
}

#[test]
#[ignore = "needs root: control groups; run with --include-ignored"]
fn a_further_command_in_a_paused_container() {
    let container = ready(&sh(&host(), "echo ready; exec sleep 1000"));
    container.pause().unwrap();
    let touch = container.exec(["touch", "/dev/shm/executed"]).timeout(Duration::from_millis(300));
    assert_eq!(touch.output().unwrap_err().kind(), ErrorKind::TimedOut);
    container.unpause().unwrap();
    // What was given up is not executed later.
    let look = container.exec(["ls", "/dev/shm"]).output().unwrap();
    assert_eq!((text(&look.stdout), look.status.success()), (String::new(), true));
}
