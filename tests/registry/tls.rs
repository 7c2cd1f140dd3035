//! TLS with a name that only the test's own authority vouches for, through a proxy that knows where the name leads.

use super::cli::*;
use super::common::certificates::{HOST, certificates};
use super::common::distribution::Distribution;
use super::peers::*;
use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

const TOLD: &str = "CORACLE_TEST_THROUGH_PROXY";

/// A proxy (RFC 9110, 9.3.6: CONNECT) that brings everybody to one address, and says what for it was asked.
pub struct Proxy {
    authority: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn to(target: String) -> Self {
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

    pub fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    pub fn asked(&self) -> Vec<String> {
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

/// Has a registry speak TLS with these, and with `strict` to those alone who show one of them.
pub fn with_tls(dir: &Path, strict: bool) -> String {
    let at = dir.display();
    let ask = if strict { format!(", clientcas: [{at}/ca.pem]") } else { String::new() };
    format!("  tls: {{certificate: {at}/server.pem, key: {at}/server.key{ask}}}\nhealth: {{}}\n")
}

/// In a process of its own, as a proxy is in the environment: pulls with the certificates of a directory.
pub fn pull_as_told(told: &str) {
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

/// What it says in the end.
#[track_caller]
fn pulled(test: &str, proxy: &Proxy, told: &str) -> String {
    through(test, proxy, TOLD, told)
}

#[track_caller]
pub fn through(test: &str, proxy: &Proxy, var: &str, told: &str) -> String {
    with_environment(test, &[(var, told), ("ALL_PROXY", &proxy.url())])
}

/// What a test says in a process of its own, in which nothing else says which way to go, whom to trust and who one is.
#[track_caller]
pub fn with_environment(test: &str, vars: &[(&str, &str)]) -> String {
    let mut command = child(test, &[]);
    for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "DOCKER_AUTH_CONFIG"]
    {
        command.env_remove(name);
    }
    let out = command.envs(vars.iter().copied()).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let said = text.lines().find_map(|line| {
        ["pulled ", "pushed ", "failed "].iter().find_map(|word| line.find(word)).map(|at| &line[at..])
    });
    said.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&out.stderr))).to_owned()
}

/// Nothing goes past a proxy that there is to be.
#[test]
fn a_proxy_that_is_not_spoken_with_is_not_gone_past() {
    if let Ok(told) = std::env::var(TOLD) {
        return pull_as_told(&told);
    }
    let test = "tls::a_proxy_that_is_not_spoken_with_is_not_gone_past";
    for (without, expected) in [("", "failed Unsupported"), ("registry.invalid", "failed Network")] {
        let vars = [
            (TOLD, "/ - - registry.invalid/one:1"),
            ("ALL_PROXY", "socks5://127.0.0.1:9"),
            ("NO_PROXY", without),
        ];
        let said = with_environment(test, &vars);
        assert!(said.contains(expected), "{without:?}: {said}");
        assert_eq!(said.contains("SOCKS5 proxy"), without.is_empty(), "{said}");
    }
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
    let registry = Distribution::start(&with_tls(dir.path(), false));
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
    let strict = Distribution::start_in(&with_tls(dir.path(), true), registry.storage());
    let proxy = Proxy::to(strict.authority.clone());
    assert_eq!(pulled(test, &proxy, &format!("{at} ca client {name}")), format!("pulled {}", image.id()));
    let said = pulled(test, &proxy, &format!("{at} ca - {name}"));
    assert!(said.starts_with("failed Network: "), "{said}");
}

