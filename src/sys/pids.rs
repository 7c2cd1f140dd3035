//! PID namespaces: in each of them a process has another number (pid_namespaces(7)).
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;

/// The number of this process's own; `None` where /proc does not tell.
pub(crate) fn own() -> Option<u64> {
    std::fs::metadata("/proc/self/ns/pid").ok().map(|meta| meta.ino())
}

/// Whether numbers of processes that were written down in the namespace of this number, or in one that could not be told (0),
/// mean nothing here.
pub(crate) fn is_other(namespace: u64) -> bool {
    namespace != 0 && own().is_some_and(|own| own != namespace)
}
