//! A client that says exactly what a test has it say.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let mine = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        mine.map(|(_, value)| value.as_str()).collect()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of an error.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub fn fails(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.code(), code);
        answer
    }
}

/// One connection.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn to(addr: SocketAddr) -> Self {
        Self::try_to(addr).unwrap_or_else(|| panic!("nobody listens on {addr}"))
    }

    pub fn try_to(addr: SocketAddr) -> Option<Self> {
        let tcp = TcpStream::connect(addr).ok()?;
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        Some(Self(BufReader::new(tcp)))
    }

    /// Sends bytes; whether the other side took them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.get_mut().write_all(bytes.as_ref()).is_ok()
    }

    /// The next answer, and `None` at the end of the connection.
    pub fn answer(&mut self, to_head: bool) -> Option<Answer> {
        loop {
            let mut line = String::new();
            // A reset is an end, too.
            if self.0.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            let status = line.split(' ').nth(1).unwrap().parse().unwrap();
            let mut headers = Vec::new();
            loop {
                let mut line = String::new();
                self.0.read_line(&mut line).unwrap();
                let line = line.strip_suffix("\r\n").unwrap();
                let Some((name, value)) = line.split_once(": ") else { break };
                headers.push((name.to_owned(), value.to_owned()));
            }
            if status == 100 {
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new() };
            let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
            if !to_head {
                answer.body = vec![0; length];
                self.0.read_exact(&mut answer.body).unwrap();
            }
            return Some(answer);
        }
    }

    /// Whether nothing more comes.
    pub fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0]).is_ok_and(|n| n == 0) || self.0.get_ref().peer_addr().is_err()
    }

    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let is_framed =
            headers.iter().any(|(name, _)| ["Content-Length", "Transfer-Encoding"].contains(name));
        if !is_framed && (!body.is_empty() || ["POST", "PUT", "PATCH"].contains(&method)) {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.send(head);
        self.send(body);
        self.answer(method == "HEAD").unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }
}

/// One request on a connection of its own.
pub fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    Connection::to(addr).ask(method, path, headers, body)
}

impl Connection {
    /// Whether it is told to send its body.
    pub fn is_continued(&mut self) -> bool {
        let mut lines = String::new();
        self.0.read_line(&mut lines).is_ok()
            && self.0.read_line(&mut lines).is_ok()
            && lines == "HTTP/1.1 100 Continue\r\n\r\n"
    }
}

impl Connection {
    /// Whether no answer has begun to come.
    pub fn has_nothing_yet(&mut self) -> bool {
        self.has_nothing_yet_for(Duration::from_millis(1))
    }

    /// Whether none begins to come in this time.
    pub fn has_nothing_yet_for(&mut self, time: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(time)).unwrap();
        let nothing = self.0.fill_buf().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        nothing
    }

    /// Sends no more.
    pub fn hang_up(&mut self) {
        self.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// How many bytes still come.
    pub fn rest(&mut self) -> usize {
        let mut all = Vec::new();
        let _ = self.0.read_to_end(&mut all);
        all.len()
    }
}
