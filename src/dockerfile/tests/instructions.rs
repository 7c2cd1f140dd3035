//! What instructions mean, what is wrong with them, and which of their parts are expanded.

use super::super::*;
use std::time::Duration;

fn step(line: &str) -> Step {
    let file = Dockerfile::parse(format!("FROM scratch\n{line}")).unwrap_or_else(|error| panic!("{error}"));
    file.stages()[0].steps[0].clone()
}

fn instruction(line: &str) -> Instruction {
    step(line).instruction
}

/// The error of a line, its first line.
fn why(text: &str) -> String {
    let error = Dockerfile::parse(text).expect_err(text);
    error.to_string().lines().next().unwrap().to_owned()
}

fn exec(words: &[&str]) -> Command {
    Command::Exec(words.iter().map(|word| word.to_string()).collect())
}

fn shell(text: &str) -> Command {
    Command::Shell(text.into())
}

/// The cases of BuildKit's parse_test.go, commands_*_test.go and what is special to each flag.
#[test]
fn what_is_wrong_is_said_at_its_place() {
    for keyword in ["MAINTAINER", "WORKDIR", "USER", "STOPSIGNAL"] {
        assert_eq!(why(keyword), format!("line 1, column 1: {keyword} needs an argument"));
    }
    for keyword in ["ENV", "LABEL", "HEALTHCHECK", "EXPOSE", "VOLUME", "ARG", "SHELL"] {
        assert!(
            why(keyword).starts_with(&format!("line 1, column 1: {keyword} needs an argument at least")),
            "{keyword}"
        );
    }
    assert_eq!(why("ONBUILD"), "line 1, column 1: ONBUILD needs an instruction");
    for (text, expected) in [
        (
            "ADD x",
            "1, column 1: ADD needs a source and a destination; help: the last argument is the destination",
        ),
        ("COPY\t\n\t\tquux \\\n      bar", "1, column 1: COPY needs a source and a destination"),
        ("ENV =x", "1, column 5: a name is missing before the '='"),
        ("LABEL a=b =x", "1, column 11: a name is missing before the '='"),
        ("ARG =x", "1, column 5: a name is missing before the '='"),
        ("ONBUILD FROM scratch", "1, column 9: FROM can't follow ONBUILD"),
        ("ONBUILD ONBUILD RUN touch x", "1, column 9: ONBUILD can't follow ONBUILD"),
        ("onbuild maintainer x", "1, column 9: MAINTAINER can't follow ONBUILD"),
        ("ONBUILD RUNN x", "1, column 9: unknown instruction \"RUNN\"; help: did you mean RUN?"),
        (
            "MAINTAINER --boo me",
            "1, column 12: MAINTAINER has no flag \"--boo\"; help: MAINTAINER has no flags at all",
        ),
        (
            "FOO bar",
            "1, column 1: unknown instruction \"FOO\"; help: a line that goes on below ends with a backslash",
        ),
        (
            "  foo bar",
            "1, column 3: unknown instruction \"foo\"; help: a line that goes on below ends with a backslash",
        ),
        ("FORM x", "1, column 1: unknown instruction \"FORM\"; help: did you mean FROM?"),
        (
            "COPY /foo <<EOF\nEOF",
            "1, column 11: a here-document is a source, and the last argument is the destination",
        ),
        (
            "FROM",
            "1, column 1: FROM needs an image, and after it nothing or AS and a name; help: FROM image AS name",
        ),
        (
            "FROM a AS",
            "1, column 1: FROM needs an image, and after it nothing or AS and a name; help: FROM image AS name",
        ),
        ("FROM a ass b", "1, column 8: \"ass\", where AS and a name may be"),
        (
            "FROM a AS 1b",
            "1, column 11: \"1b\" is no name of a stage; help: it begins with a letter, and has letters, digits, '-', '_' and '.'",
        ),
        ("RUN x\nFROM a", "1, column 1: RUN before the first FROM; help: only ARG may be before it"),
        ("ARG a\nARG b", "2, column 1: there is no FROM in it; help: FROM scratch has no base"),
        (
            "FROM a\nSHELL bash -c",
            "2, column 7: SHELL needs a list of JSON; help: as in SHELL [\"/bin/bash\", \"-c\"]",
        ),
        ("FROM a\nSHELL []", "2, column 1: SHELL needs an argument at least"),
        ("FROM a\nVOLUME [\" \"]", "2, column 9: a volume needs a path"),
        ("FROM a\nHEALTHCHECK NONE x", "2, column 18: HEALTHCHECK NONE takes no arguments"),
        ("FROM a\nHEALTHCHECK CMD", "2, column 13: a command is missing after HEALTHCHECK CMD"),
        (
            "FROM a\nHEALTHCHECK GET x",
            "2, column 13: HEALTHCHECK has no \"GET\"; help: CMD and a command, or NONE",
        ),
        (
            "FROM a\nHEALTHCHECK --interval=50ns CMD x",
            "2, column 13: --interval is a millisecond at least; help: as in 30s, 1m30s or 500ms",
        ),
        (
            "FROM a\nHEALTHCHECK --interval=5 CMD x",
            "2, column 13: \"5\" is no duration; help: as in 30s, 1m30s or 500ms",
        ),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "2, column 13: \"-1\" is no count of retries"),
        ("FROM a\nCOPY --link=maybe a b", "2, column 6: --link is true or false, not \"maybe\""),
        ("FROM a\nCOPY --link= a b", "2, column 6: --link is true or false, not \"\""),
        ("FROM a\nCOPY --from=a --from=b c d", "2, column 15: --from is given twice"),
        ("FROM a\nCOPY --chown a b", "2, column 6: --chown needs a value; help: --chown=…"),
        (
            "FROM a\nCOPY --from=$X a b",
            "2, column 6: --from can't have variables; help: give the image a stage of its own: FROM $IMAGE AS name, and --from=name here",
        ),
        (
            "FROM a\nRUN --mount=type=tmpfs \\\n  --network=lan x",
            "3, column 3: \"lan\" is no network of RUN; help: there are default, none and host",
        ),
        (
            "FROM a\nRUN --security=no x",
            "2, column 5: \"no\" is no security of RUN; help: there are sandbox and insecure",
        ),
        (
            "FROM a\nRUN --mount=type=cahce,target=/x y",
            "2, column 5: \"cahce\" is no type of a mount; help: did you mean cache?",
        ),
        ("FROM a\nRUN --mont=x y", "2, column 5: RUN has no flag \"--mont\"; help: did you mean --mount?"),
        (
            "FROM a\nADD --parents a b",
            "2, column 5: ADD has no flag \"--parents\"; help: it has --chown, --chmod, --link, --keep-git-dir, --checksum, --unpack, --exclude",
        ),
        ("FROM a\nRUN --device=a,name=b x", "2, column 5: the device has a name already: \"a\""),
        ("FROM a\nCMD [\"a\\u0000\"]", "2, column 6: a NUL byte, which no argument can have"),
        (
            "FROM a\nRUN [\"a\", 1]",
            "2, column 11: a list of JSON has strings only, and \"1\" is none; help: put it in double quotes",
        ),
    ] {
        let found = why(text);
        assert!(found.starts_with(&format!("line {expected}")), "{text:?}\n{found}\nline {expected}");
    }
}

