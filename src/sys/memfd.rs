//! Anonymous files that are complete and can't change any more.

use crate::error::{Call, Result};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

/// `MFD_NOEXEC_SEAL`, `MFD_EXEC` of memfd_create(2), since Linux 6.3; older kernels refuse unknown flags.
const NOEXEC_SEAL: MemfdFlags = MemfdFlags::from_bits_retain(8);
const EXEC: MemfdFlags = MemfdFlags::from_bits_retain(16);

/// A memfd that holds `bytes`, padded with zeroes to `size`, sealed against every change.
pub(crate) fn sealed(name: &'static str, bytes: &[u8], size: usize, executable: bool) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(name, flags | if executable { EXEC } else { NOEXEC_SEAL }) {
        Err(Errno::INVAL) => memfd_create(name, flags),
        other => other,
    }
    .call("memfd_create")?;
    let mut file = File::from(above_stdio(fd)?);
    file.write_all(bytes).call("write(memfd)")?;
    if size > bytes.len() {
        file.set_len(size as u64).call("ftruncate(memfd)")?;
    }
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .call("fcntl(F_ADD_SEALS)")?;
    Ok(file.into())
}

/// A host that has closed one of its first three descriptors gets new ones there, where a spawned program
/// would take them for its stdio.
pub(crate) fn above_stdio(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fcntl_dupfd_cloexec(&fd, 3).call("fcntl(F_DUPFD_CLOEXEC)") }
}
