//! The one error of the crate: opaque outside, precise inside.
//!
//! An [`Error`] says *what kind* of thing went wrong ([`ErrorKind`]), in *which step* (a system call
//! or a phrase), on *which path*, with *which errno*, and, where there is one, *what to do about it*.
//! It reads like a line of `strace`:
//!
//! ```text
//! mount_setattr("/var/lib/coracle/layers/ab", MOUNT_ATTR_IDMAP): Operation not permitted (os error 1); help: …
//! ```
#![forbid(unsafe_code)]

use crate::feature::{Feature, Missing};
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is. Match on this; the text is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Something named does not exist: an image, a container, a path, a user of the image.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// It is being used: a volume of a container, an image of a container, a locked record.
    InUse,
    /// The caller's input can't be right: a malformed name, a relative path where an absolute one is needed.
    InvalidInput,
    /// Data from outside is malformed: an archive, a manifest, a profile.
    InvalidData,
    /// Content does not have the digest or size that was promised for it.
    Mismatch,
    /// A bound was reached: an entry count, a header's size, collected output.
    TooLarge,
    /// This kernel, this build or this user can't have it.
    Unsupported,
    /// The kernel, or a registry, refused for lack of permission.
    PermissionDenied,
    /// No room: disk, quota, inodes.
    StorageFull,
    /// The filesystem is read-only.
    ReadOnly,
    /// A limit on descriptors or processes of the host was reached.
    ResourceExhausted,
    /// Memory ran out, in the host or in a container before its program started.
    OutOfMemory,
    /// The program to run does not exist in the container, or can't be executed.
    Exec,
    /// A command of a build (RUN) ended with another code than 0, or by a signal.
    Command,
    /// A step of a container's set-up failed.
    Setup,
    /// The operation does not fit the container's state: started twice, waited for before its start.
    State,
    /// Time ran out.
    TimedOut,
    /// The warden of this program is gone, or the handle belongs to another process (a fork).
    Gone,
    /// A function of the caller's that was called with output has panicked.
    Panicked,
    /// A registry can't be reached, or has an error of its own.
    Network,
    /// Any other error of the operating system.
    Io,
}

/// Why an operation failed: what kind of failure ([`kind`](Self::kind)), in which [`step`](Self::step), on which
/// [`path`](Self::path), with which errno, and what to do about it. Its text reads like a line of `strace`.
///
/// ```
/// use coracle::{ErrorKind, Store};
/// let error = Store::open("/proc/nowhere/store").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// assert!(error.path().is_some() && error.raw_os_error().is_some());
/// ```
///
/// `Debug` is the same text: it is what an error that `main` returns is printed with.
#[derive(thiserror::Error)]
#[error("{0}")]
pub struct Error(Box<Inner>);

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    step: Cow<'static, str>,
    path: Option<PathBuf>,
    errno: Option<i32>,
    remedy: Option<Cow<'static, str>>,
    /// What this host lacks, where that is the reason.
    missing: Option<Missing>,
    protection: Option<&'static str>,
    /// What was being done when it failed, outermost last.
    during: Vec<Cow<'static, str>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// stdout and stderr, of a command that was ended.
    output: Option<Arc<[Vec<u8>; 2]>>,
    /// Line and column of a text, and what is there.
    place: Option<Arc<(usize, usize, String)>>,
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        if let Some(path) = &self.path {
            write!(f, " ({path:?})")?;
        }
        match (self.errno, &self.source) {
            (Some(errno), _) => write!(f, ": {}", io::Error::from_raw_os_error(errno))?,
            (None, Some(source)) => write!(f, ": {source}")?,
            (None, None) => {}
        }
        for during in &self.during {
            write!(f, "; while {during}")?;
        }
        if let Some(missing) = &self.missing {
            write!(f, "; {}", missing.reason())?;
        }
        if let Some(remedy) = self.remedy() {
            write!(f, "; help: {remedy}")?;
        }
        if let Some(place) = &self.place {
            write!(f, "\n{}", place.2)?;
        }
        Ok(())
    }
}

