//! Compressed archives: told by their first bytes, whatever their media type says.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, Chain, Cursor, Read};

/// How a layer's archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// gzip (RFC 1952).
    #[default]
    Gzip,
    /// Zstandard (RFC 8878); reading it needs the feature `zstd`.
    Zstd,
}

/// The largest window that a zstd layer may ask for: 128 MiB, the most that `zstd` itself takes unasked.
#[cfg(feature = "zstd")]
const WINDOW_LOG_MAX: u32 = 27;

/// Enough to tell the formats apart.
pub(crate) const MAGIC: usize = 6;

impl Compression {
    /// What `head`, the first [`MAGIC`] bytes of an archive, begins.
    ///
    /// # Errors
    /// `Unsupported` for compressions that no layer may have.
    pub(crate) fn detect(head: &[u8]) -> Result<Self> {
        let foreign = |name: &str| {
            Err(Error::new(ErrorKind::Unsupported, format!("archive compressed with {name}"))
                .with_remedy("unpack it first, or compress it with gzip or zstd"))
        };
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            // A frame, or one to be skipped, as zstd:chunked and pzstd put in front.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => foreign("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', ..] => foreign("bzip2"),
            _ => Ok(Self::None),
        }
    }
}

/// Reads a compressed archive as a plain one.
///
/// # Errors
/// `Unsupported` for zstd in a build without the feature, and for other compressions.
/// Reading gives `InvalidData` where the compressed data is broken.
pub(crate) fn decoder<'a, R: BufRead + Send + 'a>(
    mut input: R,
) -> Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut head = Vec::with_capacity(MAGIC);
    input
        .by_ref()
        .take(MAGIC as u64)
        .read_to_end(&mut head)
        .map_err(|error| Error::os("reading an archive", error))?;
    let compression = Compression::detect(&head)?;
    let input = Cursor::new(head).chain(input);
    Ok((
        compression,
        match compression {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(Gzip::new(input)),
            Compression::Zstd => zstd(input)?,
        },
    ))
}

#[cfg(feature = "zstd")]
fn zstd<'a, R: BufRead + Send + 'a>(input: R) -> Result<Box<dyn Read + Send + 'a>> {
    let bad = |error| Error::os("zstd", error);
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(bad)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(bad)?;
    Ok(Box::new(Zstd(decoder)))
}

#[cfg(not(feature = "zstd"))]
fn zstd<'a, R: BufRead + Send + 'a>(_: R) -> Result<Box<dyn Read + Send + 'a>> {
    Err(Error::new(ErrorKind::Unsupported, "archive compressed with zstd")
        .with_remedy("build coracle with its feature `zstd`"))
}

/// Gives libzstd's errors our kind.
#[cfg(feature = "zstd")]
struct Zstd<R: BufRead>(zstd::stream::read::Decoder<'static, R>);

#[cfg(feature = "zstd")]
impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| broken("zstd", error))
    }
}

/// Errors of the input pass as they are; those of the decoder say that the data is broken.
fn broken(format: &str, error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::Interrupted
        || error.raw_os_error().is_some()
        || error.get_ref().is_some_and(|inner| inner.is::<Error>())
    {
        return error;
    }
    Error::new(ErrorKind::InvalidData, format!("{format} data")).with_source(error).into()
}

/// All members of a gzip file (RFC 1952, 2.2). After the last one, zeros may follow, as on a tape;
/// `gzip` complains about anything else, and so do we.
struct Gzip<R: BufRead> {
    member: Option<GzDecoder<Chain<Cursor<Vec<u8>>, R>>>,
}

impl<R: BufRead> Gzip<R> {
    fn new(input: Chain<Cursor<Vec<u8>>, R>) -> Self {
        Self { member: Some(GzDecoder::new(input)) }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n = member.read(buffer).map_err(|error| broken("gzip", error))?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            let Some(member) = self.member.take() else { break };
            let mut input = member.into_inner();
            let mut zeros = false;
            loop {
                let rest = input.fill_buf()?;
                match rest.first() {
                    None => return Ok(0),
                    Some(0) => {
                        zeros = true;
                        let n = rest.iter().position(|&b| b != 0).unwrap_or(rest.len());
                        input.consume(n);
                    }
                    Some(0x1f) if !zeros => break,
                    Some(_) => {
                        let error = Error::new(ErrorKind::InvalidData, "gzip data: garbage after its end");
                        return Err(error.into());
                    }
                }
            }
            self.member = Some(GzDecoder::new(input));
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(data: &[u8]) -> Result<Vec<u8>> {
        // One byte at a time: no format may depend on how the input comes.
        struct Slowly<'a>(&'a [u8]);
        impl Read for Slowly<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let n = buffer.len().min(1);
                self.0.read(&mut buffer[..n])
            }
        }
        let mut out = Vec::new();
        let (_, mut decoder) = decoder(io::BufReader::with_capacity(1, Slowly(data)))?;
        decoder.read_to_end(&mut out).map_err(|error| Error::os("read", error))?;
        Ok(out)
    }

    #[test]
    fn gzip_members_follow_each_other() {
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(plain(&two).unwrap(), b"one two");
        assert_eq!(plain(&[&two[..], &[0; 700]].concat()).unwrap(), b"one two");
        for tail in [&b"garbage"[..], b"\0\0x", b"\x1f", b"\x1f\x8b\x08", b"\0\x1f\x8b"] {
            let kind = plain(&[&two[..], tail].concat()).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::InvalidData), "{}", tail.escape_ascii());
        }
    }

    #[test]
    fn a_broken_gzip_file_is_an_error_wherever_it_breaks() {
        let whole = gzip(&b"some text, some text, some more".repeat(20));
        for cut in 2..whole.len() {
            let kind = plain(&whole[..cut]).map_err(|error| error.kind());
            assert_eq!(kind, Err(ErrorKind::InvalidData), "cut at {cut}");
        }
        for at in [whole.len() - 1, whole.len() - 5, 12] {
            let mut bad = whole.clone();
            bad[at] ^= 0x55;
            assert_eq!(plain(&bad).map_err(|error| error.kind()), Err(ErrorKind::InvalidData), "byte {at}");
        }
    }

    #[test]
    #[cfg(feature = "zstd")]
    fn zstd_frames_follow_each_other_and_some_are_skipped() {
        let frame = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let all = [&skipped[..], &frame(b"one "), &skipped, &frame(b"two")].concat();
        assert_eq!(plain(&all).unwrap(), b"one two");
        for bad in [&all[..all.len() - 1], &[&all[..], b"garbage"].concat()] {
            assert_eq!(plain(bad).map_err(|error| error.kind()), Err(ErrorKind::InvalidData));
        }
    }

    #[test]
    #[cfg(feature = "zstd")]
    fn a_zstd_window_is_bounded() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.write_all(&[7; 100_000]).unwrap();
        encoder.flush().unwrap();
        let data = encoder.finish().unwrap();
        assert_eq!(plain(&data).map_err(|error| error.kind()), Err(ErrorKind::InvalidData));
    }

    #[test]
    #[cfg(not(feature = "zstd"))]
    fn zstd_without_the_feature_says_so() {
        let error = plain(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.remedy().unwrap().contains("zstd"));
    }

    #[test]
    fn other_compressions_are_named() {
        let error = plain(b"\xfd7zXZ\0...").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("xz"));
        assert_eq!(plain(b"").unwrap(), b"");
        assert_eq!(plain(b"x").unwrap(), b"x");
    }
}
