//! What holds a container to its limits: a control group, or a fence of processes; and the bound of its writable layer.
#![forbid(unsafe_code)]

use super::protection::Protection;
use super::record::Dir;
use super::spec::Spec;
use super::{Held, devices, quota};
use crate::cgroup::{Cgroup, LimitKind, Limits, Origin, Outcome, Report, Requirement};
use crate::error::{Error, ErrorKind, Result};
use crate::namespace::Fence;
use crate::store::Store;
use crate::sys::idmap::is_privileged;
use crate::sys::warden::Warden;

/// Processes of a container, unless the builder says otherwise.
const PIDS_MAX: u64 = 2048;

/// What holds the container to its limits, as far as it can be had.
pub(super) struct Bounds {
    pub cgroup: Option<Cgroup>,
    pub report: Report,
    /// Of processes, without a control group.
    pub fence: Option<Fence>,
}

/// The control group, where one can be had. The default limit on processes is only a best effort.
pub(super) fn bounds(
    store: &Store,
    id: &str,
    spec: &Spec,
    devices: &[devices::Planned],
    warden: &Warden,
) -> Result<Bounds> {
    let mut limits: Limits = spec.limits.clone();
    if limits.kinds().any(|kind| kind == LimitKind::Devices) {
        limits = limits.devices(devices::rules(devices));
    }
    let is_asked = |limits: &Limits, kind| limits.requirement_of(kind) == Requirement::Required;
    if !spec.pids_unlimited && !limits.kinds().any(|kind| kind == LimitKind::PidsMax) {
        limits = limits.pids_max(PIDS_MAX).best_effort(LimitKind::PidsMax);
    }
    // Who insists upon the default one asks for it, too.
    let insisted = (Protection::from(LimitKind::PidsMax), Requirement::Required);
    let pids_asked = is_asked(&limits, LimitKind::PidsMax) || spec.levels.contains(&insisted);
    // The fence is another way to it; in a build without limits whoever asks for one is to know that.
    let limits = match cfg!(feature = "cgroups") {
        true => limits.best_effort(LimitKind::PidsMax),
        false => limits,
    };
    let asked = limits.kinds().any(|kind| is_asked(&limits, kind));
    let origin = Origin { pid: &|| warden.pid(), scope: &warden.scope };
    let (cgroup, mut report) = match store.cgroups()?.create_for(origin, id, &limits) {
        Ok(mut cgroup) => {
            cgroup.leave_to(store.heir_of_group());
            let report = cgroup.report().clone();
            (Some(cgroup), report)
        }
        // Neither says what can be had here.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::AlreadyExists) => {
            return Err(error);
        }
        Err(error) if asked => {
            let first = limits.kinds().find(|kind| is_asked(&limits, *kind));
            return Err(match first {
                Some(kind) => error.with_protection(kind.name()),
                None => error,
            });
        }
        Err(error) => (None, Report::none(&limits, &error.to_string())),
    };
    let why = match report.get("pids_max").map(|entry| entry.outcome()) {
        Some(Outcome::NotEnforced(why)) if cfg!(feature = "cgroups") => why.clone(),
        _ => return Ok(Bounds { cgroup, report, fence: None }),
    };
    let pids = limits.asked(LimitKind::PidsMax).and_then(|pids| pids.parse().ok()).unwrap_or(PIDS_MAX);
    match Fence::new(pids) {
        Ok(fence) => {
            let how = match is_privileged() {
                true => "by RLIMIT_NPROC: no control group for it can be had",
                false => {
                    "by RLIMIT_NPROC: no control group for it can be had; they count on this user's own limit, too"
                }
            };
            report.amend("pids_max", Outcome::Enforced(format!("{}, {how}", fence.max)));
            Ok(Bounds { cgroup, report, fence: Some(fence) })
        }
        Err(error) if pids_asked => {
            Err(error.during("setting the limit pids_max").with_protection("pids_max"))
        }
        Err(error) => {
            report.amend("pids_max", Outcome::NotEnforced(format!("{why}; {error}")));
            Ok(Bounds { cgroup, report, fence: None })
        }
    }
}

/// The bound of a writable layer on disk.
pub(super) enum DiskBound {
    NotAsked,
    Project {
        number: u32,
        bytes: u64,
    },
    /// It can't be enforced, which is allowed.
    Lacking {
        bytes: u64,
        why: Error,
    },
}

impl DiskBound {
    /// As the record asks for it.
    pub fn of(store: &Store, held: &mut Held) -> Result<Self> {
        let spec = &held.record.spec;
        let Some(bytes) = spec.disk_max.filter(|_| !spec.in_memory) else { return Ok(Self::NotAsked) };
        let may_lack = spec.is_best_effort(Protection::DiskMax);
        match quota::bound(store, held, bytes) {
            Ok(number) => Ok(Self::Project { number, bytes }),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let why = error.with_protection(Protection::DiskMax.name());
                if may_lack { Ok(Self::Lacking { bytes, why }) } else { Err(why) }
            }
            Err(error) => Err(error),
        }
    }

    /// Puts the layer's directories under it.
    pub fn apply(self, store: &Store, dir: &Dir, report: &mut Report) -> Result<()> {
        match self {
            Self::NotAsked => {}
            Self::Project { number, bytes } => quota::count(store, dir, number, bytes, report)?,
            Self::Lacking { bytes, why } => {
                let outcome = Outcome::NotEnforced(why.to_string());
                report.push(Protection::DiskMax.name(), bytes.to_string(), outcome);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(feature = "cgroups"))]
mod tests {
    use super::*;
    use crate::image::Image;

    /// Whoever asks a build without them for a limit is told what is missing; who doesn't has a line in the report.
    #[test]
    fn limits_without_the_feature_say_so() {
        let image = Image::host(&Store::temp().unwrap()).unwrap();
        let plain = super::super::Container::builder(&image).command(["echo", "ran"]);
        let says_so = |why: &str| why.contains("`cgroups`");
        for (kind, limited) in [
            (LimitKind::MemoryMax, plain.clone().memory_max(64 << 20)),
            (LimitKind::CpuMax, plain.clone().cpus(0.5)),
            (LimitKind::PidsMax, plain.clone().pids_max(50)),
        ] {
            let error = limited.run().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert_eq!(error.protection(), Some(kind.name()), "{error}");
            assert!(error.remedy().is_some_and(says_so), "{error}");
            let out = limited.best_effort(kind).run().unwrap();
            assert_eq!(out.stdout, b"ran\n");
            let outcome = out.report.get(kind.name()).unwrap().outcome();
            assert!(matches!(outcome, Outcome::NotEnforced(why) if says_so(why)), "{outcome:?}");
        }
        let out = plain.run().unwrap();
        let outcome = out.report.get("pids_max").unwrap().outcome();
        assert!(matches!(outcome, Outcome::NotEnforced(why) if says_so(why)), "{outcome:?}");
    }
}
