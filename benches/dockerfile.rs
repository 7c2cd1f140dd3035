//! Four times as much takes four times as long, not sixteen times: reading, expanding and checking are linear. A report of
//! how many times as long it takes.
//!
//! `cargo bench --features build --bench dockerfile`

#[path = "../tests/dockerfile/entries.rs"]
#[allow(dead_code)] // the tests use the rest
mod entries;

use std::time::{Duration, Instant};

/// Below this the machine's noise is more than what is measured.
const LEAST: Duration = Duration::from_millis(50);
/// How large what is read becomes, in bytes.
const SIZE_MAX: usize = 8 << 20;

/// How long this thread had a processor: others that run at the same time do not count.
fn now() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let time = text.split(' ').next().and_then(|time| time.parse().ok());
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    time.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

/// How many times as long `work` with four times as much takes: the least of three attempts.
fn ratio(make: &dyn Fn(usize) -> String, work: &dyn Fn(&str)) -> f64 {
    let time = |count: usize| {
        let text = make(count);
        let before = now();
        work(&text);
        now().saturating_sub(before)
    };
    let mut count = 250;
    while time(count) < LEAST && make(count * 8).len() < SIZE_MAX {
        count *= 2;
    }
    let attempt = |_| {
        let small = time(count).max(Duration::from_millis(1));
        time(count * 4).as_secs_f64() / small.as_secs_f64()
    };
    (0..3).map(attempt).fold(f64::INFINITY, f64::min)
}

/// Numbered lines.
fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

fn report(name: &str, ratio: f64) {
    println!("{name:40} {ratio:6.1} x");
}

fn main() {
    println!("four times as much; linear is 4 x");
    // What is not linear, to compare with.
    let pairs = |text: &str| {
        let lines: Vec<_> = text.lines().collect();
        let same = lines.iter().filter(|line| lines.iter().filter(|other| other == line).count() > 1);
        assert_eq!(same.count(), 0);
    };
    report(
        "each line with each, to compare with",
        ratio(&|count| lines(count, |at| format!("{at}\n")), &pairs),
    );
    type Make = fn(usize) -> String;
    let cases: &[(&str, Make)] = &[
        ("stages", |n| "FROM a\n".repeat(n)),
        ("stages by name", |n| lines(n, |at| format!("FROM a AS s{at}\n"))),
        ("stages on each other", |n| {
            format!(
                "FROM scratch AS s0\n{}",
                lines(n, |at| format!(
                    "FROM s{at} AS s{}\nENV V{at}=1 W=$X{at}\nCOPY --from={at} /a /\n",
                    at + 1
                ))
            )
        }),
        ("global ARGs", |n| format!("{}FROM a\n", lines(n, |at| format!("ARG A{at}=$A{}\n", at / 2)))),
        ("global ARGs that double", |n| format!("ARG A=xx\n{}FROM $A\n", "ARG A=$A$A\n".repeat(n))),
        ("ENVs that double", |n| format!("FROM scratch\nENV A=xx\n{}", "ENV A=$A$A\n".repeat(n))),
        ("undefined in FROM", |n| lines(n, |at| format!("FROM $A{at}\n"))),
        ("undefined in steps", |n| {
            let defined = lines(n, |at| format!("ENV NAME{at}=1\n"));
            format!("FROM scratch\n{defined}{}", lines(n, |at| format!("USER $NAMES{at}\n")))
        }),
        ("undefined in one step", |n| {
            format!("FROM scratch\nLABEL {}", lines(n, |at| format!("a=$N{at} \\\n")))
        }),
        ("comments and ARGs", |n| {
            let comments = lines(n, |at| format!("# c{at} of it\n"));
            format!("FROM scratch\n{comments}ARG {}", lines(n, |at| format!("a{at} \\\n")))
        }),
        ("comments and warnings", |n| {
            let comments = "# c\n".repeat(n);
            format!("FROM scratch\n{comments}ENV {}", lines(n, |at| format!("key_{at}=1 \\\n")))
        }),
        ("here-documents", |n| {
            let names = lines(n, |at| format!("<<E{at} \\\n"));
            format!("FROM a\nCOPY {names}/x/\n{}", lines(n, |at| format!("line\nE{at}\n")))
        }),
        ("here-documents of one name", |n| {
            let (names, ends) = ("<<'E' \\\n".repeat(n), "E\n".repeat(n - 1));
            format!("FROM a\nCOPY {names}/x/\n{ends}{}E\n", "line\n".repeat(n))
        }),
        ("here-documents of RUN", |n| {
            let names = lines(n, |at| format!("<<E{at} \\\n"));
            format!("FROM a\nRUN {names}\n{}", lines(n, |at| format!("line\nE{at}\n")))
        }),
        ("here-documents without an end", |n| format!("FROM a\nRUN {}\n", "<<E \\\n".repeat(n))),
        ("a long here-document", |n| format!("FROM a\nCOPY <<E /x\n{}E\n", "line $A\n".repeat(n))),
        ("ONBUILD in ONBUILD", |n| format!("FROM a\n{}", "ONBUILD \\\n".repeat(n))),
        ("triggers", |n| format!("FROM a\n{}", "ONBUILD RUN x\n".repeat(n))),
        ("a long RUN", |n| format!("FROM a\nRUN {}", "a \\\n".repeat(n))),
        ("a long ENV", |n| format!("FROM a\nENV {}", "a=b \\\n".repeat(n))),
        ("a long list", |n| format!("FROM a\nCMD [{}\"x\"]", "\"a\", \\\n".repeat(n))),
        ("brackets", |n| format!("FROM a\nCMD [{}", "[\\\n".repeat(n))),
        ("mounts", |n| format!("FROM a\nRUN {}", "--mount=type=cache,target=/x \\\n".repeat(n))),
        ("excludes", |n| format!("FROM a\nCOPY {}a b", "--exclude=x \\\n".repeat(n))),
        ("comments", |n| "#\n".repeat(n)),
        ("escapes", |n| "\\\n".repeat(n)),
        ("quotes that are not closed", |n| format!("FROM a\n{}", "LABEL a='\n".repeat(n))),
    ];
    let work = |text: &str| {
        entries::dockerfile(text.as_bytes());
    };
    for (name, make) in cases {
        report(name, ratio(make, &work));
    }
    let make = |n: usize| format!("FROM scratch\nARG {}", lines(n, |at| format!("a{at}=${{B{at}:?x}} \\\n")));
    let check = |text: &str| {
        let file = coracle::dockerfile::Dockerfile::parse(text).expect("a Dockerfile");
        assert_eq!(file.check(None, &|_| None).expect("its warnings"), []);
    };
    report("defaults that fail, checked", ratio(&make, &check));
}
