//! Which devices a group's processes may open and make.
//!
//! On v1 a group has files for it: `devices.deny` takes `a` for all, then `devices.allow` one rule after the other. On
//! v2 it has a program in the kernel's eBPF that is asked each time, written here instruction by instruction.
//! See the kernel's admin-guide/cgroup-v1/devices and cgroup-v2, "Device controller", and RFC 9669 for the encoding.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind};
use std::fmt;
use std::str::FromStr;

/// So many rules at most: jumps of a program are of 16 bits.
pub(super) const RULES_MAX: usize = 1024;

/// A device, or several, and what may be done with it, for [`Limits::devices`](super::Limits::devices). As Docker's `--device-cgroup-rule` writes it.
///
/// ```
/// use coracle::{DeviceRule, Limits};
/// let null = DeviceRule::char(1, 3);
/// let disks: DeviceRule = "b 8:* r".parse()?;
/// let limits = Limits::new().devices([null, disks]);
/// # let _ = limits;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(serde::Serialize, serde::Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(into = "String", try_from = "String")]
#[must_use]
pub struct DeviceRule {
    /// `None` is both.
    kind: Option<Kind>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Char,
    Block,
}

/// linux/bpf.h, `BPF_DEVCG_ACC_*`.
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

impl DeviceRule {
    /// Every device.
    pub fn any() -> Self {
        Self { kind: None, major: None, minor: None, access: MKNOD | READ | WRITE }
    }

    /// Character devices by number; `None` is every number.
    pub fn char(major: impl Into<Option<u32>>, minor: impl Into<Option<u32>>) -> Self {
        Self { kind: Some(Kind::Char), major: major.into(), minor: minor.into(), ..Self::any() }
    }

    /// Block devices by number; `None` is every number.
    pub fn block(major: impl Into<Option<u32>>, minor: impl Into<Option<u32>>) -> Self {
        Self { kind: Some(Kind::Block), major: major.into(), minor: minor.into(), ..Self::any() }
    }

    /// Whether it may be opened for reading and for writing, and made by mknod(2); all three unless it is said.
    pub fn access(mut self, read: bool, write: bool, mknod: bool) -> Self {
        let bits = [(read, READ), (write, WRITE), (mknod, MKNOD)];
        self.access = bits.into_iter().filter(|(on, _)| *on).fold(0, |access, (_, bit)| access | bit);
        self
    }

    /// One that does not has no text.
    pub(super) fn allows_something(&self) -> bool {
        self.access != 0
    }

    /// As `devices.allow` takes them, which has one word for both kinds that says yes to everything.
    #[cfg(feature = "cgroups")]
    fn v1_lines(&self) -> impl Iterator<Item = String> {
        let kinds = self.kind.map_or(vec![Kind::Char, Kind::Block], |kind| vec![kind]);
        kinds.into_iter().map(|kind| Self { kind: Some(kind), ..self.clone() }.to_string())
    }

    /// Whether this rule, as the kernel keeps it, allows all that `other` does.
    #[cfg(feature = "cgroups")]
    fn covers(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
            && other.access & !self.access == 0
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            None => "a ",
            Some(Kind::Char) => "c ",
            Some(Kind::Block) => "b ",
        })?;
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        write!(f, "{}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if self.access & bit != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

impl From<DeviceRule> for String {
    fn from(rule: DeviceRule) -> Self {
        rule.to_string()
    }
}

impl TryFrom<String> for DeviceRule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl FromStr for DeviceRule {
    type Err = Error;

    /// `c 1:3 rwm`: `a`, `b` or `c`, numbers or `*`, and some of `r`, `w` and `m`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let mut words = text.split_whitespace();
            let kind = match words.next()? {
                "a" => None,
                "b" => Some(Kind::Block),
                "c" => Some(Kind::Char),
                _ => return None,
            };
            let number = |text: &str| match text {
                "*" => Some(None),
                _ if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok().map(Some),
                _ => None,
            };
            let (major, minor) = words.next()?.split_once(':')?;
            let (major, minor) = (number(major)?, number(minor)?);
            let access = words.next()?.chars().try_fold(0, |access, letter| match letter {
                'r' => Some(access | READ),
                'w' => Some(access | WRITE),
                'm' => Some(access | MKNOD),
                _ => None,
            })?;
            words.next().is_none().then_some(Self { kind, major, minor, access })
        };
        parse().filter(|rule| rule.access != 0).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("device rule {text:.80?}"))
                .with_remedy("c or b or a, MAJOR:MINOR or *, and some of r, w, m: \"c 1:3 rwm\"")
        })
    }
}

