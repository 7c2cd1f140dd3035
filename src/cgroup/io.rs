//! How fast disks may be read and written.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// Bounds for one disk, for [`Limits::io_max`](super::Limits::io_max). What is left unsaid is not limited.
///
/// It is a whole disk by its node, not a partition. Cgroup v2 counts all of the group's input and output, v1 only what
/// goes to the disk at once: reads, and writes with `O_DIRECT` or `O_SYNC`. What v1 writes later from the page cache is
/// nobody's. See the kernel's admin-guide/cgroup-v2, `io.max`, and cgroup-v1/blkio-controller.
///
/// ```
/// use coracle::{IoMax, Limits};
/// let limits = Limits::new().io_max(IoMax::new("/dev/vda").read_bps(10 << 20).write_iops(200));
/// # let _ = limits;
/// ```
#[derive(serde::Serialize, serde::Deserialize, Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct IoMax {
    device: PathBuf,
    pub(super) read_bps: Option<u64>,
    pub(super) write_bps: Option<u64>,
    pub(super) read_iops: Option<u64>,
    pub(super) write_iops: Option<u64>,
}

impl IoMax {
    /// No bounds yet for the disk of this node: `/dev/vda`.
    pub fn new(device: impl Into<PathBuf>) -> Self {
        Self { device: device.into(), read_bps: None, write_bps: None, read_iops: None, write_iops: None }
    }

    /// Bytes read in a second.
    pub fn read_bps(mut self, bytes: u64) -> Self {
        self.read_bps = Some(bytes);
        self
    }

    /// Bytes written in a second.
    pub fn write_bps(mut self, bytes: u64) -> Self {
        self.write_bps = Some(bytes);
        self
    }

    /// Reads in a second.
    pub fn read_iops(mut self, operations: u64) -> Self {
        self.read_iops = Some(operations);
        self
    }

    /// Writes in a second.
    pub fn write_iops(mut self, operations: u64) -> Self {
        self.write_iops = Some(operations);
        self
    }

    /// The disk's node.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// With the kernel's keys of v2.
    pub(super) fn bounds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [
            ("rbps", self.read_bps),
            ("wbps", self.write_bps),
            ("riops", self.read_iops),
            ("wiops", self.write_iops),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }

    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |why: &str| Err(Error::new(ErrorKind::InvalidInput, format!("io_max {self}: {why}")));
        match self.bounds().map(|(_, value)| value).min() {
            None => wrong("no bound is said"),
            // 0 takes a limit off on v1 and is refused on v2.
            Some(0) => wrong("a bound is 1 at least"),
            // v1 counts operations in 32 bits.
            Some(_) if [self.read_iops, self.write_iops].iter().flatten().any(|n| *n > u32::MAX.into()) => {
                wrong("more than 4294967295 operations")
            }
            Some(_) => Ok(()),
        }
    }
}

impl fmt::Display for IoMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device.display())?;
        self.bounds().try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

#[cfg(feature = "cgroups")]
pub(super) use kernel::{set_max, set_weight};

#[cfg(feature = "cgroups")]
mod kernel {
    use super::IoMax;
    use crate::cgroup::control::Write;
    use crate::error::{Call, Error, ErrorKind, Result};
    use crate::feature::{Feature, words};
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::path::Path;

    /// Bounds one disk in the group at `dir`.
    pub(crate) fn set_max(max: &IoMax, dir: &Path, v2: bool) -> Result<String> {
        let disk = number(&max.device)?;
        let partition = |error: Error| match error.raw_os_error() {
            Some(nix::libc::ENODEV) => error
                .with_path(&max.device)
                .with_remedy("only whole disks are bounded: name the disk, not a partition of it"),
            _ => error,
        };
        if v2 {
            let write = Write::new(dir, "io.max");
            let words: Vec<_> = max.bounds().map(|(key, value)| format!("{key}={value}")).collect();
            let line = format!("{disk} {}", words.join(" "));
            write.put(&line).map_err(partition)?;
            let kept = |text: &str| {
                let mut bounds = max.bounds();
                bounds.all(|(key, value)| value_of(text, &disk, key) == Some(&value.to_string()))
            };
            return write.verify(kept, &line).map(|_| line);
        }
        for (file, value) in [
            ("blkio.throttle.read_bps_device", max.read_bps),
            ("blkio.throttle.write_bps_device", max.write_bps),
            ("blkio.throttle.read_iops_device", max.read_iops),
            ("blkio.throttle.write_iops_device", max.write_iops),
        ] {
            let Some(value) = value else { continue };
            let write = Write::new(dir, file);
            let line = format!("{disk} {value}");
            write.put(&line).map_err(partition)?;
            write.verify(|text| text.lines().any(|kept| kept == line), &line)?;
        }
        Ok(max.to_string())
    }

