//! `save`: images into an archive.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag};
use crate::fail::{Result, context, fail, usage};
use crate::flags;
use crate::images::has_tag;
use coracle::{ArchiveFormat, Reference, Save, Store};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub const SAVE: &[Flag] = &[
    flag("format", "FORMAT", "docker-archive (the default) or oci-archive"),
    flag("output", "FILE", "Into a file; else to stdout").short('o'),
];

/// What docker saves for a word: with a tag that name alone, without one all tags of the name, for an id no name.
fn add(mut save: Save, store: &Store, text: &str) -> Result<Save> {
    let name = text.parse::<Reference>().ok();
    if let Some(name) = name.as_ref().filter(|name| name.digest().is_none() && !has_tag(text)) {
        let mut found = false;
        for image in store.images()? {
            let mut names = image.references()?;
            names.retain(|other| {
                other.digest().is_none() && (other.domain(), other.path()) == (name.domain(), name.path())
            });
            if !names.is_empty() {
                found = true;
                save = save.image_as(&image, names);
            }
        }
        if found {
            return Ok(save);
        }
    }
    let image = flags::image(store, text)?;
    let names = name.filter(|name| name.digest().is_none() && has_tag(text));
    Ok(save.image_as(&image, names))
}

/// A file is there when it is whole, and is its owner's alone, as docker's. What a link leads to, or a pipe, is written to as
/// it is.
fn to_file(path: &OsStr, write: impl FnOnce(File) -> Result<()>) -> Result<()> {
    let path = Path::new(path);
    let failed = |error: io::Error| fail(format!("{}: {error}", path.display()));
    // A pipe, or a link, as /dev/stdout is one: it stays what it is.
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        let mut options = File::options();
        options.write(true).truncate(true).create(true).mode(0o600);
        let file = options.open(path).map_err(failed)?;
        return write(file);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".coracle-save-").tempfile_in(dir).map_err(failed)?;
    write(file.reopen().map_err(failed)?)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn write(save: &Save, writer: impl Write) -> Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, writer);
    save.write(&mut writer)?;
    writer.flush().map_err(context("writing the archive"))
}

pub fn save(store: &Store, args: &Args) -> Result<u8> {
    let format = match args.get("format")? {
        None | Some("docker-archive") => ArchiveFormat::DockerArchive,
        Some("oci-archive") => ArchiveFormat::OciArchive,
        Some(other) => return Err(usage(format!("--format {other:?}: docker-archive or oci-archive"))),
    };
    let mut save = Save::new().format(format);
    for name in args.names()? {
        save = add(save, store, name)?;
    }
    output(args.raw("output"), |file| write(&save, file))
}

/// Writes an archive where it is to go: to a file, or to stdout.
pub fn output(path: Option<&OsStr>, write: impl FnOnce(File) -> Result<()>) -> Result<u8> {
    match path {
        Some(path) => to_file(path, write)?,
        None if io::stdout().is_terminal() => {
            return Err(fail(
                "an archive is not written to a terminal: give --output, or redirect the output",
            ));
        }
        // Without the buffer for lines that Rust's own has.
        None => write(File::from(io::stdout().as_fd().try_clone_to_owned()?))?,
    }
    Ok(0)
}
