//! Containers as a crate.
#[cfg(not(target_os = "linux"))]
compile_error!(
    "coracle needs Linux: its containers are made of Linux namespaces, control groups and overlay mounts"
);

mod cgroup;
mod container;
mod digest;
mod error;
mod image;
mod layer;
mod manifest;
mod namespace;
mod network;
mod reference;
mod security;
mod store;
mod sys;
mod volume;

pub use cgroup::{Cgroup, CgroupParent, LimitKind, Limits, Outcome, Report, ReportEntry, Requirement, Stats};
pub use container::{
    Container, ContainerBuilder, Exec, Executed, ExitStatus, Mount, Output, Process, Ready, State, Stdio,
    Stream,
};
pub use digest::Digest;
pub use error::{Error, ErrorKind, Result};
pub use image::{Image, Import, Removed};
pub use layer::{Compression, Entries, Entry, EntryKind, Layer, LayerBuilder, LayerFile};
pub use manifest::{Descriptor, Healthcheck, History, ImageConfig, Platform};
pub use network::Network;
pub use nix::sys::signal::Signal;
pub use reference::Reference;
pub use security::capability::{Capabilities, Capability};
pub use security::limit::{Sysctl, Ulimit};
pub use security::seccomp::{Seccomp, SeccompProfile};
pub use store::Store;
pub use volume::{Volume, VolumeBuilder};
