//! What the benchmarks of registries have in common: daemons, a Debian to move, and who moves it in a process of its own.

use super::measure::Result;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PACKAGES: &str = "python3,perl,git,gcc,ca-certificates";

/// For [`coracle`]'s process: its store and the image's name.
pub const TOLD: &str = "CORACLE_BENCH_IMAGE";

pub fn run(command: &mut Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    let out = command.stderr(Stdio::piped()).output()?;
    match out.status.success() {
        true => Ok(begin.elapsed()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr)).into()),
    }
}

/// A daemon of this benchmark's own.
pub struct Daemon(Child);

impl Daemon {
    pub fn start(command: &mut Command, ready: &str) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("stderr")?).lines();
        let is_ready = lines.by_ref().map_while(std::result::Result::ok).any(|line| line.contains(ready));
        // It must not stand still for want of a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let daemon = Self(child);
        if is_ready { Ok(daemon) } else { Err(format!("{command:?} ended").into()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // docker's has mounts to take down.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// What Debian's docker-registry is to read.
pub fn configure(config: &Path, authority: &str, storage: &Path) -> Result<()> {
    let text = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{authority}\"}}\n",
        storage.display()
    );
    Ok(fs::write(config, text)?)
}

/// A root filesystem of about 450 MB, packed.
pub fn debian(dir: &Path) -> Result<PathBuf> {
    let archive = dir.join("debian.tar");
    println!("making a Debian root filesystem with {PACKAGES} ...");
    let include = format!("--include={PACKAGES}");
    run(Command::new("mmdebstrap").args(["--variant=minbase", &include, "bookworm"]).arg(&archive))?;
    Ok(archive)
}

pub fn hash(path: &Path) -> Result<String> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 128 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// More than anybody writes in one measurement.
const WRITTEN: usize = 2 << 30;

/// What is still to be written belongs to nobody's measurement; nor does it what a hypervisor takes to find memory for a page
/// that was free for a while, which can be a third of all: so as much as will be used is touched before.
pub fn settle() -> Result<()> {
    run(&mut Command::new("sync"))?;
    let mut memory = memmap2::MmapMut::map_anon(WRITTEN)?;
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    Ok(())
}

/// Time, and memory in KiB.
pub fn coracle(store: &Path, name: &str) -> Result<(Duration, u64)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(TOLD, format!("{} {name}", store.display()));
    let begin = Instant::now();
    let out = command.output()?;
    let took = begin.elapsed();
    let said = String::from_utf8(out.stdout)?;
    let memory = said.split_whitespace().nth(1).and_then(|text| text.parse().ok());
    Ok((took, memory.ok_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned())?))
}

/// The last that this process says: how much memory it needed.
pub fn tell_memory() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).ok_or("VmHWM")?);
    Ok(())
}
