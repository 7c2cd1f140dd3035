//! Profiles: settings that belong together, by one word.
#![forbid(unsafe_code)]

use super::protection::Protection;
use super::spec::{Mount, SeccompChoice, Spec};
use crate::cgroup::{Limits, Requirement};
use crate::error::{Error, ErrorKind, Result};
use crate::network::Network;
use crate::security::landlock::Landlock;
use crate::security::limit::Ulimit;
use std::fmt;
use std::str::FromStr;

/// Settings that belong together, for [`ContainerBuilder::profile`](super::ContainerBuilder::profile).
///
/// [`Profile::untrusted`] is for a program that may mean harm: code that a model wrote, a stranger's build script. It is
/// the strictest set that usual programs still run under:
///
/// | | untrusted | default |
/// |---|---|---|
/// | user | 65534:65534 (nobody), `HOME=/tmp` | the image's, else root of its user namespace |
/// | user ids | a range of its own, required | a range, best effort |
/// | capabilities | none | docker's 14 |
/// | system calls | [`Seccomp::Strict`](crate::Seccomp::Strict) | docker's profile |
/// | no_new_privs | yes | yes |
/// | Landlock | required, all of it | no |
/// | /proc and /sys | masked and read-only as by default | docker's lists |
/// | root filesystem | read-only | writable, no bound |
/// | /tmp | 64 MiB of memory, nothing executable | the image's |
/// | network | loopback only | loopback only |
/// | memory | 512 MiB, no swap, required | no limit |
/// | processors | 1, required | no limit |
/// | processes | 256, required | 2048, best effort |
/// | core dumps | none | the program's |
///
/// Where the host can't give one of them, the container is not started: the error's kind is `Unsupported` (or what
/// the kernel's errno says) and [`Error::protection`] names it. What is said after the profile counts: a larger limit, a mount,
/// `best_effort(Protection::Landlock)` for an older kernel; the [`Report`](crate::Report) shows what has become of each.
///
/// A time limit is the caller's to set ([`timeout`](super::ContainerBuilder::timeout)): an endless loop takes one processor
/// until then. Output is bounded by [`output_max`](super::ContainerBuilder::output_max), 16 MiB of each stream.
///
/// ```no_run
/// use coracle::{Container, Image, Profile, Store};
/// use std::time::Duration;
/// let image = Image::host(&Store::open_default()?)?;
/// let out = Container::builder(&image)
///     .profile(Profile::untrusted())
///     .timeout(Duration::from_secs(10))
///     .command(["python3", "-c", "print(6 * 7)"])
///     .run()?;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile(Kind);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// What the builder begins with.
    #[default]
    Default,
    Untrusted,
}

/// The user and group of nobody, in every distribution.
const NOBODY: &str = "65534:65534";

impl Profile {
    /// For programs that may mean harm.
    pub const fn untrusted() -> Self {
        Self(Kind::Untrusted)
    }

    /// The limits that it sets, all of them required.
    pub fn limits(self) -> Limits {
        const MEMORY: u64 = 512 << 20;
        match self.0 {
            Kind::Default => Limits::new(),
            Kind::Untrusted => {
                Limits::new().memory_max(MEMORY).memory_swap_max(MEMORY).cpus(1.0).pids_max(256)
            }
        }
    }

    /// # Errors
    /// `InvalidInput` for a setting that was said before and that the profile decides.
    pub(super) fn apply(self, spec: &mut Spec) -> Result<()> {
        if self.0 == Kind::Default {
            return Ok(());
        }
        let before = [
            ("user", spec.user.is_some()),
            ("cap_add", !spec.cap_add.is_empty()),
            ("cap_drop", !spec.cap_drop.is_empty()),
            ("seccomp", spec.seccomp != SeccompChoice::Default),
            ("no_new_privileges", spec.new_privileges),
            ("landlock", spec.landlock.is_some()),
            ("masked_paths", spec.masked.is_some()),
            ("read_only_paths", spec.read_only_paths.is_some()),
            ("network", spec.network != Network::default()),
            ("a limit", spec.limits != Limits::default()),
            ("a requirement level", !spec.levels.is_empty()),
        ];
        if let Some((name, _)) = before.into_iter().find(|(_, said)| *said) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("profile {self} after {name}"))
                .with_remedy("say the profile first: what is said after it counts"));
        }
        spec.user = Some(NOBODY.into());
        spec.env.insert(0, ("HOME".into(), "/tmp".into()));
        spec.cap_drop.push("ALL".into());
        spec.seccomp = SeccompChoice::Strict;
        spec.landlock = Some(Landlock::new());
        spec.read_only = true;
        spec.mounts.insert(0, Mount::tmpfs("/tmp"));
        spec.ulimits.insert(0, Ulimit::new("core", 0, 0)?);
        spec.limits = self.limits();
        // All others are required unless the caller says otherwise.
        spec.set_level(Protection::IdRange, Requirement::Required)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Default => "default",
            Kind::Untrusted => "untrusted",
        })
    }
}

impl FromStr for Profile {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "default" => Ok(Self::default()),
            "untrusted" => Ok(Self::untrusted()),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("profile {name:.80?}"))
                .with_remedy("there are default and untrusted")),
        }
    }
}
