//! Which user and group ids a user namespace has (user_namespaces(7)), and which ones this user may give away.

use crate::error::{Call, Error, ErrorKind, Result};
use crate::feature::words::{self, Cause};
use crate::feature::{Feature, Missing};
use rustix::process::{getegid, geteuid, getgid, getuid};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// One line of a map: `count` ids from `inside` on are `outside` and on in the parent namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Extent {
    /// First id in the namespace.
    pub inside: u32,
    /// First id in its parent.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The maps of one user namespace, or of a mount: which ids of this program's namespace its ids are.
///
/// ```
/// use coracle::IdMap;
/// let map = IdMap::range(100_000, 65536);
/// assert_eq!((map.user(0), map.group(33), map.user(65536)), (Some(100_000), Some(100_033), None));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct IdMap {
    /// Of users.
    pub users: Vec<Extent>,
    /// Of groups.
    pub groups: Vec<Extent>,
}

impl IdMap {
    /// The first `count` ids are `base` and on, of users and of groups.
    pub fn range(base: u32, count: u32) -> Self {
        let extents = vec![Extent { inside: 0, outside: base, count }];
        Self { users: extents.clone(), groups: extents }
    }

    /// Only root, which is this user and this group.
    pub fn single(user: u32, group: u32) -> Self {
        let one = |outside| vec![Extent { inside: 0, outside, count: 1 }];
        Self { users: one(user), groups: one(group) }
    }

    /// All ids that this program may map. Root: every id as itself. An ordinary user: itself as root, and its
    /// sub-ids (subuid(5)) from 1 on; only itself without sub-ids or a newuidmap(1) that maps them.
    pub fn available() -> Self {
        if !is_privileged() {
            return super::warden::ids_of_caller().0;
        }
        let mut own = Self::of("/proc/thread-self").unwrap_or(Self { users: Vec::new(), groups: Vec::new() });
        for extent in own.users.iter_mut().chain(&mut own.groups) {
            extent.outside = extent.inside;
        }
        own
    }

    /// Of the user namespace of a process, by its directory in /proc.
    pub(crate) fn of(process: &str) -> Result<Self> {
        let line = |line: &str| {
            let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
            let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
            Some(Extent { inside, outside, count })
        };
        let read = |path: String| {
            let text = fs::read_to_string(&path).call_at("read", path)?;
            Ok(text.lines().filter_map(line).collect())
        };
        Ok(Self { users: read(format!("{process}/uid_map"))?, groups: read(format!("{process}/gid_map"))? })
    }

    /// The same ids as they are called in a namespace whose map is `outer`. Lines are cut where those of `outer`
    /// end: the kernel refuses one over two of them.
    pub(crate) fn beneath(&self, outer: &Self) -> Result<Self> {
        let through = |extents: &[Extent], outer: &[Extent], what: &str| {
            beneath(extents, outer).map_err(|id| {
                Error::new(ErrorKind::PermissionDenied, format!("{what} {id} is not this user's to map"))
                    .with_remedy(
                        "use ids of IdMap::available(); /etc/subuid and /etc/subgid give a user more",
                    )
            })
        };
        Ok(Self {
            users: through(&self.users, &outer.users, "user")?,
            groups: through(&self.groups, &outer.groups, "group")?,
        })
    }

    /// The user and group that a command begins as: 0 where that is mapped, else the first that is.
    pub(crate) fn first(&self) -> (u32, u32) {
        let first = |extents: &[Extent]| match outside(extents, 0) {
            Some(_) => 0,
            None => extents.first().map_or(0, |extent| extent.inside),
        };
        (first(&self.users), first(&self.groups))
    }

    /// Whether only one user exists in it.
    pub fn is_single(&self) -> bool {
        self.users.iter().map(|e| u64::from(e.count)).sum::<u64>() <= 1
    }

    /// The id outside of user `id`.
    pub fn user(&self, id: u32) -> Option<u32> {
        outside(&self.users, id)
    }

    /// The id outside of group `id`.
    pub fn group(&self, id: u32) -> Option<u32> {
        outside(&self.groups, id)
    }

    /// As `/proc/PID/uid_map` takes it.
    pub(crate) fn text(extents: &[Extent]) -> String {
        extents.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect()
    }
}

fn outside(extents: &[Extent], id: u32) -> Option<u32> {
    let extent = extents.iter().find(|e| id >= e.inside && id - e.inside < e.count)?;
    extent.outside.checked_add(id - extent.inside)
}

/// Gives the id that `outer` lacks, where it lacks one.
fn beneath(extents: &[Extent], outer: &[Extent]) -> Result<Vec<Extent>, u32> {
    let mut cut = Vec::with_capacity(extents.len());
    for extent in extents {
        let mut rest = *extent;
        while rest.count > 0 {
            let id = rest.outside;
            let found = outer.iter().find(|o| id >= o.outside && id - o.outside < o.count).ok_or(id)?;
            let skipped = id - found.outside;
            let count = rest.count.min(found.count - skipped);
            cut.push(Extent { inside: rest.inside, outside: found.inside + skipped, count });
            rest.count -= count;
            if rest.count > 0 {
                rest.inside = rest.inside.checked_add(count).ok_or(id)?;
                rest.outside = rest.outside.checked_add(count).ok_or(id)?;
            }
        }
    }
    Ok(cut)
}

