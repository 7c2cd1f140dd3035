//! Removes what was discarded without keeping anybody waiting: freeing a directory can take milliseconds on a busy disk. And
//! tries again what could not be removed when it should have been.
#![forbid(unsafe_code)]

use crate::error::Result;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long something that could not be removed is tried again, and how often: a program that is out of descriptors now has
/// some again later. By time, as tries in a row tell no more than one.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(250);

/// Something to be removed.
pub(super) struct Task {
    /// For the log, where it stays.
    pub what: String,
    /// It is tried for as long as the store is open: as nobody will see it who could do it afterwards.
    pub is_last_chance: bool,
    pub remove: Box<dyn FnMut() -> Result<()> + Send>,
}

/// The thread and its queue.
pub(super) struct Janitor {
    queue: Sender<Task>,
    thread: JoinHandle<()>,
}

impl Janitor {
    /// `None` where no thread can be had.
    pub(super) fn start() -> Option<Self> {
        let (queue, doomed) = channel::<Task>();
        let run = move || {
            let _ = nix::sys::signal::SigSet::all().thread_block();
            // What failed, and until when it is tried; when all of it is tried next.
            let mut failed: Vec<(Task, Instant)> = Vec::new();
            let mut again = Instant::now();
            loop {
                let next = match failed.is_empty() {
                    true => doomed.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    false => doomed.recv_timeout(again.saturating_duration_since(Instant::now())),
                };
                let is_over = match next {
                    Ok(mut task) => {
                        if (task.remove)().is_err() {
                            let now = Instant::now();
                            if failed.is_empty() {
                                again = now + AGAIN;
                            }
                            failed.push((task, now + PATIENCE));
                        }
                        if Instant::now() < again {
                            continue;
                        }
                        false
                    }
                    Err(why) => why == RecvTimeoutError::Disconnected,
                };
                failed.retain_mut(|(task, until)| match (task.remove)() {
                    Ok(()) => false,
                    Err(_) if (Instant::now() < *until || task.is_last_chance) && !is_over => true,
                    Err(error) => {
                        tracing::warn!(%error, what = task.what, "it could not be removed and stays");
                        false
                    }
                });
                if is_over {
                    return;
                }
                again = Instant::now() + AGAIN;
            }
        };
        let thread = std::thread::Builder::new()
            .name("coracle-janitor".into())
            .stack_size(256 << 10)
            .spawn(run)
            .ok()?;
        Some(Self { queue, thread })
    }

    /// Whether the thread took it.
    pub(super) fn take(&self, task: Task) -> bool {
        self.queue.send(task).is_ok()
    }

    /// Waits until everything is removed.
    pub(super) fn finish(self) {
        drop(self.queue);
        // A panic in there has printed itself; what it left is swept.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn what_others_need_meanwhile_does_not_count_on_its_patience() {
        let is_free = Arc::new(AtomicBool::new(false));
        let (told, removed) = channel();
        let janitor = Janitor::start().unwrap();
        let task = |name: &str| {
            let (what, told, is_free) = (name.to_owned(), told.clone(), is_free.clone());
            let remove = move || {
                if what == "stuck" && !is_free.load(Ordering::Acquire) {
                    return Err(Error::new(ErrorKind::ResourceExhausted, "not yet"));
                }
                told.send(what.clone()).unwrap();
                Ok(())
            };
            Task { what: name.to_owned(), is_last_chance: false, remove: Box::new(remove) }
        };
        let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        for name in ["stuck"].into_iter().chain(names.iter().map(String::as_str)) {
            assert!(janitor.take(task(name)));
        }
        for name in &names {
            assert_eq!(&removed.recv().unwrap(), name);
        }
        is_free.store(true, Ordering::Release);
        assert_eq!(removed.recv_timeout(PATIENCE).unwrap(), "stuck", "it was given up");
        janitor.finish();
    }
}
