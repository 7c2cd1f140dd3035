//! Times that callers give.
#![forbid(unsafe_code)]

use rustix::event::Timespec;
use std::time::{Duration, Instant};

/// When so much time will have passed. What no clock reaches, as `Duration::MAX`, is longer than any program runs.
pub(crate) fn after(time: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now + CENTURY)
}

/// The time until a deadline, as the kernel takes it; none once that has passed.
pub(crate) fn left(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
}
