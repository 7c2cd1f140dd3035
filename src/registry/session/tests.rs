//! Tokens that end by their time, which no test can wait for.

use super::super::http::Settings;
use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A registry with its token service, for so many requests: their first lines, with what authorised them.
fn serve(listener: TcpListener, requests: usize) -> std::thread::JoinHandle<Vec<String>> {
    let one = move |listener: &TcpListener| {
        let (mut connection, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(connection.try_clone().unwrap()).lines().map(|line| line.unwrap());
        let mut said = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        for line in lines.take_while(|line| !line.is_empty()) {
            if line.to_lowercase().starts_with("authorization:") {
                said = format!("{said} by {}", &line["authorization: ".len()..]);
            }
        }
        let body = if said.contains("/token?") { r#"{"token":"new","expires_in":300}"# } else { "" };
        let length = body.len();
        write!(connection, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
            .unwrap();
        said
    };
    std::thread::spawn(move || (0..requests).map(|_| one(&listener)).collect())
}

#[test]
fn a_token_that_has_ended_is_renewed_before_it_is_sent() {
    for (left, wanted) in [
        (Duration::from_secs(60), &["HEAD /v2/me/app/manifests/1 by Bearer old"][..]),
        (
            Duration::ZERO,
            &[
                "GET /token?service=s&scope=repository%3Ame%2Fapp%3Apull",
                "HEAD /v2/me/app/manifests/1 by Bearer new",
            ],
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let served = serve(listener, wanted.len());
        let client = Client::of(&Settings::default(), &host).unwrap();
        let name = format!("{host}/me/app:1").parse().unwrap();
        let session = Session::new(client, &name, Some(Credentials::anonymous())).unwrap();
        let challenge = Challenge::Bearer {
            realm: format!("http://{host}/token"),
            service: Some("s".into()),
            scope: None,
        };
        let until = Instant::now() + left;
        *session.auth.lock().unwrap() = Auth::Bearer { header: Secret::new("Bearer old"), until, challenge };
        session.head_manifest("1").unwrap();
        assert_eq!(served.join().unwrap(), wanted);
        // Some seconds before it really ends.
        let Auth::Bearer { until, .. } = &*session.auth.lock().unwrap() else { panic!("no token") };
        let left = until.duration_since(Instant::now());
        let most = if wanted.len() == 1 { 60 } else { 290 };
        assert!(left.as_secs() < most && left.as_secs() + 20 > most, "{left:?} of {most} s");
    }
}
