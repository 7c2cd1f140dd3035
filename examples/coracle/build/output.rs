//! `--output`: what a build gave, besides in the store.
#![forbid(unsafe_code)]

use crate::fail::{Fail, Result, context, fail, usage};
use coracle::{ArchiveFormat, Image, Save};
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Where to, and in which form.
pub enum Output {
    /// In the store, where it is anyway; with a further name.
    Image(Option<String>),
    /// The files, in a directory.
    Dir(PathBuf),
    /// The files, as an archive.
    Tar(PathBuf),
    /// The image, as an archive.
    Archive(ArchiveFormat, PathBuf),
}

const STDOUT: &str = "-";

impl std::str::FromStr for Output {
    type Err = Fail;

    /// `DIR`, `-`, or `type=TYPE,dest=PATH,name=NAME`.
    fn from_str(text: &str) -> Result<Self> {
        if text == STDOUT {
            return Ok(Self::Tar(STDOUT.into()));
        }
        if !text.contains('=') {
            return Ok(Self::Dir(text.into()));
        }
        let (mut kind, mut dest, mut name) = ("", None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("type", value)) => kind = value,
                Some(("dest" | "destination", value)) => dest = Some(PathBuf::from(value)),
                Some(("name", value)) => name = Some(value.to_owned()),
                _ => return Err(usage(format!("invalid --output {text:?}: type=, dest=, name="))),
            }
        }
        let no_dest = || usage(format!("--output {text:?}: it needs dest=PATH"));
        let or_stdout = |dest: Option<PathBuf>| dest.unwrap_or_else(|| STDOUT.into());
        match kind {
            "image" => Ok(Self::Image(name)),
            // What the steps gave stays in the store, and so does the image.
            "cacheonly" => Ok(Self::Image(None)),
            "local" => Ok(Self::Dir(dest.ok_or_else(no_dest)?)),
            "tar" => Ok(Self::Tar(or_stdout(dest))),
            "docker" if dest.is_none() => Ok(Self::Image(name)),
            "docker" => Ok(Self::Archive(ArchiveFormat::DockerArchive, or_stdout(dest))),
            "oci" => Ok(Self::Archive(ArchiveFormat::OciArchive, or_stdout(dest))),
            other => Err(usage(format!("--output type={other}: image, local, tar, docker or oci"))),
        }
    }
}

impl Output {
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::Tar(path) | Self::Archive(_, path) if path == Path::new(STDOUT))
    }

    pub fn write(&self, image: &Image) -> Result<()> {
        match self {
            Self::Image(None) => Ok(()),
            Self::Image(Some(name)) => Ok(image.tag(name).map(|_| ())?),
            Self::Dir(dir) => to_dir(image, dir),
            Self::Tar(path) => to(path, |writer| Ok(image.export(writer)?)),
            Self::Archive(format, path) => {
                let save = Save::new().format(*format).image(image)?;
                to(path, |writer| Ok(save.write(writer)?))
            }
        }
    }
}

fn to(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let what = format!("--output {}", path.display());
    let file = match path == Path::new(STDOUT) {
        true if io::stdout().is_terminal() => {
            return Err(fail("an archive is not written to a terminal: redirect the output"));
        }
        true => File::from(io::stdout().as_fd().try_clone_to_owned()?),
        false => File::create(path).map_err(context(what.clone()))?,
    };
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    write(&mut writer)?;
    writer.flush().map_err(context(what))
}

/// The files belong to whoever asked for them, and no link of the image leads out of the directory.
fn to_dir(image: &Image, dir: &Path) -> Result<()> {
    let what = || format!("--output {}", dir.display());
    fs::create_dir_all(dir).map_err(context(what()))?;
    let (reader, writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let exporting = scope.spawn(move || image.export(BufWriter::with_capacity(1 << 16, writer)));
        let mut archive = tar::Archive::new(io::BufReader::with_capacity(1 << 16, reader));
        archive.set_preserve_permissions(true);
        archive.set_overwrite(true);
        // With another owner than in the image nothing is executed as the owner.
        archive.set_mask(0o6000);
        let unpacked = archive.unpack(dir).map_err(context(what()));
        // What it could not do because nobody read any more is not the reason.
        let exported = exporting.join().map_err(|_| fail(format!("{}: it panicked", what())))?;
        unpacked?;
        Ok(exported?)
    })
}
