//! Requests: their heads, and where their bodies end (RFC 9112).
//!
//! What two programs could read in two ways is refused, and the connection ended: more than one Content-Length, one beside
//! Transfer-Encoding, another coding than `chunked` alone, a line that ends otherwise than in CR LF. Between a proxy and this
//! server no request can so be hidden in another.
#![forbid(unsafe_code)]

use super::fault::{Fault, code};
use super::socket::Stream;

const HEADERS_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: String,
    /// Without what was percent-encoded.
    pub(super) path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    pub(super) framing: Framing,
    /// Whether the connection may serve another request.
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
}

impl Head {
    /// Reads the next one; `None` at the end of the connection.
    pub(super) fn read(stream: &mut Stream, max: usize) -> Result<Option<Self>, Fault> {
        let mut searched = 0;
        loop {
            let bytes = stream.buffered();
            // A head ends in an empty line; the last three bytes that were searched may be the beginning of that.
            let from = usize::saturating_sub(searched, 3);
            if let Some(at) = bytes[from..].windows(4).position(|four| four == b"\r\n\r\n") {
                let end = from + at + 4;
                if end > max {
                    return Err(too_large(max));
                }
                let head = Self::parse(&bytes[..end]);
                stream.consume(end);
                return head.map(Some);
            }
            searched = bytes.len();
            if searched > max {
                return Err(too_large(max));
            }
            if !are_lines(&bytes[..searched.saturating_sub(1)]) {
                return Err(Fault::malformed("a line that does not end in CR LF"));
            }
            match stream.fill() {
                Ok(0) if searched == 0 => return Ok(None),
                Ok(0) => return Err(Fault::Gone),
                Ok(_) => {}
                Err(error) => return Err(Fault::of_connection(&error)),
            }
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if !are_lines(bytes) {
            return Err(Fault::malformed("a line that does not end in CR LF"));
        }
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(Fault::malformed("no request")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(
                    Fault::new(431, code::UNSUPPORTED, format!("more than {HEADERS_MAX} headers")).closing()
                );
            }
            Err(httparse::Error::Version) => {
                return Err(Fault::new(505, code::UNSUPPORTED, "neither HTTP/1.1 nor HTTP/1.0").closing());
            }
            Err(error) => return Err(Fault::malformed(format!("no request: {error}"))),
        }
        let is_11 = parsed.version == Some(1);
        let mut headers = Vec::new();
        for field in parsed.headers.iter() {
            let value = std::str::from_utf8(field.value)
                .map_err(|_| Fault::malformed(format!("the header {}: not a text", field.name)))?;
            headers.push((field.name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let framing = framing(&headers, is_11)?;
        let all = |name: &str| {
            headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value).collect::<Vec<_>>()
        };
        match all("host").len() {
            1 => {}
            0 if !is_11 => {}
            _ => return Err(Fault::malformed("not one Host header")),
        }
        let asks = |wanted: &str| {
            all("connection")
                .iter()
                .any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case(wanted)))
        };
        let keep_alive = if is_11 { !asks("close") } else { asks("keep-alive") };
        let expects_continue = match all("expect")[..] {
            [] => false,
            [value] if value.eq_ignore_ascii_case("100-continue") => is_11,
            _ => return Err(Fault::new(417, code::UNSUPPORTED, "an expectation that is not known").closing()),
        };
        let (path, query) = target(parsed.path.unwrap_or_default())?;
        let method = parsed.method.unwrap_or_default().to_owned();
        Ok(Self { method, path, query, headers, framing, keep_alive, expects_continue })
    }

    /// The value of a header; of several, the first.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter; of several, the first.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters(name).next()
    }

    pub(super) fn parameters(&self, name: &str) -> impl Iterator<Item = &str> {
        self.query.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Whether CR and LF are only found together.
fn are_lines(bytes: &[u8]) -> bool {
    let mut before = 0;
    for &byte in bytes {
        if (before == b'\r') != (byte == b'\n') {
            return false;
        }
        before = byte;
    }
    true
}

fn too_large(max: usize) -> Fault {
    Fault::new(431, code::UNSUPPORTED, format!("a head of more than {max} bytes")).closing()
}

fn framing(headers: &[(String, String)], is_11: bool) -> Result<Framing, Fault> {
    let all = |name: &str| {
        headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    match (&all("transfer-encoding")[..], &all("content-length")[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([], [length]) => {
            let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
            match length.parse() {
                Ok(length) if digits => Ok(Framing::Length(length)),
                _ => Err(Fault::malformed("a Content-Length that is no length")),
            }
        }
        ([coding], []) if is_11 && coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        ([_], []) if is_11 => {
            Err(Fault::new(501, code::UNSUPPORTED, "another Transfer-Encoding than chunked").closing())
        }
        (_, []) => Err(Fault::malformed("a Transfer-Encoding that can't be")),
        ([], _) => Err(Fault::malformed("more than one Content-Length")),
        _ => Err(Fault::malformed("both Content-Length and Transfer-Encoding")),
    }
}

/// Path and query of a request's target.
fn target(text: &str) -> Result<(String, Vec<(String, String)>), Fault> {
    let bad = || Fault::malformed("a target that is no path");
    // As a proxy is asked, which a server is to understand, too (RFC 9112, 3.2.2).
    let origin = ["http://", "https://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
    let text = match origin {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => text,
    };
    if !text.starts_with('/') || text.contains('#') {
        return Err(bad());
    }
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let query = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?))
    });
    Ok((decoded(path)?, query.collect::<Result<_, Fault>>()?))
}

