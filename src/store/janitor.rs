//! Removes what was discarded without keeping anybody waiting: freeing a directory can take milliseconds on a busy disk.
#![forbid(unsafe_code)]

use super::remove::{Remover, remove_tree_with};
use crate::error::Result;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long something that could not be removed is tried again, and how often: a program that is out of descriptors now has
/// some again later. By time, as tries in a row tell no more than one.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(250);

/// The thread and its queue.
pub(super) struct Janitor {
    queue: Sender<OsString>,
    thread: JoinHandle<()>,
}

impl Janitor {
    /// `tmp` is where the doomed are. `None` where no thread can be had.
    pub(super) fn start(tmp: Arc<OwnedFd>, remover: Arc<OnceLock<Box<dyn Remover>>>) -> Option<Self> {
        Self::removing_by(move |name| {
            remove_tree_with(tmp.as_fd(), name, remover.get().map(|remover| &**remover))
        })
    }

    fn removing_by(remove: impl Fn(&OsStr) -> Result<()> + Send + 'static) -> Option<Self> {
        let (queue, doomed) = channel::<OsString>();
        let run = move || {
            let _ = nix::sys::signal::SigSet::all().thread_block();
            // What failed, and until when it is tried; when all of it is tried next.
            let mut failed: Vec<(OsString, Instant)> = Vec::new();
            let mut again = Instant::now();
            loop {
                let next = match failed.is_empty() {
                    true => doomed.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    false => doomed.recv_timeout(again.saturating_duration_since(Instant::now())),
                };
                let is_over = match next {
                    Ok(name) => {
                        if remove(&name).is_err() {
                            let now = Instant::now();
                            if failed.is_empty() {
                                again = now + AGAIN;
                            }
                            failed.push((name, now + PATIENCE));
                        }
                        if Instant::now() < again {
                            continue;
                        }
                        false
                    }
                    Err(why) => why == RecvTimeoutError::Disconnected,
                };
                failed.retain(|(name, until)| match remove(name) {
                    Ok(()) => false,
                    Err(_) if Instant::now() < *until && !is_over => true,
                    Err(error) => {
                        tracing::warn!(%error, ?name, "discarded content stays until the next sweep");
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
    pub(super) fn take(&self, name: OsString) -> bool {
        self.queue.send(name).is_ok()
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
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn what_others_need_meanwhile_does_not_count_on_its_patience() {
        let is_free = Arc::new(AtomicBool::new(false));
        let (told, removed) = channel();
        let free = is_free.clone();
        let janitor = Janitor::removing_by(move |name| {
            if name == "stuck" && !free.load(Ordering::Acquire) {
                return Err(Error::new(ErrorKind::ResourceExhausted, "not yet"));
            }
            told.send(name.to_owned()).unwrap();
            Ok(())
        })
        .unwrap();
        let names: Vec<OsString> = (0..200).map(|number| number.to_string().into()).collect();
        for name in [OsString::from("stuck")].iter().chain(&names) {
            assert!(janitor.take(name.clone()));
        }
        for name in &names {
            assert_eq!(&removed.recv().unwrap(), name);
        }
        is_free.store(true, Ordering::Release);
        assert_eq!(removed.recv_timeout(PATIENCE).unwrap(), "stuck", "it was given up");
        janitor.finish();
    }
}
