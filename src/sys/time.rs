//! Times that callers give.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// When so much time will have passed. What no clock reaches, as `Duration::MAX`, is longer than any program runs.
pub(crate) fn after(time: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now + CENTURY)
}
