//! Removes what was discarded without keeping anybody waiting: freeing a directory can take milliseconds on a busy disk.
#![forbid(unsafe_code)]

use super::remove::{Remover, remove_tree_with};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// The thread and its queue.
pub(super) struct Janitor {
    queue: Sender<OsString>,
    thread: JoinHandle<()>,
}

impl Janitor {
    /// `tmp` is where the doomed are. `None` where no thread can be had.
    pub(super) fn start(tmp: OwnedFd, remover: Arc<OnceLock<Box<dyn Remover>>>) -> Option<Self> {
        let (queue, doomed) = channel::<OsString>();
        let run = move || {
            let _ = nix::sys::signal::SigSet::all().thread_block();
            for name in doomed {
                if let Err(error) =
                    remove_tree_with(tmp.as_fd(), &name, remover.get().map(|remover| &**remover))
                {
                    tracing::warn!(%error, ?name, "discarded content stays until the next sweep");
                }
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
