//! The keeper: a child of the warden that holds the mount namespaces of containers until their first processes have ended.
//!
//! Whoever is the last to leave a mount namespace takes it down, before its parent learns that it has ended; and a
//! container's takes the kernel as long as many a program runs. With the keeper a container's end is told first, and its
//! mounts go after. It is in the warden's PID namespace and goes with it, and the kernel closes what it holds.

use crate::arch::nr;
use crate::plan::KEEPER;
use crate::sys::{Control, close, exit, fork, receive, sys};

const EPOLLIN: u32 = 1;
const EPOLL_CTL_ADD: usize = 1;
const EPOLL_CTL_DEL: usize = 2;
/// What stands for the socket, where else two descriptors stand.
const SOCKET: u64 = u64::MAX;

/// `struct epoll_event`, which is packed on x86_64 only.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
struct Ready {
    events: u32,
    data: u64,
}

/// Starts it; plans reach it by the descriptor [`KEEPER`]. Gives a negative errno where it can't be had.
pub fn start() -> isize {
    const AF_UNIX: usize = 1;
    const SOCK_SEQPACKET_CLOEXEC: usize = 5 | 0o2000000;
    const O_CLOEXEC: usize = 0o2000000;
    let mut pair = [-1i32; 2];
    let made = sys!(nr::SOCKETPAIR, AF_UNIX, SOCK_SEQPACKET_CLOEXEC, 0, pair.as_mut_ptr());
    if made < 0 {
        return made;
    }
    let child = fork();
    if child == 0 {
        sys!(nr::DUP3, pair[0], 0, 0);
        // There are no others: the warden has just begun.
        for fd in 1..=pair[0].max(pair[1]) {
            close(fd);
        }
        keep(0);
    }
    close(pair[0]);
    if child < 0 || pair[1] == KEEPER {
        return child;
    }
    let placed = sys!(nr::DUP3, pair[1], KEEPER, O_CLOEXEC);
    close(pair[1]);
    placed
}

fn keep(socket: i32) -> ! {
    // Two descriptors for each container: as many as it may have.
    const RLIMIT_NOFILE: usize = 7;
    let mut limit = [0u64; 2];
    sys!(nr::PRLIMIT64, 0, RLIMIT_NOFILE, 0, limit.as_mut_ptr());
    limit[0] = limit[1];
    sys!(nr::PRLIMIT64, 0, RLIMIT_NOFILE, limit.as_ptr(), 0);
    let epoll = sys!(nr::EPOLL_CREATE1, 0) as i32;
    if epoll < 0 || watch(epoll, socket, SOCKET) < 0 {
        // Who sends learns that nobody is there, and does without.
        exit(1);
    }
    loop {
        release(epoll, -1);
        // First all that can be: what comes now may need the descriptors, or ask for it.
        while release(epoll, 0) > 0 {}
        while take(epoll, socket) {}
    }
}

fn watch(epoll: i32, fd: i32, data: u64) -> isize {
    let event = Ready { events: EPOLLIN, data };
    sys!(nr::EPOLL_CTL, epoll, EPOLL_CTL_ADD, fd, &event as *const Ready)
}

/// Lets go of what is no longer needed, and says of how many; waits for something to happen for `timeout` milliseconds, -1:
/// as long as it takes.
fn release(epoll: i32, timeout: isize) -> usize {
    let mut ready = [Ready { events: 0, data: 0 }; 32];
    let count = sys!(nr::EPOLL_PWAIT, epoll, ready.as_mut_ptr(), ready.len(), timeout, 0, 8);
    let mut released = 0;
    for Ready { data, .. } in ready.into_iter().take(count.max(0) as usize).filter(|ready| ready.data != SOCKET) {
        let (process, namespace) = (data as u32 as i32, (data >> 32) as i32);
        // Others have the same pidfd, so that closing it alone does not end the watching.
        sys!(nr::EPOLL_CTL, epoll, EPOLL_CTL_DEL, process, 0);
        close(process);
        close(namespace);
        released += 1;
    }
    released
}

/// Takes one message: a process and what is to be held until it has ended; or a single descriptor, which is closed when
/// nothing of processes that have ended is held any more. False where there is none.
fn take(epoll: i32, socket: i32) -> bool {
    let mut control = Control::new();
    let mut byte = [0u8; 16];
    let got = receive(socket, byte.as_mut_ptr() as usize, byte.len(), &mut control, false);
    let fds = &control.fds[..got.fds];
    if let [process, namespace] = *fds
        && watch(epoll, process, process as u64 | (namespace as u64) << 32) >= 0
    {
        return true;
    }
    while fds.len() == 1 && release(epoll, 0) > 0 {}
    for fd in fds {
        close(*fd);
    }
    match got.len {
        // The warden has gone.
        0 => exit(0),
        len => len > 0,
    }
}