impl Inner {
    /// What was said about it, or what every lack of its kind has as its remedy.
    fn remedy(&self) -> Option<&str> {
        use linux_raw_sys::errno as e;
        if self.remedy.is_some() {
            return self.remedy.as_deref();
        }
        match self.errno.map(|errno| errno as u32) {
            Some(e::EMFILE) => Some("raise this program's RLIMIT_NOFILE (ulimit -n), or close files"),
            Some(e::ENFILE) => Some("raise the host's limit on open files (sysctl fs.file-max)"),
            // Without a path it need not be a disk: the kernel's limits on namespaces are told by ENOSPC, too.
            Some(e::ENOSPC) if self.path.is_some() => {
                Some("make room on its filesystem, of inodes too (df, df -i), or put it on a larger one")
            }
            Some(e::EDQUOT) if self.path.is_some() => Some("raise the disk quota of its owner, or make room"),
            Some(e::EROFS) => Some("mount its filesystem read-write, or use another place"),
            _ => None,
        }
    }
}

impl Error {
    /// An error without a system call behind it. `step` is the failed act or the fact, in one phrase.
    pub(crate) fn new(kind: ErrorKind, step: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            step: bounded(step.into()),
            path: None,
            errno: None,
            remedy: None,
            missing: None,
            protection: None,
            during: Vec::new(),
            source: None,
            output: None,
            place: None,
        }))
    }

    /// A failed system call: the kind follows from the errno.
    pub(crate) fn os(step: impl Into<Cow<'static, str>>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let mut error = Self::new(kind_of(&source), step);
        error.0.errno = source.raw_os_error();
        const EAGAIN: i32 = linux_raw_sys::errno::EAGAIN as i32;
        const EMFILE: i32 = linux_raw_sys::errno::EMFILE as i32;
        let makes = ["clone", "posix_spawn", "pthread_create"];
        match error.0.errno {
            // For these calls it has this one reason (fork(2)).
            Some(EAGAIN) if makes.iter().any(|call| error.0.step.starts_with(call)) => {
                return error.with_remedy(TOO_MANY);
            }
            Some(EAGAIN) if error.0.step.starts_with("openat2") => return error.with_remedy(RESTLESS),
            Some(EMFILE) => {
                return error.with_remedy("raise this program's limit on descriptors (ulimit -n)");
            }
            _ if error.is_missing_call() => return error.with_remedy(MISSING_CALL),
            _ => {}
        }
        if error.0.errno.is_none() {
            // An `Error` that travelled through `std::io` (a reader of ours) comes back as it was.
            match source.downcast::<Error>() {
                Ok(own) => return own.during(error.0.step),
                Err(source) => error.0.source = Some(Arc::new(source)),
            }
        }
        error
    }

    /// The same with an errno as a number.
    pub(crate) fn errno(step: impl Into<Cow<'static, str>>, errno: i32) -> Self {
        Self::os(step, io::Error::from_raw_os_error(errno))
    }

    /// Whether the kernel has no such call, or some filter says so: then nothing else is to be done about it.
    pub(crate) fn is_missing_call(&self) -> bool {
        self.0.errno == Some(linux_raw_sys::errno::ENOSYS as i32)
    }

    pub(crate) fn with_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_owned());
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What the reader can do about it.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// It failed because this host lacks something: `Unsupported`, with the reason and the remedy.
    pub(crate) fn lacks(mut self, missing: Missing) -> Self {
        self.0.kind = ErrorKind::Unsupported;
        self.0.remedy = Some(missing.remedy().to_owned().into());
        self.0.missing = Some(missing);
        self
    }

    /// What this host lacks, and what failed for it. Where nothing is known of the reason it is what failed, with this remedy
    /// unless there is another. For answers, not for errors.
    pub(crate) fn into_missing(self, feature: Feature, remedy: &'static str) -> (Missing, Option<String>) {
        let missing = self.0.missing.clone();
        let other = self.0.remedy.clone().unwrap_or(remedy.into());
        let plain = Self(Box::new(Inner { remedy: None, missing: None, ..*self.0 })).to_string();
        match missing {
            Some(missing) => (missing.of(feature), Some(plain)),
            None => (Missing::new(feature, plain, other), None),
        }
    }

    /// The protection that can't be had, by its name in a report. The innermost knows best.
    pub(crate) fn with_protection(mut self, name: &'static str) -> Self {
        self.0.protection.get_or_insert(name);
        self
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into().into());
        self
    }

    /// What a command had written until it was ended.
    pub(crate) fn with_output(mut self, stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        self.0.output = Some(Arc::new([stdout, stderr]));
        self
    }

    /// Where in a text it is, and the line with a caret, which the error ends with.
    #[cfg(feature = "build")]
    pub(crate) fn at_place(mut self, line: usize, column: usize, excerpt: String) -> Self {
        self.0.place = Some(Arc::new((line, column, excerpt)));
        self
    }

    /// What a command has written last, below the line of the text.
    #[cfg(feature = "build")]
    pub(crate) fn with_last_words(mut self, words: &str) -> Self {
        self.0.place = self.0.place.map(|place| {
            let (line, column, excerpt) = &*place;
            Arc::new((*line, *column, format!("{excerpt}{words}")))
        });
        self
    }

    /// At the same place as another one.
    #[cfg(feature = "build")]
    pub(crate) fn at_place_of(mut self, other: &Self) -> Self {
        self.0.place = other.0.place.clone();
        self
    }

    /// What was being done, in the form "loading the archive x".
    pub(crate) fn during(mut self, what: impl Into<Cow<'static, str>>) -> Self {
        self.0.during.push(bounded(what.into()));
        self
    }

    /// The same, each of its texts in other words: where what comes from outside may be in them.
    #[cfg(feature = "registry")]
    pub(crate) fn reworded(mut self, word: &dyn Fn(&str) -> String) -> Self {
        let texts = self.0.during.iter_mut().chain([&mut self.0.step]).chain(&mut self.0.remedy);
        texts.for_each(|text| *text = word(text).into());
        let own = self.0.source.as_ref().and_then(|source| source.downcast_ref::<Self>());
        if let Some(own) = own.map(Self::again) {
            self.0.source = Some(Arc::new(own.reworded(word)));
        }
        self
    }

    /// The same once more: of a setting that is wrong each time that it is used.
    pub(crate) fn again(&self) -> Self {
        Self(self.0.clone())
    }

    /// The kind to match on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The system call or the step that failed.
    pub fn step(&self) -> &str {
        &self.0.step
    }

    /// The path it failed on, where there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Line and column, from 1, where a text is what is wrong: a Dockerfile.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.0.place.as_ref().map(|place| (place.0, place.1))
    }

    /// The kernel's errno, where a system call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.errno
    }

    /// What this host lacks, where that is why it failed: reason and remedy are those of [`Host`](crate::Host).
    pub fn missing(&self) -> Option<&Missing> {
        self.0.missing.as_ref()
    }

    /// Which protection this host can't give, where that is the error: its name in a [`Report`](crate::Report) and of a
    /// [`Protection`](crate::Protection).
    pub fn protection(&self) -> Option<&str> {
        self.0.protection
    }

    /// What a command that was killed, for its time or for too much output, had written to stdout until then: of
    /// [`ContainerBuilder::run`](crate::ContainerBuilder::run), [`Exec::output`](crate::Exec::output) and
    /// [`Executed::output`](crate::Executed::output). Else empty.
    pub fn stdout(&self) -> &[u8] {
        self.0.output.as_ref().map_or(&[], |output| &output[0])
    }

    /// The same of stderr.
    pub fn stderr(&self) -> &[u8] {
        self.0.output.as_ref().map_or(&[], |output| &output[1])
    }

    /// What the reader can do about it, where something can be done.
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy()
    }
}

