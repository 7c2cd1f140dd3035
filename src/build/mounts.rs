//! `RUN --mount`: what is mounted while a RUN executes.
//!
//! A cache is a plain directory, locked as its sharing says while it is used. A secret is a file in memory. Files of a context are
//! mounted as a layer of them is, so that a `.dockerignore` counts and nobody changes the caller's; what RUN writes there is dropped.
#![forbid(unsafe_code)]

use super::agent::Agent;
use super::base::files_of;
use super::history;
use super::stage::{At, Finished};
use super::transfer::{From, Transfer};
use super::work::{Named, Work};
use crate::container::{Given, MemoryFile, Mount as Bind, Tree, copy_into};
use crate::digest::Digest;
use crate::dockerfile::{Copy, Mount, MountKind, Sharing, Source};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::{EntryKind, Owned, for_caller};
use crate::store::{Lease, random_hex};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags};
use std::ffi::CString;
use std::fmt::Write;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A directory's name has at most 255 bytes.
const NAME_MAX: usize = 200;

/// How often a cache that another build has is asked for again; flock(2) waits without a deadline.
const AGAIN: Duration = Duration::from_millis(20);

/// All that a RUN gets, and what is to be kept as long as it executes.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) binds: Vec<Bind>,
    pub(super) given: Given,
    pub(super) env: Vec<(String, String)>,
    /// The secrets among them.
    pub(super) secrets: Vec<(String, Arc<[u8]>)>,
    /// The directories of caches.
    locks: Vec<(PathBuf, File)>,
    /// The sockets of ssh agents.
    agents: Vec<Agent>,
}

/// Files of a context or an image that are to be mounted.
enum Files<'a> {
    Context(&'a super::context::Context),
    Image(Image),
}

