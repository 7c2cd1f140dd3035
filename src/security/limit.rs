//! Resource limits of a process (setrlimit(2)) and kernel settings of a container (sysctl(8)).
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use crate::sys::idmap::{Extent, IdMap};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Docker's name and the kernel's number (`asm-generic/resource.h`, the same on x86_64 and aarch64).
const RESOURCES: &[(&str, u32)] = &[
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// A resource limit of a process, as Docker's `--ulimit name=soft[:hard]` writes it.
///
/// Units are the kernel's (getrlimit(2)): bytes for sizes, seconds for `cpu`, microseconds for `rttime`, counts
/// for the others. `-1` and `unlimited` mean no limit.
///
/// ```
/// use coracle::Ulimit;
/// let files: Ulimit = "nofile=1024:2048".parse()?;
/// assert_eq!((files.name(), files.soft(), files.hard()), ("nofile", 1024, 2048));
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct Ulimit {
    resource: u32,
    soft: u64,
    hard: u64,
}

impl Ulimit {
    /// No limit: RLIM_INFINITY.
    pub const UNLIMITED: u64 = u64::MAX;

    /// A limit by its name: `nofile`, `nproc`, `core`, `memlock`, `stack`, `cpu`, `fsize`, `as`, `data`, `rss`,
    /// `locks`, `sigpending`, `msgqueue`, `nice`, `rtprio`, `rttime`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`]: an unknown name, or a soft limit above the hard one.
    pub fn new(name: &str, soft: u64, hard: u64) -> Result<Self> {
        let Some(&(_, resource)) = RESOURCES.iter().find(|(known, _)| *known == name) else {
            let known = RESOURCES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(Error::new(ErrorKind::InvalidInput, format!("no resource limit is named {name:?}"))
                .with_remedy(format!("the names are {known}")));
        };
        if soft > hard {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("ulimit {name}: the soft limit {soft} is above the hard limit {hard}"),
            ));
        }
        Ok(Self { resource, soft, hard })
    }

    /// The name, as in `--ulimit`.
    pub fn name(&self) -> &'static str {
        RESOURCES[self.resource as usize].0
    }

    /// The kernel's RLIMIT_ number.
    pub fn resource(&self) -> u32 {
        self.resource
    }

    /// The limit that binds; a process may raise it up to the hard one.
    pub fn soft(&self) -> u64 {
        self.soft
    }

    /// The limit that only CAP_SYS_RESOURCE of the host raises.
    pub fn hard(&self) -> u64 {
        self.hard
    }
}

impl FromStr for Ulimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(ErrorKind::InvalidInput, format!("ulimit {text:?} is not name=soft[:hard]"))
                .with_remedy("for example nofile=1024:2048; -1 or unlimited means no limit")
        };
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(Self::UNLIMITED),
            // `parse` would take a sign.
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u64>().map_err(|_| bad()),
            _ => Err(bad()),
        };
        let (name, limits) = text.split_once('=').ok_or_else(bad)?;
        let (soft, hard) = match limits.split_once(':') {
            Some((soft, hard)) => (value(soft)?, value(hard)?),
            None => (value(limits)?, value(limits)?),
        };
        Self::new(name, soft, hard)
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |limit: u64| if limit == Self::UNLIMITED { "-1".to_owned() } else { limit.to_string() };
        write!(f, "{}={}:{}", self.name(), side(self.soft), side(self.hard))
    }
}

// A record is read with the same care as an argument: by its text.
impl TryFrom<String> for Ulimit {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Ulimit> for String {
    fn from(limit: Ulimit) -> Self {
        limit.to_string()
    }
}

/// Which namespaces of its own the container has: they decide which settings are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnNamespaces {
    pub(crate) ipc: bool,
    pub(crate) net: bool,
}