const TOO_MANY: &str = "there are as many processes and threads as may be (ulimit -u, or pids.max of this program's \
    control group), and an ordinary user's containers count on the user's own: end some, give containers a smaller \
    pids_max, or raise the limit";

const RESTLESS: &str = "something on this machine renames files all the time, or has a lease on the file: try again, or stop \
    the container that does it";

/// The remedy for a system call that is missing.
const MISSING_CALL: &str = "it is there from Linux 5.12 on, unless a seccomp filter over this program refuses it: \
    in a container, see docs/inside-containers.md for the options that let it through";

/// Names from archives and documents are part of many texts and may be megabytes long.
fn bounded(text: Cow<'static, str>) -> Cow<'static, str> {
    const MAX: usize = 4096;
    if text.len() <= MAX {
        return text;
    }
    let end = text.floor_char_boundary(MAX);
    Cow::Owned(format!("{}… ({} bytes)", &text[..end], text.len()))
}

fn kind_of(error: &io::Error) -> ErrorKind {
    use linux_raw_sys::errno as e;
    match error.raw_os_error().map(|n| n as u32) {
        Some(e::ENOENT) => ErrorKind::NotFound,
        Some(e::EEXIST) => ErrorKind::AlreadyExists,
        Some(e::EPERM | e::EACCES) => ErrorKind::PermissionDenied,
        Some(e::ENOSPC | e::EDQUOT) => ErrorKind::StorageFull,
        Some(e::EROFS) => ErrorKind::ReadOnly,
        Some(e::EMFILE | e::ENFILE | e::EAGAIN) => ErrorKind::ResourceExhausted,
        Some(e::ENOMEM) => ErrorKind::OutOfMemory,
        Some(e::ENOSYS | e::EOPNOTSUPP) => ErrorKind::Unsupported,
        Some(e::EBUSY | e::ETXTBSY) => ErrorKind::InUse,
        Some(e::ETIMEDOUT) => ErrorKind::TimedOut,
        Some(_) => ErrorKind::Io,
        None => match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ErrorKind::InvalidData,
            io::ErrorKind::TimedOut => ErrorKind::TimedOut,
            _ => ErrorKind::Io,
        },
    }
}

