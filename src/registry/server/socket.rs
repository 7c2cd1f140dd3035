//! One connection, plain or under TLS, on which nobody may be slow.
//!
//! Each wait for the next bytes is bounded, and so is the whole: a request's head, a TLS handshake and an answer of the
//! server's own words have a deadline; a body may take as long as it goes on at a least rate on average.
#![forbid(unsafe_code)]

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes a second of a body, on average, after the time that any wait may take.
const RATE: u64 = 4 << 10;
const READ: usize = 16 << 10;

enum Pace {
    Until(Instant),
    Since { start: Instant, bytes: u64 },
}

struct Socket {
    tcp: Arc<TcpStream>,
    /// For each wait.
    silence: Duration,
    pace: Pace,
}

impl Socket {
    /// How long the next bytes may take.
    fn left(&self) -> io::Result<Duration> {
        let until = match self.pace {
            Pace::Until(deadline) => deadline,
            Pace::Since { start, bytes } => start + self.silence + Duration::from_millis(bytes * 1000 / RATE),
        };
        let left = until.saturating_duration_since(Instant::now()).min(self.silence);
        // A timeout of nothing means none.
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    fn moved(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Ok(n) => {
                if let Pace::Since { bytes, .. } = &mut self.pace {
                    *bytes = bytes.saturating_add(n as u64).min(1 << 50);
                }
                Ok(n)
            }
            // What a socket with a timeout says when it is over (socket(7)).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(self.left()?))?;
        let result = (&*self.tcp).read(buffer);
        self.moved(result)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(self.left()?))?;
        let result = (&*self.tcp).write(bytes);
        self.moved(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Wire {
    Plain(Socket),
    Tls(Box<StreamOwned<ServerConnection, Socket>>),
}

/// What came and was not read yet, and the wire that it came on.
pub(super) struct Stream {
    wire: Wire,
    buffer: Vec<u8>,
    /// Bytes of it that were used.
    used: usize,
}

impl Stream {
    pub(super) fn new(
        tcp: Arc<TcpStream>,
        tls: Option<&Arc<ServerConfig>>,
        silence: Duration,
    ) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let socket = Socket { tcp, silence, pace: Pace::Until(Instant::now() + silence) };
        let wire = match tls {
            None => Wire::Plain(socket),
            Some(config) => {
                let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                Wire::Tls(Box::new(StreamOwned::new(connection, socket)))
            }
        };
        Ok(Self { wire, buffer: Vec::new(), used: 0 })
    }

    fn socket(&mut self) -> &mut Socket {
        match &mut self.wire {
            Wire::Plain(socket) => socket,
            Wire::Tls(stream) => &mut stream.sock,
        }
    }

    /// All that follows has to be done in this time.
    pub(super) fn within(&mut self, time: Duration) {
        self.socket().pace = Pace::Until(Instant::now() + time);
    }

    /// What follows takes its time, as long as it goes on.
    pub(super) fn at_a_pace(&mut self) {
        self.socket().pace = Pace::Since { start: Instant::now(), bytes: 0 };
    }

    /// What came and was not used.
    pub(super) fn buffered(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// Reads on; 0 at the end.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        } else if self.used >= READ {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        let start = self.buffer.len();
        self.buffer.resize(start + READ, 0);
        let result = read(&mut self.wire, &mut self.buffer[start..]);
        self.buffer.truncate(start + *result.as_ref().unwrap_or(&0));
        result
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.used = (self.used + bytes).min(self.buffer.len());
    }

    /// What came already, else what comes next; 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waiting = self.buffered();
        if waiting.is_empty() {
            return read(&mut self.wire, buffer);
        }
        let n = waiting.len().min(buffer.len());
        buffer[..n].copy_from_slice(&waiting[..n]);
        self.consume(n);
        Ok(n)
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.wire {
            Wire::Plain(socket) => socket.write_all(bytes),
            Wire::Tls(stream) => stream.write_all(bytes),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.wire {
            Wire::Plain(_) => Ok(()),
            Wire::Tls(stream) => stream.flush(),
        }
    }

    /// Ends it so that the other side gets what was written last: who closes while bytes come in resets the connection, and
    /// with it the answer (RFC 9112, 9.6). What still comes is thrown away, for a moment.
    pub(super) fn close(mut self) {
        const LINGER: Duration = Duration::from_secs(2);
        const LEFT_OVER: usize = 8 << 20;
        if let Wire::Tls(stream) = &mut self.wire {
            stream.conn.send_close_notify();
        }
        self.within(LINGER);
        let _ = self.flush();
        let socket = self.socket();
        if socket.tcp.shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        let (mut thrown, mut buffer) = (0, [0; 16 << 10]);
        while thrown < LEFT_OVER {
            match socket.read(&mut buffer) {
                Ok(n) if n > 0 => thrown += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }
}

fn read(wire: &mut Wire, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let result = match wire {
            Wire::Plain(socket) => socket.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
