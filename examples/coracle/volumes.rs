//! `volume create|ls|rm|inspect|prune`.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::containers::filters;
use crate::fail::{Result, each, usage, warn};
use crate::format::{self, line};
use crate::inspect;
use coracle::{ErrorKind, Store, Volume};
use serde_json::Value;

pub const CREATE: &[Flag] = &[flag("label", "KEY[=VALUE]", "Set a label")];
pub const LS: &[Flag] = &[
    flag("filter", "KEY=VALUE", "name=, label=").short('f'),
    flag("format", "FORMAT", "json, or {{.Name}}, {{.Mountpoint}}, …"),
    switch("quiet", "Names only").short('q'),
];
pub const RM: &[Flag] = &[switch("force", "None that is not there is an error").short('f')];
pub const INSPECT: &[Flag] = &[
    flag("format", "FORMAT", "json, or {{.Mountpoint}}, …").short('f'),
    switch("size", "Also its size").short('s'),
];
pub const PRUNE: &[Flag] =
    &[switch("all", "Named ones too").short('a'), switch("force", "Always so: nobody is asked").short('f')];

pub fn create(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    let volume = match names.first() {
        Some(name) => {
            let mut builder = Volume::builder(name);
            for (key, value) in crate::flags::labels(args)? {
                builder = builder.label(key, value);
            }
            builder.create(store)?
        }
        None if args.raw("label").is_some() => {
            return Err(usage("--label: a volume with a generated name has none; give it a name"));
        }
        None => Volume::anonymous(store)?,
    };
    line(volume.name())?;
    Ok(0)
}

fn passes(volume: &Volume, filters: &[(&str, &str)]) -> Result<bool> {
    for (key, value) in filters {
        let fits = match *key {
            "name" => volume.name().contains(value),
            "label" => match value.split_once('=') {
                Some((key, value)) => volume.labels().get(key).is_some_and(|found| found == value),
                None => volume.labels().contains_key(*value),
            },
            _ => return Err(usage(format!("invalid filter {key:?}"))),
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

pub fn ls(store: &Store, args: &Args) -> Result<u8> {
    let filters = filters(args)?;
    let mut values: Vec<Value> = Vec::new();
    warn(store.broken_volumes()?);
    for volume in store.volumes()? {
        if passes(&volume, &filters)? {
            values.push(inspect::volume(&volume, false)?);
        }
    }
    let format = if args.has("quiet") { Some("{{.Name}}") } else { args.get("format")? };
    format::list(format, &[("DRIVER", "Driver"), ("VOLUME NAME", "Name")], &values)?;
    Ok(0)
}

pub fn rm(store: &Store, args: &Args) -> Result<u8> {
    each(args.names()?, |name| {
        match Volume::open(store, name).and_then(|volume| volume.remove()) {
            Err(error) if args.has("force") && error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        line(name)
    })
}

pub fn inspect(store: &Store, args: &Args) -> Result<u8> {
    inspect::show(&args.names()?, args.get("format")?, |name| {
        inspect::volume(&Volume::open(store, name)?, args.has("size"))
    })
}

pub fn prune(store: &Store, args: &Args) -> Result<u8> {
    warn(store.broken_volumes()?);
    let removed = store.prune_volumes(args.has("all"))?;
    if !removed.is_empty() {
        line("Deleted Volumes:")?;
    }
    removed.iter().try_for_each(line)?;
    Ok(0)
}
