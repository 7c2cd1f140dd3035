//! Files in memory.

use bytes::Bytes;
use std::fs::File;
use std::io;

/// Maps a file whose content never changes: a finished blob of the store.
///
/// A file that somebody else cuts short while it is mapped would be a SIGBUS at the next access, so
/// this is for files that only ever appear and vanish by name.
pub(crate) fn immutable(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the caller promises that the file is immutable; the store writes blobs only before
    // they have their name and never opens them for writing afterwards.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