#[cfg(feature = "cgroups")]
pub(super) use kernel::{set_v1, set_v2};

#[cfg(feature = "cgroups")]
mod kernel {
    use super::{DeviceRule, Kind};
    use crate::cgroup::control::Write;
    use crate::cgroup::open_dir;
    use crate::error::{Error, ErrorKind, Result};
    use crate::feature::{Feature, words};
    use crate::sys::bpf;
    use rustix::io::Errno;
    use std::os::fd::AsFd;
    use std::path::Path;

    /// Refuses all devices but these in the v1 group at `dir`, and reads them back.
    pub(crate) fn set_v1(rules: &[DeviceRule], dir: &Path) -> Result<String> {
        Write::new(dir, "devices.deny").put("a")?;
        let allow = Write::new(dir, "devices.allow");
        for line in rules.iter().flat_map(DeviceRule::v1_lines) {
            allow.put(&line)?;
        }
        let list = Write::new(dir, "devices.list").read()?;
        let kept: Vec<DeviceRule> = list.lines().filter_map(|line| line.parse().ok()).collect();
        let lines = rules.iter().flat_map(DeviceRule::v1_lines);
        let all_there = lines
            .filter_map(|line| line.parse::<DeviceRule>().ok())
            .all(|rule| kept.iter().any(|kept| kept.covers(&rule)));
        // `a` stands for a group that refuses nothing.
        if !all_there || kept.iter().any(|rule| rule.kind.is_none()) {
            let error = Error::new(ErrorKind::Unsupported, format!("the kernel keeps {list:.200?}"));
            return Err(error.with_path(dir.join("devices.list")));
        }
        Ok(list.replace('\n', ", "))
    }

