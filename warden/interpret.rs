//! Executes plans: system calls, one after the other, and the few acts that are none.
//! Whatever a plan means is the library's business; nothing here knows of containers.

use crate::arch::{nr, syscall};
use crate::plan::*;
use crate::sys::{Control, close, exit, fork, is_missing, receive, send, set_mask, sys};

const EIO: i64 = 5;
const EINVAL: i64 = 22;
const EMFILE: i64 = 24;
const EAGAIN: i64 = 11;
const EPIPE: i64 = 32;
const ENOSYS: i64 = 38;

/// How a plan ended, short of having become another program.
enum End {
    Done(i32),
    Failed { step: u32, errno: i64 },
}

fn header() -> Header {
    // SAFETY: called only after a plan was mapped or received at BASE; plain integers, any bytes are valid.
    unsafe { (BASE as *const Header).read() }
}

fn cell(address: usize) -> i32 {
    // SAFETY: the library lays plans out; cells are aligned and inside the plan.
    unsafe { (address as *const i32).read() }
}

fn set_cell(address: usize, value: i32) {
    // SAFETY: as `cell`.
    unsafe { (address as *mut i32).write(value) }
}

fn set_step(step: u32) {
    // SAFETY: the header of a plan, which is mapped writable; nobody else in this process uses this field.
    unsafe { core::ptr::addr_of_mut!((*(BASE as *mut Header)).step).write_volatile(step as u64) }
}

fn status_socket() -> i32 {
    cell(BASE + CELLS_AT + STATUS_CELL * 4)
}

fn tell(kind: u32, step: u32, value: i64) {
    let status = Status { kind, step, value };
    // Waits for room: the library reads these messages now and then while it waits for the plan's end.
    send(status_socket(), (&status as *const Status) as usize, size_of::<Status>(), None, true);
}

/// Tells a plan's starter, which reads nothing else before: there is room.
pub fn failed(socket: i32, step: u32, errno: i64) {
    let status = Status { kind: Status::FAILED, step, value: errno };
    send(socket, (&status as *const Status) as usize, size_of::<Status>(), None, false);
}

/// Executes the plan in `fds[0]` of `size` bytes; the other descriptors go to its cells.
pub fn run(fds: &[i32], size: usize) -> ! {
    const PROT_READ_WRITE: usize = 3;
    const MAP_PRIVATE_FIXED_NOREPLACE: usize = 0x10_0002;
    const MAP_POPULATE: usize = 0x8000;
    const O_CLOEXEC: usize = 0o2000000;
    set_mask(0);
    let plan = fds[0];
    // Nearly all of a plan is used, and to fault its pages in one by one takes longer; of a courier's memory little is.
    let populate = if size < COURIER_SIZE { MAP_POPULATE } else { 0 };
    let flags = MAP_PRIVATE_FIXED_NOREPLACE | populate;
    let base = sys!(nr::MMAP, BASE, size, PROT_READ_WRITE, flags, plan, 0);
    if base != BASE as isize || size < DATA_AT || header().magic != MAGIC || header().fds as usize != fds.len() - 1 {
        // The status socket is the first of the plan's descriptors.
        let errno = if base < 0 { -base as i64 } else { EINVAL };
        failed(fds[1], Status::NOT_TAKEN, errno);
        exit(125);
    }
    fill_cells(&fds[1..]);
    // No later descriptor of the plan may land on 0, 1 or 2, where it would be taken for stdio.
    for fd in 0..3 {
        sys!(nr::DUP3, plan, fd, O_CLOEXEC);
    }
    if plan > 2 {
        close(plan);
    }
    match execute() {
        End::Done(code) => exit(code),
        End::Failed { step, errno } => {
            tell(Status::FAILED, step, errno);
            exit(125)
        }
    }
}

fn fill_cells(fds: &[i32]) {
    for (i, fd) in fds.iter().enumerate() {
        set_cell(BASE + CELLS_AT + i * 4, *fd);
    }
}