#[test]
fn stages_have_bases_names_and_platforms() {
    let text = "# V says which\nARG V=12 W\nfrom --platform=$BUILDPLATFORM debian:${V}-slim as Base-1\n# base_2 is second\n# base_2 really\nFROM base-1 AS base_2\nUSER me\nFROM 1\nFROM x AS base-1\n";
    let file = Dockerfile::parse(text).unwrap();
    let Instruction::Arg(args) = &file.globals()[0].instruction else { panic!() };
    assert_eq!(
        (args[0].name.as_str(), args[0].value.as_deref(), args[0].description.as_deref()),
        ("V", Some("12"), Some("says which"))
    );
    assert_eq!((args[1].name.as_str(), args[1].value.as_deref()), ("W", None));
    let stages = file.stages();
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_deref()).collect();
    assert_eq!(names, [Some("base-1"), Some("base_2"), None, Some("base-1")]);
    assert_eq!(stages[0].keyword, "from");
    assert_eq!(stages[1].description.as_deref(), Some("is second"));
    let env = |name: &str| match name {
        "V" => Some("12".to_owned()),
        "BUILDPLATFORM" => Some("linux/arm64".to_owned()),
        _ => None,
    };
    assert_eq!(stages[0].expand_base(&env).unwrap().text, "debian:12-slim");
    assert_eq!(stages[0].expand_platform(&env).unwrap().unwrap().text, "linux/arm64");
    assert_eq!(stages[1].expand_platform(&env).unwrap(), None);
    let error = stages[1].error(crate::error::ErrorKind::NotFound, "no such stage", "base-1");
    assert_eq!(error.position(), Some((6, 6)));
}

