//! A streaming reader of tar archives: v7, ustar (POSIX.1-1988), PAX (POSIX.1-2001), GNU.
//!
//! The `tar` crate's `Header` gives the fields their places; what is between the
//! headers is read here, because an archive is read by several programs and none of them must see
//! other files than we do: records are taken by their length, numbers that do not fit are refused,
//! two names for one entry are refused. Memory is bounded by [`ReadLimits`], whatever the archive says.
#![forbid(unsafe_code)]

pub(crate) use super::entry::{Entry, EntryKind, Mtime};
use super::pax::Pax;
use super::sparse;
use crate::error::{Call, Error, ErrorKind, Result};
use std::io::{self, BufRead, Read};
use tar::Header;

pub(super) const BLOCK: usize = 512;

/// How much a reader takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadLimits {
    /// Headers of all kinds.
    pub(crate) headers: u64,
    /// Bytes of one extended header, of all global ones together, of one sparse map.
    pub(crate) header_bytes: usize,
    /// Whether an archive that just stops between two entries is whole, and one of no bytes empty; the filling of a last file may be
    /// missing. Right where a digest is verified.
    pub(crate) unterminated: bool,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { headers: 8 << 20, header_bytes: 1 << 20, unterminated: false }
    }
}

/// Reads the entries of an archive one after the other, and the data of each.
///
/// As [`Read`], it is the current entry's data with holes as zeros.
pub(crate) struct Reader<R> {
    input: R,
    limits: ReadLimits,
    /// Bytes taken from the input: where we are, for messages.
    position: u64,
    headers: u64,
    global: Pax,
    ended: bool,
    /// Bytes of the current entry still in the archive, and the filling after them.
    stored: u64,
    padding: u64,
    /// Where the next stored byte belongs, how many stored bytes follow it without a hole, what pieces come then.
    offset: u64,
    piece: u64,
    pieces: std::vec::IntoIter<(u64, u64)>,
    /// For `Read`: how far into the file it is, and the file's length.
    read: u64,
    size: u64,
}

/// Length of a sparse file, and offset and length of the pieces of it that are stored.
type SparseMap = (u64, Vec<(u64, u64)>);

