//! From a specification and an image to what a command is given.
#![forbid(unsafe_code)]

use super::devices::Device;
use super::lock;
use super::record::Record;
use super::spec::{MountKind, SeccompChoice, Spec, covering};
use super::users::Identity;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::manifest::{DEFAULT_PATH, ImageConfig};
use crate::security::capability::Capabilities;
use crate::security::seccomp::{Seccomp, SeccompProfile};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{LazyLock, Mutex};

/// What can be seen to be wrong before anything is made.
pub(super) fn validate(spec: &Spec) -> Result<()> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidInput, what);
    let words = [&spec.entrypoint, &spec.command].into_iter().flatten().flatten().chain(&spec.args);
    check_command(words, &spec.env)?;
    if let Some(name) = spec
        .hostname
        .as_ref()
        .filter(|name| name.is_empty() || name.len() > 64 || name.contains(['\0', '\n']))
    {
        return Err(invalid(format!("host name {name:?}: 1 to 64 bytes")));
    }
    let targets =
        spec.mounts.iter().map(|mount| &mount.target).chain(spec.files.iter().map(|file| &file.path));
    let covered = || spec.masked.iter().chain(&spec.read_only_paths).flatten();
    for path in targets.chain(&spec.working_dir).chain(covered()) {
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !plain || has_nul(path.as_os_str()) {
            return Err(
                invalid("a path in the container must be absolute, without '..'".into()).with_path(path)
            );
        }
    }
    for path in spec.mounts.iter().map(|mount| &mount.target).chain(spec.files.iter().map(|file| &file.path))
    {
        if path.parent().is_none() {
            return Err(invalid(
                "nothing can be mounted on or written to the container's root itself".into(),
            ));
        }
    }
    if let Some(path) = covered().find(|path| path.parent().is_none()) {
        let error = invalid("the container's root itself can't be covered".into()).with_path(path);
        return Err(error.with_remedy("ContainerBuilder::read_only makes it read-only"));
    }
    // The container's own /dev, /proc and /sys are mounted last, over whatever were there.
    let targets = spec.mounts.iter().filter(|mount| mount.shm_size().is_none()).map(|mount| &mount.target);
    for path in targets.chain(spec.files.iter().map(|file| &file.path)) {
        if ["/dev", "/proc", "/sys"].iter().any(|covered| path.starts_with(covered)) {
            return Err(Error::new(ErrorKind::Unsupported, "a mount or file in /dev, /proc or /sys")
                .with_path(path)
                .with_remedy(
                    "a tmpfs at /dev/shm sets the size of the container's own; devices have a setting",
                ));
        }
    }
    for device in &spec.devices {
        let inside = device.target().strip_prefix("/dev").is_ok_and(|name| {
            name.components().next().is_some()
                && name.components().all(|part| matches!(part, Component::Normal(_)))
        });
        if !inside || has_nul(device.target().as_os_str()) {
            return Err(
                invalid("a device must be in /dev of the container".into()).with_path(device.target())
            );
        }
    }
    let own = crate::security::limit::OwnNamespaces { net: !spec.network.is_host(), ipc: true };
    spec.sysctls.iter().try_for_each(|sysctl| sysctl.check(own))?;
    spec.limits.validate()?;
    capabilities(spec).map(drop)
}

/// What is named from the working directory is meant from where it is now: who starts the container may be elsewhere.
pub(super) fn anchor(spec: &mut Spec) -> Result<()> {
    let binds = spec.mounts.iter_mut().filter_map(|mount| match &mut mount.kind {
        MountKind::Bind { source } => Some(source),
        MountKind::Volume { .. } | MountKind::Tmpfs { .. } => None,
    });
    for path in binds.chain(spec.devices.iter_mut().map(Device::source_mut)).filter(|path| path.is_relative())
    {
        *path = std::path::absolute(&*path).call_at("getcwd", &*path)?;
    }
    Ok(())
}

/// What execve(2) can be told: a NUL byte would end a text there, so that another command is executed than was asked for.
pub(super) fn check_command<'a>(
    words: impl IntoIterator<Item = &'a OsString>,
    env: &'a [(OsString, OsString)],
) -> Result<()> {
    let invalid = |what: String| Err(Error::new(ErrorKind::InvalidInput, what));
    let pairs = env.iter().flat_map(|(name, value)| [name, value]);
    if words.into_iter().chain(pairs).any(|text| has_nul(text)) {
        return invalid("an argument or variable with a NUL byte".into());
    }
    match env.iter().find(|(name, _)| name.is_empty() || name.as_bytes().contains(&b'=')) {
        Some((name, _)) => invalid(format!("environment variable {name:?}")),
        None => Ok(()),
    }
}

pub(super) fn has_nul(text: &OsStr) -> bool {
    text.as_bytes().contains(&0)
}

