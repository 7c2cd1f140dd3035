//! Servers for tests: each test of a multi-threaded test program has its own, all on the same port, and none of them
//! is left, however the test or the program ends.
//!
//!     cargo run --example test_harness
//!
//! The server is this program itself, bind-mounted into containers on the host's own image. As root or not.

use coracle::{Container, Image, Ready, Store};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PORT: u16 = 8080;
const TIME: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let result = match args.next().as_deref() {
        Some("serve") => serve(&args.next().unwrap_or_default()),
        Some("victim") => victim(),
        _ => show(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("test_harness: {error}");
            ExitCode::FAILURE
        }
    }
}

/// In the container: says its name to whoever connects.
fn serve(name: &str) -> Result<()> {
    for stream in TcpListener::bind(("127.0.0.1", PORT))?.incoming() {
        stream?.write_all(name.as_bytes())?;
    }
    Ok(())
}

/// What a test would have as its fixture.
struct Server {
    container: Container,
    address: SocketAddr,
}

impl Server {
    fn start(image: &Image, name: &str) -> Result<Self> {
        let container = Container::builder(image)
            .bind(std::env::current_exe()?, "/server")
            .command(["/server", "serve", name])
            .publish(PORT)
            .start()?;
        container.wait_until(Ready::port(PORT), TIME)?;
        let address = container.host_addr(PORT)?;
        Ok(Self { container, address })
    }

    /// Asks it through the published port, as any program can, and straight.
    fn check(&self, name: &str) -> Result<()> {
        for mut stream in [TcpStream::connect(self.address)?, self.container.connect(PORT)?] {
            let mut answer = String::new();
            stream.set_read_timeout(Some(TIME))?;
            stream.read_to_string(&mut answer)?;
            if answer != name {
                return Err(format!("{name:?} answered {answer:?}").into());
            }
        }
        Ok(())
    }

    fn trace(&self) -> Result<Trace> {
        Trace::of(self.container.pid()?, self.address)
    }
}

/// What must be gone in the end: the server's process, the warden that is its parent, and the port.
struct Trace {
    processes: Vec<OwnedFd>,
    address: SocketAddr,
}

impl Trace {
    fn of(pid: i32, address: SocketAddr) -> Result<Self> {
        Ok(Self { processes: vec![pidfd(pid)?], address })
    }

    fn and(mut self, pid: i32) -> Result<Self> {
        self.processes.push(pidfd(pid)?);
        Ok(self)
    }

    fn is_gone(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        for process in &self.processes {
            // A pidfd is readable once its process has ended.
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            if poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left))? == 0 {
                return Err("a process is left".into());
            }
        }
        match TcpStream::connect(self.address) {
            Ok(_) => Err(format!("{} is still open", self.address).into()),
            Err(_) => Ok(()),
        }
    }
}

fn pidfd(pid: i32) -> Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or("no pid")?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn parent_of(pid: i32) -> Result<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').ok_or("no stat")?.1;
    Ok(fields.split_whitespace().nth(1).ok_or("no parent")?.parse()?)
}

fn show() -> Result<()> {
    let store = Store::temp()?;
    let image = Image::host(&store)?;

    let begun = Instant::now();
    let names: Vec<String> = (0..8).map(|n| format!("server {n}")).collect();
    let traces = std::thread::scope(|scope| {
        let tests: Vec<_> = names.iter().map(|name| scope.spawn(|| a_test(&image, name))).collect();
        tests.into_iter().map(|test| test.join().map_err(|_| "a test panicked")?).collect::<Result<Vec<_>>>()
    })?;
    println!(
        "{} servers at once, all on port {PORT}, each answered for itself: {:?}",
        names.len(),
        begun.elapsed()
    );
    traces.iter().try_for_each(Trace::is_gone)?;
    println!("gone when their tests had ended");

    let (to_us, from_test) = std::sync::mpsc::channel();
    let image_for_test = image.clone();
    let test = std::thread::spawn(move || {
        let server = Server::start(&image_for_test, "doomed")?;
        server.check("doomed")?;
        to_us.send(server.trace()?)?;
        panic!("this panic is part of the show");
        #[allow(unreachable_code)]
        Ok::<(), Box<dyn Error + Send + Sync>>(())
    });
    let panicked = test.join();
    if let Ok(result) = panicked {
        return result.and(Err("the test did not panic".into()));
    }
    from_test.recv()?.is_gone()?;
    println!("gone when its test had panicked");
    if !store.containers()?.is_empty() {
        return Err("a container is left in the store".into());
    }

    killed()
}

fn a_test(image: &Image, name: &str) -> Result<Trace> {
    let server = Server::start(image, name)?;
    server.check(name)?;
    server.trace()
}

/// A whole test program is killed, which nothing in it can notice.
fn killed() -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?).arg("victim").stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let mut line = || -> Result<String> { Ok(lines.next().ok_or("the child has ended")??) };
    let store = line()?;
    let mut traces = Vec::new();
    for _ in 0..4 {
        let line = line()?;
        let (pid, address) = line.split_once(' ').ok_or("a line without an address")?;
        let pid: i32 = pid.parse()?;
        traces.push(Trace::of(pid, address.parse()?)?.and(parent_of(pid)?)?);
    }
    child.kill()?;
    child.wait()?;
    traces.iter().try_for_each(Trace::is_gone)?;
    // Files can't go by themselves: whoever opens a temporary store next sweeps them away. That may be
    // another program at this very moment.
    let deadline = Instant::now() + TIME;
    while std::path::Path::new(&store).exists() {
        let _next = Store::temp()?;
        if Instant::now() > deadline {
            return Err(format!("{store} is left").into());
        }
    }
    println!("gone when their program was killed with SIGKILL: processes, ports, files");
    Ok(())
}

fn victim() -> Result<()> {
    let store = Store::temp()?;
    println!("{}", store.path().display());
    let image = Image::host(&store)?;
    let mut servers = Vec::new();
    for n in 0..4 {
        let name = format!("victim {n}");
        let server = Server::start(&image, &name)?;
        server.check(&name)?;
        println!("{} {}", server.container.pid()?, server.address);
        servers.push(server);
    }
    loop {
        std::thread::park();
    }
}
