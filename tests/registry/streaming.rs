//! What happens while a layer arrives: it is unpacked, in little memory, with as many beside it as was asked for.

use super::push::honest;
use super::*;
use coracle::{Compression, Push};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::path::{Path, PathBuf};
use std::time::Duration;

const TOLD: &str = "CORACLE_TEST_STREAMS";

/// All files below a directory, as far as they stay.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

fn unpacked_while_it_arrives(compress: fn(&[u8]) -> Vec<u8>, suffix: &str) {
    let mut random = killed::Random(1);
    let (first, second) = (random.bytes(1 << 20), random.bytes(1 << 20));
    let layer = tar([("first", Node::File(&first)), ("second", Node::File(&second))]);
    let mut content = Content::default();
    let image = Fixture::of(vec![layer]);
    let (media_type, manifest) = content.add(REPOSITORY, &image, compress, suffix);
    content.manifest(REPOSITORY, "1", &media_type, manifest);
    // The last fourth comes when it was seen that the first half is there.
    let seen = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = seen.clone();
    let server = Server::lying(content, move |request, reply| {
        let (gate, is_blob) = (gate.clone(), request.is_blob());
        reply.before(move |at| {
            if is_blob && at >= 3 << 19 {
                let seen = gate.0.lock().unwrap();
                // Without it, this ends as a failure and not in a test that hangs.
                let waited = gate.1.wait_timeout_while(seen, Duration::from_secs(100), |seen| !*seen);
                drop(waited.unwrap());
            }
        })
    });
    let store = Store::temp().unwrap();
    let tmp = store.path().join("tmp");
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| Image::pull(&store, &server.name(NAME)).unwrap());
        eventually("the first file is there while its layer arrives", || {
            let mut found = Vec::new();
            files(&tmp, &mut found);
            let is_first =
                |path: &&PathBuf| path.ends_with("first") && fs::read(path).unwrap_or_default() == first;
            let is_there = found.iter().find(is_first).is_some();
            if is_there {
                assert!(!pull.is_finished());
                // The archive as it came is there, and none without its compression.
                for path in &found {
                    let content = fs::read(path).unwrap();
                    assert!(content.get(257..262) != Some(b"ustar"), "{} is an archive", path.display());
                }
            }
            is_there
        });
        *seen.0.lock().unwrap() = true;
        seen.1.notify_all();
        assert_eq!(*pull.join().unwrap().id(), image.id());
    });
    assert!(store.verify().unwrap().is_sound());
}

#[test]
fn a_layer_is_unpacked_while_it_arrives() {
    unpacked_while_it_arrives(gzip, "+gzip");
}

#[cfg(feature = "zstd")]
#[test]
fn a_zstd_layer_is_unpacked_while_it_arrives() {
    unpacked_while_it_arrives(zstd, "+zstd");
}

/// How many layers travel at once: as many as was asked for, all the time, and never more.
#[test]
fn so_many_layers_travel_at_once() {
    let texts: Vec<_> = (0..6).map(|n| format!("layer {n}")).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let content = Content::of(REPOSITORY, "1", &Fixture::new(&texts));
    for (asked, limit) in [(Some(1), 1), (Some(2), 2), (None, 3), (Some(6), 6), (Some(64), 6)] {
        // How many are on their way, and the most that were.
        let state = Arc::new((Mutex::new((0, 0)), Condvar::new()));
        let counted = state.clone();
        let server = Server::lying(content.clone(), move |request, reply| {
            if lies::is_layer(request, &reply) {
                let mut state = counted.0.lock().unwrap();
                *state = (state.0 + 1, state.1.max(state.0 + 1));
                counted.1.notify_all();
                // All that may come, come; and nothing tells that no more will but some time.
                let waited =
                    counted.1.wait_timeout_while(state, Duration::from_secs(60), |state| state.1 < limit);
                let waited =
                    counted.1.wait_timeout_while(waited.unwrap().0, Duration::from_millis(100), |state| {
                        state.1 <= limit
                    });
                waited.unwrap().0.0 -= 1;
            }
            reply
        });
        let mut pull = Pull::new(server.name(NAME));
        if let Some(asked) = asked {
            pull = pull.parallel(asked);
        }
        pull.run(&Store::temp().unwrap()).unwrap();
        assert_eq!(state.0.lock().unwrap().1, limit, "{asked:?}");
    }
}