/// What the network of a container is given, ahead of what the caller sets: every user may listen on every port and may ping.
/// With no_new_privs neither a setuid program nor one with file capabilities would get there.
///
/// Paths below /proc/sys, and values.
pub(crate) fn own_network(map: &IdMap) -> [(&'static str, String); 2] {
    let (first, last) = pingers(&map.groups);
    [
        ("net/ipv4/ip_unprivileged_port_start", "0".to_owned()),
        ("net/ipv4/ping_group_range", format!("{first} {last}")),
    ]
}

/// The first and the last group that may ping. Both have to exist, and the kernel takes whoever lies between them outside of
/// the namespace: lines of a map may lie there in another order.
fn pingers(groups: &[Extent]) -> (u32, u32) {
    const LAST: u32 = 65535;
    let ends = |extent: &Extent| {
        let count = extent.count.min((LAST + 1).saturating_sub(extent.inside));
        let last = count.checked_sub(1)?;
        Some(((extent.inside, extent.outside), (extent.inside + last, extent.outside.saturating_add(last))))
    };
    let lines = || groups.iter().filter_map(ends);
    let first = lines().map(|(first, _)| first).min();
    let last = lines().map(|(_, last)| last).max();
    match (first, last) {
        (Some((first, low)), Some((last, high))) if low <= high => (first, last),
        _ => {
            let longest = lines().max_by_key(|((first, _), (last, _))| last - first);
            longest.map_or((0, 0), |((first, _), (last, _))| (first, last))
        }
    }
}

/// A kernel setting for one container: `net.ipv4.ip_forward` = `1`.
///
/// Only settings that the kernel keeps per namespace are taken, and only where the container has that namespace
/// for itself: any other would change the host.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Hash, Debug)]
#[serde(try_from = "RawSysctl")]
pub struct Sysctl {
    /// Below /proc/sys, with slashes.
    path: String,
    value: String,
}

/// As a record has it, before it is trusted.
#[derive(Deserialize)]
struct RawSysctl {
    path: String,
    value: String,
}

impl TryFrom<RawSysctl> for Sysctl {
    type Error = Error;

    fn try_from(raw: RawSysctl) -> Result<Self> {
        Self::new(&raw.path, raw.value)
    }
}

impl Sysctl {
    /// A setting by its name in either form that sysctl(8) takes: with dots (`net.ipv4.conf.eth0/1.forwarding`,
    /// where a slash stands for a dot in a name) or with slashes (`net/ipv4/conf/eth0.1/forwarding`). The first
    /// separator decides.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a malformed name or value, [`ErrorKind::Unsupported`] for a setting that
    /// is not kept per namespace.
    pub fn new(name: &str, value: impl Into<String>) -> Result<Self> {
        let value = value.into();
        let path = match name.find(['.', '/']) {
            Some(at) if name.as_bytes()[at] == b'.' => name
                .chars()
                .map(|c| {
                    if c == '.' {
                        '/'
                    } else if c == '/' {
                        '.'
                    } else {
                        c
                    }
                })
                .collect(),
            _ => name.to_owned(),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '@');
        let fine = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain);
        if path.len() > 200 || !path.split('/').all(fine) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{name:?} is not the name of a sysctl")));
        }
        // A NUL would cut the value, a page is what the kernel takes in one write.
        if value.len() >= 4096 || value.bytes().any(|b| b == 0 || b == b'\n') {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("sysctl {name}: the value can't be written"),
            ));
        }
        let sysctl = Self { path, value };
        if !sysctl.is_ipc() && !sysctl.is_net() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("sysctl {name} is not kept for each namespace: it would change the host"),
            )
            .with_remedy(
                "kernel.msgmax, kernel.msgmnb, kernel.msgmni, kernel.sem, kernel.shm*, fs.mqueue.* and net.* can be set",
            ));
        }
        Ok(sysctl)
    }

    /// Where it is written, below `/proc/sys`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is written.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Refuses it where the namespace that keeps it is shared with the host.
    pub(crate) fn check(&self, own: OwnNamespaces) -> Result<()> {
        let (has, space) = if self.is_net() { (own.net, "network") } else { (own.ipc, "ipc") };
        if has {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "sysctl {}: the container shares the host's {space} namespace, so it would change the host",
                self.path.replace('/', ".")
            ),
        )
        .with_remedy(format!("give the container its own {space} namespace, or set it on the host")))
    }

    fn is_net(&self) -> bool {
        self.path.starts_with("net/")
    }

    fn is_ipc(&self) -> bool {
        const NAMES: &[&str] = &[
            "kernel/msgmax",
            "kernel/msgmnb",
            "kernel/msgmni",
            "kernel/sem",
            "kernel/shmall",
            "kernel/shmmax",
            "kernel/shmmni",
            "kernel/shm_rmid_forced",
        ];
        NAMES.contains(&self.path.as_str()) || self.path.starts_with("fs/mqueue/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of those in a namespace with these lines.
    fn pinging(lines: &[(u32, u32, u32)]) -> String {
        let line = |&(inside, outside, count)| Extent { inside, outside, count };
        let groups: Vec<_> = lines.iter().map(line).collect();
        let [(port, value), (path, range)] = own_network(&IdMap { users: Vec::new(), groups });
        assert_eq!((port, value.as_str()), ("net/ipv4/ip_unprivileged_port_start", "0"));
        assert_eq!(path, "net/ipv4/ping_group_range");
        range
    }

    #[test]
    fn who_may_ping_exists_in_the_namespace() {
        assert_eq!(pinging(&[(0, 1000, 1)]), "0 0");
        assert_eq!(pinging(&[(0, 524_288, 65536)]), "0 65535");
        assert_eq!(pinging(&[(0, 0, u32::MAX)]), "0 65535");
        assert_eq!(pinging(&[(0, 1000, 1), (1, 100_000, 65536)]), "0 65535");
        assert_eq!(pinging(&[(1, 100_000, 1000), (0, 1000, 1)]), "0 1000");
        // The caller's own id is above its sub-ids.
        assert_eq!(pinging(&[(0, 200_000, 1), (1, 100_000, 65536)]), "1 65535");
        assert_eq!(pinging(&[(0, 1000, 1), (70_000, 100_000, 5)]), "0 0");
    }

    #[test]
    fn ulimits_as_docker_writes_them() {
        let parse = |text: &str| text.parse::<Ulimit>();
        assert_eq!(parse("nofile=1024:2048").unwrap(), Ulimit { resource: 7, soft: 1024, hard: 2048 });
        assert_eq!(parse("core=0").unwrap(), Ulimit { resource: 4, soft: 0, hard: 0 });
        assert_eq!(parse("memlock=-1").unwrap().hard(), u64::MAX);
        assert_eq!(parse("stack=8192:unlimited").unwrap().to_string(), "stack=8192:-1");
        for bad in [
            "",
            "nofile",
            "nofile=",
            "nofile=:",
            "nofile=1:",
            "nofile=2:1",
            "nofile=-1:5",
            "nofile=+1",
            "x=1",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        assert!(
            parse("NOFILE=1").is_err() && parse("nofile=0x10").is_err() && parse("nofile=1:2:3").is_err()
        );
        for (number, (name, resource)) in RESOURCES.iter().enumerate() {
            assert_eq!(number as u32, *resource, "{name}");
        }
        assert_eq!(linux_raw_sys::general::RLIMIT_NOFILE, 7);
        assert_eq!(linux_raw_sys::general::RLIMIT_RTTIME, 15);
    }

    #[test]
    fn records_are_read_with_care() {
        let limit: Ulimit = "stack=8192:unlimited".parse().unwrap();
        let json = serde_json::to_string(&limit).unwrap();
        assert_eq!(json, r#""stack=8192:-1""#);
        assert_eq!(serde_json::from_str::<Ulimit>(&json).unwrap(), limit);
        assert!(serde_json::from_str::<Ulimit>(r#""nope=1""#).is_err());
        let sysctl = Sysctl::new("net.ipv4.conf.eth0/1.forwarding", "1").unwrap();
        let json = serde_json::to_string(&sysctl).unwrap();
        assert_eq!(serde_json::from_str::<Sysctl>(&json).unwrap(), sysctl);
        let forged = json.replace("net/ipv4/conf", "net/../kernel");
        assert!(serde_json::from_str::<Sysctl>(&forged).is_err());
    }

    #[test]
    fn sysctl_names_become_paths_that_stay_inside() {
        let path = |name: &str| Sysctl::new(name, "1").map(|sysctl| sysctl.path);
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding").unwrap(), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding").unwrap(), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("kernel.shm_rmid_forced").unwrap(), "kernel/shm_rmid_forced");
        assert_eq!(path("fs.mqueue.msg_max").unwrap(), "fs/mqueue/msg_max");
        for bad in [
            "",
            ".",
            "net",
            "net.",
            "net..ipv4",
            "net.//.x",
            "net/../kernel/core_pattern",
            "net/./x",
            "/net/x",
            "net/x/",
            "net.ipv4.\0",
            "net.a b",
            "kernel.core_pattern",
            "kernel.shmx",
            "kernel.hostname",
            "vm.overcommit_memory",
            "fs.mqueue",
            "user.max_user_namespaces",
        ] {
            assert!(path(bad).is_err(), "{bad:?}: {:?}", path(bad));
        }
        assert_eq!(path("kernel.core_pattern").unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(Sysctl::new("net.core.somaxconn", "1\n2").is_err());
    }

    #[test]
    fn a_shared_namespace_keeps_its_settings() {
        let net = Sysctl::new("net.core.somaxconn", "1024").unwrap();
        let shm = Sysctl::new("kernel.shmmax", "1024").unwrap();
        let own = OwnNamespaces { ipc: true, net: true };
        assert!(net.check(own).is_ok() && shm.check(own).is_ok());
        assert!(net.check(OwnNamespaces { net: false, ..own }).is_err());
        assert!(shm.check(OwnNamespaces { ipc: false, ..own }).is_err());
        assert!(shm.check(OwnNamespaces { net: false, ..own }).is_ok());
    }
}
