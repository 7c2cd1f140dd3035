//! `info`, `version` and `system verify`.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag};
use crate::fail::{Result, warn};
use crate::format::{line, print, shown};
use coracle::{Feature, Host, State, Store};
use serde_json::{Value, json};
use std::fmt::Write;

pub const FORMAT: &[Flag] = &[flag("format", "FORMAT", "json, or {{.Field}}").short('f')];

fn kernel() -> (String, String) {
    let uname = rustix::system::uname();
    (uname.release().to_string_lossy().into_owned(), uname.machine().to_string_lossy().into_owned())
}

fn gather(store: &Store, host: &Host) -> Result<Value> {
    let containers = store.containers()?;
    for image in store.broken_images()? {
        eprintln!("coracle: image {}: {}", image.digest(), image.error());
    }
    warn(store.broken_containers()?);
    warn(store.broken_volumes()?);
    let count = |state| containers.iter().filter(|one| one.state() == state).count();
    Ok(json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "CoracleRootDir": store.path(),
        "Containers": containers.len(),
        "ContainersRunning": count(State::Running),
        "ContainersPaused": count(State::Paused),
        "ContainersStopped": count(State::Exited) + count(State::Created),
        "Images": store.images()?.len(),
        "Volumes": store.volumes()?.len(),
        "KernelVersion": host.kernel(),
        "Architecture": host.machine(),
        "OSType": "linux",
        "User": host.user(),
        "Rootless": !host.has(Feature::Privileges),
        "CgroupVersion": host.cgroups().to_string(),
        "InContainer": host.container(),
        "NCPU": std::thread::available_parallelism().map_or(0, usize::from),
        "Features": host.abilities(),
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

/// What there is, and what this host offers: each feature with a yes, or with a no, the reason and the remedy.
pub fn info(store: &Store, args: &Args) -> Result<u8> {
    let host = Host::probe_at(store.path());
    let mut value = gather(store, &host)?;
    if let Some(format) = args.get("format")? {
        return answer(Some(format), &value);
    }
    if let Some(fields) = value.as_object_mut() {
        fields.remove("Features");
    }
    answer(None, &value)?;
    print(format!("Features:\n{}", host.features()))?;
    Ok(0)
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
