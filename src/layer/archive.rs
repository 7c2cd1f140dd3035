//! Writes tar archives that are the same for the same files: ustar headers, and PAX headers only where
//! ustar has no room (long names, large numbers, attributes, times that are not whole seconds).
#![forbid(unsafe_code)]

use super::holes::{self, Pieces};
use super::path::text;
use super::tar::{BLOCK, Entry, EntryKind};
use crate::error::{Call, Error, ErrorKind, Result};
use rustix::fs::Stat;
use std::fs::File;
use std::io::{Read, Write};
use tar::{EntryType, Header};

pub(crate) struct Writer<W> {
    output: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output, buffer: vec![0; 64 << 10] }
    }

    /// Writes an entry with its data: `entry.size` bytes of a regular file, nothing for all else.
    ///
    /// # Errors
    /// `InUse` when `data` has not as many bytes as the entry says: the file changed meanwhile.
    pub(crate) fn entry(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        self.put(entry, None, data)
    }

    /// The same of a file with holes: `pieces` are where its bytes lie, offset and length, and `data` gives only these. In
    /// GNU tar's format 1.0 ("Storing Sparse Files"), which all readers of layers know.
    pub(crate) fn sparse(&mut self, entry: &Entry, pieces: &[(u64, u64)], data: &mut dyn Read) -> Result<()> {
        let (map, stored) = super::sparse::lines(pieces, entry.size);
        self.put(entry, Some(stored), &mut map.chain(data))
    }

    /// Adds a file that is open: without its holes, where it has some to speak of.
    pub(crate) fn file(&mut self, entry: &Entry, file: &File, stat: &Stat) -> Result<()> {
        match holes::pieces(file, stat, &entry.path)? {
            None => self.entry(entry, &mut &*file),
            Some(pieces) => self.sparse(entry, &pieces, &mut Pieces::new(file, &pieces)),
        }
    }

    /// `stored`: what follows the header of a file with holes, map and pieces.
    fn put(&mut self, entry: &Entry, stored: Option<u64>, data: &mut dyn Read) -> Result<()> {
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        header.set_entry_type(match entry.kind {
            EntryKind::File => EntryType::Regular,
            EntryKind::Directory => EntryType::Directory,
            EntryKind::Symlink => EntryType::Symlink,
            EntryKind::HardLink => EntryType::Link,
            EntryKind::Fifo => EntryType::Fifo,
            EntryKind::CharDevice => EntryType::Char,
            EntryKind::BlockDevice => EntryType::Block,
        });
        // Other readers tell a directory of an old archive by its slash; all writers add one.
        let mut path = entry.path.clone();
        if entry.kind == EntryKind::Directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        if stored.is_some() {
            // For readers that don't know it: what is there then is no file of the archive's.
            place_name(&mut header, b"GNUSparseFile.0/file");
            record(&mut pax, b"GNU.sparse.major", b"1");
            record(&mut pax, b"GNU.sparse.minor", b"0");
            record(&mut pax, b"GNU.sparse.name", &path);
            record(&mut pax, b"GNU.sparse.realsize", entry.size.to_string().as_bytes());
        } else if !place_name(&mut header, &path) {
            record(&mut pax, b"path", &path);
        }
        if !entry.link.is_empty() {
            let field = &mut header.as_old_mut().linkname;
            let n = entry.link.len().min(field.len());
            field[..n].copy_from_slice(&entry.link[..n]);
            if n < entry.link.len() {
                record(&mut pax, b"linkpath", &entry.link);
            }
        }
        let size = if entry.kind == EntryKind::File { stored.unwrap_or(entry.size) } else { 0 };
        // 11 octal digits for sizes and times, 7 for ids.
        if size >= 1 << 33 {
            record(&mut pax, b"size", size.to_string().as_bytes());
        } else {
            header.set_size(size);
        }
        header.set_mode(entry.mode & 0o7777);
        if entry.uid >= 1 << 21 {
            record(&mut pax, b"uid", entry.uid.to_string().as_bytes());
            header.set_uid(0);
        } else {
            header.set_uid(entry.uid.into());
        }
        if entry.gid >= 1 << 21 {
            record(&mut pax, b"gid", entry.gid.to_string().as_bytes());
            header.set_gid(0);
        } else {
            header.set_gid(entry.gid.into());
        }
        let mtime = entry.mtime;
        match u64::try_from(mtime.secs) {
            Ok(secs) if secs < 1 << 33 => header.set_mtime(secs),
            _ => header.set_mtime(0),
        }
        if mtime.nanos != 0 || !(0..1 << 33).contains(&mtime.secs) {
            record(&mut pax, b"mtime", decimal(mtime.secs, mtime.nanos).as_bytes());
        }
        if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            let (major, minor) = entry.device;
            if major >= 1 << 21 || minor >= 1 << 21 {
                return Err(Error::new(ErrorKind::TooLarge, "a device number has no room in a tar header")
                    .with_path(text(&entry.path)));
            }
            header.set_device_major(major).call_at("tar header", text(&entry.path))?;
            header.set_device_minor(minor).call_at("tar header", text(&entry.path))?;
        }
        for (name, value) in &entry.xattrs {
            record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !pax.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            let field = &mut extended.as_old_mut().name;
            field[..16].copy_from_slice(b"PaxHeaders/entry");
            extended.set_mode(0o644);
            extended.set_size(pax.len() as u64);
            extended.set_uid(0);
            extended.set_gid(0);
            extended.set_mtime(0);
            extended.set_cksum();
            self.write(extended.as_bytes())?;
            self.write(&pax)?;
            self.fill(pax.len() as u64)?;
        }
        header.set_cksum();
        self.write(header.as_bytes())?;
        self.data(size, data, &entry.path)?;
        self.fill(size)
    }

    /// Writes the end mark and gives the output back.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        self.output.flush().call("flush")?;
        Ok(self.output)
    }

    fn data(&mut self, size: u64, data: &mut dyn Read, path: &[u8]) -> Result<()> {
        let changed =
            || Error::new(ErrorKind::InUse, "a file changed while it was read").with_path(text(path));
        let mut left = size;
        while left > 0 {
            let n = usize::try_from(left).map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
            let n = match data.read(&mut self.buffer[..n]) {
                Ok(0) => return Err(changed()),
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).call_at("read", text(path)),
            };
            self.output.write_all(&self.buffer[..n]).call("writing an archive")?;
            left -= n as u64;
        }
        Ok(())
    }

    fn fill(&mut self, size: u64) -> Result<()> {
        let rest = (size % BLOCK as u64) as usize;
        if rest > 0 { self.write(&[0; BLOCK][rest..]) } else { Ok(()) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).call("writing an archive")
    }
}

