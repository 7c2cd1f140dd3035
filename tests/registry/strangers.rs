//! Who one is to a registry is shown to its host alone, and who vouches for that vouches for nobody else.

use super::common::certificates::certificates;
use super::tls::certs_d;
use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

type Shown = Arc<Mutex<Vec<bool>>>;

/// Speaks TLS and asks for a certificate, which nobody has to have: its port, and whether one was shown with each request.
fn start(dir: &Path, answers: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (u16, Shown) {
    let read = |name: &str| CertificateDer::from_pem_file(dir.join(name)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(read("ca.pem")).unwrap();
    let asks = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(asks.allow_unauthenticated().build().unwrap())
        .with_single_cert(
            vec![read("server.pem")],
            PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap(),
        );
    let (config, answers) = (Arc::new(config.unwrap()), Arc::new(answers));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, shown) = (listener.local_addr().unwrap().port(), Shown::default());
    let log = shown.clone();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (connection, config, answers, log) =
                (connection.unwrap(), config.clone(), answers.clone(), log.clone());
            std::thread::spawn(move || serve(connection, config, &*answers, &log));
        }
    });
    (port, shown)
}

fn serve(
    connection: TcpStream,
    config: Arc<ServerConfig>,
    answers: &dyn Fn(&str) -> Reply,
    log: &Mutex<Vec<bool>>,
) {
    let stream = StreamOwned::new(ServerConnection::new(config).unwrap(), connection);
    let mut stream = BufReader::new(stream);
    let (mut first, mut line) = (String::new(), String::new());
    if stream.read_line(&mut first).is_err() {
        return;
    }
    while stream.read_line(&mut line).is_ok_and(|n| n > 2) {
        line.clear();
    }
    let Some(path) = first.split(' ').nth(1) else { return };
    let stream = stream.get_mut();
    log.lock().unwrap().push(stream.conn.peer_certificates().is_some());
    let reply = answers(path);
    let mut head = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let _ = stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", reply.body.len()).as_bytes());
    let _ = stream.write_all(&reply.body);
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn get(content: &Content, path: &str) -> Reply {
    let (method, path) = ("GET".to_owned(), path.to_owned());
    content.reply(&Request {
        method,
        path,
        headers: Default::default(),
        body: String::new(),
        bytes: Vec::new(),
    })
}

#[test]
#[ignore = "needs openssl: run with --include-ignored"]
fn certificates_are_for_the_registrys_host_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir);
    let image = Fixture::new(&["one", "two"]);
    let content = Content::of(REPOSITORY, "1", &image);
    let blobs = content.clone();
    // The same machine under another name.
    let (elsewhere, shown_elsewhere) = start(dir, move |path| get(&blobs, path));
    let (here, shown) = start(dir, move |path| match path.contains("/blobs/") {
        true => Reply::new(307, "").with("Location", format!("https://localhost:{elsewhere}{path}")),
        false => get(&content, path),
    });
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let take = |shown: &Shown| std::mem::take(&mut *shown.lock().unwrap());
    let pull = |pull: Pull| pull.retries(0).run(&Store::temp().unwrap());
    let name = format!("127.0.0.1:{here}/{NAME}");
    let trusting = || Pull::new(&name).root_certificates(read("ca.pem"));

    let key = || String::from_utf8(read("client.key")).unwrap();
    pull(trusting().client_certificate(read("client.pem"), key())).unwrap();
    let (at_home, away) = (take(&shown), take(&shown_elsewhere));
    assert!(at_home.len() == 4 && at_home.iter().all(|shown| *shown), "{at_home:?}");
    assert!(away.len() == 3 && !away.contains(&true), "{away:?}");

    let files = [("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")];
    let own = certs_d(dir, "own.d", &files);
    let error = pull(Pull::new(&name).certificates_in(&own)).unwrap_err();
    assert!(error.kind() == ErrorKind::Network && error.to_string().contains("localhost"), "{error}");
    assert!(take(&shown).iter().all(|shown| *shown) && take(&shown_elsewhere).is_empty());
    pull(trusting().certificates_in(&own)).unwrap();
    assert!(take(&shown).iter().all(|shown| *shown) && !take(&shown_elsewhere).contains(&true));

    // A mirror is another registry.
    let mirrored = trusting().client_certificate(read("client.pem"), key());
    pull(mirrored.mirror(format!("127.0.0.1:{here}"), format!("localhost:{elsewhere}"))).unwrap();
    let away = take(&shown_elsewhere);
    assert!(away.len() == 4 && !away.contains(&true) && take(&shown).is_empty(), "{away:?}");
}
