//! Couriers: children of the warden that sit in a namespace, execute plans on request and pass descriptors back.
//!
//! All logic stays here, in the host; what runs there is the interpreter.

use super::message;
use super::plan::format::{COURIER_SIZE, OP_SERVE, Status};
use super::plan::{Added, At, Cell, Plan};
use super::warden::{Started, Warden};
use crate::error::{Error, ErrorKind, Result};
use linux_raw_sys::errno::EPIPE;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A process that executes plans where it sits, until it is dropped.
pub(crate) struct Courier {
    started: Mutex<Started>,
}

/// What a courier's plan gave: its reply's bytes, and the descriptors that it sent.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Courier {
    /// Starts one; `setup` brings it to its place.
    pub fn start(warden: &Arc<Warden>, mut setup: Plan<'_>) -> Result<Self> {
        let status = setup.status();
        setup.op(OP_SERVE, "serve", [status.into()]);
        let mut started = warden.start_sized(setup, COURIER_SIZE)?;
        started.settle();
        Ok(Self { started: Mutex::new(started) })
    }

    /// The same with a `setup` that [says](super::script::Script::tell), or sends, one thing when it is done; gives the
    /// descriptors that it has sent.
    ///
    /// # Errors
    /// What failed of `setup`; `TimedOut` when it is not done by the deadline.
    pub fn start_told(
        warden: &Arc<Warden>,
        mut setup: Plan<'_>,
        deadline: Instant,
    ) -> Result<(Self, Vec<OwnedFd>)> {
        let status = setup.status();
        setup.op(OP_SERVE, "serve", [status.into()]);
        let mut started = warden.start_sized(setup, COURIER_SIZE)?;
        started.settle();
        let told = started.next(Some(deadline))?;
        let told = told.ok_or_else(|| Error::new(ErrorKind::Gone, "the courier has ended"))?;
        Ok((Self { started: Mutex::new(started) }, told.fds))
    }

    /// Has it execute `plan`, whole.
    pub fn call(&self, plan: Plan<'_>) -> Result<Reply> {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = started.socket();
        let wants_reply = plan.wants_reply();
        let (compiled, fds) = plan.compile(0)?;
        if compiled.bytes.len() > COURIER_SIZE {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{} bytes for a courier", compiled.bytes.len()),
            ));
        }
        let gone = || Error::new(ErrorKind::Gone, "the courier has ended");
        message::send(socket, &compiled.bytes, &fds).map_err(|error| gone().with_source(error))?;
        let mut reply = Reply::default();
        loop {
            let mut buffer = [0; 64];
            let (_, fds) = message::receive(socket, &mut buffer)?.ok_or_else(gone)?;
            reply.fds.extend(fds);
            let status = Status::from_bytes(&buffer);
            match status.kind {
                Status::FAILED => return Err(compiled.error(status.step, status.value)),
                Status::DONE => break,
                _ => {}
            }
        }
        if wants_reply > 0 {
            reply.bytes = vec![0; wants_reply];
            let (len, _) = message::receive(socket, &mut reply.bytes)?.ok_or_else(gone)?;
            reply.bytes.truncate(len);
        }
        Ok(reply)
    }
}

/// A message of a plan to its starter: a [`Status`] with a value and a descriptor, both cells of the plan.
#[derive(Clone, Copy)]
pub(crate) struct Letter {
    header: At,
    pub value: Cell,
    pub fd: Cell,
}

impl<'fd> Plan<'fd> {
    /// Lays out a message of `kind`; operations store its value and descriptor, then [`Plan::post`] sends it.
    pub fn letter(&mut self, kind: u32) -> Letter {
        // One descriptor, padded.
        self.message(kind, 20)
    }

    /// As [`letter`](Self::letter), with two descriptors.
    pub fn letter_of_two(&mut self, kind: u32) -> (Letter, Cell) {
        let letter = self.message(kind, 24);
        (letter, Cell(letter.fd.0 + 4))
    }

    fn message(&mut self, kind: u32, control_len: u64) -> Letter {
        let status = self.words64(&[u64::from(kind), 0]);
        let iov = self.words64(&[status.0, size_of::<Status>() as u64]);
        // struct cmsghdr: length (with its 16 bytes), SOL_SOCKET, SCM_RIGHTS; then descriptors.
        let control = self.words64(&[control_len, 1 | 1 << 32, u64::MAX]);
        let header = self.words64(&[0, 0, iov.0, 1, control.0, 24, 0]);
        Letter { header, value: Cell(status.0 + 8), fd: Cell(control.0 + 16) }
    }

    pub fn post(&mut self, letter: Letter) -> Added<'_, 'fd> {
        let status = self.status();
        self.send(status, letter)
    }

