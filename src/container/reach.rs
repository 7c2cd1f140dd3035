//! Reaching into a container's network, and waiting until something there is ready.
#![forbid(unsafe_code)]

use std::fmt;

/// What to wait for. See [`Container::wait_until`](super::Container::wait_until).
#[derive(Clone)]
pub struct Ready;

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ready")
    }
}

/// A published port.
pub(crate) struct Forwarder;