/// Puts a name into its field, or its last part there and the rest into the prefix. False: it does not fit.
fn place_name(header: &mut Header, path: &[u8]) -> bool {
    let Some(fields) = header.as_ustar_mut() else { return false };
    if path.len() <= fields.name.len() {
        fields.name[..path.len()].copy_from_slice(path);
        return true;
    }
    // The slash between the two is not stored; the one at the end of a directory is.
    let split = (path.len() - 1).saturating_sub(fields.name.len());
    let slash = path[split..path.len() - 1].iter().position(|&b| b == b'/').map(|at| at + split);
    if let Some(slash) = slash.filter(|&slash| slash > 0 && slash <= fields.prefix.len()) {
        let name = &path[slash + 1..];
        fields.prefix[..slash].copy_from_slice(&path[..slash]);
        fields.name[..name.len()].copy_from_slice(name);
        return true;
    }
    // What a reader without PAX makes of it.
    let n = fields.name.len();
    fields.name.copy_from_slice(&path[..n]);
    false
}

/// `LENGTH KEY=VALUE\n`; the length counts its own digits too.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(format!("{length} ").as_bytes());
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn decimal(secs: i64, nanos: u32) -> String {
    let (sign, secs, nanos) = match secs {
        0.. => ("", secs.unsigned_abs(), nanos),
        _ if nanos == 0 => ("-", secs.unsigned_abs(), 0),
        // 0.75 s after -2 is -1.25.
        _ => ("-", secs.unsigned_abs() - 1, 1_000_000_000 - nanos),
    };
    if nanos == 0 {
        return format!("{sign}{secs}");
    }
    format!("{sign}{secs}.{nanos:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tar::{Mtime, ReadLimits, Reader};
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut entries = vec![
            Entry { mtime: Mtime { secs: -2, nanos: 750_000_000 }, ..Entry::new("a/", EntryKind::Directory) },
            Entry {
                size: 5,
                mtime: Mtime { secs: 7, nanos: 1 },
                mode: 0o4755,
                ..Entry::new("a/f", EntryKind::File)
            },
            Entry { uid: 4_000_000_000, gid: 1 << 21, ..Entry::new("a/ids", EntryKind::File) },
            Entry { link: "x".repeat(300).into(), ..Entry::new("a/s", EntryKind::Symlink) },
            Entry { link: b"a/f".to_vec(), ..Entry::new("a/h", EntryKind::HardLink) },
            Entry { device: (1, 3), ..Entry::new("null", EntryKind::CharDevice) },
            Entry {
                xattrs: vec![
                    (b"user.a".to_vec(), b"\n20 linkpath=/x\n\0".to_vec()),
                    (b"user.b".to_vec(), vec![]),
                ],
                ..Entry::new("x", EntryKind::Fifo)
            },
        ];
        // Around every place where a name stops to fit.
        for length in (95..105).chain(150..160).chain(250..262) {
            entries.push(Entry::new("n".repeat(length), EntryKind::File));
            entries
                .push(Entry::new(format!("{}/{}", "d".repeat(length - 90), "n".repeat(89)), EntryKind::File));
            entries.push(Entry::new(format!("{}/b/", "d".repeat(length)), EntryKind::Directory));
        }
        let mut writer = Writer::new(Vec::new());
        for entry in &entries {
            writer.entry(entry, &mut &b"hello"[..]).unwrap();
        }
        let archive = writer.finish().unwrap();
        let mut reader = Reader::new(&archive[..], ReadLimits::default());
        for entry in &entries {
            assert_eq!(reader.next().unwrap().as_ref(), Some(entry));
        }
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for n in 0..2000 {
            let mut pax = Vec::new();
            record(&mut pax, b"k", &vec![b'v'; n]);
            let digits = pax.iter().position(|&b| b == b' ').unwrap();
            let length: usize = std::str::from_utf8(&pax[..digits]).unwrap().parse().unwrap();
            assert_eq!(length, pax.len());
        }
    }

    #[test]
    fn a_file_with_holes_is_read_again() {
        let name = "d/".repeat(200) + "holes";
        for (pieces, size) in [
            (vec![(4096, 3), (1 << 33, 2)], (1 << 33) + 2),
            (vec![(0, 5)], 1 << 40),
            (vec![], 100),
            ((0..200).map(|n| (n * 1000, 1)).collect(), 1 << 20),
        ] {
            let entry = Entry { size, sparse: true, ..Entry::new(&*name, EntryKind::File) };
            let bytes: Vec<u8> = pieces.iter().flat_map(|&(_, length)| (1..=length as u8).rev()).collect();
            let mut writer = Writer::new(Vec::new());
            writer.sparse(&entry, &pieces, &mut &bytes[..]).unwrap();
            writer.entry(&Entry::new("next", EntryKind::File), &mut &b""[..]).unwrap();
            let archive = writer.finish().unwrap();
            let mut reader = Reader::new(&archive[..], ReadLimits::default());
            assert_eq!(reader.next().unwrap(), Some(entry));
            let mut found = Vec::new();
            while let Some((offset, chunk)) = reader.chunk().unwrap() {
                let n = chunk.len();
                found.push((offset, chunk.to_vec()));
                reader.consume_chunk(n);
            }
            let expected: Vec<_> = pieces
                .iter()
                .map(|&(offset, length)| (offset, (1..=length as u8).rev().collect::<Vec<_>>()))
                .collect();
            assert_eq!(found, expected);
            assert_eq!(reader.next().unwrap().unwrap().path, b"next");
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let entry = Entry { size: 9, ..Entry::new("f", EntryKind::File) };
        let error = Writer::new(Vec::new()).entry(&entry, &mut &b"short"[..]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
    }
}