    /// Sends it to whoever [takes](Self::take) it.
    pub fn send(&mut self, socket: Cell, letter: Letter) -> Added<'_, 'fd> {
        self.send_with(socket, letter, 0)
    }

    /// The same, without waiting for room.
    pub fn send_at_once(&mut self, socket: Cell, letter: Letter) -> Added<'_, 'fd> {
        const MSG_DONTWAIT: u32 = 0x40;
        self.send_with(socket, letter, MSG_DONTWAIT)
    }

    fn send_with(&mut self, socket: Cell, letter: Letter, flags: u32) -> Added<'_, 'fd> {
        const MSG_NOSIGNAL: u32 = 0x4000;
        let args = [socket.into(), letter.header.into(), (MSG_NOSIGNAL | flags).into()];
        self.op(linux_raw_sys::general::__NR_sendmsg, "sendmsg", args)
    }

    /// Receives a letter; its descriptor becomes a cell. It fails when its sender has ended.
    pub fn take(&mut self, socket: Cell) -> Cell {
        const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
        let letter = self.letter(0);
        let args = [socket.into(), letter.header.into(), MSG_CMSG_CLOEXEC.into()];
        let len = self.op(linux_raw_sys::general::__NR_recvmsg, "recvmsg", args).result();
        let (nothing, done) = (self.label(), self.label());
        self.jump_if_zero(len, nothing);
        self.jump(done);
        self.place(nothing);
        self.op(
            super::plan::format::OP_FAIL,
            "recvmsg: the other stage of the start has ended",
            [EPIPE.into()],
        );
        self.place(done);
        letter.fd
    }
}

/// The process that owns files where only a namespace's root may (see [`Courier`]): the warden's own namespace.
pub(crate) fn of_warden(warden: &Arc<Warden>) -> Result<Courier> {
    Courier::start(warden, Plan::new()).map_err(|error| error.during("starting a courier"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::warden::warden;
    use linux_raw_sys::general as n;

    #[test]
    fn executes_and_passes_descriptors_back() {
        let courier = of_warden(&warden().unwrap()).unwrap();
        for _ in 0..3 {
            let mut plan = Plan::new();
            let path = plan.c_str(c"/proc/self/status");
            let letter = plan.letter(Status::PLAN);
            plan.op(n::__NR_openat, "openat", [(-100).into(), path.into(), n::O_CLOEXEC.into(), 0.into()])
                .store(letter.fd);
            plan.post(letter);
            plan.op(n::__NR_close, "close", [letter.fd.into()]);
            plan.reply(path, 18);
            let reply = courier.call(plan).unwrap();
            assert_eq!(reply.bytes, b"/proc/self/status\0");
            let status =
                std::io::read_to_string(std::fs::File::from(reply.fds.into_iter().next().unwrap())).unwrap();
            assert!(status.contains("Name:"), "{status}");
        }
    }

    #[test]
    fn a_failed_call_is_named_and_the_courier_serves_on() {
        let courier = of_warden(&warden().unwrap()).unwrap();
        let mut plan = Plan::new();
        let path = plan.c_str(c"/nowhere");
        plan.op(n::__NR_chdir, "chdir", [path.into()]).path("/nowhere");
        let error = courier.call(plan).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(2));
        assert_eq!(error.step(), "chdir");
        assert_eq!(courier.call(Plan::new()).unwrap().fds.len(), 0);
    }

    #[test]
    fn a_call_is_repeated_where_the_kernel_says_so() {
        let courier = of_warden(&warden().unwrap()).unwrap();
        let read = |again: bool, nanoseconds: u64| {
            let mut plan = Plan::new();
            let flags = n::TFD_NONBLOCK | n::TFD_CLOEXEC;
            let timer = plan.op(n::__NR_timerfd_create, "timerfd_create", [1.into(), flags.into()]).result();
            // Every 0 s, first then; never, where that is 0 too (timerfd_settime(2)).
            let when = plan.words64(&[0, 0, 0, nanoseconds]);
            let settime = [timer.into(), 0.into(), when.into(), 0.into()];
            plan.op(n::__NR_timerfd_settime, "timerfd_settime", settime);
            let times = plan.space(8);
            let read = plan.op(n::__NR_read, "read", [timer.into(), times.into(), 8.into()]).full();
            if again {
                read.again();
            }
            plan.op(n::__NR_close, "close", [timer.into()]);
            plan.reply(times, 8);
            courier.call(plan)
        };
        assert_eq!(read(false, 0).unwrap_err().raw_os_error(), Some(11));
        assert_eq!(read(true, 100_000).unwrap().bytes, 1u64.to_ne_bytes());
        // Not for ever.
        assert_eq!(read(true, 0).unwrap_err().raw_os_error(), Some(11));
    }
}
