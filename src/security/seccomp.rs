//! Seccomp: which system calls a container may make (seccomp(2)).
//!
//! A profile is read from Docker's JSON ([`profile`]) or is the built-in one ([`default`]), and is compiled to the
//! kernel's BPF for a set of capabilities ([`mod@compile`]). Compiled programs are kept: a container's start pays for
//! a look-up.
#![forbid(unsafe_code)]

mod compile;
mod default;
mod profile;

use crate::error::{Call, Error, ErrorKind, Result};
use crate::security::capability::Capabilities;
use profile::{KernelVersion, Profile, Target};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Go's name of the machine, as profiles have it.
const MACHINE: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    std::env::consts::ARCH
};

/// How a container's system calls are filtered.
///
/// ```
/// use coracle::Seccomp;
/// let no_mkdir = Seccomp::from_json(br#"{
///     "defaultAction": "SCMP_ACT_ALLOW",
///     "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }]
/// }"#)?;
/// assert!(matches!(no_mkdir, Seccomp::Profile(_)));
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Seccomp {
    /// Docker's default profile, for the capabilities of the container.
    #[default]
    Default,
    /// The default profile without what only debuggers, other machines' programs and odd sockets need: `ptrace` and its
    /// like, file handles, secret memory, 32-bit programs, every socket that is not Unix, IP or NETLINK_ROUTE.
    Strict,
    /// No filter.
    Unconfined,
    /// A profile of the caller's.
    Profile(SeccompProfile),
}

/// A parsed seccomp profile. Cheap to clone.
#[derive(Clone)]
pub struct SeccompProfile(Arc<Compiled>);

struct Compiled {
    profile: Profile,
    /// The text that it was read from; empty of the default one.
    json: String,
    /// By capabilities; bounded by [`KEPT`].
    programs: Mutex<HashMap<Capabilities, Arc<Program>>>,
}

/// More sets of capabilities than this in one program are not expected; the cache is emptied then.
const KEPT: usize = 64;

static DEFAULT: LazyLock<SeccompProfile> =
    LazyLock::new(|| SeccompProfile::new(default::profile(), String::new()));

static STRICT: LazyLock<SeccompProfile> =
    LazyLock::new(|| SeccompProfile::new(default::strict(), String::new()));

/// A filter as `seccomp(SECCOMP_SET_MODE_FILTER)` takes it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Program {
    bytes: Vec<u8>,
    flags: u32,
}

impl Program {
    /// The array of `struct sock_filter`, 8 bytes each, in the machine's byte order.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `sock_fprog.len`.
    pub(crate) fn instructions(&self) -> u16 {
        (self.bytes.len() / 8) as u16
    }

    /// SECCOMP_FILTER_FLAG_*.
    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({} instructions, flags {:#x})", self.instructions(), self.flags)
    }
}

impl Seccomp {
    /// Reads a profile in Docker's JSON form (`--security-opt seccomp=FILE`) or in the form of the OCI runtime
    /// specification (`linux.seccomp`).
    ///
    /// The profile is compiled once here, as far as that goes without knowing the container's capabilities.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`]: not such a profile, a field that is not known, rules that contradict each
    /// other. [`ErrorKind::Unsupported`]: it asks for SCMP_ACT_NOTIFY or for a flag that can't be had.
    /// [`ErrorKind::TooLarge`]: more than 4096 instructions.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self> {
        let text = String::from_utf8_lossy(json.as_ref()).into_owned();
        let profile = SeccompProfile::new(Profile::parse(json.as_ref())?, text);
        // Its mistakes are the reader's business now, not that of the first container's start.
        profile.program(Capabilities::DEFAULT)?;
        Ok(Self::Profile(profile))
    }

    /// The filter for a container whose bounding set is `caps`; `None` where there is to be none.
    pub(crate) fn program(&self, caps: Capabilities) -> Result<Option<Arc<Program>>> {
        match self {
            Self::Default => DEFAULT.program(caps).map(Some),
            Self::Strict => STRICT.program(caps).map(Some),
            Self::Unconfined => Ok(None),
            Self::Profile(profile) => profile.program(caps).map(Some),
        }
    }
}

impl SeccompProfile {
    /// The text that it was read from.
    pub(crate) fn json(&self) -> &str {
        &self.0.json
    }

    fn new(profile: Profile, json: String) -> Self {
        Self(Arc::new(Compiled { profile, json, programs: Mutex::default() }))
    }

    fn program(&self, caps: Capabilities) -> Result<Arc<Program>> {
        // Behind a poisoned lock is a whole map: nothing in between can leave half an entry.
        let mut programs = self.0.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(&caps) {
            return Ok(program.clone());
        }
        let program = Arc::new(compile(&self.0.profile, caps)?);
        if programs.len() >= KEPT {
            programs.clear();
        }
        programs.insert(caps, program.clone());
        Ok(program)
    }
}

fn compile(profile: &Profile, caps: Capabilities) -> Result<Program> {
    let release = rustix::system::uname();
    let release = release.release().to_str().map_err(std::io::Error::other).call("uname")?;
    let kernel = KernelVersion::of_release(release).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("the kernel's release {release:?} has no version"))
    })?;
    let program = compile::compile(profile, &Target { machine: MACHINE, caps, kernel })?;
    Ok(Program { bytes: program.iter().flat_map(|insn| insn.bytes()).collect(), flags: profile.flags })
}

impl fmt::Debug for SeccompProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeccompProfile").field("rules", &self.0.profile.rules.len()).finish_non_exhaustive()
    }
}
