//! What a registry has: all pages of it, and no more than a registry may say; Docker Hub's search, spoken by a server of the test's.

use super::auth::*;
use super::cli::*;
use super::common::distribution::Distribution;
use super::peers::*;
use super::*;

fn client(server: &Server) -> RegistryClient {
    RegistryClient::new(&server.authority()).unwrap().retries(0)
}

/// What a query says of a parameter.
fn parameter<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let query = request.path.split_once('?')?.1;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Pages of three names.
fn pages(names: &[String], request: &Request, key: &str, link: impl Fn(&str) -> String) -> Reply {
    let from =
        parameter(request, "last").map_or(0, |last| names.iter().position(|name| name == last).unwrap() + 1);
    let page = &names[from..names.len().min(from + 3)];
    let reply = Reply::new(200, json!({(key): page, "name": "x"}).to_string());
    match from + 3 < names.len() {
        true => reply.with("Link", link(&format!("/v2/_catalog?last={}&n=3", page[2]))),
        false => reply,
    }
}

#[test]
fn all_pages_are_read() {
    let names: Vec<String> = (0..10).map(|n| format!("team/app-{n}")).collect();
    // As registries write it: the path alone, the address as they think that it is, several links, no quotes.
    for form in [
        |to: &str| format!("<{to}>; rel=\"next\""),
        |to: &str| format!("<https://127.0.0.1:1{to}>;rel=next"),
        |to: &str| format!("<{to}x>; rel=\"prev\", <{to}>; title=\"a\"; rel=\"next\""),
    ] {
        let all = names.clone();
        let server = Server::start(move |request| pages(&all, request, "repositories", form));
        assert_eq!(client(&server).repositories().unwrap(), names);
        let log = server.take_log();
        assert_eq!(log.len(), 4);
        assert_eq!(log[0].path, "/v2/_catalog?n=1000");
    }
    let tags: Vec<String> = (0..7).map(|n| format!("{n}.0")).collect();
    let all = tags.clone();
    let server = Server::start(move |request| match request.path.starts_with("/v2/team/app/tags/list?") {
        true => pages(&all, request, "tags", |to| {
            format!("<{}>; rel=\"next\"", to.replace("_catalog", "team/app/tags/list"))
        }),
        false => Reply::new(404, ""),
    });
    assert_eq!(client(&server).tags("team/app").unwrap(), tags);
    assert_eq!(client(&server).tags("team/none").unwrap_err().kind(), ErrorKind::NotFound);
    for bad in ["", "App", "app:1", "a/../b"] {
        assert_eq!(client(&server).tags(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
    }
    // Nothing in it is said in two ways.
    for empty in [json!({"repositories": null}), json!({"repositories": []}), json!({})] {
        let server = Server::start(move |_| Reply::new(200, empty.to_string()));
        assert!(client(&server).repositories().unwrap().is_empty());
    }
}

#[test]
fn a_catalogue_that_lies_is_an_error() {
    let next = |reply: Reply, to: &str| reply.with("Link", format!("<{to}>; rel=\"next\""));
    let one = || Reply::new(200, json!({"repositories": ["a"]}).to_string());
    for (reply, kind) in [
        (Reply::new(200, "<html>"), ErrorKind::InvalidData),
        (
            Reply::new(200, json!({"repositories": ["Not\u{1b}[31m a name"]}).to_string()),
            ErrorKind::InvalidData,
        ),
        (Reply { endless: true, length: None, ..Reply::new(200, vec![b' '; 1 << 16]) }, ErrorKind::TooLarge),
        (
            next(Reply::new(200, json!({"repositories": []}).to_string()), "/v2/_catalog"),
            ErrorKind::InvalidData,
        ),
        (next(one(), "http://thief.example/v2/_catalog"), ErrorKind::InvalidData),
        (next(one(), "ftp://x"), ErrorKind::InvalidData),
        (Reply::new(403, ""), ErrorKind::PermissionDenied),
        (Reply::new(500, ""), ErrorKind::Network),
    ] {
        let reply = std::sync::Mutex::new(Some(reply));
        let server = Server::start(move |_| reply.lock().unwrap().take().unwrap_or(Reply::new(418, "")));
        let error = client(&server).repositories().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains("/v2/_catalog") && text.contains(&server.authority()), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn a_catalogue_is_shown_to_who_is_let_in() {
    let names: Vec<String> = (0..5).map(|n| format!("app-{n}")).collect();
    let server = Server::start(move |request| {
        let authorization = request.header("authorization");
        if request.path.starts_with("/token?") {
            let given =
                authorization == Some(BASIC) && request.path.contains("scope=registry%3Acatalog%3A%2A");
            return if given {
                Reply::new(200, json!({"token": TOKEN}).to_string())
            } else {
                Reply::new(401, "")
            };
        }
        match authorization == Some(&format!("Bearer {TOKEN}")) {
            true => pages(&names, request, "repositories", |to| format!("<{to}>; rel=\"next\"")),
            false => asks(&format!(
                r#"Bearer realm="http://{}/token",service="r""#,
                request.header("host").unwrap()
            )),
        }
    });
    assert_eq!(client(&server).credentials(me()).repositories().unwrap().len(), 5);
    let log = server.take_log();
    assert_eq!(log.iter().filter(|request| request.path.starts_with("/token")).count(), 1);
    assert_eq!(log.len(), 4);
    let error = client(&server).credentials(Credentials::anonymous()).repositories().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

/// What Docker Hub answers to a search, as far as it matters here.
fn hub(request: &Request) -> Reply {
    if !request.path.starts_with("/v1/search?") {
        return Reply::new(404, "");
    }
    let term = parameter(request, "q").filter(|term| !term.contains('%')).unwrap_or("found");
    let one = |name: String, stars: u64, official: bool| {
        json!({"name": name, "description": "a\tb\u{1b}[31m ".repeat(20), "star_count": stars,
            "is_official": official, "is_automated": false, "is_trusted": false})
    };
    let mut results = vec![one(term.to_owned(), 5000, true)];
    results.extend((0..60).map(|n| one(format!("user{n}/{term}"), n, false)));
    Reply::new(200, json!({"num_results": 61, "query": term, "results": results}).to_string())
}

#[test]
fn docker_hubs_search_api() {
    let server = Server::start(hub);
    let found = client(&server).search("debian", 30).unwrap();
    assert_eq!(server.take_log()[0].path, "/v1/search?q=debian&n=30");
    assert_eq!(found.len(), 30, "no more than was asked for, whatever comes");
    let first = &found[0];
    assert_eq!((first.name.as_str(), first.stars, first.official), ("debian", 5000, true));
    assert!(first.description.contains('\t') && !found[1].official);
    client(&server).search("a b&n=9", 1000).unwrap();
    assert_eq!(server.take_log()[0].path, "/v1/search?q=a%20b%26n%3D9&n=100");
    for (body, kind) in [
        ("7".to_owned(), ErrorKind::InvalidData),
        (json!({"results": [{"name": "../x"}]}).to_string(), ErrorKind::InvalidData),
        (json!({"results": [{}]}).to_string(), ErrorKind::InvalidData),
    ] {
        let server = Server::start(move |_| Reply::new(200, body.clone()));
        assert_eq!(client(&server).search("x", 1).unwrap_err().kind(), kind);
    }
}

#[test]
fn search_on_the_command_line() {
    let server = Server::start(hub);
    let (w, host) = (World::new(), server.authority());
    let out = w.ok(&["search", &format!("{host}/debian")]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 26, "{out}");
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]);
    assert!(lines[1].starts_with(&format!("{host}/debian ")) && lines[1].ends_with("5000    [OK]"), "{out}");
    assert!(lines[1].contains('…') && !out.contains(['\x1b', '\t']), "{out:?}");
    let format = |more: &[&str]| {
        w.ok(&[&["search", "--format", "{{.StarCount}}", &format!("{host}/x")], more].concat())
    };
    assert_eq!(format(&["--limit=2"]), "5000\n0\n");
    assert_eq!(format(&["--filter=is-official=true"]), "5000\n");
    assert_eq!(format(&["--filter=stars=23", "--filter=is-official=false"]), "23\n");
    for args in [["--limit=0", "x"], ["--limit=101", "x"], ["--list-tags", "x@y"]] {
        assert_ne!(w.run(&[&["search"], &args[..]].concat()).code, 0, "{args:?}");
    }
}

#[test]
#[ignore = "needs docker-registry and skopeo: run with --include-ignored"]
fn docker_registrys_catalogue_and_tags() {
    let registry = Distribution::start("");
    let dir = tempfile::tempdir().unwrap();
    let source = archive(dir.path(), &Fixture::new(&["one"]));
    let (w, host) = (World::new(), &registry.authority);
    for name in ["me/app:1", "me/app:2", "me/other:1", "tools:1"] {
        push(&source, &format!("docker://{host}/{name}"), &[]);
    }
    let client = RegistryClient::new(host).unwrap();
    assert_eq!(client.repositories().unwrap(), ["me/app", "me/other", "tools"]);
    // This one has them in its filesystem's order.
    let mut tags = client.tags("me/app").unwrap();
    tags.sort();
    assert_eq!(tags, ["1", "2"]);
    assert_eq!(client.tags("me/none").unwrap_err().kind(), ErrorKind::NotFound);
    // It has no search.
    let found = client.search("me/", 100).unwrap();
    assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["me/app", "me/other"]);
    let all = w.ok(&["search", "--format", "{{.Name}}", &format!("{host}/")]);
    assert_eq!(all, format!("{host}/me/app\n{host}/me/other\n{host}/tools\n"));
    let args = ["search", "--list-tags", "--format", "{{.Name}}:{{.Tag}}", &format!("{host}/me/app")];
    let out = w.ok(&args);
    let mut tags: Vec<_> = out.lines().collect();
    tags.sort_unstable();
    assert_eq!(tags, [format!("{host}/me/app:1"), format!("{host}/me/app:2")]);
}

/// More than docker-registry gives at once.
#[test]
#[ignore = "needs docker-registry: run with --include-ignored"]
fn docker_registrys_catalogue_is_read_to_its_end() {
    let registry = Distribution::start("");
    // As it keeps them itself; pushing so many takes longer.
    let repositories = registry.storage().join("docker/registry/v2/repositories");
    let mut names: Vec<_> = (0..2500).map(|n| format!("team{}/app{n}", n % 7)).collect();
    for name in &names {
        fs::create_dir_all(repositories.join(name).join("_layers")).unwrap();
    }
    names.sort();
    let client = RegistryClient::new(&registry.authority).unwrap();
    let mut found = client.repositories().unwrap();
    found.sort();
    assert_eq!(found, names);
    let pages = registry.take_access("/v2/_catalog");
    assert!(pages.iter().filter(|line| line.contains("/v2/_catalog")).count() >= 3, "{pages:#?}");
}