/// The largest share of /etc/subuid or /etc/subgid that belongs to a user: lines `name-or-id:first:count`
/// (subuid(5)).
pub(crate) fn parse_subids(text: &str, name: Option<&str>, id: u32) -> Option<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            if Some(owner) != name && owner.parse() != Ok(id) {
                return None;
            }
            let first: u32 = fields.next()?.parse().ok()?;
            let count: u32 = fields.next()?.parse().ok()?;
            first.checked_add(count)?;
            (count > 0).then_some((first, count))
        })
        .max_by_key(|(_, count)| *count)
}

/// The caller's name in /etc/passwd, which subuid(5) may use instead of the id.
fn own_name(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Only the caller, as root.
pub(super) fn of_caller_alone() -> IdMap {
    IdMap::single(geteuid().as_raw(), getegid().as_raw())
}

/// The map that an ordinary user is to have: itself as root, its sub-ids (at most 65535 of them) as the others.
/// Without sub-ids, or a newuidmap that may do what it is for, only itself, and why. Whether newuidmap does it, only
/// [`write()`] finds out.
pub(super) fn of_caller() -> (IdMap, Option<Missing>) {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let single = |why: Missing| (of_caller_alone(), Some(why));
    let name = own_name(uid);
    let share = |file: &str| {
        let text = fs::read_to_string(file).ok()?;
        parse_subids(&text, name.as_deref(), uid)
    };
    let (Some(users), Some(groups)) = (share("/etc/subuid"), share("/etc/subgid")) else {
        let why = format!("there are no sub-ids for user {uid} in /etc/subuid and /etc/subgid");
        return single(Missing::new(Feature::SubIds, why, words::UIDMAP));
    };
    let missing = ["newuidmap", "newgidmap"].into_iter().find(|tool| !in_path(tool));
    if let Some(tool) = missing {
        return single(Missing::new(Feature::SubIds, format!("{tool} is not installed"), words::UIDMAP));
    }
    if let Some(why) = tools_are_bound() {
        return single(why.of(Feature::SubIds));
    }
    let extents = |own, (first, count): (u32, u32)| {
        vec![
            Extent { inside: 0, outside: own, count: 1 },
            Extent { inside: 1, outside: first, count: count.min(65535) },
        ]
    };
    (IdMap { users: extents(uid, users), groups: extents(gid, groups) }, None)
}

/// A program that is set-user-id root, or has file capabilities, gets them only where its caller is not bound.
fn tools_are_bound() -> Option<Cause> {
    const WANTED: u64 = 1 << 7 | 1 << 6; // SETUID, SETGID
    let status = status();
    if field(&status, "NoNewPrivs:") == Some("1") {
        return Some(words::TOOLS_NO_NEW_PRIVS);
    }
    let bounding = field(&status, "CapBnd:").and_then(|set| u64::from_str_radix(set, 16).ok());
    (bounding.unwrap_or(0) & WANTED != WANTED).then_some(words::TOOLS_BOUND)
}

/// proc_pid_status(5) of the calling thread.
pub(crate) fn status() -> String {
    fs::read_to_string("/proc/thread-self/status").unwrap_or_default()
}

pub(crate) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn in_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;

/// Writes the maps of process `pid`'s new user namespace, once and for all.
///
/// # Errors
/// One that lacks [`Feature::SubIds`] where newuidmap or newgidmap does not map them. Some of it may be written then:
/// another map needs another process.
pub(super) fn write(pid: u32, map: &IdMap) -> Result<()> {
    let file = |name: &str| format!("/proc/{pid}/{name}");
    if map.is_single() {
        let put = |name: &str, text: &str| fs::write(file(name), text).call_at("write", file(name));
        put("setgroups", "deny")?;
        put("uid_map", &IdMap::text(&map.users)).map_err(|error| match geteuid().is_root() {
            true => error.lacks(words::SETFCAP.of(Feature::UserNamespace)),
            false => error,
        })?;
        return put("gid_map", &IdMap::text(&map.groups));
    }
    for (tool, name, extents) in [("newuidmap", "uid_map", &map.users), ("newgidmap", "gid_map", &map.groups)]
    {
        let mut command = Command::new(tool);
        command.arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for e in extents {
            command.args([e.inside, e.outside, e.count].map(|n| n.to_string()));
        }
        let refused = |why: &str| {
            let why = format!("{tool} refused: {}", why.trim().trim_start_matches(&format!("{tool}: ")));
            let missing = Missing::new(Feature::SubIds, why, words::TOOLS_REFUSE);
            Error::new(ErrorKind::Unsupported, missing.reason().to_owned()).lacks(missing)
        };
        let mut child = command.spawn().map_err(|error| match error.raw_os_error() {
            // As it may not be executed, or is no program; not for want of memory or descriptors, which may pass.
            Some(EACCES | EPERM | ENOENT | ENOEXEC) => refused(&error.to_string()),
            _ => Error::os("posix_spawn", error).with_path(tool),
        })?;
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            stderr.take(4096).read_to_string(&mut said).call("read")?;
        }
        // A host that ignores SIGCHLD or reaps everything leaves no status: what was written counts.
        drop(child.wait());
        let written = fs::read_to_string(file(name)).call_at("read", file(name))?;
        if written.split_whitespace().next().is_none() {
            return Err(refused(&said));
        }
    }
    Ok(())
}

