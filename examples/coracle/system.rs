//! `info`, `version` and `system verify`.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag};
use crate::fail::Result;
use crate::format::{line, print, shown};
use coracle::{State, Store};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;

pub const FORMAT: &[Flag] = &[flag("format", "FORMAT", "json, or {{.Field}}").short('f')];

fn kernel() -> (String, String) {
    let uname = rustix::system::uname();
    (uname.release().to_string_lossy().into_owned(), uname.machine().to_string_lossy().into_owned())
}

/// A file's first line, where the kernel has the file.
fn setting(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next().unwrap_or_default().to_owned())
}

fn cgroups() -> &'static str {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup2"), has("cgroup")) {
        (true, false) => "v2",
        (true, true) => "v1 and v2",
        (false, true) => "v1",
        (false, false) => "none",
    }
}

/// What is known without trying it out.
fn gather(store: &Store) -> Result<Value> {
    let containers = store.containers()?;
    let count = |state| containers.iter().filter(|one| one.state() == state).count();
    let uid = rustix::process::geteuid().as_raw();
    let (release, machine) = kernel();
    let ids = if uid == 0 { "a range of its own for each container" } else { "nested in the user's" };
    Ok(json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "CoracleRootDir": store.path(),
        "Containers": containers.len(),
        "ContainersRunning": count(State::Running),
        "ContainersPaused": count(State::Paused),
        "ContainersStopped": count(State::Exited) + count(State::Created),
        "Images": store.images()?.len(),
        "Volumes": store.volumes()?.len(),
        "KernelVersion": release,
        "Architecture": machine,
        "OSType": "linux",
        "User": uid,
        "Rootless": uid != 0,
        "UserIds": ids,
        "CgroupVersion": cgroups(),
        "MaxUserNamespaces": setting("/proc/sys/user/max_user_namespaces"),
        "MemfdNoexec": setting("/proc/sys/vm/memfd_noexec"),
        "AppArmorRestrictsUserns": setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        "NCPU": std::thread::available_parallelism().map_or(0, usize::from),
    }))
}

fn answer(format: Option<&str>, value: &Value) -> Result<u8> {
    if let Some(format) = format {
        line(shown(format, value)?)?;
        return Ok(0);
    }
    let mut text = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let _ = match value {
            Value::Null => Ok(()),
            Value::String(value) => writeln!(text, "{key}: {value}"),
            value => writeln!(text, "{key}: {value}"),
        };
    }
    print(text)?;
    Ok(0)
}

pub fn info(store: &Store, args: &Args) -> Result<u8> {
    answer(args.get("format")?, &gather(store)?)
}

/// Says each problem in a line, with the file and what to do; exit code 1 where there is one.
pub fn verify(store: &Store, args: &Args) -> Result<u8> {
    let found = store.verify()?;
    let problems: Vec<_> = found
        .problems
        .iter()
        .map(|problem| {
            json!({
                "Part": format!("{:?}", problem.part()),
                "Path": problem.path(),
                "Error": problem.error().to_string(),
                "Remedy": problem.remedy(),
            })
        })
        .collect();
    let code = u8::from(!found.is_sound());
    if let Some(format) = args.get("format")? {
        let value = json!({
            "Blobs": found.blobs,
            "Bytes": found.bytes,
            "Images": found.images,
            "Layers": found.layers,
            "Containers": found.containers,
            "Volumes": found.volumes,
            "Problems": problems,
        });
        line(shown(format, &value)?)?;
        return Ok(code);
    }
    for problem in &found.problems {
        line(format!("{:?}: {problem}", problem.part()))?;
    }
    line(format!(
        "{} blobs of {}, {} images, {} unpacked layers, {} containers, {} volumes: {} problems",
        found.blobs,
        crate::format::size(found.bytes),
        found.images,
        found.layers,
        found.containers,
        found.volumes,
        found.problems.len()
    ))?;
    Ok(code)
}

pub fn version(_: &Store, args: &Args) -> Result<u8> {
    let (release, machine) = kernel();
    let value = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": "linux",
        "Arch": machine,
        "KernelVersion": release,
    });
    answer(args.get("format")?, &value)
}
