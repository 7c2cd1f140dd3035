//! What a container's processes may do: capabilities, system calls, hidden paths, resource limits.
//!
//! Everything here is data, validation and compiled results. Nothing in this room changes a process: what is
//! compiled here is carried out by the steps of a container's start.
#![forbid(unsafe_code)]

pub(crate) mod capability;
pub(crate) mod landlock;
pub(crate) mod limit;
pub(crate) mod paths;
pub(crate) mod seccomp;