fn execute() -> End {
    let mut at = 0usize;
    let mut tries = 0;
    while at < header().ops as usize {
        // SAFETY: `at` is below the count of operations; they are plain integers.
        let op = unsafe { &*((BASE + header().ops_at as usize + at * size_of::<Op>()) as *const Op) };
        let mut args = [0usize; 6];
        for (i, arg) in args.iter_mut().enumerate() {
            let given = op.args[i] as usize;
            *arg = if op.loads & 1 << i != 0 { cell(given) as usize } else { given };
        }
        let step = at as u32;
        set_step(step);
        at += 1;
        let result = match op.nr {
            OP_JUMP => {
                at = args[0];
                0
            }
            OP_JUMP_IF_ZERO => {
                if args[0] as i32 == 0 {
                    at = args[1];
                }
                0
            }
            OP_DECIMAL => {
                decimal(args[0], args[1] as u32, args[2]);
                0
            }
            OP_FAIL => -(args[0] as isize),
            OP_INIT => become_init(),
            OP_SERVE => serve(args[0] as i32),
            OP_MORE => {
                let result = more(args[0] as i32, args[1]);
                at = if result >= 0 { result as usize } else { at };
                result.min(0)
            }
            OP_END => return End::Done(args[0] as i32),
            OP_CLOSE_FROM => {
                close_from(args[0]);
                0
            }
            // SAFETY: the library vouches for the plan; this process shares no memory with any other.
            number if number < PSEUDO => unsafe { syscall(number, args) },
            _ => -(ENOSYS as isize),
        };
        let mut errno = if (-4095..0).contains(&result) { -result as i64 } else { 0 };
        if errno == 0 && op.flags & FLAG_FULL != 0 && result != args[2] as isize {
            errno = if result == 0 { EPIPE } else { EIO };
        }
        if errno == EAGAIN && op.flags & FLAG_AGAIN != 0 && tries < AGAIN_MAX {
            tries += 1;
            at -= 1;
            continue;
        }
        tries = 0;
        if errno == 0 {
            if op.store != 0 {
                set_cell(op.store as usize, result as i32);
            }
            continue;
        }
        if errno >= 128 || op.tolerate[errno as usize / 64] & 1 << (errno % 64) == 0 {
            return End::Failed { step, errno };
        }
        if op.otherwise != 0 {
            at = op.otherwise as usize;
        }
    }
    End::Done(0)
}

/// Takes a plan's second part; gives the operation to go on at.
fn more(socket: i32, at: usize) -> isize {
    const PROT_READ_WRITE: usize = 3;
    const MAP_PRIVATE_FIXED: usize = 0x12;
    const MAP_PRIVATE_ANONYMOUS_NOREPLACE: usize = 0x10_0022;
    let room = sys!(nr::MMAP, at, PART_SIZE, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_NOREPLACE, -1isize, 0);
    if room < 0 {
        return room;
    }
    let mut control = Control::new();
    let got = receive(socket, at, PART_SIZE, &mut control, true);
    if got.len < 0 {
        return got.len;
    }
    if got.truncated {
        return -EMFILE as isize;
    }
    // Whoever was to send it has ended, or does without.
    if (got.len as usize) < size_of::<Part>() {
        return -EPIPE as isize;
    }
    // SAFETY: it was received there just now, and any bytes are a valid one.
    let part = unsafe { (at as *const Part).read() };
    let fds = part.fds as usize;
    if part.magic != MAGIC || got.fds != fds + part.mapped as usize || part.cell as usize + fds > CELLS {
        return -EINVAL as isize;
    }
    if part.mapped != 0 {
        let whole = control.fds[fds];
        let mapped = sys!(nr::MMAP, at, part.size, PROT_READ_WRITE, MAP_PRIVATE_FIXED, whole, 0);
        close(whole);
        if mapped < 0 {
            return mapped;
        }
    } else if part.size != got.len as u64 {
        return -EINVAL as isize;
    }
    for (i, fd) in control.fds[..fds].iter().enumerate() {
        set_cell(BASE + CELLS_AT + (part.cell as usize + i) * 4, *fd);
    }
    // SAFETY: the header of a plan, which is mapped writable; nobody else has it.
    unsafe {
        let header = BASE as *mut Header;
        (*header).ops_at = part.ops_at - u64::from(part.first) * size_of::<Op>() as u64;
        (*header).ops = part.first + part.ops;
    }
    part.go as isize
}

