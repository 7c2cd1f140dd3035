//! Clients that mean no good, or none too well.

use super::*;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// What a fresh connection is answered to these bytes, and whether that ends it.
fn raw(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> (Option<u16>, bool) {
    let mut connection = Connection::to(addr);
    connection.send(bytes);
    let answer = connection.answer(false);
    (answer.map(|answer| answer.status), connection.is_closed())
}

#[test]
fn no_request_is_hidden_in_another() {
    let world = World::new();
    let digest = world.blob("me/app", b"{}");
    let hidden = format!("DELETE /v2/me/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let post = "POST /v2/me/app/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\n";
    let put = "PUT /v2/me/app/manifests/1 HTTP/1.1\r\nHost: localhost\r\n";
    let n = hidden.len();
    for (bytes, status) in [
        // Two lengths, in one way or another.
        (format!("{post}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"), 400),
        (format!("{post}Transfer-Encoding: chunked\r\nContent-Length: {n}\r\n\r\n0\r\n\r\n{hidden}"), 400),
        (format!("{post}Content-Length: 0\r\nContent-Length: {n}\r\n\r\n{hidden}"), 400),
        (format!("{post}Content-Length: 0, {n}\r\n\r\n{hidden}"), 400),
        (format!("{post}Content-Length: +0\r\n\r\n{hidden}"), 400),
        (format!("{post}Content-Length : 0\r\n\r\n{hidden}"), 400),
        (format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n{hidden}"), 501),
        (format!("{post}Transfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n{hidden}"), 501),
        (format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"), 400),
        (format!("{post}Transfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n{hidden}"), 400),
        (format!("{post}X: y\r\n Content-Length: 0\r\n\r\n{hidden}"), 400),
        // Lines that some end and others don't.
        (format!("{post}X: y\nContent-Length: 0\r\n\r\n{hidden}"), 400),
        (format!("{post}X: y\rContent-Length: 0\r\n\r\n{hidden}"), 400),
        (format!("{}\n\n{hidden}", post.replace("\r\n", "\n")), 400),
        ("GET /v2/ HTTP/1.1\rHost: localhost\r\n\r\n".into(), 400),
        ("GET /v2/\0 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 400),
        // Chunks that are no chunks.
        (format!("{put}Transfer-Encoding: chunked\r\n\r\n0x2\r\n{{}}\r\n0\r\n\r\n"), 400),
        (format!("{put}Transfer-Encoding: chunked\r\n\r\n-2\r\n{{}}\r\n0\r\n\r\n"), 400),
        (format!("{put}Transfer-Encoding: chunked\r\n\r\n2 \r\n{{}}\r\n0\r\n\r\n"), 400),
        (format!("{put}Transfer-Encoding: chunked\r\n\r\n1\r\n{{}}\r\n0\r\n\r\n"), 400),
        (format!("{put}Transfer-Encoding: chunked\r\n\r\n2\n{{}}\r\n0\r\n\r\n"), 400),
        (format!("{put}Transfer-Encoding: chunked\r\n\r\n2;\n\r\n{{}}\r\n0\r\n\r\n"), 400),
        (format!("{put}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{{}}\r\n0\r\n\r\n"), 400),
        (format!("{put}Transfer-Encoding: chunked\r\n\r\n2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(300)), 400),
        // Nobody's host, or two.
        ("GET /v2/ HTTP/1.1\r\n\r\n".into(), 400),
        ("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nHost: y\r\n\r\n".into(), 400),
        // Other protocols.
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("GET /v2/ HTTP/0.9\r\n\r\n".into(), 505),
        ("\u{16}\u{3}\u{1}\r\n\r\n".into(), 400),
    ] {
        assert_eq!(raw(world.addr(), &bytes), (Some(status), true), "{bytes:?}");
    }
    // And what was hidden was never done.
    world.get(&format!("/v2/me/app/blobs/{digest}")).expect(200);
    // Two requests after one another are two.
    let mut connection = Connection::to(world.addr());
    connection.send(
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v2/_catalog HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert_eq!(connection.answer(false).unwrap().json(), json!({}));
    assert_eq!(connection.answer(false).unwrap().json(), json!({"repositories": []}));
    // What a refused request brings along is not the next one.
    connection.send(format!(
        "PUT /v2/me/app/tags/list HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n}\r\n\r\n{hidden}"
    ));
    connection.answer(false).unwrap().expect(405);
    connection.ask("GET", "/v2/", &[], b"").expect(200);
    world.get(&format!("/v2/me/app/blobs/{digest}")).expect(200);
}

#[test]
fn heads_are_bounded() {
    let world = World::with(Registry::builder().header_max(4096));
    let long = "x".repeat(5000);
    for bytes in [
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        format!("GET /v2/ HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(101)),
        // One that has no end.
        long.clone(),
    ] {
        assert_eq!(raw(world.addr(), &bytes), (Some(431), true));
    }
}

#[test]
fn no_name_leads_out_of_the_store() {
    let world = World::new();
    world.push("me/app", "1", &Fixture::new(&["one"]));
    let outside = tempfile::NamedTempFile::new_in(world.store.path().parent().unwrap()).unwrap();
    let file = outside.path().file_name().unwrap().to_str().unwrap();
    for path in [
        "/v2/../../etc/passwd",
        "/v2/me/app/blobs/../../../../etc/passwd",
        "/v2/me/app/blobs/sha256:../../../../../etc/passwd",
        "/v2/me/app/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd",
        "/v2/%2e%2e/%2e%2e/manifests/1",
        "/v2/me/../app/manifests/1",
        "/v2//manifests/1",
        "/v2/me//app/manifests/1",
        "/v2/me/app/manifests/..",
        "/v2/me/app/manifests/%2e%2e%2findex.json",
        "/v2/me/app%00/manifests/1",
        "/v2/me/app/blobs/uploads/../../../../index.json",
        "/v2/me/app/blobs/uploads/..%2f..%2findex.json",
        &format!("/v2/me/app/blobs/uploads/..%2f..%2f..%2f{file}"),
        "/v2/..%2f..%2fblobs/manifests/1",
        "/v2/me/app/referrers/sha256:%2e%2e%2f",
    ] {
        for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
            let status = ask(world.addr(), method, path, &[], b"").status;
            assert!([400, 404, 405].contains(&status), "{method} {path}: {status}");
        }
    }
    assert!(outside.path().exists());
    assert!(world.store.verify().unwrap().is_sound());
}

#[test]
fn bodies_are_bounded() {
    let world = World::with(Registry::builder().blob_max(1000));
    let content = vec![1; 1001];
    let path = format!("/v2/me/app/blobs/uploads/?digest={}", Digest::of(&content));
    ask(world.addr(), "POST", &path, &[], &content).fails(413, "SIZE_INVALID");
    // Who says so before is told before anything is sent.
    let mut connection = Connection::to(world.addr());
    connection.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n"
    ));
    connection.answer(false).unwrap().expect(413);
    assert!(connection.is_closed());
    // One without an end, in one request and in many.
    let mut connection = Connection::to(world.addr());
    let place = world.begin("me/app");
    connection
        .send(format!("PATCH {place} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"));
    while connection.send(format!("64\r\n{}\r\n", "x".repeat(100))) && connection.has_nothing_yet() {}
    connection.answer(false).unwrap().fails(413, "SIZE_INVALID");
    let place = world.begin("me/app");
    for _ in 0..10 {
        ask(world.addr(), "PATCH", &place, &[], &content[..100]).expect(202);
    }
    ask(world.addr(), "PATCH", &place, &[], b"x").fails(413, "SIZE_INVALID");
    world.get(&place).expect(404);
    assert_eq!(files_below(&world.store), 0);
}

/// What lies in the inboxes of a store's registries.
pub fn files_below(store: &Store) -> usize {
    let inboxes = std::fs::read_dir(store.path().join("tmp")).unwrap();
    inboxes.map(|inbox| count(inbox.unwrap().path())).sum()
}

#[test]
fn a_body_that_breaks_off_leaves_what_came_to_go_on_with_and_no_blob() {
    let world = World::new();
    let content = vec![3; 300_000];
    let digest = Digest::of(&content);
    let place = world.begin("me/app");
    {
        let mut connection = Connection::to(world.addr());
        connection
            .send(format!("PATCH {place} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n"));
        connection.send(&content[..200_000]);
        connection.hang_up();
        assert!(connection.answer(false).is_none());
    }
    let range = world.get(&place).expect(204).header("range").unwrap().to_owned();
    assert_eq!(range, "0-199999");
    world.head(&format!("/v2/me/app/blobs/{digest}")).expect(404);
    let headers = [("Content-Range", "200000-299999")];
    ask(world.addr(), "PUT", &format!("{place}?digest={digest}"), &headers, &content[200_000..]).expect(201);
    assert_eq!(world.get(&format!("/v2/me/app/blobs/{digest}")).body, content);
    // All at once there is nothing to go on with.
    let before = files_below(&world.store);
    let mut connection = Connection::to(world.addr());
    let other = Digest::of(b"never all of it");
    connection.send(format!(
        "POST /v2/me/app/blobs/uploads/?digest={other} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\nnever"
    ));
    connection.hang_up();
    assert!(connection.answer(false).is_none());
    assert_eq!(files_below(&world.store), before);
}

#[test]
fn who_is_slow_is_shown_out() {
    // For who does nothing, and long for who does.
    let short = Duration::from_secs(1);
    let world = World::with(Registry::builder().header_timeout(short).idle_timeout(short));
    // Nothing at all; a head that never ends; one that comes by the byte, for longer than it may.
    assert_eq!(raw(world.addr(), ""), (Some(408), true));
    assert_eq!(raw(world.addr(), "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX:"), (Some(408), true));
    let mut connection = Connection::to(world.addr());
    let begun = Instant::now();
    connection.send("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: ");
    while connection.send("y") && connection.has_nothing_yet() {
        assert!(begun.elapsed() < PATIENCE, "it may go on for ever");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    connection.answer(false).unwrap().expect(408);
    // A body that stops.
    let place = world.begin("me/app");
    let mut connection = Connection::to(world.addr());
    connection.send(format!("PATCH {place} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf"));
    connection.answer(false).unwrap().expect(408);
    // After an answer nobody is told: there was no request.
    let mut connection = Connection::to(world.addr());
    connection.ask("GET", "/v2/", &[], b"").expect(200);
    assert!(connection.answer(false).is_none());
}

#[test]
fn who_does_not_read_is_shown_out() {
    let world = World::with(Registry::builder().idle_timeout(Duration::from_secs(1)));
    // More than the sockets' buffers hold.
    let digest = world.blob("me/app", &vec![9; 32 << 20]);
    let mut connection = Connection::to(world.addr());
    connection.send(format!("GET /v2/me/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert!(!connection.has_nothing_yet_for(PATIENCE));
    let World { store, registry } = world;
    // The connection's thread has given up, or does so now: it holds nobody up.
    drop(registry);
    assert_eq!(count(store.path().join("tmp")), 0);
    assert!(connection.rest() < 32 << 20);
}

#[test]
fn a_hundred_connections_are_served_and_one_more_is_told_to_come_back() {
    let world = World::with(Registry::builder().connections_max(100));
    let mut all: Vec<_> = (0..100).map(|_| Connection::to(world.addr())).collect();
    for connection in &mut all {
        connection.ask("GET", "/v2/", &[], b"").expect(200);
    }
    let refused = world.get("/v2/").fails(503, "TOOMANYREQUESTS");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Of still more none is told, and none does any harm.
    let silent: Vec<_> = (0..50).map(|_| Connection::to(world.addr())).collect();
    for connection in &mut all {
        connection.ask("GET", "/v2/", &[], b"").expect(200);
    }
    drop(silent);
    drop(all);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut connection = Connection::to(world.addr());
        connection.send("GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if connection.answer(false).is_some_and(|answer| answer.status == 200) {
            break;
        }
        assert!(Instant::now() < deadline, "the places are not free again");
    }
}

#[test]
fn a_hundred_clients_push_at_once() {
    let world = World::with(Registry::builder().connections_max(100));
    let (addr, barrier) = (world.addr(), Arc::new(Barrier::new(100)));
    let threads: Vec<_> = (0..100)
        .map(|n| {
            let barrier = barrier.clone();
            std::thread::spawn(move || {
                let mut connection = Connection::to(addr);
                barrier.wait();
                let content = format!("content {}", n % 50).repeat(5000);
                let digest = Digest::of(content.as_bytes());
                let path = format!("/v2/me/app{}/blobs/uploads/?digest={digest}", n % 7);
                connection.ask("POST", &path, &[], content.as_bytes()).expect(201);
                let path = format!("/v2/me/app{}/blobs/{digest}", n % 7);
                assert_eq!(connection.ask("GET", &path, &[], b"").body, content.as_bytes());
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(files_below(&world.store), 50);
}

#[test]
fn uploads_are_bounded_and_have_no_descriptor() {
    // Other tests have hundreds of connections.
    if !is_own_process("hostile::uploads_are_bounded_and_have_no_descriptor") {
        return;
    }
    let world = World::with(Registry::builder().uploads_max(2000));
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut connection = Connection::to(world.addr());
    let before = open();
    for n in 0..2000 {
        let place = connection.ask("POST", "/v2/me/app/blobs/uploads/", &[], b"").expect(202);
        if n % 10 == 0 {
            connection.ask("PATCH", place.header("location").unwrap(), &[], b"some").expect(202);
        }
    }
    assert!(open() < before + 20, "{} descriptors", open());
    let refused = connection.ask("POST", "/v2/me/app/blobs/uploads/", &[], b"").fails(429, "TOOMANYREQUESTS");
    assert_eq!(refused.header("retry-after"), Some("60"));
    let path = format!("/v2/me/app/blobs/uploads/?digest={}", Digest::of(b"x"));
    connection.ask("POST", &path, &[], b"x").fails(429, "TOOMANYREQUESTS");
    connection.ask("GET", "/v2/", &[], b"").expect(200);
}

#[test]
fn uploads_that_are_left_alone_go() {
    let world = World::with(Registry::builder().upload_timeout(Duration::ZERO));
    let place = world.begin("me/app");
    // It may be too old already.
    ask(world.addr(), "PATCH", &place, &[], b"some");
    let digest = world.blob("me/app", b"alone");
    // Whoever comes next finds them too old.
    world.begin("me/app");
    world.get(&place).fails(404, "BLOB_UPLOAD_UNKNOWN");
    world.get(&format!("/v2/me/app/blobs/{digest}")).fails(404, "BLOB_UNKNOWN");
    assert_eq!(files_below(&world.store), 0);
}

#[test]
fn two_do_not_write_to_one_upload() {
    let world = World::new();
    let place = world.begin("me/app");
    let mut first = Connection::to(world.addr());
    first.send(format!(
        "PATCH {place} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    ));
    assert!(first.is_continued());
    for method in ["PATCH", "PUT", "GET", "DELETE"] {
        let path = format!("{place}?digest={}", Digest::of(b"some"));
        ask(world.addr(), method, &path, &[], b"").fails(409, "BLOB_UPLOAD_INVALID");
    }
    first.send("some");
    first.answer(false).unwrap().expect(202);
}
