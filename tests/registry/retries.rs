//! What may pass: a registry that is busy or broken for a while, and connections that end.

use super::*;
use std::time::{Duration, Instant};

#[test]
fn what_may_pass_is_tried_again() {
    for (status, headers) in [(429, &[("Retry-After", "0")][..]), (500, &[]), (503, &[])] {
        let count = AtomicUsize::new(0);
        let server =
            Server::lying(content(&["x"]), move |_, reply| match count.fetch_add(1, Ordering::SeqCst) {
                // Each request fails once.
                n if n % 2 == 0 => headers
                    .iter()
                    .fold(Reply::new(status, ""), |reply, (name, value)| reply.with(name, *value)),
                _ => reply,
            });
        Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap();
        assert_eq!(server.take_log().len(), 6, "{status}");
    }
    // Who says to come back in an hour is told on.
    let server = Server::start(|_| Reply::new(429, "").with("Retry-After", "3600"));
    let error = Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap_err();
    assert_eq!((error.kind(), server.take_log().len()), (ErrorKind::Network, 1), "{error}");
    assert!(error.remedy().unwrap().contains("3600"), "{error}");
}

/// What is asked for, with the query left out.
fn path(request: &Request) -> String {
    format!("{} {}", request.method, request.path.split('?').next().unwrap())
}

/// The first time that something is asked for, each connection ends or is broken in place of an answer.
#[test]
fn a_connection_that_ends_before_the_answer_is_made_anew() {
    for none in [Reply::none, Reply::reset] {
        let seen = Mutex::new(std::collections::BTreeSet::new());
        let image = Fixture::new(&["one", "two"]);
        let server = Server::lying(Content::of(REPOSITORY, "1", &image), move |request, reply| {
            if seen.lock().unwrap().insert(path(request)) { none() } else { reply }
        });
        let store = Store::temp().unwrap();
        let pull = Pull::new(server.name(NAME)).parallel(1);
        assert_eq!(*pull.run(&store).unwrap().id(), image.id());
        let mut asked: Vec<_> = server.take_log().iter().map(path).collect();
        assert_eq!(asked.len(), 8, "a manifest, a configuration and two layers, each twice: {asked:?}");
        asked.dedup();
        assert_eq!(asked.len(), 4, "one after the other: {asked:?}");
        // And the question whether it has changed.
        assert_eq!(*pull.run(&store).unwrap().id(), image.id());
        assert_eq!(server.take_log().len(), 2);
    }
    // Not for ever.
    for none in [Reply::none, Reply::reset] {
        let server = Server::start(move |_| none());
        let error = Pull::new(server.name(NAME)).retries(2).run(&Store::temp().unwrap()).unwrap_err();
        assert_eq!((error.kind(), server.take_log().len()), (ErrorKind::Network, 3), "{error}");
    }
}

/// A connection that is broken (RST) with a part of the layer on its way: what came counts.
#[test]
fn a_layer_whose_connection_is_broken_goes_on() {
    let image = noise(2_000_000);
    let broken = AtomicUsize::new(0);
    let server = Server::lying(Content::of(REPOSITORY, "1", &image), move |request, mut reply| {
        if request.is_blob() && reply.body.len() > 1_000_000 && broken.fetch_add(1, Ordering::SeqCst) < 3 {
            reply.body.truncate(reply.body.len() / 2);
            reply.reset = true;
        }
        reply
    });
    let store = Store::temp().unwrap();
    assert_eq!(*Image::pull(&store, &server.name(NAME)).unwrap().id(), image.id());
    assert!(store.verify().unwrap().is_sound());
    let log = server.take_log();
    let ranges: Vec<_> = log.iter().filter_map(|request| request.header("range")).collect();
    assert!(!ranges.is_empty(), "nothing of what had come counted");
}

/// Retry-After in seconds, and without it longer each time.
#[test]
fn each_try_comes_later_than_the_one_before() {
    for (header, least) in [(Some("1"), [1000, 1000, 1000]), (None, [200, 400, 800])] {
        let times = Arc::new(Mutex::new(Vec::new()));
        let asked = times.clone();
        let server = Server::start(move |_| {
            asked.lock().unwrap().push(Instant::now());
            let reply = Reply::new(503, "");
            header.map_or(Reply::new(503, ""), |seconds| reply.with("Retry-After", seconds))
        });
        let error = Pull::new(server.name(NAME)).retries(3).run(&Store::temp().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Network, "{error}");
        let times = times.lock().unwrap();
        let waited: Vec<_> = times.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(waited.len(), 3, "{waited:?}");
        for (waited, least) in waited.iter().zip(least) {
            assert!(*waited >= Duration::from_millis(least), "{header:?}: {waited:?} of {least} ms");
        }
    }
}
