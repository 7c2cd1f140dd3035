//! Programs that build while another one prunes what they have made.

use super::cache::{CONTEXT, STORE};
use super::*;
use std::process::Stdio;

const WHO: &str = "CORACLE_TEST_WHO";
const PROGRAMS: usize = 3;
/// Of each program.
const ROUNDS: u32 = 16;

/// Some steps are the same in every round, some are the program's own, and some of the round: what is pruned is found, is just
/// being made, or stands below what is being made. In a cache, which they share, each writes its own files.
const TEXT: &str = "\
FROM localhost/box:1 AS same
RUN echo same > /same
COPY dir /dir
FROM same AS own
ARG WHO
RUN --mount=type=cache,target=/c echo $WHO > /c/$WHO && cp /c/$WHO /own
FROM same AS changed
ARG WHO
ARG ROUND
COPY round /round
RUN --mount=type=cache,id=closed,target=/c,uid=3,gid=4,mode=0700 echo $ROUND > /c/$WHO && cat /c/$WHO /dir/* /round > /changed
FROM own
ARG ROUND
RUN mkdir /$ROUND && rm -r /opt/kept
COPY --from=changed /changed /round /$ROUND/
RUN --mount=type=bind,from=changed,target=/m cat /m/changed /same > /all
LABEL round=$ROUND
";

fn build_as_told() -> bool {
    let Some(store) = std::env::var_os(STORE) else { return false };
    let (store, who) = (Store::open(store).unwrap(), std::env::var(WHO).unwrap());
    let context = PathBuf::from(std::env::var_os(CONTEXT).unwrap());
    for round in 0..tries(ROUNDS) {
        let number = format!("r{round}");
        write(&context, "round", &format!("{who} {number}\n"));
        let build = Build::context(&context).arg("WHO", &who).arg("ROUND", &number);
        // By a name, and by nothing but what was given here.
        let build = if round % 2 == 0 { build.tag(format!("{who}:1")) } else { build };
        let image = build.run(&store).unwrap_or_else(|error| panic!("{number}: {error}"));
        let read = |path: &str| std::io::read_to_string(image.open(path).unwrap()).unwrap();
        let changed = format!("{number}\none\ntwo\n{who} {number}\n");
        assert_eq!(read(&format!("/{number}/changed")), changed);
        assert_eq!(read(&format!("/{number}/round")), format!("{who} {number}\n"));
        assert_eq!(read("/all"), format!("{changed}same\n"));
        assert_eq!(read("/own"), format!("{who}\n"));
        assert_eq!(say(&sh(&image, "cat /all; ls /opt")), format!("{changed}same\nagain"));
        println!("\nbuilt {number}");
    }
    true
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn programs_that_build_while_another_prunes() {
    if build_as_told() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    bases::fill(&store);
    let test = "pruned::programs_that_build_while_another_prunes";
    let contexts: Vec<_> = (0..PROGRAMS)
        .map(|_| context(&[("Dockerfile", TEXT), ("dir/1", "one\n"), ("dir/2", "two\n")]))
        .collect();
    let programs = contexts.iter().enumerate().map(|(number, context)| {
        let who = format!("p{number}");
        let vars = [(STORE, path.as_os_str()), (CONTEXT, context.path().as_os_str()), (WHO, who.as_ref())];
        let program = child(test, &vars).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::spawn(|| program.wait_with_output().unwrap())
    });
    let programs: Vec<_> = programs.collect();
    // All, and all that costs something, each as a program of its own has it.
    let prune = |keep: Option<u64>| {
        let store = Store::open(&path).unwrap();
        let mut pruned = (0, 0, 0);
        while programs.iter().any(|program| !program.is_finished()) {
            let found = store.prune_cache(None, keep).unwrap();
            let times = pruned.0 + usize::from(found.steps > 0);
            pruned = (times, pruned.1 + found.steps, pruned.2 + found.mounts);
        }
        pruned
    };
    let pruned = std::thread::scope(|scope| {
        let prunes = [None, Some(0)].map(|keep| {
            let prune = &prune;
            scope.spawn(move || prune(keep))
        });
        prunes.map(|prune| prune.join().unwrap())
    });
    for program in programs {
        let out = program.join().unwrap();
        assert!(out.status.success(), "{}\n{}", text(&out.stdout), text(&out.stderr));
        let built = text(&out.stdout).lines().filter(|line| line.starts_with("built r")).count();
        assert_eq!(built, tries(ROUNDS) as usize);
    }
    println!("times, steps and directories: {pruned:?}");
    // Otherwise it has tried nothing.
    assert!(pruned.iter().map(|(_, steps, _)| steps).sum::<usize>() > tries(ROUNDS) as usize, "{pruned:?}");
    assert!(store.broken_images().unwrap().is_empty());
    let found = store.verify().unwrap();
    assert!(found.is_sound(), "{found:?}");
    // What has a name is there.
    for number in 0..PROGRAMS {
        let image = store.image(&format!("p{number}:1")).unwrap();
        assert_eq!(std::io::read_to_string(image.open("/own").unwrap()).unwrap(), format!("p{number}\n"));
    }
    eventually("what they have left can be pruned", || {
        drop(Store::open(&path).unwrap());
        store.prune_cache(None, None).unwrap();
        ["tmp", "containers", "cache/mounts"].iter().all(|room| count(path.join(room)) == 0)
    });
}