impl Work<'_> {
    /// What a RUN depends on by its mounts: the files that they show; `None` where there are none.
    pub(super) fn mounted_digest(&self, at: &At<'_>, mounts: &[Mount]) -> Result<Option<Digest>> {
        let mut text = String::new();
        for mount in mounts.iter().filter(|mount| mount.kind == MountKind::Bind) {
            let digest = match self.files(at, mount)? {
                Files::Context(context) => {
                    let (transfer, _) = files_at(mount);
                    transfer.digest(self.store, From::Context(context))?
                }
                Files::Image(image) => files_of(&image),
            };
            let _ = writeln!(text, "{digest}");
        }
        Ok((!text.is_empty()).then(|| Digest::of(text.as_bytes())))
    }

    fn files(&self, at: &At<'_>, mount: &Mount) -> Result<Files<'_>> {
        let Some(name) = mount.from.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(Files::Context(&self.context));
        };
        match self.named(name) {
            Some(Named::Files(context)) => Ok(Files::Context(context)),
            Some(Named::Image(name)) => self.image(name, self.build.platform.as_ref()).map(Files::Image),
            None => self.source(self.file.mount_from(at.stage, at.step, name)?).map(Files::Image),
        }
    }

    /// Waits for caches, and makes what is not there.
    pub(super) fn mount(&self, at: &At<'_>, mounts: &[Mount], state: &Finished) -> Result<Mounted> {
        let mut mounted = Mounted::default();
        let mut caches: Vec<_> = mounts.iter().filter(|mount| mount.kind == MountKind::Cache).collect();
        // In one order everywhere, so that no two RUNs wait for each other; of one directory the stronger lock first.
        caches.sort_by_cached_key(|mount| {
            (directory_of(mount, state).ok(), sharing_of(mount) == Sharing::Shared)
        });
        for mount in caches {
            self.cache(at, mount, state, &mut mounted)?;
        }
        for mount in mounts {
            match mount.kind {
                MountKind::Cache => {}
                MountKind::Tmpfs => {
                    let size = tmpfs_size(mount);
                    // As many files as pages, as the kernel has it.
                    let tmpfs = Bind::tmpfs(target(mount, state)?).exec().size(size).inodes(size / 4096);
                    mounted.binds.push(if mount.read_only { tmpfs.read_only() } else { tmpfs });
                }
                MountKind::Secret => self.secret(mount, state, &mut mounted)?,
                MountKind::Ssh => self.ssh(mount, state, &mut mounted)?,
                MountKind::Bind => {
                    let tree = self.tree(at, mount, state)?;
                    mounted.given.trees.push(tree);
                }
            }
        }
        Ok(mounted)
    }

    fn tree(&self, at: &At<'_>, mount: &Mount, state: &Finished) -> Result<Tree> {
        let (image, path) = match self.files(at, mount)? {
            Files::Image(image) => (image, mount.source.clone().unwrap_or_default()),
            Files::Context(context) => {
                let (transfer, path) = files_at(mount);
                let from = From::Context(context);
                let copied = transfer.digest(self.store, from)?;
                let scratch = self.scratch(None)?;
                let key = history::key(scratch.id(), &["mount", &copied.to_string(), &path]);
                let (image, _) = self.kept(&key, || {
                    let layer = transfer.layer(self.store, from, None)?;
                    self.derived(&scratch, Some(&layer), format!("COPY . / # {copied}"), None, |_| Ok(()))
                })?;
                (image, path)
            }
        };
        let source = Path::new("/").join(path.trim_start_matches('/'));
        let Some((found, kind)) = image.locate(&source)? else {
            let what = format!("there is no {:?} to mount", mount.source.as_deref().unwrap_or("/"));
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        Ok(Tree {
            target: target(mount, state)?,
            layers: image.layer_dirs()?,
            path: found.strip_prefix("/").unwrap_or(&found).to_owned(),
            is_dir: kind == EntryKind::Directory,
            read_only: mount.read_only,
        })
    }

    fn secret(&self, mount: &Mount, state: &Finished, mounted: &mut Mounted) -> Result<()> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let name_of =
            |path: &String| Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        let id = given(&mount.id).or_else(|| given(&mount.source));
        let id = id.or_else(|| mount.target.as_ref().and_then(name_of)).unwrap_or_default();
        let Some(bytes) = self.secrets.get(&id) else {
            if !mount.required {
                return Ok(());
            }
            return Err(Error::new(ErrorKind::NotFound, format!("the build was given no secret {id:?}"))
                .with_remedy("Build::secret gives one"));
        };
        mounted.secrets.push((id.clone(), bytes.clone()));
        if let Some(name) = &mount.env {
            let name = if name.is_empty() { &id } else { name };
            let value = String::from_utf8(bytes.to_vec()).ok().filter(|text| !text.contains('\0'));
            let value = value.ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidData,
                    format!("the secret {id:?} is no text, which a variable is"),
                )
            })?;
            if name.contains(['=', '\0']) {
                return Err(Error::new(ErrorKind::InvalidData, format!("environment variable {name:?}")));
            }
            mounted.env.push((name.clone(), value));
        }
        // With a variable it is a file only where one is asked for.
        if mount.env.is_some() && mount.target.is_none() {
            return Ok(());
        }
        let target = match &mount.target {
            Some(_) => target(mount, state)?,
            None => {
                let name = name_of(&id).unwrap_or_else(|| id.clone());
                Path::new("/run/secrets").join(name)
            }
        };
        mounted.given.files.push(MemoryFile {
            target,
            bytes: bytes.clone(),
            mode: mount.mode.unwrap_or(0o400) & 0o7777,
            owner: (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0)),
        });
        Ok(())
    }

    fn ssh(&self, mount: &Mount, state: &Finished, mounted: &mut Mounted) -> Result<()> {
        let id = mount.id.as_deref().filter(|id| !id.is_empty()).unwrap_or("default");
        let Some((_, socket)) = self.build.ssh.iter().rev().find(|(other, _)| other == id) else {
            if !mount.required {
                return Ok(());
            }
            return Err(Error::new(ErrorKind::NotFound, format!("the build was given no ssh agent {id:?}"))
                .with_remedy("Build::ssh gives the socket of one"));
        };
        let number = mounted.env.iter().filter(|(name, _)| name == "SSH_AUTH_SOCK").count();
        let target = match &mount.target {
            Some(_) => target(mount, state)?,
            None => format!("/run/buildkit/ssh_agent.{number}").into(),
        };
        mounted.env.push(("SSH_AUTH_SOCK".to_owned(), target.to_string_lossy().into_owned()));
        let owner = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let agent = Agent::start(self.store, socket, owner, mount.mode.unwrap_or(0o600) & 0o7777)?;
        // It can be connected to all the same; its mode and its owner stay what they are.
        mounted.binds.push(Bind::bind(agent.path(), target).read_only());
        mounted.agents.push(agent);
        Ok(())
    }

    fn cache(&self, at: &At<'_>, mount: &Mount, state: &Finished, mounted: &mut Mounted) -> Result<()> {
        let target = target(mount, state)?;
        let room = match &self.build.cache_dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).call_at("mkdir", dir)?;
                dir.clone()
            }
            None => self.store.cache_mounts()?,
        };
        let name = directory_of(mount, state)?;
        let sharing = sharing_of(mount);
        let path = room.join(&name);
        // It has the directory already: another lock of it would never come.
        if sharing != Sharing::Private && mounted.locks.iter().any(|(other, _)| *other == path) {
            let bind = Bind::bind(path, target);
            mounted.binds.push(if mount.read_only { bind.read_only() } else { bind });
            return Ok(());
        }
        for number in 0.. {
            let name = if number == 0 { name.clone() } else { format!("{name}~{number}") };
            let path = room.join(&name);
            let Some(lock) = self.locked(at, mount, &room, &path, sharing)? else { continue };
            // When it was last used, for `Store::prune_cache`.
            let now = std::fs::FileTimes::new().set_modified(std::time::SystemTime::now());
            if let Err(error) = lock.set_times(now) {
                tracing::debug!(%error, ?path, "the time of a cache's directory");
            }
            mounted.locks.push((path.clone(), lock));
            let bind = Bind::bind(path, target);
            mounted.binds.push(if mount.read_only { bind.read_only() } else { bind });
            return Ok(());
        }
        Ok(())
    }

    /// The directory of a cache, locked; `None` where another build has it alone and this one may have another.
    fn locked(
        &self,
        at: &At<'_>,
        mount: &Mount,
        room: &Path,
        path: &Path,
        sharing: Sharing,
    ) -> Result<Option<File>> {
        let operation = match sharing {
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
            _ => FlockOperation::NonBlockingLockExclusive,
        };
        loop {
            if let Err(rustix::io::Errno::NOENT) = rustix::fs::lstat(path) {
                self.make(at, mount, room, path)?;
            }
            let file = match open_cache(room, path) {
                // Pruned just now.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => File::from(other?),
            };
            loop {
                match rustix::fs::flock(&file, operation) {
                    Ok(()) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::WOULDBLOCK) if sharing == Sharing::Private => return Ok(None),
                    Err(rustix::io::Errno::WOULDBLOCK) => {
                        self.check()?;
                        std::thread::park_timeout(AGAIN);
                    }
                    Err(errno) => return Err(Error::os("flock", errno).with_path(path)),
                }
            }
            // It may have been pruned before it was locked.
            let ours = rustix::fs::fstat(&file).call_at("fstat", path)?;
            match rustix::fs::stat(path) {
                Ok(now) if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino) => return Ok(Some(file)),
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(Error::os("stat", errno).with_path(path)),
            }
        }
    }

    /// Makes it, under another name until it is what it begins with. Until then it is locked, as one that is not is anybody's to
    /// prune.
    fn make(&self, at: &At<'_>, mount: &Mount, room: &Path, path: &Path) -> Result<()> {
        let parent = open_dir(room)?;
        let (dir, name) = new_cache(parent.as_fd()).map_err(|error| error.with_path(room))?;
        let filled = self.fill(at, mount, dir.as_fd()).and_then(|()| {
            match rustix::fs::renameat_with(&parent, &name, CWD, path, RenameFlags::NOREPLACE) {
                // Another build was faster. Its directory may be empty still, and locked.
                Err(rustix::io::Errno::EXIST) => Ok(false),
                other => other.call_at("renameat2(RENAME_NOREPLACE)", path).map(|()| true),
            }
        });
        if !matches!(filled, Ok(true)) {
            self.store.remove_tree(parent.as_fd(), &name)?;
        }
        filled.map(drop)
    }

    /// What a new cache begins with: files of an image, its owner and mode.
    fn fill(&self, at: &At<'_>, mount: &Mount, dir: BorrowedFd<'_>) -> Result<()> {
        if mount.from.as_deref().is_some_and(|from| !from.is_empty()) {
            let Files::Image(image) = self.files(at, mount)? else {
                let what = "a cache that begins with files of a context";
                return Err(Error::new(ErrorKind::Unsupported, what)
                    .with_remedy("from= of a cache names a stage or an image"));
            };
            let source = Path::new("/").join(mount.source.as_deref().unwrap_or_default());
            if !copy_into(&image, &source, dir)? {
                let error =
                    Error::new(ErrorKind::NotFound, "there is no such directory to begin a cache with");
                return Err(error.with_path(source));
            }
            if mount.mode.is_none() && mount.uid.is_none() && mount.gid.is_none() {
                return Ok(());
            }
        }
        let mode = mount.mode.unwrap_or(0o755) & 0o7777;
        let (uid, gid) = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        // Before it is somebody else's, who may change it then.
        rustix::fs::fchmod(dir, Mode::from_raw_mode(mode)).call("fchmod")?;
        if (uid, gid) == (0, 0) && mount.from.is_none() {
            return Ok(());
        }
        let owned = Owned { path: CString::default(), uid, gid, mode: Some(mode), capability: None };
        for_caller().apply(dir, &[owned])
    }
}

