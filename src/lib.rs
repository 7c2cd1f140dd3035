//! Containers as a crate: a Rust program runs OCI containers by itself, with no daemon, no root and no helper binary.
//!
//! ```
//! use coracle::{Container, Image, Store};
//!
//! let store = Store::temp()?; // or Store::open_default(), which stays
//! let image = Image::host(&store)?; // or Image::load, Image::import
//! let out = Container::builder(&image).command(["echo", "ahoy"]).run()?;
//! assert!(out.status.success());
//! assert_eq!(out.stdout, b"ahoy\n");
//! # Ok::<(), coracle::Error>(())
//! ```
//!
//! - A [`Store`] is a directory with images, containers and volumes: an OCI image layout, for many programs at once.
//! - An [`Image`] is immutable. [`Image::host`] is this machine's own root filesystem, without its secrets.
//! - A [`Container`] comes from its [builder](ContainerBuilder). It is one command, isolated, with a writable layer; it goes with
//!   its handle, and with the program, however that ends, unless it is [kept](Container::keep).
//! - What this host can't enforce is an [`Error`] that says why and what to do, or, by explicit choice, a line in the
//!   container's [`Report`].
//! - What a container is made of is usable alone: [`Namespaces`] runs a program of the host in namespaces, [`Cgroup`] limits
//!   processes, [`Overlay`] shows directories as one.
//!
//! The program that uses this crate may have threads, be of any size and under any allocator: nothing is ever forked in it
//! and no state of it is changed. All processes are made by its **warden**, a small process that this crate carries along.
//!
//! Nothing is printed. Diagnosis goes to `tracing`: `warn` is for what was left behind and is swept later.
#![warn(missing_docs)]

// cargo users have it from build.rs, as the only error; this is for who compiles without cargo.
#[cfg(not(target_os = "linux"))]
compile_error!(
    "coracle needs Linux: its containers are made of Linux namespaces, control groups and overlay mounts"
);

#[cfg(feature = "build")]
mod build;
mod cgroup;
mod container;
mod digest;
#[cfg(feature = "build")]
pub mod dockerfile;
mod error;
mod feature;
mod host;
mod image;
mod layer;
mod manifest;
mod namespace;
mod network;
mod reference;
#[cfg(feature = "registry")]
mod registry;
mod security;
mod signal;
mod store;
mod sys;
mod volume;

#[cfg(feature = "build")]
pub use build::{Build, BuildContext, BuildEvent, BuildSecret, BuildStep};
pub use cgroup::{
    Cgroup, CgroupParent, DeviceRule, IoMax, IoStats, LimitKind, Limits, OomEvents, Outcome, Pressure,
    Report, ReportEntry, Requirement, Stall, Stats,
};
pub use container::{
    Commit, Container, ContainerBuilder, Copied, Copying, Device, Exec, Executed, ExitStatus, Mount, Output,
    Process, Profile, Protection, Ready, State, Stdio, Stream,
};
pub use digest::Digest;
pub use error::{Error, ErrorKind, Result};
pub use feature::{Feature, Missing};
pub use host::{Ability, CgroupVersion, Host};
pub use image::{
    ArchiveFormat, BrokenImage, Change, ChangeKind, HistoryEntry, Image, ImageTree, ImageUsage, Import,
    Removed, Save,
};
pub use layer::{
    Compression, Entries, Entry, EntryKind, Layer, LayerBuilder, LayerFile, Overlay, OverlayMount,
};
pub use manifest::{Descriptor, Healthcheck, History, ImageConfig, Platform};
pub use namespace::{Enter, Entered, NamespaceKind, Namespaces};
pub use network::Network;
pub use reference::Reference;
#[cfg(feature = "registry")]
pub use registry::{
    Access, Credentials, CredentialsPlace, Pull, PullEvent, PullPolicy, Push, PushEvent, Registry,
    RegistryBuilder, RegistryClient, SearchResult, Sent,
};
pub use security::capability::{Capabilities, Capability};
pub use security::landlock::Landlock;
pub use security::limit::{Sysctl, Ulimit};
pub use security::seccomp::{Seccomp, SeccompProfile};
pub use signal::Signal;
pub use store::clock::rfc3339;
pub use store::{Problem, PrunedCache, Store, StorePart, Verification};
pub use sys::idmap::{Extent, IdMap};
pub use volume::{Volume, VolumeBuilder};

/// The README's code compiles, with the features that it says it needs.
#[cfg(all(doctest, feature = "build"))]
#[doc = include_str!("../README.md")]
struct Readme;