/// Whether this process may do what only root may. Root of a user namespace (of a rootless or remapped container, of
/// unshare(1)) may not: filesystems of the host are not its own to id-map, and few ids are.
pub(crate) fn is_privileged() -> bool {
    const WANTED: u64 = 1 << 21 | 1 << 7 | 1 << 6 | 1 << 0; // SYS_ADMIN, SETUID, SETGID, CHOWN
    geteuid().is_root() && effective_capabilities() & WANTED == WANTED && is_initial()
}

/// An ordinary user's program that is another user by its real id is taken for a set-user-ID one: its processes belong to root
/// in /proc (PR_SET_DUMPABLE(2const)), and newuidmap asks for the real user's sub-ids.
pub(crate) fn is_one_user() -> Result<()> {
    let of = |what: &str, real: u32, effective: u32| match real == effective {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Unsupported,
            format!("this program's real {what} is {real} and its effective one {effective}"),
        )
        .with_remedy("give up both: setresgid(2) and setresuid(2) of the same id three times")),
    };
    of("user", getuid().as_raw(), geteuid().as_raw())?;
    of("group", getgid().as_raw(), getegid().as_raw())
}

pub(crate) fn effective_capabilities() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits())
}

/// With whose rights a program acts: it may give some up in its life. What of them tells a warden that may start its containers
/// from one that may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    user: u32,
    privileged: bool,
}

impl Rights {
    pub fn current() -> Self {
        Self { user: geteuid().as_raw(), privileged: is_privileged() }
    }
}

/// Whether this is the first user namespace, which has a number of its own (PROC_USER_INIT_INO).
fn is_initial() -> bool {
    const INITIAL: u64 = 0xEFFF_FFFD;
    fs::metadata("/proc/thread-self/ns/user").map_or(true, |meta| meta.ino() == INITIAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_largest_share_by_name_or_id() {
        let text = "alice:100000:65536\nbob:165536:1000\n1001:300000:70000\n# x\nbob:x:y\n";
        assert_eq!(parse_subids(text, Some("alice"), 7), Some((100000, 65536)));
        assert_eq!(parse_subids(text, Some("bob"), 1001), Some((300000, 70000)));
        assert_eq!(parse_subids(text, None, 8), None);
    }

    #[test]
    fn a_nested_map_follows_the_extents() {
        let outer = IdMap {
            users: vec![
                Extent { inside: 0, outside: 1000, count: 1 },
                Extent { inside: 1, outside: 100000, count: 65535 },
            ],
            groups: vec![Extent { inside: 0, outside: 1000, count: 1 }],
        };
        assert_eq!(IdMap::text(&outer.beneath(&outer).unwrap().users), "0 0 1\n1 1 65535\n");
        let users = |extents: &[(u32, u32, u32)]| IdMap {
            users: extents
                .iter()
                .map(|&(inside, outside, count)| Extent { inside, outside, count })
                .collect(),
            groups: Vec::new(),
        };
        let map = users(&[(5, 100_010, 20), (0, 1000, 1)]).beneath(&outer).unwrap();
        assert_eq!(IdMap::text(&map.users), "5 11 20\n0 0 1\n");
        let two = users(&[(0, 0, 1000), (1000, 5000, 10)]);
        let over_both = users(&[(0, 990, 10), (10, 5002, 3)]).beneath(&two).unwrap();
        assert_eq!(IdMap::text(&over_both.users), "0 990 10\n10 1002 3\n");
        let cut = users(&[(0, 10, 20)]).beneath(&users(&[(0, 10, 5), (5, 15, 100)])).unwrap();
        assert_eq!(IdMap::text(&cut.users), "0 0 5\n5 5 15\n");
        for foreign in [(0, 999, 1), (0, 1000, 2), (0, 165_530, 10), (0, u32::MAX, 2)] {
            let error = users(&[foreign]).beneath(&outer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{foreign:?}: {error}");
        }
        assert_eq!((outer.user(0), outer.user(33), outer.group(1)), (Some(1000), Some(100032), None));
    }
}