    /// `MAJOR:MINOR` of a disk's node.
    fn number(device: &Path) -> Result<String> {
        let found = device.metadata().call_at("stat", device)?;
        if !found.file_type().is_block_device() {
            let error = Error::new(ErrorKind::InvalidInput, "io_max: not a disk").with_path(device);
            return Err(error.with_remedy("name the node of a whole disk, as lsblk lists them: /dev/vda"));
        }
        let number = found.rdev();
        Ok(format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
    }

    /// Sets the share of disk time, where some disk heeds it.
    pub(crate) fn set_weight(weight: u64, dir: &Path, v2: bool) -> Result<String> {
        let mut done = Vec::new();
        if bfq_in_use(Path::new("/sys/block")) {
            let bfq = Write::new(dir, if v2 { "io.bfq.weight" } else { "blkio.bfq.weight" });
            if weight > 1000 {
                return Err(Error::new(ErrorKind::Unsupported, format!("{weight}: bfq takes 1000 at most")));
            }
            bfq.put(&weight.to_string())?;
            done.push(bfq.verify(|kept| default_of(kept) == weight.to_string(), &weight.to_string())?);
        }
        let cost = Write::new(dir, "io.weight");
        if v2 && cost.exists() && costs_in_use(dir) {
            cost.put(&format!("default {weight}"))?;
            done.push(cost.verify(|kept| default_of(kept) == weight.to_string(), &weight.to_string())?);
        }
        if done.is_empty() {
            let cause = if v2 { words::NO_WEIGHTS_V2 } else { words::NO_WEIGHTS_V1 };
            let error = Error::new(ErrorKind::Unsupported, "io_weight").with_path(dir);
            return Err(error.lacks(cause.of(Feature::IoWeight)));
        }
        Ok(done.join(", "))
    }

    /// Of `default 100` and lines for single disks, or of `100`.
    fn default_of(text: &str) -> &str {
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("default ").unwrap_or(first)
    }

    /// `none [mq-deadline] bfq` has the one in use in brackets.
    fn bfq_in_use(disks: &Path) -> bool {
        fs::read_dir(disks).into_iter().flatten().flatten().any(|disk| {
            let file = disk.path().join("queue/scheduler");
            fs::read_to_string(file).is_ok_and(|text| text.contains("[bfq]"))
        })
    }

    /// Only the root group says it. Where that can't be seen, in a container, it can't be told.
    fn costs_in_use(dir: &Path) -> bool {
        let file = dir.ancestors().map(|dir| dir.join("io.cost.qos")).find(|file| file.exists());
        file.and_then(|file| fs::read_to_string(file).ok()).is_some_and(|text| text.contains("enable=1"))
    }

    /// What `io.max` says of a disk behind `key=`; `max` of what is not limited.
    pub(super) fn value_of<'a>(text: &'a str, disk: &str, key: &str) -> Option<&'a str> {
        let line = text.lines().find_map(|line| line.strip_prefix(disk)?.strip_prefix(' '))?;
        line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}

#[cfg(all(test, feature = "cgroups"))]
mod tests {
    use super::kernel::value_of;

    #[test]
    fn reads_what_the_kernel_keeps() {
        let text = "8:16 rbps=2097152 wbps=max riops=max wiops=120\n8:1 rbps=1\n";
        assert_eq!(value_of(text, "8:16", "rbps"), Some("2097152"));
        assert_eq!(value_of(text, "8:16", "wbps"), Some("max"));
        assert_eq!(value_of(text, "8:1", "rbps"), Some("1"));
        assert_eq!(value_of(text, "8:1", "wiops"), None);
        assert_eq!(value_of(text, "8:0", "rbps"), None);
    }
}
