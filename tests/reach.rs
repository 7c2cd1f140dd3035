//! Reaching into containers: connections, published ports, waiting until they are ready.
//!
//! The servers are this test program itself, bind-mounted into containers on the host's own image.

mod common;

use common::Reserved;
use coracle::{Container, ContainerBuilder, ErrorKind, Image, Network, Ready, State, Store};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(20);

/// Not a test of its own: what runs in the containers.
#[test]
fn server() {
    let Ok(address) = std::env::var("REACH_SERVE") else { return };
    let listener = TcpListener::bind(&address).unwrap();
    let name = std::env::var("REACH_NAME").unwrap_or_default();
    println!("serving {address}");
    for stream in listener.incoming() {
        let (mut stream, name) = (stream.unwrap(), name.clone());
        std::thread::spawn(move || {
            // Says its name, then gives back what it gets; at the end of that, how much it was.
            stream.write_all(name.as_bytes()).unwrap();
            let (mut chunk, mut total) = (vec![0; 64 << 10], 0);
            loop {
                match stream.read(&mut chunk).unwrap() {
                    0 => break,
                    len => {
                        total += len;
                        stream.write_all(&chunk[..len]).unwrap();
                        if chunk[..len].ends_with(b"exit!") {
                            std::process::exit(7);
                        }
                    }
                }
            }
            stream.write_all(format!("={total}").as_bytes()).unwrap();
        });
    }
}

fn host() -> (Store, Image) {
    let store = Store::temp().unwrap();
    let image = Image::host(&store).unwrap();
    (store, image)
}

fn serving(image: &Image, address: &str, name: &str) -> ContainerBuilder {
    Container::builder(image)
        .bind(std::env::current_exe().unwrap(), "/server")
        .command(["/server", "--exact", "server", "--nocapture"])
        .env("REACH_SERVE", address)
        .env("REACH_NAME", name)
}

