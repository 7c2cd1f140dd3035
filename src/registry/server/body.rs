//! The body of a request, as far as it is wanted (RFC 9112, 6 and 7).
#![forbid(unsafe_code)]

use super::fault::{Fault, code};
use super::request::{Framing, Head};
use super::socket::Stream;

/// A line with a chunk's length and what extends it, which nobody here reads.
const LINE_MAX: usize = 256;
/// What follows the last chunk, which nobody here reads either.
const TRAILER_MAX: usize = 8 << 10;
/// More than this is not read to get at the next request.
const DRAIN_MAX: u64 = 256 << 10;

enum State {
    /// So many bytes are left, of all or of a chunk.
    Left(u64),
    /// A chunk's head comes next; before it the end of the last chunk, where there was one.
    NextChunk {
        first: bool,
    },
    Done,
}

pub(super) struct Body<'a> {
    stream: &'a mut Stream,
    state: State,
    chunked: bool,
    /// The client waits to be told that its body is wanted.
    is_awaited: bool,
    length: Option<u64>,
}

impl<'a> Body<'a> {
    pub(super) fn new(stream: &'a mut Stream, head: &Head) -> Self {
        let (state, length) = match head.framing {
            Framing::Length(0) => (State::Done, Some(0)),
            Framing::Length(length) => (State::Left(length), Some(length)),
            Framing::Chunked => (State::NextChunk { first: true }, None),
        };
        let is_awaited = head.expects_continue && !matches!(state, State::Done);
        Self { stream, state, chunked: length.is_none(), is_awaited, length }
    }

    /// What was announced.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes; 0 at its end.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        if self.is_awaited {
            self.is_awaited = false;
            let told =
                self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").and_then(|()| self.stream.flush());
            told.map_err(|error| Fault::of_connection(&error))?;
        }
        loop {
            match self.state {
                State::Done => return Ok(0),
                State::Left(left) => {
                    let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let n = self
                        .stream
                        .read(&mut buffer[..most])
                        .map_err(|error| Fault::of_connection(&error))?;
                    if n == 0 {
                        return Err(Fault::Gone);
                    }
                    let left = left - n as u64;
                    self.state = match (left, self.chunked) {
                        (0, true) => State::NextChunk { first: false },
                        (0, false) => State::Done,
                        _ => State::Left(left),
                    };
                    return Ok(n);
                }
                State::NextChunk { first } => {
                    if !first && !self.line(0)?.is_empty() {
                        return Err(Fault::malformed("a chunk that is longer than it says"));
                    }
                    let line = self.line(LINE_MAX)?;
                    self.state = match chunk_size(&line) {
                        Some(0) => {
                            self.trailers()?;
                            State::Done
                        }
                        Some(size) => State::Left(size),
                        None => return Err(Fault::malformed("a chunk without a length")),
                    };
                }
            }
        }
    }

    /// All of it, a document.
    pub(super) fn read_all(&mut self, max: u64) -> Result<Vec<u8>, Fault> {
        let too_large =
            || Fault::new(413, code::SIZE_INVALID, format!("a manifest of more than {max} bytes")).closing();
        if self.length.is_some_and(|length| length > max) {
            return Err(too_large());
        }
        let (mut all, mut buffer) = (Vec::new(), [0; 16 << 10]);
        loop {
            match self.next(&mut buffer)? {
                0 => return Ok(all),
                n => all.extend_from_slice(&buffer[..n]),
            }
            if all.len() as u64 > max {
                return Err(too_large());
            }
        }
    }

    /// Whether what is left of it is worth reading for the next request's sake. Who still waits to be asked for it
    /// does not send it, or does: that can't be known.
    pub(super) fn is_over_soon(&self) -> bool {
        match self.state {
            State::Done => true,
            State::Left(left) => !self.is_awaited && (self.chunked || left <= DRAIN_MAX),
            State::NextChunk { .. } => !self.is_awaited,
        }
    }

    /// Reads what is left of it, where that is little. Whether the next request begins here.
    pub(super) fn drain(mut self) -> bool {
        let (mut thrown, mut buffer) = (0, [0; 16 << 10]);
        loop {
            match self.next(&mut buffer) {
                Ok(0) => return true,
                Ok(n) => thrown += n as u64,
                Err(_) => return false,
            }
            if thrown > DRAIN_MAX {
                return false;
            }
        }
    }

    /// A line without its end, of at most so many bytes.
    fn line(&mut self, max: usize) -> Result<Vec<u8>, Fault> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\r' if self.byte()? == b'\n' => return Ok(line),
                b'\r' | b'\n' => return Err(Fault::malformed("a line that does not end in CR LF")),
                _ if line.len() == max => return Err(Fault::malformed("a chunk's line is too long")),
                byte => line.push(byte),
            }
        }
    }

    fn trailers(&mut self) -> Result<(), Fault> {
        let mut left = TRAILER_MAX;
        loop {
            match self.line(left)?.len() {
                0 => return Ok(()),
                n => left = left.saturating_sub(n),
            }
        }
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        loop {
            if let Some(&byte) = self.stream.buffered().first() {
                self.stream.consume(1);
                return Ok(byte);
            }
            if self.stream.fill().map_err(|error| Fault::of_connection(&error))? == 0 {
                return Err(Fault::Gone);
            }
        }
    }
}

/// The length at the beginning of a chunk's line: hex digits, and after them nothing or what extends it.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = &line[digits..];
    let is_text = rest.iter().all(|b| *b == b'\t' || !b.is_ascii_control());
    if !(1..=15).contains(&digits) || !(rest.is_empty() || rest[0] == b';') || !is_text {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_chunk() {
        for (line, size) in [("0", 0), ("1a", 26), ("FF;x=y", 255), ("0000000000000a", 10)] {
            assert_eq!(chunk_size(line.as_bytes()), Some(size), "{line}");
        }
        for line in ["", " 1", "1 ", "+1", "-1", "0x1", "1 ;x", "g", ";x", "1111111111111111", "1;\u{1}"] {
            assert_eq!(chunk_size(line.as_bytes()), None, "{line}");
        }
    }
}