/// What comes before an entry's own header.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(input: R, limits: ReadLimits) -> Self {
        Self {
            input,
            limits,
            position: 0,
            headers: 0,
            global: Pax::default(),
            ended: false,
            stored: 0,
            padding: 0,
            offset: 0,
            piece: 0,
            pieces: Vec::new().into_iter(),
            read: 0,
            size: 0,
        }
    }

    /// The next entry; what is left of the current one's data is skipped.
    ///
    /// # Errors
    /// `InvalidData` where the archive is malformed or cut short, `TooLarge` where a limit is reached,
    /// `Unsupported` for kinds of entries that no layer has.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        let (left, padding) = (std::mem::take(&mut self.stored), std::mem::take(&mut self.padding));
        (self.offset, self.piece, self.pieces, self.read, self.size) = (0, 0, Vec::new().into_iter(), 0, 0);
        self.skip(left)?;
        if self.pass(padding)? > 0 && !self.limits.unterminated {
            return Err(cut_short(self.position));
        }
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.block()? else {
                if self.limits.unterminated && extensions.is_empty() {
                    self.ended = true;
                    return Ok(None);
                }
                return Err(self.bad("the archive stops before its end marker"));
            };
            if block.iter().all(|&b| b == 0) {
                if !extensions.is_empty() {
                    return Err(self.bad("the archive ends after an extended header"));
                }
                if self.block()?.is_some_and(|block| block.iter().any(|&b| b != 0)) {
                    return Err(self.bad("a lone zero block between entries"));
                }
                self.ended = true;
                return Ok(None);
            }
            self.headers += 1;
            if self.headers > self.limits.headers {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!("archive of more than {} headers", self.limits.headers),
                ));
            }
            let header = Header::from_byte_slice(&block);
            self.verify_checksum(header)?;
            // A size in a PAX header counts for the entry alone, never for the headers before it.
            match header.as_old().linkflag[0] {
                b'x' | b'X' => {
                    let pax = Pax::parse(&self.payload(header)?)?;
                    self.once(&mut extensions.pax, pax)?;
                }
                b'g' => {
                    let newer = Pax::parse(&self.payload(header)?)?;
                    self.global.add_global(newer, self.limits.header_bytes)?;
                }
                b'L' => {
                    let name = self.long_name(header)?;
                    self.once(&mut extensions.long_name, name)?;
                }
                b'K' => {
                    let name = self.long_name(header)?;
                    self.once(&mut extensions.long_link, name)?;
                }
                // A volume's label.
                b'V' => {
                    let size = self.size_field(header)?;
                    self.skip(padded(size).ok_or_else(|| self.bad("size"))?)?;
                }
                _ => return self.entry(header, &extensions).map(Some),
            }
        }
    }

    /// The entry itself, its data set up for reading.
    fn entry(&mut self, header: &Header, extensions: &Extensions) -> Result<Entry> {
        let none = Pax::default();
        let pax = extensions.pax.as_ref().unwrap_or(&none);
        let old = header.as_old();
        let flag = old.linkflag[0];

        let gnu_name = pax.path(&self.global, "GNU.sparse.name")?;
        let pax_path = if gnu_name.is_some() { gnu_name } else { pax.path(&self.global, "path")? };
        let path = self
            .one_of(pax_path, &extensions.long_name, "path")?
            .unwrap_or_else(|| header.path_bytes().into_owned());
        if path.is_empty() {
            return Err(self.bad("an entry without a name"));
        }
        let kind = match flag {
            b'0' | 0 | b'7' | b'S' if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            _ => {
                return Err(self
                    .bad(format_args!("an entry of type {:?}", char::from(flag)))
                    .with_kind(ErrorKind::Unsupported));
            }
        };
        let link = if matches!(kind, EntryKind::HardLink | EntryKind::Symlink) {
            let pax_link = pax.path(&self.global, "linkpath")?;
            self.one_of(pax_link, &extensions.long_link, "link target")?
                .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
                .filter(|target| !target.is_empty())
                .ok_or_else(|| self.bad("a link without a target"))?
        } else {
            Vec::new()
        };

        let id = |key, field: &[u8]| -> Result<u32> {
            let id = match pax.number(&self.global, key)? {
                Some(id) => id,
                None => number(field)
                    .and_then(|id| u64::try_from(id).ok())
                    .ok_or_else(|| self.bad(format_args!("{key} is not a number")))?,
            };
            // The last one, -1, tells the kernel to leave an owner as it is.
            u32::try_from(id)
                .ok()
                .filter(|&id| id != u32::MAX)
                .ok_or_else(|| self.bad(format_args!("{key} {id} is beyond 32 bits")))
        };
        let (uid, gid) = (id("uid", &old.uid)?, id("gid", &old.gid)?);
        let mode = number(&old.mode).ok_or_else(|| self.bad("mode is not a number"))? as u32 & 0o7777;
        let mtime = match pax.mtime(&self.global)? {
            Some(mtime) => mtime,
            None => number(&old.mtime)
                .and_then(|secs| i64::try_from(secs).ok())
                .map(|secs| Mtime { secs, nanos: 0 })
                .ok_or_else(|| self.bad("mtime is not a number"))?,
        };
        let device = if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            let field = |at: usize| -> Result<u32> {
                number(&header.as_bytes()[at..at + 8])
                    .and_then(|n| u32::try_from(n).ok())
                    .ok_or_else(|| self.bad("device number"))
            };
            (field(329)?, field(337)?)
        } else {
            (0, 0)
        };
        let xattrs = pax.xattrs(&self.global)?;

        let mut stored = match pax.number(&self.global, "size")? {
            Some(size) => size,
            None => self.size_field(header)?,
        };
        let has_data = matches!(flag, b'0' | 0 | b'7' | b'S');
        if has_data && kind == EntryKind::Directory && stored != 0 {
            return Err(self.bad("a directory with data"));
        }
        // Old writers give a hard link the size of its file; no data follows.
        if !has_data {
            stored = 0;
        }
        let total = padded(stored).ok_or_else(|| self.bad("size"))?;
        self.padding = total - stored;
        (self.stored, self.piece, self.size) = (stored, stored, stored);
        let mut size = stored;
        let mut is_sparse = false;
        if kind == EntryKind::File
            && let Some((real_size, pieces)) = self.sparse_map(header, pax, flag)?
        {
            sparse::check(&pieces, self.stored, real_size).map_err(|what| self.bad(what))?;
            (size, is_sparse) = (real_size, true);
            (self.size, self.piece, self.pieces) = (real_size, 0, pieces.into_iter());
        }
        Ok(Entry { path, kind, mode, uid, gid, mtime, size, link, xattrs, device, sparse: is_sparse })
    }

    /// Length and pieces of a sparse file, in any of the four formats of GNU tar
    /// (GNU tar manual, "Storing Sparse Files").
    fn sparse_map(&mut self, header: &Header, pax: &Pax, flag: u8) -> Result<Option<SparseMap>> {
        let none = Pax::default();
        if flag == b'S' {
            let gnu = header.as_gnu().ok_or_else(|| self.bad("a sparse entry without GNU's header"))?;
            let mut pieces = Vec::new();
            sparse::add_gnu(&gnu.sparse, &mut pieces).map_err(|what| self.bad(what))?;
            let mut more = gnu.isextended[0] != 0;
            while more {
                // These blocks come before the data and are not part of its size.
                let block = self.block()?.ok_or_else(|| self.bad("the archive is cut short"))?;
                if pieces.len() * 16 > self.limits.header_bytes {
                    return Err(self.bad("sparse map").with_kind(ErrorKind::TooLarge));
                }
                more = sparse::add_gnu_block(&block, &mut pieces).map_err(|what| self.bad(what))?;
            }
            let real_size = number(&gnu.realsize)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| self.bad("size of a sparse file"))?;
            return Ok(Some((real_size, pieces)));
        }
        if pax.get(&none, "GNU.sparse.major") == Some(b"1") {
            if pax.get(&none, "GNU.sparse.minor") != Some(b"0") {
                return Err(self.bad("sparse format is not 1.0").with_kind(ErrorKind::Unsupported));
            }
            let real_size = pax
                .number(&none, "GNU.sparse.realsize")?
                .ok_or_else(|| self.bad("a sparse file without GNU.sparse.realsize"))?;
            let pieces = self.sparse_map_in_data()?;
            return Ok(Some((real_size, pieces)));
        }
        let Some(real_size) = pax.number(&none, "GNU.sparse.size")? else { return Ok(None) };
        let pieces = match pax.get(&none, "GNU.sparse.map") {
            Some(map) => sparse::parse_list(map).map_err(|what| self.bad(what))?,
            None => pax.pieces().to_vec(),
        };
        Ok(Some((real_size, pieces)))
    }

    /// Format 1.0 has the map in front of the data: decimal lines, filled up to a block.
    fn sparse_map_in_data(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut lines = sparse::Lines::default();
        let mut taken = 0;
        loop {
            if self.stored < BLOCK as u64 {
                return Err(self.bad("a sparse map that goes on beyond its data"));
            }
            let block = self.block()?.ok_or_else(|| self.bad("the archive is cut short"))?;
            self.stored -= BLOCK as u64;
            taken += BLOCK;
            if taken > self.limits.header_bytes {
                return Err(self.bad("sparse map").with_kind(ErrorKind::TooLarge));
            }
            if let Some(pieces) = lines.add(&block).map_err(|what| self.bad(what))? {
                return Ok(pieces);
            }
        }
    }

    /// More of the current entry's data and where in the file it belongs; `None` at its end.
    /// Take it with `consume`.
    pub(crate) fn chunk(&mut self) -> Result<Option<(u64, &[u8])>> {
        while self.piece == 0 {
            match self.pieces.next() {
                Some((offset, length)) => (self.offset, self.piece) = (offset, length),
                None => return Ok(None),
            }
        }
        let position = self.position;
        let want = self.piece.min(self.stored);
        let got = fill(&mut self.input)?;
        if got.is_empty() || want == 0 {
            return Err(cut_short(position));
        }
        let length = usize::try_from(want).map_or(got.len(), |want| want.min(got.len()));
        Ok(Some((self.offset, &got[..length])))
    }

    /// Goes on by `n` bytes of what [`chunk`](Self::chunk) gave.
    pub(crate) fn consume_chunk(&mut self, n: usize) {
        self.input.consume(n);
        let n = n as u64;
        self.position += n;
        self.offset += n;
        self.piece -= n;
        self.stored -= n;
    }

    /// Where the current entry's next stored byte lies in the archive.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    fn one_of(&self, pax: Option<Vec<u8>>, gnu: &Option<Vec<u8>>, what: &str) -> Result<Option<Vec<u8>>> {
        match (pax, gnu) {
            (Some(pax), Some(gnu)) if pax != *gnu => {
                Err(self.bad(format_args!("an entry with two different values for its {what}")))
            }
            (Some(name), _) => Ok(Some(name)),
            (None, gnu) => Ok(gnu.clone()),
        }
    }

    fn once<T>(&self, slot: &mut Option<T>, value: T) -> Result<()> {
        match slot.replace(value) {
            Some(_) => Err(self.bad("two extended headers of the same kind for one entry")),
            None => Ok(()),
        }
    }

    fn verify_checksum(&self, header: &Header) -> Result<()> {
        let bytes = header.as_bytes();
        let stored = number(&header.as_old().cksum).ok_or_else(|| self.bad("checksum is not a number"))?;
        let counted = |i: usize, b: u8| if (148..156).contains(&i) { b' ' } else { b };
        let unsigned: i128 = bytes.iter().enumerate().map(|(i, &b)| i128::from(counted(i, b))).sum();
        // Some old writers added up signed bytes.
        let signed: i128 = bytes.iter().enumerate().map(|(i, &b)| i128::from(counted(i, b) as i8)).sum();
        if stored != unsigned && stored != signed {
            return Err(self.bad("a header with a wrong checksum: damaged, or no tar archive"));
        }
        Ok(())
    }

    fn size_field(&self, header: &Header) -> Result<u64> {
        number(&header.as_old().size)
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| self.bad("size is negative, too large or not a number"))
    }

    /// The data of an extended header.
    fn payload(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = self.size_field(header)?;
        let length =
            usize::try_from(size).ok().filter(|&n| n <= self.limits.header_bytes).ok_or_else(|| {
                self.bad(format_args!(
                    "an extended header of {size} bytes; at most {} are read",
                    self.limits.header_bytes
                ))
                .with_kind(ErrorKind::TooLarge)
            })?;
        let mut data = Vec::new();
        while data.len() < length {
            let got = fill(&mut self.input)?;
            let n = got.len().min(length - data.len());
            if n == 0 {
                return Err(cut_short(self.position));
            }
            data.extend_from_slice(&got[..n]);
            self.input.consume(n);
            self.position += n as u64;
        }
        self.skip((BLOCK - length % BLOCK) as u64 % BLOCK as u64)?;
        Ok(data)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>> {
        let mut name = self.payload(header)?;
        if let Some(nul) = name.iter().position(|&b| b == 0) {
            name.truncate(nul);
        }
        Ok(name)
    }

    /// The next block; `None` at the input's end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let got = fill(&mut self.input)?;
            let n = got.len().min(BLOCK - filled);
            if n == 0 {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(cut_short(self.position));
            }
            block[filled..filled + n].copy_from_slice(&got[..n]);
            filled += n;
            self.input.consume(n);
            self.position += n as u64;
        }
        Ok(Some(block))
    }

    fn skip(&mut self, left: u64) -> Result<()> {
        match self.pass(left)? {
            0 => Ok(()),
            _ => Err(cut_short(self.position)),
        }
    }

    /// Goes on by so many bytes, or to the input's end: gives how many are missing.
    fn pass(&mut self, mut left: u64) -> Result<u64> {
        while left > 0 {
            let n = fill(&mut self.input)?.len();
            let n = usize::try_from(left).map_or(n, |left| n.min(left));
            if n == 0 {
                break;
            }
            self.input.consume(n);
            self.position += n as u64;
            left -= n as u64;
        }
        Ok(left)
    }

    fn bad(&self, what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::InvalidData, format!("tar archive, near byte {}: {what}", self.position))
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.read == self.size {
            return Ok(0);
        }
        let (at, size) = (self.read, self.size);
        let next = match self.chunk()? {
            Some((offset, data)) if offset == at => {
                let n = data.len().min(buffer.len());
                buffer[..n].copy_from_slice(&data[..n]);
                self.consume_chunk(n);
                self.read += n as u64;
                return Ok(n);
            }
            Some((offset, _)) => offset,
            None => size,
        };
        let n = usize::try_from(next - at).map_or(buffer.len(), |hole| hole.min(buffer.len()));
        buffer[..n].fill(0);
        self.read += n as u64;
        Ok(n)
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

fn fill<R: BufRead>(input: &mut R) -> Result<&[u8]> {
    // In two steps, because the borrow of a returned slice would last over the retry.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::os("reading an archive", error)),
        }
    }
    input.fill_buf().call("reading an archive")
}

fn cut_short(position: u64) -> Error {
    Error::new(ErrorKind::InvalidData, format!("tar archive, near byte {position}: it is cut short"))
}

fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK as u64)
}

/// A numeric field: octal digits, or GNU's base-256 with the sign in its first byte. An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        // Two's complement over the whole field but the first bit, which only says that it is binary.
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i128::from(field[0]) - 256 } else { i128::from(field[0] & 0x7f) };
        return Some(field[1..].iter().fold(first, |n, &byte| n << 8 | i128::from(byte)));
    }
    let text = &field[field.iter().position(|&b| b != b' ').unwrap_or(field.len())..];
    let end = text.iter().position(|&b| b == b' ' || b == 0).unwrap_or(text.len());
    text[..end].iter().try_fold(0, |n, &digit| match digit {
        b'0'..=b'7' => Some(n << 3 | i128::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
