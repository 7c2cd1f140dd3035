//! Programs that build and are killed at any moment.

use super::*;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

const TOLD: &str = "CORACLE_TEST_STORE";
const ROUND: &str = "CORACLE_TEST_ROUND";

const TEXT: &str = "\
FROM localhost/box:1 AS one
ARG ROUND
RUN --mount=type=cache,target=/c seq 2000 > /c/$ROUND && cp /c/$ROUND /one
COPY . /ctx
FROM localhost/box:1
ARG ROUND
RUN seq 3000 > /two && rm -r /opt/kept && mkdir /$ROUND
COPY --from=one /one /one
WORKDIR /w/$ROUND
RUN seq 1000 > three && ln three four
LABEL round=$ROUND
";

fn files() -> tempfile::TempDir {
    let dir = context(&[("Dockerfile", TEXT)]);
    for n in 0..200 {
        write(dir.path(), &format!("dir{}/file{n}", n % 7), &"x".repeat(n * 20));
    }
    dir
}

/// Numbers as good as any (Steele, Lea, Flood: splitmix64); the same of one seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

fn is_clean(path: &Path, what: &str) -> Store {
    // Its processes may take a moment to be gone, and what they use is swept after them.
    eventually(what, || {
        drop(Store::open(path).unwrap());
        ["tmp", "containers"].iter().all(|room| count(path.join(room)) == 0)
    });
    let store = Store::open(path).unwrap();
    assert!(store.broken_images().unwrap().is_empty(), "{what}");
    let found = store.verify().unwrap();
    assert!(found.is_sound(), "{what}: {found:?}");
    store
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn builds_that_are_killed_at_random_moments() {
    if let Some(store) = std::env::var_os(TOLD) {
        let context = PathBuf::from(std::env::var_os("CORACLE_TEST_CONTEXT").unwrap());
        let build = Build::context(context).arg("ROUND", std::env::var(ROUND).unwrap()).tag("app:1");
        println!("\nbuilt {}", build.run(&Store::open(store).unwrap()).unwrap().id());
        return;
    }
    // Run again with what a failure prints, it is the same times.
    let seed = std::env::var("CORACLE_TEST_SEED").map_or_else(
        |_| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        |seed| seed.parse().unwrap(),
    );
    println!("CORACLE_TEST_SEED={seed}");
    let mut random = Random(seed);
    let (dir, context) = (tempfile::tempdir().unwrap(), files());
    let path = dir.path().join("store");
    bases::fill(&Store::open(&path).unwrap());
    let test = "killed::builds_that_are_killed_at_random_moments";
    let (mut killed, mut finished, mut took) = (0, 0, Duration::from_millis(1500));
    for round in 0..tries(100) {
        let number = format!("r{round}");
        let vars = [
            (TOLD, path.as_os_str()),
            ("CORACLE_TEST_CONTEXT", context.path().as_os_str()),
            (ROUND, number.as_ref()),
        ];
        let begun = std::time::Instant::now();
        let running = child(test, &vars).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let time = Duration::from_micros(random.below(took.as_micros() as u64));
        let process = pidfd(running.id() as i32);
        if !ends(&process, time) {
            let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
        }
        let done = running.wait_with_output().unwrap();
        let what =
            format!("seed {seed}, round {round}, {time:?}: {}{}", text(&done.stdout), text(&done.stderr));
        // It is killed or it is done, and never is there an error.
        match done.status.success() {
            true => {
                assert!(text(&done.stdout).contains("built sha256:"), "{what}");
                (finished, took) = (finished + 1, begun.elapsed());
            }
            false => {
                assert_eq!(done.status.signal(), Some(9), "{what}");
                killed += 1;
                took = took.mul_f64(1.02).min(Duration::from_secs(20));
            }
        }
        let store = is_clean(&path, &what);
        if let Ok(image) = store.image("app:1") {
            image.layers().unwrap();
        }
    }
    println!("{killed} were killed, {finished} were done before");
    assert!(killed >= tries(100) / 3, "{killed} were killed");
    // And what they left is of use.
    let store = Store::open(&path).unwrap();
    let image = Build::context(context.path()).arg("ROUND", "last").run(&store).unwrap();
    let out = say(&sh(&image, "cat /one /two /w/last/three | wc -l"));
    assert_eq!(out, "6000");
    drop(image);
    store.prune_cache(None, None).unwrap();
    store.prune_images(true).unwrap();
    assert_eq!((count(path.join("layers")), count(path.join("blobs/sha256"))), (0, 0));
}
