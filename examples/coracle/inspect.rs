//! `inspect`: containers, images and volumes as JSON, with docker's names.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::fail::{Result, context, fail, usage};
use crate::format::{line, shown};
use crate::run::record;
use coracle::rfc3339;
use coracle::{Container, ErrorKind, Image, State, Store, Volume};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::time::SystemTime;

pub const INSPECT: &[Flag] = &[
    flag("format", "FORMAT", "json, or {{.State.Status}}, {{json .Config.Env}}, …").short('f'),
    switch("size", "Also the size of a volume").short('s'),
    flag("type", "TYPE", "container, image or volume"),
];

/// A word of the record: text, or its bytes where it is no text.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => {
            let bytes = other["Unix"].as_array().into_iter().flatten().filter_map(Value::as_u64);
            String::from_utf8_lossy(&bytes.filter_map(|byte| byte.try_into().ok()).collect::<Vec<u8>>())
                .into_owned()
        }
    }
}

fn words(value: &Value) -> Option<Vec<String>> {
    Some(value.as_array()?.iter().map(word).collect())
}

/// What is executed: the program and its arguments, the image's where the container has none of its own.
pub fn command(container: &Container, record: &Value) -> (String, Vec<String>) {
    let spec = &record["spec"];
    let config = container.image().map(Image::config);
    let own = words(&spec["entrypoint"]);
    let replaced = own.is_some();
    let of_image = || config.map(|config| config.entrypoint().to_vec()).unwrap_or_default();
    let mut all = own.unwrap_or_else(of_image);
    match words(&spec["command"]) {
        Some(words) => all.extend(words),
        None if replaced => {}
        None => all.extend(config.into_iter().flat_map(|config| config.cmd().to_vec())),
    }
    all.extend(words(&spec["args"]).unwrap_or_default());
    let mut all = all.into_iter();
    (all.next().unwrap_or_default(), all.collect())
}

/// The published ports: of the container, and on the host, where it has one now or asked for one.
pub fn ports(container: &Container, record: &Value) -> Vec<(u16, SocketAddr)> {
    let asked = record["spec"]["publish"].as_array().into_iter().flatten();
    let pair = |one: &Value| {
        let port = one["container"].as_u64()?.try_into().ok()?;
        let address = one["address"].as_str()?.parse().ok()?;
        let host = SocketAddr::new(address, one["host"].as_u64()?.try_into().ok()?);
        Some((port, container.host_addr(port).unwrap_or(host)))
    };
    asked.filter_map(pair).collect()
}

fn time(time: Option<SystemTime>) -> String {
    time.map_or_else(|| "0001-01-01T00:00:00Z".into(), rfc3339)
}

fn state(container: &Container) -> Result<Value> {
    let state = container.state();
    let status = match state {
        State::Exited => container.try_wait().map_err(context(container.name()))?,
        _ => None,
    };
    Ok(json!({
        "Status": state.to_string(),
        "Running": matches!(state, State::Running | State::Paused),
        "Paused": state == State::Paused,
        "OOMKilled": status.is_some_and(|status| status.oom_killed()),
        "Pid": container.pid().unwrap_or(0),
        "ExitCode": status.map_or(0, |status| status.shell_code()),
        "StartedAt": time(container.started()),
        "FinishedAt": time(container.finished()),
    }))
}

fn mounts(spec: &Value) -> Vec<Value> {
    let each = spec["mounts"].as_array().into_iter().flatten();
    each.map(|mount| {
        let mut shown = Map::new();
        let kind = mount["kind"].as_object().and_then(|kind| kind.iter().next());
        let (kind, of) = kind.map_or(("", &Value::Null), |(kind, of)| (kind.as_str(), of));
        shown.insert("Type".into(), kind.into());
        for (ours, docker) in [("name", "Name"), ("source", "Source"), ("size", "Size")] {
            if let Some(value) = of.get(ours) {
                shown.insert(docker.into(), value.clone());
            }
        }
        shown.insert("Destination".into(), mount["target"].clone());
        shown.insert("RW".into(), (!mount["read_only"].as_bool().unwrap_or(false)).into());
        shown.into()
    })
    .collect()
}

/// As docker nests them.
fn bindings(container: &Container, record: &Value) -> Value {
    let mut all = Map::new();
    for (port, host) in ports(container, record) {
        let bound = json!({"HostIp": host.ip().to_string(), "HostPort": host.port().to_string()});
        match all.entry(format!("{port}/tcp")).or_insert_with(|| json!([])) {
            Value::Array(hosts) => hosts.push(bound),
            _ => unreachable!("only lists are put in"),
        }
    }
    all.into()
}

