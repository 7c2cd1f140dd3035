//! The warden: one small process beside each program that uses the library, from which every process of
//! every container is made. It is PID 1 of a PID namespace, so that when it goes, the kernel kills all of them;
//! and it goes when its host goes, in whatever way.
//!
//! It starts with its socket as descriptor 0, the host's pidfd as 1 and a file that the host holds a POSIX
//! record lock on as 2. It never waits for the host: what can't be sent now stays a zombie until it can.
#![no_std]
#![no_main]

mod arch;
mod interpret;
mod keeper;
#[allow(dead_code)] // the library's half
mod plan;
mod sys;

use arch::nr;
use plan::{Event, FDS_MAX, Request, Status};
use sys::{Control, EAGAIN, close, close_others, exit, fork, is_missing, receive, send, set_mask, sys};

const SOCKET: i32 = 0;
const HOST: i32 = 1;
const LOCK: i32 = 2;
const CLIENTS: usize = 64;
const LISTENERS: usize = 32;
/// Of so many children that execute plans at once the host is not told when they end: it would be woken for nothing.
const PLANS: usize = 128;

const CLONE_NEWNS: usize = 0x0002_0000;
const CLONE_NEWUSER: usize = 0x1000_0000;
const CLONE_NEWPID: usize = 0x2000_0000;
const SIGCHLD: u64 = 17;
const SIGNALS: usize = 64;
const POLLIN: i16 = 1;
const POLLOUT: i16 = 4;
const EINVAL: isize = -22;

#[repr(C)]
#[derive(Clone, Copy)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(124)
}

/// `core` was compiled with unwinding and names this; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn warden_main(stack: *const usize) -> ! {
    // SAFETY: the kernel puts argc at the bottom of a new program's stack.
    let user = unsafe { stack.read() } > 1;
    enter(user);
    step(13, keeper::start());
    let mut warden = Warden {
        signals: step(8, sys!(nr::SIGNALFD4, -1isize, &(1u64 << (SIGCHLD - 1)) as *const u64, 8, 0o2000000)) as i32,
        watch: 0,
        listeners: [-1; LISTENERS],
        clients: [-1; CLIENTS],
        spare: -1,
        plans: [0; PLANS],
        crowded: false,
        pending: None,
        stalled: false,
    };
    warden.watch = step(9, watch_lock(warden.signals)) as i32;
    warden.spare = step(12, warden.keep_spare()) as i32;
    post(&Event { kind: Event::UP, value: features(), ..EVENT }, None);
    warden.run()
}

const EVENT: Event = Event { kind: 0, pid: 0, id: 0, value: 0, user_us: 0, system_us: 0, peak_kib: 0 };

fn post(event: &Event, fd: Option<i32>) -> isize {
    send(SOCKET, (event as *const Event) as usize, size_of::<Event>(), fd, false)
}

/// A step of coming up: a failure is told to the host and ends this process.
fn step(number: u64, result: isize) -> isize {
    if result < 0 {
        post(&Event { kind: Event::FAILED, id: number, value: -result as i64, ..EVENT }, None);
        exit(125);
    }
    result
}

/// What this kernel has, asked with arguments that do nothing.
fn features() -> i64 {
    let clone3 = sys!(nr::CLONE3, 0, 0);
    let open_tree_attr = sys!(nr::OPEN_TREE_ATTR, -1isize, 0, 0, 0, 0);
    let has = |result, feature| if is_missing(result) { 0 } else { feature };
    has(clone3, Event::HAS_CLONE3) | has(open_tree_attr, Event::HAS_OPEN_TREE_ATTR)
}

