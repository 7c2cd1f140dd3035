//! How long a registry may take: all of it follows from one time, [`Pull::patience`](super::Pull::patience).
//!
//! Whoever waits for a registry holds something meanwhile, as a pull holds its name in the store. So not only each wait
//! for the next bytes ends, but all that a registry sends: what it sends a byte at a time, too.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes a second that a blob has to go on with, as the server here asks of its clients.
const LEAST: u64 = 4 << 10;

#[derive(Clone, Copy, Debug)]
pub(super) struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        Self(PATIENCE)
    }
}

impl Pace {
    pub(super) fn of(patience: Duration) -> Self {
        Self(patience.clamp(Duration::from_millis(1), Duration::from_secs(86_400)))
    }

    /// For a connection, with its TLS.
    pub(super) fn connect(self) -> Duration {
        self.0 / 2
    }

    /// For the next bytes, either way, for the head of an answer, and for sending that of a request. It is one time: what ends a wait
    /// for bytes ends that for an answer, too, which to an upload of gigabytes may take long.
    pub(super) fn silence(self) -> Duration {
        self.0 * 2
    }

    /// For a document: a manifest, a token, a page of a list.
    pub(super) fn document(self) -> Duration {
        self.0 * 5
    }

    /// For a blob as a whole. It only ends what [`Steady`] can't see: a body in chunks of which no content comes.
    pub(super) fn blob(self, bytes: u64) -> Duration {
        (self.0 * 10).saturating_add(Duration::from_secs(bytes / LEAST))
    }

    /// A body that comes as fast as it has to, or ends with an error.
    pub(super) fn steady<R: Read>(self, body: R) -> Steady<R> {
        Steady { body, window: self.0, waited: Duration::ZERO, came: 0 }
    }
}

/// A body, and how fast it comes while somebody waits for it: what the reader does between is not the registry's time.
pub(super) struct Steady<R> {
    body: R,
    window: Duration,
    waited: Duration,
    came: u64,
}

impl<R: Read> Read for Steady<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let n = self.body.read(buffer)?;
        // Who was slow and has nothing more to send was not slow.
        if n > 0 && self.waited >= self.window {
            if (self.came as f64) < LEAST as f64 * self.waited.as_secs_f64() {
                let what = format!("too slow, {} bytes in {:.1} s", self.came, self.waited.as_secs_f64());
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        self.waited += begun.elapsed();
        self.came += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Comes in pieces of so many bytes, each after so long.
    struct Pieces(usize, Duration);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(self.1);
            let n = buffer.len().min(self.0);
            buffer[..n].fill(0);
            Ok(n)
        }
    }

    #[test]
    fn what_comes_too_slowly_ends() {
        let read = |bytes, every, whole: u64| {
            let pace = Pace::of(Duration::from_millis(20));
            io::copy(&mut pace.steady(Pieces(bytes, every)).take(whole), &mut io::sink())
        };
        let slow = read(1, Duration::from_millis(5), 1 << 10).unwrap_err();
        assert_eq!(slow.kind(), io::ErrorKind::TimedOut, "{slow}");
        // A short body is not slow for being short, and a fast one not for being long.
        assert_eq!(read(3, Duration::from_millis(30), 3).unwrap(), 3);
        assert_eq!(read(64 << 10, Duration::from_millis(5), 1 << 20).unwrap(), 1 << 20);
    }
}
