//! Files into a container and out of it, as `docker cp` has it.
//!
//! **Where.** Of a container that runs, all that it sees is there: volumes, binds, tmpfs. The files of any other are mounted
//! for the moment, its volumes with them, and nobody starts it meanwhile ([`inside`]).
//!
//! **By handle.** A path in the container is resolved in its root, as the container would see it, and opened by a courier
//! that is root of the container's user namespace and of nothing else ([`hands`]). Below that, each name is a single one in a
//! directory that is held by its handle, and no link is followed: a container that moves its files about meanwhile has others
//! of its own files copied, or written to, at worst.
//!
//! **What is new** replaces what had its name, but no directory takes a file's place nor a file a directory's. Nothing is ever
//! written into a file that was there.
#![forbid(unsafe_code)]

mod hands;
mod inside;
mod paths;
mod place;
mod walk;

use super::Container;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::archive::Writer;
use crate::layer::tar::{ReadLimits, Reader};
use crate::layer::{Entry, decoder, join};
use crate::sys::diagnose;
use crate::sys::idmap::is_privileged;
use hands::Hands;
use inside::Inside;
use place::{Followed, Owner, Place};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use walk::{Data, LeftOut, Tree};

/// What is read of an archive at a time, and written.
const BUFFER: usize = 256 << 10;

/// How files are copied between the caller and a container: [`Container::copying`].
///
/// ```no_run
/// # let container: coracle::Container = unimplemented!();
/// let copied = container.copying().archive(true).copy_out("/var/lib/app/.", "backup")?;
/// println!("{} files, {} bytes", copied.entries(), copied.bytes());
/// # Ok::<(), coracle::Error>(())
/// ```
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct Copying<'a> {
    container: &'a Container,
    archive: bool,
    follow: bool,
}

/// What was copied.
#[derive(Clone, Debug, Default)]
pub struct Copied {
    entries: u64,
    bytes: u64,
    left_out: LeftOut,
}

impl Copied {
    /// How many files, directories and links.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The length of all files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was not copied, below the source, and why: sockets, devices, what the kernel makes up, what a container has
    /// replaced meanwhile, and extended attributes where the filesystem has none.
    pub fn left_out(&self) -> &[(PathBuf, String)] {
        &self.left_out
    }
}

impl Container {
    /// Copies a file or directory of the caller's into the container, as `docker cp SOURCE CONTAINER:DEST`: see
    /// [`Copying::copy_in`].
    ///
    /// ```no_run
    /// # let container: coracle::Container = unimplemented!();
    /// container.copy_in("site/.", "/var/www/html")?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Copying::copy_in`].
    pub fn copy_in(&self, source: impl AsRef<Path>, dest: impl AsRef<Path>) -> Result<Copied> {
        self.copying().copy_in(source, dest)
    }

    /// Copies a file or directory out of the container, as `docker cp CONTAINER:SOURCE DEST`: see [`Copying::copy_out`].
    ///
    /// ```no_run
    /// # let container: coracle::Container = unimplemented!();
    /// container.copy_out("/etc/passwd", "passwd")?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Copying::copy_out`].
    pub fn copy_out(&self, source: impl AsRef<Path>, dest: impl AsRef<Path>) -> Result<Copied> {
        self.copying().copy_out(source, dest)
    }

    /// Files into the container and out of it, with choices. It may run, be paused, have ended, or never have been started.
    /// Of one that does not run, a start and a second copy wait for the end of the first: an archive of it can't be streamed
    /// into itself then.
    pub fn copying(&self) -> Copying<'_> {
        Copying { container: self, archive: false, follow: false }
    }
}