fn enter(user: bool) {
    const PR_SET_DUMPABLE: usize = 4;
    const MS_SLAVE_REC: usize = 0x8_4000;
    const PROC_FLAGS: usize = 2 | 4 | 8;
    // Nothing of the host's but the three: a lock or a pipe's end would live on here.
    step(1, close_others());
    // What the host program ignores or blocks is its own affair; containers get the defaults.
    let default = [0usize; 4];
    for signal in 1..=SIGNALS {
        sys!(nr::RT_SIGACTION, signal, default.as_ptr(), 0, 8);
    }
    set_mask(0);
    sys!(nr::UMASK, 0o22);
    let all = [u64::MAX; 16];
    sys!(nr::SCHED_SETAFFINITY, 0, size_of_val(&all), all.as_ptr());
    step(2, sys!(nr::CHDIR, c"/".as_ptr()));
    // The host's session keyring would be every container's: whoever possesses it may read its keys.
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    let joined = sys!(nr::KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, 0);
    // A kernel without keys; or a filter over all of us, which keeps containers from them too.
    if !is_missing(joined) {
        step(11, joined);
    }
    if user {
        step(3, sys!(nr::UNSHARE, CLONE_NEWUSER));
    }
    post(&Event { kind: Event::ENTERED, ..EVENT }, None);
    let mut go = Request { kind: 0, pad: 0, id: 0, size: 0 };
    let mut control = Control::new();
    wait_for_host();
    if receive(SOCKET, (&mut go as *mut Request) as usize, size_of::<Request>(), &mut control, false).len <= 0 {
        exit(1);
    }
    if user {
        step(4, sys!(nr::SETRESGID, 0, 0, 0));
        step(4, sys!(nr::SETRESUID, 0, 0, 0));
    }
    step(5, sys!(nr::UNSHARE, CLONE_NEWPID));
    let mut pidfd = -1i32;
    // clone(2) can do this too, and no filter refuses it for not seeing into it; the descriptor goes where a thread's
    // number would.
    const CLONE_PIDFD: usize = 0x1000;
    let child = step(6, sys!(nr::CLONE, CLONE_PIDFD | SIGCHLD as usize, 0, &mut pidfd as *mut i32, 0, 0));
    if child > 0 {
        post(&Event { kind: Event::PIDFD, ..EVENT }, Some(pidfd));
        exit(0);
    }
    sys!(nr::SETSID);
    sys!(nr::PRCTL, PR_SET_DUMPABLE, 0, 0, 0, 0);
    step(7, sys!(nr::UNSHARE, CLONE_NEWNS));
    // What the host mounts later shows up here; nothing of ours shows up there.
    step(7, sys!(nr::MOUNT, 0, c"/".as_ptr(), 0, MS_SLAVE_REC, 0));
    step(10, sys!(nr::MOUNT, c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), PROC_FLAGS, 0));
    set_mask(1 << (SIGCHLD - 1));
}

/// Returns when the host has said something. While a forked copy of it has the socket too, its end is only told by its
/// pidfd; and that it has become another program by nothing, as there is no lock yet: it has a minute.
fn wait_for_host() {
    const MINUTE: [i64; 2] = [60, 0];
    loop {
        let mut polled = [SOCKET, HOST].map(|fd| PollFd { fd, events: POLLIN, revents: 0 });
        let mut left = MINUTE;
        let ready = sys!(nr::PPOLL, polled.as_mut_ptr(), polled.len(), left.as_mut_ptr(), 0, 8);
        if ready == 0 || polled[1].revents != 0 {
            exit(1);
        }
        if ready > 0 && polled[0].revents != 0 {
            return;
        }
    }
}

/// A child that ends when the host's lock is free: at the host's end, and when it becomes another program.
fn watch_lock(signals: i32) -> isize {
    const F_SETLKW: usize = 7;
    #[repr(C)]
    struct Flock {
        kind: i16,
        whence: i16,
        start: i64,
        len: i64,
        pid: i32,
    }
    let child = fork();
    if child == 0 {
        for fd in [SOCKET, HOST, signals] {
            close(fd);
        }
        let lock = Flock { kind: 1, whence: 0, start: 0, len: 0, pid: 0 };
        sys!(nr::FCNTL, LOCK, F_SETLKW, &lock as *const Flock);
        exit(0);
    }
    close(LOCK);
    child
}

struct Warden {
    signals: i32,
    /// The child that waits for the host's lock.
    watch: i32,
    /// Where other programs of the same user connect, one for each store that the host asks for it.
    listeners: [i32; LISTENERS],
    clients: [i32; CLIENTS],
    /// A descriptor for nothing: closed where there are no more, so that who connects can be told so.
    spare: i32,
    /// Children that execute plans; 0 where there is none.
    plans: [i32; PLANS],
    /// Not even that could be done: nobody but the host is looked at for a moment.
    crowded: bool,
    /// What the host's socket had no room for. While it waits, no request is taken and no child reaped.
    pending: Option<Event>,
    /// The same for an exit, which its zombie remembers.
    stalled: bool,
}

