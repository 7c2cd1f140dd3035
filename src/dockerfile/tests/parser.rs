//! Lines and statements: what BuildKit's parser makes of the same. Each case of its `testfiles` is here by what is particular
//! to it; a statement is written as there, `(keyword ["--flag"] "argument")`.

use super::super::place::Source;
use super::super::reader::{Read, read, source};
use super::super::syntax::{Arguments, Statement};
use std::fmt::Write;

/// As Go quotes a text.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\t' => quoted.push_str("\\t"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\0' => quoted.push_str("\\x00"),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

pub(super) fn dump(statement: &Statement) -> String {
    let mut text = statement.keyword.text.to_lowercase();
    if !statement.flags.is_empty() {
        let flags: Vec<_> = statement.flags.iter().map(|flag| quoted(&flag.text)).collect();
        write!(text, " [{}]", flags.join(" ")).unwrap();
    }
    let mut push = |word: &str| write!(text, " {}", quoted(word)).unwrap();
    match &statement.arguments {
        Arguments::Words(words) => words.iter().for_each(|word| push(&word.text)),
        Arguments::Pairs(pairs) => pairs.iter().for_each(|pair| {
            push(&pair.name.text);
            push(&pair.value.text);
            push(if pair.equals { "=" } else { "" });
        }),
        Arguments::Statement(inner) => write!(text, " {}", dump(inner)).unwrap(),
    }
    format!("({text})")
}

pub(super) fn parse(text: &str) -> crate::error::Result<(Read, Source)> {
    let source = source(text.as_bytes())?;
    match read(&source) {
        Ok(read) => Ok((read, source)),
        Err(fault) => Err(source.error(fault)),
    }
}

fn dumps(text: &str) -> String {
    let all: Vec<_> = parse(text).unwrap().0.statements.iter().map(dump).collect();
    all.join("\n")
}

