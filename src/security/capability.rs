//! Capabilities (capabilities(7)): names, sets, and Docker's add and drop.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;

macro_rules! capabilities {
    ($($name:ident = $number:literal,)*) => {
        impl Capability {
            $(
                #[doc = concat!("`CAP_", stringify!($name), "`, number ", stringify!($number), " (capabilities(7)).")]
                pub const $name: Capability = Capability($number);
            )*
        }

        /// Names without `CAP_`; the index is the kernel's number.
        const NAMES: &[&str] = &[$(stringify!($name),)*];
    };
}

/// One capability, as the kernel numbers it (`linux/capability.h`).
///
/// Parses with or without `CAP_`, in any case.
///
/// ```
/// use coracle::Capability;
/// let cap: Capability = "net_bind_service".parse()?;
/// assert_eq!(cap, Capability::NET_BIND_SERVICE);
/// assert_eq!(cap.to_string(), "CAP_NET_BIND_SERVICE");
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

capabilities! {
    CHOWN = 0,
    DAC_OVERRIDE = 1,
    DAC_READ_SEARCH = 2,
    FOWNER = 3,
    FSETID = 4,
    KILL = 5,
    SETGID = 6,
    SETUID = 7,
    SETPCAP = 8,
    LINUX_IMMUTABLE = 9,
    NET_BIND_SERVICE = 10,
    NET_BROADCAST = 11,
    NET_ADMIN = 12,
    NET_RAW = 13,
    IPC_LOCK = 14,
    IPC_OWNER = 15,
    SYS_MODULE = 16,
    SYS_RAWIO = 17,
    SYS_CHROOT = 18,
    SYS_PTRACE = 19,
    SYS_PACCT = 20,
    SYS_ADMIN = 21,
    SYS_BOOT = 22,
    SYS_NICE = 23,
    SYS_RESOURCE = 24,
    SYS_TIME = 25,
    SYS_TTY_CONFIG = 26,
    MKNOD = 27,
    LEASE = 28,
    AUDIT_WRITE = 29,
    AUDIT_CONTROL = 30,
    SETFCAP = 31,
    MAC_OVERRIDE = 32,
    MAC_ADMIN = 33,
    SYSLOG = 34,
    WAKE_ALARM = 35,
    BLOCK_SUSPEND = 36,
    AUDIT_READ = 37,
    PERFMON = 38,
    BPF = 39,
    CHECKPOINT_RESTORE = 40,
}

impl Capability {
    /// The kernel's number, the bit in every capability set.
    pub fn number(self) -> u8 {
        self.0
    }

    /// All capabilities this crate knows, in the kernel's order.
    pub fn all() -> impl Iterator<Item = Capability> {
        (0..NAMES.len() as u8).map(Capability)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", NAMES[usize::from(self.0)])
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Capability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bare = match text.get(..4) {
            Some(prefix) if prefix.eq_ignore_ascii_case("CAP_") => &text[4..],
            _ => text,
        };
        NAMES.iter().position(|name| name.eq_ignore_ascii_case(bare)).map(|n| Capability(n as u8)).ok_or_else(
            || {
                Error::new(ErrorKind::InvalidInput, format!("{text:?} is not a capability")).with_remedy(
                    "capabilities(7) lists them, NET_ADMIN for example; ALL stands for every one",
                )
            },
        )
    }
}

/// A set of capabilities: the 64 bits that the kernel keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Every capability this crate knows, 0 to 40.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// Docker's default set of fourteen.
    pub const DEFAULT: Self = Self(
        1 << Capability::CHOWN.0
            | 1 << Capability::DAC_OVERRIDE.0
            | 1 << Capability::FSETID.0
            | 1 << Capability::FOWNER.0
            | 1 << Capability::MKNOD.0
            | 1 << Capability::NET_RAW.0
            | 1 << Capability::SETGID.0
            | 1 << Capability::SETUID.0
            | 1 << Capability::SETFCAP.0
            | 1 << Capability::SETPCAP.0
            | 1 << Capability::NET_BIND_SERVICE.0
            | 1 << Capability::SYS_CHROOT.0
            | 1 << Capability::KILL.0
            | 1 << Capability::AUDIT_WRITE.0,
    );

    /// The set with these bits, bit *n* being capability *n*. Bits that have no name are kept: a newer kernel
    /// may know them.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits, as `capset(2)` takes them (low word first) and `/proc/PID/status` prints them.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `cap` is in the set.
    pub const fn contains(self, cap: Capability) -> bool {
        self.0 & (1 << cap.0) != 0
    }

    /// The set with `cap`.
    #[must_use]
    pub const fn with(self, cap: Capability) -> Self {
        Self(self.0 | 1 << cap.0)
    }

    /// The set without `cap`.
    #[must_use]
    pub const fn without(self, cap: Capability) -> Self {
        Self(self.0 & !(1 << cap.0))
    }

    /// What is in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether nothing is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The named capabilities in the set, in the kernel's order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::all().filter(move |cap| self.contains(*cap))
    }

    /// This set changed as Docker's `--cap-add` and `--cap-drop` change the default set.
    ///
    /// | add | drop | result |
    /// |---|---|---|
    /// | `ALL` | names | everything, without what is dropped |
    /// | names | `ALL` | only what is added |
    /// | names | names | this set, first without what is dropped, then with what is added |
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a name that is no capability, and for `ALL` on both sides: Docker reads
    /// that as everything, a reader may well mean nothing.
    ///
    /// ```
    /// use coracle::{Capabilities, Capability};
    /// let caps = Capabilities::DEFAULT.adjusted(["NET_ADMIN"], ["ALL"])?;
    /// assert_eq!(caps, Capabilities::NONE.with(Capability::NET_ADMIN));
    /// # Ok::<(), coracle::Error>(())
    /// ```
    pub fn adjusted<A, D>(self, add: A, drop: D) -> Result<Self>
    where
        A: IntoIterator<Item: AsRef<str>>,
        D: IntoIterator<Item: AsRef<str>>,
    {
        let (add_all, added) = names(add)?;
        let (drop_all, dropped) = names(drop)?;
        match (add_all, drop_all) {
            (true, true) => {
                Err(Error::new(ErrorKind::InvalidInput, "ALL capabilities are both added and dropped")
                    .with_remedy("name ALL on one side only"))
            }
            (true, false) => Ok(Self(Self::ALL.0 & !dropped.0)),
            (false, true) => Ok(added),
            (false, false) => Ok(Self(self.0 & !dropped.0 | added.0)),
        }
    }
}

