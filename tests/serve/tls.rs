//! Clients that mean no good before there is a request: in TLS itself.

use super::common::certificates::certificates;
use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{ErrorKind as Io, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client may take for a head, and between two bytes.
const SHORT: Duration = Duration::from_secs(1);

struct Tls {
    world: World,
    config: Arc<ClientConfig>,
}

impl Tls {
    fn new(dir: &Path) -> Self {
        certificates(dir);
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let builder = Registry::builder().tls(read("server.pem"), read("server.key"));
        let world = World::with(builder.header_timeout(SHORT).idle_timeout(SHORT));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth());
        Self { world, config }
    }

    fn tcp(&self) -> TcpStream {
        let tcp = TcpStream::connect(self.world.addr()).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp
    }

    /// A client's side, before it has said anything.
    fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        ClientConnection::new(self.config.clone(), name).unwrap()
    }

    /// One that has shaken hands, and was answered once.
    fn connected(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let mut stream = StreamOwned::new(self.client(), self.tcp());
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"{}") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&answer));
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        stream
    }
}

/// The server ends the connection, with or without a word.
#[track_caller]
fn ends(mut tcp: &TcpStream, what: &str) {
    let begun = Instant::now();
    match tcp.read_to_end(&mut Vec::new()) {
        Err(error) if matches!(error.kind(), Io::WouldBlock | Io::TimedOut) => panic!("{what}: it stays"),
        _ => assert!(begun.elapsed() < PATIENCE, "{what}"),
    }
}

#[test]
#[ignore = "needs openssl: run with --include-ignored"]
fn who_does_not_shake_hands_is_shown_out() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::new(dir.path());
    let mut hello = Vec::new();
    tls.client().write_tls(&mut hello).unwrap();
    let record = |length: u16| [&[0x16, 3, 1][..], &length.to_be_bytes()].concat();
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("HTTP", b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("SSH", b"SSH-2.0-x\r\n".to_vec()),
        ("zeros", vec![0; 4096]),
        ("a record longer than any is", record(u16::MAX)),
        ("an empty record", record(0)),
        ("a record that does not come", record(200)),
        ("half of a greeting", hello[..hello.len() / 2].to_vec()),
        ("a greeting, and then nothing", hello.clone()),
        ("a greeting, and then HTTP", [&hello[..], b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat()),
        ("two greetings", hello.repeat(2)),
        ("a hundred greetings", hello.repeat(100)),
    ] {
        let mut tcp = tls.tcp();
        // It may have ended before all of it came.
        let _ = tcp.write_all(&bytes);
        ends(&tcp, what);
        tls.connected();
    }
    // One that comes by the byte, for longer than it may.
    let mut tcp = tls.tcp();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let taken = hello.iter().take_while(|byte| {
        let is_taken = tcp.write_all(&[**byte]).is_ok();
        let nothing =
            tcp.read(&mut [0]).is_err_and(|error| matches!(error.kind(), Io::WouldBlock | Io::TimedOut));
        is_taken && nothing
    });
    assert!(taken.count() < hello.len(), "a greeting of {} bytes is waited for", hello.len());
    tls.connected();
}

#[test]
#[ignore = "needs openssl: run with --include-ignored"]
fn who_breaks_off_in_a_record_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::new(dir.path());
    let content = vec![7; 100_000];
    let digest = Digest::of(&content);
    let put = format!(
        "POST /v2/me/app/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        content.len()
    );
    // The beginning of a record, without the rest; bytes that are none; a body that lacks its end, each as it is or with an end.
    let cut = [0x17, 3, 3, 0x10, 0, 1, 2, 3];
    for bytes in [&cut[..], b"HTTP/1.1 200 OK\r\n\r\n", &[0; 64], b""] {
        for with_body in [false, true] {
            for end in [None, Some(Shutdown::Write), Some(Shutdown::Both)] {
                let what = format!("{bytes:?}, {with_body}, {end:?}");
                let mut stream = tls.connected();
                if with_body {
                    stream.write_all(put.as_bytes()).unwrap();
                    stream.write_all(&content[..50_000]).unwrap();
                    stream.flush().unwrap();
                }
                let _ = stream.sock.write_all(bytes);
                if let Some(end) = end {
                    let _ = stream.sock.shutdown(end);
                }
                ends(&stream.sock, &what);
                tls.connected();
            }
        }
    }
    // Nothing of what was cut off is there, and nothing is held.
    let mut stream = tls.connected();
    write!(stream, "HEAD /v2/me/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
    drop(stream);
    let World { store, registry } = tls.world;
    drop(registry);
    assert_eq!(count(store.path().join("tmp")), 0);
    assert_eq!(count(store.path().join("blobs/sha256")), 0);
}
