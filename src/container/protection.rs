//! What protects the host from a container, how much of it the caller insists upon, and what became of it.
//!
//! Each protection has a name, which is that of its line in the [`Report`]. Most have no lesser form: they hold, or there is no
//! container. Those that a host may lack have one, and a caller may say that it will do.
#![forbid(unsafe_code)]

use super::devices;
use super::rootfs::Planned;
use super::spec::{MountKind, SeccompChoice, Spec};
use super::stages::NO_FILTER;
use super::users::Identity;
use crate::cgroup::{LimitKind, Outcome, Report, Requirement};
use crate::error::{Error, ErrorKind, Result};
use crate::feature::{Missing, words};
use crate::namespace::{NamespaceKind, Namespaces};
use crate::security::capability::Capabilities;
use crate::security::landlock::{Domain, Places};
use crate::sys::diagnose;
use crate::sys::idmap::IdMap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Something that protects the host from a container.
///
/// | protection | without it | lesser form |
/// |---|---|---|
/// | `Namespace(kind)` | its part of the system is the host's | none |
/// | `IdRange` | all users of the container are the caller's own id | a single id; the default is best effort |
/// | `Capabilities` | root of the container holds all of its user namespace's | none |
/// | `Seccomp` | every system call reaches the kernel | no filter |
/// | `NoNewPrivs` | setuid programs of the image work | none |
/// | `Landlock` | one wall instead of two, see [`Landlock`](crate::Landlock) | what the kernel has of it |
/// | `MaskedPaths`, `ReadOnlyPaths` | parts of /proc and /sys that tell of the host or change it | none |
/// | `ReadOnlyRoot` | the root filesystem can be changed | none |
/// | `Devices` | devices that were given, see [`Device`](crate::Device) | none |
/// | `IdMappedMounts` | what the container writes to binds and volumes is not the caller's | not mapped: to the container they are somebody else's |
/// | `DiskMax` | the root filesystem takes all of the disk | no bound |
/// | `Limit(kind)` | the container takes all of the machine | no limit |
///
/// ```no_run
/// use coracle::{Container, Image, LimitKind, Protection, Store};
/// let image = Image::host(&Store::open_default()?)?;
/// let container = Container::builder(&image)
///     .command(["make"])
///     .memory_max(1 << 30)
///     .require(Protection::IdRange)
///     .best_effort(LimitKind::MemoryMax)
///     .start()?;
/// for (name, outcome) in container.report().iter() {
///     println!("{name}: {outcome:?}");
/// }
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Protection {
    /// A namespace of its own, namespaces(7).
    Namespace(NamespaceKind),
    /// A range of user ids that nobody else has, user_namespaces(7).
    IdRange,
    /// Only some of the capabilities, capabilities(7).
    Capabilities,
    /// A filter of system calls, seccomp(2).
    Seccomp,
    /// Nothing that is executed gains privileges, `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
    /// A second wall around its files, landlock(7).
    Landlock,
    /// Paths of /proc and /sys that are hidden.
    MaskedPaths,
    /// Paths of /proc and /sys that can't be written.
    ReadOnlyPaths,
    /// The root filesystem can't be written.
    ReadOnlyRoot,
    /// No device but those of every container; none on any other mount (`MOUNT_ATTR_NODEV`).
    Devices,
    /// Binds and volumes in the ids of whoever runs the container, `MOUNT_ATTR_IDMAP`.
    IdMappedMounts,
    /// A bound on what the root filesystem takes.
    DiskMax,
    /// A limit of a control group.
    Limit(LimitKind),
}

use Protection as P;

impl Protection {
    const PLAIN: [Self; 11] = [
        P::IdRange,
        P::Capabilities,
        P::Seccomp,
        P::NoNewPrivs,
        P::Landlock,
        P::MaskedPaths,
        P::ReadOnlyPaths,
        P::ReadOnlyRoot,
        P::Devices,
        P::IdMappedMounts,
        P::DiskMax,
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let namespaces = NamespaceKind::ALL.into_iter().map(P::Namespace);
        namespaces.chain(Self::PLAIN).chain(LimitKind::ALL.into_iter().map(P::Limit))
    }

