//! Programs with an async runtime, and with a handler that takes every child's status.
use super::*;
use coracle::Stdio;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;

/// Starts, awaits ends by the containers' descriptors, executes and waits: what waits is in `spawn_blocking`, and
/// meanwhile the runtime goes on.
fn under(runtime: Runtime) {
    const CONTAINERS: usize = 6;
    let image = host();
    let ticks = Arc::new(AtomicUsize::new(0));
    let ticking = ticks.clone();
    let ticker = runtime.spawn(async move {
        loop {
            ticking.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    runtime.block_on(async {
        let tasks: Vec<_> = (0..CONTAINERS)
            .map(|number| {
                let image = image.clone();
                tokio::spawn(async move {
                    let script = "echo ready; read code; exit $code";
                    let builder = sh(&image, script).stdin(Stdio::piped());
                    let container = Arc::new(spawn_blocking(move || ready(&builder)).await.unwrap());
                    // SAFETY: the descriptor is the container's own, which `ended` keeps.
                    let ended =
                        unsafe { AsyncFd::register_with_interest(container.clone(), Interest::READABLE) };
                    let ended = ended.unwrap();
                    let other = container.clone();
                    let said = spawn_blocking(move || other.exec(["echo", "from within"]).output());
                    assert_eq!(text(&said.await.unwrap().unwrap().stdout), "from within");
                    assert_eq!(container.try_wait().unwrap(), None);
                    writeln!(container.take_stdin().unwrap(), "{number}").unwrap();
                    drop(ended.readable().await.unwrap());
                    assert_eq!(container.try_wait().unwrap().unwrap().code(), Some(number as i32));
                    let other = container.clone();
                    let status = spawn_blocking(move || other.wait()).await.unwrap().unwrap();
                    assert_eq!(status.code(), Some(number as i32));
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    ticker.abort();
    assert!(ticks.load(Ordering::Relaxed) > CONTAINERS, "the runtime went on meanwhile");
    // The same from a blocking thread alone.
    let status = runtime.block_on(runtime.spawn_blocking(move || sh(&image, "exit 3").run())).unwrap();
    assert_eq!(status.unwrap().status.code(), Some(3));
}

#[test]
fn a_runtime_of_many_threads() {
    under(Builder::new_multi_thread().worker_threads(3).enable_io().build().unwrap());
}

#[test]
fn a_runtime_of_one_thread() {
    under(Builder::new_current_thread().enable_io().build().unwrap());
}

static REAPED: AtomicUsize = AtomicUsize::new(0);

/// Takes the status of every child, whoever started it.
extern "C" fn reap_all(_: i32) {
    let flags = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
    // waitpid(2) is async-signal-safe.
    while let Ok(status) = nix::sys::wait::waitpid(None, flags)
        && status != nix::sys::wait::WaitStatus::StillAlive
    {
        REAPED.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_handler_that_reaps_everything() {
    if !is_own_process("programs::a_handler_that_reaps_everything") {
        return;
    }
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    // Without SA_RESTART: what waits is interrupted as well.
    let action = SigAction::new(SigHandler::Handler(reap_all), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler calls nothing but waitpid(2), and changes an atomic.
    unsafe { sigaction(Signal::SIGCHLD, &action).unwrap() };
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Children of its own come and go all the time, and every thread is interrupted by them.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut child = std::process::Command::new("true").spawn().unwrap();
                let _ = child.wait();
            }
        });
        let image = host();
        for _ in 0..5 {
            assert_eq!(say(&sh(&image, "true; sh -c 'exit 3'; echo $?")), "3");
            let container = ready(&sh(&image, "echo ready; exec sleep 1000"));
            assert_eq!(container.exec(["sh", "-c", "exit 4"]).output().unwrap().status.code(), Some(4));
            assert_eq!(container.stop(Duration::ZERO).unwrap().signal(), Some(9));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(REAPED.load(Ordering::Relaxed) > 0);
    assert!(nix::sys::wait::waitpid(None, None).is_err(), "no child is left");
}
