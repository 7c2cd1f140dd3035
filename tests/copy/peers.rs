//! What `docker cp` does with the table's rows.

use super::common::docker::Docker;
use super::rules::{ROWS, Row, dest, new, source, tree};
use super::*;

/// A row that docker has another answer to.
struct Departure {
    from: &'static str,
    to: &'static str,
    /// Into the container, or out of it.
    into: bool,
    /// What is there after docker's and was not before, or that it is an error.
    docker: Result<&'static [&'static str], ()>,
    reason: &'static str,
}

const NAME: &str = "copies";

const DEPARTURES: &[Departure] = &[Departure {
    from: "f",
    to: "turn",
    into: true,
    docker: Ok(&["turn=new"]),
    reason: "nobody means a link that leads to itself, and out of a container docker refuses it as well",
}];

/// What there is to say against an answer of docker's.
fn differs(row: &Row, into: bool, is_error: bool, before: &[String], after: &[String]) -> Option<String> {
    let found = if is_error { Err(()) } else { Ok(new(before, after)) };
    let place = (row.from, row.to, into);
    let is_of = |known: &&Departure| !row.follow && (known.from, known.to, known.into) == place;
    let departure = DEPARTURES.iter().find(is_of);
    let ours = row.becomes.map_err(drop);
    let expected = departure.map_or(ours, |departure| departure.docker);
    let direction = if into { "into" } else { "out of" };
    let about = format!("{}, {direction} a container", row.shown());
    if let Some(Departure { reason, .. }) = departure.filter(|departure| departure.docker == ours) {
        return Some(format!("{about}: it is no departure: {reason}"));
    }
    let changed = is_error && before != after;
    (found != expected.map(<[_]>::to_vec) || changed)
        .then(|| format!("{about}: docker {found:?}, the table {expected:?}"))
}

#[test]
#[ignore = "needs root, busybox and docker: run with --include-ignored"]
fn docker_does_what_the_table_says() {
    let busybox = fs::read("/bin/busybox").expect("this test needs busybox-static");
    let layer = tar([("bin/", Node::Dir), ("bin/busybox", Node::Program(&busybox))]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("image.tar"), docker_archive(&[(&Fixture::of(vec![layer]), &["app:1"])])).unwrap();
    let docker = Docker::start();
    docker.run(&["load", "--quiet", "--input", &path("image.tar")]);
    let wait = ["/bin/busybox", "sleep", "10000"];
    docker.run(&[&["run", "--detach", "--name", NAME, "--network", "none", "app:1"], &wait[..]].concat());
    let there = |path: &str| format!("{NAME}:{path}");
    let cp = |follow: bool, from: &str, to: &str| {
        let flags: &[&str] = if follow { &["cp", "--follow-link"] } else { &["cp"] };
        docker.output(&[flags, &[from, to]].concat()).status.success()
    };

    // One directory for each row, here and there.
    let (from, before) = (tree(source), outside(tree(dest).path()));
    let rows = |place: &str| {
        let rows = dir.path().join(place);
        for number in 0..ROWS.len() {
            let row = rows.join(format!("w{number}"));
            fs::create_dir_all(&row).unwrap();
            dest(&row);
        }
        rows
    };
    let of = |all: &[String], number: usize| -> Vec<String> {
        let own = format!("w{number}/");
        all.iter()
            .filter_map(|line| line.strip_prefix(&own))
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    };
    assert!(cp(false, rows("in").to_str().unwrap(), &there("/rows")));
    assert!(cp(false, from.path().to_str().unwrap(), &there("/from")));
    let inside = || {
        let out = docker.output(&["cp", &there("/rows/."), "-"]);
        assert!(out.status.success(), "{out:?}");
        listed(&out.stdout)
    };
    let now = inside();
    assert!((0..ROWS.len()).all(|number| of(&now, number) == before), "{now:?}");

    let mut failures = Vec::new();
    let is_error: Vec<_> = ROWS
        .iter()
        .enumerate()
        .map(|(number, row)| {
            let to = there(&format!("/rows/w{number}/{}", row.to));
            !cp(row.follow, &format!("{}/{}", from.path().display(), row.from), &to)
        })
        .collect();
    let now = inside();
    for (number, row) in ROWS.iter().enumerate() {
        failures.extend(differs(row, true, is_error[number], &before, &of(&now, number)));
    }
    let rows = rows("out");
    for (number, row) in ROWS.iter().enumerate() {
        let to = rows.join(format!("w{number}"));
        let is_error =
            !cp(row.follow, &there(&format!("/from/{}", row.from)), &format!("{}/{}", to.display(), row.to));
        failures.extend(differs(row, false, is_error, &before, &outside(&to)));
    }
    // It has answered, and the container was running all the time.
    assert_eq!(docker.run(&["inspect", "--format", "{{.State.Running}}", NAME]), "true\n");
    docker.run(&["rm", "--force", NAME]);
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), 2 * ROWS.len(), failures.join("\n"));
    assert!(
        DEPARTURES.iter().all(|known| ROWS.iter().any(|row| row.from == known.from && row.to == known.to))
    );
}
