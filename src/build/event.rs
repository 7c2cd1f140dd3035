//! What a build tells while it works.
#![forbid(unsafe_code)]

use crate::digest::Digest;
use crate::sys::output::Stream;
use std::sync::{Arc, Mutex, PoisonError};

/// A step of a build: an instruction of a Dockerfile, or one that ONBUILD has in its base.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildStep {
    /// The number of its stage, from 0.
    pub stage: usize,
    /// The name of its stage, if it has one.
    pub stage_name: Option<String>,
    /// Its number among those of all stages that are built, from 1, in the order of the file. An ONBUILD has that of its FROM.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// Whether it comes from ONBUILD of the base.
    pub is_trigger: bool,
    /// The line of the Dockerfile where it begins, from 1.
    pub line: usize,
    /// The instruction, its lines as one.
    pub text: String,
}

/// Something that happened in a build. Those of one step come in their order, `Step` first and `Done` last; those of stages that are worked on
/// at once are mixed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BuildEvent {
    /// A step begins.
    Step {
        /// Which.
        step: Arc<BuildStep>,
    },
    /// Its result was there already; `Done` follows.
    Cached {
        /// Which.
        step: Arc<BuildStep>,
    },
    /// A RUN executes in a container.
    Running {
        /// Which.
        step: Arc<BuildStep>,
        /// The container's id.
        container: String,
    },
    /// A RUN has written something, in which secrets are replaced by `***`.
    Output {
        /// Which.
        step: Arc<BuildStep>,
        /// Where to.
        stream: Stream,
        /// What, as it comes: not always whole lines.
        bytes: Vec<u8>,
    },
    /// A step is done.
    Done {
        /// Which.
        step: Arc<BuildStep>,
        /// The id of the image that it gave; [`Store::image`](crate::Store::image) finds it.
        id: Digest,
    },
    /// An image comes from its registry, for FROM, `COPY --from` or a mount.
    #[cfg(feature = "registry")]
    Pull {
        /// Its name.
        name: String,
        /// What happens.
        event: crate::registry::PullEvent,
    },
    /// Something that may be meant otherwise.
    Warning {
        /// The line of the Dockerfile, from 1, if it is about one.
        line: Option<usize>,
        /// What.
        text: String,
    },
}

type Observer = dyn Fn(&BuildEvent) + Send + Sync;

/// Who is told; never from two threads at once.
pub(super) struct Teller {
    observer: Option<Arc<Observer>>,
    turn: Mutex<()>,
}

impl Teller {
    pub(super) fn new(observer: Option<Arc<Observer>>) -> Self {
        Self { observer, turn: Mutex::new(()) }
    }

    pub(super) fn is_there(&self) -> bool {
        self.observer.is_some()
    }

    pub(super) fn tell(&self, event: BuildEvent) {
        if let Some(observer) = &self.observer {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            observer(&event);
        }
    }

    pub(super) fn warn(&self, line: Option<usize>, text: impl Into<String>) {
        self.tell(BuildEvent::Warning { line, text: text.into() });
    }
}