fn decoded(text: &str) -> Result<String, Fault> {
    let bad = || Fault::malformed("a target that can't be decoded");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(bad()) };
        bytes.push((high * 16 + low) as u8);
    }
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    if text.chars().any(char::is_control) { Err(bad()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(fault: Fault) -> u16 {
        fault.into_response().unwrap().0.status
    }

    fn parse(lines: &[&str]) -> Result<Head, u16> {
        Head::parse(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes()).map_err(status)
    }

    #[test]
    fn a_request_is_read() {
        let head = parse(&[
            "PUT /v2/a/blobs/uploads/x?digest=sha256%3Aab&tag=1&tag=a+b HTTP/1.1",
            "Host: here",
            "CONTENT-LENGTH:  12 ",
            "Expect: 100-Continue",
        ])
        .unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str()), ("PUT", "/v2/a/blobs/uploads/x"));
        assert_eq!(head.parameter("digest"), Some("sha256:ab"));
        assert_eq!(head.parameters("tag").collect::<Vec<_>>(), ["1", "a b"]);
        assert_eq!(head.framing, Framing::Length(12));
        assert!(head.keep_alive && head.expects_continue);
        assert_eq!(parse(&["GET http://x:1/v2/?n=1 HTTP/1.1", "Host: x"]).unwrap().path, "/v2/");
        assert!(!parse(&["GET /v2/ HTTP/1.0"]).unwrap().keep_alive);
        assert!(!parse(&["GET / HTTP/1.1", "Host: x", "Connection: te, Close"]).unwrap().keep_alive);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let post =
            |more: &[&str]| parse(&[&["POST / HTTP/1.1", "Host: x"], more].concat()).map(|h| h.framing);
        assert_eq!(post(&["Transfer-Encoding: Chunked"]), Ok(Framing::Chunked));
        for (headers, expected) in [
            (&["Content-Length: 3", "Transfer-Encoding: chunked"][..], 400),
            (&["Transfer-Encoding: chunked", "Content-Length: 3"], 400),
            (&["Content-Length: 3", "Content-Length: 3"], 400),
            (&["Content-Length: 3", "content-length: 4"], 400),
            (&["Content-Length: 3, 3"], 400),
            (&["Content-Length: +3"], 400),
            (&["Content-Length: 0x3"], 400),
            (&["Content-Length: "], 400),
            (&["Content-Length: 99999999999999999999999"], 400),
            (&["Content-Length : 3"], 400),
            (&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400),
            (&["Transfer-Encoding: gzip, chunked"], 501),
            (&["Transfer-Encoding: identity"], 501),
            (&["Transfer-Encoding: xchunked"], 501),
            (&["Transfer-Encoding: chunked;q=1"], 501),
            (&["Transfer-Encoding:\tchunked", "Transfer-Encoding: identity"], 400),
            (&["Host: y"], 400),
            (&["X: a", " folded"], 400),
            (&["X: a\nTransfer-Encoding: chunked"], 400),
            (&["X: a\rTransfer-Encoding: chunked"], 400),
            (&["X\0: a"], 400),
            (&["Expect: 200-ok"], 417),
        ] {
            assert_eq!(post(headers), Err(expected), "{headers:?}");
        }
        assert_eq!(parse(&["GET / HTTP/1.1"]).unwrap_err(), 400, "no host");
        assert_eq!(parse(&["POST / HTTP/1.0", "Transfer-Encoding: chunked"]).unwrap_err(), 400);
        for line in ["GET / HTTP/2.0", "GET /a b HTTP/1.1"] {
            assert_eq!(parse(&[line, "Host: x"]).unwrap_err(), 505, "{line}");
        }
        for line in [
            "GET v2/ HTTP/1.1",
            "GET * HTTP/1.1",
            "GET /%zz HTTP/1.1",
            "GET /%0d%0a HTTP/1.1",
            "GET /%ff HTTP/1.1",
            "GET /",
            "",
            "CONNECT x:1 HTTP/1.1",
        ] {
            assert_eq!(parse(&[line, "Host: x"]).unwrap_err(), 400, "{line}");
        }
        let many: Vec<_> = (0..=HEADERS_MAX).map(|n| format!("X{n}: y")).collect();
        assert_eq!(post(&many.iter().map(String::as_str).collect::<Vec<_>>()), Err(431));
    }
}