/// An empty directory, leased, and its name.
fn new_cache(room: BorrowedFd<'_>) -> Result<(Lease, String)> {
    loop {
        let name = format!(".new-{}", random_hex(8)?);
        rustix::fs::mkdirat(room, &name, Mode::RWXU).call("mkdirat")?;
        // `None`: a prune was faster than the lock.
        if let Some(lease) = Lease::shared(room, &name)? {
            return Ok((lease, name));
        }
    }
}

/// An ordinary user's may belong to a sub-id, and be closed to the user.
fn open_cache(room: &Path, path: &Path) -> Result<OwnedFd> {
    match (open_dir(path), path.file_name().map(|name| CString::new(name.as_bytes()))) {
        (Err(error), Some(Ok(name))) if error.kind() == ErrorKind::PermissionDenied => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            for_caller().open(open_dir(room)?.as_fd(), &name, flags)?.ok_or(error)
        }
        (other, _) => other,
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .call_at("open", path)
        .map_err(|error| error.during("opening the directory of a cache"))
}

/// The name of a cache's directory: that of its id, else of its target.
fn directory_of(mount: &Mount, state: &Finished) -> Result<String> {
    match mount.id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Ok(cache_name(id)),
        None => target(mount, state).map(|target| cache_name(&target.to_string_lossy())),
    }
}

