//! Two programs with one store in PID namespaces of their own, as inside two containers: neither finds the other's processes by
//! their numbers.
//!
//! The other program is this test program again, with one test. It does what it is told on stdin, a line at a time.
use super::*;
use coracle::{State, Store};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const STORE: &str = "CORACLE_TEST_STORE";
/// Ends with a code of its own when it is told to.
const SCRIPT: &str = "trap 'exit 7' TERM; echo ready; while :; do sleep 1000 & wait; done";

/// Not a test when run by itself.
#[test]
fn other_program() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let store = Store::open(&path).unwrap();
    let mut own = Vec::new();
    for line in std::io::stdin().lines().map(Result::unwrap) {
        let answer = match line.as_str() {
            "start" => {
                let kept = store.container("kept").unwrap();
                kept.start().unwrap();
                kept.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
                let image = Image::host(&store).unwrap();
                own.extend([kept, ready(&sh(&image, "echo ready; exec sleep 1000").name("passing"))]);
                "started".to_owned()
            }
            "look" => {
                let runs = own.iter().all(|one| one.try_wait().unwrap().is_none());
                let said = own.iter().map(|one| text(&one.exec(["echo", "on"]).output().unwrap().stdout));
                format!("{runs} {}", said.collect::<Vec<_>>().join(" "))
            }
            // And lets go of it.
            "stop" => own.remove(0).stop(LONG).unwrap().code().unwrap().to_string(),
            "is refused" => {
                refused(&store, "kept");
                "refused".into()
            }
            other => panic!("{other:?}"),
        };
        writeln!(std::io::stdout(), "\nANSWER {answer}").unwrap();
    }
}

/// It is seen to run, and nothing can be done with it.
#[track_caller]
fn refused(store: &Store, name: &str) {
    let seen = store.container(name).unwrap();
    assert_eq!(seen.state(), State::Running);
    assert!(seen.started().is_some() && seen.finished().is_none());
    let words = |error: coracle::Error| {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("another PID namespace"), "{error}");
        assert!(
            error.remedy().is_some_and(|remedy| remedy.contains("the program that started it")),
            "{error}"
        );
    };
    words(seen.wait().unwrap_err());
    words(seen.try_wait().unwrap_err());
    words(seen.stop(Duration::ZERO).unwrap_err());
    words(seen.kill(coracle::Signal::SIGKILL).unwrap_err());
    words(seen.pause().unwrap_err());
    words(seen.unpause().unwrap_err());
    words(seen.exec(["true"]).output().unwrap_err());
    words(seen.pid().unwrap_err());
    words(seen.top().unwrap_err());
    words(seen.stats().unwrap_err());
    if name == "kept" {
        words(seen.start().unwrap_err());
        words(seen.copy_out("/etc/hostname", std::env::temp_dir()).unwrap_err());
    }
    words(store.container(name).unwrap().remove().unwrap_err());
    // It is not ours to end.
    seen.keep().unwrap();
    assert_eq!(store.container(name).unwrap().state(), State::Running);
}

/// The program in a PID namespace of its own.
struct Other {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
    hears: ChildStdin,
}

impl Other {
    fn new(store: &Path) -> Self {
        let user: &[_] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
        Self::by(&[user, &["--pid", "--fork", "--mount-proc", "--kill-child"]].concat(), store)
    }

