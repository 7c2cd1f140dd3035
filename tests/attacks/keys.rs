//! The kernel's keys: a session keyring is inherited by all that a program starts, and possession is a right to read.
use super::*;
use coracle::Seccomp;
use std::process::Command;

const INSIDE: &str = "CORACLE_TEST_KEYS";

/// keyctl(2) from python, as no library here has it: `call(operation, …)` and `add(name, value)`.
const KEYCTL: &str = "import ctypes, os, sys
c = ctypes.CDLL(None, use_errno=True)
arm = os.uname().machine == 'aarch64'
call = lambda *args: c.syscall(219 if arm else 250, *args)
add = lambda name, value: c.syscall(217 if arm else 248, b'user', name, value, len(value), -3)
find = lambda name: call(10, -3, b'user', name, 0)
";

/// Not a test when run by itself: the program whose session keyring has a key in it.
#[test]
fn host_program_with_a_key() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let python = |code: &str| ["python3".to_owned(), "-c".to_owned(), format!("{KEYCTL}{code}")];
    let find = python("print('found', find(b'coracle-canary') > 0, find(b'coracle-own') > 0)");
    // It is there, for whoever is started as any other program is.
    let out = Command::new(&find[0]).args(&find[1..]).output().unwrap();
    assert_eq!(text(&out.stdout), "found True False");
    let image = host();
    let builder = Container::builder(&image).seccomp(Seccomp::Unconfined);
    assert_eq!(say(&builder.clone().command(find.clone())), "found False False");
    // Nor is one container's keyring the next one's, or a further command's the container's.
    let keeps = python("print(add(b'coracle-own', b'x') > 0, flush=True); import time; time.sleep(1000)");
    let container = ready(&builder.clone().command(keeps));
    assert_eq!(text(&container.exec(find.clone()).output().unwrap().stdout), "found False False");
    assert_eq!(say(&builder.command(find)), "found False False");
}

#[test]
#[ignore = "needs python3: run with --include-ignored"]
fn the_session_keyring_of_the_host_program() {
    let code = format!(
        "{KEYCTL}assert call(1, b'coracle-test') > 0
key = add(b'coracle-canary', b'secret')
assert key > 0 and call(5, key, 0x3f3f3f3f) == 0
os.execv(sys.argv[1], sys.argv[1:])"
    );
    let test = child("keys::host_program_with_a_key", &[]);
    let status = Command::new("python3")
        .args(["-c", &code])
        .arg(test.get_program())
        .args(test.get_args())
        .env(INSIDE, "1")
        .status()
        .expect("python3, which this test needs");
    assert!(status.success(), "{status}");
}
