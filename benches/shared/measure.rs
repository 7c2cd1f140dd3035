//! What the benchmarks have in common: rows that are measured in turn, and a small root filesystem.
#![allow(dead_code)] // each benchmark uses its part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One line of the table: a way to do the same.
pub struct Row<'a> {
    name: &'a str,
    runs: usize,
    times: Vec<Duration>,
    run: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

impl<'a> Row<'a> {
    pub fn name(&self) -> &str {
        self.name
    }

    pub fn new(name: &'a str, runs: usize, run: impl FnMut() -> Result<Duration> + 'a) -> Self {
        Self { name, runs, times: Vec::new(), run: Box::new(run) }
    }
}

/// How long nothing is done before a run that is to find the machine at rest. What a start leaves behind is taken down by
/// the kernel after its end has been told, a network namespace for one: that takes as long as the start, on another
/// processor or on the same.
const REST: Duration = Duration::from_millis(10);

/// Runs the rows in turn, each run on a machine at rest, and prints them; the first is the floor that the others are compared
/// with. Gives the median of each, in milliseconds; none of one that failed.
pub fn measure(rows: &mut [Row<'_>]) -> Vec<Option<f64>> {
    take(rows, 1, REST);
    print(rows);
    let median = |row: &Row<'_>| row.times.get(row.times.len() / 2).map(|time| time.as_secs_f64() * 1e3);
    rows.iter().map(median).collect()
}

/// The same without rest: each row by itself, one run after the other, so that it meets what it has left behind itself.
pub fn measure_in_a_row(rows: &mut [Row<'_>]) {
    take(rows, 20, Duration::ZERO);
    print(rows);
}

/// `turn` runs of each row in turn, until all have had theirs.
fn take(rows: &mut [Row<'_>], turn: usize, rest: Duration) {
    /// Of each row, and of each turn of several.
    const WARM_UP: usize = 3;
    let mut first = true;
    while rows.iter().any(|row| row.times.len() < row.runs) {
        let warm_up = if first || turn > 1 { WARM_UP } else { 0 };
        first = false;
        for row in rows.iter_mut().filter(|row| row.times.len() < row.runs) {
            for run in 0..warm_up + turn.min(row.runs - row.times.len()) {
                std::thread::sleep(rest);
                match (row.run)() {
                    Ok(time) if run >= warm_up => row.times.push(time),
                    Ok(_) => {}
                    Err(error) => {
                        println!("{}: {error}", row.name);
                        row.runs = 0;
                        break;
                    }
                }
            }
        }
    }
}

fn print(rows: &mut [Row<'_>]) {
    let mut floor = None;
    for row in rows.iter_mut().filter(|row| !row.times.is_empty()) {
        row.times.sort();
        let at = |part: usize| row.times[row.times.len() * part / 100].as_secs_f64() * 1e3;
        let median = at(50);
        let floor = *floor.get_or_insert(median);
        println!(
            "{:34} {median:8.3}  p10 {:8.3}  p95 {:8.3}  {:6.2} x",
            row.name,
            at(10),
            at(95),
            median / floor
        );
    }
}

/// A root filesystem with a static busybox.
pub fn rootfs(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("rootfs");
    for name in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(
        busybox.ok_or("needs a static busybox (Debian's package: busybox-static)")?,
        root.join("bin/busybox"),
    )?;
    // The floor's process is another user and finds its way by path.
    for path in [dir, &root] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(root)
}

/// The root filesystem packed, and as an image in a store beside it.
pub fn import(dir: &Path, root: &Path) -> Result<(PathBuf, coracle::Image)> {
    let store = coracle::Store::open(dir.join("store"))?;
    let tar = dir.join("rootfs.tar");
    let made = Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&tar).arg(".").status()?;
    if !made.success() {
        return Err(format!("tar: {made}").into());
    }
    let image = coracle::Image::import(&store, &tar, "bench")?;
    Ok((tar, image))
}

/// Whether there is such a program.
pub fn tool(name: &str) -> bool {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// A peer's command, timed from its start to its end.
pub fn timed(mut command: Command) -> impl FnMut() -> Result<Duration> {
    move || {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begin = std::time::Instant::now();
        let status = command.status()?;
        let took = begin.elapsed();
        if status.success() { Ok(took) } else { Err(format!("{status}").into()) }
    }
}
