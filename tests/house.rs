//! The rules of the house, checked on the source itself: see ARCHITECTURE.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room of src/ and what it may use. A room uses only rows above its own.
const ROOMS: &[(&str, &[&str])] = &[
    // The words for what a host may lack, which every room needs.
    ("feature", &[]),
    ("error", &["feature"]),
    ("signal", &["error"]),
    ("sys", &["error", "feature", "signal"]),
    ("digest", &["error"]),
    ("reference", &["error", "digest"]),
    ("dockerfile", &["error"]),
    ("manifest", &["error", "digest"]),
    ("security", &["error", "feature", "sys"]),
    ("namespace", &["error", "feature", "signal", "sys", "security"]),
    ("cgroup", &["error", "feature", "sys"]),
    ("network", &["error", "sys", "namespace"]),
    // It removes the control groups that dead programs left.
    ("store", &["error", "sys", "digest", "reference", "manifest", "cgroup"]),
    ("host", &["error", "feature", "sys", "security", "namespace", "cgroup", "store"]),
    ("layer", &["error", "feature", "sys", "digest", "manifest", "namespace", "store"]),
    ("volume", &["error", "sys", "digest", "namespace", "store"]),
    (
        "image",
        &[
            "error",
            "signal",
            "sys",
            "digest",
            "reference",
            "dockerfile",
            "manifest",
            "security",
            "store",
            "layer",
        ],
    ),
    ("registry", &["error", "sys", "digest", "reference", "manifest", "store", "layer", "image"]),
    (
        "container",
        &[
            "error",
            "feature",
            "signal",
            "sys",
            "digest",
            "reference",
            "dockerfile",
            "manifest",
            "security",
            "namespace",
            "cgroup",
            "network",
            "store",
            "layer",
            "volume",
            "image",
        ],
    ),
    (
        "build",
        &[
            "error",
            "signal",
            "sys",
            "digest",
            "reference",
            "manifest",
            "security",
            "cgroup",
            "network",
            "store",
            "layer",
            "image",
            "registry",
            "container",
            "dockerfile",
        ],
    ),
];

const LINES_MAX: usize = 700;

/// Of the warden, as its size and its lines are what somebody has to trust.
const WARDEN_LINES_MAX: usize = 1800;
const WARDEN_BYTES_MAX: usize = 20 << 10;

/// Files of tests, benches and examples with `unsafe`: what forks, traces or changes a process. Nowhere else.
const UNSAFE: &[&str] = &[
    "benches/exec.rs",
    "benches/shared/floor.rs",
    "tests/ends.rs",
    "tests/fallbacks.rs",
    "tests/host.rs",
    "tests/house.rs",
    "tests/isolation/created.rs",
    "tests/isolation/death.rs",
    "tests/isolation/host_program.rs",
    "tests/isolation/programs.rs",
    "tests/lifecycle/streams.rs",
    "tests/odd_hosts/descriptors.rs",
    "tests/odd_hosts/programs.rs",
    "tests/registry/auth.rs",
];

/// `unwrap` and `expect` that may stay, by file and by what the line has in it. None at present.
const UNWRAPS: &[(&str, &str)] = &[];

struct Source {
    /// From the package's directory.
    path: PathBuf,
    text: String,
    /// `["container", "start"]` of src/container/start.rs; empty for lib.rs.
    module: Vec<String>,
}

impl Source {
    fn room(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    fn is_test(&self) -> bool {
        self.module
            .iter()
            .any(|name| ["tests", "testing"].contains(&name.as_str()) || name.ends_with("_tests"))
    }

    /// Numbered lines without comments, up to the tests at the end of the file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.take_while(|(_, line)| *line != "#[cfg(test)]").map(|(at, line)| {
            let comment = line.find("//").filter(|at| !line[..*at].contains('"'));
            (at, comment.map_or(line, |at| &line[..at]))
        })
    }

    fn at(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path.display())
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), found);
        } else if entry.path().extension().is_some_and(|kind| kind == "rs") {
            found.push(entry.path());
        }
    }
}

