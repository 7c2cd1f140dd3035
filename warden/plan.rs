//! The plan: the one format that the library and the warden share.
//!
//! A plan is an image of memory. The library lays it out for the address [`BASE`], where the process
//! that executes it maps it privately and writable, so that every pointer in it (to strings, `iovec`s,
//! argument vectors, BPF programs) is final, and a system call's results can be stored in it.
//!
//! ```text
//! BASE  Header
//!       cells   CELLS × i32; the descriptors that came with the plan are stored from cell 0 on
//!       data    whatever the operations point to
//!       ops     Header::ops × Op, at BASE + Header::ops_at
//! ```
//!
//! Operations are executed in order. One that fails ends the plan with a [`Status`] that names its index,
//! unless it tolerates that errno.
//!
//! A plan may come in two parts: the second, a [`Part`], goes behind the first when [`OP_MORE`] takes it. So processes can
//! do what takes them long while the library still finds out what the rest is to be.

/// Where a plan is mapped. Far from a small static program, its stack and everything the kernel maps.
pub const BASE: usize = 0x1_0000_0000;
/// "coracle" and the version of this format.
pub const MAGIC: u64 = 0x0001_656c_6361_726f;
/// How many descriptors one message can carry (the kernel's SCM_MAX_FD).
pub const FDS_MAX: usize = 253;
/// Cells for received descriptors; plans lay out further cells in their data.
pub const CELLS: usize = 256;
/// Cell 0 holds the socket for [`Status`] messages.
pub const STATUS_CELL: usize = 0;
/// The descriptor over which every plan reaches the keeper (`keeper.rs`): of a message with two descriptors, it holds the
/// second until the process of the first, a pidfd, has ended; one that comes alone it closes once it has let go of all that
/// it held for processes that have ended before.
pub const KEEPER: i32 = 3;
/// Size of a courier's plan memory: the largest plan a courier takes in one message.
pub const COURIER_SIZE: usize = 160 * 1024;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    pub magic: u64,
    /// Bytes in all; mapped rounded up to pages.
    pub size: u64,
    /// Where the operations are, from BASE on; a multiple of 8.
    pub ops_at: u64,
    /// How many operations.
    pub ops: u32,
    /// How many descriptors must have come along.
    pub fds: u32,
    /// What a courier sends back after the last operation.
    pub reply_at: u64,
    pub reply_len: u64,
    /// The operation that is being executed: for whoever may look into the process when it hangs.
    pub step: u64,
}

/// The head of a plan's second part, with its data and then its operations behind it; what came before stays as it is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Part {
    pub magic: u64,
    /// Bytes in all, this head among them.
    pub size: u64,
    /// Where its operations are, from BASE on; a multiple of 8.
    pub ops_at: u64,
    /// The index of its first operation: how many there were before.
    pub first: u32,
    /// How many operations.
    pub ops: u32,
    /// The cell of the first descriptor that comes along.
    pub cell: u32,
    /// How many come.
    pub fds: u32,
    /// The operation to go on at.
    pub go: u32,
    /// 1: this is the head only, and behind the other descriptors comes one of a memfd with the whole part, to be mapped.
    pub mapped: u32,
}

/// The largest part that comes in a message of its own.
pub const PART_SIZE: usize = 128 * 1024;

pub const CELLS_AT: usize = size_of::<Header>();
pub const DATA_AT: usize = CELLS_AT + CELLS * 4;

/// One system call, or one of the few acts that are none (`nr >= PSEUDO`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Op {
    pub nr: u32,
    /// Bit i: `args[i]` is the address of an `i32` cell whose value is meant.
    pub loads: u8,
    pub flags: u8,
    pub pad: u16,
    /// Address of the `i32` cell that takes the result; 0: nowhere.
    pub store: u64,
    /// Set of errnos (bit n of the 128) after which the plan goes on, at `otherwise` if that isn't 0.
    pub tolerate: [u64; 2],
    pub otherwise: u64,
    pub args: [u64; 6],
}

/// The result must be `args[2]`: for reads and writes that must be whole. 0 counts as EPIPE, less as EIO.
pub const FLAG_FULL: u8 = 1;
/// EAGAIN is no answer: once more then, at once, so many times.
pub const FLAG_AGAIN: u8 = 2;
pub const AGAIN_MAX: u32 = 10_000;