    /// The name, in reports and errors.
    pub fn name(self) -> &'static str {
        match self {
            P::Namespace(NamespaceKind::Cgroup) => "cgroup_namespace",
            P::Namespace(NamespaceKind::Ipc) => "ipc_namespace",
            P::Namespace(NamespaceKind::Mount) => "mount_namespace",
            P::Namespace(NamespaceKind::Net) => "network_namespace",
            P::Namespace(NamespaceKind::Pid) => "pid_namespace",
            P::Namespace(NamespaceKind::User) => "user_namespace",
            P::Namespace(NamespaceKind::Uts) => "uts_namespace",
            P::IdRange => "id_range",
            P::Capabilities => "capabilities",
            P::Seccomp => "seccomp",
            P::NoNewPrivs => "no_new_privs",
            P::Landlock => "landlock",
            P::MaskedPaths => "masked_paths",
            P::ReadOnlyPaths => "read_only_paths",
            P::ReadOnlyRoot => "read_only_root",
            P::Devices => "devices",
            P::IdMappedMounts => "id_mapped_mounts",
            P::DiskMax => "disk_max",
            P::Limit(kind) => kind.name(),
        }
    }

    /// Whether there is something less that a caller may put up with.
    fn has_lesser_form(self) -> bool {
        matches!(self, P::IdRange | P::Seccomp | P::Landlock | P::IdMappedMounts | P::DiskMax | P::Limit(_))
    }

    /// What is so unless the caller says otherwise.
    fn usual(self) -> Requirement {
        match self {
            P::IdRange => Requirement::BestEffort,
            _ => Requirement::Required,
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl AsRef<str> for Protection {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

impl FromStr for Protection {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::all().find(|protection| protection.name() == name);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::all().map(Self::name).collect();
            Error::new(ErrorKind::InvalidInput, format!("protection {name:.80?}"))
                .with_remedy(format!("there are {}", names.join(", ")))
        })
    }
}

impl From<Protection> for String {
    fn from(protection: Protection) -> Self {
        protection.name().to_owned()
    }
}

impl TryFrom<String> for Protection {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<LimitKind> for Protection {
    fn from(kind: LimitKind) -> Self {
        Self::Limit(kind)
    }
}

impl From<NamespaceKind> for Protection {
    fn from(kind: NamespaceKind) -> Self {
        Self::Namespace(kind)
    }
}

impl Spec {
    /// How much a protection is insisted upon.
    pub fn level(&self, protection: Protection) -> Requirement {
        if let P::Limit(kind) = protection {
            return self.limits.requirement_of(kind);
        }
        let said = self.levels.iter().find(|(about, _)| *about == protection);
        said.map_or(protection.usual(), |(_, level)| *level)
    }

    pub fn is_best_effort(&self, protection: Protection) -> bool {
        self.level(protection) == Requirement::BestEffort
    }

    /// Notes how much a protection is insisted upon.
    ///
    /// # Errors
    /// `InvalidInput` for one that has no lesser form.
    pub fn set_level(&mut self, protection: Protection, level: Requirement) -> Result<()> {
        if level == Requirement::BestEffort && !protection.has_lesser_form() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("best effort for {protection}, of which there is no lesser form"),
            )
            .with_remedy("turn it off by its own setting, if that is what is meant"));
        }
        if let P::Limit(kind) = protection {
            self.limits = std::mem::take(&mut self.limits).requirement(kind, level);
        }
        if protection == P::Landlock {
            self.landlock.get_or_insert_default();
        }
        self.levels.retain(|(about, _)| *about != protection);
        self.levels.push((protection, level));
        Ok(())
    }

    /// The places that a Landlock domain's rules are about.
    pub fn places(&self) -> Places {
        let writable = self.mounts.iter().filter(|mount| !mount.read_only && mount.shm_size().is_none());
        Places {
            root: !self.read_only,
            writable: writable.map(|mount| mount.target.clone()).collect(),
            devices: self.devices.iter().map(|device| device.target().to_owned()).collect(),
        }
    }
}

