//! Compresses an archive in blocks, several at once. What comes out depends on the archive's bytes alone: neither on how
//! many threads there are, nor on how the bytes come.
//!
//! - gzip: one member (RFC 1952), as any tool writes it. Each block is deflated by itself, with the 32 KiB before it as its
//!   dictionary, and ends on a byte (zlib's sync flush), so that the next one follows.
//! - zstd: a frame for each block (RFC 8878, 3: frames follow each other).
//!
//! ```text
//! archive ─▶ blocks ─┬▶ worker ─┬▶ in their order ─▶ output (the calling thread)
//!                    └▶ worker ─┘
//! ```
#![forbid(unsafe_code)]

use super::apply::{join, spawn};
use super::compression::Compression;
use super::flow::stopped;
use crate::error::{Call, Error, ErrorKind, Result};
use flate2::{Crc, FlushCompress};
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// zlib's level: two thirds of the time of its default, for a few per cent more bytes.
const GZIP_LEVEL: u32 = 4;
const GZIP_BLOCK: usize = 512 << 10;
/// How far back deflate looks (RFC 1951, 3.2.5).
const GZIP_WINDOW: usize = 32 << 10;
#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 3;
/// As its level's window.
#[cfg(feature = "zstd")]
const ZSTD_BLOCK: usize = 2 << 20;
/// More threads than this wait for the disk; blocks in flight are what it takes of memory.
const THREADS_MAX: usize = 8;

/// One block of the archive, and what follows of it.
struct Job {
    block: Arc<Vec<u8>>,
    before: Option<Arc<Vec<u8>>>,
    answer: SyncSender<Result<Packed>>,
}

struct Packed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Writes what `input` has to `output`, compressed, and gives the output back.
///
/// # Errors
/// `Unsupported` for zstd in a build without the feature; those of the input and of the output.
pub(crate) fn pack<W: Write>(input: impl Read + Send, output: W, compression: Compression) -> Result<W> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    pack_with(input, output, compression, threads.min(THREADS_MAX))
}

fn pack_with<W: Write>(
    mut input: impl Read + Send,
    mut output: W,
    compression: Compression,
    threads: usize,
) -> Result<W> {
    let size = match compression {
        Compression::None => {
            std::io::copy(&mut input, &mut output).call("copying an archive")?;
            return Ok(output);
        }
        Compression::Gzip => {
            // No time, no name, no system: nothing that differs from run to run.
            output.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]).call("write")?;
            GZIP_BLOCK
        }
        #[cfg(feature = "zstd")]
        Compression::Zstd => ZSTD_BLOCK,
        #[cfg(not(feature = "zstd"))]
        Compression::Zstd => {
            return Err(Error::new(ErrorKind::Unsupported, "compressing a layer with zstd")
                .with_remedy("build coracle with its feature `zstd`"));
        }
    };
    std::thread::scope(|scope| {
        let (to_workers, jobs) = sync_channel(1);
        // Blocks in flight: one for each worker, and as many that wait for their turn.
        let (to_output, in_order) = sync_channel(threads * 2);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..threads.max(1) {
            let jobs = jobs.clone();
            spawn(scope, "coracle-deflate", move || work(&jobs, compression))?;
        }
        drop(jobs);
        let cutter = spawn(scope, "coracle-blocks", move || cut(input, size, &to_workers, &to_output))?;
        let mut crc = Crc::new();
        for answer in in_order {
            let answer: Receiver<Result<Packed>> = answer;
            let packed = answer.recv().map_err(|_| stopped()).call("compressing")??;
            output.write_all(&packed.bytes).call("write")?;
            crc.combine(&packed.crc);
        }
        // Its own error came first, or the blocks would have come.
        join(cutter)?;
        if compression == Compression::Gzip {
            // An empty last block, and the trailer.
            output.write_all(&[3, 0]).call("write")?;
            output.write_all(&crc.sum().to_le_bytes()).call("write")?;
            output.write_all(&crc.amount().to_le_bytes()).call("write")?;
        }
        Ok(output)
    })
}

/// Cuts the archive into blocks of one size; the last is what is left, and the only one of an empty archive.
fn cut(
    mut input: impl Read,
    size: usize,
    to_workers: &SyncSender<Job>,
    to_output: &SyncSender<Receiver<Result<Packed>>>,
) -> Result<()> {
    let mut before = None;
    loop {
        let mut block = Vec::with_capacity(size);
        input.by_ref().take(size as u64).read_to_end(&mut block).call("reading an archive")?;
        if block.is_empty() && before.is_some() {
            return Ok(());
        }
        let last = block.len() < size;
        let block = Arc::new(block);
        let (answer, packed) = sync_channel(1);
        let job = Job { block: block.clone(), before: before.replace(block), answer };
        // Whoever wrote has given up, and says why.
        if to_output.send(packed).is_err() || to_workers.send(job).is_err() || last {
            return Ok(());
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, compression: Compression) -> Result<()> {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, before, answer }) = job else { return Ok(()) };
        let before = before.as_ref().map_or(&[][..], |before| &before[..]);
        // A new one for each: what a used one makes of a block can differ by what it had before, also after its reset.
        let packed = Packer::new(compression).and_then(|mut packer| packer.pack(&block, before));
        if answer.send(packed).is_err() {
            return Ok(());
        }
    }
}

