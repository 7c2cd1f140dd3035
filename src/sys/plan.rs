//! Writes plans: lists of system calls that the warden's children execute (the format is `warden/plan.rs`).
//!
//! Nothing here interprets; the writer keeps, beside each operation, the words for the error that its failure
//! becomes. Addresses are final as soon as data is added, so data may point to data.

#[path = "../../warden/plan.rs"]
#[allow(dead_code)] // the warden's half
pub(crate) mod format;

use super::{diagnose, memfd, message};
use crate::error::{Error, ErrorKind, Result};
use crate::feature::Feature;
use format::{BASE, CELLS, CELLS_AT, DATA_AT, FDS_MAX, FLAG_AGAIN, FLAG_FULL, MAGIC, Op, Part};
use std::borrow::Cow;
use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An address in the plan's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct At(pub u64);

/// A place in the plan's memory that holds a descriptor, a pid or another result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell(pub u64);

/// An operation to go on at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label(usize);

/// What an operation is given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    Value(u64),
    Load(Cell),
}

macro_rules! arg_from {
    ($($int:ty),*) => { $(impl From<$int> for Arg { fn from(value: $int) -> Self { Arg::Value(value as i64 as u64) } })* };
}
arg_from!(i32, u32, i64, u64, usize);

impl From<At> for Arg {
    fn from(at: At) -> Self {
        Arg::Value(at.0)
    }
}

impl From<Cell> for Arg {
    fn from(cell: Cell) -> Self {
        Arg::Load(cell)
    }
}

/// The words for a failure. A plan has hundreds of these and needs one of them at most: no text has memory of its own.
#[derive(Default)]
struct Words {
    call: &'static str,
    /// What it is called on, in [`Compiled::text`]: none if empty.
    detail: Range<u32>,
    /// Likewise.
    path: Range<u32>,
    remedy: Option<&'static str>,
    needs: Option<Feature>,
    /// Where in the store the upper directory of an overlay is, likewise in the text.
    upper: Range<u32>,
    during: Option<&'static str>,
    kind: Option<ErrorKind>,
    protection: Option<&'static str>,
}

pub(crate) struct Plan<'fd> {
    /// The memory from BASE on, without the operations.
    data: Vec<u8>,
    ops: Vec<Op>,
    words: Vec<Words>,
    text: Vec<u8>,
    fds: Vec<BorrowedFd<'fd>>,
    labels: Vec<usize>,
    /// Of operations whose `otherwise` or argument is a label: (operation, argument or none, label).
    jumps: Vec<(usize, Option<usize>, Label)>,
    during: Option<&'static str>,
    reply: (u64, u64),
    /// Cells from 0 on that descriptors have already: the status socket's, and those of a first part.
    cells: usize,
    /// What a first part has, where there was one.
    sent: Option<Sent>,
}

/// Where a plan's second part begins.
#[derive(Clone, Copy)]
struct Sent {
    /// Its head, in the plan's memory.
    at: usize,
    ops: usize,
    /// The first of its descriptors' cells.
    cell: usize,
}

/// The plan in its final form, and the words for its errors.
#[derive(Default)]
pub(crate) struct Compiled {
    pub bytes: Vec<u8>,
    words: Vec<Words>,
    text: Vec<u8>,
}

impl<'fd> Plan<'fd> {
    /// An empty plan. Cell 0, the status socket, is filled in by whoever starts it.
    pub fn new() -> Self {
        // As large as the plan of a usual container.
        let mut data = Vec::with_capacity(48 << 10);
        data.resize(DATA_AT, 0);
        Self {
            data,
            ops: Vec::with_capacity(384),
            words: Vec::with_capacity(384),
            text: Vec::with_capacity(4 << 10),
            fds: Vec::new(),
            labels: Vec::new(),
            jumps: Vec::new(),
            during: None,
            reply: (0, 0),
            cells: 1,
            sent: None,
        }
    }

    /// An empty plan that comes in two parts. Cell 1 is where a second process may take the second part from.
    pub fn in_two_parts() -> Self {
        Self { cells: 2, ..Self::new() }
    }

