//! What may be asked of a control group, and how much each demand is insisted upon.
#![forbid(unsafe_code)]

use super::devices::{self, DeviceRule};
use super::io::IoMax;
use crate::error::{Error, ErrorKind, Result};
use crate::feature::Feature;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How much a demand is insisted upon.
#[derive(serde::Serialize, serde::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Requirement {
    /// It is enforced, or there is an error and no container.
    #[default]
    Required,
    /// It is enforced where it can be; the [`Report`](super::Report) says what became of it.
    BestEffort,
}

/// One kind of limit.
#[derive(serde::Serialize, serde::Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LimitKind {
    /// [`Limits::memory_max`]
    MemoryMax,
    /// [`Limits::memory_swap_max`]
    MemorySwapMax,
    /// [`Limits::memory_high`]
    MemoryHigh,
    /// [`Limits::memory_reservation`]
    MemoryReservation,
    /// [`Limits::cpus`], [`Limits::cpu_quota`]
    CpuMax,
    /// [`Limits::cpu_weight`], [`Limits::cpu_shares`]
    CpuWeight,
    /// [`Limits::cpuset_cpus`]
    CpusetCpus,
    /// [`Limits::cpuset_mems`]
    CpusetMems,
    /// [`Limits::pids_max`]
    PidsMax,
    /// [`Limits::io_weight`]
    IoWeight,
    /// [`Limits::io_max`]
    IoMax,
    /// [`Limits::hugetlb_max`]
    HugetlbMax,
    /// [`Limits::devices`]
    Devices,
}

impl LimitKind {
    /// In the order in which they are written: memory before memory and swap.
    pub(crate) const ALL: [LimitKind; 13] = [
        LimitKind::MemoryMax,
        LimitKind::MemorySwapMax,
        LimitKind::MemoryHigh,
        LimitKind::MemoryReservation,
        LimitKind::CpuMax,
        LimitKind::CpuWeight,
        LimitKind::CpusetCpus,
        LimitKind::CpusetMems,
        LimitKind::PidsMax,
        LimitKind::IoWeight,
        LimitKind::IoMax,
        LimitKind::HugetlbMax,
        LimitKind::Devices,
    ];

    /// The name: that of the method which sets it.
    pub fn name(self) -> &'static str {
        match self {
            LimitKind::MemoryMax => "memory_max",
            LimitKind::MemorySwapMax => "memory_swap_max",
            LimitKind::MemoryHigh => "memory_high",
            LimitKind::MemoryReservation => "memory_reservation",
            LimitKind::CpuMax => "cpu_max",
            LimitKind::CpuWeight => "cpu_weight",
            LimitKind::CpusetCpus => "cpuset_cpus",
            LimitKind::CpusetMems => "cpuset_mems",
            LimitKind::PidsMax => "pids_max",
            LimitKind::IoWeight => "io_weight",
            LimitKind::IoMax => "io_max",
            LimitKind::HugetlbMax => "hugetlb_max",
            LimitKind::Devices => "device_rules",
        }
    }

    /// What a host lacks that can't give it.
    pub(super) fn feature(self) -> Feature {
        match self {
            LimitKind::MemoryMax | LimitKind::MemoryReservation => Feature::MemoryLimit,
            LimitKind::MemorySwapMax => Feature::SwapLimit,
            LimitKind::MemoryHigh => Feature::MemoryHigh,
            LimitKind::CpuMax | LimitKind::CpuWeight => Feature::CpuLimit,
            LimitKind::CpusetCpus | LimitKind::CpusetMems => Feature::CpusetLimit,
            LimitKind::PidsMax => Feature::PidsLimit,
            LimitKind::IoWeight => Feature::IoWeight,
            LimitKind::IoMax => Feature::IoLimit,
            LimitKind::HugetlbMax => Feature::HugetlbLimit,
            LimitKind::Devices => Feature::DeviceRules,
        }
    }

    /// The kernel's v1 controller that enforces it.
    pub(super) fn v1_controller(self) -> &'static str {
        match self {
            LimitKind::MemoryMax
            | LimitKind::MemorySwapMax
            | LimitKind::MemoryHigh
            | LimitKind::MemoryReservation => "memory",
            LimitKind::CpuMax | LimitKind::CpuWeight => "cpu",
            LimitKind::CpusetCpus | LimitKind::CpusetMems => "cpuset",
            LimitKind::PidsMax => "pids",
            LimitKind::IoWeight | LimitKind::IoMax => "blkio",
            LimitKind::HugetlbMax => "hugetlb",
            LimitKind::Devices => "devices",
        }
    }

    /// The same on v2; `None` where it takes none: devices are a program's matter there.
    pub(super) fn v2_controller(self) -> Option<&'static str> {
        match self.v1_controller() {
            "devices" => None,
            "blkio" => Some("io"),
            other => Some(other),
        }
    }
}