pub fn container(container: &Container) -> Result<Value> {
    let record = record(container)?;
    let spec = &record["spec"];
    let (path, args) = command(container, &record);
    let env: Vec<_> = spec["env"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pair| format!("{}={}", word(&pair[0]), word(&pair[1])))
        .collect();
    let image_env = match spec["env_cleared"].as_bool() {
        Some(true) => Vec::new(),
        _ => container.image().map(|image| image.config().env().to_vec()).unwrap_or_default(),
    };
    let hostname = spec["hostname"].as_str().unwrap_or(container.short_id());
    let report: Vec<_> = container.report().entries().iter().map(ToString::to_string).collect();
    Ok(json!({
        "Id": container.id(),
        "Created": rfc3339(container.created()),
        "Path": path,
        "Args": args,
        "State": state(container)?,
        "Image": container.image().map(|image| image.id().to_string()),
        "Name": format!("/{}", container.name()),
        "Config": {
            "Hostname": hostname,
            "User": spec["user"].as_str().unwrap_or_default(),
            "Tty": spec["tty"],
            "Env": image_env.into_iter().chain(env).collect::<Vec<_>>(),
            "Cmd": words(&spec["command"]),
            "Entrypoint": words(&spec["entrypoint"]),
            "Image": crate::containers::familiar(&container.image_name()),
            "WorkingDir": spec["working_dir"].as_str().unwrap_or_default(),
            "Labels": container.labels(),
            "StopSignal": container.stop_signal().map(|signal| signal.to_string()).unwrap_or_default(),
            "StopTimeout": container.stop_timeout().map(|time| time.as_secs()),
        },
        "HostConfig": {
            "NetworkMode": spec["network"],
            "ReadonlyRootfs": spec["read_only"],
            "Init": spec["init"],
            "CapAdd": spec["cap_add"],
            "CapDrop": spec["cap_drop"],
            "GroupAdd": spec["groups"],
            "Limits": spec["limits"],
            "Ulimits": spec["ulimits"],
            "Sysctls": spec["sysctls"],
            "Devices": devices(&spec["devices"]),
            "ExtraHosts": spec["hosts"],
            "PortBindings": spec["publish"],
            "NoNewPrivileges": !spec["new_privileges"].as_bool().unwrap_or(false),
        },
        "Mounts": mounts(spec),
        "NetworkSettings": {"Ports": bindings(container, &record)},
        "Report": report,
    }))
}

pub fn image(image: &Image) -> Result<Value> {
    let config: Value = serde_json::from_str(image.config().json()).map_err(context("configuration"))?;
    let names = image.references()?;
    let tags = names.iter().filter(|name| name.digest().is_none());
    let names: Vec<_> = tags.map(|name| name.familiar()).collect();
    let digests: Vec<_> = image.repo_digests()?.iter().map(|name| name.familiar()).collect();
    Ok(json!({
        "Id": image.id().to_string(),
        "RepoTags": names,
        "RepoDigests": digests,
        "Created": image.config().created(),
        "Author": image.config().author().unwrap_or_default(),
        "Architecture": image.architecture(),
        "Variant": image.config().variant(),
        "Os": image.config().os(),
        "Size": image.size(),
        "Config": config["config"],
        "RootFS": {"Type": "layers", "Layers": config["rootfs"]["diff_ids"]},
        "Digest": image.digest().to_string(),
    }))
}

pub fn volume(volume: &Volume, size: bool) -> Result<Value> {
    let mut value = json!({
        "Name": volume.name(),
        "Driver": "local",
        "Mountpoint": volume.path(),
        "CreatedAt": rfc3339(volume.created()),
        "Labels": volume.labels(),
        "Scope": "local",
        "Anonymous": volume.is_anonymous(),
    });
    if size {
        value["UsageData"] = json!({"Size": volume.size()?});
    }
    Ok(value)
}

fn any(store: &Store, name: &str, kind: Option<&str>, size: bool) -> Result<Value> {
    let missing = |error: &coracle::Error| {
        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) && kind.is_none()
    };
    let wants = |what| kind.is_none_or(|kind| kind == what);
    if wants("container") {
        match store.container(name) {
            Ok(found) => return container(&found),
            Err(error) if missing(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if name == "@host" && wants("image") {
        return image(&Image::host(store)?);
    }
    if wants("image") {
        match store.image(name) {
            Ok(found) => return image(&found),
            Err(error) if missing(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match Volume::open(store, name) {
        Ok(found) => volume(&found, size),
        Err(error) if missing(&error) => Err(fail(format!("no container, image or volume {name:?}"))),
        Err(error) => Err(error.into()),
    }
}

/// Several things as docker prints them: one list, or one line each in a format.
pub fn show(names: &[&str], format: Option<&str>, find: impl Fn(&str) -> Result<Value>) -> Result<u8> {
    let mut found = Vec::new();
    let mut code = 0;
    for name in names {
        match find(name).and_then(|value| match format {
            Some(format) => line(shown(format, &value)?).map(|()| Value::Null),
            None => Ok(value),
        }) {
            Ok(value) => found.push(value),
            Err(error) => {
                eprintln!("coracle: {error}");
                code = 1;
            }
        }
    }
    if format.is_none() {
        line(serde_json::to_string_pretty(&found).map_err(context("JSON"))?)?;
    }
    Ok(code)
}

pub fn inspect(store: &Store, args: &Args) -> Result<u8> {
    let kind = args.get("type")?;
    if let Some(kind) = kind.filter(|kind| !["container", "image", "volume"].contains(kind)) {
        return Err(usage(format!("--type {kind:?}: container, image or volume")));
    }
    show(&args.names()?, args.get("format")?, |name| any(store, name, kind, args.has("size")))
}

/// Of images alone.
pub fn images(store: &Store, args: &Args) -> Result<u8> {
    show(&args.names()?, args.get("format")?, |name| any(store, name, Some("image"), false))
}

/// As docker has them.
fn devices(devices: &Value) -> Value {
    let letter = |device: &Value, right, letter| if device[right] == true { letter } else { "" };
    let one = |device: &Value| {
        let permissions = letter(device, "read", "r").to_owned() + letter(device, "write", "w");
        json!({
            "PathOnHost": device["source"],
            "PathInContainer": device["target"],
            "CgroupPermissions": permissions,
        })
    };
    devices.as_array().into_iter().flatten().map(one).collect()
}