    pub fn second_socket(&self) -> Cell {
        Cell((BASE + CELLS_AT + 4) as u64)
    }

    /// The socket that started the plan.
    pub fn status(&self) -> Cell {
        Cell((BASE + CELLS_AT) as u64)
    }

    /// What the following operations are for, in the form "mounting the root filesystem".
    pub fn during(&mut self, what: &'static str) {
        self.during = Some(what);
    }

    /// A descriptor that goes with the plan.
    pub fn fd(&mut self, fd: BorrowedFd<'fd>) -> Cell {
        self.fds.push(fd);
        Cell((BASE + CELLS_AT + 4 * (self.cells + self.fds.len() - 1)) as u64)
    }

    /// Takes the second part of the plan, and goes on with it where its sender says.
    pub fn more(&mut self, socket: Cell) {
        self.op(format::OP_MORE, "recvmsg(plan)", [socket.into(), 0.into()]);
    }

    /// The first part: what has been added so far. All its labels have been placed.
    pub fn first_part(&mut self) -> Result<(Vec<u8>, Vec<BorrowedFd<'fd>>)> {
        self.check_fds()?;
        let end = self.data.len().next_multiple_of(8);
        let at = (end + self.ops.len() * size_of::<Op>()).next_multiple_of(rustix::param::page_size());
        self.resolve();
        for op in self.ops.iter_mut().filter(|op| op.nr == format::OP_MORE) {
            op.args[1] = (BASE + at) as u64;
        }
        let mut bytes = self.data.clone();
        self.finish(&mut bytes, self.cells);
        self.cells += self.fds.len();
        self.sent = Some(Sent { at, ops: self.ops.len(), cell: self.cells });
        self.data.resize(at + size_of::<Part>(), 0);
        Ok((bytes, std::mem::take(&mut self.fds)))
    }