impl AsRef<str> for LimitKind {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

/// Limits for the processes of a control group. Nothing is limited until it is said.
///
/// Every limit is [`Requirement::Required`] unless [`best_effort`](Self::best_effort) says otherwise.
///
/// ```
/// use coracle::{LimitKind, Limits};
/// let limits = Limits::new().memory_max(64 << 20).cpus(0.5).pids_max(64).best_effort(LimitKind::CpuMax);
/// ```
#[derive(serde::Serialize, serde::Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Limits {
    pub(super) memory_max: Option<u64>,
    pub(super) memory_swap_max: Option<u64>,
    pub(super) memory_high: Option<u64>,
    pub(super) memory_reservation: Option<u64>,
    pub(super) cpu_max: Option<CpuMax>,
    pub(super) cpu_weight: Option<u64>,
    pub(super) cpuset_cpus: Option<String>,
    pub(super) cpuset_mems: Option<String>,
    pub(super) pids_max: Option<u64>,
    pub(super) io_weight: Option<u64>,
    pub(super) io_max: Vec<IoMax>,
    /// By the size of a page in bytes.
    pub(super) hugetlb_max: BTreeMap<u64, u64>,
    pub(super) devices: Option<Vec<DeviceRule>>,
    best_effort: BTreeSet<LimitKind>,
}

/// So many microseconds of processor time in each period.
#[derive(serde::Serialize, serde::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CpuMax {
    pub(super) quota: u64,
    pub(super) period: u64,
}

impl Limits {
    /// For [`memory_swap_max`](Self::memory_swap_max): as much swap as the machine has.
    pub const UNLIMITED: u64 = u64::MAX;

    /// No limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Memory in bytes, the page cache included. More than that gets the group's processes killed. The kernel
    /// rounds down to pages. Where [`memory_swap_max`](Self::memory_swap_max) was equal, which means no swap, it stays so.
    #[must_use]
    pub fn memory_max(mut self, bytes: u64) -> Self {
        if self.memory_max.is_some() && self.memory_max == self.memory_swap_max {
            self.memory_swap_max = Some(bytes);
        }
        self.memory_max = Some(bytes);
        self
    }

    /// Memory *and* swap together in bytes, as Docker's `--memory-swap` and the OCI runtime specification have
    /// it: equal to `memory_max` means no swap. Needs [`memory_max`](Self::memory_max). [`Self::UNLIMITED`] takes
    /// the limit off. Left unsaid, swap is not limited.
    #[must_use]
    pub fn memory_swap_max(mut self, bytes: u64) -> Self {
        self.memory_swap_max = Some(bytes);
        self
    }

    /// Memory in bytes above which the group is slowed down rather than killed. Cgroup v2 only: the soft limit of
    /// v1 does nothing until the whole machine runs short, see [`memory_reservation`](Self::memory_reservation).
    #[must_use]
    pub fn memory_high(mut self, bytes: u64) -> Self {
        self.memory_high = Some(bytes);
        self
    }