    /// Where unshare(1) puts it with these words.
    fn by(words: &[&str], store: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(words).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "elsewhere::other_program", "--nocapture", "--test-threads=1"]);
        let mut child =
            command.env(STORE, store).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        let hears = child.stdin.take().unwrap();
        Self { child, says, hears }
    }

    #[track_caller]
    fn asked(&mut self, what: &str) -> String {
        writeln!(self.hears, "{what}").unwrap();
        let answer = self.says.find_map(|line| line.unwrap().strip_prefix("ANSWER ").map(str::to_owned));
        answer.unwrap_or_else(|| panic!("{what}: it ended: {:?}", self.child.wait()))
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Of the containers of a program that has just been killed only so many stay.
#[track_caller]
fn swept(store: &Path, stay: usize) {
    eventually("they are swept", || {
        drop(Store::open(store).unwrap());
        count(store.join("containers")) == stay
    });
}

fn kept(store: &Store) -> String {
    let container = sh(&Image::host(store).unwrap(), SCRIPT).name("kept").create().unwrap();
    let id = container.id().to_owned();
    container.keep().unwrap();
    id
}

#[test]
fn what_runs_in_another_pid_namespace_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = kept(&store);
    let created = store.container("kept").unwrap();
    let (mut one, mut two) = (Other::new(dir.path()), Other::new(dir.path()));
    assert_eq!(one.asked("start"), "started");
    let groups = cgroups_with(&id);
    // From here its processes can be seen, but under other numbers.
    for name in ["kept", "passing"] {
        refused(&store, name);
    }
    assert_eq!(two.asked("is refused"), "refused");
    // So it is for who has opened it before.
    assert_eq!(created.start().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(created.remove().unwrap_err().kind(), ErrorKind::Unsupported);
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(count(dir.path().join("containers")), 2);
    assert_eq!(cgroups_with(&id), groups);
    assert_eq!(one.asked("look"), "true on on");
    // Its end is seen, however it comes.
    let seen = store.container("kept").unwrap();
    assert_eq!(one.asked("stop"), "7");
    assert_eq!((seen.state(), seen.wait().unwrap().code()), (State::Exited, Some(7)));
    seen.start().unwrap();
    seen.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
    assert_eq!(two.asked("is refused"), "refused");
    assert_eq!(seen.stop(LONG).unwrap().code(), Some(7));
    seen.remove().unwrap();
    drop((one, two));
    swept(dir.path(), 0);
}

/// Who is killed in another one leaves what can be started, and removed.
#[test]
fn what_ran_in_another_pid_namespace_is_free_when_its_program_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = kept(&store);
    for removes in [false, true] {
        let mut other = Other::new(dir.path());
        assert_eq!(other.asked("start"), "started");
        let seen = store.container("kept").unwrap();
        assert_eq!(seen.state(), State::Running);
        other.kill();
        eventually("its end is seen", || seen.state() == State::Exited);
        assert_eq!(seen.wait().unwrap().signal(), Some(9));
        if removes {
            seen.remove().unwrap();
        } else {
            seen.start().unwrap();
            seen.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
            assert_eq!(seen.stop(LONG).unwrap().code(), Some(7));
        }
        // The other one was not kept.
        swept(dir.path(), usize::from(!removes));
        assert_eq!(cgroups_with(&id).len(), 0);
    }
}

/// As with one PID namespace for two outer containers, each of which sees its own control groups.
#[test]
#[ignore = "needs root: a container in control groups that another program does not see"]
fn what_runs_in_control_groups_that_are_not_seen_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = kept(&store);
    let container = store.container("kept").unwrap();
    container.start().unwrap();
    container.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
    assert!(!cgroups_with(&id).is_empty());
    let cover = "mount -t tmpfs tmpfs /sys/fs/cgroup; exec \"$@\"";
    let mut other = Other::by(&["--mount", "sh", "-ec", cover, "sh"], dir.path());
    assert_eq!(other.asked("is refused"), "refused");
    assert_eq!(container.stop(LONG).unwrap().code(), Some(7));
    container.remove().unwrap();
}

/// What runs has its name and its numbers in the copy, too.
#[test]
#[ignore = "needs root: copies a store with all that is in it"]
fn a_copied_store_has_nothing_of_what_runs_in_the_original() {
    let dir = tempfile::tempdir().unwrap();
    let [original, copied] = ["original", "copied"].map(|name| dir.path().join(name));
    let store = Store::open(&original).unwrap();
    let image = Image::host(&store).unwrap();
    sh(&image, SCRIPT).name("kept").create().unwrap().keep().unwrap();
    let kept = store.container("kept").unwrap();
    kept.start().unwrap();
    kept.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
    let passing = ready(&sh(&image, "echo ready; exec sleep 1000"));
    let status = Command::new("cp").arg("-a").args([&original, &copied]).status().unwrap();
    assert!(status.success());

    let copy = Store::open(&copied).unwrap();
    let names = |store: &Store| store.containers().unwrap().iter().map(|one| one.name()).collect::<Vec<_>>();
    assert_eq!(names(&copy), ["kept"]);
    let other = copy.container("kept").unwrap();
    assert_eq!(other.state(), State::Created);
    // Its control group would have the name of the other's.
    other.start().unwrap_err();
    for container in [&kept, &passing] {
        assert_eq!(text(&container.exec(["echo", "on"]).output().unwrap().stdout), "on");
    }
    assert_eq!(kept.stop(LONG).unwrap().code(), Some(7));
    other.start().unwrap();
    other.wait_until(coracle::Ready::log("ready"), LONG).unwrap();
    assert_eq!(other.stop(LONG).unwrap().code(), Some(7));
    other.remove().unwrap();
    assert_eq!(names(&store).len(), 2);
}