    /// The second part, once for each process that takes it, each with where that goes on; and its words.
    pub fn second_part<const N: usize>(mut self, go: [Label; N]) -> Result<SecondPart<'fd, N>> {
        let Some(sent) = self.sent else {
            return Err(Error::new(ErrorKind::Setup, "a second part without a first"));
        };
        self.check_fds()?;
        self.resolve();
        let mut bytes = self.data.split_off(sent.at);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let ops_at = sent.at + bytes.len();
        self.ops[sent.ops..].iter().for_each(|op| encode(op, &mut bytes));
        let counts = both(sent.ops as u32, (self.ops.len() - sent.ops) as u32);
        let cells = both(sent.cell as u32, self.fds.len() as u32);
        let head =
            [MAGIC, bytes.len() as u64, ops_at as u64, u64::from_ne_bytes(counts), u64::from_ne_bytes(cells)];
        let go = go.map(|label| self.labels[label.0] as u32);
        let compiled = Compiled { bytes, words: self.words, text: self.text };
        Ok(SecondPart { head, go, compiled, fds: self.fds })
    }

    fn check_fds(&self) -> Result<()> {
        if self.fds.len() + 2 > FDS_MAX || self.cells + self.fds.len() > CELLS {
            let count = self.cells - 1 + self.fds.len();
            let error = Error::new(ErrorKind::TooLarge, format!("{count} descriptors for one container"));
            return Err(error.with_remedy("use fewer mounts"));
        }
        Ok(())
    }

    /// What jumps to labels gets their numbers.
    fn resolve(&mut self) {
        for (op, arg, label) in self.jumps.drain(..) {
            let target = self.labels[label.0] as u64;
            match arg {
                Some(arg) => self.ops[op].args[arg] = target,
                None => self.ops[op].otherwise = target,
            }
        }
    }

    /// Completes an image: the operations behind the data, and the header.
    fn finish(&self, bytes: &mut Vec<u8>, implicit_fds: usize) {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let ops_at = bytes.len();
        let size = ops_at + self.ops.len() * size_of::<Op>();
        bytes.reserve_exact(size - ops_at);
        let fds = (self.fds.len() + implicit_fds) as u32;
        let counts = u64::from_ne_bytes(both(self.ops.len() as u32, fds));
        let words = [MAGIC, size as u64, ops_at as u64, counts, self.reply.0, self.reply.1, 0];
        for (word, place) in words.into_iter().zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        debug_assert_eq!(words.len() * 8, CELLS_AT);
        self.ops.iter().for_each(|op| encode(op, bytes));
        debug_assert_eq!(bytes.len(), size);
    }

    /// Bytes at an address that is a multiple of 8.
    pub fn bytes(&mut self, bytes: &[u8]) -> At {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let at = BASE + self.data.len();
        self.data.extend_from_slice(bytes);
        At(at as u64)
    }

    /// A C string. A NUL inside ends it early: callers refuse such input before.
    pub fn string(&mut self, text: impl AsRef<OsStr>) -> At {
        let at = self.bytes(text.as_ref().as_bytes());
        self.data.push(0);
        at
    }

    pub fn c_str(&mut self, text: &CStr) -> At {
        self.bytes(text.to_bytes_with_nul())
    }

    pub fn space(&mut self, len: usize) -> At {
        let at = self.bytes(&[]);
        self.data.resize(self.data.len() + len, 0);
        at
    }

    /// A cell with a value of its own.
    pub fn cell(&mut self, value: i32) -> Cell {
        Cell(self.bytes(&value.to_ne_bytes()).0)
    }

    /// 64-bit words: arrays of pointers, structures of the kernel.
    pub fn words64(&mut self, words: &[u64]) -> At {
        let at = self.bytes(&[]);
        words.iter().for_each(|word| self.data.extend_from_slice(&word.to_ne_bytes()));
        at
    }

    /// A NULL-terminated array of C strings, as for `execve`.
    pub fn vector<S: AsRef<OsStr>>(&mut self, strings: impl IntoIterator<Item = S>) -> At {
        let mut addresses: Vec<u64> = strings.into_iter().map(|s| self.string(s).0).collect();
        addresses.push(0);
        self.words64(&addresses)
    }

    /// Adds an operation; `call` is what its error says.
    pub fn op<const N: usize>(&mut self, nr: u32, call: &'static str, args: [Arg; N]) -> Added<'_, 'fd> {
        let mut op =
            Op { nr, loads: 0, flags: 0, pad: 0, store: 0, tolerate: [0; 2], otherwise: 0, args: [0; 6] };
        for (i, arg) in args.into_iter().enumerate() {
            match arg {
                Arg::Value(value) => op.args[i] = value,
                Arg::Load(cell) => {
                    op.args[i] = cell.0;
                    op.loads |= 1 << i;
                }
            }
        }
        self.ops.push(op);
        self.words.push(Words { call, during: self.during, ..Words::default() });
        Added(self)
    }

    pub fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    /// The label means the next operation.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = self.ops.len();
    }

    pub fn jump(&mut self, label: Label) {
        self.op(format::OP_JUMP, "jump", [0.into()]);
        self.jumps.push((self.ops.len() - 1, Some(0), label));
    }

    pub fn jump_if_zero(&mut self, cell: Cell, label: Label) {
        self.op(format::OP_JUMP_IF_ZERO, "jump", [cell.into(), 0.into()]);
        self.jumps.push((self.ops.len() - 1, Some(1), label));
    }

    /// `prefix`, the value of `cell` as decimal digits, `suffix`: a C string that exists once this was executed.
    pub fn decimal(&mut self, prefix: &str, cell: Cell, suffix: &CStr) -> At {
        let suffix_at = self.c_str(suffix);
        let at = self.bytes(prefix.as_bytes());
        self.data.resize(self.data.len() + 10 + suffix.to_bytes_with_nul().len(), 0);
        self.op(
            format::OP_DECIMAL,
            "decimal",
            [At(at.0 + prefix.len() as u64).into(), cell.into(), suffix_at.into()],
        );
        at
    }

    /// What a courier sends back.
    pub fn reply(&mut self, at: At, len: usize) {
        self.reply = (at.0, len as u64);
    }

    /// Bytes that a courier sends back.
    pub fn wants_reply(&self) -> usize {
        self.reply.1 as usize
    }

    /// `implicit_fds` are those that the starter adds in front: the status socket, or none for a courier.
    pub fn compile(mut self, implicit_fds: usize) -> Result<(Compiled, Vec<BorrowedFd<'fd>>)> {
        self.check_fds()?;
        self.resolve();
        let mut bytes = std::mem::take(&mut self.data);
        self.finish(&mut bytes, implicit_fds);
        Ok((Compiled { bytes, words: self.words, text: self.text }, self.fds))
    }
}

