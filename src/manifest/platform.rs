//! Machines that images are made for, and their names: one machine has several (as containerd's `platforms` reads them).
#![forbid(unsafe_code)]

use super::null_is_default;
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// Those that Go knows: of one word alone it has to be clear what it is.
const SYSTEMS: [&str; 17] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
const ARCHITECTURES: [&str; 25] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
    "wasm32",
];

/// The machine that an image is made for, in Go's words: `amd64`, `arm64`, `linux`.
///
/// It is read from `linux/arm64`, and other names of the same machine give the same value; so does a processor or an operating system
/// alone, with this machine's other half. What an image says of itself is kept in its own words, and compared by what they mean.
///
/// ```
/// use coracle::Platform;
/// let platform: Platform = "linux/aarch64".parse()?;
/// assert_eq!(platform.to_string(), "linux/arm64");
/// assert_eq!(platform, "linux/arm64/v8".parse()?);
/// assert_eq!("arm".parse::<Platform>()?.to_string(), "linux/arm/v7");
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Platform {
    /// The processor.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// The operating system.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// The variant of the processor, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Whatever else it said.
    #[serde(flatten)]
    pub(crate) extra: Map<String, Value>,
}

impl Platform {
    /// This machine's. Of the processor's variants the first, with which an image runs everywhere.
    pub fn host() -> Self {
        Self {
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                "x86" => "386",
                "riscv64" => "riscv64",
                other => other,
            }
            .to_owned(),
            os: "linux".to_owned(),
            variant: None,
            extra: Map::new(),
        }
    }

    pub(crate) fn is_host(&self) -> bool {
        self.rank_for(&Self::host()).is_some()
    }

    /// Whether an image for this machine runs on `wanted`.
    #[cfg(any(feature = "registry", feature = "build"))]
    pub(crate) fn is_for(&self, wanted: &Self) -> bool {
        self.rank_for(wanted).is_some()
    }

    /// How far an image for this machine is from the best for `wanted`; `None`: it is for another. An older variant of
    /// the processor does as well; a newer one only where no variant is wanted, and after all others.
    pub(super) fn rank_for(&self, wanted: &Self) -> Option<u32> {
        self.normal().rank_by_name(&wanted.normal())
    }

    fn rank_by_name(&self, wanted: &Self) -> Option<u32> {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return None;
        }
        match (self.level()?, wanted.level()?) {
            (has, limit) if has <= limit => Some(limit - has),
            (has, limit) if wanted.variant.is_none() => Some((has - limit).saturating_add(1000)),
            _ => None,
        }
    }

    /// The same machine by the one name that stands for all its names.
    pub(crate) fn normal(&self) -> Self {
        let mut os = self.os.to_lowercase();
        match os.as_str() {
            "" => os = "linux".to_owned(),
            "macos" => os = "darwin".to_owned(),
            _ => {}
        }
        let architecture = self.architecture.to_lowercase();
        let variant = self.variant.as_deref().unwrap_or_default().to_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i686", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            // The first one that there is.
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            same => same,
        };
        let variant = Some(variant.to_owned()).filter(|variant| !variant.is_empty());
        Self { architecture: architecture.to_owned(), os, variant, extra: Map::new() }
    }

    /// The variant as a number; without one it is the first that there is (as containerd's `platforms` has it), for
    /// 32-bit arm v7.
    fn level(&self) -> Option<u32> {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", None | Some("")) => Some(8),
            ("arm", None | Some("")) => Some(7),
            (_, None | Some("")) => Some(1),
            // Also `8.1` and `v9`, of arm64.
            (_, Some(variant)) => variant.trim_start_matches('v').split('.').next()?.parse().ok(),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`, such as `linux/arm64` and `linux/arm/v6`, or one of the first two alone,
    /// which then is a known one.
    fn from_str(text: &str) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        if text.contains(',') {
            let what = format!("platform {text:?}: several, where there is one at a time");
            return Err(Error::new(ErrorKind::InvalidInput, what).with_remedy("do it for each of them"));
        }
        let bad = |why: &str| {
            Error::new(ErrorKind::InvalidInput, format!("platform {text:?}: {why}"))
                .with_remedy("write it as linux/amd64, linux/arm64 or linux/arm/v6")
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !text.chars().all(is_plain) || parts.iter().any(|part| part.is_empty()) {
            return Err(bad("not OS/ARCHITECTURE"));
        }
        let of = |os: &str, architecture: &str, variant: Option<&str>| {
            let (os, architecture) = (os.to_owned(), architecture.to_owned());
            Self { architecture, os, variant: variant.map(str::to_owned), extra: Map::new() }.normal()
        };
        match parts[..] {
            [word] => {
                let host = Self::host();
                let (system, processor) = (of(word, &host.architecture, None), of(&host.os, word, None));
                if SYSTEMS.contains(&system.os.as_str()) {
                    Ok(system)
                } else if ARCHITECTURES.contains(&processor.architecture.as_str()) {
                    Ok(processor)
                } else {
                    Err(bad(
                        "neither an operating system nor a processor that is known, and not OS/ARCHITECTURE",
                    ))
                }
            }
            [os, architecture] => Ok(of(os, architecture, None)),
            [os, architecture, variant] => Ok(of(os, architecture, Some(variant))),
            _ => Err(bad("not OS/ARCHITECTURE")),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}
