//! Landlock: a second wall around a container's files (landlock(7), kernel documentation userspace-api/landlock).
//!
//! The first wall is the mount namespace: what is outside of the root has no name. Landlock asks at each opening whether
//! the file lies *beneath the container's root*, however the process came to it. A descriptor of a host's directory
//! that leaked, a mount namespace that was entered by mistake, a mount that was made anew: nothing can be opened there.
//! As any process confined by it, one in the domain can neither mount, unmount, move nor pivot, with whatever
//! capabilities.
//!
//! The domain is entered by the container's command when its set-up is over. What joins later (`exec`) enters one of its own
//! with the same rules: the kernel can't join a domain. To Landlock the two are strangers, so neither may trace the other;
//! signals into the container stay allowed to what joins, as its PID namespace bounds them.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use crate::feature::Feature;
use crate::sys::diagnose;
use crate::sys::plan::{Added, Cell};
use crate::sys::script::{Links, Script};
use linux_raw_sys::errno::EINVAL;
use linux_raw_sys::general as n;
use linux_raw_sys::landlock as ll;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a container's processes may reach, whatever they hold.
///
/// | right | from ABI (Linux) | in the container |
/// |---|---|---|
/// | read, execute, list | 1 (5.13) | only beneath its root |
/// | write, make, remove | 1 (5.13) | beneath its root; of a read-only root: in mounts that can be written, to the files of /dev, in /dev/shm and /dev/mqueue |
/// | rename and link between directories | 2 (5.19) | where it may write; before ABI 2 nowhere |
/// | truncate | 3 (6.2) | where it may write |
/// | bind and connect TCP ports | 4 (6.7) | those that are listed, where a list is given |
/// | ioctl on devices | 5 (6.10) | terminals, and devices that it was given |
/// | abstract Unix sockets, signals | 6 (6.12) | only to its own processes |
///
/// Nothing can be mounted, unmounted or moved in it, also not with `CAP_SYS_ADMIN`, and no device node be made. A further
/// command ([`exec`](crate::Container::exec)) is under the same rules, but can't be traced from the container nor trace it.
///
/// Off unless asked for: a container that has been given `CAP_SYS_ADMIN` may well be meant to mount. Required, it takes a
/// kernel with all of the above; best effort takes what there is, and the [`Report`](crate::Report) says what that was.
///
/// ```no_run
/// use coracle::{Container, Image, Landlock, Network, Store};
/// let image = Image::host(&Store::open_default()?)?;
/// // On the host's network, but only to one port of it.
/// Container::builder(&image)
///     .network(Network::host())
///     .landlock(Landlock::new().connect_tcp([443]).bind_tcp([]))
///     .command(["curl", "https://example.org"])
///     .run()?;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Landlock {
    bind_tcp: Option<BTreeSet<u16>>,
    connect_tcp: Option<BTreeSet<u16>>,
}

/// Read, execute and list.
const READ: u32 =
    ll::LANDLOCK_ACCESS_FS_EXECUTE | ll::LANDLOCK_ACCESS_FS_READ_FILE | ll::LANDLOCK_ACCESS_FS_READ_DIR;
/// What can be allowed for a file that is no directory.
const OF_FILES: u32 = ll::LANDLOCK_ACCESS_FS_EXECUTE
    | ll::LANDLOCK_ACCESS_FS_READ_FILE
    | ll::LANDLOCK_ACCESS_FS_WRITE_FILE
    | ll::LANDLOCK_ACCESS_FS_TRUNCATE
    | ll::LANDLOCK_ACCESS_FS_IOCTL_DEV;
/// Allowed nowhere, or only by name.
const NOWHERE: u32 = ll::LANDLOCK_ACCESS_FS_MAKE_CHAR | ll::LANDLOCK_ACCESS_FS_MAKE_BLOCK;
/// Terminals: what has to take an ioctl in every container.
const TERMINALS: [&str; 3] = ["/dev/pts", "/dev/tty", "/dev/console"];

