//! What this host offers: which of the [`Feature`]s this kernel and this user can have, here and now.
//!
//! Each answer comes from using the feature once. What needs a namespace, or could do harm, is used by a process that the
//! program's warden makes for it, as it makes those of containers: this program forks nothing and changes nothing of itself,
//! and what confines the containers confines the answer. All are started at once and take some milliseconds together.
//! Where the warden itself doesn't come up, the answers say why.
//!
//! | | |
//! |---|---|
//! | [`attempt`] | one feature, used by a plan |
//! | [`plans`] | how each is used |
//! | [`groups`] | control groups, made and removed |
//! | [`outer`] | which container this program is in |
#![forbid(unsafe_code)]

mod attempt;
mod groups;
mod outer;
mod plans;

use crate::error::{Error, ErrorKind, Result};
use crate::feature::words;
use crate::feature::{Feature, Missing};
use crate::store::Store;
use crate::sys::warden::{self, Warden};
use crate::sys::{diagnose, idmap, quota};
use attempt::Attempt;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::fmt;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What this kernel, this user, and what surrounds this program offer to containers: a yes or a no for each
/// [`Feature`], and for each no the reason and the remedy.
///
/// ```
/// use coracle::{Feature, Host};
/// let host = Host::probe();
/// for ability in host.iter().filter(|ability| !ability.is_available()) {
///     println!("{ability}");
/// }
/// if let Err(error) = host.require(Feature::MemoryLimit) {
///     eprintln!("{error}"); // …; help: …
/// }
/// ```
///
/// With serde it becomes an object with `abilities`, a list of `{feature, available, detail, reason, remedy}`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Host {
    kernel: String,
    machine: String,
    user: u32,
    store: PathBuf,
    cgroups: CgroupVersion,
    container: Option<String>,
    abilities: Vec<Ability>,
}

/// Which hierarchies of control groups are mounted, cgroups(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CgroupVersion {
    /// None that this program can see.
    None,
    /// v1 alone.
    V1,
    /// v2 alone.
    V2,
    /// v1, and an additional v2.
    Hybrid,
}

impl fmt::Display for CgroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        })
    }
}

/// Whether a [`Feature`] can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ability {
    feature: Feature,
    detail: Option<String>,
    missing: Option<Missing>,
}

impl Ability {
    /// A detail, or what is missing and what failed for it.
    fn new(feature: Feature, outcome: Result<Option<String>, (Missing, Option<String>)>) -> Self {
        match outcome {
            Ok(detail) => Self { feature, detail, missing: None },
            Err((missing, detail)) => Self { feature, detail, missing: Some(missing.of(feature)) },
        }
    }

    fn missing_for(feature: Feature, missing: Missing) -> Self {
        Self::new(feature, Err((missing, None)))
    }

    /// What it is about.
    pub fn feature(&self) -> Feature {
        self.feature
    }

    /// Whether it was used with success.
    pub fn is_available(&self) -> bool {
        self.missing.is_none()
    }

    /// More about what is there (an ABI's number, an amount, a directory), or which call failed.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The reason and the remedy, where it can't be had.
    pub fn missing(&self) -> Option<&Missing> {
        self.missing.as_ref()
    }
}

impl fmt::Display for Ability {
    /// `yes  openat2`, `no   time namespaces: REASON; help: REMEDY`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.missing, &self.detail) {
            (Some(missing), _) => write!(f, "no   {}: {missing}", self.feature),
            (None, Some(detail)) => write!(f, "yes  {}: {detail}", self.feature),
            (None, None) => write!(f, "yes  {}", self.feature),
        }
    }
}

impl Serialize for Ability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("feature", self.feature.name())?;
        map.serialize_entry("available", &self.is_available())?;
        if let Some(detail) = &self.detail {
            map.serialize_entry("detail", detail)?;
        }
        if let Some(missing) = &self.missing {
            map.serialize_entry("reason", missing.reason())?;
            map.serialize_entry("remedy", missing.remedy())?;
        }
        map.end()
    }
}

