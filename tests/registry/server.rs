//! A registry in this process, which says what a test has it say.

use super::common::*;
use coracle::Digest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Of a body, what is written at once.
pub const CHUNK: usize = 16 << 10;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// As text.
    pub body: String,
    pub bytes: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What Content-Length says; none: until the end of the connection.
    pub length: Option<u64>,
    /// The body again and again, until nobody listens.
    pub endless: bool,
    /// What happens before each further piece of the body, told how much of it is written.
    pub before: Option<Arc<dyn Fn(usize) + Send + Sync>>,
    /// A connection that is not ended but broken (RST) after what was written.
    pub reset: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let length = Some(body.len() as u64);
        Self { status, headers: Vec::new(), length, body, endless: false, before: None, reset: false }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The connection ends instead.
    pub fn none() -> Self {
        Self::new(0, "")
    }

    /// The connection is broken instead.
    pub fn reset() -> Self {
        Self { reset: true, ..Self::none() }
    }

    pub fn before(self, piece: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self { before: Some(Arc::new(piece)), ..self }
    }

    /// Of a HEAD: without the length of what there is.
    pub fn headless(self) -> Self {
        Self { length: None, ..self }
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.length = Some(self.body.len() as u64);
        self
    }
}

/// What a registry holds, by path.
#[derive(Clone, Default)]
pub struct Content(BTreeMap<String, (String, Vec<u8>)>);

impl Content {
    pub fn of(repository: &str, tag: &str, image: &Fixture) -> Self {
        let mut content = Self::default();
        let (media_type, manifest) = content.add(repository, image, gzip, "+gzip");
        content.manifest(repository, tag, &media_type, manifest);
        content
    }

    /// Blobs of an image, and its manifest, which nothing names yet.
    pub fn add(
        &mut self,
        repository: &str,
        image: &Fixture,
        compress: fn(&[u8]) -> Vec<u8>,
        suffix: &str,
    ) -> (String, Vec<u8>) {
        let mut blob = |media_type: &str, data: Vec<u8>| {
            let digest = Digest::of(&data);
            let descriptor = json!({"mediaType": media_type, "digest": digest, "size": data.len()});
            self.0.insert(
                format!("/v2/{repository}/blobs/{digest}"),
                ("application/octet-stream".into(), data),
            );
            descriptor
        };
        let layer_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        let layers: Vec<_> = image.layers.iter().map(|layer| blob(&layer_type, compress(layer))).collect();
        let config = blob("application/vnd.oci.image.config.v1+json", image.config.clone());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        (MANIFEST.to_owned(), manifest.to_string().into_bytes())
    }

    /// A manifest or an index, under its tag and its digest.
    pub fn manifest(&mut self, repository: &str, tag: &str, media_type: &str, raw: Vec<u8>) -> Digest {
        let digest = Digest::of(&raw);
        for name in [tag, &digest.to_string()] {
            self.0.insert(format!("/v2/{repository}/manifests/{name}"), (media_type.to_owned(), raw.clone()));
        }
        digest
    }

    pub fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.0[path].1).unwrap()
    }

    /// What an honest registry says.
    pub fn reply(&self, request: &Request) -> Reply {
        let Some((media_type, data)) = self.0.get(&request.path) else {
            return Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#);
        };
        let reply = Reply::new(200, data.clone())
            .with("Content-Type", media_type)
            .with("Docker-Content-Digest", Digest::of(data).to_string());
        match request
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        {
            Some(from) if from >= data.len() => Reply::new(416, ""),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", data.len() - 1, data.len());
                Reply { status: 206, ..reply.body(&data[from..]) }.with("Content-Range", range)
            }
            None => reply,
        }
    }
}

pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, handler)
    }

    /// One that speaks TLS, with the certificate of [`certificates`]: for all their names, which a request tells by its Host.
    pub fn with_tls(dir: &Path, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain = vec![CertificateDer::from_pem_file(dir.join("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key);
        Self::listen(Some(Arc::new(config.unwrap())), handler)
    }

    fn listen(
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (handler, stopped, logged) = (Arc::new(handler), stop.clone(), log.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (connection, handler, log) = (connection.unwrap(), handler.clone(), logged.clone());
                let tls = tls.clone();
                std::thread::spawn(move || match tls {
                    Some(tls) => {
                        let session = rustls::ServerConnection::new(tls).unwrap();
                        let stream = rustls::StreamOwned::new(session, &connection);
                        serve(stream, &connection, &*handler, &log);
                    }
                    None => serve(&connection, &connection, &*handler, &log),
                });
            }
        });
        Self { address, stop, log }
    }

    /// One that says what it has, and what `lie` makes of it.
    pub fn lying(content: Content, lie: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(move |request| lie(request, content.reply(request)))
    }

    pub fn honest(content: Content) -> Self {
        Self::lying(content, |_, reply| reply)
    }

    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The requests since the last time.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn read_request<S: Read + Write>(input: &mut BufReader<S>) -> Option<Request> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    if headers.get("expect").is_some_and(|expect| expect == "100-continue") {
        input.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes).ok()?;
    let body = String::from_utf8_lossy(&bytes).into_owned();
    Some(Request { method, path, headers, body, bytes })
}

fn serve<S: Read + Write>(
    stream: S,
    connection: &TcpStream,
    handler: &dyn Fn(&Request) -> Reply,
    log: &Mutex<Vec<Request>>,
) {
    let mut input = BufReader::new(stream);
    while let Some(request) = read_request(&mut input) {
        log.lock().unwrap().push(request.clone());
        let reply = handler(&request);
        // What was announced and does not come ends the connection.
        if answer(input.get_mut(), &request, &reply).is_err() {
            if reply.reset {
                // With nothing to linger for, what closes it breaks it (socket(7), SO_LINGER).
                rustix::net::sockopt::set_socket_linger(connection, Some(Duration::ZERO)).unwrap();
            } else {
                let _ = connection.shutdown(std::net::Shutdown::Both);
            }
            return;
        }
    }
}

/// Writes an answer; an error where nothing can follow it on this connection.
fn answer(output: &mut impl Write, request: &Request, reply: &Reply) -> std::io::Result<()> {
    let end = || Err(std::io::ErrorKind::ConnectionAborted.into());
    if reply.status == 0 {
        return end();
    }
    let mut head = format!("HTTP/1.1 {} Said\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match reply.length {
        Some(length) => head += &format!("Content-Length: {length}\r\n\r\n"),
        None => head += "Connection: close\r\n\r\n",
    }
    output.write_all(head.as_bytes())?;
    output.flush()?;
    if request.method == "HEAD" {
        return Ok(());
    }
    loop {
        for (at, piece) in reply.body.chunks(CHUNK).enumerate() {
            if let Some(before) = &reply.before {
                before(at * CHUNK);
            }
            output.write_all(piece)?;
            output.flush()?;
        }
        if !reply.endless {
            break;
        }
    }
    if reply.reset || reply.length != Some(reply.body.len() as u64) { end() } else { Ok(()) }
}
