//! `commit`, `diff`, `export`: what containers have changed.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::fail::{Result, context};
use crate::format::{self, left_out, line, visible};
use crate::{moment, save};
use coracle::{Change, ChangeKind, Commit, Store};
use serde_json::json;
use std::io::{BufWriter, Write};

pub const COMMIT: &[Flag] = &[
    flag("author", "TEXT", "Who made the image").short('a'),
    flag("change", "INSTRUCTION", "An instruction of a Dockerfile, as CMD, ENV or LABEL (may be repeated)")
        .short('c'),
    flag("message", "TEXT", "The comment in its history").short('m'),
    switch("pause", "Pause the container meanwhile, if it runs (default: true)").short('p'),
];
pub const DIFF: &[Flag] = &[flag("format", "FORMAT", "json, or {{.Kind}}, {{.Path}}")];
pub const EXPORT: &[Flag] = &[flag("output", "FILE", "Into a file; else to stdout").short('o')];

/// Prints the id of the image. With SOURCE_DATE_EPOCH in the environment the same changes are the same image.
pub fn commit(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    let container = store.container(names[0])?;
    let mut commit = container.committing().pause(!args.is_off("pause"));
    if let Some(name) = names.get(1) {
        commit = commit.name(*name);
    }
    if let Some(author) = args.get("author")? {
        commit = commit.author(author);
    }
    if let Some(message) = args.get("message")? {
        commit = commit.message(message);
    }
    for text in args.all("change")? {
        commit = change(commit, text)?;
    }
    if let Some(time) = moment::source_date_epoch()? {
        commit = commit.source_date_epoch(time);
    }
    commit = commit.on_left_out(left_out);
    line(commit.run()?.id().to_string())?;
    Ok(0)
}

#[cfg(feature = "build")]
fn change<'a>(commit: Commit<'a>, text: &str) -> Result<Commit<'a>> {
    Ok(commit.change(text))
}

#[cfg(not(feature = "build"))]
fn change<'a>(_: Commit<'a>, _: &str) -> Result<Commit<'a>> {
    Err(crate::fail::fail("--change: this program was built without coracle's feature `build`"))
}

pub fn diff(store: &Store, args: &Args) -> Result<u8> {
    show(&store.container(args.names()?[0])?.diff()?, args)
}

/// A line for each.
pub fn show(changes: &[Change], args: &Args) -> Result<u8> {
    let format = args.get("format")?;
    for change in changes {
        let kind = match change.kind {
            ChangeKind::Added => "A",
            ChangeKind::Deleted => "D",
            _ => "C",
        };
        let path = change.path.display().to_string();
        line(match format {
            Some(format) => format::shown(format, &json!({"Kind": kind, "Path": path}))?,
            None => format!("{kind} {}", visible(&path)),
        })?;
    }
    Ok(0)
}

pub fn export(store: &Store, args: &Args) -> Result<u8> {
    let container = store.container(args.names()?[0])?;
    save::output(args.raw("output"), |writer| {
        let mut writer = BufWriter::with_capacity(1 << 20, writer);
        for (path, why) in container.export(&mut writer)? {
            left_out(&path, &why);
        }
        writer.flush().map_err(context("writing the archive"))
    })
}