impl Host {
    /// Tries everything, with the place of this user's own store ([`Store::default_path`]) where a filesystem matters.
    /// Starts the program's warden, if it is not there yet, and makes control groups where a start would: of an ordinary
    /// user's systemd a scope for the warden is asked, where the groups that it is in lack one of the controllers
    /// ([`Feature::Cgroup`] says where they are).
    pub fn probe() -> Self {
        Self::probe_at(Store::default_path().unwrap_or_else(|_| std::env::temp_dir()))
    }

    /// The same for a store at this path, which need not exist.
    pub fn probe_at(store: impl AsRef<Path>) -> Self {
        let store = std::path::absolute(store.as_ref()).unwrap_or_else(|_| store.as_ref().to_owned());
        let uname = rustix::system::uname();
        let warden = warden::warden();
        let (cgroups, groups) = groups::probe(warden.as_deref().ok());
        let mut abilities = match warden {
            Ok(warden) => with_warden(&warden, &store, groups.as_ref()),
            Err(error) => without_warden(error),
        };
        abilities.extend(groups::abilities(groups));
        abilities.push(Ability::new(Feature::Privileges, privileges().map_err(|missing| (missing, None))));
        abilities.push(Ability::new(
            Feature::ProjectQuota,
            project_quota(&store).map_err(|missing| (missing, None)),
        ));
        abilities.sort_by_key(Ability::feature);
        Self {
            kernel: diagnose::release(),
            machine: uname.machine().to_string_lossy().into_owned(),
            user: rustix::process::geteuid().as_raw(),
            store,
            cgroups,
            container: outer::container(),
            abilities,
        }
    }

    /// The kernel's release: `6.18.44`.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// The machine's architecture, as uname(2) has it: `x86_64`.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// The effective user id of this program.
    pub fn user(&self) -> u32 {
        self.user
    }

    /// The store's place that the answers are about.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Which control groups are mounted.
    pub fn cgroups(&self) -> CgroupVersion {
        self.cgroups
    }

    /// The container that this program is in, as far as it can be told: `docker`, `podman`, `kubernetes`, `lxc`,
    /// `systemd-nspawn`, or `namespaces` where it is only seen that there is one.
    pub fn container(&self) -> Option<&str> {
        self.container.as_deref()
    }

    /// All answers, one for each of [`Feature::ALL`] and in its order.
    pub fn abilities(&self) -> &[Ability] {
        &self.abilities
    }

    /// The same.
    pub fn iter(&self) -> std::slice::Iter<'_, Ability> {
        self.abilities.iter()
    }

    /// The answer about one feature.
    pub fn get(&self, feature: Feature) -> Option<&Ability> {
        self.abilities.iter().find(|ability| ability.feature == feature)
    }

    /// Whether this host has it.
    pub fn has(&self, feature: Feature) -> bool {
        self.get(feature).is_some_and(Ability::is_available)
    }

    /// The answers as text for people: one line for each feature that is there, then the others, those with the same reason
    /// together.
    pub fn features(&self) -> impl fmt::Display {
        Features(self)
    }

    /// Insists on it.
    ///
    /// # Errors
    /// `Unsupported` where it can't be had, with the same reason and remedy ([`Error::missing`]) that the operation
    /// which needs it would fail with.
    pub fn require(&self, feature: Feature) -> Result<()> {
        match self.get(feature).and_then(Ability::missing) {
            Some(missing) => {
                let what = format!("this host does not offer {feature}");
                Err(Error::new(ErrorKind::Unsupported, what).lacks(missing.clone()))
            }
            None => Ok(()),
        }
    }
}

impl<'a> IntoIterator for &'a Host {
    type Item = &'a Ability;
    type IntoIter = std::slice::Iter<'a, Ability>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Host {
    /// One line about the host, then its [`features`](Self::features).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {} on {}, user {}, ", self.kernel, self.machine, self.user)?;
        match &self.container {
            Some(container) => write!(f, "in a container ({container}), ")?,
            None => write!(f, "in no container, ")?,
        }
        writeln!(f, "control groups: {}, store: {}", self.cgroups, self.store.display())?;
        self.features().fmt(f)
    }
}

struct Features<'a>(&'a Host);

