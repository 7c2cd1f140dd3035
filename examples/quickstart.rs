//! Containers on this machine's own root filesystem: no image, no download, no daemon, as root or not.
//!
//! ```text
//! cargo run --example quickstart
//! ```
//!
//! Each line says what a container sees beside what is so on the host. The program fails when one is not true.

use coracle::{Container, ContainerBuilder, ErrorKind, Image, Outcome, Store, Stream};
use std::error::Error;
use std::fs;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match show() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("\nSomething above is not as it should be.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\ncoracle: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Tour {
    image: Image,
    starts: Vec<(&'static str, Duration)>,
    right: bool,
}

fn show() -> Result<bool> {
    // A store that goes with its last handle; Store::open_default() is the one that stays.
    let store = Store::temp()?;
    let mut tour = Tour { image: Image::host(&store)?, starts: Vec::new(), right: true };
    println!("Containers on the files of this machine, thrown away after each line.\n");
    tour.hostname()?;
    tour.processes()?;
    tour.user()?;
    tour.network()?;
    tour.files()?;
    tour.secrets()?;
    tour.memory()?;
    tour.times();
    Ok(tour.right)
}

impl Tour {
    fn shell(&self, script: &str) -> ContainerBuilder {
        Container::builder(&self.image).command(["sh", "-c", script])
    }

    /// Runs a script and gives what it wrote.
    fn run(&mut self, what: &'static str, script: &str) -> Result<String> {
        let container = self.start(what, &self.shell(script))?;
        let status = container.wait()?;
        let said =
            |stream| container.logs(stream).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        let (out, err) = (said(Stream::Stdout)?, said(Stream::Stderr)?);
        container.remove()?;
        if !status.success() {
            return Err(format!("{what}: {status}: {err}").into());
        }
        Ok(out)
    }

    /// Starts a container, and notes how long that alone took.
    fn start(&mut self, what: &'static str, builder: &ContainerBuilder) -> coracle::Result<Container> {
        let from = Instant::now();
        let container = builder.start()?;
        self.starts.push((what, from.elapsed()));
        Ok(container)
    }

    fn line(&mut self, what: &str, says: &str, is_true: bool) {
        println!("{} {what:<9} {says}", if is_true { "✓" } else { "✗" });
        self.right &= is_true;
    }

    fn hostname(&mut self) -> Result<()> {
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
        let own = self.run("hostname", "cat /proc/sys/kernel/hostname")?;
        self.line("hostname", &format!("the container is {own}, the host {host}"), own != host);
        Ok(())
    }

    fn processes(&mut self) -> Result<()> {
        let host = fs::read_dir("/proc")?.flatten().filter(|entry| is_number(&entry.file_name())).count();
        let own = self.run("processes", "echo $$; echo /proc/[0-9]* | wc -w")?;
        let (pid, count) = own.split_once('\n').unwrap_or_default();
        let is_true = pid == "1" && count.parse::<usize>().is_ok_and(|count| count < 5);
        self.line(
            "processes",
            &format!("its shell is process {pid} and sees {count}, the host has {host}"),
            is_true,
        );
        Ok(())
    }

    fn user(&mut self) -> Result<()> {
        let container = self.start("user", &self.shell("exec sleep 60"))?;
        let inside = container.exec(["id", "-u"]).output()?.stdout_text().trim().to_owned();
        let outside = container.top()?.first().map(|process| process.uid);
        let why = match container.report().get("id_range").map(|entry| entry.outcome().clone()) {
            Some(Outcome::NotEnforced(why)) => Some(why),
            _ => None,
        };
        container.remove()?;
        let outside = outside.ok_or("the container has no process")?;
        if let (0, Some(why)) = (outside, why) {
            // In another engine's container, where root may give nobody another id.
            println!("- user      it is this program's user, without its privileges: {why}");
            return Ok(());
        }
        let says = format!("it is user {inside} inside, and {outside} for the host");
        self.line("user", &says, inside == "0" && outside != 0);
        Ok(())
    }

    fn network(&mut self) -> Result<()> {
        // A server of the host: in its own network, a container finds nothing on that port.
        let server = TcpListener::bind("127.0.0.1:0")?;
        let port = server.local_addr()?.port();
        let entry = format!(":{port:04X} 00000000:0000 0A");
        let found = |table: &str| table.contains(&entry);
        let own = self.run("network", "cat /proc/net/tcp; cat /sys/class/net/lo/flags")?;
        let up = own.ends_with("0x9");
        let is_true = found(&fs::read_to_string("/proc/net/tcp")?) && !found(&own) && up;
        let says = format!("a loopback of its own; the host's server on port {port} is not there");
        self.line("network", &says, is_true);
        Ok(())
    }

    fn files(&mut self) -> Result<()> {
        let own = self.run(
            "files",
            "echo hello >/etc/coracle; rm /etc/passwd; cat /etc/coracle; ls /etc/passwd || true",
        )?;
        let is_true = own == "hello" && !fs::exists("/etc/coracle")? && fs::exists("/etc/passwd")?;
        self.line(
            "files",
            "it wrote /etc/coracle and removed /etc/passwd; the host's /etc is as it was",
            is_true,
        );
        Ok(())
    }

    fn secrets(&mut self) -> Result<()> {
        let own = self.run("secrets", "cat /etc/shadow /root/.* /home/*/.* 2>/dev/null | wc -c")?;
        self.line("secrets", &format!("of /etc/shadow, /root and /home it can read {own} bytes"), own == "0");
        Ok(())
    }

    fn memory(&mut self) -> Result<()> {
        // tail keeps the last line, and this one never ends.
        let hog = self.shell("exec tail /dev/zero").memory_max(64 << 20).memory_swap_max(64 << 20);
        match self.start("memory", &hog) {
            Ok(container) => {
                let status = container.wait()?;
                container.remove()?;
                let says = format!("a program without bounds ends at 64 MiB: {status}");
                self.line("memory", &says, status.oom_killed());
            }
            // What can't be enforced is an error, never a limit that does nothing.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                println!("- memory    no limit can be had here: {error}");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn times(&self) {
        let each: Vec<_> = self.starts.iter().map(|(what, time)| format!("{what} {time:.1?}")).collect();
        println!("\nStarted in: {}.", each.join(", "));
    }
}

fn is_number(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}
