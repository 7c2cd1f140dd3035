//! Paths of /proc and /sys that a container does not see or may not write, as Docker sets them.
#![forbid(unsafe_code)]

/// Hidden: a directory gets an empty read-only tmpfs over it, a file gets `/dev/null`. One that does not exist
/// when a container starts is left out.
///
/// `/sys/devices/system/cpu/cpu*/thermal_throttle` is a pattern in Docker's list too, made of one path for each
/// processor of the machine; see [`thermal_throttle`].
pub(crate) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Readable, not writable.
pub(crate) const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The per-processor path that Docker hides on x86: it tells neighbours' load apart by heat.
pub(crate) fn thermal_throttle(cpu: usize) -> String {
    format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_absolute_plain_and_named_once() {
        let all: Vec<_> = MASKED.iter().chain(READ_ONLY).collect();
        for path in &all {
            assert!(path.starts_with("/proc/") || path.starts_with("/sys/"), "{path}");
            assert!(!path.ends_with('/') && !path.contains("..") && !path.contains("//"), "{path}");
            assert_eq!(all.iter().filter(|other| other == &path).count(), 1, "{path}");
        }
    }
}
