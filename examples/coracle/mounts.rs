//! `-v`, `--mount`, `--tmpfs`, `--shm-size`: docker's ways to say what is mounted.
#![forbid(unsafe_code)]

use crate::args::Args;
use crate::fail::{Result, context, usage};
use crate::format::bytes;
use coracle::Mount;
use std::fs;
use std::path::{Path, PathBuf};

pub fn all(args: &Args) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for option in args.all("volume")? {
        mounts.push(volume(option)?);
    }
    for option in args.all("mount")? {
        mounts.push(mount(option)?);
    }
    for option in args.all("tmpfs")? {
        mounts.push(tmpfs(option)?);
    }
    if let Some(size) = args.get("shm-size")? {
        mounts.push(Mount::tmpfs("/dev/shm").size(bytes("shm-size", size)?));
    }
    Ok(mounts)
}

fn absolute(path: &str) -> Result<PathBuf> {
    std::path::absolute(path).map_err(context(path))
}

/// Of two that contradict each other, one would be lost.
fn no_opposites(flag: &str, options: &str) -> Result<()> {
    let has = |name: &str| options.split(',').any(|option| option == name);
    match [("ro", "rw"), ("exec", "noexec")].into_iter().find(|(one, other)| has(one) && has(other)) {
        Some((one, other)) => Err(usage(format!("--{flag}: {one} and {other} contradict each other"))),
        None => Ok(()),
    }
}

/// `PATH`, `NAME:PATH[:ro]`, `/DIR:PATH[:ro]`, `./DIR:PATH`.
fn volume(option: &str) -> Result<Mount> {
    let wrong = || usage(format!("invalid --volume {option:?}: [SOURCE:]PATH[:ro|rw]"));
    let parts: Vec<_> = option.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(wrong()),
    };
    let mount = match source {
        None => Mount::anonymous_volume(target),
        Some("") => return Err(wrong()),
        Some(source) if source.starts_with(['/', '.']) => {
            let path = absolute(source)?;
            // As docker does: what is not there yet becomes a directory.
            if !path.exists() {
                fs::create_dir_all(&path).map_err(context(path.display()))?;
            }
            Mount::bind(path, target)
        }
        Some(name) => Mount::volume(name, target),
    };
    no_opposites("volume", options)?;
    options.split(',').filter(|option| !option.is_empty()).try_fold(mount, |mount, option| match option {
        "ro" => Ok(mount.read_only()),
        // Nothing here propagates, and there are no SELinux labels: the defaults.
        "rw" | "z" | "Z" | "private" | "rprivate" | "consistent" | "cached" | "delegated" => Ok(mount),
        other => Err(usage(format!("--volume: unknown option {other:?}"))),
    })
}

/// The fields of a line of CSV, as docker reads it: one in quotation marks may hold commas, and `""` is one of them.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut all = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let field = all.last_mut()?;
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => all.push(String::new()),
            _ => field.push(c),
        }
    }
    (!quoted).then_some(all)
}

/// `type=bind,source=/a,target=/b,readonly`.
fn mount(option: &str) -> Result<Mount> {
    let wrong = |what: &str| usage(format!("invalid --mount {option:?}: {what}"));
    let (mut kind, mut source, mut target) = ("volume".to_owned(), None, None);
    let (mut read_only, mut size, mut mode) = (false, None, None);
    for field in fields(option).ok_or_else(|| wrong("a quotation mark is missing"))? {
        let field = field.as_str();
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        match (key, value) {
            ("type", Some(value)) => kind = value.to_ascii_lowercase(),
            ("source" | "src", Some(value)) => source = Some(value.to_owned()),
            ("target" | "dst" | "destination", Some(value)) => target = Some(value.to_owned()),
            ("readonly" | "ro", None | Some("true" | "1")) => read_only = true,
            ("consistency", Some("default" | "consistent" | "cached" | "delegated")) => {}
            ("readonly" | "ro", Some("false" | "0")) => read_only = false,
            ("tmpfs-size", Some(value)) => size = Some(bytes("mount", value)?),
            ("tmpfs-mode", Some(value)) => {
                mode = Some(u32::from_str_radix(value, 8).map_err(|_| wrong("tmpfs-mode is octal"))?);
            }
            ("bind-propagation", Some("private" | "rprivate")) => {}
            _ => return Err(wrong(&format!("unexpected {field:?}"))),
        }
    }
    let target = target.ok_or_else(|| wrong("no target"))?;
    let mut mount = match (kind.as_str(), source.as_deref()) {
        ("bind", Some(source)) => {
            let path = absolute(source)?;
            if !path.exists() {
                return Err(wrong(&format!("the source {} does not exist", path.display())));
            }
            Mount::bind(path, target)
        }
        ("volume", Some(name)) if Path::new(name).is_absolute() => {
            return Err(wrong("a volume has a name; type=bind is for paths"));
        }
        ("volume", Some(name)) => Mount::volume(name, target),
        ("volume", None) => Mount::anonymous_volume(target),
        ("tmpfs", None) => Mount::tmpfs(target),
        ("bind", None) => return Err(wrong("no source")),
        ("tmpfs", Some(_)) => return Err(wrong("a tmpfs has no source")),
        _ => return Err(wrong("the type is bind, volume or tmpfs")),
    };
    if kind != "tmpfs" && (size.is_some() || mode.is_some()) {
        return Err(wrong("tmpfs-size and tmpfs-mode are for type=tmpfs"));
    }
    if let Some(size) = size {
        mount = mount.size(size);
    }
    if let Some(mode) = mode {
        mount = mount.mode(mode);
    }
    Ok(if read_only { mount.read_only() } else { mount })
}

/// `/run:size=64m,mode=755,exec`.
fn tmpfs(option: &str) -> Result<Mount> {
    let (target, options) = option.split_once(':').unwrap_or((option, ""));
    no_opposites("tmpfs", options)?;
    let mut mount = Mount::tmpfs(target);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        mount = match option.split_once('=') {
            Some(("size", size)) => mount.size(bytes("tmpfs", size)?),
            Some(("mode", mode)) => mount.mode(
                u32::from_str_radix(mode, 8)
                    .map_err(|_| usage(format!("--tmpfs: mode {mode:?} is octal")))?,
            ),
            None if option == "exec" => mount.exec(),
            None if option == "ro" => mount.read_only(),
            None if matches!(option, "rw" | "noexec" | "nosuid" | "nodev") => mount,
            _ => return Err(usage(format!("--tmpfs: unknown option {option:?}"))),
        };
    }
    Ok(mount)
}