/// A registry's own certificate, as `openssl req -x509` makes it: an authority's, and what its clients have as `ca.crt`.
#[test]
#[ignore = "needs openssl: run with --include-ignored"]
fn a_self_signed_certificate_is_believed_where_it_was_given() {
    if let Ok(told) = std::env::var(TOLD) {
        return pull_as_told(&told);
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // The same key for both: who has it is not yet who is trusted.
    for (name, more) in
        [("server", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"][..]), ("twin", &[])]
    {
        let key = at("server.key");
        let key = if more.is_empty() { ["-key", &key] } else { ["-keyout", &key] };
        let out = at(&format!("{name}.pem"));
        let own = ["-nodes", "-days", "2", "-out", &out, "-subj", "/CN=registry"];
        let names = ["-addext", "subjectAltName=DNS:registry.test,DNS:localhost,IP:127.0.0.1"];
        peer("openssl", [&["req", "-x509"], more, &key, &own, &names].concat());
    }
    let image = Fixture::new(&["one"]);
    let content = Content::of(REPOSITORY, "1", &image);
    let server = Server::with_tls(dir.path(), move |request| content.reply(request));
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let pull = |pull: Pull| pull.retries(0).run(&Store::temp().unwrap());
    let name = server.name(NAME);
    let own = certs_d(dir.path(), "own.d", &[("server.pem", "ca.crt")]);
    for given in
        [Pull::new(&name).root_certificates(read("server.pem")), Pull::new(&name).certificates_in(own)]
    {
        assert_eq!(*pull(given).unwrap().id(), image.id());
    }
    let error = pull(Pull::new(&name).root_certificates(read("twin.pem"))).unwrap_err();
    assert!(error.kind() == ErrorKind::Network && error.to_string().contains("certificate"), "{error}");
    let (proxy, told) = (Proxy::to(server.authority()), format!("/ - - {HOST}/{NAME}"));
    let test = "tls::a_self_signed_certificate_is_believed_where_it_was_given";
    for (file, is_believed) in [("server.pem", true), ("twin.pem", false)] {
        let vars = [(TOLD, told.as_str()), ("ALL_PROXY", &proxy.url()), ("SSL_CERT_FILE", &at(file))];
        let said = with_environment(test, &vars);
        assert_eq!(said == format!("pulled {}", image.id()), is_believed, "{file}: {said}");
    }
    // It is no other's.
    let said = pulled(test, &proxy, &format!("{} server - another.test/{NAME}", dir.path().display()));
    assert!(said.starts_with("failed Network: ") && said.contains("not valid for name"), "{said}");
}

/// A directory as docker knows it, with files under other names.
pub fn certs_d(dir: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let to = dir.join(name);
    fs::create_dir_all(&to).unwrap();
    for (from, name) in files {
        fs::copy(dir.join(from), to.join(name)).unwrap();
    }
    to
}

#[test]
#[ignore = "needs docker-registry, skopeo and openssl: run with --include-ignored"]
fn with_this_machine_it_is_tls_where_there_are_certificates_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir);
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let registry = Distribution::start(&with_tls(dir, false));
    let image = Fixture::new(&["one", "two"]);
    push(&archive(dir, &image), &format!("docker://{}/{NAME}", registry.authority), &[]);
    let name = format!("{}/{NAME}", registry.authority);
    let pull = |pull: Pull| pull.retries(0).run(&Store::temp().unwrap());
    let error = pull(Pull::new(&name)).unwrap_err();
    assert!(error.remedy().unwrap().contains("Pull::root_certificates"), "{error}");
    let pulled = pull(Pull::new(&name).root_certificates(read("ca.pem"))).unwrap();
    assert_eq!(*pulled.id(), image.id());
    let error = pull(Pull::new(&name).root_certificates(read("stranger.pem"))).unwrap_err();
    assert!(error.kind() == ErrorKind::Network && error.to_string().contains("certificate"), "{error}");

    let ca = certs_d(
        dir,
        "ca.d",
        &[("ca.pem", "ca.crt"), ("stranger.pem", "other.crt"), ("server.pem", "read.me")],
    );
    pull(Pull::new(&name).certificates_in(&ca)).unwrap();
    let both = [("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")];
    let own = certs_d(dir, "own.d", &both);
    let strict = Distribution::start_in(&with_tls(dir, true), registry.storage());
    let strict_name = format!("{}/{NAME}", strict.authority);
    pull(Pull::new(&strict_name).certificates_in(&own)).unwrap();
    pull(Pull::new(&strict_name).certificates_in(&ca)).unwrap_err();
    for (name, files) in [
        ("key.d", &both[2..]),
        ("cert.d", &both[1..2]),
        ("two.d", &[&both[..], &[("client.pem", "b.cert"), ("client.key", "b.key")]].concat()),
        ("broken.d", &[("client.key", "ca.crt")]),
    ] {
        let error = pull(Pull::new(&strict_name).certificates_in(certs_d(dir, name, files))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {error}");
    }
    let nowhere = pull(Pull::new(&name).certificates_in(dir.join("nowhere"))).unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::NotFound, "{nowhere}");

    // And nothing less, unless that is asked for.
    let plain = Distribution::start_in("", registry.storage());
    let plain_name = format!("{}/{NAME}", plain.authority);
    let with_ca = Pull::new(&plain_name).root_certificates(read("ca.pem"));
    assert_eq!(pull(with_ca.clone()).unwrap_err().kind(), ErrorKind::Network);
    pull(with_ca.plain_http(&plain.authority)).unwrap();
}

#[test]
#[ignore = "needs docker-registry, skopeo, htpasswd and openssl: run with --include-ignored"]
fn the_command_line_has_certificates_as_docker_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir);
    let registry = Distribution::start(&format!("{}{}", with_tls(dir, true), with_password(dir)));
    let (w, name) = (World::new(), format!("{}/{NAME}", registry.authority));
    let files = [("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")];
    // Where the user's are, by the registry's name.
    let own = certs_d(dir, &format!("containers/certs.d/{}", registry.authority), &files);
    let certs = own.to_str().unwrap().to_owned();
    let auth = dir.join("auth.json");
    let to = format!("docker://{name}");
    push(
        &archive(dir, &Fixture::new(&["one"])),
        &to,
        &["--dest-creds=me:secret-word", "--dest-cert-dir", &certs],
    );
    let run = |home: &Path, args: &[&str]| {
        let mut command = w.command(args);
        command.env("XDG_CONFIG_HOME", home).env("REGISTRY_AUTH_FILE", &auth);
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(b"secret-word\n").unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        command.stdin(input);
        Done::of(command)
    };
    let nobody = dir.join("nobody");
    let login = ["login", "-u", "me", "--password-stdin", &registry.authority];
    assert_eq!(run(&nobody, &login).code, 1);
    let done = run(dir, &login);
    assert_eq!(done.code, 0, "{}", done.err);
    let done = run(dir, &["pull", "-q", &name]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(run(&nobody, &["pull", "-q", &name]).code, 1);
    let done = run(&nobody, &["pull", "-q", "--cert-dir", &certs, &name]);
    assert_eq!(done.code, 0, "{}", done.err);
    let done = run(&nobody, &["create", "--pull=always", "-q", "--cert-dir", &certs, &name, "x"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let done = run(&nobody, &["pull", "-q", "--tls-verify=false", &name]);
    assert!(done.code == 125 && done.err.contains("--ca-file"), "{}", done.err);
}
