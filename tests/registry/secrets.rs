//! What is traced and logged while secrets travel: each of them, and every way that they take.

use super::auth::{BASIC, PASSWORD, TOKEN, asks, me, set};
use super::writable::Writable;
use super::*;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicBool;

const REFRESH: &str = "refresh-token-to-stay-with";
const SECOND: &str = "token-for-the-refresh-token";
const HELPED: &str = "kept-by-a-helper-program";
const SIGNED: &str = "signed-in-secret";
const LEVEL: &str = "CORACLE_TEST_LOG_LEVEL";

/// Of all events and records: where they are from, and all that they say.
static SEEN: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

fn see(target: &str, text: String) {
    SEEN.lock().unwrap().push((target.to_owned(), text));
}

struct Records {
    /// As `trace,ureq=debug,ureq_proto=debug` does.
    filters: bool,
}

impl log::Log for Records {
    fn enabled(&self, of: &log::Metadata<'_>) -> bool {
        !self.filters || !of.target().starts_with("ureq") || of.level() <= log::Level::Debug
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            see(record.target(), record.args().to_string());
        }
    }

    fn flush(&self) {}
}

struct Events;

struct Text(String);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl tracing::Subscriber for Events {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut text = Text(String::new());
        span.record(&mut text);
        see(span.metadata().target(), text.0);
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        let mut text = Text(String::new());
        values.record(&mut text);
        see("a span", text.0);
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        see(event.metadata().target(), text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Who has no token is sent for one. Blobs are elsewhere, at a signed address, and what is asked for first fails, with words
/// that repeat what it was told.
fn registry(held: Arc<Writable>) -> (Server, Server) {
    let blobs = held.clone();
    let elsewhere =
        Server::start(move |request| match request.path.strip_suffix(&format!("?signature={SIGNED}")) {
            Some(path) => blobs.reply(&Request { path: path.to_owned(), ..request.clone() }),
            None => Reply::new(403, ""),
        });
    let (there, failed) = (elsewhere.authority(), AtomicBool::new(false));
    let server = Server::start(move |request| {
        let authorization = request.header("authorization").unwrap_or_default();
        if request.path.starts_with("/token") {
            return match (request.method.as_str(), authorization) {
                ("GET", BASIC) => {
                    Reply::new(200, json!({"token": TOKEN, "refresh_token": REFRESH}).to_string())
                }
                ("POST", _) if request.body.contains(REFRESH) => {
                    Reply::new(200, json!({"access_token": SECOND}).to_string())
                }
                _ => Reply::new(401, ""),
            };
        }
        if ![format!("Bearer {TOKEN}"), format!("Bearer {SECOND}")].iter().any(|known| known == authorization)
        {
            return asks(&format!(
                r#"Bearer realm="http://{}/token",service=s"#,
                request.header("host").unwrap()
            ));
        }
        if !failed.swap(true, Ordering::SeqCst) {
            let said = json!({"errors": [{"code": "UNAVAILABLE", "message": authorization}]});
            return Reply::new(503, said.to_string()).with("Retry-After", "0");
        }
        match request.method.as_str() {
            _ if request.path == "/v2/" => Reply::new(200, "{}"),
            "GET" if request.is_blob() => Reply::new(307, "")
                .with("Location", format!("http://{there}{}?signature={SIGNED}", request.path)),
            _ => held.reply(request),
        }
    });
    (server, elsewhere)
}

/// Login, push and pull, with tokens, a password and a helper.
fn everything() {
    let dir = tempfile::tempdir().unwrap();
    set("REGISTRY_AUTH_FILE", &dir.path().join("auth.json"));
    let store = Store::temp().unwrap();
    let archive = dir.path().join("image.tar");
    fs::write(&archive, docker_archive(&[(&Fixture::new(&["one", "two"]), &["app:1"])])).unwrap();
    let image = Image::load(&store, &archive).unwrap().remove(0);
    let (server, _elsewhere) = registry(Arc::default());
    let name = server.name(NAME);
    // A password for a token, for pushing and pulling.
    coracle::Push::new(&name).credentials(me()).run(&image).unwrap();
    Pull::new(&name).credentials(me()).run(&Store::temp().unwrap()).unwrap();
    // One to stay with, which is kept, found, and changed for another.
    RegistryClient::new(&server.authority()).unwrap().login(&me()).unwrap();
    Image::pull(&Store::temp().unwrap(), &name).unwrap();
    let log = server.take_log();
    assert!(log.iter().any(|request| request.header("authorization") == Some(&format!("Bearer {SECOND}"))));

    // A password with each request, from a helper, where something fails for good.
    let helper = dir.path().join("docker-credential-test");
    fs::write(&helper, format!("#!/bin/sh\necho '{{\"Username\":\"me\",\"Secret\":\"{HELPED}\"}}'\n"))
        .unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    set("PATH", path.as_ref());
    fs::write(dir.path().join("auth.json"), json!({"credsStore": "test"}).to_string()).unwrap();
    let server = Server::start(|request| match request.header("authorization") {
        None => asks("Basic realm=\"registry\""),
        Some(told) => Reply::new(500, json!({"errors": [{"code": "X", "message": told}]}).to_string()),
    });
    // As a mirror, too: its error is traced.
    let pull = Pull::new("localhost:1/me/app:1").mirror("localhost:1", server.authority()).retries(1);
    pull.run(&Store::temp().unwrap()).unwrap_err();
    assert!(server.take_log().len() >= 3);
}

/// The secrets, and as they travel.
fn secrets() -> Vec<String> {
    use base64::prelude::*;
    let helped = BASE64_STANDARD.encode(format!("me:{HELPED}"));
    [PASSWORD, TOKEN, REFRESH, SECOND, HELPED, SIGNED, &BASIC[6..], &helped].map(str::to_owned).to_vec()
}

/// What the HTTP library logs in rows of sixteen, put together.
fn rows(seen: &[(String, String)]) -> String {
    let rows = seen.iter().filter(|(target, _)| target.starts_with("ureq_proto"));
    rows.filter_map(|(_, text)| text.get(text.len().checked_sub(16)?..)).collect()
}

#[test]
fn no_secret_is_in_a_trace_or_a_log() {
    let Ok(level) = std::env::var(LEVEL) else {
        for level in ["trace", "filtered", "debug"] {
            let test = "secrets::no_secret_is_in_a_trace_or_a_log";
            passes(child(test, &[(LEVEL, level.as_ref())]));
        }
        return;
    };
    log::set_boxed_logger(Box::new(Records { filters: level == "filtered" })).unwrap();
    log::set_max_level(if level == "debug" { log::LevelFilter::Debug } else { log::LevelFilter::Trace });
    tracing::subscriber::set_global_default(Events).unwrap();
    everything();

    let seen = SEEN.lock().unwrap();
    let ours = seen.iter().filter(|(target, _)| target.starts_with("coracle"));
    assert!(ours.clone().any(|(_, text)| text.contains("tried again") && text.contains('…')), "{seen:?}");
    assert!(ours.clone().any(|(_, text)| text.contains("a mirror that does not have it")), "{seen:?}");
    assert!(seen.iter().any(|(target, _)| target.starts_with("ureq")), "the library's are seen, too");
    // What is documented of it where the registry's module is: at this level it logs what it sends. If it no longer does, say so.
    let is_trace = level == "trace";
    assert_eq!(rows(&seen).contains(TOKEN), is_trace, "{}", rows(&seen));
    for (target, text) in seen.iter().filter(|(target, _)| !is_trace || !target.starts_with("ureq")) {
        for secret in secrets() {
            assert!(!text.contains(&secret), "{target}: {text}");
        }
    }
}
