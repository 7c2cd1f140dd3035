//! This machine's own root directory as an image: what of it stays hidden.
//!
//! A container on the host image sees the host's programs and libraries, and its root reads what the
//! host's root can read. So everything that holds secrets is covered, by three rules:
//!
//! 1. the [list](HIDDEN) below, and with it the store, the home directories of people and the directory for temporary files;
//! 2. in `/etc`, at any depth, what others may not read: a regular file, or a directory as a whole;
//! 3. directly in the directories of [`STATE`] (data of daemons, logs, queues), the same.
//!
//! Paths are followed to where they lead (`/var/run` is `/run`), and that place is covered.
//! [`Image::expose`](crate::Image::expose) gives back exactly the path it names: a covered path, or something
//! inside of one. To expose a directory gives back nothing that is covered for a reason of its own below it:
//! `/home` does not give back the store in it.
//!
//! What this can't know: secrets that a program keeps world-readable, or in places of its own (`/srv`, `/opt`).
#![forbid(unsafe_code)]

use crate::error::{Call, Error, ErrorKind, Result};
use crate::manifest::ImageConfig;
use crate::store::{Store, list};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is hidden, with at most one `*` in a component. What does not exist is nothing to hide.
pub(crate) const HIDDEN: &[&str] = &[
    // People and what runs at this moment.
    "/root",
    "/home",
    "/tmp",
    "/run",
    "/var/run",
    "/var/tmp",
    "/var/mail",
    "/var/spool/mail",
    "/mnt",
    "/media",
    "/lost+found",
    "/.snapshots",
    "/swapfile",
    "/swap.img",
    // Stores of containers and machines: other engines' images may hold anybody's secrets.
    "/var/lib/coracle",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/podman",
    "/var/lib/cni",
    "/var/lib/buildkit",
    "/var/lib/buildah",
    "/var/lib/lxc",
    "/var/lib/lxd",
    "/var/lib/incus",
    "/var/lib/lxcfs",
    "/var/lib/machines",
    "/var/lib/portables",
    "/var/lib/private",
    "/var/lib/libvirt",
    "/var/lib/kubelet",
    "/var/lib/etcd",
    "/var/lib/rancher",
    "/var/lib/k0s",
    "/var/lib/rook",
    "/var/lib/nomad",
    "/var/lib/consul",
    "/var/lib/vault",
    "/var/lib/flatpak",
    "/var/lib/snapd",
    "/var/snap",
    "/snap",
    "/var/lib/waydroid",
    "/var/cache/containers",
    // Accounts.
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/.pwd.lock",
    "/etc/security/opasswd",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/doas.conf",
    "/etc/polkit-1",
    "/var/backups",
    "/var/lib/AccountsService",
    "/var/lib/sss",
    "/var/lib/samba/private",
    "/var/lib/fprint",
    "/var/lib/pam-ssh",
    // Keys of this machine.
    "/etc/ssh/ssh_host_*_key",
    "/etc/ssl/private",
    "/etc/pki/tls/private",
    "/etc/pki/private",
    "/etc/pki/consumer",
    "/etc/pki/entitlement",
    "/etc/letsencrypt",
    "/etc/acme",
    "/var/lib/acme",
    "/var/lib/caddy",
    "/var/lib/dehydrated",
    "/etc/krb5.keytab",
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/etc/cryptsetup-keys.d",
    "/etc/luks",
    "/etc/crypttab",
    "/var/lib/tpm",
    "/var/lib/tpm2-tss",
    "/var/lib/swtpm-localca",
    "/etc/credstore",
    "/etc/credstore.encrypted",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/coredump",
    "/etc/ipsec.secrets",
    "/etc/ipsec.d/private",
    "/etc/swanctl/private",
    "/etc/strongswan.d",
    "/etc/tinc",
    "/etc/wireguard",
    "/etc/openvpn",
    "/var/lib/tailscale",
    "/var/lib/zerotier-one",
    "/etc/nebula",
    "/etc/cloudflared",
    // Networks.
    "/etc/NetworkManager/system-connections",
    "/etc/wpa_supplicant",
    "/var/lib/iwd",
    "/etc/netplan",
    "/etc/ppp/chap-secrets",
    "/etc/ppp/pap-secrets",
    "/etc/chatscripts",
    "/etc/netrc",
    "/var/lib/NetworkManager",
    "/var/lib/bluetooth",
    "/etc/snmp",
    // Clouds, clusters and engines.
    "/etc/kubernetes",
    "/etc/rancher",
    "/etc/k0s",
    "/etc/docker",
    "/etc/containers/auth.json",
    "/etc/containerd",
    "/etc/crio",
    "/etc/nomad.d",
    "/etc/consul.d",
    "/etc/vault.d",
    "/etc/ceph",
    "/etc/etcd",
    "/var/lib/cloud",
    "/etc/cloud",
    "/var/lib/waagent",
    "/var/lib/google",
    "/var/lib/amazon",
    "/etc/google",
    "/etc/amazon",
    "/etc/boto.cfg",
    "/etc/openstack",
    "/etc/salt",
    "/etc/puppet",
    "/etc/puppetlabs",
    "/etc/chef",
    "/etc/gitlab-runner",
    "/etc/gitlab",
    "/etc/rclone.conf",
    "/etc/restic",
    "/etc/borgmatic",
    "/etc/ansible",
    // Package tools.
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d",
    "/etc/apt/preferences.d/*.key",
    "/etc/dnf/auth",
    "/etc/zypp/credentials.d",
    "/etc/rhsm",
    "/etc/sysconfig/rhn",
    "/etc/pip.conf",
    "/etc/npmrc",
    "/etc/yum/vars",
    "/var/lib/ubuntu-advantage",
    "/etc/ubuntu-advantage",
    // Services with passwords in their settings.
    "/etc/mysql/debian.cnf",
    "/etc/postfix/sasl_passwd*",
    "/etc/exim4/passwd.client",
    "/etc/msmtprc",
    "/etc/ssmtp",
    "/etc/davfs2/secrets",
    "/etc/cups",
    "/etc/samba/*.creds",
    "/etc/cifs*",
    "/etc/fstab",
    "/etc/autofs*",
    "/etc/ldap.secret",
    "/etc/libnss-ldap.secret",
    "/etc/pam_ldap.secret",
    "/etc/nslcd.conf",
    "/etc/sssd",
    "/etc/freeradius",
    "/etc/bind/rndc.key",
    "/etc/rndc.key",
    "/etc/redis",
    "/etc/grafana",
    "/etc/rabbitmq",
    "/var/lib/rabbitmq/.erlang.cookie",
    "/etc/openldap/slapd.d",
    "/etc/ldap/slapd.d",
    // Jobs, and what starts the machine.
    "/var/spool/cron",
    "/var/spool/at",
    "/boot",
    "/efi",
    "/var/crash",
    "/var/lib/apport",
    "/var/log/journal",
    "/var/log/audit",
    "/var/log/installer",
];