impl Warden {
    fn run(mut self) -> ! {
        let mut polled = [PollFd { fd: -1, events: 0, revents: 0 }; 3 + LISTENERS + CLIENTS];
        loop {
            let full = self.stalled || self.pending.is_some();
            polled[0] = PollFd { fd: SOCKET, events: if full { POLLOUT } else { POLLIN }, revents: 0 };
            polled[1] = PollFd { fd: HOST, events: POLLIN, revents: 0 };
            polled[2] = PollFd { fd: self.signals, events: POLLIN, revents: 0 };
            // Only what is there: the kernel takes no more than the limit on descriptors. Who has gone comes before who
            // comes.
            let mut count = 3;
            for fd in self.clients.into_iter().chain(self.listeners).filter(|fd| *fd >= 0) {
                polled[count] = PollFd { fd, events: POLLIN, revents: 0 };
                count += 1;
            }
            // Nothing tells that somebody else has closed something: seconds and nanoseconds until the next try.
            let mut moment = [0u64, 100_000_000];
            let timeout = match self.crowded {
                true => {
                    count = 3;
                    moment.as_mut_ptr()
                }
                false => core::ptr::null_mut(),
            };
            let ready = sys!(nr::PPOLL, polled.as_mut_ptr(), count, timeout, 0, 8);
            if ready < 0 {
                self.crowded = ready == EINVAL;
                if self.crowded {
                    // The limit has been lowered below what is open: each is asked, else nobody who goes would be seen.
                    self.serve_clients();
                }
                continue;
            }
            self.crowded = false;
            // The host has ended or closed its end: with this process the kernel kills everything in its namespace.
            if polled[1].revents != 0 || polled[0].revents & !(POLLIN | POLLOUT) != 0 {
                exit(0);
            }
            self.stalled &= polled[0].revents & POLLOUT == 0;
            if polled[0].revents & POLLOUT != 0
                && let Some(event) = self.pending.take()
            {
                self.tell_host(event);
            }
            if polled[0].revents & POLLIN != 0 && self.pending.is_none() && !self.serve(SOCKET) {
                exit(0);
            }
            for slot in polled[3..count].iter().filter(|slot| slot.revents != 0) {
                match self.listeners.contains(&slot.fd) {
                    true => self.accept(slot.fd),
                    false => self.serve_client(slot.fd),
                }
            }
            if polled[2].revents != 0 {
                let mut info = [0u64; 16];
                sys!(nr::READ, self.signals, info.as_mut_ptr(), size_of_val(&info));
            }
            self.reap();
        }
    }

    fn serve_clients(&mut self) {
        for fd in self.clients.into_iter().filter(|fd| *fd >= 0) {
            self.serve_client(fd);
        }
    }

    fn serve_client(&mut self, fd: i32) {
        if !self.serve(fd) {
            self.clients.iter_mut().filter(|client| **client == fd).for_each(|client| *client = -1);
            close(fd);
        }
    }

    fn tell_host(&mut self, event: Event) {
        match post(&event, None) {
            EAGAIN => self.pending = Some(event),
            sent if sent < 0 => exit(0),
            _ => {}
        }
    }

    fn tell(&mut self, socket: i32, event: Event) {
        if socket == SOCKET {
            self.tell_host(event);
        } else if send(socket, (&event as *const Event) as usize, size_of::<Event>(), None, false) < 0 {
            // A client that does not listen is let go; it notices by the end of its socket.
            self.clients.iter_mut().filter(|client| **client == socket).for_each(|client| *client = -1);
            close(socket);
        }
    }

    fn accept(&mut self, listener: i32) {
        const SOCK_CLOEXEC_NONBLOCK: usize = 0o2004000;
        const EMFILE: isize = -24;
        // The connection was taken back before it was accepted.
        const TAKEN_BACK: [isize; 3] = [EAGAIN, -4, -103];
        let accept = || sys!(nr::ACCEPT4, listener, 0, 0, SOCK_CLOEXEC_NONBLOCK);
        let mut client = accept();
        let mut full = false;
        if client == EMFILE && self.spare >= 0 {
            close(self.spare);
            client = accept();
            full = true;
        }
        if client == EINVAL {
            // The host has shut it down: its store is gone.
            self.listeners.iter_mut().filter(|slot| **slot == listener).for_each(|slot| *slot = -1);
            close(listener);
        }
        if client >= 0 {
            let slot = self.clients.iter_mut().find(|slot| **slot < 0 && !full);
            // Of a system call that would say so.
            let value = if slot.is_some() { 0 } else { -EMFILE as i64 };
            let event = Event { kind: Event::WELCOME, value, ..EVENT };
            let sent = send(client as i32, (&event as *const Event) as usize, size_of::<Event>(), None, false);
            match slot {
                Some(slot) if sent >= 0 => *slot = client as i32,
                _ => close(client as i32),
            }
        }
        if full {
            self.spare = self.keep_spare() as i32;
        }
        self.crowded = client < 0 && client != EINVAL && !TAKEN_BACK.contains(&client);
    }

    fn keep_spare(&self) -> isize {
        const F_DUPFD_CLOEXEC: usize = 1030;
        sys!(nr::FCNTL, self.signals, F_DUPFD_CLOEXEC, 0)
    }

