//! Where the bytes of a file with holes lie.
//!
//! Which parts of a file are holes differs from one filesystem to the next. So that the same file is the same archive anywhere,
//! the disk only tells whether it has holes at all, and where nothing need be read; a piece is what has a byte that is not
//! zero, in blocks of one size.
#![forbid(unsafe_code)]

use super::path::text;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::Room;
use rustix::fs::{SeekFrom, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Pieces are multiples of it, but for the last. Smaller holes are not worth their lines.
const STEP: u64 = 64 << 10;
/// More pieces than this are put together: a reader takes a megabyte of map.
const PIECES_MAX: usize = 8192;
/// Bytes that are copied between two looks at the disk.
const COPIED: u64 = 64 << 20;

/// The pieces of a file with holes, offset and length; `None` of one that has none to speak of.
pub(super) fn pieces(file: &File, stat: &Stat, path: &[u8]) -> Result<Option<Vec<(u64, u64)>>> {
    let (size, on_disk) = (stat.st_size as u64, (stat.st_blocks as u64).saturating_mul(512));
    if on_disk.saturating_add(STEP) > size {
        return Ok(None);
    }
    let mut found = Vec::new();
    let mut buffer = vec![0; STEP as usize];
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            // A filesystem that does not tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            other => other.call_at("lseek(SEEK_DATA)", text(path))?,
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(begin)).call_at("lseek(SEEK_HOLE)", text(path))?;
        let mut block = (begin - begin % STEP).max(at);
        while block < end.min(size) {
            let length = STEP.min(size - block);
            let bytes = &mut buffer[..length as usize];
            file.read_exact_at(bytes, block).map_err(|error| changed(error, path))?;
            if bytes.iter().any(|&byte| byte != 0) {
                add(&mut found, block, length);
            }
            block += STEP;
        }
        at = block.max(end);
    }
    Ok(Some(bounded(found, size)))
}

fn changed(error: io::Error, path: &[u8]) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::new(ErrorKind::InUse, "a file changed while it was read"),
        _ => Error::os("pread64", error),
    }
    .with_path(text(path))
}

fn add(pieces: &mut Vec<(u64, u64)>, offset: u64, length: u64) {
    match pieces.last_mut() {
        Some(last) if last.0 + last.1 >= offset => last.1 = offset + length - last.0,
        _ => pieces.push((offset, length)),
    }
}

/// The same in blocks of so many bytes that there are not too many.
fn bounded(mut pieces: Vec<(u64, u64)>, size: u64) -> Vec<(u64, u64)> {
    let mut step = STEP;
    while pieces.len() > PIECES_MAX {
        step *= 2;
        let mut coarse = Vec::new();
        for (offset, length) in pieces {
            let begin = offset - offset % step;
            add(&mut coarse, begin, (offset + length).next_multiple_of(step).min(size) - begin);
        }
        pieces = coarse;
    }
    pieces
}

/// Reads the pieces, one after the other.
pub(super) struct Pieces<'a> {
    file: &'a File,
    pieces: std::slice::Iter<'a, (u64, u64)>,
    at: u64,
    left: u64,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(file: &'a File, pieces: &'a [(u64, u64)]) -> Self {
        Self { file, pieces: pieces.iter(), at: 0, left: 0 }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            match self.pieces.next() {
                Some(&(offset, length)) => (self.at, self.left) = (offset, length),
                None => return Ok(0),
            }
        }
        let n = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = self.file.read_at(&mut buffer[..n], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Copies what a file has into an empty one, and leaves its holes, where the filesystem tells of them. Where it can, the blocks
/// are shared.
///
/// # Errors
/// `StorageFull` when too little of the disk would be left.
pub(crate) fn copy(from: &File, to: &File, size: u64, room: &mut Room, path: &[u8]) -> Result<()> {
    let mut at = 0;
    while at < size {
        let (data, hole) = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (at, size),
            Err(errno) => return Err(errno).call_at("lseek(SEEK_DATA)", text(path)),
            Ok(data) => {
                let hole = rustix::fs::seek(from, SeekFrom::Hole(data));
                (data, hole.call_at("lseek(SEEK_HOLE)", text(path))?.min(size))
            }
        };
        at = data;
        for file in [from, to] {
            rustix::fs::seek(file, SeekFrom::Start(at)).call_at("lseek", text(path))?;
        }
        while at < hole {
            let length = COPIED.min(hole - at);
            room.take(to, length).map_err(|error| error.with_path(text(path)))?;
            // By copy_file_range.
            match io::copy(&mut from.take(length), &mut &*to).call_at("copy_file_range", text(path))? {
                // It has shrunk.
                0 => return rustix::fs::ftruncate(to, size).call_at("ftruncate", text(path)),
                copied => at += copied,
            }
        }
    }
    rustix::fs::ftruncate(to, size).call_at("ftruncate", text(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn of(file: &File) -> Option<Vec<(u64, u64)>> {
        pieces(file, &rustix::fs::fstat(file).unwrap(), b"f").unwrap()
    }

    #[test]
    fn what_is_not_zero_is_a_piece() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        assert_eq!(of(&file), Some(vec![]));
        file.write_all_at(b"x", (1 << 20) + 7).unwrap();
        file.write_all_at(b"y", (1 << 20) + STEP).unwrap();
        // Written, and zero all the same.
        file.write_all_at(&[0; 200_000], 5 << 20).unwrap();
        file.write_all_at(b"z", (10 << 20) - 1).unwrap();
        file.set_len((10 << 20) + 5).unwrap();
        let expected = vec![(1 << 20, 2 * STEP), ((10 << 20) - STEP, STEP)];
        assert_eq!(of(&file), Some(expected.clone()));
        let mut bytes = Vec::new();
        Pieces::new(&file, &expected).read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes.len() as u64, bytes[7], bytes[bytes.len() - 1]), (3 * STEP, b'x', b'z'));
        // Whole files are none of it.
        let whole = tempfile::tempfile().unwrap();
        whole.write_all_at(&[1; 300_000], 0).unwrap();
        assert_eq!(of(&whole), None);
    }

    #[test]
    fn many_pieces_become_fewer() {
        let many: Vec<_> = (0..20_000).map(|n| (n * 4 * STEP, STEP)).collect();
        let size = 80_000 * STEP - 9;
        let fewer = bounded(many.clone(), size);
        assert!(fewer.len() <= PIECES_MAX, "{}", fewer.len());
        for (offset, length) in many {
            assert!(fewer.iter().any(|(from, n)| *from <= offset && offset + length <= from + n));
        }
        assert!(fewer.last().is_some_and(|(offset, length)| offset + length <= size));
    }
}