/// Each file is seen where it is to be: in a volume or a bind it would be somebody else's, too. The mounts are all known
/// once the image's volumes are.
pub(super) fn files_are_seen(spec: &Spec) -> Result<()> {
    for file in &spec.files {
        let mounts = spec.mounts.iter().filter(|mount| mount.shm_size().is_none());
        let Some(mount) = covering(mounts, |mount| &mount.target, &file.path) else { continue };
        if !matches!(mount.kind, MountKind::Tmpfs { .. }) || mount.read_only || file.path == mount.target {
            let what = format!("a file where what is mounted at {:?} would hide it", mount.target);
            return Err(Error::new(ErrorKind::InvalidInput, what).with_path(&file.path).with_remedy(
                "put it into the volume or the bind's source itself, mount it as a bind of its own, or use a tmpfs \
                 that can be written: files in it are written at each start",
            ));
        }
    }
    Ok(())
}

pub(super) fn capabilities(spec: &Spec) -> Result<Capabilities> {
    Capabilities::DEFAULT.adjusted(&spec.cap_add, &spec.cap_drop)
}

/// The surroundings of a command, from the specification and the image.
pub(super) struct Resolved {
    pub pairs: Vec<(OsString, OsString)>,
    pub working_dir: PathBuf,
    pub identity: Identity,
}

pub(super) fn words(spec: &Spec, config: &ImageConfig) -> Result<Vec<OsString>> {
    let of_image = |words: &[String]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let (mut words, command) = match (&spec.entrypoint, &spec.command) {
        (Some(entrypoint), command) => (entrypoint.clone(), command.clone().unwrap_or_default()),
        (None, Some(command)) => (of_image(config.entrypoint()), command.clone()),
        (None, None) => (of_image(config.entrypoint()), of_image(config.cmd())),
    };
    words.extend(command);
    words.extend(spec.args.iter().cloned());
    if words.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "the image names no command")
            .with_remedy("give one with ContainerBuilder::command"));
    }
    Ok(words)
}

/// Variables as `execve` takes them: later ones win, in the order in which they first appeared.
pub(super) fn environment<'a>(
    pairs: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
) -> Vec<(OsString, OsString)> {
    let mut all: Vec<(OsString, OsString)> = Vec::new();
    for (name, value) in pairs {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => all.push((name.to_owned(), value.to_owned())),
        }
    }
    all
}

/// Where commands are searched.
pub(super) fn path_of(pairs: &[(OsString, OsString)]) -> OsString {
    pairs.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone()).unwrap_or_default()
}

pub(super) fn joined(pairs: &[(OsString, OsString)]) -> Vec<OsString> {
    let join = |(name, value): &(OsString, OsString)| {
        let mut bytes = name.clone().into_vec();
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        OsString::from_vec(bytes)
    };
    pairs.iter().map(join).collect()
}

pub(super) fn resolve(record: &Record, config: &ImageConfig, identity: Identity) -> Result<Resolved> {
    let spec = &record.spec;
    let hostname = OsString::from(hostname(record));
    let mut defaults: Vec<(&OsStr, &OsStr)> = vec![
        (OsStr::new("PATH"), OsStr::new(DEFAULT_PATH)),
        (OsStr::new("HOSTNAME"), &hostname),
        (OsStr::new("HOME"), identity.home.as_os_str()),
    ];
    if spec.tty {
        defaults.push((OsStr::new("TERM"), OsStr::new("xterm")));
    }
    let of_image = config.env().iter().filter(|_| !spec.env_cleared).filter_map(|pair| pair.split_once('='));
    let of_image = of_image.map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
    let own = spec.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    let pairs = environment(defaults.into_iter().chain(of_image).chain(own));
    let of_image = Path::new(config.working_dir());
    let of_image = if of_image.is_absolute() { of_image } else { Path::new("/") };
    let working_dir = spec.working_dir.as_deref().unwrap_or(of_image).to_owned();
    Ok(Resolved { pairs, working_dir, identity })
}

pub(super) fn hostname(record: &Record) -> &str {
    record.spec.hostname.as_deref().unwrap_or(&record.id[..12])
}

pub(super) fn seccomp(choice: &SeccompChoice) -> Result<Seccomp> {
    match choice {
        SeccompChoice::Default => Ok(Seccomp::Default),
        SeccompChoice::Strict => Ok(Seccomp::Strict),
        SeccompChoice::Unconfined => Ok(Seccomp::Unconfined),
        SeccompChoice::Profile(json) => {
            static KEPT: LazyLock<Mutex<HashMap<String, SeccompProfile>>> = LazyLock::new(Mutex::default);
            if let Some(profile) = lock(&KEPT).get(json) {
                return Ok(Seccomp::Profile(profile.clone()));
            }
            let parsed = Seccomp::from_json(json)?;
            if let Seccomp::Profile(profile) = &parsed {
                let mut kept = lock(&KEPT);
                if kept.len() >= 64 {
                    kept.clear();
                }
                kept.insert(json.clone(), profile.clone());
            }
            Ok(parsed)
        }
    }
}
