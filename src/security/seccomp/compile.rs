//! From a profile to a classic BPF program (seccomp(2), `linux/filter.h`).
//!
//! ```text
//! load arch ── equal to a known one? ── that one's tree over the call's number ── return
//!                                                                          └──── compare arguments ── return
//!           └─ otherwise: kill the process
//! ```
//! The tree is a binary search over *ranges* of numbers with the same answer: a call is decided in about eight
//! comparisons. Its leaves return constants wherever no argument matters, which lets the kernel remember
//! the answer for a number and skip the program (`seccomp_cache_prepare`). Loading it is part of each start, and the
//! kernel takes longer the more instructions there are: leaves with the same answer share one return, and where one argument
//! decides by its order alone, its values have a tree too.
//!
//! **Numbers beyond the profile.** A call that is newer than the newest one the profile names can't have been
//! considered by its author. It fails with ENOSYS where the default action refuses, because a libc that
//! sees ENOSYS falls back to an older call and one that sees EPERM gives up; runc does the same, by a stub before
//! libseccomp's program. Calls that the author could have named get the default action.
//!
//! **Which rule counts**, as libseccomp has it: a rule without conditions beats those with conditions, and the
//! first one counts among equals. A refusal that would be lost that way is an error here.
#![forbid(unsafe_code)]

use super::profile::{Action, Arches, Condition, Op, Profile, Target};
use crate::error::{Error, ErrorKind, Result};
use linux_raw_sys::errno::ENOSYS;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

/// The kernel's BPF_MAXINSNS.
const MAX_INSTRUCTIONS: usize = 4096;

/// A kind of system call: its own numbers and, in `seccomp_data`, its own architecture value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    Aarch64,
    Arm,
}

/// The bit that tells x32 calls from x86_64 calls; they share the architecture value.
const X32: u32 = 0x4000_0000;

/// Calls of 32-bit ARM that lie far above the table (`__ARM_NR_BASE`).
const ARM_PRIVATE: [(&str, u32); 4] =
    [("breakpoint", 0xf0001), ("cacheflush", 0xf0002), ("set_tls", 0xf0005), ("get_tls", 0xf0006)];

/// Calls that exist on other machines only. Naming them in a profile is right.
const ELSEWHERE: &[&str] = &[
    "s390_pci_mmio_read",
    "s390_pci_mmio_write",
    "s390_runtime_instr",
    "s390_guarded_storage",
    "s390_sthyi",
    "riscv_flush_icache",
    "riscv_hwprobe",
    "swapcontext",
    "subpage_prot",
    "rtas",
    "sys_debug_setcontext",
    "switch_endian",
    "spu_create",
    "spu_run",
    "multiplexer",
    "cachectl",
    "sysmips",
    "timerfd",
    "usr26",
    "usr32",
    "pciconfig_iobase",
    "pciconfig_read",
    "pciconfig_write",
    "getpagesize",
];

impl Abi {
    const ALL: [Abi; 4] = [Abi::X86_64, Abi::X86, Abi::Aarch64, Abi::Arm];

