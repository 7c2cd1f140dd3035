//! Archives that ADD unpacks: tar, plain or compressed. What is no archive is copied as it is.
#![forbid(unsafe_code)]

use super::super::memory::{spooled, unpack};
use super::super::tree::{Content, Item, Tree, Xattrs, text};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::{Compression, Entry, EntryKind, MAGIC, decoder};
use crate::store::Store;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::{BufReader, Chain, Cursor, Read, Seek};
use std::process::{Child, Command, Stdio};

/// As much of what a program says is shown.
const SAID_MAX: u64 = 1024;

/// What an archive has, in its order; `None` where the file is none.
pub(super) fn archive(
    store: &Store,
    tree: &mut dyn Tree,
    at: &[u8],
    item: &Item,
) -> Result<Option<Vec<(Entry, Content)>>> {
    if item.entry.kind != EntryKind::File || item.entry.size == 0 {
        return Ok(None);
    }
    let mut entries = None;
    tree.open(at, item, &mut |_: Xattrs, data| {
        entries =
            read(store, data).map_err(|error| error.during(format!("unpacking {}", text(at).display())))?;
        Ok(())
    })?;
    Ok(entries)
}

fn read(store: &Store, mut data: &mut (dyn Read + Send)) -> Result<Option<Vec<(Entry, Content)>>> {
    let mut head = Vec::with_capacity(MAGIC);
    (&mut data).take(MAGIC as u64).read_to_end(&mut head).call("read")?;
    let program = match Compression::detect(&head) {
        Ok(_) => None,
        Err(_) if head.starts_with(b"BZh") => Some("bzip2"),
        Err(_) => Some("xz"),
    };
    let input: Chain<Cursor<Vec<u8>>, _> = Cursor::new(head).chain(data);
    match program {
        None => entries(store, decoder(BufReader::new(input))?.1),
        Some(name) => {
            let mut program = Program::start(store, name, input)?;
            let found = entries(store, &mut program.output)?;
            if found.is_some() {
                program.finish()?;
            }
            Ok(found)
        }
    }
}

/// As docker has it, a file is an archive if it begins with an entry.
fn entries(store: &Store, plain: impl Read) -> Result<Option<Vec<(Entry, Content)>>> {
    let (mut found, mut begun) = (Vec::new(), false);
    let plain = BufReader::with_capacity(128 << 10, plain);
    let unpacked = unpack(store, plain, &mut begun, &mut |entry, content| {
        found.push((entry, content));
        Ok(())
    });
    match unpacked {
        _ if !begun => Ok(None),
        Ok(()) => Ok(Some(found)),
        Err(error) => Err(error),
    }
}

/// A program of the host that decompresses what this crate does not.
struct Program {
    name: &'static str,
    child: Child,
    /// What it says, in memory: nobody has to read it for it to go on.
    said: File,
    output: std::process::ChildStdout,
}

impl Program {
    fn start(store: &Store, name: &'static str, input: impl Read) -> Result<Self> {
        // From a file: who does not read it blocks nobody.
        let (input, _) = spooled(store, input)?;
        let mut command = Command::new(name);
        let said = File::from(memfd_create("said", MemfdFlags::CLOEXEC).call("memfd_create")?);
        let stderr = said.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?;
        command.arg("-dc").stdin(input).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().map_err(|error| {
            let error = Error::os("posix_spawn", error).with_path(name);
            match error.kind() {
                ErrorKind::NotFound => error
                    .with_kind(ErrorKind::Unsupported)
                    .during(format!("decompressing with {name}"))
                    .with_remedy("install it, compress the archive with gzip or zstd, or ADD --unpack=false"),
                _ => error,
            }
        })?;
        match child.stdout.take() {
            Some(output) => Ok(Self { name, child, said, output }),
            None => Err(Error::new(ErrorKind::State, "a program without its output")),
        }
    }

    fn finish(&mut self) -> Result<()> {
        // What follows the archive's end.
        std::io::copy(&mut self.output, &mut std::io::sink()).call("read")?;
        // A host that reaps everything leaves no status: then the archive's end mark counts.
        match self.child.wait() {
            Ok(status) if !status.success() => {
                let mut said = Vec::new();
                self.said.rewind().call("lseek")?;
                (&self.said).take(SAID_MAX).read_to_end(&mut said).call("read")?;
                let said = String::from_utf8_lossy(&said).replace(char::is_control, " ");
                let what = format!("{}: {status}: {}", self.name, said.trim());
                Err(Error::new(ErrorKind::InvalidData, what))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
