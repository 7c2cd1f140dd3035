//! TLS with a name that only the test's own authority vouches for, through a proxy that knows where the name leads.

use super::peers::*;
use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

const HOST: &str = "registry.test";
const TOLD: &str = "CORACLE_TEST_THROUGH_PROXY";

/// A proxy (RFC 9110, 9.3.6: CONNECT) that brings everybody to one address, and says what for it was asked.
struct Proxy {
    authority: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, target, log) = (connection.unwrap(), target.clone(), log.clone());
                std::thread::spawn(move || relay(connection, &target, &log));
            }
        });
        Self { authority, asked }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn relay(client: TcpStream, target: &str, log: &Mutex<Vec<String>>) {
    let mut input = BufReader::new(client.try_clone().unwrap());
    let (mut first, mut line) = (String::new(), String::new());
    input.read_line(&mut first).unwrap();
    while input.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    log.lock().unwrap().push(first.trim_end().to_owned());
    let server = TcpStream::connect(target).unwrap();
    let mut output = client;
    output.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let mut to_server = server.try_clone().unwrap();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut input, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut &server, &mut output);
    let _ = output.shutdown(Shutdown::Both);
}

/// An authority, a server's certificate for [`HOST`], and a client's: `NAME.pem` and `NAME.key`.
fn certificates(dir: &Path) {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let make = |name: &str, more: &[&str]| {
        let (pem, secret, subject) =
            (at(&format!("{name}.pem")), at(&format!("{name}.key")), format!("/CN={name}"));
        let files = ["-keyout", &secret, "-out", &pem, "-subj", &subject];
        peer("openssl", [&["req", "-x509"], &key[..], &files, more].concat());
    };
    make("ca", &["-addext", "basicConstraints=critical,CA:TRUE"]);
    make("stranger", &["-addext", "basicConstraints=critical,CA:TRUE"]);
    let (ca, ca_key, name) = (at("ca.pem"), at("ca.key"), format!("subjectAltName=DNS:{HOST}"));
    let signed = ["-CA", &ca, "-CAkey", &ca_key, "-addext", "basicConstraints=critical,CA:FALSE"];
    make("server", &[&signed[..], &["-addext", &name]].concat());
    make("client", &[&signed[..], &["-addext", "extendedKeyUsage=clientAuth"]].concat());
}

/// In a process of its own, as a proxy is in the environment: pulls with the certificates of a directory.
fn pull_as_told(told: &str) {
    let [dir, ca, client, name] = told.split(' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let read = |name: String| fs::read(PathBuf::from(dir).join(name)).unwrap();
    let mut pull = Pull::new(name).retries(0);
    if ca != "-" {
        pull = pull.root_certificates(read(format!("{ca}.pem")));
    }
    if client != "-" {
        let key = String::from_utf8(read(format!("{client}.key"))).unwrap();
        pull = pull.client_certificate(read(format!("{client}.pem")), key);
    }
    match pull.run(&Store::temp().unwrap()) {
        Ok(image) => println!("pulled {}", image.id()),
        Err(error) => println!("failed {:?}: {error}", error.kind()),
    }
}

#[track_caller]
fn pulled(test: &str, proxy: &Proxy, told: &str) -> String {
    let url = format!("http://{}", proxy.authority);
    let mut command = child(test, &[(TOLD, told.as_ref()), ("ALL_PROXY", url.as_ref())]);
    command.arg("--include-ignored");
    for other in ["NO_PROXY", "no_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
        command.env_remove(other);
    }
    let out = command.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let said =
        text.lines().find_map(|line| line.find("pulled ").or(line.find("failed ")).map(|at| &line[at..]));
    said.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&out.stderr))).to_owned()
}

#[test]
#[ignore = "needs docker-registry, skopeo and openssl: run with --include-ignored"]
fn a_registry_with_tls_is_believed_for_its_certificate_alone() {
    if let Ok(told) = std::env::var(TOLD) {
        return pull_as_told(&told);
    }
    let test = "tls::a_registry_with_tls_is_believed_for_its_certificate_alone";
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let at = dir.path().display();
    let tls = format!("  tls: {{certificate: {at}/server.pem, key: {at}/server.key}}\n");
    let registry = Distribution::start(&tls);
    let image = Fixture::new(&["one", "two"]);
    push(&archive(dir.path(), &image), &format!("docker://{}/me/app:1", registry.authority), &[]);

    let proxy = Proxy::to(registry.authority.clone());
    let name = format!("{HOST}/{NAME}");
    assert_eq!(pulled(test, &proxy, &format!("{at} ca - {name}")), format!("pulled {}", image.id()));
    let asked = proxy.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| line.starts_with(&format!("CONNECT {HOST}:443 "))),
        "{asked:?}"
    );
    // Nobody vouches for it, somebody else does, and it is another's name.
    for told in [
        format!("{at} - - {name}"),
        format!("{at} stranger - {name}"),
        format!("{at} ca - another.test/{NAME}"),
    ] {
        let said = pulled(test, &proxy, &told);
        assert!(
            said.starts_with("failed Network: ") && said.to_lowercase().contains("certificate"),
            "{told}: {said}"
        );
    }

    // And one that wants to know who comes.
    let tls = format!(
        "  tls: {{certificate: {at}/server.pem, key: {at}/server.key, clientcas: [{at}/ca.pem]}}\nhealth: {{}}\n"
    );
    let strict = Distribution::start_in(&tls, registry.storage());
    let proxy = Proxy::to(strict.authority.clone());
    assert_eq!(pulled(test, &proxy, &format!("{at} ca client {name}")), format!("pulled {}", image.id()));
    let said = pulled(test, &proxy, &format!("{at} ca - {name}"));
    assert!(said.starts_with("failed Network: "), "{said}");
}