/// The named ones, and whether `ALL` was among the names.
fn names(list: impl IntoIterator<Item: AsRef<str>>) -> Result<(bool, Capabilities)> {
    let (mut all, mut set) = (false, Capabilities::NONE);
    for name in list {
        match name.as_ref() {
            name if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") => all = true,
            name => set = set.with(name.parse()?),
        }
    }
    Ok((all, set))
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(caps: I) -> Self {
        caps.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: [&str; 0] = [];

    #[test]
    fn numbers_are_the_kernels() {
        // A sample from linux/capability.h, the ends included.
        assert_eq!(linux_raw_sys::general::CAP_CHECKPOINT_RESTORE, 40);
        assert_eq!(u32::from(Capability::SYS_ADMIN.number()), linux_raw_sys::general::CAP_SYS_ADMIN);
        assert_eq!(u32::from(Capability::SETFCAP.number()), linux_raw_sys::general::CAP_SETFCAP);
        assert_eq!(u32::from(Capability::BPF.number()), linux_raw_sys::general::CAP_BPF);
        assert_eq!(NAMES.len(), 41);
        // As docker run prints them: grep CapEff /proc/self/status.
        assert_eq!(Capabilities::DEFAULT.bits(), 0xa804_25fb);
        assert_eq!(Capabilities::DEFAULT.iter().count(), 14);
        assert_eq!(Capabilities::ALL.bits(), 0x1ff_ffff_ffff);
    }

    #[test]
    fn parses_in_every_spelling() {
        for text in ["SYS_ADMIN", "cap_sys_admin", "Cap_Sys_Admin", "CAP_SYS_ADMIN"] {
            assert_eq!(text.parse::<Capability>().unwrap(), Capability::SYS_ADMIN);
        }
        for cap in Capability::all() {
            assert_eq!(cap.to_string().parse::<Capability>().unwrap(), cap);
        }
        for bad in ["", "CAP_", "CAP_CAP_KILL", "ALL", "SYS-ADMIN", "kíll"] {
            assert!(bad.parse::<Capability>().is_err(), "{bad}");
        }
    }

    #[test]
    fn adds_and_drops_as_docker_does() {
        let default = Capabilities::DEFAULT;
        let adjust = |add: &[&str], drop: &[&str]| default.adjusted(add, drop).unwrap();
        assert_eq!(adjust(&[], &[]), default);
        assert_eq!(
            adjust(&["SYS_TIME"], &["MKNOD"]),
            default.with(Capability::SYS_TIME).without(Capability::MKNOD)
        );
        assert_eq!(adjust(&["ALL"], &[]), Capabilities::ALL);
        assert_eq!(adjust(&["all"], &["SYS_ADMIN"]), Capabilities::ALL.without(Capability::SYS_ADMIN));
        assert_eq!(adjust(&[], &["ALL"]), Capabilities::NONE);
        assert_eq!(
            adjust(&["KILL", "CHOWN"], &["ALL"]),
            [Capability::KILL, Capability::CHOWN].into_iter().collect()
        );
        assert_eq!(adjust(&["KILL"], &["KILL"]), default);
        assert_eq!(
            adjust(&["SYS_TIME"], &["ALL", "SYS_TIME"]),
            Capabilities::NONE.with(Capability::SYS_TIME)
        );
        assert_eq!(default.adjusted(["ALL"], ["all"]).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(default.adjusted(["NOPE"], NO).is_err());
        assert!(default.adjusted(NO, ["NOPE"]).is_err());
    }
}