fn talk(mut stream: TcpStream, text: &str) -> String {
    stream.set_read_timeout(Some(TIME)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_same_port_in_several_containers() {
    let (_store, image) = host();
    let start = |name: &str| serving(&image, "127.0.0.1:8080", name).start().unwrap();
    let containers = ["one ", "two ", "three "].map(|name| (name, start(name)));
    for (name, container) in &containers {
        container.wait_until(Ready::port(8080), TIME).unwrap();
        let stream = container.connect(8080).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(talk(stream, "hello"), format!("{name}hello=5"));
    }
    let error = containers[0].1.connect(8081).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(111), "{error}");
    assert!(error.remedy().unwrap().contains("wait_until"), "{error}");
    let error = containers[0].1.host_addr(8080).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
#[ignore = "needs IPv6 in the kernel: run with --include-ignored"]
fn a_server_on_ipv6_alone() {
    let (_store, image) = host();
    let container = serving(&image, "[::1]:8080", "six ").publish(8080).start().unwrap();
    container.wait_until(Ready::log("serving"), TIME).unwrap();
    assert_eq!(talk(container.connect(8080).unwrap(), "x"), "six x=1");
    assert_eq!(talk(TcpStream::connect(container.host_addr(8080).unwrap()).unwrap(), "x"), "six x=1");
}

#[test]
fn the_hosts_network_is_reached_directly() {
    let (_store, image) = host();
    let reserved = Reserved::new();
    let free = reserved.address;
    let container = serving(&image, &free.to_string(), "host ")
        .network(Network::host())
        .publish(free.port())
        .start()
        .unwrap();
    container.wait_until(Ready::port(free.port()), TIME).unwrap();
    assert_eq!(talk(container.connect(free.port()).unwrap(), "x"), "host x=1");
    assert_eq!(container.host_addr(free.port()).unwrap(), free);
    assert_eq!(talk(TcpStream::connect(free).unwrap(), "x"), "host x=1");
}

/// The port of a container that starts again may be another's by then: its command has not begun when that is told.
#[test]
fn where_a_port_is_taken_nothing_runs() {
    let (_store, image) = host();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let container = Container::builder(&image)
        .command(["sh", "-c", "echo >/ran/it; sleep 1000"])
        .bind(dir.path(), "/ran")
        .publish_at(taken.local_addr().unwrap(), 80)
        .create()
        .unwrap();
    for _ in 0..20 {
        let error = container.start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
        assert_eq!(container.state(), State::Created);
    }
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    let address = taken.local_addr().unwrap();
    drop(taken);
    container.start().unwrap();
    assert_eq!(container.host_addr(80).unwrap(), address);
}

#[test]
fn published_ports_carry_both_ways_and_end_with_the_container() {
    let (store, image) = host();
    let container = serving(&image, "127.0.0.1:8080", "hi ").publish(8080).start().unwrap();
    let address = container.host_addr(8080).unwrap();
    assert!(address.ip().is_loopback() && address.port() != 0);
    container.wait_until(Ready::port(8080), TIME).unwrap();
    // Another handle, as another program has it, finds it too.
    let other = store.container(container.id()).unwrap();
    assert_eq!(other.host_addr(8080).unwrap(), address);
    assert_eq!(other.state(), State::Running);
    assert_eq!(talk(other.connect(8080).unwrap(), "x"), "hi x=1");
    other.wait_until(Ready::port(8080), TIME).unwrap();
    other.wait_until(Ready::exec(["true"]), TIME).unwrap();
    assert_eq!(other.wait_until(Ready::log("serving"), TIME).unwrap_err().kind(), ErrorKind::Unsupported);
    drop(other);

    // More than all buffers on the way: both directions are busy at once, and a half-closed end is passed on.
    let threads: Vec<_> = (0..8)
        .map(|n: u8| {
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(TIME)).unwrap();
                let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i as u8).wrapping_mul(31) ^ n).collect();
                let (mut writer, data) = (stream.try_clone().unwrap(), sent.clone());
                let writer = std::thread::spawn(move || {
                    writer.write_all(&data).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                writer.join().unwrap();
                assert!(got == [b"hi ", &sent[..], b"=3000000"].concat(), "{} bytes came back", got.len());
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());

    // The last words of a server that ends arrive; then the port is closed.
    let mut idle = TcpStream::connect(address).unwrap();
    idle.set_read_timeout(Some(TIME)).unwrap();
    let mut last = TcpStream::connect(address).unwrap();
    last.set_read_timeout(Some(TIME)).unwrap();
    last.write_all(b"exit!").unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hi exit!");
    assert_eq!(container.wait().unwrap().code(), Some(7));
    assert!(TcpStream::connect(address).is_err(), "the port is still open");
    let mut answer = Vec::new();
    // The end or a reset, but not a connection that hangs.
    if let Err(error) = idle.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(container.host_addr(8080).unwrap_err().kind(), ErrorKind::State);
}

#[test]
fn published_ports_go_with_the_handle() {
    let (_store, image) = host();
    let reserved = Reserved::new();
    let address = reserved.address;
    let container = serving(&image, "127.0.0.1:8080", "").publish_at(address, 8080).start().unwrap();
    container.wait_until(Ready::port(8080), TIME).unwrap();
    assert_eq!(container.host_addr(8080).unwrap(), address);
    let mut idle = TcpStream::connect(address).unwrap();
    drop(container);
    assert!(TcpStream::connect(address).is_err());
    idle.set_read_timeout(Some(TIME)).unwrap();
    let ended = idle.read(&mut [0]);
    let hangs = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!hangs, "the connection stays");
    // The same address again, at once.
    let again = serving(&image, "127.0.0.1:8080", "again ").publish_at(address, 8080).start().unwrap();
    again.wait_until(Ready::port(8080), TIME).unwrap();
    assert_eq!(talk(TcpStream::connect(address).unwrap(), "x"), "again x=1");
}

#[test]
fn a_taken_address_is_an_error_and_nothing_runs() {
    let (store, image) = host();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let created =
        Container::builder(&image).command(["sleep", "1000"]).publish_at(address, 80).create().unwrap();
    let error = created.start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_ne!(created.state(), State::Running);
    drop(created);
    assert!(store.containers().unwrap().is_empty());
}

fn shell(image: &Image, script: &str) -> Container {
    Container::builder(image).command(["sh", "-c", script]).start().unwrap()
}

#[test]
fn ready_when_it_is() {
    let (_store, image) = host();
    let container = shell(&image, "echo out; echo all set >&2; touch /ready; exec sleep 1000");
    container.wait_until(Ready::log("all set"), TIME).unwrap();
    container.wait_until(Ready::log("out"), TIME).unwrap();
    container.wait_until(Ready::exec(["test", "-e", "/ready"]), TIME).unwrap();
    let error = container.wait_until(Ready::exit(), Duration::from_millis(5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    container.kill(coracle::Signal::SIGKILL).unwrap();
    container.wait_until(Ready::exit(), TIME).unwrap();
    container.wait_until(Ready::exit(), TIME).unwrap();
}

#[test]
fn errors_carry_the_last_output() {
    let (_store, image) = host();
    let patient = shell(&image, "echo on its way; exec sleep 1000");
    patient.wait_until(Ready::log("on its way"), TIME).unwrap();
    for ready in [
        Ready::port(80),
        Ready::http(80, "/"),
        Ready::log("never"),
        Ready::exec(["false"]),
        Ready::exec(["/no/such/program"]),
    ] {
        let text = format!("{ready}");
        let error = patient.wait_until(ready, Duration::from_millis(60)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert!(error.to_string().contains("on its way"), "{error}");
        assert!(error.to_string().contains(&text), "{error}");
    }
    for ready in [Ready::port(80), Ready::http(80, "/"), Ready::log("never"), Ready::exec(["false"])] {
        let hasty =
            shell(&image, "head -c 100000 /dev/zero | tr '\\0' y; printf 'no\\033[2Jdatabase' >&2; exit 3");
        let begun = Instant::now();
        let error = hasty.wait_until(ready, TIME).unwrap_err();
        assert!(begun.elapsed() < TIME / 2);
        assert_eq!(error.kind(), ErrorKind::State, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("no\u{fffd}[2Jdatabase") && text.contains("yyy") && text.contains('3'),
            "{text}"
        );
        assert!(text.len() < 3000, "{}", text.len());
    }
    let never = Container::builder(&image).command(["true"]).create().unwrap();
    assert_eq!(never.wait_until(Ready::port(80), TIME).unwrap_err().kind(), ErrorKind::State);
    assert_eq!(never.connect(80).unwrap_err().kind(), ErrorKind::State);
}

#[test]
#[ignore = "needs python3: run with --include-ignored"]
fn http_is_ready_when_it_answers_well() {
    let (_store, image) = host();
    // 503 at first, 200 from the third request on; by the shell's own means it can't listen, so python does.
    let script = "import http.server as h\n\
        class H(h.BaseHTTPRequestHandler):\n\
        \tn = 0\n\
        \tdef do_GET(self):\n\
        \t\tH.n += 1\n\
        \t\tself.send_response(200 if H.n > 2 and self.path == '/health' else 503)\n\
        \t\tself.end_headers()\n\
        h.HTTPServer(('127.0.0.1', 80), H).serve_forever()\n";
    let container = Container::builder(&image).command(["python3", "-c", script]).start().unwrap();
    container.wait_until(Ready::http(80, "/health"), TIME).unwrap();
    let error = container.wait_until(Ready::http(80, "/other"), Duration::from_millis(1500)).unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
}

#[test]
fn a_killed_warden_closes_the_ports() {
    let (_store, image) = host();
    // A program of its own: its warden has nobody else's containers.
    if std::env::var_os("REACH_WARDEN").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_warden_closes_the_ports"])
            .env("REACH_WARDEN", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let container = serving(&image, "127.0.0.1:8080", "").publish(8080).start().unwrap();
    container.wait_until(Ready::port(8080), TIME).unwrap();
    let address = container.host_addr(8080).unwrap();
    let warden = common::warden_of(&container);
    let kill = std::process::Command::new("kill").args(["-9", &warden.to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(container.wait().unwrap_err().kind(), ErrorKind::Gone);
    let error = container.wait_until(Ready::port(8080), TIME).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    let begun = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(begun.elapsed() < TIME, "the port is still open");
        std::thread::yield_now();
    }
}
