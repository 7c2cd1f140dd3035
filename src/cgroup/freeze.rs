//! A group whose processes stand still: the v2 freezer, cgroup.freeze (the kernel's admin-guide/cgroup-v2).
#![forbid(unsafe_code)]

use super::{Cgroup, Unified, after, process, write};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::{Feature, words};
use std::time::Duration;

/// How long processes that are to be killed may take to stand still.
const FREEZE_TIME: Duration = Duration::from_secs(1);

impl Cgroup {
    /// Stops every process of the group and waits until all stand still.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`]: some did not stop in time. Whatever the error, the group is thawed again.
    /// [`ErrorKind::Unsupported`]: there is no v2 hierarchy, or the kernel is older than 5.2.
    pub fn freeze(&self, timeout: Duration) -> Result<()> {
        self.set_frozen(true, timeout).inspect_err(|_| {
            // The first error is the one to report.
            let _ = self.write_freeze(false);
        })
    }

    /// Lets the processes go on, and waits until the kernel says so.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn thaw(&self, timeout: Duration) -> Result<()> {
        self.set_frozen(false, timeout)
    }

    /// Whether the processes are stopped, or are being stopped, whoever said so; never without a v2 hierarchy.
    ///
    /// # Errors
    /// Those of the system.
    pub fn is_frozen(&self) -> Result<bool> {
        match &self.unified {
            Ok(unified) if unified.freeze.is_some() => {
                unified.files().read("cgroup.freeze").map(|text| text.trim() == "1")
            }
            _ => Ok(false),
        }
    }

    /// Kills one by one what can't fork meanwhile: on v2 a frozen process can be killed.
    pub(super) fn kill_frozen(&self, unified: &Unified) -> Result<()> {
        // Without a freezer, or where one hangs in the kernel, it takes more rounds.
        let freezes = !self.is_frozen()? && self.freeze(FREEZE_TIME).is_ok();
        let killed = process::kill_all(unified.files());
        if freezes {
            // Nobody is left, or those who came in between are to go on.
            self.write_freeze(false)?;
        }
        killed
    }

    fn write_freeze(&self, frozen: bool) -> Result<&Unified> {
        let unified = match &self.unified {
            Ok(unified) => unified,
            Err(why) => {
                let lack = why.clone().of(Feature::Freeze);
                return Err(
                    Error::new(ErrorKind::Unsupported, "pausing without control groups v2").lacks(lack)
                );
            }
        };
        let path = || unified.path.join("cgroup.freeze");
        let Some(fd) = &unified.freeze else {
            let error = Error::new(ErrorKind::Unsupported, "pausing").with_path(path());
            return Err(error.lacks(words::NO_FREEZER.of(Feature::Freeze)));
        };
        write(fd, if frozen { b"1" } else { b"0" }).call_at("write", path())?;
        Ok(unified)
    }

    fn set_frozen(&self, frozen: bool, timeout: Duration) -> Result<()> {
        let deadline = after(timeout);
        let unified = self.write_freeze(frozen)?;
        process::wait_event(unified.files(), "frozen", u64::from(frozen), deadline)
    }
}