impl Compiled {
    /// The memfd that the warden's child maps; a courier's memory is larger than its first plan.
    pub fn memfd(&self, at_least: usize) -> Result<OwnedFd> {
        memfd::sealed("coracle-plan", &self.bytes, self.bytes.len().max(at_least), false)
    }

    /// The error for a failed operation.
    pub fn error(&self, step: u32, errno: i64) -> Error {
        let Some(words) = self.words.get(step as usize) else {
            return match step {
                format::Status::NOT_FORKED => Error::errno("clone(in the warden)", errno as i32),
                _ => Error::errno("the warden could not take the plan", errno as i32)
                    .with_kind(ErrorKind::Setup),
            };
        };
        let mut error = self.named(words, |call| Error::errno(call, errno as i32));
        // Of some errors the errno alone says what to do.
        if let Some(remedy) = words.remedy.filter(|_| error.remedy().is_none()) {
            error = error.with_remedy(remedy);
        }
        if let Some(protection) = words.protection {
            error = error.with_protection(protection);
        }
        if let Some(kind) = words.kind.filter(|_| !error.is_missing_call()) {
            error = error.with_kind(kind);
        }
        if let Some(feature) = words.needs {
            error = diagnose::explain(error, feature);
        }
        match self.text(&words.upper) {
            [] => error,
            upper => diagnose::explain_upper(error, Path::new(OsStr::from_bytes(upper))),
        }
    }

    /// The error for an operation that has not come back; `None` for one that waits for another process of the plan.
    pub fn hung(&self, step: u32) -> Option<Error> {
        let words = self.words.get(step as usize)?;
        let waits = ["read(sync)", "recvmsg", "recvmsg(plan)", "wait4"].contains(&words.call);
        let error = |call| Error::new(ErrorKind::TimedOut, format!("{call}: it has not come back"));
        (!waits).then(|| self.named(words, error))
    }

    fn text(&self, range: &Range<u32>) -> &[u8] {
        &self.text[range.start as usize..range.end as usize]
    }

    fn named(&self, words: &Words, error: impl FnOnce(Cow<'static, str>) -> Error) -> Error {
        let text = |range| self.text(range);
        let mut error = error(match words.detail.is_empty() {
            true => words.call.into(),
            false => format!("{}({})", words.call, String::from_utf8_lossy(text(&words.detail))).into(),
        });
        if !words.path.is_empty() {
            error = error.with_path(OsStr::from_bytes(text(&words.path)));
        }
        match words.during {
            Some(during) => error.during(during),
            None => error,
        }
    }
}

/// A second part in its final form.
pub(crate) struct SecondPart<'fd, const N: usize> {
    /// What all their heads have in common.
    head: [u64; 5],
    go: [u32; N],
    compiled: Compiled,
    fds: Vec<BorrowedFd<'fd>>,
}

