//! What a process says of itself in /proc, which the host reads: its name and its command are its own to choose.
use super::*;

const PRCTL: &str = "import ctypes, struct, time
c = ctypes.CDLL(None, use_errno=True)
";

/// A name of any bytes keeps nobody from seeing that the container runs: it would be removed while it does.
#[test]
#[ignore = "needs python3: run with --include-ignored"]
fn a_name_that_is_no_text() {
    let image = host();
    let code =
        format!("{PRCTL}print(c.prctl(15, b'\\xff) R 1 \\xfe', 0, 0, 0), flush=True); time.sleep(1000)");
    let container = ready(&Container::builder(&image).command(["python3", "-c", &code]));
    // As another program has it.
    let other = image.store().container(container.id()).unwrap();
    assert_eq!(other.state(), coracle::State::Running);
    for seen in [&container, &other] {
        let first = seen.pid().unwrap();
        let top = seen.top().unwrap();
        assert!(top.iter().any(|process| process.pid == first && process.parent > 1), "{top:?}");
    }
    assert_eq!(other.start().unwrap_err().kind(), ErrorKind::State);
    assert!(other.exec(["true"]).output().unwrap().status.success());
    other.stop(std::time::Duration::ZERO).unwrap();
    assert_eq!(container.wait().unwrap().signal(), Some(9));
}

/// PR_SET_MM lets a process say that its command is a terabyte of its memory, whether that is there or not (prctl(2)).
#[test]
#[ignore = "needs python3: run with --include-ignored"]
fn a_command_of_many_gigabytes() {
    let code = format!(
        "{PRCTL}c.mmap.restype = c.sbrk.restype = ctypes.c_void_p
size = 32 << 20
at = c.mmap(None, ctypes.c_size_t(size), 3, 0x22, -1, 0)
ctypes.memset(ctypes.c_void_p(at), 120, size)
stat = [int(n) if n.isdigit() else 0 for n in open('/proc/self/stat').read().rsplit(')', 1)[1].split()]
code, stack, data, env = stat[23:25], stat[25], stat[42:45], stat[47:49]
# struct prctl_mm_map
map = struct.pack('<11Q', *code, *data[:2], data[2], c.sbrk(0), stack, at, at + size - 4096, *env)
map += struct.pack('<QII', 0, 0, 0xffffffff)
print(c.prctl(35, 14, map, len(map), 0), flush=True)
time.sleep(1000)"
    );
    let container = ready(&Container::builder(&host()).command(["python3", "-c", &code]));
    let top = container.top().unwrap();
    let lengths: Vec<_> = top.iter().map(|process| process.command.len()).collect();
    assert!(
        lengths.iter().all(|len| *len < 1 << 20) && lengths.iter().any(|len| *len > 1 << 10),
        "{lengths:?}"
    );
}