pub const PSEUDO: u32 = 0x8000_0000;
/// Go on at operation `args[0]`.
pub const OP_JUMP: u32 = PSEUDO;
/// Go on at operation `args[1]` if `args[0]` is 0.
pub const OP_JUMP_IF_ZERO: u32 = PSEUDO + 1;
/// At address `args[0]`, write the decimal digits of `args[1]`, then the C string at `args[2]`.
pub const OP_DECIMAL: u32 = PSEUDO + 2;
/// Fail with errno `args[0]`.
pub const OP_FAIL: u32 = PSEUDO + 3;
/// Fork; the child goes on; the parent stays as the container's init, passes signals on, reaps,
/// and ends as the child does (128 + signal if that was killed).
pub const OP_INIT: u32 = PSEUDO + 4;
/// Serve plans that come over the socket `args[0]` until it closes.
pub const OP_SERVE: u32 = PSEUDO + 5;
/// End the plan here: a courier replies, any other process exits with code `args[0]`.
pub const OP_END: u32 = PSEUDO + 6;
/// Close the descriptors from `args[0]` on.
pub const OP_CLOSE_FROM: u32 = PSEUDO + 7;

/// Take the second part of the plan from the socket `args[0]` to the address `args[1]`, which is a page's, and go on with it.
pub const OP_MORE: u32 = PSEUDO + 8;

/// A message on a plan's own socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Status {
    pub kind: u32,
    pub step: u32,
    pub value: i64,
}

impl Status {
    /// Operation `step` failed with errno `value`; nothing more follows from that process.
    pub const FAILED: u32 = 1;
    /// As a step: the plan was not taken.
    pub const NOT_TAKEN: u32 = u32::MAX;
    /// As a step: the warden could not fork.
    pub const NOT_FORKED: u32 = u32::MAX - 1;
    /// A courier has executed its plan; the reply's bytes follow.
    pub const DONE: u32 = 2;
    /// Kinds from here on belong to the plans themselves (they send them with `sendmsg`).
    pub const PLAN: u32 = 16;
}

/// Host to warden, over its socket; descriptors come along.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Request {
    pub kind: u32,
    pub pad: u32,
    pub id: u64,
    /// Bytes of the plan; a signal's number.
    pub size: u64,
}

impl Request {
    /// The user namespace has its maps, the lock is held: come up.
    pub const GO: u32 = 0;
    /// Fork and execute the plan in descriptor 0; descriptor 1 and on go to cells 0 and on.
    pub const START: u32 = 1;
    /// Listen on descriptor 0 for other programs of the same user, until it is shut down: each connection is a socket like
    /// this one. Answered by [`Event::ANSWER`] with an errno or 0.
    pub const LISTEN: u32 = 2;
    /// `pidfd_send_signal(descriptor 0, size)`, for a host that has given up the right to do so itself; answered
    /// by [`Event::ANSWER`] with the errno or 0.
    pub const SIGNAL: u32 = 3;
}

/// Warden to host.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Event {
    pub kind: u32,
    /// The process in the warden's PID namespace.
    pub pid: i32,
    /// Of the request; or `CLD_*` of an exit.
    pub id: u64,
    /// Errno; or the exit's code or signal.
    pub value: i64,
    /// Of an exit: user and system time in µs, peak resident size in KiB.
    pub user_us: u64,
    pub system_us: u64,
    pub peak_kib: u64,
}

impl Event {
    /// The warden is up; `value` has what its kernel has ([`HAS_CLONE3`](Self::HAS_CLONE3) and so on).
    pub const UP: u32 = 1;
    /// The entry process waits for [`Request::GO`]; as an ordinary user its user namespace waits for maps.
    pub const ENTERED: u32 = 2;
    /// What became of request `id`: errno `value`, or 0. A plan is answered on its own socket.
    pub const ANSWER: u32 = 4;
    /// Child `pid` has ended; most that execute plans end untold, as their sockets say so.
    pub const EXITED: u32 = 5;
    /// Before it was up: step `id` failed with errno `value`.
    pub const FAILED: u32 = 6;
    /// The warden's pidfd comes along.
    pub const PIDFD: u32 = 7;
    /// To another program, first of all: it has been let in, or with an errno as value it has not, and nothing follows.
    pub const WELCOME: u32 = 8;

    /// clone3(2): of Linux 5.3, but often refused by filters, which can't look into its arguments.
    pub const HAS_CLONE3: i64 = 1;
    /// open_tree_attr(2). It came with Linux 6.15, as overlays over mounts that are attached nowhere did: an attempt at
    /// one of those would cost each program a mount.
    pub const HAS_OPEN_TREE_ATTR: i64 = 2;
}
