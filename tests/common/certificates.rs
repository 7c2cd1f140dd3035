//! Certificates that nobody but a test trusts, as PEM files. openssl makes them.

use super::peer;
use std::path::Path;

/// A name that no other machine has (RFC 2606).
pub const HOST: &str = "registry.test";
/// Where docker.io answers, gives tokens and is searched.
pub const DOCKER_HUB: [&str; 3] = ["registry-1.docker.io", "auth.docker.io", "index.docker.io"];

/// An authority and another one, a server's certificate for this machine and the names above, and a client's: `NAME.pem` and
/// `NAME.key`.
pub fn certificates(dir: &Path) {
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
    let names: String = DOCKER_HUB.iter().map(|name| format!(",DNS:{name}")).collect();
    let names = format!("subjectAltName=DNS:{HOST},DNS:localhost,IP:127.0.0.1{names}");
    let (ca, ca_key) = (at("ca.pem"), at("ca.key"));
    let signed = ["-CA", &ca, "-CAkey", &ca_key, "-addext", "basicConstraints=critical,CA:FALSE"];
    make("server", &[&signed[..], &["-addext", &names]].concat());
    make("client", &[&signed[..], &["-addext", "extendedKeyUsage=clientAuth"]].concat());
}
