//! What BuildKit's shell lexer makes of its own test cases: all of `envVarTest` and `wordsTest` that are for Unix, and of
//! lex_test.go.

use super::super::{Expander, Lookup};

fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    // The last one counts.
    |name: &str| pairs.iter().rev().find(|(own, _)| *own == name).map(|(_, value)| value.to_string())
}

fn word(text: &str, env: &Lookup) -> Option<String> {
    Expander::new('\\').word(text, env).ok().map(|expansion| expansion.text)
}

const HOME: &[(&str, &str)] = &[("PWD", "/home"), ("SHELL", "bash"), ("KOREAN", "한국어"), ("NULL", "")];

/// Twice each: `@` is "he", and "안녕".
const TWICE: &[(&str, &str)] = &[
    ("@$1x", "@x"),
    ("@$.x", "@$.x"),
    ("@$pwd.", "@."),
    ("@$PWD", "@/home"),
    (r"@\$PWD", "@$PWD"),
    (r"@\\$PWD", r"@\/home"),
    (r"@\${}", "@${}"),
    (r"@\${}xx", "@${}xx"),
    ("@${hi}", "@"),
    ("@${hi}xx", "@xx"),
    ("@${PWD}", "@/home"),
    ("@${XXX:-000}xx", "@000xx"),
    ("@${PWD:-000}xx", "@/homexx"),
    ("@${XXX:-$PWD}xx", "@/homexx"),
    ("@${XXX:-${PWD:-yyy}}xx", "@/homexx"),
    ("@${XXX:-${YYY:-yyy}}xx", "@yyyxx"),
    ("@${XXX:+${PWD}}xx", "@xx"),
    ("@${PWD:+${XXX}}xx", "@xx"),
    ("@${PWD:+${SHELL}}xx", "@bashxx"),
    ("@${XXX:+000}xx", "@xx"),
    ("@${PWD:+000}xx", "@000xx"),
    ("'@${XX}'", "@${XX}"),
    (r#""@${PWD}""#, "@/home"),
    (r#""@'$PWD'""#, "@'/home'"),
    (r#""@\$PWD""#, "@$PWD"),
    (r"'@\$PWD'", r"@\$PWD"),
    ("@${PWD:+${PWD}:}xx", "@/home:xx"),
    (r"@${XXX:-\$PWD:}xx", "@$PWD:xx"),
    (r"@${XXX:-\${PWD}z}xx", "@${PWDz}xx"),
];

const TWICE_WRONG: &[&str] = &["@${}", "@${}xx", "@${.}", "@${XXX:YYY}", "@${PWD", "@${PWD:=000}xx"];

const ONCE: &[(&str, &str)] = &[
    ("hello", "hello"),
    ("he'll'o", "hello"),
    (r"he\'llo", "he'llo"),
    (r"abc\tdef", "abctdef"),
    (r#""abc\tdef""#, r"abc\tdef"),
    (r#""abc\\tdef""#, r"abc\tdef"),
    (r"'abc\tdef'", r"abc\tdef"),
    (r"hello\", "hello"),
    (r"hello\\", r"hello\"),
    (r#""hel'lo""#, "hel'lo"),
    (r"'hello\'", r"hello\"),
    (r"'hello\there'", r"hello\there"),
    (r"'hello\\there'", r"hello\\there"),
    (r#""''""#, "''"),
    ("$.", "$."),
    (r#""he\\$PWD""#, r"he\/home"),
    (r"\${}", "${}"),
    (r"\${}aaa", "${}aaa"),
    ("he${PWD?}", "he/home"),
    ("he${PWD:?}", "he/home"),
    ("he${NULL?}", "he"),
    (r#""$PWD""#, "/home"),
    ("'$PWD'", "$PWD"),
    (r"'\$PWD'", r"\$PWD"),
    (r#"'"hello"'"#, r#""hello""#),
    ("안녕하세요", "안녕하세요"),
    ("안'녕'하세요", "안녕하세요"),
    (r"안녕\'하세요", "안녕'하세요"),
    (r"안녕\t하세요", "안녕t하세요"),
    (r#""안녕\t하세요""#, r"안녕\t하세요"),
    (r"안녕하세요\", "안녕하세요"),
    (r"안녕하세요\\", r"안녕하세요\"),
    (r#""안녕'하세요""#, "안녕'하세요"),
    (r"'안녕하세요\'", r"안녕하세요\"),
    (r#"'"안녕"'"#, r#""안녕""#),
    ("$KOREAN", "한국어"),
    ("안녕$KOREAN", "안녕한국어"),
    ("${aaa}}", "}"),
    ("${aaa:-bbb}}", "bbb}"),
    ("${aaa:-bbb}", "bbb"),
    ("${aaa:-${bbb:-ccc}}", "ccc"),
    ("${aaa:-bbb {foo}", "bbb {foo"),
    ("$@@@", "@@"),
];

const WRONG: &[&str] = &[
    "he'llo",
    r"he\\'llo",
    r#""hello"#,
    r#""hello\""#,
    "'hello",
    "${}",
    "${}aaa",
    "he${XXX?}",
    "he${XXX:?}",
    "he${NULL:?}",
    "안'녕하세요",
    r"안\\'녕하세요",
    r"'안녕\t하세요",
    r#""안녕하세요"#,
    r#""안녕하세요\""#,
    "'안녕하세요",
    "${{aaa}",
    "${aaa",
    "${{aaa:-bbb}",
    "${aaa:-bbb",
    "${aaa:-bbb ${foo}",
    "${:}",
    "${:-bbb}",
    "${:+bbb}",
];

/// Parameters by number and special ones are never set; of these three something follows, too.
const UNSET: &[&str] =
    &["1", "2", "3", "4", "5", "6", "7", "8", "9", "999", "001", "@", "*", "#", "?", "-", "$", "!", "0"];
const FOLLOWED: &[&str] = &["999", "001", "@"];

#[test]
fn words_of_env_var_test() {
    let env = env(HOME);
    let mut count = 0;
    let mut check = |text: &str, expected: Option<&str>| {
        count += 1;
        assert_eq!(word(text, &env).as_deref(), expected, "{text}");
    };
    for begin in ["he", "안녕"] {
        TWICE.iter().for_each(|(text, expected)| {
            check(&text.replace('@', begin), Some(&expected.replace('@', begin)));
        });
        TWICE_WRONG.iter().for_each(|text| check(&text.replace('@', begin), None));
    }
    ONCE.iter().for_each(|(text, expected)| check(text, Some(expected)));
    WRONG.iter().for_each(|text| check(text, None));
    for name in UNSET {
        for end in ["", "aaa"] {
            if !end.is_empty() && !FOLLOWED.contains(name) {
                continue;
            }
            check(&format!("${name}{end}"), Some(end));
            check(&format!("${{{name}}}{end}"), Some(end));
            check(&format!("${{{name}:+bbb}}{end}"), Some(end));
            check(&format!("${{{name}:-bbb}}{end}"), Some(&format!("bbb{end}")));
        }
    }
    // 228 lines, of which three are there twice.
    assert_eq!(count, 225);
}

#[test]
fn lists_of_words_test() {
    let none: &[(&str, &str)] = &[];
    let hi = &[("hi", "hi")][..];
    let space = &[("space", "abc  def")][..];
    let leading = &[("leading", "  ab c")][..];
    let trailing = &[("trailing", "ab c   ")][..];
    for (env_of, text, expected) in [
        (none, "hello", Some(&["hello"][..])),
        (none, "hello${hi}bye", Some(&["hellobye"])),
        (hi, "hello${hi}bye", Some(&["hellohibye"])),
        (space, "hello${space}bye", Some(&["helloabc", "defbye"])),
        (space, r#"hello"${space}"bye"#, Some(&["helloabc  defbye"])),
        (space, r#"hello "${space}"bye"#, Some(&["hello", "abc  defbye"])),
        (leading, "hello${leading}def", Some(&["hello", "ab", "cdef"])),
        (leading, r#"hello"${leading}" def"#, Some(&["hello  ab c", "def"])),
        (leading, r#"hello"${leading}""#, Some(&["hello  ab c"])),
        (leading, "hello${leading}", Some(&["hello", "ab", "c"])),
        (trailing, "hello${trailing}", Some(&["helloab", "c"])),
        (trailing, "hello${trailing}d", Some(&["helloab", "c", "d"])),
        (trailing, r#"hello"${trailing}"d"#, Some(&["helloab c   d"])),
        (trailing, r#"hel"lo${trailing}""#, Some(&["helloab c   "])),
        (none, r#"hello" there  ""#, Some(&["hello there  "])),
        (none, "hello there", Some(&["hello", "there"])),
        (none, r"hello\ there", Some(&["hello there"])),
        (none, r#"hello" there"#, None),
        (none, r#"hello\" there"#, Some(&["hello\"", "there"])),
        (none, r#"hello"\\there""#, Some(&[r"hello\there"])),
        (none, r#"hello"\there""#, Some(&[r"hello\there"])),
        (none, r"hello'\\there'", Some(&[r"hello\\there"])),
        (none, r"hello'\there'", Some(&[r"hello\there"])),
        (none, "hello'$there'", Some(&["hello$there"])),
    ] {
        let words = Expander::new('\\').words(text, &env(env_of)).ok();
        let words = words.as_ref().map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(words.as_deref(), expected, "{text}");
    }
}

type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static str, &'static str);

/// Text, variables, what it becomes, which are used and which are not set.
const MATCHES: &[Case] = &[
    ("x", &[("DUMMY", "dummy")], "x", "", ""),
    ("x ${UNUSED}", &[("DUMMY", "dummy")], "x ", "", "UNUSED"),
    ("x ${FOO}", &[("FOO", "y")], "x y", "FOO", ""),
    ("${FOO-aaa} ${BAR-bbb} ${BAZ-ccc}", SET, "xxx  ccc", "BAR FOO", "BAZ"),
    ("${FOO:-aaa} ${BAR:-bbb} ${BAZ:-ccc}", SET, "xxx bbb ccc", "BAR FOO", "BAZ"),
    ("${FOO:-}", SET, "xxx", "FOO", ""),
    ("${FOO:-}", &[], "", "", "FOO"),
    ("${FOO+aaa} ${BAR+bbb} ${BAZ+ccc}", SET, "aaa bbb ", "BAR FOO", "BAZ"),
    ("${FOO:+aaa} ${BAR:+bbb} ${BAZ:+ccc}", SET, "aaa  ", "BAR FOO", "BAZ"),
    ("${FOO?aaa}", SET, "xxx", "FOO", ""),
    ("${BAR?bbb}", SET, "", "BAR", ""),
    ("${FOO:?aaa}", SET, "xxx", "FOO", ""),
    (r"${FOO#()[]{\}^$.\*\?|\\}", &[("FOO", r"()[]{}^$.*?|\x")], "x", "FOO", ""),
    (r"${FOO%%\**}", &[("FOO", "xx**")], "xx", "FOO", ""),
    ("${FOO#*x*y}", &[("FOO", "xxyy")], "y", "FOO", ""),
    ("${FOO#*}", &[("FOO", "xxyy")], "xxyy", "FOO", ""),
    ("${FOO#$BAR}", &[("FOO", "xxyy"), ("BAR", "x")], "xyy", "BAR FOO", ""),
    ("${FOO#$BAR}", &[("FOO", "xxyy"), ("BAR", "")], "xxyy", "BAR FOO", ""),
    ("${FOO#}", &[("FOO", "xxyy")], "xxyy", "FOO", ""),
    ("${FOO##*x}", &[("FOO", "xxyy")], "yy", "FOO", ""),
    ("${FOO##}", &[("FOO", "xxyy")], "xxyy", "FOO", ""),
    (r"${FOO#?\?}", &[("FOO", "???y")], "?y", "FOO", ""),
    ("${ABC:-.}${FOO%x}${ABC:-.}", &[("FOO", "xxyy")], ".xxyy.", "FOO", "ABC"),
    (r"${FOO%%\**\*}", &[("FOO", "a***yy*")], "a", "FOO", ""),
    ("${FOO%}", &[("FOO", "xxyy")], "xxyy", "FOO", ""),
    ("${FOO%%$BAR}", &[("FOO", "xxyy"), ("BAR", "")], "xxyy", "BAR FOO", ""),
    (
        "${FOO/$NEEDLE/.} - ${FOO//$NEEDLE/.}",
        &[("FOO", "/foo*/*/*.txt"), ("NEEDLE", r"\*/")],
        "/foo.*/*.txt - /foo..*.txt",
        "FOO NEEDLE",
        "",
    ),
    (
        "${FOO/$NEEDLE/} - ${FOO//$NEEDLE/}",
        &[("FOO", "/tmp/tmp/bar.txt"), ("NEEDLE", "/tmp")],
        "/tmp/bar.txt - /bar.txt",
        "FOO NEEDLE",
        "",
    ),
    (
        "${FOO/$NEEDLE/$BY} - ${FOO//$NEEDLE/$BY}",
        &[("FOO", "/a/foo/b/c.txt"), ("NEEDLE", "/?/"), ("BY", "/")],
        "/foo/b/c.txt - /foo/c.txt",
        "BY FOO NEEDLE",
        "",
    ),
    (
        "${FOO/$NEEDLE/$BY}",
        &[("FOO", "http://google.de"), ("NEEDLE", "http://"), ("BY", "https://")],
        "https://google.de",
        "BY FOO NEEDLE",
        "",
    ),
    (r"${FOO//\//\/}", &[("FOO", "/tmp/foo.txt")], r"\/tmp\/foo.txt", "FOO", ""),
    ("${FOO/$BAR/ww}", &[("FOO", "xxyy"), ("BAR", "")], "wwxxyy", "BAR FOO", ""),
    ("${FOO///}", &[("FOO", "xxyy")], "xxyy", "FOO", ""),
    ("${FOO///}", &[], "", "", "FOO"),
    (
        RELEASE,
        &[("VERSION", "v1"), ("ARCH", "arm"), ("VARIANT", "v7")],
        "x-v1-arm-v7.tar",
        "ARCH VARIANT VERSION",
        "",
    ),
    (
        RELEASE,
        &[("VERSION", "v1"), ("ARCH", "arm"), ("VARIANT", "")],
        "x-v1-arm.tar",
        "ARCH VARIANT VERSION",
        "",
    ),
    (RELEASE, &[("VERSION", "v1"), ("ARCH", "arm")], "x-v1-arm.tar", "ARCH VERSION", "VARIANT"),
];
const SET: &[(&str, &str)] = &[("FOO", "xxx"), ("BAR", "")];
const RELEASE: &str = "x-${VERSION}-${ARCH}${VARIANT:+-${VARIANT}}.tar";

const MATCHES_WRONG: &[&str] = &[
    "${BAZ?ccc}",
    "${BAR:?bbb}",
    "${BAZ:?ccc}",
    "${BAZ:?}",
    "${FOO=aaa}",
    "${FOO=:aaa}",
    "${FOO=}",
    "${FOO:#}",
    "${FOO:##}",
    "${FOO:%}",
    "${FOO:%%}",
    "${FOO//ww}",
    "${FOO//}",
];

#[test]
fn modifiers_and_the_names_they_look_at() {
    for (text, pairs, expected, used, unset) in MATCHES {
        let expansion = Expander::new('\\').word(text, &env(pairs)).unwrap();
        let joined =
            |names: &std::collections::BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
        let found = (expansion.text.as_str(), joined(&expansion.used), joined(&expansion.unset));
        assert_eq!(found, (*expected, used.to_string(), unset.to_string()), "{text}");
    }
    for text in MATCHES_WRONG {
        assert_eq!(word(text, &env(SET)), None, "{text}");
    }
}

#[test]
fn what_has_to_be_set_says_so_in_its_own_words() {
    let says = |text: &str, pairs: &[(&str, &str)]| match Expander::new('\\').word(text, &env(pairs)) {
        Ok(expansion) => expansion.text,
        Err(error) => error.to_string().lines().next().unwrap().to_owned(),
    };
    let (plain, empty, unset) =
        (&[("VAR", "plain"), ("ARG", "x")][..], &[("VAR", ""), ("ARG", "x")][..], &[("ARG", "x")][..]);
    let wrong = "line 1, column 1: VAR: message herex";
    for (text, expected) in [
        ("${VAR:?message here$ARG}", ["plain", wrong, wrong]),
        ("${VAR?message here$ARG}", ["plain", "", wrong]),
    ] {
        assert_eq!([plain, empty, unset].map(|pairs| says(text, pairs)), expected, "{text}");
    }
    assert_eq!(says("ab${VAR?}", unset), "line 1, column 3: VAR has to be set");
    assert_eq!(says("ab${VAR:?}", empty), "line 1, column 3: VAR has to have a value that is not empty");
}

#[test]
fn quotes_escapes_and_what_is_not_set_can_stay() {
    let env = env(&[("A", "a'b")]);
    let text = |expander: &Expander, text: &str| expander.word(text, &env).unwrap().text;
    let kept = Expander::new('\\').raw_quotes(true).keep_unset(true);
    assert_eq!(
        text(&kept, r#"'$A' "$A" $B ${B} ${B:-$A} ${B#x} ${B//x/y}"#),
        r#"'$A' "a'b" $B ${B} ${B:-a'b} ${B#x} ${B//x/y}"#
    );
    assert_eq!(text(&Expander::new('\\').raw_escapes(true), r#"\$A "\$A" \x"#), r"\$A \$A \x");
    // As in the content of a here-document.
    assert_eq!(
        text(&Expander::new('\\').plain_quotes(true), "it's \"$A\" '$A' \\$A"),
        "it's \"a'b\" 'a'b' $A"
    );
    assert_eq!(text(&Expander::new('`'), "C:\\dir `$A $A"), "C:\\dir $A a'b");
    // Text before a modifier is a part of its word.
    assert_eq!(Expander::new('\\').words("80${B:-80}/tcp x", &env).unwrap(), ["8080/tcp", "x"]);
}

#[test]
fn what_would_take_too_much_is_an_error() {
    let deep = |depth: usize| format!("{}x{}", "${A:-".repeat(depth), "}".repeat(depth));
    assert_eq!(word(&deep(64), &env(&[])).as_deref(), Some("x"));
    let error = Expander::new('\\').word(&deep(10_000), &env(&[])).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::TooLarge);
    assert!(error.to_string().contains("more than 64"), "{error}");
    let long = |_: &str| Some("x".repeat(1 << 20));
    assert!(word(&"$A".repeat(15), &long).is_some());
    let error = Expander::new('\\').word(&"$A".repeat(17), &long).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::TooLarge);
    let error = Expander::new('\\')
        .word("${A##*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*x*y}", &long);
    assert_eq!(error.unwrap_err().kind(), crate::error::ErrorKind::TooLarge);
    // Together it is too much, whether or not it is in the result.
    let short = |_: &str| Some("x".repeat(1 << 16));
    for (text, good, bad) in [("${A##*xxxxxxxxxxxxxxy}", 60, 66), ("${A:+}", 1_000, 1_100)] {
        assert!(word(&text.repeat(good), &short).is_some(), "{text}");
        let error = Expander::new('\\').word(&text.repeat(bad), &short).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::TooLarge);
    }
    let error = Expander::new('\\').word("${A//x/0123456789012345678}", &long).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::TooLarge);
}