const SAME: &[(&str, &str, &str)] = &[
    (
        "ADD-COPY-with-JSON, json",
        "COPY\t.\t/src/a\nADD\t\tnull /\nADD\t\t[ \"vimrc\", \"/tmp\" ]\nCOPY [\"a file\", \"/tmp/a file\"]\nCMD []\nCMD [\"\"]\nCMD [ \"a\",\"b\" ]\nCMD [\"abc 123\", \"♥\", \"\\\" \\\\ \\/ \\b\"]",
        "(copy \".\" \"/src/a\")\n(add \"null\" \"/\")\n(add \"vimrc\" \"/tmp\")\n(copy \"a file\" \"/tmp/a file\")\n(cmd)\n(cmd \"\")\n(cmd \"a\" \"b\")\n(cmd \"abc 123\" \"♥\" \"\\\" \\\\ / \\b\")",
    ),
    (
        "args",
        "ARG\nARG a\nARG a= b\nARG a=\"x y\" b='' c",
        "(arg)\n(arg \"a\")\n(arg \"a=\" \"b\")\n(arg \"a=\\\"x y\\\"\" \"b=''\" \"c\")",
    ),
    (
        "brimstone-consuldock, brimstone-docker-consul, influxdb, mail, nginx, tf2, weechat, znc",
        "CMD []\nENTRYPOINT [\"/usr/bin/consul\", \"agent\"]\nEXPOSE 8500 8600 8400\nRUN a \\\n     && b \\\n     --c 1.2 \\\n     && d\nRUN mkdir /etc/x\nENV IN_VAR 1\nVOLUME [\"/data\"]\nENV HOME /root\nADD conf/a conf/b /etc/\nCMD\t[ \"-s\", \"-c\", \"/x\" ]",
        "(cmd)\n(entrypoint \"/usr/bin/consul\" \"agent\")\n(expose \"8500\" \"8600\" \"8400\")\n(run \"a      && b      --c 1.2      && d\")\n(run \"mkdir /etc/x\")\n(env \"IN_VAR\" \"1\" \"\")\n(volume \"/data\")\n(env \"HOME\" \"/root\" \"\")\n(add \"conf/a\" \"conf/b\" \"/etc/\")\n(cmd \"-s\" \"-c\" \"/x\")",
    ),
    ("continue-at-eof", "FROM alpine:3.5\n\nRUN something \\", "(from \"alpine:3.5\")\n(run \"something\")"),
    (
        "continueIndent",
        "RUN echo hello\\\n  world\\\n  goodnight  \\\n  moon\\\n  light\\\nning\nRUN echo hello  \\\n  world\nRUN echo hello  \\\nworld\nRUN echo hello \\\ngoodbye\\\nfrog\nRUN echo hi \\\n \\\n world \\\n\\\n good\\\n\\\nnight\nRUN echo goodbye\\\nfrog",
        "(run \"echo hello  world  goodnight    moon  lightning\")\n(run \"echo hello    world\")\n(run \"echo hello  world\")\n(run \"echo hello goodbyefrog\")\n(run \"echo hi   world  goodnight\")\n(run \"echo goodbyefrog\")",
    ),
    (
        "cpuguy83-nagios, docker",
        "RUN sed -i 's/universe/universe multiverse/' /etc/x\n# a comment\nRUN ( egrep -i  \"^${U}\" /etc/group || groupadd $U ) && ( id -u $U || useradd --system $U -g $U -d $HOME )\nRUN a && \\\n    b && \\\n    # within\n    c\nRUN echo 'x = \"@\"' > /y; echo -e '[default]\\nkey = $K\\n' > ~/.z",
        "(run \"sed -i 's/universe/universe multiverse/' /etc/x\")\n(run \"( egrep -i  \\\"^${U}\\\" /etc/group || groupadd $U ) && ( id -u $U || useradd --system $U -g $U -d $HOME )\")\n(run \"a &&     b &&     c\")\n(run \"echo 'x = \\\"@\\\"' > /y; echo -e '[default]\\\\nkey = $K\\\\n' > ~/.z\")",
    ),
    (
        "env",
        "ENV name value\nENV name=value name2=value2\nENV name=\"value value1\"\nENV name=value\\ value2\nENV name=\"value'quote space'value2\"\nENV name='value\"double quote\"value2'\nENV n=a\\ b n2=c\\ d\nENV n=\"a\\\"b\"\nENV n=\"a\\'b\"\nENV n='a\\'b'\nENV n='a\\'b''\nENV n='a\\\"b'\nENV n=\"''\"\nENV n=v \\\n    n1=\"2a \\\n       2b\" \\\n    n3=\"a\\n\\\"b\\\"\" \\\n\tn4=\"a\\\\nb\" \\\n",
        r#"(env "name" "value" "")
(env "name" "value" "=" "name2" "value2" "=")
(env "name" "\"value value1\"" "=")
(env "name" "value\\ value2" "=")
(env "name" "\"value'quote space'value2\"" "=")
(env "name" "'value\"double quote\"value2'" "=")
(env "n" "a\\ b" "=" "n2" "c\\ d" "=")
(env "n" "\"a\\\"b\"" "=")
(env "n" "\"a\\'b\"" "=")
(env "n" "'a\\'b'" "=")
(env "n" "'a\\'b''" "=")
(env "n" "'a\\\"b'" "=")
(env "n" "\"''\"" "=")
(env "n" "v" "=" "n1" "\"2a        2b\"" "=" "n3" "\"a\\n\\\"b\\\"\"" "=" "n4" "\"a\\\\nb\"" "=")"#,
    ),
    (
        "escape-after-comment: what comes after another comment is a comment",
        "# Comment\n# escape = \\\n# escape = `\n\nFROM image\nRUN a \\\nb",
        "(from \"image\")\n(run \"a b\")",
    ),
    (
        "escape, escape-nonewline",
        "#  escAPE   = `\nFROM image\nWORKDIR c:\\windows\nRUN foo `\nbar \\\nCOPY . c:\\\n",
        "(from \"image\")\n(workdir \"c:\\\\windows\")\n(run \"foo bar \\\\\")\n(copy \".\" \"c:\\\\\")",
    ),
    ("escape-with-syntax", "# syntax=a/b\n# escape=`\nFROM a\nRUN b `\nc", "(from \"a\")\n(run \"b c\")"),
    (
        "escapes",
        "LABEL maintainer Erik \\\\H <e@h>\\\"\nRUN apt-get \\update && \\\n  apt-get \\\"install znc -y\nADD \\conf\\\\\" /.znc\nRUN foo \\\n\nbar \\\n\nbaz\nCMD [ \"\\/usr\\\\\\\"/bin/znc\", \"-f\" ]",
        r#"(label "maintainer" "Erik \\\\H <e@h>\\\"" "")
(run "apt-get \\update &&   apt-get \\\"install znc -y")
(add "\\conf\\\\\"" "/.znc")
(run "foo bar baz")
(cmd "/usr\\\"/bin/znc" "-f")"#,
    ),
    (
        "flags",
        "COPY --user=me foo /tmp/\nCOPY --user=me --doit=true foo /tmp/\nCOPY --doit=true -- foo /tmp/\nCOPY -- foo /tmp/\nCMD --doit [ \"a\", \"b\" ]\nCMD --doit=true -- [ \"a\", \"b\" ]\nCMD --doit -- [ ]",
        r#"(copy ["--user=me"] "foo" "/tmp/")
(copy ["--user=me" "--doit=true"] "foo" "/tmp/")
(copy ["--doit=true"] "foo" "/tmp/")
(copy "foo" "/tmp/")
(cmd ["--doit"] "a" "b")
(cmd ["--doit=true"] "a" "b")
(cmd ["--doit"])"#,
    ),
    (
        "health",
        "HEALTHCHECK\nHEALTHCHECK --interval=5s --timeout=3s \\\n  CMD /app/check.sh --quiet\nHEALTHCHECK CMD\nHEALTHCHECK   CMD   a b\nHEALTHCHECK --timeout=3s CMD [\"foo\"]\nHEALTHCHECK CONNECT TCP 7000",
        r#"(healthcheck)
(healthcheck ["--interval=5s" "--timeout=3s"] "CMD" "/app/check.sh --quiet")
(healthcheck "CMD")
(healthcheck "CMD" "a b")
(healthcheck ["--timeout=3s"] "CMD" "foo")
(healthcheck "CONNECT" "TCP 7000")"#,
    ),
    (
        "the five of invalid JSON, which are commands for a shell",
        "CMD '[\"echo\", \"Phew, I just managed to escaped those double quotes\"]'\nCMD \"[\\\"echo\\\"]\"\nCMD ['echo','single quotes are invalid JSON']\nCMD [\"echo\", \"Please, close the brackets when you're done\"\nCMD [\"echo\", \"look ma, no quote!]",
        r#"(cmd "'[\"echo\", \"Phew, I just managed to escaped those double quotes\"]'")
(cmd "\"[\\\"echo\\\"]\"")
(cmd "['echo','single quotes are invalid JSON']")
(cmd "[\"echo\", \"Please, close the brackets when you're done\"")
(cmd "[\"echo\", \"look ma, no quote!]")"#,
    ),
    (
        "kartar-entrypoint-oddities, multiple-volumes, mumble",
        "ENTRYPOINT \"consul\"\nENTRYPOINT [\"redis-server\",  \"--x\"]\nENTRYPOINT\t[ \"/a\" ]\nVOLUME [\"/a\", \"/b c\"]\nVOLUME /a /b",
        "(entrypoint \"\\\"consul\\\"\")\n(entrypoint \"redis-server\" \"--x\")\n(entrypoint \"/a\")\n(volume \"/a\" \"/b c\")\n(volume \"/a\" \"/b\")",
    ),
    (
        "lk4d4-the-edge-case-generator",
        "ONBUILD RUN [\"echo\", \"test\"]\nONBUILD RUN echo test\nONBUILD COPY . /\n# RUN \\\n# in a comment \\\nRUN [\"echo\", \"'1234'\"]\nRUN    sh -c 'echo a:b \\\n        > /tmp/c'\nENV SCUBA 1 DUBA 3\nENV SCUBA \"1 DUBA 3\"\nCMD echo 'test' | wc -\nEXPOSE 9000 5000\nUSER docker:root",
        r#"(onbuild (run "echo" "test"))
(onbuild (run "echo test"))
(onbuild (copy "." "/"))
(run "echo" "'1234'")
(run "sh -c 'echo a:b         > /tmp/c'")
(env "SCUBA" "1 DUBA 3" "")
(env "SCUBA" "\"1 DUBA 3\"" "")
(cmd "echo 'test' | wc -")
(expose "9000" "5000")
(user "docker:root")"#,
    ),
    (
        "trailing-backslash: one that is escaped continues nothing",
        "ENV B another\\\\path\nENV C trailing\\\\backslash\\\\\nENV D own\nENV E hello\\\n\\\nworld\nENV F hello\\\n \\\nworld\nENV G hello \\\n\\\nworld",
        r#"(env "B" "another\\\\path" "")
(env "C" "trailing\\\\backslash\\\\" "")
(env "D" "own" "")
(env "E" "helloworld" "")
(env "F" "hello world" "")
(env "G" "hello world" "")"#,
    ),
];

