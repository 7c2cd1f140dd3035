//! What a build tells, and in which order.

use super::told::watched;
use super::*;
use coracle::BuildEvent;
use std::sync::{Arc, Mutex};

const STAGES: &str = "\
FROM localhost/box:1 AS one
RUN echo out of one
FROM localhost/box:1 AS unused
RUN false
FROM localhost/box:1
RUN echo out; echo err >&2; printf unfinished
COPY --from=one /etc/motd /one
CMD [\"x\"]
";

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn each_step_is_told_with_its_number_and_its_image() {
    let store = bases::store();
    let (image, told) = watched(Build::empty().dockerfile_text(STAGES), &store);
    let image = image.unwrap();
    let texts: Vec<_> = told
        .iter()
        .map(|told| (told.step.number, told.step.stage_name.as_deref(), told.step.text.as_str()))
        .collect();
    let expected: Vec<_> =
        STAGES.lines().filter(|line| !line.contains("unused") && *line != "RUN false").collect();
    assert_eq!(texts.iter().map(|(.., text)| *text).collect::<Vec<_>>(), expected);
    assert_eq!(texts.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!((texts[1].1, texts[3].1), (Some("one"), None));
    let lines: Vec<_> = told.iter().map(|told| told.step.line).collect();
    assert_eq!(lines, [1, 2, 5, 6, 7, 8]);
    assert!(told.iter().all(|told| told.step.of == 6));
    assert_eq!(told[1].output, b"out of one\n");
    // Two pipes, so one may come before the other.
    let both = String::from_utf8(told[3].output.clone()).unwrap();
    assert!(both.contains("out\n") && both.contains("err\n") && both.contains("unfinished"), "{both}");
    // Each of them is an image.
    for told in &told {
        let found = store.image(&told.id.unwrap().to_string()).unwrap();
        assert_eq!(*found.id(), told.id.unwrap());
    }
    assert_eq!(told.last().unwrap().id, Some(*image.id()));
    let ran = coracle::Container::builder(&store.image(&told[4].id.unwrap().to_string()).unwrap());
    assert_eq!(say(&ran.command(["cat", "/one"])), "ahoy");
    // The second time all are found, and are the same.
    let (again, found) = watched(Build::empty().dockerfile_text(STAGES), &store);
    assert_eq!(again.unwrap().id(), image.id());
    let ids = |told: &[told::Told]| told.iter().map(|told| told.id).collect::<Vec<_>>();
    assert_eq!(ids(&found), ids(&told));
    assert!(found.iter().all(|told| told.is_cached || told.step.text.starts_with("FROM")));
}

/// Each waits for what the other has written: one after the other they would wait for ever.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn stages_are_worked_on_at_once() {
    let wait = |own: &str, other: &str| {
        format!(
            "touch /c/{own}; n=0; while [ ! -e /c/{other} ]; do n=$((n + 1)); [ $n -lt 6000 ] || exit 1; sleep 0.01; done; touch /{own}"
        )
    };
    let mount = "--mount=type=cache,id=both,target=/c";
    let text = format!(
        "FROM localhost/box:1 AS a\nRUN {mount} {}\nFROM localhost/box:1 AS b\nRUN {mount} {}\n\
         FROM localhost/box:1\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
        wait("a", "b"),
        wait("b", "a")
    );
    Build::empty().dockerfile_text(text).parallel(2).run(&bases::store()).unwrap();
}

/// Each step's events come in their order, whatever other stages do meanwhile.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn events_of_a_step_are_in_order() {
    let mut text = String::new();
    for stage in 0..6 {
        text += &format!(
            "FROM localhost/box:1 AS s{stage}\nRUN for i in $(seq 50); do echo {stage} $i; done\nRUN seq {stage}00 {stage}99\n"
        );
    }
    text += "FROM scratch\n";
    for stage in 0..6 {
        text += &format!("COPY --from=s{stage} /etc/motd /{stage}\n");
    }
    let (image, told) = watched(Build::empty().dockerfile_text(text).parallel(6), &bases::store());
    image.unwrap();
    for stage in 0..6 {
        let of_stage: Vec<_> = told.iter().filter(|told| told.step.stage == stage).collect();
        let expected: String = (1..=50).map(|n| format!("{stage} {n}\n")).collect();
        assert_eq!(of_stage[1].output, expected.as_bytes());
        let expected: String = (stage * 100..stage * 100 + 100).map(|n| format!("{n}\n")).collect();
        assert_eq!(of_stage[2].output, expected.as_bytes());
    }
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn an_observer_that_panics_is_an_error() {
    let store = bases::store();
    let build = Build::empty().dockerfile_text("FROM localhost/box:1\nRUN echo x\n").on_event(|event| {
        if let BuildEvent::Output { .. } = event {
            panic!("of the test");
        }
    });
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| build.run(&store)));
    assert!(!matches!(ended, Ok(Ok(_))));
    assert!(store.verify().unwrap().is_sound());
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn triggers_are_told_with_their_from() {
    let seen: Arc<Mutex<Vec<(usize, bool, String)>>> = Arc::default();
    let told = seen.clone();
    let dir = context(&[("one", "1")]);
    let build = Build::context(dir.path()).dockerfile_text("FROM localhost/onbuild:1\nRUN true\n").on_event(
        move |event| {
            if let BuildEvent::Step { step } = event {
                told.lock().unwrap().push((step.number, step.is_trigger, step.text.clone()));
            }
        },
    );
    build.run(&bases::store()).unwrap();
    let seen = seen.lock().unwrap();
    let of = |at: usize| (seen[at].0, seen[at].1, seen[at].2.as_str());
    assert_eq!(of(0), (1, false, "FROM localhost/onbuild:1"));
    assert_eq!(of(1), (1, true, "RUN echo triggered > /srv/triggered"));
    assert_eq!(of(3), (1, true, "ENV A=$B"));
    assert_eq!(of(4), (2, false, "RUN true"));
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn what_no_layer_can_have_is_told() {
    let text = "FROM localhost/box:1\nRUN ln -s /srv/socket /dev/log && busybox syslogd -n -O - & \\
        until [ -S /srv/socket ]; do sleep 0.01; done; echo x > /srv/x";
    let told = Arc::new(Mutex::new(Vec::new()));
    let to = told.clone();
    let build = Build::empty().dockerfile_text(text).on_event(move |event| {
        if let BuildEvent::Warning { line, text } = event {
            to.lock().unwrap().push((*line, text.clone()));
        }
    });
    let image = build.run(&bases::store()).unwrap();
    assert!(image.open("/srv/x").is_ok() && image.open("/srv/socket").is_err());
    let warnings = told.lock().unwrap();
    assert_eq!(*warnings, [(Some(2), "/srv/socket is not in the image: a socket".to_owned())]);
}