/// Directories of daemons' data: what others may not enter or read directly in them is hidden.
const STATE: [&str; 5] = ["/var/lib", "/var/log", "/var/cache", "/var/spool", "/var/opt"];

/// More entries than this in `/etc` or a directory of state are not looked through: the host image is
/// refused then, rather than shown in part unseen.
const ENTRIES_MAX: usize = 200_000;
const PASSWD_MAX: u64 = 4 << 20;

/// One step in making the host's root fit to be seen; in this order, a directory before what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// Absolute, without symbolic links.
    pub(crate) path: PathBuf,
    pub(crate) is_dir: bool,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// Cover it: an empty directory, or an empty file.
    Hide,
    /// It lies in something covered: put it back.
    Return,
}

/// A configuration for containers on the host's root: this machine's platform, a search path, a shell.
pub(super) fn config() -> Result<ImageConfig> {
    ImageConfig::new(&[], json!([]), "1970-01-01T00:00:00Z")?.edit(|value| {
        value["config"]["Env"] = json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        value["config"]["Cmd"] = json!(["/bin/sh"]);
    })
}

/// What of this machine's root is hidden and what of that is given back.
///
/// # Errors
/// `TooLarge` when `/etc` is beyond all bounds; the errors of the file system.
pub(crate) fn steps(store: &Store, exposed: &[PathBuf]) -> Result<Vec<Step>> {
    let root = Root::open(Path::new("/"))?;
    let mut extra = vec![store.path().to_owned(), std::env::temp_dir()];
    extra.extend(std::env::var_os("HOME").map(PathBuf::from));
    root.steps(&extra, exposed)
}