#[test]
fn statements_are_those_of_buildkit() {
    for (case, text, expected) in SAME {
        assert_eq!(dumps(text), *expected, "{case}");
    }
}

#[test]
fn what_is_none_is_an_error_with_its_line() {
    for (text, position, part) in [
        ("", (1, 1), "no instruction"),
        ("# only\n# comments\n\n", (2, 11), "no instruction"),
        ("FROM a\nENV PATH\n", (2, 5), "a name and a value"),
        ("FROM a\nCMD [ \"echo\", [ \"nested json\" ] ]", (2, 15), "strings only"),
        ("FROM a\nENV a=b \\\n  c", (3, 3), "has no '='"),
        ("FROM a\nRUN <<EOF\nx\n", (2, 1), "does not end"),
        ("FROM a\nRUN <<EOF'\n", (2, 1), ""),
        ("# escape=x\nFROM a", (1, 1), "can't be the escape character"),
        ("# escape=`\n# escape=`\nFROM a", (2, 1), "a second time"),
        ("FROM a\nRUN \0", (2, 5), "NUL"),
        ("FROM a\n  \\\n", (2, 3), "nothing before or after"),
    ] {
        let Err(error) = parse(text) else {
            assert!(part.is_empty(), "{text:?} passes");
            continue;
        };
        assert_eq!(error.position(), Some(position), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn instructions_have_their_lines() {
    let text = "# syntax=x\n\n# begin\n\n\nFROM a AS b\n\n  RUN a \\\n  # within\n  b \\\n\n  c\n\nCOPY <<E /x\n1\n2\nE\n\tUSER me\n";
    let (read, source) = parse(text).unwrap();
    let spans: Vec<_> =
        read.statements.iter().map(|one| (one.span.first, one.span.last, one.span.column)).collect();
    assert_eq!(spans, [(6, 6, 1), (8, 12, 3), (14, 17, 1), (18, 18, 2)]);
    // The word c is in its own line.
    let run = &read.statements[1];
    assert_eq!(run.text, "RUN a   b   c");
    assert_eq!(source.line_at(run.words()[0].at), 8);
    assert_eq!(read.gaps, [run.span]);
    assert_eq!(read.statements[0].comments, ["begin"]);
    assert_eq!(read.directives.syntax.as_ref().unwrap().line, 1);
}

#[test]
fn an_empty_line_amid_an_instruction_is_noticed() {
    let text = "FROM alpine\nRUN valid \\\n continuation\nRUN something \\\n\n  following \\\n\n  more\nRUN another \\\n\n  thing\nRUN a \\\n# comment\n  b\nRUN c \\\n   # comment\n  d\n\t";
    let (read, _) = parse(text).unwrap();
    let texts: Vec<_> = read.statements.iter().map(|one| one.text.as_str()).collect();
    assert_eq!(texts[2], "RUN something   following   more");
    assert_eq!(read.gaps.iter().map(|span| span.first).collect::<Vec<_>>(), [4, 9]);
}

/// Name, descriptor, content, whether it expands, whether tabs go.
type Here = (&'static str, u32, &'static str, bool, bool);

#[test]
fn here_documents_are_those_of_buildkit() {
    let cases: &[(&str, &[Here])] = &[
        ("RUN ls\n", &[]),
        ("RUN <<EMPTY\nEMPTY\n", &[("EMPTY", 0, "", true, false)]),
        ("RUN 3<<EMPTY\nEMPTY\n", &[("EMPTY", 3, "", true, false)]),
        ("RUN \"<<NONE\"\n", &[]),
        ("RUN [\"<<EOF\"]\n", &[]),
        ("RUN [\"<<'EOF'\"]\n", &[]),
        ("RUN <<IN\n\tfoo\n\tbar\nIN\n", &[("IN", 0, "\tfoo\n\tbar\n", true, false)]),
        ("RUN <<-UN\n\tbaz\n\tqux\nUN\n", &[("UN", 0, "\tbaz\n\tqux\n", true, true)]),
        ("RUN <<-UN\n\tbaz\n\tUN\n", &[("UN", 0, "\tbaz\n", true, true)]),
        ("RUN <<-E\n\t$NAME\nE\n", &[("E", 0, "\t$NAME\n", true, true)]),
        ("RUN <<-'E'\n\t$NAME\nE\n", &[("E", 0, "\t$NAME\n", false, true)]),
        ("RUN <<COPY\necho a\necho b\nCOPY\n", &[("COPY", 0, "echo a\necho b\n", true, false)]),
        ("RUN <<C\n# inner\necho # more\nC\n", &[("C", 0, "# inner\necho # more\n", true, false)]),
        ("RUN --mount=type=cache,target=/f <<M\na\nM\n", &[("M", 0, "a\n", true, false)]),
        (
            "COPY <<F1 <<F2 /d\n1\nF1\n2\nF2\n",
            &[("F1", 0, "1\n", true, false), ("F2", 0, "2\n", true, false)],
        ),
        ("COPY <<EOF /q\n\"foo\"\n'bar'\nEOF\n", &[("EOF", 0, "\"foo\"\n'bar'\n", true, false)]),
        ("COPY <<X <<Y /d\nY\nX\nX\nY\n", &[("X", 0, "Y\n", true, false), ("Y", 0, "X\n", true, false)]),
        ("RUN <<C python3\nprint('x')\nC\n", &[("C", 0, "print('x')\n", true, false)]),
        ("COPY <<file.txt /d\nhello\nfile.txt\n", &[("file.txt", 0, "hello\n", true, false)]),
        ("RUN <<eo'f'\nx\neof\n", &[("eof", 0, "x\n", false, false)]),
        ("RUN <<eo\\'f\nx\neo'f\n", &[("eo'f", 0, "x\n", true, false)]),
        ("RUN <<'e'o\\'f\nx\neo'f\n", &[("eo'f", 0, "x\n", false, false)]),
        ("RUN <<'one two'\nx\none two\n", &[("one two", 0, "x\n", false, false)]),
        ("RUN <<$EOF\n$EOF\n", &[("$EOF", 0, "", true, false)]),
        ("RUN <<  EOF\nEOF\n", &[("EOF", 0, "", true, false)]),
        ("RUN <<  EOF  > foo\nEOF\n", &[("EOF", 0, "", true, false)]),
        ("ADD <<E /x\r\na\r\nE\r\n", &[("E", 0, "a\r\n", true, false)]),
        ("ONBUILD RUN <<E\nx\nE", &[("E", 0, "x\n", true, false)]),
        ("ONBUILD RUN [\"<<E\"]\n", &[]),
        // Not of these.
        ("USER <<INVALID\n", &[]),
        ("CMD <<E\n", &[]),
    ];
    for (text, expected) in cases {
        let (read, _) = parse(text).unwrap();
        let [statement] = read.statements.as_slice() else { panic!("{text:?}") };
        let found: Vec<_> = statement.heredocs.iter().collect();
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.name.as_str(), one.descriptor, &*one.content, one.expand, one.strip_tabs))
            .collect();
        assert_eq!(found, *expected, "{text:?}");
    }
}

#[test]
fn long_lines_and_long_files_are_errors() {
    let line = |length: usize| format!("FROM image\nLABEL test={}\n", "a".repeat(length));
    assert!(parse(&line(65535 - 11)).is_ok());
    let error = parse(&line(65536 - 11)).err().unwrap();
    assert_eq!((error.position(), error.kind()), (Some((2, 1)), crate::error::ErrorKind::TooLarge));
    let error = parse(&line(10 << 20)).err().unwrap();
    assert!(error.to_string().len() < 600, "{error}");
    assert_eq!(source(&vec![b'#'; 17 << 20]).unwrap_err().kind(), crate::error::ErrorKind::TooLarge);
    let error = source(b"FROM a\nRUN \xffb").unwrap_err();
    assert_eq!(error.position(), Some((2, 5)));
}