fn sources(dir: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(Path::new(dir), &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no source in {dir}: run from the package's directory");
    let read = |path: PathBuf| {
        let below = path.strip_prefix(dir).unwrap().with_extension("");
        let module = below.iter().map(|name| name.to_str().unwrap().to_owned());
        let module = module.filter(|name| name != "lib").collect();
        Source { text: fs::read_to_string(&path).unwrap(), path, module }
    };
    paths.into_iter().map(read).collect()
}

#[track_caller]
fn assert_none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// The rooms that a line names: `crate::room::…`, `super::…::room` as far as it leaves the own room.
fn named<'a>(line: &'a str, depth: usize) -> Vec<&'a str> {
    let first = |text: &'a str| {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        &text[..end]
    };
    let mut all: Vec<_> = line.split("crate::").skip(1).map(first).collect();
    let up = "super::".repeat(depth);
    if depth > 0 {
        all.extend(line.split(&up).skip(1).map(first).filter(|name| *name != "super"));
    }
    all
}

#[test]
fn imports_go_down_only() {
    let mut problems = Vec::new();
    let rooms: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    for (at, (room, uses)) in ROOMS.iter().enumerate() {
        for used in *uses {
            if !ROOMS[..at].iter().any(|(above, _)| above == used) {
                problems.push(format!("the table: {room} uses {used}, which is not above it"));
            }
        }
    }
    for source in sources("src") {
        let room = source.room();
        if room == "lib" {
            continue;
        }
        let Some(uses) = rooms.get(room) else {
            problems.push(source.at(1, format!("the room {room:?} is not in the table")));
            continue;
        };
        let mut depth = source.module.len();
        for (at, line) in source.text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
            if line == "#[cfg(test)]" && !source.is_test() {
                // What follows is a module of its own, one level down.
                depth = source.module.len() + 1;
            }
            let code = line.split("//").next().unwrap_or_default();
            for name in named(code, depth) {
                if name != room && !uses.contains(&name) {
                    problems.push(source.at(at, format!("{room} may not use {name:?}")));
                }
            }
        }
    }
    assert_none(problems);
}

/// What people read of the rooms is what is checked.
#[test]
fn the_document_has_the_same_table() {
    let text = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| room |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), cells[3].to_owned())
    });
    let written: Vec<_> = rows.filter(|(room, _)| room != "warden/").collect();
    let uses = |at: usize| {
        let all: Vec<_> = ROOMS[..at].iter().map(|(above, _)| *above).collect();
        let missing: Vec<_> = all.iter().filter(|room| !ROOMS[at].1.contains(room)).copied().collect();
        match (all.len() > 5, missing.as_slice()) {
            (true, [one]) => format!("all but {one}"),
            (true, [one, other]) => format!("all but {one} and {other}"),
            _ => ROOMS[at].1.join(", "),
        }
    };
    let checked: Vec<_> = (0..ROOMS.len()).map(|at| (ROOMS[at].0.to_owned(), uses(at))).collect();
    assert_eq!(written, checked);
}

#[test]
fn the_warden_stays_small() {
    let lines: usize = sources("warden").iter().map(|source| source.text.lines().count()).sum();
    assert!(lines <= WARDEN_LINES_MAX, "{lines} lines");
    // What the library has in its bytes. On aarch64 its parts are aligned to the largest pages that there are.
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/warden")).len();
    let max = if cfg!(target_arch = "x86_64") { WARDEN_BYTES_MAX } else { 16 * WARDEN_BYTES_MAX };
    assert!(bytes <= max, "{bytes} bytes");
}