/// Whether there is a second wall.
pub(super) enum Wall<'a> {
    Off,
    There(Domain<'a>),
    /// For this reason.
    NotThere(String),
}

impl<'a> Wall<'a> {
    /// # Errors
    /// `Unsupported` where it is required and the kernel does not have all of it.
    pub fn of(spec: &'a Spec) -> Result<Self> {
        let Some(landlock) = &spec.landlock else { return Ok(Self::Off) };
        let required = !spec.is_best_effort(P::Landlock);
        let domain = match landlock.domain() {
            Ok(domain) => domain,
            Err(error) if required => return Err(error.with_protection(P::Landlock.name())),
            Err(error) => return Ok(Self::NotThere(error.to_string())),
        };
        match domain.lacking() {
            Some(lacking) if required => {
                Err(refused(P::Landlock, lacking).lacks(words::landlock_scopes(&diagnose::release())))
            }
            _ => Ok(Self::There(domain)),
        }
    }

    pub fn domain(&self) -> Option<&Domain<'a>> {
        match self {
            Self::There(domain) => Some(domain),
            Self::Off | Self::NotThere(_) => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Off => Outcome::Off("not asked for".into()),
            Self::NotThere(why) => Outcome::NotEnforced(why.clone()),
            Self::There(domain) => match domain.lacking() {
                None => Outcome::Enforced(domain.describe()),
                Some(lacking) => Outcome::Partial(format!("{}; {lacking}", domain.describe())),
            },
        }
    }
}

/// A required protection that can't be had.
fn refused(protection: Protection, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{protection} is required and can't be had: {why}"))
        .with_protection(protection.name())
}

/// A container's ids: those of the warden's user namespace, or a range that begins at `base` of the host.
pub(super) struct Ids<'a> {
    pub map: &'a IdMap,
    pub base: u32,
    /// Why there is one only.
    pub single: Option<&'a Missing>,
}

impl Ids<'_> {
    /// # Errors
    /// `Unsupported` where there is one id, and a range is required or groups are asked for, which only a range has.
    pub fn check(&self, spec: &Spec) -> Result<()> {
        let Some(why) = self.single else { return Ok(()) };
        if !spec.is_best_effort(P::IdRange) {
            return Err(refused(P::IdRange, "only the caller's own id is mapped").lacks(why.clone()));
        }
        match spec.groups.first() {
            Some(group) => {
                let what = format!("group {group:?} where only one id is mapped");
                Err(Error::new(ErrorKind::Unsupported, what).lacks(why.clone()))
            }
            None => Ok(()),
        }
    }

    /// Whether whoever a command is to be exists in the container.
    ///
    /// # Errors
    /// `InvalidInput` for an id that no container has; `Unsupported` for one that is not there as there is only one.
    pub fn check_identity(&self, identity: &Identity) -> Result<()> {
        let user = (self.map.user(identity.uid).is_none()).then_some(("user", identity.uid));
        let group = (self.map.group(identity.gid).is_none()).then_some(("group", identity.gid));
        // Where there is one id, the image's groups are left out.
        let groups = identity.groups.iter().filter(|_| self.single.is_none());
        let mut others = groups.filter(|gid| self.map.group(**gid).is_none()).map(|gid| ("group", *gid));
        let Some((what, id)) = user.or(group).or_else(|| others.next()) else { return Ok(()) };
        if let Some(why) = self.single {
            let error =
                Error::new(ErrorKind::Unsupported, format!("{what} {id} where only one id is mapped"));
            return Err(error.lacks(why.clone()));
        }
        let extents = if what == "user" { &self.map.users } else { &self.map.groups };
        let last = extents.iter().map(|extent| u64::from(extent.inside) + u64::from(extent.count)).max();
        let last = last.unwrap_or(1).saturating_sub(1);
        Err(Error::new(ErrorKind::InvalidInput, format!("{what} {id} does not exist in the container"))
            .with_remedy(format!("its {what}s are numbered from 0 to {last}: name one of them")))
    }

    fn outcome(&self) -> Outcome {
        let count: u64 = self.map.users.iter().map(|extent| u64::from(extent.count)).sum();
        match self.single {
            Some(why) => Outcome::NotEnforced(why.to_string()),
            None if self.base > 0 => {
                let how = format!("{count} ids, root is {}", self.base);
                match super::ids::shared(self.base) {
                    None => Outcome::Enforced(how),
                    Some(with) => Outcome::Partial(format!("{how}; {with}")),
                }
            }
            None => Outcome::Enforced(format!("{count} ids, root is the caller")),
        }
    }
}