fn sharing_of(mount: &Mount) -> Sharing {
    mount.sharing.unwrap_or(Sharing::Shared)
}

/// Where it is in the container: absolute, relative ones in the working directory.
fn target(mount: &Mount, state: &Finished) -> Result<PathBuf> {
    let text = mount.target.as_deref().filter(|text| !text.is_empty());
    let Some(text) = text else {
        return Err(
            Error::new(ErrorKind::InvalidData, "a mount without a target").with_remedy("target=/PATH")
        );
    };
    let workdir = Some(state.image.config().working_dir()).filter(|dir| !dir.is_empty()).unwrap_or("/");
    let mut clean = PathBuf::from("/");
    for part in Path::new(workdir).join(text).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    let is_system = ["/dev", "/proc", "/sys"].iter().any(|dir| clean.starts_with(dir));
    if clean.parent().is_none() || is_system && clean != Path::new("/dev/shm") {
        let error = Error::new(ErrorKind::Unsupported, "nothing can be mounted there").with_path(&clean);
        return Err(
            error.with_remedy("name a directory that is not the root, and not in /dev, /proc or /sys")
        );
    }
    Ok(clean)
}

/// The files of a context that a mount shows, as a COPY to the root, and where in it they are.
fn files_at(mount: &Mount) -> (Transfer, String) {
    let source = mount.source.as_deref().unwrap_or_default();
    let names: Vec<_> = Path::new(source)
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return (Transfer::whole("."), String::new());
    }
    let path = names.join("/");
    // It is a name and no pattern.
    let plain = path.chars().fold(String::new(), |mut plain, c| {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            plain.push('\\');
        }
        plain.push(c);
        plain
    });
    let copy = Copy {
        sources: vec![Source::Path(plain)],
        destination: "/".to_owned(),
        from: None,
        chown: None,
        chmod: None,
        link: true,
        parents: true,
        exclude: Vec::new(),
    };
    (Transfer::copy(&copy, "/"), path)
}

/// As the kernel has it for a tmpfs of which nothing is said: half of the memory.
fn tmpfs_size(mount: &Mount) -> u64 {
    let info = rustix::system::sysinfo();
    let memory = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit).max(1));
    mount.size.filter(|size| *size > 0).unwrap_or(memory / 2).max(64 << 10)
}

/// The name of a cache's directory: its id, with all but letters, digits, `.`, `_` and `-` as `%XX`.
fn cache_name(id: &str) -> String {
    let mut name = String::new();
    for (at, byte) in id.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("%2E"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => name.push(byte as char),
            other => {
                let _ = write!(name, "%{other:02X}");
            }
        }
    }
    if name.is_empty() || name.len() > NAME_MAX {
        let end = name.len().min(NAME_MAX - 65);
        return format!("{}~{}", &name[..end], Digest::of(id.as_bytes()).hex());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_have_names_that_are_their_own() {
        assert_eq!(cache_name("apt"), "apt");
        assert_eq!(cache_name("/root/.cache"), "%2Froot%2F.cache");
        assert_eq!(cache_name(".."), "%2E.");
        let (long, other) = ("x".repeat(300), format!("{}y", "x".repeat(299)));
        assert!(cache_name(&long).len() <= NAME_MAX && cache_name(&long) != cache_name(&other));
        assert!(!cache_name("").is_empty());
    }

    #[test]
    fn one_that_is_being_made_is_not_pruned() {
        let store = crate::store::Store::temp().unwrap();
        let mounts = open_dir(&store.cache_mounts().unwrap()).unwrap();
        let (lease, name) = new_cache(mounts.as_fd()).unwrap();
        assert_eq!(store.prune_cache(None, None).unwrap().mounts, 0);
        assert!(rustix::fs::statat(&mounts, &name, rustix::fs::AtFlags::empty()).is_ok());
        // What a build that was killed has left is.
        drop(lease);
        assert_eq!(store.prune_cache(None, None).unwrap().mounts, 1);
    }
}
