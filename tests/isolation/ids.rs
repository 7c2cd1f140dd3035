//! Whom the host takes a container's users for.
use super::*;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const STORE: &str = "CORACLE_TEST_STORE";

/// The ids of the host that a running process' user namespace has, as (first, how many); uids and gids.
fn ids_of(pid: i32) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for map in ["uid_map", "gid_map"] {
        let map = fs::read_to_string(format!("/proc/{pid}/{map}")).unwrap();
        let lines: Vec<Vec<u64>> = map
            .lines()
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        // user_namespaces(7): inside, outside, how many.
        let [line] = lines.as_slice() else { panic!("{map}") };
        assert_eq!(line[0], 0, "{map}");
        found.push((line[1], line[2]));
    }
    found
}

/// Those of one store, of two stores, of two programs with a store each, and of two programs with one store.
#[test]
#[ignore = "needs root: an ordinary user's containers have the one range that he has"]
fn no_two_containers_share_an_id_of_the_host() {
    const TEST: &str = "ids::no_two_containers_share_an_id_of_the_host";
    let sleeper =
        |store: &coracle::Store| ready(&sh(&Image::host(store).unwrap(), "echo ready; exec sleep 1000"));
    if let Some(store) = std::env::var_os(STORE) {
        let store = match store.is_empty() {
            true => coracle::Store::temp().unwrap(),
            false => coracle::Store::open(store).unwrap(),
        };
        let container = sleeper(&store);
        println!("\nits pid: {}", container.pid().unwrap());
        // Until the other has seen enough.
        std::io::stdin().lines().for_each(drop);
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (one, two) = (coracle::Store::open(dir.path()).unwrap(), coracle::Store::temp().unwrap());
    let own = [sleeper(&one), sleeper(&one), sleeper(&two)];
    let mut pids: Vec<i32> = own.iter().map(|container| container.pid().unwrap()).collect();
    let others = [dir.path().as_os_str(), "".as_ref()].map(|store| {
        let mut command = child(TEST, &[(STORE, store)]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    });
    let others = others.map(|mut program| {
        let said = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut said = said.filter_map(|line| line.strip_prefix("its pid: ").map(|pid| pid.parse().unwrap()));
        pids.push(said.next().expect("the other program's container"));
        (program, said)
    });
    assert_eq!(pids.len(), 5);
    let all: Vec<_> = pids.iter().map(|pid| ids_of(*pid)).collect();
    for (at, one) in all.iter().enumerate() {
        assert_eq!(one[0], one[1], "{all:?}");
        let (first, count) = one[0];
        assert!(first > 0 && count == 65_536, "{all:?}");
        for (other, others_count) in all[..at].iter().map(|other| other[0]) {
            assert!(first + count <= other || other + others_count <= first, "{all:?}");
        }
    }
    for (mut program, said) in others {
        drop(program.stdin.take());
        // What else it says, so that it can be said.
        said.for_each(drop);
        assert!(program.wait().unwrap().success());
    }
}
