//! A container's output, held open by somebody who outlives it.
use super::*;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Gives its stdout and stderr to whoever listens, and ends.
const GIVE: &str = "import socket, time
s = socket.socket(socket.AF_UNIX)
while True:
    try: s.connect('/shared/socket'); break
    except OSError: time.sleep(0.01)
socket.send_fds(s, [b'x'], [1, 2])
s.recv(1)
print('given')";

const TAKE: &str = "import socket, time
l = socket.socket(socket.AF_UNIX); l.bind('/shared/socket'); l.listen()
print('ready', flush=True)
kept = []
while True:
    c, _ = l.accept()
    kept.append(socket.recv_fds(c, 1, 2)); c.send(b'x')";

#[test]
#[ignore = "needs python3: run with --include-ignored"]
fn an_accomplice_keeps_the_output_open() {
    let image = host();
    let volume = coracle::Volume::create(image.store(), "shared").unwrap();
    let python = |script| {
        Container::builder(&image).command(["python3", "-c", script]).user("0").volume(&volume, "/shared")
    };
    let accomplice = ready(&python(TAKE));
    let (tell, told) = mpsc::channel();
    let builder = python(GIVE);
    std::thread::spawn(move || {
        let output = builder.run().unwrap();
        // A started one is watched by a thread, which cleans up after it.
        let container = builder.start().unwrap();
        container.wait().unwrap();
        let logs = container.logs(coracle::Stream::Stdout).unwrap();
        tell.send((text(&output.stdout), text(&logs)))
    });
    let given = told.recv_timeout(Duration::from_secs(30)).expect("the end of a container that has ended");
    assert_eq!(given, ("given".to_owned(), "given".to_owned()));
    let from = Instant::now();
    accomplice.kill(coracle::Signal::SIGKILL).unwrap();
    accomplice.wait().unwrap();
    assert!(from.elapsed() < Duration::from_secs(10));
}