#[test]
fn unsafe_code_is_in_one_room_and_says_why_it_is_sound() {
    let mut problems = Vec::new();
    let mut listed: Vec<_> = UNSAFE.to_vec();
    let others = ["tests", "benches", "examples"];
    for source in ["src", "warden"].into_iter().chain(others).flat_map(sources) {
        let is_other = others.iter().any(|dir| source.path.starts_with(dir));
        let is_listed = is_other && UNSAFE.iter().any(|path| source.path == Path::new(path));
        let in_sys = !is_other && source.room() == "sys" || source.path.starts_with("warden");
        let forbids = source.text.lines().any(|line| line == "#![forbid(unsafe_code)]");
        // What is forbidden for a module is so for the tests below it.
        if !in_sys && !is_other && source.room() != "lib" && !source.is_test() && !forbids {
            problems.push(source.at(1, "begins without #![forbid(unsafe_code)]"));
        }
        let lines: Vec<_> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let word = |word: &str| {
                code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|found| found == word)
            };
            if !word("unsafe") || word("forbid") {
                continue;
            }
            if is_listed {
                listed.retain(|path| source.path != Path::new(path));
            } else if !in_sys {
                problems.push(source.at(at + 1, "unsafe outside src/sys, warden/ and the list"));
            }
            // A block or an implementation asserts; a declaration only asks.
            let is_own = source.path.ends_with("tests/house.rs") && code.contains("code.contains");
            let asserts = (code.contains("unsafe {") || code.contains("unsafe impl")) && !is_own;
            if asserts && !lines[at.saturating_sub(8)..=at].iter().any(|line| line.contains("SAFETY:")) {
                problems.push(source.at(at + 1, "unsafe without a SAFETY comment"));
            }
        }
    }
    problems.extend(listed.iter().map(|path| format!("{path} is listed and has no unsafe")));
    assert_none(problems);
}

#[test]
fn files_stay_short() {
    let long = |source: Source| {
        let lines = source.text.lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines, at most {LINES_MAX}", source.path.display()))
    };
    assert_none(sources("src").into_iter().chain(sources("warden")).filter_map(long).collect());
}

#[test]
fn nothing_panics_where_input_decides() {
    let mut problems = Vec::new();
    for source in sources("src").into_iter().filter(|source| !source.is_test()) {
        for (at, line) in source.code() {
            let listed = |(file, part): &(&str, &str)| source.path.ends_with(file) && line.contains(part);
            if (line.contains(".unwrap()") || line.contains(".expect(")) && !UNWRAPS.iter().any(listed) {
                problems.push(source.at(at, line.trim()));
            }
        }
    }
    assert_none(problems);
}

#[test]
fn nothing_is_left_for_later() {
    let mut problems = Vec::new();
    for source in sources("src").into_iter().chain(sources("warden")).chain(sources("examples")) {
        for (at, line) in source.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("todo!") || code.contains("unimplemented!") || line.contains("FIXME") {
                problems.push(source.at(at + 1, line.trim()));
            }
        }
    }
    assert_none(problems);
}

/// A process joins a group by itself: nobody puts it there. And a limit is written by the setter of its own, which tells
/// of its own error: not with all others at once.
#[test]
fn of_cgroups_rs_only_single_setters_are_used() {
    let words = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        let is_part = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        code.split(is_part).map(str::to_owned).collect::<Vec<_>>()
    };
    let (mut problems, mut uses) = (Vec::new(), 0);
    for source in sources("src") {
        for (at, line) in source.text.lines().enumerate() {
            let words = words(line);
            let has = |name: &str| words.iter().any(|word| word == name);
            let uses_it = has("cgroups_rs");
            uses += usize::from(uses_it);
            if uses_it && source.path != Path::new("src/cgroup/control.rs") {
                problems.push(source.at(at + 1, "cgroups_rs outside src/cgroup/control.rs"));
            }
            let moves =
                words.iter().any(|word| word.starts_with("add_task") || word.starts_with("move_task"));
            if moves || source.room() == "cgroup" && has("apply") {
                problems.push(source.at(at + 1, line.trim()));
            }
        }
    }
    assert!(uses > 0, "nothing of cgroups_rs is used: this looks for it in vain");
    assert_none(problems);
}