enum Packer {
    Gzip(flate2::Compress),
    #[cfg(feature = "zstd")]
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Packer {
    fn new(compression: Compression) -> Result<Self> {
        Ok(match compression {
            #[cfg(feature = "zstd")]
            Compression::Zstd => Self::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL).call("zstd")?),
            _ => Self::Gzip(flate2::Compress::new(flate2::Compression::new(GZIP_LEVEL), false)),
        })
    }

    fn pack(&mut self, block: &[u8], before: &[u8]) -> Result<Packed> {
        match self {
            Self::Gzip(deflate) => {
                let failed = |error| Error::new(ErrorKind::State, "deflate").with_source(error);
                if !before.is_empty() {
                    deflate
                        .set_dictionary(&before[before.len().saturating_sub(GZIP_WINDOW)..])
                        .map_err(failed)?;
                }
                // More than it can become: one call does all, so that its end is flushed once.
                let mut bytes = Vec::with_capacity(block.len() + block.len() / 8 + 1024);
                deflate.compress_vec(block, &mut bytes, FlushCompress::Sync).map_err(failed)?;
                if deflate.total_in() != block.len() as u64 || bytes.len() == bytes.capacity() {
                    return Err(Error::new(ErrorKind::State, "deflate: a block that did not become smaller"));
                }
                let mut crc = Crc::new();
                crc.update(block);
                Ok(Packed { bytes, crc })
            }
            #[cfg(feature = "zstd")]
            Self::Zstd(zstd) => Ok(Packed { bytes: zstd.compress(block).call("zstd")?, crc: Crc::new() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compression::decoder;
    use super::*;
    use std::io::{self, BufReader};

    /// Text of some kind, and noise that does not compress.
    fn data(bytes: usize) -> Vec<u8> {
        let mut state = 7u64;
        let mut data = Vec::with_capacity(bytes + 64);
        while data.len() < bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match state >> 62 {
                0 => data.extend_from_slice(&state.to_le_bytes()),
                _ => data.extend_from_slice(format!("line {} of a file\n", state >> 54).as_bytes()),
            }
        }
        data.truncate(bytes);
        data
    }

    fn plain(packed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        decoder(BufReader::new(packed)).unwrap().1.read_to_end(&mut plain).unwrap();
        plain
    }

    const ALL: &[Compression] = &[
        Compression::Gzip,
        #[cfg(feature = "zstd")]
        Compression::Zstd,
    ];

    #[test]
    fn what_comes_out_depends_on_the_bytes_alone() {
        /// Some bytes at a time.
        struct Slowly<'a>(&'a [u8], usize);
        impl Read for Slowly<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let n = buffer.len().min(self.1);
                self.0.read(&mut buffer[..n])
            }
        }
        // A program has more kinds of bytes than text and noise, and shows what is left in a compressor of a block before.
        let mut data = data(3 << 20);
        let program = std::fs::File::open("/proc/self/exe").unwrap();
        program.take(9 << 20).read_to_end(&mut data).unwrap();
        for &compression in ALL {
            for size in [0, 1, GZIP_BLOCK - 1, GZIP_BLOCK, GZIP_BLOCK + 1, 2 * GZIP_BLOCK, data.len()] {
                let data = &data[..size];
                let one = pack_with(data, Vec::new(), compression, 1).unwrap();
                assert!(plain(&one) == data, "{compression:?} {size}");
                for threads in [2, 3, 8] {
                    let other = pack_with(Slowly(data, 9973), Vec::new(), compression, threads).unwrap();
                    assert!(other == one, "{compression:?} {size} {threads}");
                }
            }
        }
    }

    #[test]
    fn blocks_cost_next_to_nothing() {
        let data = data(4 << 20);
        let level = flate2::Compression::new(GZIP_LEVEL);
        let mut whole = flate2::write::GzEncoder::new(Vec::new(), level);
        whole.write_all(&data).unwrap();
        let (whole, blocks) =
            (whole.finish().unwrap().len(), pack(&data[..], Vec::new(), Compression::Gzip).unwrap().len());
        assert!(blocks * 100 < whole * 101, "{blocks} and {whole}");
        assert!(blocks * 2 < data.len());
    }

    #[test]
    fn gzip_itself_reads_it() {
        use std::process::{Command, Stdio};
        let data = data(2 << 20);
        let packed = pack(&data[..], Vec::new(), Compression::Gzip).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&packed).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let out = Command::new("gzip").arg("-dc").stdin(Stdio::from(file)).output().unwrap();
        assert!(out.status.success() && out.stdout == data, "{}", String::from_utf8_lossy(&out.stderr));
    }

    #[test]
    fn an_input_and_an_output_that_fail_say_why() {
        struct Broken(u64);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let n = (buffer.len() as u64).min(self.0);
                self.0 -= n;
                if n == 0 { Err(io::Error::from_raw_os_error(5)) } else { Ok(n as usize) }
            }
        }
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let n = bytes.len().min(self.0);
                self.0 -= n;
                if n == 0 { Err(io::Error::from_raw_os_error(28)) } else { Ok(n) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for &compression in ALL {
            let error = pack(Broken(3 << 20), Vec::new(), compression).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5), "{error}");
            let error = pack(&data(9 << 20)[..], Full(100), compression).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }
}
