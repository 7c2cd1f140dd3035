//! What the kernel has of Landlock (landlock(7)).

use rustix::io::Errno;
use syscalls::{Sysno, syscall};

/// The version of Landlock's interface, 1 and up. Nothing is changed by asking.
pub(crate) fn abi() -> Result<u32, Errno> {
    const VERSION: u32 = linux_raw_sys::landlock::LANDLOCK_CREATE_RULESET_VERSION;
    // SAFETY: with this flag the kernel wants no memory and makes no descriptor.
    let result = unsafe { syscall!(Sysno::landlock_create_ruleset, 0usize, 0usize, VERSION) };
    result.map(|abi| abi as u32).map_err(|errno| Errno::from_raw_os_error(errno.into_raw()))
}