struct Root {
    dir: OwnedFd,
    /// What the kernel calls it: cut off from resolved paths.
    path: PathBuf,
}

/// A path of the root that exists, without links.
struct Resolved {
    path: PathBuf,
    stat: Stat,
    fd: OwnedFd,
}

impl Resolved {
    fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

/// Whether others may not read it: of a directory, list or enter it.
fn is_private(stat: &Stat) -> bool {
    let mode = Mode::from_raw_mode(stat.st_mode);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => !mode.contains(Mode::ROTH | Mode::XOTH),
        FileType::RegularFile => !mode.contains(Mode::ROTH),
        _ => false,
    }
}

impl Root {
    fn open(path: &Path) -> Result<Self> {
        let dir = rustix::fs::open(path, crate::store::DIRECTORY, Mode::empty()).call_at("open", path)?;
        Ok(Self { path: path_of(&dir)?, dir })
    }

    fn steps(&self, extra: &[PathBuf], exposed: &[PathBuf]) -> Result<Vec<Step>> {
        let mut hidden: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let mut hide = |found: &Resolved| {
            // The root itself (a HOME of `/`) and directories of programs can't go.
            if !is_needed(&found.path) {
                hidden.insert(found.path.clone(), found.is_dir());
            }
        };
        for pattern in HIDDEN {
            self.expand(Path::new(pattern))?.iter().for_each(&mut hide);
        }
        for path in extra.iter().chain(&self.homes()?) {
            self.resolve(path)?.iter().for_each(&mut hide);
        }
        self.private(Path::new("/etc"), usize::MAX, &mut hide)?;
        for state in STATE {
            self.private(Path::new(state), 0, &mut hide)?;
        }
        let mut returned = BTreeMap::new();
        for path in exposed {
            let Some(found) = self.resolve(path)? else {
                return Err(
                    Error::new(ErrorKind::NotFound, "expose: no such path on the host").with_path(path)
                );
            };
            hidden.remove(&found.path);
            returned.insert(found.path.clone(), found.is_dir());
        }
        Ok(order(hidden, returned))
    }

    /// The paths that match a pattern.
    fn expand(&self, pattern: &Path) -> Result<Vec<Resolved>> {
        let starred = pattern.components().position(|part| part.as_os_str().as_bytes().contains(&b'*'));
        let Some(at) = starred else { return Ok(self.resolve(pattern)?.into_iter().collect()) };
        let parent: PathBuf = pattern.components().take(at).collect();
        let rest: PathBuf = pattern.components().skip(at + 1).collect();
        let star = pattern.components().nth(at).map(|part| part.as_os_str().as_bytes()).unwrap_or_default();
        let Some(directory) = self.resolve(&parent)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for name in self.names(&directory)?.unwrap_or_default() {
            if matches(star, name.as_bytes()) {
                found.extend(self.resolve(&directory.path.join(&name).join(&rest))?);
            }
        }
        Ok(found)
    }