/// Whatever /proc may be here: without close_range(2), what can be open is counted. Every descriptor got the lowest
/// number that was free: those that came along have the first few hundred, and an operation opens two at most.
fn close_from(first: usize) {
    const OTHERS: usize = 1024;
    if !is_missing(sys!(nr::CLOSE_RANGE, first, u32::MAX, 0)) {
        return;
    }
    for fd in first..OTHERS + 2 * header().ops as usize {
        close(fd as i32);
    }
}

fn decimal(to: usize, value: u32, suffix: usize) {
    let mut digits = [0u8; 10];
    let mut n = digits.len();
    let mut rest = value;
    loop {
        n -= 1;
        digits[n] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    // SAFETY: the library reserves ten bytes and the suffix's length at `to`.
    unsafe {
        let mut to = to as *mut u8;
        for digit in &digits[n..] {
            to.write(*digit);
            to = to.add(1);
        }
        let mut from = suffix as *const u8;
        loop {
            let byte = from.read();
            to.write(byte);
            if byte == 0 {
                break;
            }
            to = to.add(1);
            from = from.add(1);
        }
    }
}

/// PID 1 of a container: the child returns to the plan, this process never does.
fn become_init() -> isize {
    const ALL: u64 = u64::MAX;
    const SIGCHLD: isize = 17;
    const WNOHANG: usize = 1;
    set_mask(ALL);
    let child = fork();
    if child <= 0 {
        set_mask(0);
        return child;
    }
    close_from(0);
    let mut info = [0u64; 16];
    loop {
        let signal = sys!(nr::RT_SIGTIMEDWAIT, &ALL as *const u64, info.as_mut_ptr(), 0, 8);
        if signal != SIGCHLD {
            if signal > 0 {
                sys!(nr::KILL, child, signal);
            }
            continue;
        }
        loop {
            let mut status = 0i32;
            let pid = sys!(nr::WAIT4, -1isize, &mut status as *mut i32, WNOHANG, 0);
            if pid <= 0 {
                break;
            }
            if pid == child {
                exit(if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) });
            }
        }
    }
}

/// A courier: plans come as messages, straight into the plan's memory, and are answered.
fn serve(socket: i32) -> ! {
    let mut control = Control::new();
    loop {
        let got = receive(socket, BASE, COURIER_SIZE, &mut control, true);
        if got.len <= 0 {
            exit(0);
        }
        let fds = &control.fds[..got.fds];
        let mut status = Status { kind: Status::FAILED, step: Status::NOT_TAKEN, value: EINVAL };
        let mut reply = (0, 0);
        if got.truncated {
            status.value = EMFILE;
        } else if got.len as usize >= DATA_AT && header().magic == MAGIC && header().fds as usize == fds.len() {
            // A courier's cell 0 is its own socket; what came along starts at cell 1.
            set_cell(BASE + CELLS_AT, socket);
            for (i, fd) in fds.iter().enumerate() {
                set_cell(BASE + CELLS_AT + (i + 1) * 4, *fd);
            }
            match execute() {
                End::Done(_) => {
                    status = Status { kind: Status::DONE, step: 0, value: 0 };
                    reply = (header().reply_at as usize, header().reply_len as usize);
                }
                End::Failed { step, errno } => status = Status { kind: Status::FAILED, step, value: errno },
            }
        }
        for fd in fds {
            close(*fd);
        }
        send(socket, (&status as *const Status) as usize, size_of::<Status>(), None, true);
        if reply.1 != 0 {
            send(socket, reply.0, reply.1, None, true);
        }
    }
}
