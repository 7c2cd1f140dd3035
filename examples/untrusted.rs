//! Programs that mean harm: a fork bomb, a memory hog, an endless loop, a disk filler, a flood of output. Each is
//! stopped by a limit, and the reason is told. An attack whose limit this host can't enforce is not started.
//!
//!     cargo run --example untrusted
//!
//! The attacker is this program itself, bind-mounted into containers on the host's own image. As root or not. All run
//! under `Profile::untrusted()`; what this host can't give of it is said first, and only what an attack is not about is
//! then done without.

use coracle::ErrorKind;
use coracle::{Container, ContainerBuilder, Image, LimitKind, Profile, Protection, Ready, Store};
use std::error::Error;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MIB: u64 = 1 << 20;
const PIDS: u64 = 64;
/// Nothing here takes so long, unless a limit does not hold.
const TIME: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if let Some(attack) = std::env::args().nth(1) {
        attack_with(&attack);
        return ExitCode::from(99);
    }
    match show() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("untrusted: {error}");
            ExitCode::FAILURE
        }
    }
}

/// In the container.
fn attack_with(attack: &str) {
    match attack {
        "forks" => loop {
            if let Err(error) = Command::new("/attacker").arg("forks").spawn() {
                println!("fork refused: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        },
        "memory" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1u8; MIB as usize]);
                println!("{} MiB", hoard.len());
            }
        }
        "loop" => loop {
            std::hint::spin_loop();
        },
        "disk" => {
            let mut written = 0;
            for (n, dir) in ["/", "/var", "/usr", "/"].iter().enumerate() {
                let Ok(mut file) = std::fs::File::create(format!("{dir}/filler{n}")) else { continue };
                let error = loop {
                    match file.write(&[1; 65536]) {
                        Ok(len) => written += len as u64,
                        Err(error) => break error,
                    }
                };
                println!("after {} MiB: {error}", written / MIB);
            }
            std::process::exit(28);
        }
        "flood" => loop {
            if std::io::stdout().write_all(&[b'y'; 65536]).is_err() {
                return;
            }
        },
        _ => eprintln!("no such attack"),
    }
}

/// What became of an attack: how it was contained, or that it was not started.
enum Became {
    Contained(String),
    NotStarted(String),
    Loose(String),
}
use Became::{Contained, Loose, NotStarted};

fn show() -> Result<bool> {
    let store = Store::temp()?;
    let image = Image::host(&store)?;
    let exe = std::env::current_exe()?;
    let untrusted = Container::builder(&image).profile(Profile::untrusted());
    let (untrusted, lacking) = as_far_as_possible(untrusted)?;
    match lacking.is_empty() {
        true => println!("untrusted        all of the profile is enforced"),
        false => println!("untrusted        not all of the profile can be had here: {}", lacking.join("; ")),
    }
    let attacker = |attack: &str| {
        let attacker = untrusted.clone().bind(exe.as_path(), "/attacker").command(["/attacker", attack]);
        attacker.timeout(TIME)
    };
    let mut well = true;
    for (name, result) in [
        ("fork bomb", forks(attacker("forks"))),
        ("memory hog", memory(attacker("memory"))),
        ("endless loop", endless(attacker("loop"))),
        ("disk filler", disk(attacker("disk"))),
        ("flood of output", flood(attacker("flood"))),
    ] {
        let became = match result {
            // This kernel, or this user, can't have it.
            Err(error) if error.protection().is_some() => NotStarted(error.to_string()),
            other => other?,
        };
        match became {
            Contained(how) => println!("{name:16} contained: {how}"),
            NotStarted(why) => println!("{name:16} not started, its limit can't be had here: {why}"),
            Loose(how) => {
                well = false;
                println!("{name:16} NOT CONTAINED: {how}");
            }
        }
    }
    // The host goes on as before.
    let out = Container::builder(&image).command(["true"]).run()?;
    Ok(well && out.status.success() && store.containers()?.is_empty())
}

/// The profile without what this host can't give, and the reasons.
fn as_far_as_possible(mut builder: ContainerBuilder) -> Result<(ContainerBuilder, Vec<String>)> {
    let (mut lacking, mut done_without) = (Vec::new(), Vec::new());
    loop {
        match builder.clone().command(["true"]).run() {
            Ok(_) => return Ok((builder, lacking)),
            Err(error) => {
                let Some(protection) = error.protection() else { return Err(error.into()) };
                let protection: Protection = protection.parse()?;
                if done_without.contains(&protection) {
                    return Err(error.into());
                }
                done_without.push(protection);
                lacking.push(error.to_string());
                builder = builder.best_effort(protection);
                if protection == Protection::IdRange {
                    // There is nobody else then.
                    builder = builder.user("0");
                }
            }
        }
    }
}

fn forks(attacker: ContainerBuilder) -> std::result::Result<Became, coracle::Error> {
    let container = attacker.pids_max(PIDS).require(LimitKind::PidsMax).start()?;
    container.wait_until(Ready::log("fork refused"), TIME)?;
    let processes = container.top()?.len() as u64;
    // A control group, or what a user without one has.
    let how = container.report().get("pids_max").map(ToString::to_string).unwrap_or_default();
    let begun = Instant::now();
    container.remove()?;
    Ok(match processes <= PIDS {
        true => Contained(format!("{processes} processes, ended in {:?}; {how}", begun.elapsed())),
        false => Loose(format!("{processes} processes")),
    })
}

fn memory(attacker: ContainerBuilder) -> std::result::Result<Became, coracle::Error> {
    let out = attacker.memory_max(64 * MIB).require(LimitKind::MemoryMax).run()?;
    let last = out.stdout_text().lines().last().unwrap_or_default().to_owned();
    Ok(match out.status.oom_killed() {
        true => Contained(format!("{}, after it had taken {last}", out.status)),
        false => Loose(format!("{} with {last}", out.status)),
    })
}

fn endless(attacker: ContainerBuilder) -> std::result::Result<Became, coracle::Error> {
    let begun = Instant::now();
    match attacker.timeout(Duration::from_secs(1)).run() {
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            Ok(Contained(format!("{error}, after {:?}", begun.elapsed())))
        }
        Err(error) => Err(error),
        Ok(out) => Ok(Loose(format!("it ended by itself: {}", out.status))),
    }
}

fn disk(attacker: ContainerBuilder) -> std::result::Result<Became, coracle::Error> {
    // It may write to all of the root filesystem, not only to /tmp.
    let attacker = attacker.read_only(false).user("0").writable_in_memory(true).disk_max(32 * MIB);
    let out = attacker.require(Protection::DiskMax).run()?;
    let said = out.stdout_text().lines().last().unwrap_or_default().to_owned();
    Ok(match out.status.code() {
        Some(28) if said.contains("os error 28") => Contained(said),
        _ => Loose(format!("{}: {said} {}", out.status, out.stderr_text())),
    })
}

fn flood(attacker: ContainerBuilder) -> std::result::Result<Became, coracle::Error> {
    match attacker.output_max(MIB as usize).run() {
        Err(error) if error.kind() == ErrorKind::TooLarge => Ok(Contained(error.to_string())),
        Err(error) => Err(error),
        Ok(out) => Ok(Loose(format!("{} with {} bytes", out.status, out.stdout.len()))),
    }
}
