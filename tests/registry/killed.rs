//! Programs that pull one image: one that is killed at any moment, and two that do it at once.

use super::*;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

const TOLD: &str = "CORACLE_TEST_PULLS";

/// In a process of its own: pulls into a store, and says what came.
fn pull_as_told(told: &str) {
    let (store, name) = told.split_once(' ').unwrap();
    let pull = Pull::new(name).policy(PullPolicy::Missing).credentials(Credentials::anonymous());
    println!("\npulled {}", pull.run(&Store::open(store).unwrap()).unwrap().id());
}

/// Numbers as good as any (Steele, Lea, Flood: splitmix64); the same of one seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }
}

/// The names of what a room of the store has.
fn names(room: &std::path::Path) -> Vec<String> {
    let names = fs::read_dir(room).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// The digests of an image's layers.
fn image_layers(manifest: &serde_json::Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned()).collect()
}

/// What ends the program: so many bytes of bodies, or so much time.
#[derive(Debug)]
enum Moment {
    Bytes(u64),
    Time(Duration),
}

/// 50 programs that pull are killed, each at a moment of chance: no image is broken, and what one has brought whole no later
/// one asks for again.
#[test]
fn pulls_that_are_killed_at_random_moments() {
    if let Ok(told) = std::env::var(TOLD) {
        return pull_as_told(&told);
    }
    // Run again with what a failure prints, it is the same bytes and times.
    let seed = std::env::var("CORACLE_TEST_SEED").map_or_else(
        |_| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        |seed| seed.parse().unwrap(),
    );
    println!("CORACLE_TEST_SEED={seed}");
    let mut random = Random(seed);
    let sizes = [3_000_000, 200_000, 2_000_000, 40, 1_000_000];
    let archives: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(n, size)| tar([(format!("file{n}").as_str(), Node::File(&random.bytes(*size)))]))
        .collect();
    let image = Fixture::of(archives);
    let content = Content::of(REPOSITORY, "1", &image);
    let all = content.json("/v2/me/app/manifests/1");
    let layers = image_layers(&all);
    let total: u64 =
        all["layers"].as_array().unwrap().iter().map(|layer| layer["size"].as_u64().unwrap()).sum();
    // Counts what is sent, and kills when it is enough.
    let state = Arc::new(Mutex::new((0u64, None::<(u64, rustix::process::Pid)>)));
    let counted = state.clone();
    let server = Server::lying(content, move |request, reply| {
        let (counted, is_blob) = (counted.clone(), request.is_blob());
        reply.before(move |at| {
            let mut state = counted.lock().unwrap();
            state.0 += if at > 0 && is_blob { CHUNK as u64 } else { 0 };
            let sent = state.0;
            if let Some((_, pid)) = state.1.take_if(|(bytes, _)| sent >= *bytes) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        })
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let told = format!("{} {}", path.display(), server.name(NAME));
    let test = "killed::pulls_that_are_killed_at_random_moments";
    let start = || child(test, &[(TOLD, told.as_ref())]).stdout(Stdio::piped()).spawn().unwrap();
    let (mut killed, mut finished, mut took) = (0, 0, Duration::from_millis(400));
    let mut whole: Vec<String> = Vec::new();
    for round in 0..50 {
        let moment = match random.below(2) {
            0 => Moment::Bytes(random.below(total)),
            _ => Moment::Time(Duration::from_micros(random.below(took.as_micros() as u64))),
        };
        *state.lock().unwrap() = (0, None);
        let begun = std::time::Instant::now();
        let running = start();
        // Not reaped before it is waited for here, so its number is its own.
        let pid = rustix::process::Pid::from_raw(running.id() as i32).unwrap();
        match moment {
            Moment::Bytes(bytes) => state.lock().unwrap().1 = Some((bytes, pid)),
            Moment::Time(time) => {
                if !ends(&pidfd(running.id() as i32), time) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        let done = running.wait_with_output().unwrap();
        state.lock().unwrap().1 = None;
        let what = format!("seed {seed}, round {round}, {moment:?}: {}", text(&done.stdout));
        // It is killed or it is done, and never is there an error.
        match done.status.success() {
            true => {
                assert!(done.stdout.windows(7).any(|word| word == b"pulled "), "{what}");
                (finished, took) = (finished + 1, begun.elapsed());
            }
            false => {
                assert_eq!(done.status.signal(), Some(9), "{what}");
                killed += 1;
            }
        }
        // What was whole has not travelled again.
        let again: Vec<_> = server
            .take_log()
            .into_iter()
            .filter(Request::is_blob)
            .filter(|request| whole.iter().any(|hex| request.path.ends_with(hex.as_str())))
            .map(|request| request.path)
            .collect();
        assert!(again.is_empty(), "{what}: {again:?}");
        // What is there is whole, or nothing is.
        let store = Store::open(&path).unwrap();
        assert_eq!(count(path.join("tmp")), 0, "{what}");
        assert!(store.broken_images().unwrap().is_empty(), "{what}");
        assert!(store.verify().unwrap().is_sound(), "{what}");
        // The configuration is kept with the image.
        whole = names(&path.join("blobs/sha256")).into_iter().filter(|hex| layers.contains(hex)).collect();
        if let Ok(image) = store.image(&server.name(NAME)) {
            assert_eq!(image.layers().unwrap().len(), layers.len(), "{what}");
            // From the beginning.
            drop(image);
            store.prune_images(true).unwrap();
            whole.clear();
            assert_eq!(count(path.join("blobs/sha256")), 0, "{what}");
        }
    }
    println!("{killed} were killed, {finished} were done before");
    assert!(killed >= 25, "{killed} were killed");
    // One that ends with some layers whole and others not; the last one asks for those alone.
    let lacking = (0..50).find_map(|_| {
        *state.lock().unwrap() = (0, None);
        let running = start();
        let pid = rustix::process::Pid::from_raw(running.id() as i32).unwrap();
        state.lock().unwrap().1 = Some((random.below(total), pid));
        running.wait_with_output().unwrap();
        state.lock().unwrap().1 = None;
        let store = Store::open(&path).unwrap();
        let whole = names(&path.join("blobs/sha256"));
        let lacking: Vec<_> = layers.iter().filter(|hex| !whole.contains(hex)).cloned().collect();
        if store.image(&server.name(NAME)).is_err() && !lacking.is_empty() && lacking.len() < layers.len() {
            return Some(lacking);
        }
        store.prune_images(true).unwrap();
        None
    });
    let mut lacking = lacking.expect("none was killed between two layers");
    server.take_log();
    let store = Store::open(&path).unwrap();
    assert_eq!(*Image::pull(&store, &server.name(NAME)).unwrap().id(), image.id());
    let mut asked: Vec<_> = server
        .take_log()
        .iter()
        .filter_map(|request| layers.iter().find(|hex| request.path.ends_with(*hex)).cloned())
        .collect();
    asked.sort();
    lacking.sort();
    assert_eq!(asked, lacking, "seed {seed}");
    assert!(store.verify().unwrap().is_sound());
}

/// Two programs want the same: the second one waits, and finds it.
#[test]
fn two_programs_download_it_once() {
    if let Ok(told) = std::env::var(TOLD) {
        return pull_as_told(&told);
    }
    let image = Fixture::new(&["one", "two"]);
    let open = Arc::new((Mutex::new((false, false)), Condvar::new()));
    let gate = open.clone();
    let server = Server::lying(Content::of(REPOSITORY, "1", &image), move |request, reply| {
        if request.is_blob() {
            let mut state = gate.0.lock().unwrap();
            state.0 = true;
            gate.1.notify_all();
            drop(gate.1.wait_while(state, |state| !state.1).unwrap());
        }
        reply
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let told = format!("{} {}", path.display(), server.name(NAME));
    let start = || {
        let mut command = child("killed::two_programs_download_it_once", &[(TOLD, told.as_ref())]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let first = start();
    drop(open.1.wait_while(open.0.lock().unwrap(), |state| !state.0).unwrap());
    let second = start();
    // Who waits for a lock of this file (proc_locks(5)).
    let inode = fs::metadata(path.join("locks/pulls")).unwrap().ino();
    eventually("the second program waits for the first one", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains(" -> ") && line.contains(&format!(":{inode} ")))
    });
    open.0.lock().unwrap().1 = true;
    open.1.notify_all();
    for program in [first, second] {
        let out = program.wait_with_output().unwrap();
        assert!(text(&out.stdout).contains(&format!("pulled {}", image.id())), "{}", text(&out.stdout));
    }
    assert_eq!(server.take_log().len(), 4, "a manifest, a configuration, two layers");
}
