//! Which stage a name means, by BuildKit's dockerfile2llb: its addState, toCommand, detectRunMount and resolveTarget.

use super::super::*;

const FILE: &str = "FROM a AS One
FROM One AS two
FROM one AS ONE
FROM 0 AS scratch
COPY --from=X /a /
RUN --mount=from=X true
FROM one AS last
";

fn image(name: &str) -> Base {
    Base::Image(name.into())
}

#[test]
fn from_takes_the_names_of_earlier_stages_alone() {
    let file = Dockerfile::parse(FILE).unwrap();
    for (stage, name, expected) in [
        // Its own name, and later ones, are images.
        (0, "one", image("one")),
        (0, "last", image("last")),
        // Names are in small letters, and compared as they are.
        (1, "One", image("One")),
        (1, "one", Base::Stage(0)),
        (2, "one", Base::Stage(0)),
        (3, "one", Base::Stage(2)),
        (3, "0", image("0")),
        (3, "scratch", Base::Scratch),
        (4, "scratch", Base::Stage(3)),
        (4, "debian:12", image("debian:12")),
    ] {
        assert_eq!(file.base(stage, name).unwrap(), expected, "{stage} {name}");
    }
    let error = file.base(1, "").unwrap_err();
    assert_eq!((error.kind(), error.position()), (ErrorKind::InvalidData, Some((2, 6))));
    assert_eq!(file.base(5, "x").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_stage_that_is_not_there_is_no_image() {
    let file = Dockerfile::parse(FILE).unwrap();
    let [copy, run] = &file.stages()[3].steps[..] else { panic!() };
    for (name, expected) in [
        ("two", Some(Base::Stage(1))),
        ("TWO", Some(Base::Stage(1))),
        // The last of all with the name, not the last before.
        ("one", Some(Base::Stage(2))),
        ("last", None),
        ("scratch", None),
        ("debian", Some(image("debian"))),
    ] {
        assert_eq!(file.copy_from(3, copy, name).ok(), expected, "{name}");
        assert_eq!(file.mount_from(3, run, name).ok(), expected, "{name}");
    }
    let mut numbers = vec![("0", Some(Base::Stage(0))), ("2", Some(Base::Stage(2)))];
    // Itself, a later one, and none.
    numbers.extend(["3", "4", "5", "-1", "99999999999999999999999"].map(|name| (name, None)));
    for (name, expected) in numbers {
        assert_eq!(file.copy_from(3, copy, name).ok(), expected, "{name}");
        assert_eq!(file.mount_from(3, run, name).unwrap(), image(name));
    }
    let error = file.copy_from(3, copy, "9").unwrap_err();
    assert_eq!((error.kind(), error.position()), (ErrorKind::InvalidData, Some((5, 1))));
    assert!(error.to_string().contains("there is no stage \"9\": the last one has the number 4"), "{error}");
    // A name that is there again further down is the one there.
    let again = Dockerfile::parse("FROM a AS x\nFROM b\nCOPY --from=x /a /\nFROM c AS x").unwrap();
    let error = again.copy_from(1, &again.stages()[1].steps[0], "x").unwrap_err();
    assert_eq!(error.position(), Some((3, 13)));
    assert!(error.to_string().contains("move it above line 2"), "{error}");
}

#[test]
fn a_target_has_a_name() {
    let file = Dockerfile::parse(FILE).unwrap();
    for (name, expected) in [("", Some(4)), ("one", Some(2)), ("ONE", Some(2)), ("0", None), ("x", None)] {
        assert_eq!(file.target(name).ok(), expected, "{name}");
    }
    let error = file.target("lats").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("did you mean last?"), "{error}");
}

#[test]
fn onbuild_in_onbuild_is_an_error_however_often() {
    let read = || {
        for word in ["ONBUILD ", "onbuild \\\n"] {
            let text = word.repeat(8_000);
            let expected = (ErrorKind::InvalidData, "ONBUILD can't follow ONBUILD");
            for error in [
                Dockerfile::parse(format!("FROM a\n{text}")),
                Dockerfile::parse(format!("FROM a\n{text}RUN x")),
            ]
            .map(Result::unwrap_err)
            .into_iter()
            .chain([Dockerfile::parse_trigger(&text).unwrap_err()])
            {
                assert_eq!(error.kind(), expected.0);
                assert!(error.to_string().contains(expected.1), "{error}");
            }
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(read).unwrap().join().unwrap();
}

#[test]
fn a_default_that_does_not_count_is_no_error() {
    let file = Dockerfile::parse("ARG A=${B:?needed} C=$A\nFROM scratch").unwrap();
    let step = &file.globals()[0];
    // It goes through, as it is for who runs it to ask for a default.
    assert_eq!(step.expand(&|_: &str| None).unwrap().instruction, step.instruction);
    let error = step.expand_default("${B:?needed}", &|_: &str| None).unwrap_err();
    assert_eq!(error.position(), Some((1, 7)));
    let given = |name: &str| (name == "A").then(|| "given".to_owned());
    assert_eq!(step.expand_default("$A", &given).unwrap().text, "given");
    assert!(file.check(None, &|_| None).is_ok());
}

#[test]
fn bounds_are_of_an_instruction_and_not_of_a_word() {
    let long = |_: &str| Some("a".repeat(1 << 20));
    for (word, good, bad) in [("x=$A ", 15, 17), ("x=${A:+} ", 63, 65), ("x=${A##*aaaab} ", 9, 11)] {
        for (count, is_good) in [(good, true), (bad, false)] {
            let file = Dockerfile::parse(format!("FROM a\nENV {}", word.repeat(count))).unwrap();
            let expanded = file.stages()[0].steps[0].expand(&long).map_err(|error| error.kind());
            match is_good {
                true => assert!(expanded.is_ok(), "{word} {count}"),
                false => assert_eq!(expanded.unwrap_err(), ErrorKind::TooLarge, "{word} {count}"),
            }
        }
    }
    // Sources of one name share their content, until each is expanded by itself.
    let content = "x".repeat(60_000) + "\n";
    let text = |sign: &str| {
        let sources = format!("<<{sign}E\\\n ").repeat(1_000);
        format!("FROM a\nCOPY {sources}/x/\n{}{content}E\n", "E\n".repeat(999))
    };
    let file = Dockerfile::parse(text("")).unwrap();
    let step = &file.stages()[0].steps[0];
    let Instruction::Copy(copy) = &step.instruction else { panic!() };
    assert!(copy.sources.iter().all(|one| matches!(one, Source::Heredoc(one) if *one.content == *content)));
    assert_eq!(step.expand(&|_: &str| None).unwrap_err().kind(), ErrorKind::TooLarge);
}