/// What BuildKit's TestCommentsDetection says.
#[test]
fn descriptions_are_the_comments_right_before() {
    let text = "# foo sets foo\nARG foo=bar\n\n# base defines first stage\nFROM busybox AS base\n# this is irrelevant\nARG foo\n# bar defines bar\n# baz is something else\nARG bar baz=123\n";
    let file = Dockerfile::parse(text).unwrap();
    let described = |step: &Step| match &step.instruction {
        Instruction::Arg(args) => {
            args.iter().map(|arg| arg.description.clone().unwrap_or_default()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(described(&file.globals()[0]), ["sets foo"]);
    let stage = &file.stages()[0];
    assert_eq!(stage.description.as_deref(), Some("defines first stage"));
    assert_eq!(described(&stage.steps[0]), [""]);
    assert_eq!(described(&stage.steps[1]), ["defines bar", "is something else"]);
}

#[test]
fn commands_have_two_forms() {
    assert_eq!(instruction("CMD [\"a\", \"b c\"]"), Instruction::Cmd(exec(&["a", "b c"])));
    assert_eq!(instruction("CMD a  'b'"), Instruction::Cmd(shell("a  'b'")));
    assert_eq!(instruction("CMD"), Instruction::Cmd(shell("")));
    assert_eq!(instruction("ENTRYPOINT []"), Instruction::Entrypoint(exec(&[])));
    assert_eq!(instruction("ENTRYPOINT ['a']"), Instruction::Entrypoint(shell("['a']")));
    let Instruction::Run(run) = instruction(
        "RUN --network=none --security=insecure --device=v.com/d=f,required --mount=type=cache,target=/c --mount=target=$X <<-E cat\n\tx\nE",
    ) else {
        panic!()
    };
    assert_eq!(
        (run.command, run.network, run.security),
        (shell("<<-E cat"), RunNetwork::None, RunSecurity::Insecure)
    );
    assert_eq!((&*run.heredocs[0].content, run.heredocs[0].strip_tabs), ("\tx\n", true));
    assert_eq!((run.devices[0].name.as_str(), run.devices[0].required), ("v.com/d=f", true));
    assert!(
        matches!(run.mounts.as_slice(), [RunMount::Read(_), RunMount::Written(text)] if text == "target=$X")
    );
    // What TestParseDevice says.
    for (text, name, required) in [
        ("v.com/d", "v.com/d", false),
        ("v.com/d=f,required=true", "v.com/d=f", true),
        ("v.com/d=f,required=false", "v.com/d=f", false),
        ("name=v.com/d=f", "v.com/d=f", false),
        ("name=v.com/d=f,required", "v.com/d=f", true),
    ] {
        let Instruction::Run(run) = instruction(&format!("RUN --device={text} x")) else { panic!() };
        assert_eq!((run.devices[0].name.as_str(), run.devices[0].required), (name, required), "{text}");
    }
    let test = "HEALTHCHECK --interval=1m30s --timeout=0s --start-period=5s --start-interval=1ms --retries=3 cmd hello world";
    let Instruction::Healthcheck(Healthcheck::Test(test)) = instruction(test) else { panic!() };
    let times = (test.interval, test.timeout, test.start_period, test.start_interval);
    let some = |millis| Some(Duration::from_millis(millis));
    assert_eq!(times, (some(90_000), None, some(5_000), some(1)));
    assert_eq!((test.command, test.retries), (shell("hello world"), Some(3)));
    for none in ["none", "--interval=5s NONE", "--interval=5 --retries NONE", "--any NONE"] {
        let none = instruction(&format!("HEALTHCHECK {none}"));
        assert_eq!(none, Instruction::Healthcheck(Healthcheck::None));
    }
}

/// What BuildKit's TestCopyHeredoc and TestRunHeredoc say, and flags.
#[test]
fn copies_have_sources_flags_and_a_destination() {
    let Instruction::Copy(copy) = instruction(
        "COPY --from=0 --chown=a:b --chmod=u+x --link --parents --exclude=*.x --exclude=!y a ./b* /d/",
    ) else {
        panic!()
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!((copy.from, copy.chown, copy.chmod), (some("0"), some("a:b"), some("u+x")));
    assert_eq!((copy.link, copy.parents, copy.exclude), (true, true, vec!["*.x".into(), "!y".into()]));
    assert_eq!(copy.sources, [Source::Path("a".into()), Source::Path("./b*".into())]);
    assert_eq!(copy.destination, "/d/");
    let Instruction::Add(add) = instruction(
        "ADD --keep-git-dir=FALSE --unpack --checksum=sha256:0 --link=false [\"a b\", \"<<E\", \"c\"]",
    ) else {
        panic!()
    };
    assert_eq!(
        (add.keep_git_dir, add.unpack, add.checksum, add.link),
        (Some(false), Some(true), some("sha256:0"), false)
    );
    assert_eq!(add.sources, [Source::Path("a b".into()), Source::Path("<<E".into())]);
    for (text, expected) in [
        ("COPY <<EOF /bar\nEOF", vec![("EOF", "", true)]),
        ("COPY <<EOF /bar\nTESTING\nEOF", vec![("EOF", "TESTING\n", true)]),
        ("COPY <<-EOF /bar\n\tTESTING\nEOF", vec![("EOF", "TESTING\n", true)]),
        ("COPY <<'EOF' /bar\nTESTING\nEOF", vec![("EOF", "TESTING\n", false)]),
        ("COPY <<A <<B /bar\nfirst\nA\nsecond\nB", vec![("A", "first\n", true), ("B", "second\n", true)]),
        ("COPY <<EOF foo.txt /bar\ninline\nEOF", vec![("EOF", "inline\n", true)]),
        ("ADD foo.txt <<EOF /bar\n\"quotes\"\nEOF", vec![("EOF", "\"quotes\"\n", true)]),
    ] {
        let sources = match instruction(text) {
            Instruction::Copy(copy) => copy.sources,
            Instruction::Add(add) => add.sources,
            other => panic!("{other:?}"),
        };
        let files: Vec<_> = sources
            .iter()
            .filter_map(|source| match source {
                Source::Heredoc(one) => Some((one.name.clone(), one.stripped(), one.expand)),
                Source::Path(path) => {
                    assert_eq!(path, "foo.txt");
                    None
                }
            })
            .collect();
        let expected: Vec<_> = expected.iter().map(|(n, c, e)| (n.to_string(), c.to_string(), *e)).collect();
        assert_eq!(files, expected, "{text:?}");
    }
}

#[test]
fn triggers_keep_their_text() {
    let Instruction::Onbuild(onbuild) = instruction("onbuild  RUN <<E cat\nx\nE") else { panic!() };
    assert_eq!(onbuild.text, "RUN <<E cat\nx\nE");
    let Instruction::Run(run) = onbuild.instruction.as_ref() else { panic!() };
    assert_eq!(&*run.heredocs[0].content, "x\n");
    let again = Dockerfile::parse_trigger(&onbuild.text).unwrap();
    assert_eq!(again.instruction, *onbuild.instruction);
    assert!(
        Dockerfile::parse_trigger("RUN a\nRUN b").is_err() && Dockerfile::parse_trigger("FROM a").is_err()
    );
    let Instruction::Onbuild(onbuild) = instruction("ONBUILD COPY --from=x $A /b") else { panic!() };
    let expanded = step("ONBUILD COPY $A /b").expand(&|_: &str| Some("1".into())).unwrap();
    assert!(matches!(&expanded.instruction, Instruction::Onbuild(same) if same.text == "COPY $A /b"));
    assert!(expanded.used.is_empty());
    assert_eq!(onbuild.text, "COPY --from=x $A /b");
}

#[test]
fn each_instruction_expands_what_it_does_in_buildkit() {
    let env = |name: &str| match name {
        "A" => Some("a b".to_owned()),
        "Q" => Some("\"q\"".to_owned()),
        _ => None,
    };
    for (line, expected) in [
        ("USER \"$A\"", "User(\"a b\")"),
        ("WORKDIR /${A}/'$A'/\\$A", "Workdir(\"/a b/$A/$A\")"),
        ("STOPSIGNAL ${X:-TERM}", "Stopsignal(\"TERM\")"),
        ("VOLUME $A [x", "Volume([\"a b\", \"[x\"])"),
        ("EXPOSE $A 1", "Expose([\"a\", \"b\", \"1\"])"),
        ("EXPOSE \"$A\" 1", "Expose([\"a b\", \"1\"])"),
        ("CMD $A", "Cmd(Shell(\"$A\"))"),
        ("ENTRYPOINT [\"$A\"]", "Entrypoint(Exec([\"$A\"]))"),
        ("SHELL [\"$A\"]", "Shell([\"$A\"])"),
        ("MAINTAINER $A", "Maintainer(\"$A\")"),
    ] {
        let expanded = step(line).expand(&env).unwrap();
        assert_eq!(format!("{:?}", expanded.instruction), expected, "{line}");
    }
    let Instruction::Env(variables) = step("ENV x=$A $A=\"$Q\"'$Q'").expand(&env).unwrap().instruction else {
        panic!()
    };
    let pairs: Vec<_> = variables.iter().map(|one| (one.name.as_str(), one.value.as_str())).collect();
    assert_eq!(pairs, [("x", "a b"), ("a b", "\"q\"$Q")]);
    let Instruction::Label(labels) = step("LABEL old \"$A\" x").expand(&env).unwrap().instruction else {
        panic!()
    };
    assert_eq!((labels[0].value.as_str(), labels[0].equals), ("a b x", false));
    let Instruction::Arg(args) = step("ARG x=$A y").expand(&env).unwrap().instruction else { panic!() };
    assert_eq!((args[0].value.as_deref(), args[1].value.as_deref()), (Some("$A"), None));
    let text = "COPY --chown=$A --chmod=$A --exclude=$A $A <<F <<'G' /$A\n\"$A\" \\$A\nF\n$A\nG";
    let Instruction::Copy(copy) = step(text).expand(&env).unwrap().instruction else { panic!() };
    let some = || Some("a b".to_owned());
    assert_eq!((copy.chown, copy.chmod, copy.exclude), (some(), some(), vec!["$A".to_owned()]));
    let texts = copy.sources.iter().map(|source| match source {
        Source::Path(path) => path.clone(),
        Source::Heredoc(one) => one.stripped(),
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["a b", "\"a b\" $A\n", "$A\n"]);
    let run = step("RUN --mount=type=secret,id=$A,env=$X --mount=from=b,target='/x y' echo $A")
        .expand(&env)
        .unwrap();
    assert_eq!(run.used.into_iter().collect::<Vec<_>>(), ["A"]);
    assert_eq!(run.unset.into_iter().collect::<Vec<_>>(), ["X"]);
    let Instruction::Run(run) = run.instruction else { panic!() };
    let [RunMount::Read(secret), RunMount::Read(bind)] = run.mounts.as_slice() else { panic!() };
    assert_eq!(
        (secret.id.as_deref(), secret.env.as_deref(), bind.target.as_deref()),
        (Some("a b"), Some(""), Some("/x y"))
    );
    assert_eq!(run.command, shell("echo $A"));
}

#[test]
fn what_can_not_be_expanded_is_shown_in_its_line() {
    let file = "FROM a\nENV a=b \\\n    c=${X:?is_needed} \\\n    d=e\nUSER \"x\nCOPY <<E /x\nok\n${Y\nE\nRUN --mount=type=$Z,target=/x y";
    let file = Dockerfile::parse(file).unwrap();
    let places = file.stages()[0].steps.iter().map(|step| {
        let error = step.expand(&|_: &str| None).unwrap_err();
        (error.position().unwrap(), error.step().split(": ").nth(1).unwrap().to_owned())
    });
    let expected = [
        ((3, 7), "X"),
        ((5, 6), "a double quote is not closed"),
        ((8, 1), "\"\\n\" is no modifier of a variable"),
        ((10, 18), "\"\" is no type of a mount"),
    ];
    assert_eq!(places.collect::<Vec<_>>(), expected.map(|(place, text)| (place, text.to_owned())));
    let error = file.stages()[0].steps[0].error(crate::error::ErrorKind::NotFound, "no d", "d=e");
    assert_eq!((error.position(), error.kind()), (Some((4, 5)), crate::error::ErrorKind::NotFound));
    assert!(error.to_string().ends_with("    4 |     d=e\n      |     ^^^"), "{error}");
}
