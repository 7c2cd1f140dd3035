//! What a program finds in its environment: the way there, whom to trust, who one is; and docker.io, for which all of that is
//! all there is.

use super::auth::{BASIC, TOKEN, asks};
use super::common::certificates::{DOCKER_HUB, HOST, certificates};
use super::tls::{Proxy, pull_as_told, with_environment};
use super::*;

const TOLD: &str = "CORACLE_TEST_IN_ENVIRONMENT";

#[test]
#[ignore = "needs openssl: run with --include-ignored"]
fn the_systems_roots_are_trusted() {
    if let Ok(told) = std::env::var(TOLD) {
        return pull_as_told(&told);
    }
    let test = "environment::the_systems_roots_are_trusted";
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let image = Fixture::new(&["one"]);
    let content = Content::of(REPOSITORY, "1", &image);
    let server = Server::with_tls(dir.path(), move |request| content.reply(request));
    let proxy = Proxy::to(server.authority());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let told = format!("/ - - {HOST}/{NAME}");
    // Where a distribution's OpenSSL has them is said in the same way (SSL_CTX_load_verify_locations(3)).
    let pull = |var: &str, value: &str| {
        with_environment(test, &[(TOLD, &told), ("ALL_PROXY", &proxy.url()), (var, value)])
    };
    assert_eq!(pull("SSL_CERT_FILE", &at("ca.pem")), format!("pulled {}", image.id()));
    for (var, value) in [("SSL_CERT_FILE", at("stranger.pem")), ("LANG", "C".to_owned())] {
        let said = pull(var, &value);
        assert!(said.starts_with("failed Network: ") && said.contains("ertificate"), "{var}: {said}");
    }
    // A directory has them by their hash, as c_rehash(1) names them.
    let roots = at("roots");
    fs::create_dir(&roots).unwrap();
    let hash = peer("openssl", ["x509", "-noout", "-hash", "-in", &at("ca.pem")]);
    fs::copy(at("ca.pem"), format!("{roots}/{}.0", hash.trim())).unwrap();
    assert_eq!(pull("SSL_CERT_DIR", &roots), format!("pulled {}", image.id()));
}

#[test]
#[ignore = "needs openssl: run with --include-ignored"]
fn a_proxy_is_the_one_that_the_environment_names() {
    if let Ok(told) = std::env::var(TOLD) {
        return pull_as_told(&told);
    }
    let test = "environment::a_proxy_is_the_one_that_the_environment_names";
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let image = Fixture::new(&["one"]);
    let content = Content::of(REPOSITORY, "1", &image);
    let here = content.clone();
    let server = Server::with_tls(dir.path(), move |request| content.reply(request));
    let proxy = Proxy::to(server.authority());
    let (url, pulled) = (proxy.url(), format!("pulled {}", image.id()));
    let told = format!("{} ca - {HOST}/{NAME}", dir.path().display());
    let connect = format!("CONNECT {HOST}:443 HTTP/1.1");
    // Its scheme's comes before one for all.
    let vars = [(TOLD, told.as_str()), ("https_proxy", &url), ("all_proxy", "socks5://127.0.0.1:9")];
    assert_eq!(with_environment(test, &vars), pulled);
    assert!(!proxy.asked().is_empty());
    for name in ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
        assert_eq!(with_environment(test, &[(TOLD, &told), (name, &url)]), pulled, "{name}");
        let asked = proxy.asked();
        assert!(!asked.is_empty() && asked.iter().all(|line| *line == connect), "{name}: {asked:?}");
        // This machine is not reached by way of another one.
        let local = Server::honest(here.clone());
        let to_local = format!("/ - - {}", local.name(NAME));
        assert_eq!(with_environment(test, &[(TOLD, &to_local), (name, &url)]), pulled, "{name}");
        assert_eq!((proxy.asked().len(), local.take_log().is_empty()), (0, false), "{name}");
        if !["ALL_PROXY", "https_proxy"].contains(&name) {
            continue;
        }
        // Another registry's exception is none of this one's, its own is one.
        for (without, is_asked) in [
            ("other.test,10.0.0.1,registry.test:80", true),
            (HOST, false),
            ("x, test:443 ,y", false),
            ("*", false),
        ] {
            for no_proxy in ["NO_PROXY", "no_proxy"] {
                let vars = [(TOLD, told.as_str()), (name, &url), (no_proxy, without)];
                let said = with_environment(test, &vars);
                assert_eq!(said == pulled, is_asked, "{vars:?}: {said}");
                assert_eq!(!proxy.asked().is_empty(), is_asked, "{vars:?}");
                if !is_asked {
                    // Nobody else knows where the name leads.
                    assert!(said.starts_with("failed Network: "), "{vars:?}: {said}");
                }
            }
        }
    }
}