    /// AUDIT_ARCH_* (`linux/audit.h`).
    pub(super) fn audit(self) -> u32 {
        match self {
            Abi::X86_64 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    fn of_machine(machine: &str) -> Option<Self> {
        match machine {
            "amd64" => Some(Abi::X86_64),
            "arm64" => Some(Abi::Aarch64),
            _ => None,
        }
    }

    /// By libseccomp's name. x32 is not here: its calls are never let through.
    fn of_name(name: &str) -> Option<Self> {
        match name {
            "SCMP_ARCH_X86_64" => Some(Abi::X86_64),
            "SCMP_ARCH_X86" => Some(Abi::X86),
            "SCMP_ARCH_AARCH64" => Some(Abi::Aarch64),
            "SCMP_ARCH_ARM" => Some(Abi::Arm),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Abi::X86_64 => "SCMP_ARCH_X86_64",
            Abi::X86 => "SCMP_ARCH_X86",
            Abi::Aarch64 => "SCMP_ARCH_AARCH64",
            Abi::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// The number of a call.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        TABLES[self as usize].get(name).copied()
    }
}

static TABLES: LazyLock<[HashMap<&'static str, u32>; 4]> = LazyLock::new(|| {
    macro_rules! table {
        ($arch:ident) => {{
            use syscalls::$arch::Sysno;
            // Not `Sysno::iter`, which leaves out the last one.
            (0..=Sysno::last().id())
                .filter_map(|id| Sysno::new(id as usize))
                .map(|call| (call.name().trim_start_matches("r#"), call.id() as u32))
                .collect::<HashMap<_, _>>()
        }};
    }
    let mut arm = table!(arm);
    arm.extend(ARM_PRIVATE);
    let mut aarch64 = table!(aarch64);
    // Where the crate `syscalls` has not the kernel's name, which is the one in profiles.
    arm.insert("sync_file_range2", 341);
    aarch64.insert("newfstatat", 79);
    [table!(x86_64), table!(x86), aarch64, arm]
});

/// One `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

pub(super) const LD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JA: u16 = 0x05;
pub(super) const JEQ: u16 = 0x15;
pub(super) const JGT: u16 = 0x25;
pub(super) const JGE: u16 = 0x35;
pub(super) const RET: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

fn insn(code: u16, k: u32, jt: u8, jf: u8) -> Insn {
    Insn { code, jt, jf, k }
}

/// Loads half of an argument. Little endian: the low word comes first.
fn low_word(argument: u8) -> Insn {
    insn(LD, ARGS + 8 * u32::from(argument), 0, 0)
}

fn high_word(argument: u8) -> Insn {
    insn(LD, ARGS + 8 * u32::from(argument) + 4, 0, 0)
}

impl Insn {
    /// As the kernel reads it.
    pub(super) fn bytes(self) -> [u8; 8] {
        let ([c0, c1], [k0, k1, k2, k3]) = (self.code.to_ne_bytes(), self.k.to_ne_bytes());
        [c0, c1, self.jt, self.jf, k0, k1, k2, k3]
    }
}

/// The answer for one number: the first branch whose conditions hold, else `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer<'a> {
    branches: Vec<(&'a [Condition], u32)>,
    last: u32,
}

impl Answer<'_> {
    fn always(code: u32) -> Self {
        Self { branches: Vec::new(), last: code }
    }

    /// Where only the order of one argument's values counts, and no value beyond 32 bits is named.
    fn by_one_argument(&self) -> Option<ByArgument<'_>> {
        let conditions = self.branches.iter().map(|(conditions, code)| match conditions {
            [condition] => Some((condition.index, condition.op.compared()?, condition.op, *code)),
            _ => None,
        });
        let conditions: Vec<_> = conditions.collect::<Option<_>>()?;
        let index = conditions.first()?.0;
        if conditions.iter().any(|(other, value, ..)| *other != index || *value > u32::MAX.into()) {
            return None;
        }
        let code = |argument: u64| {
            let holds = conditions.iter().find(|(.., op, _)| op.holds(argument));
            holds.map_or(self.last, |(.., code)| *code)
        };
        let edges = conditions.iter().flat_map(|(_, value, ..)| [*value, value + 1]);
        let edges: BTreeSet<u32> = edges.filter_map(|edge| edge.try_into().ok()).chain([0]).collect();
        let mut ranges: Vec<_> =
            edges.iter().map(|edge| (*edge, Answer::always(code((*edge).into())))).collect();
        ranges.dedup_by(|next, last| next.1 == last.1);
        Some(ByArgument { index, ranges, beyond: code(1 << 32) })
    }
}

/// What one argument decides.
struct ByArgument<'a> {
    index: u8,
    /// Of its low word, where the high one is 0.
    ranges: Vec<(u32, Answer<'a>)>,
    /// The answer where it is not.
    beyond: u32,
}