    /// The same in the v2 group at `dir`.
    pub(crate) fn set_v2(rules: &[DeviceRule], dir: &Path) -> Result<String> {
        let feature = Feature::DeviceRules;
        let refused = |call: &'static str| {
            move |errno: Errno| {
                let error = Error::os(call, errno).with_path(dir);
                match errno {
                    Errno::PERM | Errno::ACCESS => error.lacks(words::DEVICE_PROGRAMS.of(feature)),
                    Errno::NOSYS | Errno::INVAL => {
                        error.lacks(words::not_built(feature, "CONFIG_CGROUP_BPF"))
                    }
                    _ => error.with_remedy(words::DELEGATE),
                }
            }
        };
        let group = open_dir(dir)?;
        let program = bpf::load(&program(rules)).map_err(refused("bpf(BPF_PROG_LOAD)"))?;
        bpf::attach(group.as_fd(), program.as_fd()).map_err(refused("bpf(BPF_PROG_ATTACH)"))?;
        let count = bpf::attached(group.as_fd()).map_err(refused("bpf(BPF_PROG_QUERY)"))?;
        if count == 0 {
            let error = Error::new(ErrorKind::Unsupported, "the kernel has attached no device program");
            return Err(error.with_path(dir));
        }
        Ok(format!("{} rules in a program of the group", rules.len()))
    }

    /// One instruction: operation, the two registers, an offset and a number.
    fn instruction(op: u8, dst: u8, src: u8, offset: i16, imm: u32) -> u64 {
        let bytes = [op, src << 4 | dst];
        let mut all = [0; 8];
        all[..2].copy_from_slice(&bytes);
        all[2..4].copy_from_slice(&offset.to_ne_bytes());
        all[4..].copy_from_slice(&imm.to_ne_bytes());
        u64::from_ne_bytes(all)
    }

    /// `r0 = 1` when one of the rules allows it, else 0.
    ///
    /// The kernel gives the address of three words of 32 bits: access in the upper half and kind in the lower half of
    /// the first one, then major and minor (`struct bpf_cgroup_dev_ctx`).
    pub(super) fn program(rules: &[DeviceRule]) -> Vec<u64> {
        const LOAD_WORD: u8 = 0x61;
        const MOVE: u8 = 0xbf;
        const MOVE_NUMBER: u8 = 0xb7;
        const AND: u8 = 0x57;
        const SHIFT_RIGHT: u8 = 0x77;
        /// Of the lower 32 bits, as numbers are to be compared without a sign.
        const JUMP_IF_NOT: u8 = 0x56;
        const EXIT: u8 = 0x95;
        const CONTEXT: u8 = 1;
        const KIND: u8 = 2;
        const ACCESS: u8 = 3;
        const MAJOR: u8 = 4;
        const MINOR: u8 = 5;
        const SCRATCH: u8 = 6;
        let mut all = vec![
            instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
            instruction(MOVE, ACCESS, KIND, 0, 0),
            instruction(AND, KIND, 0, 0, 0xffff),
            instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
            instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
            instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        ];
        for rule in rules {
            // What must be equal; a rule that does not fit jumps behind its own end.
            let kind = rule.kind.map(|kind| (KIND, if kind == Kind::Block { 1 } else { 2 }));
            let numbers = [kind, rule.major.map(|n| (MAJOR, n)), rule.minor.map(|n| (MINOR, n))];
            let tests: Vec<_> = numbers.into_iter().flatten().collect();
            let behind = |left: usize| i16::try_from(left + 2).unwrap_or(i16::MAX);
            all.push(instruction(MOVE, SCRATCH, ACCESS, 0, 0));
            all.push(instruction(AND, SCRATCH, 0, 0, 7 & !rule.access));
            all.push(instruction(JUMP_IF_NOT, SCRATCH, 0, behind(tests.len()), 0));
            for (at, (register, number)) in tests.iter().enumerate() {
                all.push(instruction(JUMP_IF_NOT, *register, 0, behind(tests.len() - at - 1), *number));
            }
            all.push(instruction(MOVE_NUMBER, 0, 0, 0, 1));
            all.push(instruction(EXIT, 0, 0, 0, 0));
        }
        all.push(instruction(MOVE_NUMBER, 0, 0, 0, 0));
        all.push(instruction(EXIT, 0, 0, 0, 0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_docker_writes_them() {
        for text in ["c 1:3 rwm", "b 8:* r", "a *:* rwm", "c *:* m", "c 10:200 rw"] {
            assert_eq!(text.parse::<DeviceRule>().unwrap().to_string(), text);
        }
        assert_eq!(DeviceRule::char(1, None).access(true, false, false).to_string(), "c 1:* r");
        assert_eq!(DeviceRule::any().to_string(), "a *:* rwm");
        for bad in
            ["", "c", "c 1:3", "x 1:3 r", "c 1 r", "c 1:3 x", "c -1:3 r", "c 1:3 r r", "c 1:+3 r", "c : r"]
        {
            assert_eq!(bad.parse::<DeviceRule>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    /// What the kernel would run, run here: an interpreter of just these instructions.
    #[cfg(feature = "cgroups")]
    fn allows(rules: &[DeviceRule], kind: Kind, (major, minor): (u32, u32), access: u32) -> bool {
        let context = [access << 16 | if kind == Kind::Block { 1 } else { 2 }, major, minor];
        let (mut r, program) = ([0u64; 11], kernel::program(rules));
        let mut at = 0;
        loop {
            let [op, registers, o0, o1, i @ ..] = program[at].to_ne_bytes();
            let (dst, src) = (usize::from(registers & 15), usize::from(registers >> 4));
            let (offset, imm) = (i16::from_ne_bytes([o0, o1]), u32::from_ne_bytes(i));
            let signed = i64::from(imm as i32) as u64;
            at += 1;
            match op {
                0x61 => r[dst] = context[offset as usize / 4].into(),
                0xbf => r[dst] = r[src],
                0xb7 => r[dst] = signed,
                0x57 => r[dst] &= signed,
                0x77 => r[dst] >>= imm,
                0x56 if r[dst] as u32 != imm => at += offset as usize,
                0x56 => {}
                0x95 => return r[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    #[cfg(feature = "cgroups")]
    fn the_program_allows_what_a_rule_says_and_nothing_else() {
        let parse = |text: &str| text.parse::<DeviceRule>().unwrap();
        let rules = ["c 1:3 rwm", "b 8:* r", "c *:7 w", "c 4294967295:1 rw"].map(parse);
        let yes = |kind, number, access| assert!(allows(&rules, kind, number, access), "{number:?} {access}");
        let no = |kind, number, access| assert!(!allows(&rules, kind, number, access), "{number:?} {access}");
        yes(Kind::Char, (1, 3), READ | WRITE);
        yes(Kind::Char, (1, 3), MKNOD);
        no(Kind::Block, (1, 3), READ);
        no(Kind::Char, (1, 5), READ);
        yes(Kind::Block, (8, 16), READ);
        no(Kind::Block, (8, 16), READ | WRITE);
        no(Kind::Char, (8, 16), READ);
        yes(Kind::Char, (99, 7), WRITE);
        no(Kind::Char, (99, 7), READ);
        yes(Kind::Char, (u32::MAX, 1), READ);
        assert!(!allows(&[], Kind::Char, (1, 3), READ));
        assert!(allows(&[DeviceRule::any()], Kind::Block, (8, 0), READ | WRITE | MKNOD));
    }
}