impl fmt::Display for Features<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ability in self.0 {
            if ability.is_available() {
                writeln!(f, "{ability}")?;
            }
        }
        // Often one lack has many consequences: it is told once.
        let mut told: Vec<(&str, &str)> = Vec::new();
        let all = || self.0.iter().filter_map(Ability::missing);
        for missing in all() {
            let words = (missing.reason(), missing.remedy());
            if told.contains(&words) {
                continue;
            }
            told.push(words);
            let same = all().filter(|other| (other.reason(), other.remedy()) == words);
            let features: Vec<_> = same.map(|other| other.feature().to_string()).collect();
            writeln!(f, "no   {}: {missing}", features.join(", "))?;
        }
        Ok(())
    }
}

/// What is answered by plans, all at once.
fn with_warden(warden: &Arc<Warden>, store: &Path, groups: Option<&groups::Groups>) -> Vec<Ability> {
    let place = existing(store);
    let mut attempts: Vec<Attempt> = plans::ALL
        .into_iter()
        .map(|feature| Attempt::start(warden, feature, |s, result| plans::write(s, warden, feature, result)))
        .collect();
    let userns = plans::for_mounts(warden);
    for feature in plans::MAPPED {
        attempts.push(match &userns {
            Ok(userns) => Attempt::start(warden, feature, |s, _| {
                plans::mapped(s, feature, userns.as_fd(), place);
                Ok(())
            }),
            Err(missing) => Attempt::known(feature, missing.clone()),
        });
    }
    attempts.push(match groups.map(groups::Groups::v2_dir) {
        Some(Ok(dir)) => Attempt::start(warden, Feature::CloneIntoCgroup, |s, _| {
            plans::into_cgroup(s, dir);
            Ok(())
        }),
        Some(Err(missing)) => Attempt::known(Feature::CloneIntoCgroup, missing),
        None => Attempt::known(Feature::CloneIntoCgroup, words::NO_UNIFIED.of(Feature::Cgroup)),
    });
    let mut abilities: Vec<_> = attempts.into_iter().map(Attempt::finish).collect();
    abilities.push(Ability::new(Feature::SubIds, sub_ids(warden).map_err(|missing| (missing, None))));
    abilities
}

/// What is known without: the warden's own lack is one of everything that it makes.
fn without_warden(error: Error) -> Vec<Ability> {
    let features =
        plans::ALL.into_iter().chain(plans::MAPPED).chain([Feature::CloneIntoCgroup, Feature::SubIds]);
    let own = error.missing().map_or(Feature::UserNamespace, Missing::feature);
    let (why, detail) = error.into_missing(own, words::REFUSED.remedy);
    features
        .map(|feature| {
            let missing = if feature == own { why.clone() } else { words::no_warden(feature, &why) };
            Ability::new(feature, Err((missing, detail.clone())))
        })
        .collect()
}

fn privileges() -> Result<Option<String>, Missing> {
    let feature = Feature::Privileges;
    let user = rustix::process::geteuid();
    if !user.is_root() {
        return Err(words::unprivileged(feature, user.as_raw()));
    }
    match &*diagnose::lacking() {
        [] => Ok(None),
        lacking => Err(words::capabilities(feature, lacking)),
    }
}

fn sub_ids(warden: &Warden) -> Result<Option<String>, Missing> {
    match (warden.single(), warden.map()) {
        (Some(why), _) => Err(why.clone()),
        (None, Some(map)) => {
            let count = |extents: &[idmap::Extent]| extents.iter().map(|e| u64::from(e.count)).sum::<u64>();
            Ok(Some(format!("{} users, {} groups", count(&map.users), count(&map.groups))))
        }
        (None, None) => Ok(Some("root has all ids".into())),
    }
}

fn project_quota(store: &Path) -> Result<Option<String>, Missing> {
    let feature = Feature::ProjectQuota;
    if !idmap::is_privileged() {
        return Err(words::QUOTAS_ARE_ROOTS.of(feature));
    }
    let place = std::fs::File::open(existing(store));
    match place.map(|place| quota::enforced(place.as_fd())) {
        Ok(Ok(true)) => Ok(None),
        _ => Err(words::NO_QUOTAS.of(feature)),
    }
}

/// The filesystem that a directory will be on.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"))
}
