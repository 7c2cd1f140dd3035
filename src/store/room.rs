//! Room on the disk. A hostile archive of some kilobytes becomes more than any disk holds, and a full disk is trouble
//! for everybody on it: what comes from an archive leaves some of it free.
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use std::os::fd::AsFd;

/// Bytes that are written between two looks at the filesystem.
const STEP: u64 = 1 << 20;
/// At most so many bytes of a filesystem are left free, less of a small one.
const FREE_MAX: u64 = 256 << 20;

/// Counts what is written.
#[derive(Debug, Default)]
pub(crate) struct Room {
    since: u64,
}

impl Room {
    /// Says that so many bytes were written, or are about to be, on the filesystem of `file`.
    ///
    /// # Errors
    /// `StorageFull` when less would be left than is to stay free.
    pub(crate) fn take(&mut self, file: impl AsFd, bytes: u64) -> Result<()> {
        self.since = self.since.saturating_add(bytes);
        if self.since < STEP {
            return Ok(());
        }
        let coming = std::mem::take(&mut self.since);
        let stat = rustix::fs::fstatvfs(file).call("fstatvfs")?;
        if stat.f_blocks == 0 {
            // A tmpfs without a bound of its own.
            return Ok(());
        }
        let of = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let free = stays_free(of(stat.f_blocks));
        // What was written may be counted by the filesystem already or not: it is much less than `free` at a time, but for
        // a copy of a whole file, which is announced.
        if of(stat.f_bavail) >= free.saturating_add(if coming > FREE_MAX { coming } else { 0 }) {
            return Ok(());
        }
        let shown =
            if free >> 20 > 0 { format!("{} MiB", free >> 20) } else { format!("{} KiB", free >> 10) };
        Err(Error::new(ErrorKind::StorageFull, format!("{shown} of the disk are to stay free"))
            .with_remedy("make room, or put the store on a larger filesystem"))
    }
}

fn stays_free(total: u64) -> u64 {
    (total / 50).min(FREE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fiftieth_and_no_more_than_a_quarter_of_a_gigabyte() {
        assert_eq!(stays_free(100 << 20), 2 << 20);
        assert_eq!(stays_free(1 << 40), 256 << 20);
    }

    #[test]
    fn more_than_the_disk_has_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let mut room = Room::default();
        room.take(&file, STEP - 1).unwrap();
        room.take(&file, 1).unwrap();
        assert_eq!(room.take(&file, u64::MAX / 2).unwrap_err().kind(), ErrorKind::StorageFull);
        room.take(&file, 0).unwrap();
    }
}