/// Compiles `profile` for `target`.
pub(super) fn compile(profile: &Profile, target: &Target) -> Result<Vec<Insn>> {
    let Some(native) = Abi::of_machine(target.machine) else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("seccomp filters are not made for {} here", target.machine),
        ));
    };
    check_names(profile, target)?;
    let mut program = vec![insn(LD, ARCH, 0, 0)];
    for abi in abis(&profile.arches, native) {
        let mut section = vec![insn(LD, NR, 0, 0)];
        section.extend(tree(&ranges(profile, target, abi)?));
        program.push(insn(JEQ, abi.audit(), 1, 0));
        program.push(insn(JA, section.len() as u32, 0, 0));
        program.extend(section);
    }
    program.push(insn(RET, Action::KillProcess.code(), 0, 0));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the seccomp profile makes {} instructions, the kernel takes {MAX_INSTRUCTIONS}",
                program.len()
            ),
        ));
    }
    Ok(program)
}

/// The machine's own kind of call first, then those that the profile lists and this machine has.
fn abis(arches: &Arches, native: Abi) -> Vec<Abi> {
    let listed: &[Box<str>] = match arches {
        Arches::List(list) => list,
        Arches::Map(map) => {
            map.iter().find(|(arch, _)| **arch == *native.name()).map_or(&[], |(_, along)| along)
        }
    };
    let family = match native {
        Abi::X86_64 | Abi::X86 => [Abi::X86_64, Abi::X86],
        Abi::Aarch64 | Abi::Arm => [Abi::Aarch64, Abi::Arm],
    };
    let wanted = |abi: &Abi| *abi == native || listed.iter().any(|name| Abi::of_name(name) == Some(*abi));
    family.into_iter().filter(wanted).collect()
}

/// A name that no table has can't be refused. Where the default lets calls through, that is an error.
fn check_names(profile: &Profile, target: &Target) -> Result<()> {
    if !profile.default.is_permissive() {
        return Ok(());
    }
    let refusing = profile.rules.iter().filter(|rule| !rule.action.is_permissive() && rule.applies(target));
    for name in refusing.flat_map(|rule| &rule.names) {
        if Abi::ALL.iter().all(|abi| abi.number(name).is_none()) && !ELSEWHERE.contains(&&**name) {
            return Err(Error::new(
                ErrorKind::InvalidData,
                format!(
                    "seccomp profile: {name:?} is to be refused, but no system call of that name is known"
                ),
            ));
        }
    }
    Ok(())
}

/// The answer for each number, as ranges: where each begins, the first at 0.
fn ranges<'a>(profile: &'a Profile, target: &Target, abi: Abi) -> Result<Vec<(u32, Answer<'a>)>> {
    let default = profile.default.code();
    let mut newest = None;
    let mut rules: BTreeMap<u32, Vec<(&'a [Condition], Action)>> = BTreeMap::new();
    for rule in &profile.rules {
        let numbers = rule.names.iter().filter_map(|name| abi.number(name));
        if rule.applies(target) {
            for number in numbers {
                rules.entry(number).or_default().push((&rule.conditions, rule.action));
                newest = newest.max((number < ARM_PRIVATE[0].1).then_some(number));
            }
        } else {
            // The author knew it, also where the rule does not apply.
            newest = newest.max(numbers.filter(|number| *number < ARM_PRIVATE[0].1).max());
        }
    }
    let beyond = match newest {
        Some(_) if !profile.default.is_permissive() => Action::Errno(ENOSYS as u16).code(),
        _ => default,
    };
    let newest = newest.unwrap_or(0);
    let mut ranges: Vec<(u32, Answer)> = vec![(0, Answer::always(default))];
    let mut put = |from: u32, answer: Answer<'a>| match ranges.last_mut() {
        Some((start, last)) if *start == from => *last = answer,
        Some((_, last)) if *last == answer && answer.branches.is_empty() => {}
        _ => ranges.push((from, answer)),
    };
    for (&number, rules) in &rules {
        if number > newest {
            put(newest + 1, Answer::always(beyond));
        }
        let answer = answer(rules, profile.default).map_err(|conflict| {
            conflict.during(format!("compiling the rules for system call {number} of {}", abi.name()))
        })?;
        put(number, answer);
        put(number + 1, Answer::always(if number < newest { default } else { beyond }));
    }
    put(newest + 1, Answer::always(beyond));
    if abi == Abi::X86_64 {
        // Always: with a permissive default it would be a way around every refusal.
        put(X32, Answer::always(Action::Errno(ENOSYS as u16).code()));
    }
    // Overwriting a start can leave equal neighbours.
    ranges.dedup_by(|next, last| next.1 == last.1 && last.1.branches.is_empty());
    Ok(ranges)
}

