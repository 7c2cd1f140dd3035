//! Who is at the other end of a Unix socket.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// asm-generic/socket.h
const SOL_SOCKET: i32 = 1;
const SO_PEERCRED: i32 = 17;

/// `struct ucred`: whoever connected or listened, as this process's namespaces number them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    /// 0 of a process that can't be seen from here. (`rustix` has a type for it that can't be 0.)
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// unix(7), `SO_PEERCRED`.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> Result<Peer, Errno> {
    let mut peer = Peer::default();
    let mut size = size_of::<Peer>() as u32;
    let (data, len) = (std::ptr::from_mut(&mut peer), std::ptr::from_mut(&mut size));
    // SAFETY: `data` is exclusively ours, of the size that is said in `len`, and any bytes are a `Peer`.
    let result = unsafe {
        syscalls::syscall!(
            syscalls::Sysno::getsockopt,
            socket.as_raw_fd(),
            SOL_SOCKET,
            SO_PEERCRED,
            data,
            len
        )
    };
    result.map(|_| peer).map_err(|errno| Errno::from_raw_os_error(errno.into_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_pair_is_of_this_process() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = peer(a.as_fd()).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    }
}
