//! What a container shall be: plain data, kept with it in the store.
#![forbid(unsafe_code)]

use super::devices::Device;
use super::protection::Protection;
use crate::cgroup::{Limits, Requirement};
use crate::network::Network;
use crate::security::landlock::Landlock;
use crate::security::limit::{Sysctl, Ulimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that the builder was told and that is not bound to this program.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    pub name: Option<String>,
    pub hostname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub entrypoint: Option<Vec<OsString>>,
    pub command: Option<Vec<OsString>>,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    pub env_cleared: bool,
    pub working_dir: Option<PathBuf>,
    pub user: Option<String>,
    pub groups: Vec<String>,
    pub read_only: bool,
    pub mounts: Vec<Mount>,
    pub files: Vec<FileContent>,
    pub devices: Vec<Device>,
    pub ulimits: Vec<Ulimit>,
    pub sysctls: Vec<Sysctl>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub seccomp: SeccompChoice,
    pub new_privileges: bool,
    pub masked: Option<Vec<PathBuf>>,
    pub read_only_paths: Option<Vec<PathBuf>>,
    pub init: bool,
    pub stop_signal: Option<i32>,
    pub stop_timeout: Option<Duration>,
    pub start_timeout: Option<Duration>,
    pub tty: bool,
    pub timeout: Option<Duration>,
    pub in_memory: bool,
    pub disk_max: Option<u64>,
    pub limits: Limits,
    /// Without the limit on processes that there is by default.
    pub pids_unlimited: bool,
    pub network: Network,
    pub publish: Vec<Publish>,
    pub hosts: Vec<(String, String)>,
    pub landlock: Option<Landlock>,
    /// What was said expressly; of limits also in `limits`.
    pub levels: Vec<(Protection, Requirement)>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            name: None,
            hostname: None,
            labels: BTreeMap::new(),
            entrypoint: None,
            command: None,
            args: Vec::new(),
            env: Vec::new(),
            env_cleared: false,
            working_dir: None,
            user: None,
            groups: Vec::new(),
            read_only: false,
            mounts: Vec::new(),
            files: Vec::new(),
            devices: Vec::new(),
            ulimits: Vec::new(),
            sysctls: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            seccomp: SeccompChoice::Default,
            new_privileges: false,
            masked: None,
            read_only_paths: None,
            init: false,
            stop_signal: None,
            stop_timeout: None,
            start_timeout: None,
            tty: false,
            timeout: None,
            in_memory: false,
            disk_max: None,
            pids_unlimited: false,
            limits: Limits::default(),
            network: Network::default(),
            publish: Vec::new(),
            hosts: Vec::new(),
            landlock: None,
            levels: Vec::new(),
        }
    }
}

/// A filter as the store keeps it: the profile's own text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SeccompChoice {
    #[default]
    Default,
    Strict,
    Unconfined,
    Profile(String),
}

/// Something mounted into a container.
///
/// ```
/// use coracle::Mount;
/// let source = Mount::bind("/srv/data", "/data").read_only();
/// let scratch = Mount::tmpfs("/scratch").size(16 << 20);
/// # let _ = (source, scratch);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Mount {
    pub(crate) kind: MountKind,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// The mount that a path is in, by where they are mounted: the innermost.
pub(super) fn covering<'a, T>(
    mounts: impl Iterator<Item = &'a T>,
    target: impl Fn(&T) -> &Path,
    path: &Path,
) -> Option<&'a T> {
    mounts
        .filter(|mount| path.starts_with(target(mount)))
        .max_by_key(|mount| target(mount).components().count())
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MountKind {
    Bind {
        source: PathBuf,
    },
    Volume {
        name: String,
        /// Made for this container alone, and removed with it.
        anonymous: bool,
    },
    Tmpfs {
        size: u64,
        inodes: u64,
        mode: u32,
        exec: bool,
    },
}

impl Mount {
    /// The default size of a tmpfs, in bytes. Never none: what fills an unsized one ends the host, not the container.
    pub const TMPFS_SIZE: u64 = 64 << 20;

    /// A directory or file of the host, at `target`. A relative source is meant from where the program is when the container is
    /// made, whoever starts it later.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { kind: MountKind::Bind { source: source.into() }, target: target.into(), read_only: false }
    }

    /// A volume of the store by name (made at the first use), at `target`.
    pub fn volume(name: impl Into<String>, target: impl Into<PathBuf>) -> Self {
        let kind = MountKind::Volume { name: name.into(), anonymous: false };
        Self { kind, target: target.into(), read_only: false }
    }

    /// A new volume of this container's own, removed with it.
    pub fn anonymous_volume(target: impl Into<PathBuf>) -> Self {
        let kind = MountKind::Volume { name: String::new(), anonymous: true };
        Self { kind, target: target.into(), read_only: false }
    }

    /// Memory, gone when the container ends: [`TMPFS_SIZE`](Self::TMPFS_SIZE) bytes, mode 1777, nothing executable.
    pub fn tmpfs(target: impl Into<PathBuf>) -> Self {
        let kind = MountKind::Tmpfs { size: Self::TMPFS_SIZE, inodes: 65536, mode: 0o1777, exec: false };
        Self { kind, target: target.into(), read_only: false }
    }

    /// The container may only read it.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Of a tmpfs: at most so many bytes. No effect on other mounts.
    pub fn size(mut self, bytes: u64) -> Self {
        if let MountKind::Tmpfs { size, .. } = &mut self.kind {
            *size = bytes;
        }
        self
    }

    /// Of a tmpfs: at most so many files. No effect on other mounts.
    #[cfg(feature = "build")]
    pub(crate) fn inodes(mut self, number: u64) -> Self {
        if let MountKind::Tmpfs { inodes, .. } = &mut self.kind {
            *inodes = number;
        }
        self
    }

    /// The size of the container's own /dev/shm, where this mount is meant for it.
    pub(crate) fn shm_size(&self) -> Option<u64> {
        match self.kind {
            MountKind::Tmpfs { size, .. } if !self.read_only && self.target == Path::new("/dev/shm") => {
                Some(size)
            }
            _ => None,
        }
    }

    /// Of a tmpfs: the mode of its root directory. No effect on other mounts.
    pub fn mode(mut self, bits: u32) -> Self {
        if let MountKind::Tmpfs { mode, .. } = &mut self.kind {
            *mode = bits;
        }
        self
    }

    /// Of a tmpfs: programs in it may be executed. No effect on other mounts.
    pub fn exec(mut self) -> Self {
        if let MountKind::Tmpfs { exec, .. } = &mut self.kind {
            *exec = true;
        }
        self
    }
}

/// A file that is written into the container before it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FileContent {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// A port of the container that the host forwards to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publish {
    pub container: u16,
    pub address: std::net::IpAddr,
    /// 0: a free one.
    pub host: u16,
}