impl<const N: usize> SecondPart<'_, N> {
    /// Sends it over these sockets. Who has ended takes nothing, and has said why.
    pub fn send(self, sockets: [BorrowedFd<'_>; N]) -> Result<Compiled> {
        let too_long = |error: &Error| error.raw_os_error() == Some(nix::libc::EMSGSIZE);
        let sent = match self.compiled.bytes.len() <= format::PART_SIZE {
            true => self.send_to(sockets, None),
            false => Err(Error::errno("sendmsg", nix::libc::EMSGSIZE)),
        };
        // A machine may allow less in one message, by net.core.wmem_default.
        if sent.as_ref().is_err_and(too_long) {
            let whole = self.compiled.memfd(0)?;
            self.send_to(sockets, Some(whole.as_fd()))?;
        } else {
            sent?;
        }
        Ok(self.compiled)
    }

    /// `whole`: in memory instead of in the message.
    fn send_to(&self, sockets: [BorrowedFd<'_>; N], whole: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut fds: Vec<BorrowedFd<'_>> = self.fds.clone();
        fds.extend(whole);
        for (go, socket) in self.go.into_iter().zip(sockets) {
            let mut head = [0; size_of::<Part>()];
            let last = u64::from_ne_bytes(both(go, whole.is_some().into()));
            for (word, place) in self.head.into_iter().chain([last]).zip(head.chunks_exact_mut(8)) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            let rest = if whole.is_some() { &[] } else { &self.compiled.bytes[head.len()..] };
            message::send_to_some(socket, &[&head, rest], &fds)?;
        }
        Ok(())
    }
}

fn encode(op: &Op, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&op.nr.to_ne_bytes());
    bytes.extend_from_slice(&[op.loads, op.flags, 0, 0]);
    for word in [op.store, op.tolerate[0], op.tolerate[1], op.otherwise] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    for word in op.args {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
}

/// Two 32-bit fields of a structure, as they lie side by side.
fn both(first: u32, second: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

/// The operation just added, to say more about it.
pub(crate) struct Added<'a, 'fd>(&'a mut Plan<'fd>);

impl Added<'_, '_> {
    fn last(&mut self) -> &mut Op {
        let n = self.0.ops.len() - 1;
        &mut self.0.ops[n]
    }

    fn words(&mut self) -> &mut Words {
        let n = self.0.words.len() - 1;
        &mut self.0.words[n]
    }

    fn text(&mut self, text: &[u8]) -> Range<u32> {
        let start = self.0.text.len() as u32;
        self.0.text.extend_from_slice(text);
        start..self.0.text.len() as u32
    }

    /// Keeps the result.
    pub fn store(mut self, cell: Cell) -> Self {
        self.last().store = cell.0;
        self
    }

    /// A new cell with the result.
    pub fn result(self) -> Cell {
        let cell = self.0.cell(-1);
        self.store(cell);
        cell
    }

    /// Goes on after these errnos.
    pub fn tolerate(mut self, errnos: &[u32]) -> Self {
        for errno in errnos {
            self.last().tolerate[(errno / 64) as usize] |= 1 << (errno % 64);
        }
        self
    }

    /// Goes on after any errno.
    pub fn tolerate_all(mut self) -> Self {
        self.last().tolerate = [u64::MAX; 2];
        self
    }

    /// Goes on there after a tolerated errno.
    pub fn otherwise(self, label: Label) -> Self {
        let op = self.0.ops.len() - 1;
        self.0.jumps.push((op, None, label));
        self
    }

    /// The result must be the third argument: nothing may be read or written partly.
    pub fn full(mut self) -> Self {
        self.last().flags |= FLAG_FULL;
        self
    }

    /// Calls again as long as the answer is EAGAIN, within reason.
    pub fn again(mut self) -> Self {
        self.last().flags |= FLAG_AGAIN;
        self
    }

    /// The path that its error names.
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.words().path = self.text(path.as_ref().as_os_str().as_bytes());
        self
    }

    /// What stands in parentheses behind the call's name in its error.
    pub fn detail(mut self, detail: impl AsRef<[u8]>) -> Self {
        self.words().detail = self.text(detail.as_ref());
        self
    }

    /// Another name of the call.
    pub fn call(mut self, call: &'static str) -> Self {
        self.words().call = call;
        self
    }

    pub fn remedy(mut self, remedy: &'static str) -> Self {
        self.words().remedy = Some(remedy);
        self
    }

    /// It can't be done where the host lacks this: its error then says why.
    pub fn needs(mut self, feature: Feature) -> Self {
        self.words().needs = Some(feature);
        self
    }

    /// Nor where the filesystem that the store is on takes no upper directory, which is to be here.
    pub fn upper(mut self, dir: &Path) -> Self {
        self.words().upper = self.text(dir.as_os_str().as_bytes());
        self
    }

    pub fn kind(mut self, kind: ErrorKind) -> Self {
        self.words().kind = Some(kind);
        self
    }

    /// What its failure means that can't be had.
    pub fn protection(mut self, name: &'static str) -> Self {
        self.words().protection = Some(name);
        self
    }
}
