//! `RUN --mount`: what is mounted while a RUN executes.
//!
//! A cache is a plain directory, locked as its sharing says while it is used (`caches`). A secret is a file in memory. Files of a context are
//! mounted as a layer of them is, so that a `.dockerignore` counts and nobody changes the caller's; what RUN writes there is dropped.
#![forbid(unsafe_code)]

mod caches;

use super::agent::Agent;
use super::base::files_of;
use super::history;
use super::stage::{At, Finished};
use super::transfer::{From, Transfer};
use super::tree::{absolute, clean};
use super::work::{Named, Work};
use crate::container::{Given, MemoryFile, Mount as Bind, Tree};
use crate::digest::Digest;
use crate::dockerfile::{Mount, MountKind, Sharing};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::EntryKind;
use crate::store::Lease;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where programs look for an agent (ssh-agent(1)).
const SSH_SOCKET: &str = "SSH_AUTH_SOCK";

/// A directory's name has at most 255 bytes.
const NAME_MAX: usize = 200;
/// So much of a digest tells the caches of one id apart.
const FROM_DIGITS: usize = 16;

/// All that a RUN gets, and what is to be kept as long as it executes.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) binds: Vec<Bind>,
    pub(super) given: Given,
    pub(super) env: Vec<(String, String)>,
    /// The secrets among them.
    pub(super) secrets: Vec<(String, Arc<[u8]>)>,
    /// The directories of caches.
    locks: Vec<(PathBuf, Lease)>,
    /// The sockets of ssh agents.
    agents: Vec<Agent>,
}

/// Files of a context or an image that are to be mounted.
enum Files<'a> {
    Context(&'a super::context::Context),
    Image(Image),
}

impl Work<'_> {
    /// What a RUN depends on by its mounts: the files that they show, or that a cache begins with; `None` where there are none.
    /// Whatever stage they are from is done then: nobody waits for one with a cache's lock in the hand.
    pub(super) fn mounted_digest(&self, at: &At<'_>, mounts: &[Mount]) -> Result<Option<Digest>> {
        let mut text = String::new();
        let has_files = |mount: &&Mount| match mount.kind {
            MountKind::Bind => true,
            MountKind::Cache => caches::begins(mount),
            _ => false,
        };
        for mount in mounts.iter().filter(has_files) {
            let digest = match self.files(at, mount)? {
                Files::Context(context) => Transfer::mount(&Transfer::led(context, &source_of(mount)?)?)
                    .until(self.deadline())
                    .digest(self.store, From::Context(context))?,
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
            (self.directory_of(at, mount, state).ok(), sharing_of(mount) == Sharing::Shared)
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
            Files::Image(image) => (image, source_of(mount)?),
            Files::Context(context) => {
                // Links on the way are followed here, so that what they lead to is in the layer, and nothing else.
                let path = Transfer::led(context, &source_of(mount)?)?;
                let transfer = Transfer::mount(&path).until(self.deadline());
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
        let source = Path::new("/").join(path);
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

    /// The name of a cache's directory: that of its id, else of its target. One of another owner or mode, or that begins with other
    /// files, is another cache, as with BuildKit: else it stays that of who was first.
    fn directory_of(&self, at: &At<'_>, mount: &Mount, state: &Finished) -> Result<String> {
        let mut name = match mount.id.as_deref().filter(|id| !id.is_empty()) {
            Some(id) => cache_name(id),
            None => cache_name(&target(mount, state)?.to_string_lossy()),
        };
        let (mode, owner) = caches::access_of(mount);
        // What begins with files has their directory's, where none is asked for.
        if (mode, owner) != caches::USUAL || caches::begins(mount) && caches::asks_for_access(mount) {
            let _ = write!(name, "~{}.{}.{mode:o}", owner.0, owner.1);
        }
        if caches::begins(mount) {
            let image = self.begins_with(at, mount)?;
            let source = mount.source.as_deref().unwrap_or_default();
            let from = Digest::of(format!("{} {source}", files_of(&image)).as_bytes());
            let _ = write!(name, "~from-{}", &from.hex()[..FROM_DIGITS]);
        }
        Ok(name)
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
                .with_remedy("Build::secret gives one: --secret id=ID,src=FILE"));
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
        if mount.env.is_some() && given(&mount.target).is_none() {
            return Ok(());
        }
        let target = match given(&mount.target) {
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
                .with_remedy("Build::ssh gives the socket of one: --ssh ID=SOCKET"));
        };
        let number = mounted.agents.len();
        let target = match mount.target.as_deref().filter(|target| !target.is_empty()) {
            Some(_) => target(mount, state)?,
            None => format!("/run/buildkit/ssh_agent.{number}").into(),
        };
        // The first of them, and what the file says before all of them.
        let is_set = state.scope.get(state.env(), SSH_SOCKET).is_some();
        if !is_set && mounted.env.iter().all(|(name, _)| name != SSH_SOCKET) {
            mounted.env.push((SSH_SOCKET.to_owned(), target.to_string_lossy().into_owned()));
        }
        let owner = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let agent = Agent::start(self.store, socket, owner, mount.mode.unwrap_or(0o600) & 0o7777)?;
        // It can be connected to all the same; its mode and its owner stay what they are.
        mounted.binds.push(Bind::bind(agent.path(), target).read_only());
        mounted.agents.push(agent);
        Ok(())
    }
}

fn sharing_of(mount: &Mount) -> Sharing {
    mount.sharing.unwrap_or(Sharing::Shared)
}

/// Where it is in the container: absolute, relative ones in the working directory, which is also that of none. But for secrets,
/// whose are in the root, as BuildKit has it.
fn target(mount: &Mount, state: &Finished) -> Result<PathBuf> {
    let text = mount.target.as_deref().unwrap_or_default();
    let workdir = match (mount.kind, state.image.config().working_dir()) {
        (MountKind::Secret, _) | (_, "") => "/",
        (_, dir) => dir,
    };
    let clean = absolute(&Path::new(workdir).join(text));
    if text.is_empty() && clean.parent().is_none() {
        let what = "a mount without a target, where the working directory is the root";
        return Err(
            Error::new(ErrorKind::InvalidData, what).with_remedy("target=/PATH, or a WORKDIR before it")
        );
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

/// Where the files of a mount are in what they are from, whose root `/` is.
fn source_of(mount: &Mount) -> Result<String> {
    let source = mount.source.as_deref().unwrap_or_default();
    let (path, leads_out) = clean(source.as_bytes());
    match String::from_utf8(path) {
        Ok(path) if !leads_out => Ok(path),
        _ => {
            let what = format!("source={source}: leads out of what it is from");
            Err(Error::new(ErrorKind::InvalidInput, what).with_remedy(
                "name a path from the root of the build context, or of what from= names; another directory of the host can be a further context (Build::build_context)",
            ))
        }
    }
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
}