/// What a program may have resident more at its peak: chunks on their way between threads, and what compression needs, on two
/// processors.
const MEMORY_MAX: u64 = 48 << 20;
/// So that to hold the layer is beyond all doubt.
const LARGE: usize = 64 << 20;

/// In a process of its own: pulls and pushes a large layer in each form, and looks at how much memory that took.
fn takes_a_large_layer(told: &str) {
    let [pulls, pushes, archive] = told.split(' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    };
    // Blocks are compressed by as many threads as there are processors.
    let (mut two, mine) = (CpuSet::new(), sched_getaffinity(None).unwrap());
    (0..CpuSet::MAX_CPU).filter(|at| mine.is_set(*at)).take(2).for_each(|at| two.set(at));
    sched_setaffinity(None, &two).unwrap();
    let before = peak();
    let check = |what: &str| {
        let more = peak() - before;
        println!("{what}: {} KiB more", more >> 10);
        assert!(more <= MEMORY_MAX, "{what}: {more} bytes more");
    };
    let forms: &[&str] = if cfg!(feature = "zstd") { &["gzip", "zstd"] } else { &["gzip"] };
    for form in forms {
        let store = Store::temp().unwrap();
        let image = Image::pull(&store, &format!("{pulls}/{REPOSITORY}:{form}")).unwrap();
        check(&format!("pull of {form}"));
        image.push(&format!("{pushes}/{REPOSITORY}:{form}")).unwrap();
        check(&format!("push of {form} as it came"));
    }
    let store = Store::temp().unwrap();
    let image = Image::import(&store, archive, "large:1").unwrap();
    check("import");
    let push = |tag: &str| Push::new(format!("{pushes}/{REPOSITORY}:{tag}"));
    push("packed").run(&image).unwrap();
    check("push, compressed by gzip");
    if cfg!(feature = "zstd") {
        push("packed-zstd").compression(Compression::Zstd).run(&image).unwrap();
        check("push, compressed by zstd");
    }
    let mut all = vec![0; 2 * LARGE];
    all.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    assert!(peak() - before > MEMORY_MAX, "the test measures nothing: {}", all.len());
}

#[test]
fn a_large_layer_takes_little_memory() {
    if let Ok(told) = std::env::var(TOLD) {
        return takes_a_large_layer(&told);
    }
    // Farther apart than either compression looks back.
    let noise = killed::Random(1).bytes(4 << 20);
    let large = noise.repeat(LARGE / noise.len());
    let image = Fixture::of(vec![tar([("large", Node::File(&large))])]);
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let archive = dir.path().join("layer.tar");
    fs::write(&archive, &image.layers[0]).unwrap();
    let mut content = Content::default();
    type Compress = fn(&[u8]) -> Vec<u8>;
    let forms: &[(&str, Compress)] = &[
        ("gzip", gzip),
        #[cfg(feature = "zstd")]
        ("zstd", zstd),
    ];
    for &(form, compress) in forms {
        let (media_type, manifest) = content.add(REPOSITORY, &image, compress, &format!("+{form}"));
        content.manifest(REPOSITORY, form, &media_type, manifest);
        let size = content.json(&format!("/v2/{REPOSITORY}/manifests/{form}"))["layers"][0]["size"].as_u64();
        assert!(size.unwrap() > LARGE as u64 / 2, "{form} sees that it is the same: {size:?}");
    }
    let (pulls, (_, pushes)) = (Server::honest(content), honest());
    let told = format!("{} {} {}", pulls.authority(), pushes.authority(), archive.display());
    passes(child("streaming::a_large_layer_takes_little_memory", &[(TOLD, told.as_ref())]));
}
