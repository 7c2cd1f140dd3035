//! Chunks of bytes between threads: bounded, in buffers that are used again.
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind};
use bytes::{Buf, Bytes};
use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Large enough that what is done once for a chunk does not count, small enough for a core's cache.
pub(super) const CHUNK: usize = 128 << 10;
/// Chunks that wait between two threads.
const WAITING: usize = 16;

/// Buffers that come back when the last handle to their bytes is dropped.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
    pool: Pool,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

impl Pool {
    /// A chunk of what `input` has, full unless the input ends; empty at its end.
    pub(super) fn read(&self, input: &mut (impl Read + ?Sized)) -> io::Result<Bytes> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bytes = bytes.unwrap_or_else(|| vec![0; CHUNK]);
        let mut filled = 0;
        while filled < bytes.len() {
            match input.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Bytes::from_owner(Buffer { bytes, filled, pool: self.clone() }))
    }
}

/// Hands on chunks; an empty one is the end, so that a stream which just stops is told from a whole one.
pub(super) type Sender = SyncSender<Bytes>;

/// Reads what a [`Sender`] sends.
pub(super) struct Stream {
    chunks: Receiver<Bytes>,
    now: Bytes,
    ended: bool,
}

pub(super) fn channel() -> (Sender, Stream) {
    let (sender, chunks) = sync_channel(WAITING);
    (sender, Stream { chunks, now: Bytes::new(), ended: false })
}

/// The error of a reader whose writer failed; the writer's own error says why.
pub(super) fn stopped() -> io::Error {
    Error::new(ErrorKind::Gone, "the archive's stream stopped").into()
}

impl Stream {
    /// The next whole chunk; `None` at the end.
    pub(super) fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.fill_buf()?;
        Ok(Some(std::mem::take(&mut self.now)).filter(|chunk| !chunk.is_empty()))
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.now.is_empty() && !self.ended {
            self.now = self.chunks.recv().map_err(|_| stopped())?;
            self.ended = self.now.is_empty();
        }
        Ok(&self.now)
    }

    fn consume(&mut self, n: usize) {
        self.now.advance(n);
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let now = self.fill_buf()?;
        let n = now.len().min(buffer.len());
        buffer[..n].copy_from_slice(&now[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// Writes chunks to several streams.
pub(crate) struct Chunks {
    pool: Pool,
    buffer: Vec<u8>,
    senders: Vec<Sender>,
}

impl Chunks {
    pub(super) fn new(senders: Vec<Sender>) -> Self {
        Self { pool: Pool::default(), buffer: Vec::new(), senders }
    }

    fn send(&mut self) -> io::Result<()> {
        let next = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut next = next.unwrap_or_else(|| Vec::with_capacity(CHUNK));
        next.clear();
        let bytes = std::mem::replace(&mut self.buffer, next);
        let filled = bytes.len();
        let chunk = Bytes::from_owner(Buffer { bytes, filled, pool: self.pool.clone() });
        self.senders.iter().try_for_each(|sender| sender.send(chunk.clone()).map_err(|_| stopped()))
    }

    /// Sends what is left and the end.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.send()?;
        }
        self.send()
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= CHUNK {
            self.send()?;
        }
        let n = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
