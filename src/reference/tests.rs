#![forbid(unsafe_code)]
use super::*;

const HEX: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

fn parse(text: &str) -> Reference {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// (input, full, familiar), the facts of docker's own normalisation.
#[test]
fn defaults_are_dockers() {
    for (input, full, familiar) in [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("index.docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("index.docker.io/foo/bar", "docker.io/foo/bar:latest", "foo/bar:latest"),
        ("fooo/bar", "docker.io/fooo/bar:latest", "fooo/bar:latest"),
        ("library/foo/bar", "docker.io/library/foo/bar:latest", "library/foo/bar:latest"),
        ("foo/foo/bar", "docker.io/foo/foo/bar:latest", "foo/foo/bar:latest"),
        ("foo_bar", "docker.io/library/foo_bar:latest", "foo_bar:latest"),
        ("foo__bar/a-b--c.d", "docker.io/foo__bar/a-b--c.d:latest", "foo__bar/a-b--c.d:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
        ("localhost:5000/me/app:1", "localhost:5000/me/app:1", "localhost:5000/me/app:1"),
        (
            "127.0.0.1:8000/private/moonbase",
            "127.0.0.1:8000/private/moonbase:latest",
            "127.0.0.1:8000/private/moonbase:latest",
        ),
        ("[2001:db8::1]:5000/x", "[2001:db8::1]:5000/x:latest", "[2001:db8::1]:5000/x:latest"),
        ("quay.io/a/b:v1.2-rc_3", "quay.io/a/b:v1.2-rc_3", "quay.io/a/b:v1.2-rc_3"),
        ("Foo/bar", "Foo/bar:latest", "Foo/bar:latest"), // upper case can only be a registry
        ("test.com:tag", "docker.io/library/test.com:tag", "test.com:tag"),
        ("test:5000", "docker.io/library/test:5000", "test:5000"),
        ("xn--n3h.com/myimage", "xn--n3h.com/myimage:latest", "xn--n3h.com/myimage:latest"),
    ] {
        let reference = parse(input);
        assert_eq!(reference.to_string(), full, "{input}");
        assert_eq!(reference.familiar(), familiar, "{input}");
        assert_eq!(parse(full), reference);
        assert_eq!(parse(familiar), reference);
    }
}

#[test]
fn an_id_is_no_name() {
    for id in [HEX.to_owned(), format!("sha256:{HEX}")] {
        assert_eq!(id.parse::<Reference>().unwrap_err().kind(), ErrorKind::InvalidInput, "{id}");
    }
}

#[test]
fn digests_need_no_tag() {
    let digest = format!("sha256:{HEX}");
    let reference = parse(&format!("debian@{digest}"));
    assert_eq!(reference.tag(), None);
    assert_eq!(reference.to_string(), format!("docker.io/library/debian@{digest}"));
    let reference = parse(&format!("debian:12@{digest}"));
    assert_eq!((reference.tag(), reference.digest().is_some()), (Some("12"), true));
    assert_eq!(reference.with_tag("13").unwrap().familiar(), "debian:13");
}

#[test]
fn refuses_what_docker_refuses() {
    let long = "a/".repeat(128) + "a";
    let tag = "t".repeat(129);
    for bad in [
        "",
        ":justtag",
        "@sha256:ffff",
        "repo@sha256:ffffff",
        "Uppercase:tag",
        "Uppercase",
        "test:5000/Uppercase/lowercase:tag",
        "aa/asdf$$^/aa",
        "docker/Docker",
        "-docker",
        "docker-",
        "docker/-foo",
        "a//b",
        "a/",
        "/a",
        "foo/_bar",
        "foo._bar",
        "foo___bar",
        "a:",
        "a:-tag",
        "a:tag/x",
        "a:b:c",
        "docker.io/",
        "docker.io",
        "host:port/x",
        "-host.com/x",
        "a..b/x:y/",
        "[fe80::1%eth0]/x",
        "[fe80::1/x",
        "[::1]x/y",
        " a",
        "a b",
        "a\n",
        HEX,
        &long,
        &format!("a:{tag}"),
        "a@md5:00",
    ] {
        // `docker.io` alone is the repository of that name at docker.io, as docker has it.
        if bad == "docker.io" {
            assert_eq!(parse(bad).to_string(), "docker.io/library/docker.io:latest");
            continue;
        }
        let error = bad.parse::<Reference>().expect_err(bad);
        assert!(
            matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::Unsupported),
            "{bad}: {error}"
        );
    }
}

#[test]
fn a_digest_of_nothing_says_so() {
    let error = "@host".parse::<Reference>().unwrap_err();
    assert!(error.to_string().contains("missing before"), "{error}");
}
