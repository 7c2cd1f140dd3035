//! Answers, and how they are written (RFC 9112).
#![forbid(unsafe_code)]

use super::socket::Stream;
use crate::digest::Digest;
use crate::store::clock::rfc3339;
use serde_json::Value;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const COPIED: usize = 256 << 10;

pub(super) enum Body {
    Bytes(Vec<u8>),
    /// A part of a file.
    File {
        file: File,
        at: u64,
        length: u64,
    },
}

pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
}

impl Response {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Bytes(Vec::new()) }
    }

    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self::new(status).with("Content-Type", "application/json").bytes(value.to_string().into_bytes())
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn bytes(self, bytes: Vec<u8>) -> Self {
        Self { body: Body::Bytes(bytes), ..self }
    }

    /// What content has this digest.
    pub(super) fn digest(self, digest: &Digest) -> Self {
        self.with("Docker-Content-Digest", digest.to_string())
    }

    fn length(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { length, .. } => *length,
        }
    }

    /// Writes it, the body only where one is wanted. After an error the connection is of no more use.
    pub(super) fn send(&self, stream: &mut Stream, with_body: bool, close: bool) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let mut line = |name: &str, value: &str| {
            // Nothing of a client's comes into a head as it is: were it so, no line of it could begin another.
            let value: String = value.chars().filter(|c| !c.is_ascii_control()).collect();
            let _ = write!(head, "{name}: {value}\r\n");
        };
        for (name, value) in &self.headers {
            line(name, value);
        }
        line("Docker-Distribution-Api-Version", "registry/2.0");
        line("X-Content-Type-Options", "nosniff");
        line("Date", &http_date(SystemTime::now()));
        // 204 has no body and says so without a length (RFC 9110, 8.6).
        if self.status != 204 {
            line("Content-Length", &self.length().to_string());
        }
        if close {
            line("Connection", "close");
        }
        head.push_str("\r\n");
        let mut first = head.into_bytes();
        if let Body::Bytes(bytes) = &self.body
            && with_body
        {
            first.extend_from_slice(bytes);
        }
        stream.write_all(&first)?;
        if let Body::File { file, at, length } = &self.body
            && with_body
        {
            copy(file, *at, *length, stream)?;
        }
        stream.flush()
    }
}

/// Not by sendfile(2): that raises SIGPIPE, which the host program may have made deadly.
fn copy(file: &File, mut at: u64, length: u64, stream: &mut Stream) -> io::Result<()> {
    let end = at + length;
    let mut buffer = vec![0; COPIED.min(usize::try_from(length).unwrap_or(COPIED))];
    while at < end {
        let most = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        match file.read_at(&mut buffer[..most], at) {
            // The promised length can't be kept: that the connection ends tells the client.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                stream.write_all(&buffer[..n])?;
                at += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

/// A time as HTTP writes it (RFC 9110, 5.6.7): `Tue, 14 Nov 2023 22:13:20 GMT`.
fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() / 86_400;
    let text = rfc3339(time);
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().unwrap_or(1).saturating_sub(1);
    format!(
        "{}, {} {} {} {} GMT",
        DAYS[(days % 7) as usize],
        part(8..10),
        MONTHS.get(month).unwrap_or(&"Jan"),
        part(0..4),
        part(11..19)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_http() {
        let at = |seconds| http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(1_700_000_000), "Tue, 14 Nov 2023 22:13:20 GMT");
        // The example of RFC 9110.
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