/// What each version of the interface brought: its rights to files and ports, its scopes, and the words for them.
const STEPS: [(u32, Rights, &str); 6] = [
    (1, Rights { fs: (ll::LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1, net: 0, scoped: 0 }, "files"),
    (2, Rights { fs: ll::LANDLOCK_ACCESS_FS_REFER, net: 0, scoped: 0 }, "renaming between directories"),
    (3, Rights { fs: ll::LANDLOCK_ACCESS_FS_TRUNCATE, net: 0, scoped: 0 }, "truncation"),
    (
        4,
        Rights {
            fs: 0,
            net: ll::LANDLOCK_ACCESS_NET_BIND_TCP | ll::LANDLOCK_ACCESS_NET_CONNECT_TCP,
            scoped: 0,
        },
        "TCP ports",
    ),
    (5, Rights { fs: ll::LANDLOCK_ACCESS_FS_IOCTL_DEV, net: 0, scoped: 0 }, "ioctls of devices"),
    (
        6,
        Rights { fs: 0, net: 0, scoped: ll::LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | ll::LANDLOCK_SCOPE_SIGNAL },
        "abstract sockets and signals",
    ),
];

/// What a domain handles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rights {
    fs: u32,
    net: u32,
    scoped: u32,
}

impl Landlock {
    /// Confined to the container's root, with no rule for ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// TCP sockets may be bound to these ports only; to none, if there are none. Port 0, a free one of the kernel's choice,
    /// has to be named too.
    pub fn bind_tcp(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.bind_tcp = Some(ports.into_iter().collect());
        self
    }

    /// TCP connections may be made to these ports only, of any address; to none, if there are none. UDP is not bounded by it.
    pub fn connect_tcp(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.connect_tcp = Some(ports.into_iter().collect());
        self
    }

    /// The version of the interface that this kernel has, landlock(7).
    ///
    /// # Errors
    /// `Unsupported` where it has none, it is not enabled, or this program may not use it.
    pub fn abi() -> Result<u32> {
        const CALL: &str = "landlock_create_ruleset(LANDLOCK_CREATE_RULESET_VERSION)";
        crate::sys::landlock::abi().map_err(|errno| {
            let error = Error::os(CALL, errno).with_kind(ErrorKind::Unsupported);
            diagnose::explain(error, Feature::Landlock)
        })
    }

    /// What of it this kernel can enforce.
    pub(crate) fn domain(&self) -> Result<Domain<'_>> {
        Ok(Domain::new(self, Self::abi()?))
    }

    /// Makes a ruleset of everything that can be required, without a rule, and enters nothing.
    pub(crate) fn make_all(s: &mut Script<'_>, feature: Feature) {
        let all = Self::new().bind_tcp([]).connect_tcp([]);
        let domain = Domain::new(&all, STEPS.last().map_or(0, |(abi, ..)| *abi));
        domain.ruleset(s, domain.rights.scoped).needs(feature);
    }

    /// What a rule for ports is about that may be missing.
    fn has_ports(&self) -> bool {
        self.bind_tcp.is_some() || self.connect_tcp.is_some()
    }
}

/// A domain as this kernel can have it.
#[derive(Clone, Debug)]
pub(crate) struct Domain<'a> {
    asked: &'a Landlock,
    rights: Rights,
    abi: u32,
}

/// The places that rules are about, as paths of the container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// The root filesystem can be written, and with it all that lies in it.
    pub root: bool,
    /// Else these; directories or files.
    pub writable: Vec<PathBuf>,
    /// Devices that take ioctls.
    pub devices: Vec<PathBuf>,
}

/// Who enters a domain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entering {
    /// The container's command: alone, and each place exists.
    First,
    /// A further command, among processes that may have changed what can be changed: it does without the places that are not
    /// there, and follows no link to them.
    Further,
}