impl From<Error> for io::Error {
    /// Keeps the whole error inside, under the `std` kind that fits best.
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::InvalidData | ErrorKind::Mismatch => io::ErrorKind::InvalidData,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::StorageFull => io::ErrorKind::StorageFull,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Turns the error of a system call into ours, with the call and the path.
pub(crate) trait Call<T> {
    fn call(self, step: impl Into<Cow<'static, str>>) -> Result<T>;
    fn call_at(self, step: impl Into<Cow<'static, str>>, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Call<T> for std::result::Result<T, E> {
    fn call(self, step: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|source| Error::os(step, source))
    }

    fn call_at(self, step: impl Into<Cow<'static, str>>, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| {
            let error = Error::os(step, source);
            // An inner error of ours knows its path better.
            if error.path().is_some() { error } else { error.with_path(path) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_megabytes_does_not_make_a_text_of_megabytes() {
        let name = "ä".repeat(1 << 20);
        let error = Error::new(ErrorKind::InvalidData, format!("image name {name:?}")).during(name);
        assert!(error.to_string().len() < 10_000);
        assert!(error.to_string().contains("bytes)"), "{error}");
        let error = Error::new(ErrorKind::InvalidData, "x".repeat(4096));
        assert_eq!(error.step().len(), 4096);
    }

    #[test]
    fn reads_like_strace_and_names_the_remedy() {
        let error = Error::errno("mount_setattr(MOUNT_ATTR_IDMAP)", 1)
            .with_path("/layers/ab")
            .during("mounting the root filesystem")
            .with_remedy("use a filesystem that can be id-mapped");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(
            error.to_string(),
            "mount_setattr(MOUNT_ATTR_IDMAP) (\"/layers/ab\"): Operation not permitted (os error 1); \
             while mounting the root filesystem; help: use a filesystem that can be id-mapped"
        );
        assert_eq!(format!("{error:?}"), error.to_string(), "what main prints");
    }

    #[test]
    fn a_call_that_is_missing_has_its_own_remedy() {
        let error = Error::errno("openat2", 38);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.remedy().unwrap().contains("seccomp"), "{error}");
        assert_eq!(Error::errno("openat2", 22).remedy(), None);
    }

    #[test]
    fn survives_a_trip_through_std_io() {
        let error = Error::new(ErrorKind::Mismatch, "digest of a blob").with_path("/b");
        let back = Error::os("read", io::Error::from(error));
        assert_eq!(back.kind(), ErrorKind::Mismatch);
        assert_eq!(back.path(), Some(Path::new("/b")));
    }
}