impl Copying<'_> {
    /// Whether files keep the user and the group that they had, by number (`docker cp -a`). Without it, what goes in is the
    /// container's root's (0:0), and what comes out the caller's. What comes out is kept where the caller may give files away,
    /// which is root.
    ///
    /// A file with another owner than before loses its set-user-ID and set-group-ID bits. Docker's documentation says the same of
    /// owners, while its command lets files keep their numbers on the way in, with `-a` or without.
    pub fn archive(mut self, yes: bool) -> Self {
        self.archive = yes;
        self
    }

    /// Whether a symbolic link as the source stands for what it leads to (`docker cp -L`). Links below the source are copied
    /// as links.
    pub fn follow(mut self, yes: bool) -> Self {
        self.follow = yes;
        self
    }

    /// Copies a file or directory of the caller's into the container.
    ///
    /// | source | `dest` in the container | what becomes of it |
    /// |---|---|---|
    /// | a file | is not there | the file has this name |
    /// | a file | is not there and ends in `/` | an error |
    /// | a file | a file | it is replaced |
    /// | a file | a directory | the file is in there, under its own name |
    /// | a directory | is not there | a directory of this name, with the source's content |
    /// | a directory | a file | an error |
    /// | a directory | a directory | the source is in there, under its own name |
    /// | a directory that ends in `/.` | a directory | the source's content is in there |
    ///
    /// The directory that `dest` is to be in has to exist. Paths of the container begin at its root, with or without a
    /// slash, and its links lead where they lead for the container. Modes, times, `user.*` attributes, hard links and holes
    /// are kept; with [`archive`](Self::archive), root also keeps file capabilities.
    ///
    /// # Errors
    /// `NotFound` for a source, or a directory for `dest`, that is not there; `AlreadyExists` for a directory onto a file
    /// or the other way round; `ReadOnly` where the container has its root or the mount read-only; `Unsupported` for an
    /// owner that the container has no id for; `State` for a container in memory that does not run; `InUse` where a file is
    /// replaced meanwhile. What was copied before stays.
    pub fn copy_in(self, source: impl AsRef<Path>, dest: impl AsRef<Path>) -> Result<Copied> {
        self.with(|copying, inside| copying.take_in(inside, source.as_ref(), dest.as_ref()))
            .map_err(|error| error.during("copying into a container"))
    }

    /// Copies a file or directory out of the container, by the same rules as [`copy_in`](Self::copy_in).
    ///
    /// Of a directory that holds all of the system, what is in filesystems of the kernel (/proc, /sys) is left out.
    ///
    /// # Errors
    /// As [`copy_in`](Self::copy_in).
    pub fn copy_out(self, source: impl AsRef<Path>, dest: impl AsRef<Path>) -> Result<Copied> {
        self.with(|copying, inside| copying.take_out(inside, source.as_ref(), dest.as_ref()))
            .map_err(|error| error.during("copying out of a container"))
    }

    /// Unpacks a tar archive (plain, gzip, zstd) in a directory of the container, as `docker cp - CONTAINER:DEST`.
    ///
    /// Names in it are beneath the directory, also absolute ones; directories that it lacks are made. Where one of them is a
    /// link, in the container or made by the archive, it leads where it leads for the container, and never out of it.
    ///
    /// ```no_run
    /// # let container: coracle::Container = unimplemented!();
    /// container.copying().copy_in_tar(std::io::stdin(), "/srv")?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidInput` where `dest` is no directory; `InvalidData` for an archive that is broken or whose names have `..`;
    /// `Unsupported` for a device in it; else as [`copy_in`](Self::copy_in).
    pub fn copy_in_tar(self, archive: impl Read + Send, dest: impl AsRef<Path>) -> Result<Copied> {
        self.with(|copying, inside| copying.unpack(inside, archive, dest.as_ref()))
            .map_err(|error| error.during("unpacking into a container"))
    }

    /// Writes a file or directory of the container as a tar archive, as `docker cp CONTAINER:SOURCE -`. Users and groups are
    /// those of the container; names begin with the source's own, or with `.` where its content is meant. A file with holes is
    /// written without them, as GNU tar's `--sparse` does it (format 1.0, PAX).
    ///
    /// ```no_run
    /// # let container: coracle::Container = unimplemented!();
    /// let mut archive = Vec::new();
    /// container.copying().copy_out_tar("/etc", &mut archive)?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`copy_out`](Self::copy_out); `InUse` also for a file that shrinks meanwhile.
    pub fn copy_out_tar(self, source: impl AsRef<Path>, writer: impl Write) -> Result<Copied> {
        self.with(|copying, inside| copying.pack(inside, source.as_ref(), writer))
            .map_err(|error| error.during("copying out of a container"))
    }

    fn with(self, work: impl FnOnce(Self, &Inside) -> Result<Copied>) -> Result<Copied> {
        let inside = Inside::enter(self.container).map_err(diagnose::explain_call)?;
        work(self, &inside)
    }

    fn owner_inside(self, inside: &Inside) -> Owner<'_> {
        if self.archive { Owner::Same(&inside.map) } else { Owner::Root }
    }

    fn take_in(self, inside: &Inside, source: &Path, dest: &Path) -> Result<Copied> {
        let (own, theirs) = (Hands::own(), Hands::inside(inside.root()?, &inside.courier));
        let source = paths::source(&own, source, self.follow)?;
        let target = paths::target(&theirs, dest, &source)?;
        let place = Place::new(&theirs, target.dir, target.name, self.owner_inside(inside));
        let tree = Tree { hands: &own, map: None, wanted: &|name| self.takes(name) };
        between(&tree, &source, place).map_err(|error| read_only(error, dest))
    }

    fn take_out(self, inside: &Inside, source: &Path, dest: &Path) -> Result<Copied> {
        let (own, theirs) = (Hands::own(), Hands::inside(inside.root()?, &inside.courier));
        let source = paths::source(&theirs, source, self.follow)?;
        let target = paths::target(&own, dest, &source)?;
        let owner = if self.archive { Owner::Kept } else { Owner::Caller };
        let place = Place::new(&own, target.dir, target.name, owner);
        let tree = Tree { hands: &theirs, map: Some(&inside.map), wanted: &|name| self.takes(name) };
        between(&tree, &source, place)
    }

    fn unpack(self, inside: &Inside, archive: impl Read + Send, dest: &Path) -> Result<Copied> {
        let root = inside.root()?;
        let theirs = Hands::inside(root, &inside.courier);
        let target = paths::directory(&theirs, dest)?;
        let mut place = Place::new(&theirs, target.dir, None, self.owner_inside(inside));
        place.followed = Some(Followed { root, path: target.path });
        let (_, plain) = decoder(BufReader::with_capacity(BUFFER, archive))?;
        let mut reader = Reader::new(BufReader::with_capacity(BUFFER, plain), ReadLimits::default());
        let mut copied = Copied::default();
        let mut unpacked = || {
            while let Some(mut entry) = reader.next()? {
                entry.xattrs.retain(|(name, _)| self.takes(name));
                place.add_archived(entry, &mut reader)?;
            }
            place.finish(&mut copied.left_out)
        };
        unpacked().map_err(|error| read_only(error, dest))?;
        (copied.entries, copied.bytes) = (place.entries, place.bytes);
        Ok(copied)
    }

    fn pack(self, inside: &Inside, source: &Path, writer: impl Write) -> Result<Copied> {
        let theirs = Hands::inside(inside.root()?, &inside.courier);
        let source = paths::source(&theirs, source, self.follow)?;
        let top = source.name.unwrap_or_else(|| b".".to_vec());
        let mut writer = Writer::new(BufWriter::with_capacity(BUFFER, writer));
        let mut copied = Copied::default();
        let (mut entries, mut bytes) = (0, 0);
        let under = |path: &[u8]| if path.is_empty() { top.clone() } else { join(&top, path) };
        // Whoever reads it decides what to make of a capability.
        let wanted = |name: &[u8]| is_of_users(name) || name == b"security.capability";
        let tree = Tree { hands: &theirs, map: Some(&inside.map), wanted: &wanted };
        tree.walk(&source.file, &mut copied.left_out, &mut |mut entry: Entry, data| {
            entry.path = under(&entry.path);
            if entry.kind() == crate::layer::EntryKind::HardLink {
                entry.link = under(&entry.link);
            }
            entries += 1;
            bytes += entry.size;
            match data {
                Data::None => writer.entry(&entry, &mut std::io::empty()),
                Data::Bytes(mut bytes) => writer.entry(&entry, &mut bytes),
                Data::File(file, _) => {
                    let stat = rustix::fs::fstat(file).call_at("fstat", hands::text(&entry.path))?;
                    writer.file(&Entry { size: stat.st_size as u64, ..entry }, file, &stat)
                }
            }
        })?;
        writer.finish()?.into_inner().map_err(|error| error.into_error()).call("writing an archive")?;
        (copied.entries, copied.bytes) = (entries, bytes);
        Ok(copied)
    }

    /// Whether an extended attribute goes along.
    fn takes(self, name: &[u8]) -> bool {
        is_of_users(name) || self.archive && is_privileged() && name == b"security.capability"
    }
}

/// Those of users, but for what would tell an overlay where to look for other files.
fn is_of_users(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
}

/// From the caller's files to a container's, or the other way round.
fn between(tree: &Tree<'_>, source: &paths::Source, mut place: Place<'_>) -> Result<Copied> {
    let mut copied = Copied::default();
    tree.walk(&source.file, &mut copied.left_out, &mut |entry, data| place.add(entry, data))?;
    place.finish(&mut copied.left_out)?;
    (copied.entries, copied.bytes) = (place.entries, place.bytes);
    Ok(copied)
}

fn read_only(error: Error, dest: &Path) -> Error {
    match error.kind() {
        ErrorKind::ReadOnly => error.with_path(dest).with_remedy(
            "the container has its root, or what is mounted there, read-only (of a tmpfs: while it does not run): copy to a \
             place that it may write to",
        ),
        _ => error,
    }
}