impl<'a> Domain<'a> {
    fn new(asked: &'a Landlock, abi: u32) -> Self {
        let mut rights = Rights::default();
        for (_, step, _) in STEPS.iter().filter(|(since, ..)| *since <= abi) {
            rights.fs |= step.fs;
            rights.net |= step.net;
            rights.scoped |= step.scoped;
        }
        if asked.bind_tcp.is_none() {
            rights.net &= !ll::LANDLOCK_ACCESS_NET_BIND_TCP;
        }
        if asked.connect_tcp.is_none() {
            rights.net &= !ll::LANDLOCK_ACCESS_NET_CONNECT_TCP;
        }
        Self { asked, rights, abi }
    }

    /// What was asked and this kernel has not.
    pub fn lacking(&self) -> Option<String> {
        let newer = STEPS.iter().filter(|(since, ..)| *since > self.abi);
        let newer = newer.filter(|(since, ..)| *since != 4 || self.asked.has_ports());
        let words: Vec<_> = newer.map(|(since, _, what)| format!("{what} (ABI {since})")).collect();
        (!words.is_empty()).then(|| format!("ABI {} has no rules for {}", self.abi, words.join(", ")))
    }

    /// For a report.
    pub fn describe(&self) -> String {
        let has = STEPS.iter().filter(|(since, ..)| *since <= self.abi);
        let has = has.filter(|(since, ..)| *since != 4 || self.asked.has_ports());
        let words: Vec<_> = has.map(|(.., what)| *what).collect();
        format!("ABI {}: {}", self.abi, words.join(", "))
    }

    /// Confines the process. Its root is the container's, and it has no descriptors that matter; it may set no_new_privs
    /// or has CAP_SYS_ADMIN in its user namespace.
    pub fn enter(&self, s: &mut Script<'_>, places: &Places, who: Entering) {
        s.during("entering a Landlock domain");
        let scoped = match who {
            Entering::First => self.rights.scoped,
            Entering::Further => self.rights.scoped & !ll::LANDLOCK_SCOPE_SIGNAL,
        };
        let ruleset = self.ruleset(s, scoped).protection("landlock").result();
        let root = s.open_path(Path::new("/"));
        let write = self.rights.fs & !NOWHERE & !ll::LANDLOCK_ACCESS_FS_IOCTL_DEV;
        if places.root {
            self.beneath(s, ruleset, root, write);
        } else {
            self.beneath(s, ruleset, root, READ);
            let files = ll::LANDLOCK_ACCESS_FS_WRITE_FILE | ll::LANDLOCK_ACCESS_FS_TRUNCATE;
            self.place(s, ruleset, root, Path::new("/dev"), files, Links::Refuse);
            for path in ["/dev/shm", "/dev/mqueue"] {
                self.place(s, ruleset, root, Path::new(path), write, Links::Refuse);
            }
            let links = match who {
                // The image's.
                Entering::First => Links::Follow,
                Entering::Further => Links::Avoid,
            };
            for path in &places.writable {
                self.place(s, ruleset, root, path, write, links);
            }
        }
        if self.rights.fs & ll::LANDLOCK_ACCESS_FS_IOCTL_DEV != 0 {
            // The console is there with a terminal only.
            for path in TERMINALS.iter().map(Path::new).chain(places.devices.iter().map(PathBuf::as_path)) {
                self.place(s, ruleset, root, path, ll::LANDLOCK_ACCESS_FS_IOCTL_DEV, Links::Avoid);
            }
        }
        let ports = [
            (&self.asked.bind_tcp, ll::LANDLOCK_ACCESS_NET_BIND_TCP),
            (&self.asked.connect_tcp, ll::LANDLOCK_ACCESS_NET_CONNECT_TCP),
        ];
        for (ports, access) in ports.into_iter().filter(|(_, access)| self.rights.net & access != 0) {
            for port in ports.iter().flatten() {
                // struct landlock_net_port_attr
                let attr = s.words64(&[access.into(), u64::from(*port)]);
                let kind = ll::landlock_rule_type::LANDLOCK_RULE_NET_PORT as u32;
                s.op(
                    n::__NR_landlock_add_rule,
                    "landlock_add_rule(LANDLOCK_RULE_NET_PORT)",
                    [ruleset.into(), kind.into(), attr.into(), 0.into()],
                )
                .path(port.to_string());
            }
        }
        s.op(n::__NR_landlock_restrict_self, "landlock_restrict_self", [ruleset.into(), 0.into()])
            .kind(ErrorKind::Unsupported)
            .protection("landlock")
            .remedy("a process can be in 16 domains at most: start the program with fewer around it");
    }