/// What a start is made of, for its report.
pub(super) struct Made<'a> {
    pub spec: &'a Spec,
    pub ids: Ids<'a>,
    pub namespaces: &'a Namespaces,
    pub capabilities: Capabilities,
    pub wall: &'a Wall<'a>,
    pub masked: usize,
    pub read_only: usize,
    pub devices: &'a [devices::Planned],
    /// Of a writable layer in memory, in bytes.
    pub memory: Option<u64>,
}

impl Made<'_> {
    /// Adds what protects to what is limited.
    pub fn add_to(&self, report: &mut Report) {
        let mut say = |protection: Protection, asked: &str, outcome| {
            report.push(protection.name(), asked, outcome);
        };
        let on = |yes: bool, how: String, off: &str| match yes {
            true => Outcome::Enforced(how),
            false => Outcome::Off(off.into()),
        };
        let spec = self.spec;
        for kind in NamespaceKind::ALL {
            // Joined late, where there are groups of v1.
            let has = self.namespaces.has(kind) || kind == NamespaceKind::Cgroup;
            say(P::Namespace(kind), "", on(has, "its own".into(), "network(Network::host())"));
        }
        say(P::IdRange, "65536", self.ids.outcome());
        let few = self.capabilities != Capabilities::ALL;
        let names: Vec<_> = self.capabilities.iter().map(|one| one.to_string()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(" ") };
        say(P::Capabilities, "", on(few, names, "cap_add(ALL)"));
        let filter = match spec.seccomp {
            SeccompChoice::Default => "docker's default profile",
            SeccompChoice::Strict => "the strict profile",
            SeccompChoice::Profile(_) => "a profile of the caller's",
            SeccompChoice::Unconfined => "",
        };
        say(P::Seccomp, "", on(!filter.is_empty(), filter.into(), "seccomp(Seccomp::Unconfined)"));
        let off = "no_new_privileges(false)";
        say(P::NoNewPrivs, "", on(!spec.new_privileges, "PR_SET_NO_NEW_PRIVS".into(), off));
        say(P::Landlock, "", self.wall.outcome());
        let paths = |number: usize, all_exist: bool, off: &str| {
            let which = if all_exist { "" } else { ", as far as they exist" };
            on(number > 0, format!("{number} paths{which}"), off)
        };
        say(P::MaskedPaths, "", paths(self.masked, false, "masked_paths([])"));
        let own = spec.read_only_paths.is_none();
        say(P::ReadOnlyPaths, "", paths(self.read_only, own, "read_only_paths([])"));
        let how = "MOUNT_ATTR_RDONLY".to_owned();
        say(P::ReadOnlyRoot, "", on(spec.read_only, how, "read_only(true) was not asked for"));
        let mut given: Vec<_> = devices::OWN.iter().map(ToString::to_string).collect();
        given.extend(self.devices.iter().map(|device| device.name.display().to_string()));
        say(P::Devices, "", Outcome::Enforced(format!("NODEV, but for {}", given.join(" "))));
        let from_outside = spec.mounts.iter().any(|mount| !matches!(mount.kind, MountKind::Tmpfs { .. }));
        if from_outside && self.ids.base > 0 {
            say(P::IdMappedMounts, "", Outcome::Enforced("MOUNT_ATTR_IDMAP".into()));
        }
        match (spec.disk_max, self.memory) {
            (asked, Some(size)) => {
                let asked = asked.map(|max| max.to_string()).unwrap_or_default();
                say(P::DiskMax, &asked, Outcome::Enforced(format!("{size}, in memory")));
            }
            (None, None) if spec.read_only => {
                say(P::DiskMax, "", Outcome::Enforced("nothing can be written to it".into()));
            }
            (None, None) => say(P::DiskMax, "", Outcome::Off("not asked for".into())),
            // Said where it was set.
            (Some(_), None) => {}
        }
        for kind in [LimitKind::MemoryMax, LimitKind::MemorySwapMax, LimitKind::CpuMax] {
            if spec.limits.asked(kind).is_none() {
                say(P::Limit(kind), "", Outcome::Off("not asked for".into()));
            }
        }
    }
}

