//! What touches the kernel directly, and the socket to the warden. The only room with `unsafe`.

#[cfg(feature = "cgroups")]
pub(crate) mod bpf;
pub(crate) mod courier;
pub(crate) mod diagnose;
pub(crate) mod fork;
pub(crate) mod idmap;
pub(crate) mod landlock;
pub(crate) mod map;
pub(crate) mod memfd;
pub(crate) mod message;
pub(crate) mod mountinfo;
pub(crate) mod open;
pub(crate) mod output;
pub(crate) mod owners;
pub(crate) mod peer;
pub(crate) mod pids;
pub(crate) mod plan;
pub(crate) mod quota;
pub(crate) mod script;
pub(crate) mod time;
pub(crate) mod warden;