#[test]
fn modules_stand_beside_their_directories() {
    let by_name = |source: &Source| source.path.ends_with("mod.rs");
    assert_none(sources("src").iter().filter(|s| by_name(s)).map(|s| s.at(1, "mod.rs")).collect());
}

/// A lane that claims a privilege has it, and one that claims to have none has none.
#[test]
fn the_lane_is_what_it_says() {
    let lane = std::env::var("CORACLE_LANE");
    match lane.as_deref() {
        Ok("root") => lane::root(),
        Ok("user") => lane::user(),
        Ok("vm-root" | "vm-newer") => {
            lane::stock_machine();
            lane::root();
        }
        Ok("vm-v1") => {
            lane::machine_with_v1();
            lane::root();
        }
        Ok("vm-delegated") => {
            lane::stock_machine();
            lane::user();
            lane::delegation(true);
        }
        Ok("vm-user") => {
            lane::stock_machine();
            lane::user();
            lane::delegation(false);
        }
        Ok("vm-systemd") => {
            lane::stock_machine();
            lane::user();
            lane::user_instance_of_systemd();
        }
        Ok("vm-session") => {
            lane::stock_machine();
            lane::user();
            lane::session();
        }
        // Under .ci/without: root, to whom what the list names is missing.
        Ok("enosys") => {
            lane::root();
            let list = fs::read_to_string("tests/lanes/enosys.calls").unwrap();
            let numbers = list.lines().filter_map(|line| line.split('#').next()?.split_whitespace().nth(1));
            let numbers: Vec<i64> = numbers.map(|number| number.parse().unwrap()).collect();
            assert!(!numbers.is_empty());
            for number in numbers {
                // SAFETY: what is not missing refuses descriptor -1, or a size of 0.
                let answer = unsafe { nix::libc::syscall(number, -1i64, 0, 0, 0, 0) };
                let errno = std::io::Error::last_os_error().raw_os_error();
                assert_eq!((answer, errno), (-1, Some(nix::libc::ENOSYS)), "call {number}");
            }
        }
        Ok(other) => panic!("CORACLE_LANE={other:?}: see .ci/run and .ci/vm-guest for those that there are"),
        Err(_) => {}
    }
}

/// What a lane claims.
mod lane {
    use std::fs;
    use std::path::{Path, PathBuf};

    fn field(name: &str) -> String {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{name} in /proc/self/status")).trim().to_owned()
    }

