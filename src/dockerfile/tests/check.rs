//! What BuildKit's dockerfile_check_test.go has of rules that need no image: file, and line and rule of each warning.

use super::super::{CheckOptions, Dockerfile, Ignore};

/// Each as `line Rule`.
fn warnings(text: &str, ignore: Option<&str>) -> Vec<String> {
    let ignore = ignore.map(|text| Ignore::parse(text).unwrap());
    let env = |base: &str| (base == "known").then(|| vec!["FROM_BASE".to_owned()]);
    let found = Dockerfile::parse(text).unwrap().check(ignore.as_ref(), &env).unwrap();
    found.iter().map(|warning| format!("{} {}", warning.span.first, warning.rule.name())).collect()
}

#[test]
fn each_rule_warns_where_it_does_in_buildkit() {
    let cases: &[(&str, &[&str])] = &[
        (
            "\nFROM scratch AS BadName\nFROM scratch as base2\nFROM scratch AS base3",
            &["2 StageNameCasing", "3 FromAsCasing"],
        ),
        ("from scratch AS base\nfrom scratch as base2", &["1 FromAsCasing"]),
        ("FROM scratch\nCOPY a \\\n\n.\nCOPY a \\\n.", &["2 NoEmptyContinuation"]),
        ("From scratch as base\nFROM scratch AS base2", &["1 ConsistentInstructionCasing"]),
        ("FROM scratch\ncopy a /b\nCOPY a /c", &["2 ConsistentInstructionCasing"]),
        ("frOM scratch as base\nfrom scratch as base2", &["1 ConsistentInstructionCasing"]),
        ("from scratch\nCOPY a /b\ncopy a /c", &["2 ConsistentInstructionCasing"]),
        ("FROM scratch AS b\nFROM scratch AS b", &["2 DuplicateStageName"]),
        ("FROM scratch AS scratch\nFROM scratch AS context", &["1 ReservedStageName", "2 ReservedStageName"]),
        ("FROM scratch\nCMD run", &["2 JSONArgsRecommended"]),
        ("FROM scratch\nENTRYPOINT run", &["2 JSONArgsRecommended"]),
        ("FROM scratch\nSHELL [\"/usr/bin/customshell\"]\nCMD run", &[]),
        ("FROM scratch\nMAINTAINER me@example.org", &["2 MaintainerDeprecated"]),
        ("ARG base=scratch\nFROM $base\nCOPY a .", &[]),
        ("ARG BUILDPLATFORM=linux/amd64\nFROM --platform=$BUILDPLATFORM scratch", &[]),
        ("FROM --platform=$BUILDPLATFORM scratch", &[]),
        ("ARG DEBUG\nFROM scratch${DEBUG}", &[]),
        ("ARG DEBUG\nFROM scra${DEBUG:-tch}", &[]),
        ("ARG DEBUG=\"\"\nFROM scratch${DEBUG-@bogus}", &[]),
        ("FROM --platform=$BULIDPLATFORM scratch", &["1 UndefinedArgInFrom"]),
        ("ARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} busybox", &["2 UndefinedArgInFrom"]),
        ("ARG tag=latest\nFROM busybox:${tag}${version} AS b", &["2 UndefinedArgInFrom"]),
        ("FROM scratch\nWORKDIR app/", &["2 WorkdirRelativePath"]),
        ("FROM scratch AS a\nWORKDIR /app\nFROM a AS b\nWORKDIR subdir/", &[]),
        ("FROM scratch\nWORKDIR /app\nWORKDIR sub", &[]),
        // What is carried on to who is FROM it, and to nobody else.
        ("FROM scratch AS a\nWORKDIR /app\nFROM a AS b\nFROM b\nWORKDIR sub", &[]),
        ("FROM scratch AS a\nWORKDIR /app\nFROM scratch\nWORKDIR sub", &["4 WorkdirRelativePath"]),
        ("FROM scratch AS a\nSHELL [\"/s\"]\nFROM a\nCMD run", &[]),
        ("FROM scratch AS a\nSHELL [\"/s\"]\nFROM scratch\nCMD run", &["4 JSONArgsRecommended"]),
        ("FROM scratch AS a\nWORKDIR /app\nFROM 0\nWORKDIR sub", &["4 WorkdirRelativePath"]),
        // What it is when it is expanded.
        ("FROM scratch\nWORKDIR \"/app\"", &[]),
        ("FROM scratch\nWORKDIR \"app\"", &["2 WorkdirRelativePath"]),
        ("FROM scratch\nENV D=app\nWORKDIR $D/x", &["3 WorkdirRelativePath"]),
        ("FROM scratch\nARG D=/app\nWORKDIR ${D}/x", &[]),
        ("ARG D=app\nFROM scratch\nARG D\nWORKDIR $D", &["4 WorkdirRelativePath"]),
        ("FROM scratch\nARG D\nWORKDIR $D", &[]),
        ("FROM scratch\nARG D\nWORKDIR app/$D", &["3 WorkdirRelativePath"]),
        ("FROM other\nWORKDIR $D", &[]),
        ("FROM scratch\nENV P=8080:80/TCP\nEXPOSE $P", &["3 ExposeProtoCasing", "3 ExposeInvalidFormat"]),
        ("FROM scratch\nARG P\nEXPOSE $P", &[]),
        ("FROM scratch\nARG P\nEXPOSE $P:80", &["3 ExposeInvalidFormat"]),
        // Of ARG the second sees the first; one that fails defines its name all the same.
        ("FROM scratch\nARG A=1 B=$A C=$D", &["2 UndefinedVar"]),
        ("FROM scratch\nARG A=${B:?x}\nUSER $A", &[]),
        ("FROM scratch\nENV A=${B:?x}\nUSER $A", &[]),
        // Variables are those of the base.
        ("FROM scratch AS a\nENV A=1\nFROM scratch AS b\nENV B=1\nFROM a\nUSER $A$B", &["6 UndefinedVar"]),
        ("FROM scratch\nARG foo\nCOPY a${foo} .", &[]),
        ("FROM known AS base\nARG foo=a\nFROM base\nCOPY $foo $FROM_BASE", &[]),
        ("FROM known\nRUN echo $PATH", &[]),
        ("FROM known\nCOPY $foo .\nARG foo=bar\nRUN echo $foo", &["2 UndefinedVar"]),
        ("FROM known\nARG DIR_ASSETS=a/\nCOPY $DIR_ASSET .", &["3 UndefinedVar"]),
        ("FROM known\nENV PATH=$PAHT:/tmp/bin", &["2 UndefinedVar"]),
        // Whose variables nobody knows.
        ("FROM other\nENV PATH=$PAHT:/tmp/bin", &[]),
        (
            "FROM scratch\nENTRYPOINT [\"/a\"]\nENTRYPOINT [\"/b\"]\nCMD [\"/a\"]\nCMD [\"/b\"]\nHEALTHCHECK CMD [\"/a\"]\nHEALTHCHECK CMD [\"/b\"]",
            &[
                "2 MultipleInstructionsDisallowed",
                "4 MultipleInstructionsDisallowed",
                "6 MultipleInstructionsDisallowed",
            ],
        ),
        ("FROM scratch AS a\nCMD [\"/a\"]\nFROM a AS b\nCMD [\"/b\"]", &[]),
        (
            "FROM scratch\nENV name value\nLABEL name value\nENV a=b",
            &["2 LegacyKeyValueFormat", "3 LegacyKeyValueFormat"],
        ),
        ("FROM --platform=$TARGETPLATFORM scratch", &["1 RedundantTargetPlatform"]),
        ("FROM --platform=${TARGETPLATFORM} scratch", &["1 RedundantTargetPlatform"]),
        ("ARG VERSION\nFROM busybox:$VERSION", &["2 InvalidDefaultArgInFrom"]),
        ("ARG IMAGE\nFROM $IMAGE", &["2 InvalidDefaultArgInFrom"]),
        ("ARG SFX=\"box:\"\nFROM busy${SFX}", &["2 InvalidDefaultArgInFrom"]),
        ("ARG VERSION=\"latest\"\nFROM busybox:${VERSION}", &[]),
        ("ARG VARIANT=\"\"\nFROM busybox:stable${VARIANT}", &[]),
        ("ARG VARIANT\nFROM busybox:stable${VARIANT}", &[]),
        ("FROM --platform=linux/amd64 scratch", &["1 FromPlatformFlagConstDisallowed"]),
        ("FROM --platform=linux/amd64 scratch AS my_amd64_stage", &[]),
        ("FROM --platform=linux/amd64 scratch AS linux", &[]),
        ("FROM scratch\nEXPOSE 80/TcP 8080/TCP 8080/udp", &["2 ExposeProtoCasing", "2 ExposeProtoCasing"]),
        (
            "FROM scratch\nEXPOSE 127.0.0.1:80:80 5000-6000 8080:80/tcp",
            &["2 ExposeInvalidFormat", "2 ExposeInvalidFormat"],
        ),
        (
            "# check=experimental=InvalidDefinitionDescription\n# bar this is the bar\nARG foo=bar\n# BasE this is the image\nFROM scratch AS base\n# a bad comment\nARG version=latest\n# a bad comment\nARG foo=baz bar=qux\n",
            &[
                "3 InvalidDefinitionDescription",
                "5 InvalidDefinitionDescription",
                "7 InvalidDefinitionDescription",
                "9 InvalidDefinitionDescription",
            ],
        ),
        (
            "# check=skip=all;experimental=InvalidDefinitionDescription\n# foo this is the foo\nARG foo=bar\n\n# base this is the image\nFROM scratch AS base\n# baz this is the baz\nARG foo=baz bar=qux baz=quux\n#\nARG bit=bat\n# of something else\nCOPY a .\n",
            &[],
        ),
        ("FROM scratch AS base\n# nothing by default\nARG x=1\n", &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(warnings(text, None), *expected, "{text}");
    }
}

#[test]
fn names_that_say_secret() {
    let text = "FROM scratch\nARG SECRET_PASSPHRASE\nENV SUPER_Secret=foo\nENV password=bar secret=baz\nARG super_duper_secret_token=foo auth=bar\nENV apikey=bar sunflower=foo\nENV git_key=\nENV PUBLIC_KEY=\nARG public_token\nARG SECRET_PASSPHRASE_FILE\nENV password_file=bar secret_File=baz\nARG AUTH_MODULE_VERSION\n# check=skip=SecretsUsedInArgOrEnv // allowed here\nENV password=bar\n# check=skip=all // only here\nARG password\nARG token";
    let lines: Vec<_> = warnings(text, None)
        .iter()
        .map(|one| one.strip_suffix(" SecretsUsedInArgOrEnv").unwrap().parse::<usize>().unwrap())
        .collect();
    assert_eq!(lines, [2, 3, 4, 4, 5, 5, 6, 7, 17]);
}

#[test]
fn what_the_context_leaves_out_can_not_be_copied() {
    let copied = "2 CopyIgnoredFile";
    for (ignore, lines, expected) in [
        ("Dockerfile", "COPY Dockerfile .\nADD Dockerfile /windy", &[copied, "3 CopyIgnoredFile"][..]),
        ("foobar", "COPY --from=base /foobar /x", &[]),
        ("foobar", "COPY /foobar /x", &[copied]),
        ("**\n!Dockerfile", "COPY ./Dockerfile .", &[]),
        ("**\n!Dockerfile", "COPY . .", &[]),
        (".*", "COPY . .", &[]),
        ("foobar", "ENV N=bar\nCOPY foo$N .", &["3 CopyIgnoredFile"]),
        ("*bar", "ARG N\nCOPY ${N}bar .", &[]),
        ("*", "COPY . .", &[copied]),
        ("x", "COPY <<x /y\nx", &[]),
    ] {
        assert_eq!(
            warnings(&format!("FROM scratch\n{lines}"), Some(ignore)),
            expected,
            "{ignore:?} {lines:?}"
        );
    }
}

#[test]
fn options_are_read_or_refused() {
    let options: CheckOptions = "skip=A, B;error=true;experimental=all".parse().unwrap();
    assert_eq!(
        (options.skip, options.error, options.experimental_all),
        (vec!["A".into(), "B".into()], true, true)
    );
    assert_eq!("".parse::<CheckOptions>().unwrap(), CheckOptions::default());
    for wrong in ["skip", "other=1", "error=maybe"] {
        assert!(wrong.parse::<CheckOptions>().is_err(), "{wrong}");
    }
    let file = Dockerfile::parse("# check=skip=all;error=true\nFROM scratch\nMAINTAINER x").unwrap();
    assert!(file.check_options().unwrap().error);
    assert_eq!(file.check(None, &|_| None).unwrap(), []);
    assert!(Dockerfile::parse("# check=nonsense\nFROM scratch").unwrap().check(None, &|_| None).is_err());
    let file = Dockerfile::parse("FROM scratch\nMAINTAINER x").unwrap();
    let url = file.check(None, &|_| None).unwrap()[0].rule.url();
    assert_eq!(url, "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/");
}

/// What one instruction may come to, all of a file's may: else each line of thirty bytes would be work for 16 MiB.
#[test]
fn what_is_replaced_is_bounded_for_the_whole_file() {
    let value = "x".repeat(256);
    let line = "EXPOSE 1/TCP${A//?/${A//?/${A//?/x}}}\n";
    let text = format!("FROM scratch\nENV A={value}\n{}EXPOSE 1/TCP\n", line.repeat(3));
    // The first one does not fit, and took all; what has no variables needs nothing.
    assert_eq!(warnings(&text, None), ["6 ExposeProtoCasing"]);
    // Half of it.
    let half = "EXPOSE 1/TCP${A//??/${A//?/$A}}\n";
    let text = format!("FROM scratch\nENV A={value}\n{}", half.repeat(3));
    assert_eq!(warnings(&text, None), ["3 ExposeProtoCasing"]);
}

#[test]
fn a_message_is_no_longer_than_one_reads_and_there_are_not_more_than_is_written() {
    let text = format!(
        "ARG A={0}\nFROM /${{A//?/$A}}\nFROM scratch\nENV A={0} B={1}1\nEXPOSE 1/TCP${{A//?/$A}} ${{A//?/$B}}",
        "x".repeat(200),
        "1:1\\ ".repeat(50),
    );
    let file = Dockerfile::parse(&text).unwrap();
    let found = file.check(None, &|_| None).unwrap();
    assert!((100..400).contains(&found.len()), "{}", found.len());
    assert!(found.iter().all(|one| one.message.len() < 600));
}