    /// Follows a path within the root; `None` when it leads nowhere, or where the caller may not look
    /// (and with the caller's rights nobody in a container may).
    fn resolve(&self, path: &Path) -> Result<Option<Resolved>> {
        let Some(path) =
            path.to_str().map(|path| path.trim_end_matches('/')).filter(|path| path.starts_with('/'))
        else {
            return Ok(None);
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let fd = loop {
            match rustix::fs::openat2(&self.dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
            {
                // A rename raced with the resolution.
                Err(Errno::AGAIN) => continue,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(None),
                other => break other.call_at("openat2", path)?,
            }
        };
        let stat = rustix::fs::fstat(&fd).call_at("fstat", path)?;
        let real = path_of(&fd)?;
        let Ok(inside) = real.strip_prefix(&self.path) else {
            return Err(Error::new(ErrorKind::Io, "resolved to outside of the root").with_path(real));
        };
        Ok(Some(Resolved { path: Path::new("/").join(inside), stat, fd }))
    }

    /// What a directory has; `None` when the caller may not list it.
    fn names(&self, directory: &Resolved) -> Result<Option<Vec<std::ffi::OsString>>> {
        let open = rustix::fs::openat(&directory.fd, ".", crate::store::DIRECTORY, Mode::empty());
        match open {
            Err(Errno::ACCESS | Errno::NOENT | Errno::NOTDIR) => Ok(None),
            other => {
                let fd = other.call_at("openat", &directory.path)?;
                list(fd.as_fd()).map(Some).map_err(|error| error.with_path(&directory.path))
            }
        }
    }

    /// Hides what others may not read below `path`, down to `depth` directories below.
    fn private(&self, path: &Path, depth: usize, hide: &mut impl FnMut(&Resolved)) -> Result<()> {
        let Some(top) = self.resolve(path)? else { return Ok(()) };
        let mut todo = vec![(top, 0)];
        let mut seen = 0;
        while let Some((directory, level)) = todo.pop() {
            for name in self.names(&directory)?.unwrap_or_default() {
                seen += 1;
                if seen > ENTRIES_MAX {
                    return Err(Error::new(
                        ErrorKind::TooLarge,
                        format!("more than {ENTRIES_MAX} entries to look through"),
                    )
                    .with_path(path));
                }
                // One call for most entries: this is done at each start of a container.
                let below = directory.path.join(&name);
                let stat = match rustix::fs::statat(&directory.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT | Errno::ACCESS) => continue,
                    other => other.call_at("fstatat", &below)?,
                };
                let kind = FileType::from_raw_mode(stat.st_mode);
                let enter = kind == FileType::Directory && level < depth;
                if kind != FileType::Symlink && !enter && !is_private(&stat) {
                    continue;
                }
                let Some(found) = self.resolve(&below)? else { continue };
                if is_private(&found.stat) {
                    hide(&found);
                } else if enter {
                    todo.push((found, level + 1));
                }
            }
        }
        Ok(())
    }

    /// The home directories of people, and of the caller.
    fn homes(&self) -> Result<Vec<PathBuf>> {
        let Some(passwd) = self.resolve(Path::new("/etc/passwd"))? else { return Ok(Vec::new()) };
        let me = rustix::process::geteuid().as_raw();
        let mut text = Vec::new();
        let open = std::fs::OpenOptions::new()
            .read(true)
            .open(format!("/proc/thread-self/fd/{}", passwd.fd.as_raw_fd()));
        let file: File = open.call_at("open", &passwd.path)?;
        file.take(PASSWD_MAX).read_to_end(&mut text).call_at("read", &passwd.path)?;
        let home = |line: &[u8]| {
            let mut fields = line.split(|b| *b == b':');
            let uid: u32 = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
            // Below 1000 are daemons, 65534 is nobody.
            let person = uid == me || (1000..65_534).contains(&uid) || uid > 65_535;
            person.then_some(PathBuf::from(OsStr::from_bytes(fields.nth(2)?)))
        };
        Ok(text.split(|b| *b == b'\n').filter_map(home).collect())
    }
}

/// Directories that containers can't do without, whoever has them as home.
fn is_needed(path: &Path) -> bool {
    let top =
        ["/", "/etc", "/var", "/var/lib", "/var/cache", "/var/log", "/opt", "/srv", "/dev", "/proc", "/sys"];
    top.iter().any(|needed| path == Path::new(needed))
        || ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]
            .iter()
            .any(|needed| path.starts_with(needed))
}

/// Parents before children; no cover below a cover unless something between them was given back.
fn order(hidden: BTreeMap<PathBuf, bool>, returned: BTreeMap<PathBuf, bool>) -> Vec<Step> {
    let hide = hidden.into_iter().map(|(path, is_dir)| Step { path, is_dir, what: What::Hide });
    let give = returned.into_iter().map(|(path, is_dir)| Step { path, is_dir, what: What::Return });
    let mut all: Vec<_> = hide.chain(give).collect();
    // By components: `/a/b` comes right behind `/a`, not behind `/a-b`.
    all.sort();
    let mut steps: Vec<Step> = Vec::new();
    for step in all {
        let above = steps.iter().rev().find(|above| step.path.starts_with(&above.path));
        // What nothing covers needs no return, and what is covered no cover.
        if above.map_or(What::Return, |above| above.what) != step.what {
            steps.push(step);
        }
    }
    steps
}

fn path_of(fd: &OwnedFd) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()))
        .call("readlink(/proc/thread-self/fd)")
}

/// Whether a name matches a pattern with one `*`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.iter().position(|b| *b == b'*') {
        None => pattern == name,
        Some(at) => {
            let (before, after) = (&pattern[..at], &pattern[at + 1..]);
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        }
    }
}

#[cfg(test)]
mod tests;