    /// Memory in bytes that is left to the group when the machine runs short, as far as that can be done: Docker's
    /// `--memory-reservation`. Cgroup v2 reclaims from others first (`memory.low`), v1 from the groups that are over
    /// theirs (`memory.soft_limit_in_bytes`).
    #[must_use]
    pub fn memory_reservation(mut self, bytes: u64) -> Self {
        self.memory_reservation = Some(bytes);
        self
    }

    /// So many processors' worth of time, 0.01 and up: `cpus(0.5)` is 50 ms in every 100 ms.
    #[must_use]
    pub fn cpus(self, cpus: f64) -> Self {
        // What is no number, or negative, becomes 0, which `validate` refuses.
        self.cpu_quota(Duration::from_micros((cpus * 100_000.0).round() as u64), Duration::from_millis(100))
    }

    /// Processor time in each period; the period is 1 ms to 1 s, the quota 1 ms and up.
    #[must_use]
    pub fn cpu_quota(mut self, quota: Duration, period: Duration) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.cpu_max = Some(CpuMax { quota: micros(quota), period: micros(period) });
        self
    }

    /// The share against the neighbours when processors are short, 1 to 10000, 100 being what everyone has.
    ///
    /// On cgroup v1 it is written as shares, 1024 for 100, so that the proportions stay what they are.
    #[must_use]
    pub fn cpu_weight(mut self, weight: u64) -> Self {
        self.cpu_weight = Some(weight);
        self
    }

    /// The same in Docker's `--cpu-shares`, 2 to 262144, 1024 being what everyone has; it becomes the nearest
    /// weight.
    #[must_use]
    pub fn cpu_shares(self, shares: u64) -> Self {
        self.cpu_weight(weight_of_shares(shares))
    }

    /// The processors that may be used: `0-2,5`.
    #[must_use]
    pub fn cpuset_cpus(mut self, cpus: impl Into<String>) -> Self {
        self.cpuset_cpus = Some(cpus.into());
        self
    }

    /// The memory nodes that may be used: `0`.
    #[must_use]
    pub fn cpuset_mems(mut self, mems: impl Into<String>) -> Self {
        self.cpuset_mems = Some(mems.into());
        self
    }

    /// How many processes and threads there may be at once; `fork` and `clone` fail with EAGAIN beyond.
    #[must_use]
    pub fn pids_max(mut self, pids: u64) -> Self {
        self.pids_max = Some(pids);
        self
    }

    /// The share of disk time against the neighbours, 1 to 10000, 100 being what everyone has.
    ///
    /// It has an effect only on disks whose scheduler is bfq, which takes 1000 at most, or on v2 for which the model of
    /// costs is on (`io.cost.qos`): where none is such, it can't be had.
    #[must_use]
    pub fn io_weight(mut self, weight: u64) -> Self {
        self.io_weight = Some(weight);
        self
    }

    /// How fast a disk may be read and written. For several disks it is called several times; of two for the same one the
    /// last one holds. See [`IoMax`] for what is counted.
    #[must_use]
    pub fn io_max(mut self, max: IoMax) -> Self {
        self.io_max.retain(|other| other.device() != max.device());
        self.io_max.push(max);
        self
    }

    /// Huge pages of one size, in bytes: `hugetlb_max(2 << 20, 64 << 20)` is 32 pages of 2 MiB. Both what is reserved by
    /// mmap(2), which fails with ENOMEM beyond, and what is touched. It must be whole pages.
    #[must_use]
    pub fn hugetlb_max(mut self, page_size: u64, bytes: u64) -> Self {
        self.hugetlb_max.insert(page_size, bytes);
        self
    }

    /// The devices that may be opened and made; all others are refused with EPERM. A container has its own and those
    /// given to it besides. Called again, it adds.
    ///
    /// As root only: v1 has files for it, v2 takes a program that is loaded into the kernel. Containers can reach no
    /// other devices than their own and those given in any case, as they may not make nodes and every mount of theirs is
    /// one on which nodes can't be opened (`MS_NODEV`). This is a second wall, and the only one for a [`Cgroup`](super::Cgroup) alone.
    #[must_use]
    pub fn devices(mut self, rules: impl IntoIterator<Item = DeviceRule>) -> Self {
        self.devices.get_or_insert_default().extend(rules);
        self
    }

    /// Marks a limit as [`Requirement::BestEffort`].
    #[must_use]
    pub fn best_effort(self, kind: LimitKind) -> Self {
        self.requirement(kind, Requirement::BestEffort)
    }

    /// Says how much a limit is insisted upon.
    #[must_use]
    pub fn requirement(mut self, kind: LimitKind, requirement: Requirement) -> Self {
        match requirement {
            Requirement::Required => self.best_effort.remove(&kind),
            Requirement::BestEffort => self.best_effort.insert(kind),
        };
        self
    }

    /// How much a limit is insisted upon.
    pub fn requirement_of(&self, kind: LimitKind) -> Requirement {
        if self.best_effort.contains(&kind) { Requirement::BestEffort } else { Requirement::Required }
    }

    /// The limits that were asked for.
    pub fn kinds(&self) -> impl Iterator<Item = LimitKind> {
        LimitKind::ALL.into_iter().filter(|kind| self.asked(*kind).is_some())
    }

    /// What was asked, as text for a report; `None` where nothing was.
    pub(crate) fn asked(&self, kind: LimitKind) -> Option<String> {
        match kind {
            LimitKind::MemoryMax => self.memory_max.map(|bytes| bytes.to_string()),
            LimitKind::MemorySwapMax => self.memory_swap_max.map(|bytes| match bytes {
                Self::UNLIMITED => "unlimited".to_owned(),
                bytes => bytes.to_string(),
            }),
            LimitKind::MemoryHigh => self.memory_high.map(|bytes| bytes.to_string()),
            LimitKind::MemoryReservation => self.memory_reservation.map(|bytes| bytes.to_string()),
            LimitKind::CpuMax => self.cpu_max.map(|max| format!("{} {}", max.quota, max.period)),
            LimitKind::CpuWeight => self.cpu_weight.map(|weight| weight.to_string()),
            LimitKind::CpusetCpus => self.cpuset_cpus.clone(),
            LimitKind::CpusetMems => self.cpuset_mems.clone(),
            LimitKind::PidsMax => self.pids_max.map(|pids| pids.to_string()),
            LimitKind::IoWeight => self.io_weight.map(|weight| weight.to_string()),
            LimitKind::IoMax => listed(&self.io_max),
            LimitKind::HugetlbMax => {
                let one = |(size, bytes): (&u64, &u64)| format!("{bytes} in pages of {size}");
                listed(&self.hugetlb_max.iter().map(one).collect::<Vec<_>>())
            }
            LimitKind::Devices => self.devices.as_ref().map(|rules| match listed(rules) {
                Some(text) => text,
                None => "none".to_owned(),
            }),
        }
    }

    /// Refuses values that no kernel takes, whatever their requirement: they are mistakes.
    pub(crate) fn validate(&self) -> Result<()> {
        let bad = |kind: LimitKind, why: &str| {
            let asked = self.asked(kind).unwrap_or_default();
            Err(Error::new(ErrorKind::InvalidInput, format!("{} {asked:.80}: {why}", kind.name())))
        };
        let page = rustix::param::page_size() as u64;
        for (kind, bytes) in [
            (LimitKind::MemoryMax, self.memory_max),
            (LimitKind::MemoryHigh, self.memory_high),
            (LimitKind::MemoryReservation, self.memory_reservation),
        ] {
            if bytes.is_some_and(|bytes| bytes < page || bytes > i64::MAX as u64) {
                return bad(kind, "not between one page and 2^63 bytes");
            }
        }
        match (self.memory_swap_max, self.memory_max) {
            (Some(Self::UNLIMITED) | None, _) => {}
            (Some(_), None) => return bad(LimitKind::MemorySwapMax, "it needs memory_max beside it"),
            (Some(total), Some(memory)) if total < memory || total > i64::MAX as u64 => {
                return bad(LimitKind::MemorySwapMax, "memory and swap together are less than memory_max");
            }
            _ => {}
        }
        if let Some(CpuMax { quota, period }) = self.cpu_max {
            if !(1_000..=1_000_000).contains(&period) {
                return bad(LimitKind::CpuMax, "the period is not between 1 ms and 1 s");
            }
            if !(1_000..=1_000_000_000_000).contains(&quota) {
                return bad(LimitKind::CpuMax, "the quota is not 1 ms of each period at least");
            }
        }
        if self.cpu_weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
            return bad(LimitKind::CpuWeight, "not between 1 and 10000");
        }
        for (kind, list) in
            [(LimitKind::CpusetCpus, &self.cpuset_cpus), (LimitKind::CpusetMems, &self.cpuset_mems)]
        {
            if list.as_ref().is_some_and(|list| parse_list(list).is_none_or(|set| set.is_empty())) {
                return bad(kind, "not a list like 0-2,5");
            }
        }
        // PID_MAX_LIMIT: the kernel takes no more.
        if self.pids_max.is_some_and(|pids| !(1..=4_194_304).contains(&pids)) {
            return bad(LimitKind::PidsMax, "not between 1 and 4194304");
        }
        if self.io_weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
            return bad(LimitKind::IoWeight, "not between 1 and 10000");
        }
        for max in &self.io_max {
            max.validate()?;
        }
        for (size, bytes) in &self.hugetlb_max {
            if !size.is_power_of_two() || *size < page || bytes % size != 0 || *bytes > i64::MAX as u64 {
                return bad(LimitKind::HugetlbMax, "not a power of two and whole pages of that size");
            }
        }
        if self.devices.as_ref().is_some_and(|rules| rules.len() > devices::RULES_MAX) {
            return bad(LimitKind::Devices, "too many rules");
        }
        if self.devices.iter().flatten().any(|rule| !rule.allows_something()) {
            return bad(LimitKind::Devices, "a rule without rights allows nothing: leave it out");
        }
        Ok(())
    }
}