/// In a process of its own.
fn pull_debian() {
    let store = Store::temp().unwrap();
    let image = match Image::pull(&store, "debian:12") {
        Ok(image) => image,
        Err(error) => return println!("\nfailed {error}"),
    };
    assert_eq!(image.references().unwrap(), ["docker.io/library/debian:12".parse().unwrap()]);
    assert_eq!(store.image("debian:12").unwrap().id(), image.id());
    let found = RegistryClient::new("docker.io").unwrap().retries(0).search("debian", 5).unwrap();
    println!("\npulled {} {}", image.id(), found[0].name);
}

#[test]
#[ignore = "needs openssl: run with --include-ignored"]
fn a_name_without_a_registry_is_docker_hubs() {
    if std::env::var_os(TOLD).is_some() {
        return pull_debian();
    }
    let [registry, tokens, search] = DOCKER_HUB;
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let image = Fixture::new(&["one", "two"]);
    let content = Content::of("library/debian", "12", &image);
    let manifest = content.json("/v2/library/debian/manifests/12");
    let blobs = content.clone();
    // All hosts are one, as the proxy has it: which was meant a request tells.
    let server = Server::with_tls(dir.path(), move |request| {
        let (host, authorization) = (request.header("host").unwrap(), request.header("authorization"));
        if host == tokens {
            return match authorization {
                Some(BASIC) => Reply::new(200, json!({"token": TOKEN}).to_string()),
                _ => Reply::new(401, ""),
            };
        }
        if host == search {
            let found = json!({"name": "debian", "description": "", "star_count": 1, "is_official": true});
            return Reply::new(200, json!({"results": [found]}).to_string());
        }
        if host == HOST {
            return blobs.reply(request);
        }
        assert_eq!(host, registry);
        if authorization != Some(&format!("Bearer {TOKEN}")) {
            return asks(&format!(
                r#"Bearer realm="https://{tokens}/token",service="registry.docker.io",scope="repository:library/debian:pull""#
            ));
        }
        // Its blobs are where they cost less.
        match request.is_blob() {
            true => Reply::new(307, "").with("Location", format!("https://{HOST}{}", request.path)),
            false => content.reply(request),
        }
    });
    let proxy = Proxy::to(server.authority());
    // Who is logged in with docker.
    fs::create_dir(dir.path().join(".docker")).unwrap();
    let config = json!({"auths": {"https://index.docker.io/v1/": {"auth": &BASIC[6..]}}});
    fs::write(dir.path().join(".docker/config.json"), config.to_string()).unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let said = with_environment(
        "environment::a_name_without_a_registry_is_docker_hubs",
        &[(TOLD, "1"), ("HTTPS_PROXY", &proxy.url()), ("SSL_CERT_FILE", &at("ca.pem")), ("HOME", &at(""))],
    );
    assert_eq!(said, format!("pulled {} debian", image.id()));

    let mut asked = proxy.asked();
    asked.sort();
    asked.dedup();
    let mut hosts = [registry, tokens, search, HOST].map(|host| format!("CONNECT {host}:443 HTTP/1.1"));
    hosts.sort();
    assert_eq!(asked, hosts);
    let log = server.take_log();
    let of = |host: &str| -> Vec<_> {
        let requests = log.iter().filter(|request| request.header("host") == Some(host));
        let line = |request: &Request| {
            format!("{} {} {:?}", request.method, request.path, request.header("authorization"))
        };
        let mut lines: Vec<_> = requests.map(line).collect();
        lines.sort();
        lines
    };
    let bearer = format!("{:?}", Some(format!("Bearer {TOKEN}")));
    let blobs = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
    let paths: Vec<_> =
        blobs.map(|blob| format!("/v2/library/debian/blobs/{}", blob["digest"].as_str().unwrap())).collect();
    // The token goes to the registry and to nobody else, the password to who gives the token.
    let mut want = vec![
        "GET /v2/library/debian/manifests/12 None".to_owned(),
        format!("GET /v2/library/debian/manifests/12 {bearer}"),
    ];
    want.extend(paths.iter().map(|path| format!("GET {path} {bearer}")));
    want.sort();
    assert_eq!(of(registry), want);
    let token = "GET /token?service=registry.docker.io&scope=repository%3Alibrary%2Fdebian%3Apull";
    assert_eq!(of(tokens), [format!("{token} {:?}", Some(BASIC))]);
    let mut want: Vec<_> = paths.iter().map(|path| format!("GET {path} None")).collect();
    want.sort();
    assert_eq!(of(HOST), want);
    assert_eq!(of(search), ["GET /v1/search?q=debian&n=5 None"]);
}