    fn uid() -> u32 {
        field("Uid").split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn capabilities() -> u64 {
        u64::from_str_radix(&field("CapEff"), 16).unwrap()
    }

    pub fn root() {
        const SYS_ADMIN: u32 = 21;
        assert_eq!(uid(), 0);
        assert_ne!(capabilities() & 1 << SYS_ADMIN, 0, "CAP_SYS_ADMIN");
    }

    pub fn user() {
        assert_ne!(uid(), 0);
        assert_eq!(capabilities(), 0);
        let uid = uid().to_string();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let name = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let name = name.filter(|fields| fields[2] == uid).map(|fields| fields[0].to_owned()).next();
        let name = name.expect("the user is in /etc/passwd");
        for file in ["/etc/subuid", "/etc/subgid"] {
            let listed = fs::read_to_string(file).unwrap();
            assert!(listed.lines().any(|line| line.starts_with(&format!("{name}:"))), "{name} in {file}");
        }
        let path = std::env::var_os("PATH").unwrap();
        let found = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).exists());
        assert!(found("newuidmap") && found("newgidmap"), "Debian's uidmap");
    }

    /// Another kernel than that of the machine that built this program, with control groups v2 and no others.
    pub fn stock_machine() {
        assert_eq!(hierarchies(), [("cgroup2".into(), "/sys/fs/cgroup".into())]);
        assert!(has_landlock());
    }

    /// Likewise, with a hierarchy of v1 for each controller and none of v2; and without Landlock.
    pub fn machine_with_v1() {
        let listed = fs::read_to_string("/proc/cgroups").unwrap();
        let enabled = listed.lines().filter(|line| !line.starts_with('#') && line.ends_with("\t1"));
        let controllers = enabled.map(|line| line.split('\t').next().unwrap());
        let expected = controllers.map(|name| ("cgroup".into(), format!("/sys/fs/cgroup/{name}")));
        assert_eq!(hierarchies(), expected.collect::<Vec<(String, String)>>());
        assert!(!has_landlock());
    }

    /// Whether it was booted with it.
    fn has_landlock() -> bool {
        let list = fs::read_to_string("/sys/kernel/security/lsm").unwrap();
        list.trim().split(',').any(|module| module == "landlock")
    }

    /// The kind and the place of each, on a kernel that is not the build machine's.
    fn hierarchies() -> Vec<(String, String)> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let host = std::env::var("CORACLE_HOST_RELEASE").expect("CORACLE_HOST_RELEASE");
        assert_ne!(release.trim(), host.trim());
        // Debian's kernel measures it where it is booted with psi=1.
        fs::read_to_string("/proc/pressure/memory").unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter_map(|line| {
            let (mount, system) = line.split_once(" - ")?;
            let kind = system.split(' ').next()?;
            kind.starts_with("cgroup")
                .then(|| (kind.into(), mount.split(' ').nth(4).unwrap_or_default().into()))
        });
        mounts.collect()
    }

    /// This process's control group.
    fn group() -> PathBuf {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = groups.trim().strip_prefix("0::/").expect("one group, in the unified hierarchy");
        Path::new("/sys/fs/cgroup").join(path)
    }

    fn writable(dir: &Path) -> bool {
        rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
            && fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs")).is_ok()
    }

    /// Whether the group above is this user's, with every controller that the kernel has.
    pub fn delegation(there: bool) {
        let group = group();
        let above = group.parent().unwrap();
        assert_eq!((writable(&group), writable(above)), (there, there), "{}", group.display());
        if there {
            let controllers = |dir: &Path| fs::read_to_string(dir.join("cgroup.controllers")).unwrap();
            assert_eq!(controllers(above), controllers(Path::new("/sys/fs/cgroup")));
        }
    }

    /// In a service of the user's own instance of systemd, which can be asked for more.
    pub fn user_instance_of_systemd() {
        let (group, instance) = (group(), format!("user@{}.service", uid()));
        assert!(group.iter().any(|part| part == instance.as_str()), "{}", group.display());
        instance_is_there(&instance);
    }

    /// In the scope of a login, which is system's own, with that instance beside it.
    pub fn session() {
        let (group, slice) = (group(), format!("user-{}.slice", uid()));
        let name = group.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("session-") && name.ends_with(".scope"), "{}", group.display());
        assert!(group.parent().unwrap().ends_with(&slice), "{}", group.display());
        assert!(!writable(&group));
        instance_is_there(&format!("user@{}.service", uid()));
    }

    fn instance_is_there(instance: &str) {
        assert_eq!(fs::read_to_string("/proc/1/comm").unwrap().trim(), "systemd");
        let bus = std::env::var("DBUS_SESSION_BUS_ADDRESS").expect("DBUS_SESSION_BUS_ADDRESS");
        let socket = bus.strip_prefix("unix:path=").expect("a socket").split(',').next().unwrap();
        std::os::unix::net::UnixStream::connect(socket).unwrap();
        let mut systemctl = std::process::Command::new("systemctl");
        let answer = systemctl.args(["--user", "show", "-P", "ControlGroup"]).output().unwrap();
        assert!(String::from_utf8_lossy(&answer.stdout).contains(instance), "{answer:?}");
    }
}