/// Refuses what is less than was expressly required.
///
/// # Errors
/// `InvalidInput` for what is required and turned off; `Unsupported` for what this host doesn't give.
pub(super) fn insist(spec: &Spec, report: &Report) -> Result<()> {
    let required = spec.levels.iter().filter(|(_, level)| *level == Requirement::Required);
    for (protection, _) in required {
        match report.get(protection).map(|entry| entry.outcome()) {
            // There is nothing that it would be about: no mount to map, for example.
            None if !matches!(protection, P::Limit(_)) => {}
            Some(Outcome::Enforced(_)) => {}
            None | Some(Outcome::Off(_)) => {
                let how = match report.get(protection).map(|entry| entry.outcome()) {
                    Some(Outcome::Off(how)) => how.clone(),
                    _ => "not asked for".to_owned(),
                };
                let what = format!("{protection} is required and off: {how}");
                return Err(Error::new(ErrorKind::InvalidInput, what)
                    .with_protection(protection.name())
                    .with_remedy("give its setting a value, or do not require it"));
            }
            Some(Outcome::Partial(why) | Outcome::NotEnforced(why)) => return Err(refused(*protection, why)),
        }
    }
    Ok(())
}

/// What the plan went on without, as it was told to.
pub(super) fn without(report: &mut Report, what: u64, mounts: &[Planned]) {
    if what == NO_FILTER {
        return report.amend(P::Seccomp.name(), Outcome::NotEnforced("the kernel refused the filter".into()));
    }
    if let Some(mount) = mounts.get(what as usize) {
        let why = format!("the filesystem of what is mounted at {:?} can't be id-mapped", mount.target);
        report.amend(P::IdMappedMounts.name(), Outcome::NotEnforced(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Protection::all().map(Protection::name).collect();
        assert_eq!(names.len(), Protection::all().count());
        for protection in Protection::all() {
            assert_eq!(protection.name().parse::<Protection>().unwrap(), protection);
        }
        let error = "selinux".parse::<Protection>().unwrap_err();
        assert!(error.remedy().unwrap().contains("id_range, capabilities"), "{error}");
    }

    #[test]
    fn levels_are_kept_and_the_last_word_counts() {
        let mut spec = Spec::default();
        assert!(spec.is_best_effort(P::IdRange) && !spec.is_best_effort(P::DiskMax));
        spec.set_level(P::IdRange, Requirement::Required).unwrap();
        spec.set_level(P::DiskMax, Requirement::BestEffort).unwrap();
        spec.set_level(LimitKind::MemoryMax.into(), Requirement::BestEffort).unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        let mut spec: Spec = serde_json::from_str(&text).unwrap();
        assert!(!spec.is_best_effort(P::IdRange) && spec.is_best_effort(P::DiskMax));
        assert!(spec.is_best_effort(LimitKind::MemoryMax.into()));
        spec.set_level(P::DiskMax, Requirement::Required).unwrap();
        assert!(!spec.is_best_effort(P::DiskMax));
        let error = spec.set_level(NamespaceKind::Net.into(), Requirement::BestEffort).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(spec.landlock.is_none());
        spec.set_level(P::Landlock, Requirement::BestEffort).unwrap();
        assert!(spec.landlock.is_some(), "to say how much it matters is to ask for it");
    }
}