/// As one line of a report; `None` of nothing.
fn listed(values: &[impl ToString]) -> Option<String> {
    let all: Vec<_> = values.iter().map(ToString::to_string).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// Both scales are relative, so the proportion is kept and the defaults meet: weight 100 is 1024 shares.
#[cfg(any(feature = "cgroups", test))]
pub(super) fn shares_of_weight(weight: u64) -> u64 {
    (weight.saturating_mul(1024).saturating_add(50) / 100).clamp(2, 262_144)
}

/// The other way round, to the nearest weight.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    (shares.saturating_mul(100).saturating_add(512) / 1024).clamp(1, 10_000)
}

/// A list as the kernel writes it (`0-2,5`); `None` where it is none.
pub(super) fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    // NR_CPUS and MAX_NUMNODES stay below.
    const MOST: u32 = 65_535;
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u32>().ok().filter(|n| *n <= MOST),
        false => None,
    };
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return None;
                }
                set.extend(first..=last);
            }
            None => {
                set.insert(number(part)?);
            }
        }
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_no_kernel_takes() {
        let bad = |limits: Limits| assert_eq!(limits.validate().unwrap_err().kind(), ErrorKind::InvalidInput);
        let new = Limits::new;
        new().validate().unwrap();
        bad(new().memory_max(0));
        bad(new().memory_max(u64::MAX));
        bad(new().memory_swap_max(1 << 20));
        bad(new().memory_max(2 << 20).memory_swap_max(1 << 20));
        new().memory_max(2 << 20).memory_swap_max(Limits::UNLIMITED).validate().unwrap();
        new().memory_max(2 << 20).memory_swap_max(2 << 20).validate().unwrap();
        let raised = new().memory_max(2 << 20).memory_swap_max(2 << 20).memory_max(4 << 20);
        assert_eq!(raised, new().memory_max(4 << 20).memory_swap_max(4 << 20), "no swap stays no swap");
        for cpus in [0.0, -1.0, f64::NAN, f64::INFINITY, 0.001] {
            bad(new().cpus(cpus));
        }
        new().cpus(0.01).validate().unwrap();
        bad(new().cpu_quota(Duration::from_millis(1), Duration::from_secs(2)));
        bad(new().cpu_weight(0));
        bad(new().cpu_weight(10_001));
        bad(new().pids_max(0));
        bad(new().cpuset_cpus(""));
        bad(new().cpuset_cpus("0,,1"));
        bad(new().cpuset_mems("1-0"));
        bad(new().memory_reservation(1));
        bad(new().io_weight(0));
        bad(new().io_weight(10_001));
        bad(new().io_max(IoMax::new("/dev/sda")));
        bad(new().io_max(IoMax::new("/dev/sda").read_bps(0)));
        new().io_max(IoMax::new("/dev/sda").read_bps(1)).validate().unwrap();
        bad(new().hugetlb_max(3 << 20, 6 << 20));
        bad(new().hugetlb_max(2 << 20, 3 << 20));
        new().hugetlb_max(2 << 20, 0).validate().unwrap();
        bad(new().devices(vec![DeviceRule::any(); devices::RULES_MAX + 1]));
        bad(new().devices([DeviceRule::any(), DeviceRule::char(1, 3).access(false, false, false)]));
        // A mistake stays one where it is only best effort.
        bad(new().pids_max(0).best_effort(LimitKind::PidsMax));
    }

    #[test]
    fn weights_and_shares_keep_proportions() {
        assert_eq!((shares_of_weight(100), weight_of_shares(1024)), (1024, 100));
        assert_eq!((shares_of_weight(1), shares_of_weight(10_000)), (10, 102_400));
        assert_eq!(
            (weight_of_shares(2), weight_of_shares(262_144), weight_of_shares(u64::MAX)),
            (1, 10_000, 10_000)
        );
        for weight in 1..=10_000 {
            assert_eq!(weight_of_shares(shares_of_weight(weight)), weight);
        }
    }

    #[test]
    fn lists() {
        let list = |text| parse_list(text).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(list("5,0-1,1"), Some(vec![0, 1, 5]));
        assert_eq!(list(""), Some(vec![]));
        for bad in ["a", "1-", "-1", "2-1", "1,", "0-99999999999", "+1", " 1"] {
            assert_eq!(list(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn knows_what_was_asked_and_how_hard() {
        let limits = Limits::new().pids_max(9).cpus(1.5).best_effort(LimitKind::CpuMax);
        assert_eq!(limits.kinds().collect::<Vec<_>>(), [LimitKind::CpuMax, LimitKind::PidsMax]);
        assert_eq!(limits.asked(LimitKind::CpuMax).unwrap(), "150000 100000");
        assert_eq!(limits.requirement_of(LimitKind::CpuMax), Requirement::BestEffort);
        assert_eq!(limits.requirement_of(LimitKind::PidsMax), Requirement::Required);
        let limits = Limits::new()
            .io_max(IoMax::new("/dev/sda").read_bps(5))
            .io_max(IoMax::new("/dev/sda").write_iops(7))
            .io_max(IoMax::new("/dev/sdb").read_bps(5))
            .devices([]);
        assert_eq!(limits.asked(LimitKind::IoMax).unwrap(), "/dev/sda wiops=7, /dev/sdb rbps=5");
        assert_eq!(limits.asked(LimitKind::Devices).unwrap(), "none", "no device at all is a limit, too");
        assert_eq!(limits.asked(LimitKind::HugetlbMax), None);
    }

    /// What an earlier version wrote down had fewer limits.
    #[test]
    fn reads_a_record_without_the_newer_limits() {
        let limits: Limits =
            serde_json::from_str(r#"{"memory_max":4096,"best_effort":["MemoryMax"]}"#).unwrap();
        assert_eq!(limits, Limits::new().memory_max(4096).best_effort(LimitKind::MemoryMax));
        let all = limits.hugetlb_max(2 << 20, 0).devices([DeviceRule::any()]).io_max(IoMax::new("/dev/x"));
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), all);
    }
}