/// What one call's rules amount to.
fn answer<'a>(rules: &[(&'a [Condition], Action)], default: Action) -> Result<Answer<'a>> {
    let plain = rules.iter().find(|(conditions, action)| conditions.is_empty() && *action != default);
    if let Some(&(_, action)) = plain {
        if action.is_permissive() && rules.iter().any(|(_, other)| !other.is_permissive()) {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "seccomp profile: a call is both allowed without conditions and refused",
            )
            .with_remedy("give the rule that allows it conditions, or drop the one that refuses"));
        }
        return Ok(Answer::always(action.code()));
    }
    let mut seen = HashSet::new();
    let branches: Vec<_> = rules
        .iter()
        .filter(|(conditions, _)| !conditions.is_empty())
        .filter(|(conditions, _)| seen.insert(*conditions))
        .map(|(conditions, action)| (*conditions, action.code()))
        .collect();
    let branches =
        if branches.iter().all(|(_, code)| *code == default.code()) { Vec::new() } else { branches };
    Ok(Answer { branches, last: default.code() })
}

/// A search tree; the number is in the accumulator.
fn tree(ranges: &[(u32, Answer<'_>)]) -> Vec<Insn> {
    let mut tree = Tree { reversed: Vec::new(), returns: HashMap::new() };
    let root = tree.node(ranges, NUMBERS);
    tree.lead_to(root);
    tree.reversed.reverse();
    tree.reversed
}

/// Numbers of calls are below this, but for a few. The kernel runs a new filter once for each of them, so each counts
/// the same for the tree's balance.
const NUMBERS: u32 = 512;

/// A program that is written from its end, where the targets of its jumps are: places are counted from there.
struct Tree {
    reversed: Vec<Insn>,
    /// Where the nearest return of an answer is.
    returns: HashMap<u32, usize>,
}

impl Tree {
    fn push(&mut self, insn: Insn) -> usize {
        self.reversed.push(insn);
        self.reversed.len() - 1
    }

    /// How far the next instruction would have to jump.
    fn distance(&self, place: usize) -> usize {
        self.reversed.len() - place - 1
    }

    /// Writes what decides among `ranges`, the last of which ends before `end`, and gives its place.
    fn node(&mut self, ranges: &[(u32, Answer<'_>)], end: u32) -> usize {
        let first = match ranges {
            [] => return 0,
            [(_, answer)] => return self.leaf(answer),
            [(first, _), ..] => *first,
        };
        let middle = first + end.saturating_sub(first) / 2;
        let half = ranges.partition_point(|(start, _)| *start <= middle).clamp(1, ranges.len() - 1);
        let (low, high) = ranges.split_at(half);
        let above = self.node(high, end);
        let below = self.node(low, high[0].0);
        let above = self.near(above);
        let below = self.near(below);
        let (above, below) = (self.distance(above) as u8, self.distance(below) as u8);
        self.push(insn(JGE, high[0].0, above, below))
    }

    fn leaf(&mut self, answer: &Answer<'_>) -> usize {
        if answer.branches.is_empty() {
            return self.answer(answer.last);
        }
        let Some(ByArgument { index, ranges, beyond }) = answer.by_one_argument() else {
            let code = leaf(answer);
            self.reversed.extend(code.into_iter().rev());
            return self.reversed.len() - 1;
        };
        let root = self.node(&ranges, u32::MAX);
        self.lead_to(root);
        let low = self.push(low_word(index));
        let beyond = self.answer(beyond);
        let (beyond, low) = (self.distance(beyond) as u8, self.distance(low) as u8);
        self.push(insn(JEQ, 0, low, beyond));
        self.push(high_word(index))
    }

    /// A return, the same for all that are near enough.
    fn answer(&mut self, code: u32) -> usize {
        match self.returns.get(&code) {
            Some(&place) if self.distance(place) <= REACH => place,
            _ => {
                let place = self.push(insn(RET, code, 0, 0));
                self.returns.insert(code, place);
                place
            }
        }
    }

    /// A place that the next but one instruction reaches with a conditional jump, and that leads to `place`.
    fn near(&mut self, place: usize) -> usize {
        match self.reversed[place] {
            _ if self.distance(place) <= REACH => place,
            Insn { code: RET, k, .. } => self.answer(k),
            _ => self.lead_to(place),
        }
    }

    /// Has the program go on at `place`: the next instruction, or a jump.
    fn lead_to(&mut self, place: usize) -> usize {
        match self.distance(place) {
            0 => place,
            distance => self.push(insn(JA, distance as u32, 0, 0)),
        }
    }
}

/// A conditional jump passes over 255 instructions at most, a plain one over all; one may still come in between.
const REACH: usize = 254;

fn leaf(answer: &Answer<'_>) -> Vec<Insn> {
    let mut code = Vec::new();
    for (conditions, action) in &answer.branches {
        branch(conditions, *action, &mut code);
    }
    code.push(insn(RET, answer.last, 0, 0));
    code
}

/// "Over the rest of this condition" and "out of this branch" in jumps that are not yet placed.
const HELD: u8 = 254;
const FAILED: u8 = 255;

/// Returns `action` if every condition holds, else falls out of its end. At most 6 × 6 + 1 instructions long, as
/// each argument is named once, so every jump reaches.
fn branch(conditions: &[Condition], action: u32, code: &mut Vec<Insn>) {
    let start = code.len();
    for condition in conditions {
        let from = code.len();
        let (low, high) = (low_word(condition.index), high_word(condition.index));
        let words = |value: u64| ((value >> 32) as u32, value as u32);
        match condition.op {
            Op::Eq(value) => {
                let (h, l) = words(value);
                code.extend([high, insn(JEQ, h, 0, FAILED), low, insn(JEQ, l, 0, FAILED)]);
            }
            Op::Ne(value) => {
                let (h, l) = words(value);
                code.extend([high, insn(JEQ, h, 0, HELD), low, insn(JEQ, l, FAILED, 0)]);
            }
            Op::Ge(value) | Op::Gt(value) => {
                let (h, l) = words(value);
                let last = if matches!(condition.op, Op::Ge(_)) { JGE } else { JGT };
                code.extend([
                    high,
                    insn(JGT, h, HELD, 0),
                    insn(JEQ, h, 0, FAILED),
                    low,
                    insn(last, l, 0, FAILED),
                ]);
            }
            Op::Lt(value) | Op::Le(value) => {
                let (h, l) = words(value);
                let last = if matches!(condition.op, Op::Lt(_)) { JGE } else { JGT };
                code.extend([
                    high,
                    insn(JGT, h, FAILED, 0),
                    insn(JEQ, h, 0, HELD),
                    low,
                    insn(last, l, FAILED, 0),
                ]);
            }
            Op::MaskedEq { mask, value } => {
                let ((mh, ml), (h, l)) = (words(mask), words(value));
                if (mh, h) != (0, 0) {
                    code.extend([high, insn(AND, mh, 0, 0), insn(JEQ, h, 0, FAILED)]);
                }
                code.extend([low, insn(AND, ml, 0, 0), insn(JEQ, l, 0, FAILED)]);
            }
        }
        let end = code.len();
        place(&mut code[from..end], HELD);
    }
    code.push(insn(RET, action, 0, 0));
    place(&mut code[start..], FAILED);
}

/// Points the jumps marked `mark` behind the end of `code`.
fn place(code: &mut [Insn], mark: u8) {
    let len = code.len();
    for (at, insn) in code.iter_mut().enumerate().filter(|(_, insn)| matches!(insn.code, JEQ | JGT | JGE)) {
        for jump in [&mut insn.jt, &mut insn.jf] {
            if *jump == mark {
                *jump = (len - at - 1) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests;