    /// Takes one request; false when the socket has come to its end.
    fn serve(&mut self, socket: i32) -> bool {
        const EMFILE: i64 = 24;
        let mut request = Request { kind: 0, pad: 0, id: 0, size: 0 };
        let mut control = Control::new();
        let at = (&mut request as *mut Request) as usize;
        let got = receive(socket, at, size_of::<Request>(), &mut control, false);
        if got.len == EAGAIN {
            return true;
        }
        if got.len != size_of::<Request>() as isize {
            return false;
        }
        let fds = &control.fds[..got.fds];
        let answer = |errno| Event { kind: Event::ANSWER, id: request.id, value: errno, ..EVENT };
        match request.kind {
            // A plan that lacks a descriptor; one without a socket is told by its end.
            Request::START if got.truncated => {
                if let Some(socket) = fds.get(1) {
                    interpret::failed(*socket, Status::NOT_TAKEN, EMFILE);
                }
            }
            _ if got.truncated => self.tell(socket, answer(EMFILE)),
            Request::START if (2..=FDS_MAX).contains(&fds.len()) => {
                let child = fork();
                if child == 0 {
                    self.leave();
                    interpret::run(fds, request.size as usize);
                }
                if child < 0 {
                    interpret::failed(fds[1], Status::NOT_FORKED, -child as i64);
                } else if let Some(slot) = self.plans.iter_mut().find(|slot| **slot == 0) {
                    *slot = child as i32;
                }
            }
            Request::LISTEN if fds.len() == 1 && socket == SOCKET => {
                if let Some(slot) = self.listeners.iter_mut().find(|slot| **slot < 0) {
                    *slot = fds[0];
                    self.tell(socket, answer(0));
                    return true;
                }
                self.tell(socket, answer(EMFILE));
            }
            Request::SIGNAL if fds.len() == 1 => {
                let sent = sys!(nr::PIDFD_SEND_SIGNAL, fds[0], request.size, 0, 0);
                self.tell(socket, answer(-sent as i64));
            }
            _ => self.tell(socket, answer(22)),
        }
        for fd in fds {
            close(*fd);
        }
        true
    }

    /// A child of the warden's gives up what is the warden's; 0 to 2 are taken over by its plan.
    fn leave(&self) {
        close(self.signals);
        for fd in self.clients.iter().chain(&self.listeners).chain([&self.spare]).filter(|fd| **fd >= 0) {
            close(*fd);
        }
    }

    /// Tells of each child that has ended, then reaps it: a zombie keeps its number until the host has been told.
    fn reap(&mut self) {
        const P_ALL: usize = 0;
        const P_PID: usize = 1;
        const WNOHANG: usize = 1;
        const WEXITED: usize = 4;
        const WNOWAIT: usize = 0x0100_0000;
        // A full socket must not hide the host's end.
        let mut info = [0i32; 32];
        sys!(nr::WAITID, P_PID, self.watch, info.as_mut_ptr(), WEXITED | WNOHANG | WNOWAIT, 0);
        if info[4] != 0 {
            exit(0);
        }
        while !self.stalled && self.pending.is_none() {
            let mut info = [0i32; 32];
            let mut usage = [0u64; 18];
            let options = WEXITED | WNOHANG | WNOWAIT;
            if sys!(nr::WAITID, P_ALL, 0, info.as_mut_ptr(), options, usage.as_mut_ptr()) < 0 {
                return;
            }
            // siginfo_t: si_code at 8, si_pid at 16, si_status at 24.
            let (code, pid, status) = (info[2], info[4], info[6]);
            if pid == 0 {
                return;
            }
            if pid == self.watch {
                // It has ended since it was asked for above; once reaped, nobody would know that the host is gone.
                exit(0);
            }
            if let Some(slot) = self.plans.iter_mut().find(|slot| **slot == pid) {
                *slot = 0;
                sys!(nr::WAITID, P_PID, pid, 0, WEXITED, 0);
                continue;
            }
            let event = Event {
                kind: Event::EXITED,
                pid,
                id: code as u64,
                value: status as i64,
                user_us: usage[0] * 1_000_000 + usage[1],
                system_us: usage[2] * 1_000_000 + usage[3],
                peak_kib: usage[4],
            };
            match post(&event, None) {
                // Not told yet: the zombie itself is the queue.
                EAGAIN => return self.stalled = true,
                sent if sent < 0 => exit(0),
                _ => {}
            }
            for client in self.clients {
                if client >= 0 {
                    self.tell(client, event);
                }
            }
            sys!(nr::WAITID, P_PID, pid, 0, WEXITED, 0);
        }
    }
}
