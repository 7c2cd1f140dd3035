//! The flags of `run` and `create` that limit: docker's, with docker's defaults.
#![forbid(unsafe_code)]

use crate::args::{Args, parse};
use crate::fail::{Result, usage};
use crate::format::bytes;
use coracle::{DeviceRule, IoMax, LimitKind, Limits};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the flags say, over the limits of a profile.
pub fn all(mut limits: Limits, args: &Args) -> Result<Limits> {
    limits = memory(limits, args)?;
    limits = processors(limits, args)?;
    limits = disks(limits, args)?;
    let rules = args.all("device-cgroup-rule")?;
    if !rules.is_empty() {
        let rules: std::result::Result<Vec<DeviceRule>, _> = rules.into_iter().map(str::parse).collect();
        limits = limits.devices(rules?);
    }
    match args.number::<i64>("pids-limit")? {
        // As many as the kernel has numbers for.
        Some(-1 | 0) => limits = limits.pids_max(4_194_304),
        Some(pids) => {
            let pids =
                pids.try_into().map_err(|_| usage(format!("invalid argument {pids} for --pids-limit")))?;
            limits = limits.pids_max(pids);
        }
        None => {}
    }
    Ok(limits)
}

fn has(limits: &Limits, kind: LimitKind) -> bool {
    limits.kinds().any(|known| known == kind)
}

/// For docker, 0 is unset: here a profile's own limit stays then.
fn size(args: &Args, name: &str) -> Result<Option<u64>> {
    Ok(args.get(name)?.map(|text| bytes(name, text)).transpose()?.filter(|bytes| *bytes != 0))
}

/// Docker's documentation, "--memory-swap details", and what its daemon refuses: a limit of both without one of memory.
fn memory(mut limits: Limits, args: &Args) -> Result<Limits> {
    let bounds_swap = has(&limits, LimitKind::MemorySwapMax);
    let memory = size(args, "memory")?;
    if let Some(bytes) = memory {
        limits = limits.memory_max(bytes);
    }
    if let Some(bytes) = size(args, "memory-reservation")? {
        limits = limits.memory_reservation(bytes);
    }
    let swap = match args.get("memory-swap")? {
        Some("-1") => Some(Limits::UNLIMITED),
        _ => size(args, "memory-swap")?,
    };
    Ok(match (swap, memory) {
        // Nothing limits it.
        (Some(Limits::UNLIMITED), _) if !has(&limits, LimitKind::MemoryMax) => limits,
        (Some(_), _) if !has(&limits, LimitKind::MemoryMax) => {
            return Err(usage("--memory-swap is memory and swap together: give --memory too"));
        }
        // Where nothing counts swap, nothing limits it either.
        (Some(Limits::UNLIMITED), _) => {
            limits.memory_swap_max(Limits::UNLIMITED).best_effort(LimitKind::MemorySwapMax)
        }
        (Some(total), _) => limits.memory_swap_max(total),
        // As much swap as memory, where swap is counted. A profile that bounds swap has decided it.
        (None, Some(memory)) if !bounds_swap => {
            let total = memory.saturating_mul(2).min(i64::MAX as u64);
            limits.memory_swap_max(total).best_effort(LimitKind::MemorySwapMax)
        }
        (None, _) => limits,
    })
}

fn processors(mut limits: Limits, args: &Args) -> Result<Limits> {
    // For docker, 0 is unset.
    let period = args.number("cpu-period")?.filter(|period| *period != 0);
    let quota = args.number::<i64>("cpu-quota")?.filter(|quota| *quota != 0);
    if let Some(cpus) = args.number::<f64>("cpus")?.filter(|cpus| *cpus != 0.0) {
        if quota.is_some() || period.is_some() {
            return Err(usage("--cpus says the same as --cpu-quota and --cpu-period: give one of them"));
        }
        limits = limits.cpus(cpus);
    }
    match (quota, period) {
        (Some(quota @ 1..), period) => {
            let period = Duration::from_micros(period.unwrap_or(100_000));
            limits = limits.cpu_quota(Duration::from_micros(quota.unsigned_abs()), period);
        }
        (Some(quota @ ..=-2), _) => {
            return Err(usage(format!("invalid argument {quota} for --cpu-quota")));
        }
        (_, Some(_)) => return Err(usage("--cpu-period alone limits nothing: give --cpu-quota too")),
        (Some(_), None) if has(&limits, LimitKind::CpuMax) => {
            return Err(usage(
                "--cpu-quota: the profile limits processors: give a larger limit, or no profile",
            ));
        }
        // -1 is no limit.
        (_, None) => {}
    }
    if let Some(shares) = args.number("cpu-shares")?.filter(|shares| *shares != 0) {
        limits = limits.cpu_shares(shares);
    }
    if let Some(list) = args.get("cpuset-cpus")? {
        limits = limits.cpuset_cpus(list);
    }
    if let Some(list) = args.get("cpuset-mems")? {
        limits = limits.cpuset_mems(list);
    }
    Ok(limits)
}

/// Of the flags for single disks: `DISK:VALUE`.
fn disks(mut limits: Limits, args: &Args) -> Result<Limits> {
    if let Some(weight) = args.number::<u64>("blkio-weight")?.filter(|weight| *weight != 0) {
        limits = limits.io_weight(weight);
    }
    let mut all: BTreeMap<&str, IoMax> = BTreeMap::new();
    type Bound = fn(IoMax, u64) -> IoMax;
    let bounds: [(&str, Bound); 4] = [
        ("device-read-bps", IoMax::read_bps),
        ("device-write-bps", IoMax::write_bps),
        ("device-read-iops", IoMax::read_iops),
        ("device-write-iops", IoMax::write_iops),
    ];
    for (flag, bound) in bounds {
        for option in args.all(flag)? {
            let split = option.rsplit_once(':').filter(|(disk, _)| !disk.is_empty());
            let (disk, value) = split.ok_or_else(|| usage(format!("invalid --{flag}: {option:?}")))?;
            let value = if flag.ends_with("bps") { bytes(flag, value)? } else { parse(flag, value)? };
            let max = all.remove(disk).unwrap_or_else(|| IoMax::new(disk));
            all.insert(disk, bound(max, value));
        }
    }
    Ok(all.into_values().fold(limits, Limits::io_max))
}