    fn ruleset<'s, 'fd>(&self, s: &'s mut Script<'fd>, scoped: u32) -> Added<'s, 'fd> {
        // struct landlock_ruleset_attr: an older kernel takes the longer structure if what it doesn't know is 0.
        let attr = s.words64(&[self.rights.fs.into(), self.rights.net.into(), scoped.into()]);
        let args = [attr.into(), 24.into(), 0.into()];
        s.op(n::__NR_landlock_create_ruleset, "landlock_create_ruleset", args)
    }

    fn place(&self, s: &mut Script<'_>, ruleset: Cell, root: Cell, path: &Path, access: u32, links: Links) {
        let absent = s.label();
        let relative = path.strip_prefix("/").unwrap_or(path);
        let fd = s.open_in(root, relative, links, (links == Links::Avoid).then_some(absent));
        self.beneath(s, ruleset, fd, access);
        s.place(absent);
    }

    fn beneath(&self, s: &mut Script<'_>, ruleset: Cell, fd: Cell, access: u32) {
        let kind = ll::landlock_rule_type::LANDLOCK_RULE_PATH_BENEATH as u32;
        let access = access & self.rights.fs;
        let done = s.label();
        for access in [access, access & OF_FILES] {
            // struct landlock_path_beneath_attr, packed: the rights, then the descriptor.
            let attr = s.words64(&[access.into(), u64::MAX]);
            s.copy_fd(fd, Cell(attr.0 + 8));
            let of_file = s.label();
            let op = s.op(
                n::__NR_landlock_add_rule,
                "landlock_add_rule(LANDLOCK_RULE_PATH_BENEATH)",
                [ruleset.into(), kind.into(), attr.into(), 0.into()],
            );
            if access & !OF_FILES == 0 {
                break;
            }
            // Rights of directories are refused for a file.
            op.tolerate(&[EINVAL]).otherwise(of_file);
            s.jump(done);
            s.place(of_file);
        }
        s.place(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_grow_with_the_abi() {
        let plain = Landlock::new();
        let rights = |abi| Domain::new(&plain, abi).rights;
        // The kernel's masks: LANDLOCK_LAST_ACCESS_FS and its like of each version.
        assert_eq!(rights(1), Rights { fs: 0x1fff, net: 0, scoped: 0 });
        assert_eq!(rights(2).fs, 0x3fff);
        assert_eq!(rights(3).fs, 0x7fff);
        assert_eq!(rights(5).fs, 0xffff);
        assert_eq!(rights(6).scoped, 3);
        // Of versions to come nothing is known yet.
        assert_eq!(rights(99), rights(6));
        // Without a list of ports there is no rule for them.
        assert_eq!(rights(6).net, 0);
        let ports = Landlock::new().connect_tcp([1]);
        assert_eq!(Domain::new(&ports, 6).rights.net, ll::LANDLOCK_ACCESS_NET_CONNECT_TCP);
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let (plain, ports) = (Landlock::new(), Landlock::new().bind_tcp([]));
        assert_eq!(Domain::new(&plain, 6).lacking(), None);
        let old = Domain::new(&plain, 2).lacking().unwrap();
        assert!(old.contains("truncation (ABI 3)") && !old.contains("TCP"), "{old}");
        assert!(Domain::new(&ports, 3).lacking().unwrap().contains("TCP ports (ABI 4)"));
        assert_eq!(Domain::new(&ports, 4).lacking().unwrap().matches("ABI").count(), 3);
    }
}
