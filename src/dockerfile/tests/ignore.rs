//! What moby's patternmatcher says of its own test cases.

use super::super::{Ignore, Parents};

/// Pattern, path, whether it is left out.
const SINGLE: &[(&str, &str, bool)] = &[
    ("**", "file", true),
    ("**", "file/", true),
    ("**/", "file", true),
    ("**/", "file/", true),
    ("**", "/", true),
    ("**/", "/", true),
    ("**", "dir/file", true),
    ("**/", "dir/file", true),
    ("**", "dir/file/", true),
    ("**/", "dir/file/", true),
    ("**/**", "dir/file", true),
    ("**/**", "dir/file/", true),
    ("dir/**", "dir/file", true),
    ("dir/**", "dir/file/", true),
    ("dir/**", "dir/dir2/file", true),
    ("dir/**", "dir/dir2/file/", true),
    ("**/dir", "dir", true),
    ("**/dir", "dir/file", true),
    ("**/dir2/*", "dir/dir2/file", true),
    ("**/dir2/*", "dir/dir2/file/", true),
    ("**/dir2/**", "dir/dir2/dir3/file", true),
    ("**/dir2/**", "dir/dir2/dir3/file/", true),
    ("**file", "file", true),
    ("**file", "dir/file", true),
    ("**/file", "dir/file", true),
    ("**file", "dir/dir/file", true),
    ("**/file", "dir/dir/file", true),
    ("**/file*", "dir/dir/file", true),
    ("**/file*", "dir/dir/file.txt", true),
    ("**/file*txt", "dir/dir/file.txt", true),
    ("**/file*.txt", "dir/dir/file.txt", true),
    ("**/file*.txt*", "dir/dir/file.txt", true),
    ("**/**/*.txt", "dir/dir/file.txt", true),
    ("**/**/*.txt2", "dir/dir/file.txt", false),
    ("**/*.txt", "file.txt", true),
    ("**/**/*.txt", "file.txt", true),
    ("a**/*.txt", "a/file.txt", true),
    ("a**/*.txt", "a/dir/file.txt", true),
    ("a**/*.txt", "a/dir/dir/file.txt", true),
    ("a/*.txt", "a/dir/file.txt", false),
    ("a/*.txt", "a/file.txt", true),
    ("a/*.txt**", "a/file.txt", true),
    ("a[b-d]e", "ae", false),
    ("a[b-d]e", "ace", true),
    ("a[b-d]e", "aae", false),
    ("a[^b-d]e", "aze", true),
    (".*", ".foo", true),
    (".*", "foo", false),
    ("abc.def", "abcdef", false),
    ("abc.def", "abc.def", true),
    ("abc.def", "abcZdef", false),
    ("abc?def", "abcZdef", true),
    ("abc?def", "abcdef", false),
    (r"a\\", r"a\", true),
    ("**/foo/bar", "foo/bar", true),
    ("**/foo/bar", "dir/foo/bar", true),
    ("**/foo/bar", "dir/dir2/foo/bar", true),
    ("abc/**", "abc", false),
    ("abc/**", "abc/def", true),
    ("abc/**", "abc/def/ghi", true),
    ("**/.foo", ".foo", true),
    ("**/.foo", "bar.foo", false),
    ("a(b)c/def", "a(b)c/def", true),
    ("a(b)c/def", "a(b)c/xyz", false),
    ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
    (WHEEL, WHEEL, true),
    ("dist/*.whl", WHEEL, true),
    (r"a\*b", "a*b", true),
];
const WHEEL: &str = "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl";
const UNWHEEL: &str = "!dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl";

/// Those of Go's filepath.Match; a wrong pattern is an error for any path.
const MATCH: &[(&str, &str, bool)] = &[
    ("abc", "abc", true),
    ("*", "abc", true),
    ("*c", "abc", true),
    ("a*", "a", true),
    ("a*", "abc", true),
    // By its directory.
    ("a*", "ab/c", true),
    ("a*/b", "abc/b", true),
    ("a*/b", "a/c/b", false),
    ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
    ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
    ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
    ("a*b?c*x", "abxbbxdbxebxczzx", true),
    ("a*b?c*x", "abxbbxdbxebxczzy", false),
    ("ab[c]", "abc", true),
    ("ab[b-d]", "abc", true),
    ("ab[e-g]", "abc", false),
    ("ab[^c]", "abc", false),
    ("ab[^b-d]", "abc", false),
    ("ab[^e-g]", "abc", true),
    (r"a\*b", "a*b", true),
    (r"a\*b", "ab", false),
    ("a?b", "a☺b", true),
    ("a[^a]b", "a☺b", true),
    ("a???b", "a☺b", false),
    ("a[^a][^a][^a]b", "a☺b", false),
    ("[a-ζ]*", "α", true),
    ("*[a-ζ]", "A", false),
    ("a?b", "a/b", false),
    ("a*b", "a/b", false),
    (r"[\]a]", "]", true),
    (r"[\-]", "-", true),
    (r"[x\-]", "x", true),
    (r"[x\-]", "-", true),
    (r"[x\-]", "z", false),
    (r"[\-x]", "x", true),
    (r"[\-x]", "-", true),
    (r"[\-x]", "a", false),
    ("*x", "xxx", true),
];
/// Of these, some are held against several paths there.
const WRONG: &[&str] =
    &["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "!", "[Local-Only]/"];

const SEVERAL: &[(&[&str], &str, bool)] = &[
    (&["*"], "fileutils.go", true),
    (&["*.go"], "fileutils.go", true),
    (&["!fileutils.go", "*.go"], "fileutils.go", true),
    (&["docs", "!docs/README.md"], "docs/README.md", false),
    (&["docs/", "!docs/README.md"], "docs/README.md", false),
    (&["docs/*", "!docs/README.md"], "docs/README.md", false),
    (&["*.go", "!fileutils.go"], "fileutils.go", false),
    (&["*.go"], ".", false),
    (&[], "/any/path/there", false),
    (&["**", "!util/docker/web"], "util/docker/web/foo", false),
    (&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", true),
    (&["**", UNWHEEL], WHEEL, false),
    (&["**", "!dist/*.whl"], WHEEL, false),
];

/// Directory by directory, as who walks a tree does it.
fn walked(ignore: &Ignore, path: &str) -> bool {
    let mut parents = Parents::default();
    for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
        parents = ignore.excludes_below(&path[..at], &parents).1;
    }
    ignore.excludes_below(path, &parents).0
}

#[test]
fn the_tables_of_patternmatcher() {
    let single = SINGLE.iter().chain(MATCH).map(|(pattern, path, excluded)| (vec![*pattern], path, excluded));
    let several = SEVERAL.iter().map(|(patterns, path, excluded)| (patterns.to_vec(), path, excluded));
    let mut count = 0;
    for (patterns, path, excluded) in single.chain(several) {
        let ignore = Ignore::new(&patterns).unwrap();
        assert_eq!(ignore.excludes(path), *excluded, "{patterns:?} {path:?}");
        assert_eq!(walked(&ignore, path), *excluded, "{patterns:?} {path:?}, walked");
        count += 1;
    }
    // 68 of TestMatches, 4 of several patterns, 39 of TestMatch that are no errors, 9 of single functions.
    assert_eq!(count, 120);
    for pattern in WRONG {
        let error = Ignore::new([pattern]).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::InvalidData, "{pattern}");
    }
}

#[test]
fn patterns_are_cleaned() {
    let patterns = |given: &[&str]| {
        let ignore = Ignore::new(given).unwrap();
        ignore
            .patterns()
            .map(|(text, not)| format!("{}{text}", if not { "!" } else { "" }))
            .collect::<Vec<_>>()
    };
    assert_eq!(patterns(&["docs", "config", ""]), ["docs", "config"]);
    assert_eq!(patterns(&["docs", "  !docs/README.md"]), ["docs", "!docs/README.md"]);
    assert_eq!(patterns(&["docs", "!docs/README.md  "]), ["docs", "!docs/README.md"]);
    assert_eq!(patterns(&["./a//b/../c/", "/", "..", "../x/./y", "/.."]), ["a/c", "/", "..", "../x/y", "/"]);
    assert!(Ignore::new(["docs", "!docs/x"]).unwrap().has_exceptions());
    assert!(!Ignore::new(["docs"]).unwrap().has_exceptions());
}

/// What ignorefile_test.go says.
#[test]
fn lines_of_the_file() {
    let text = "\u{feff}test1\n/test2\r\n/a/file/here\n\nlastfile\n# this is a comment\n! /inverted/abs/path\n #no comment";
    let ignore = Ignore::parse(text).unwrap();
    let found: Vec<_> = ignore.patterns().collect();
    let expected = [
        ("test1", false),
        ("test2", false),
        ("a/file/here", false),
        ("lastfile", false),
        ("inverted/abs/path", true),
        ("#no comment", false),
    ];
    assert_eq!(found, expected);
    assert_eq!(Ignore::parse("").unwrap().patterns().count(), 0);
    for (text, line) in [("a\n!\n", 2), ("a\n\n! \n", 3), ("[\n", 1), ("ok\n[b-a]", 2)] {
        let error = Ignore::parse(text).unwrap_err();
        assert_eq!(error.position().map(|(line, _)| line), Some(line), "{error}");
    }
    assert_eq!(Ignore::parse("x".repeat(5000)).unwrap_err().kind(), crate::error::ErrorKind::TooLarge);
    // Not UTF-8 on either side.
    let ignore = Ignore::parse(b"na\xefve\n").unwrap();
    use std::os::unix::ffi::OsStrExt;
    assert!(ignore.excludes(std::ffi::OsStr::from_bytes(b"na\xefve")));
}

#[test]
fn classes_have_names_and_are_no_wildcards() {
    let excludes = |pattern: &str, path: &str| Ignore::new([pattern]).unwrap().excludes(path);
    assert!(
        excludes("[[:digit:]_]*", "1.log") && excludes("[[:digit:]_]*", "_") && !excludes("[[:digit:]]", "a")
    );
    assert!(Ignore::new(["[[:digits:]]"]).is_err());
    assert!(excludes("[*?]", "*") && excludes("[*?]", "?") && !excludes("[*?]", "a"));
    assert!(excludes("[[a]", "[") && excludes("a]", "a]"));
    // As in a regular expression, what is not in brackets may be a slash.
    assert!(excludes("a[^b]c", "a/c"));
}

#[test]
fn who_walks_knows_where_to_look() {
    let ignore = Ignore::parse("**\n!src/*.rs\n!docs/api/index.md\n!**/keep\n").unwrap();
    assert!(ignore.may_include_below("anything"), "**/keep may be everywhere");
    let ignore = Ignore::parse("**\n!src/*.rs\n!docs/api/index.md\n").unwrap();
    for (directory, may) in [
        ("src", true),
        ("docs", true),
        ("docs/api", true),
        ("docs/other", false),
        ("do", false),
        ("target", false),
    ] {
        assert_eq!(ignore.may_include_below(directory), may, "{directory}");
    }
    assert!(!Ignore::parse("**").unwrap().may_include_below("src"));
    // The root, by either name.
    assert!(ignore.may_include_below("") && ignore.may_include_below("."));
    assert!(!Ignore::parse("**").unwrap().may_include_below(""));
}

/// A pattern that was not compared with a directory, as it would have changed nothing there, may change what is in it.
#[test]
fn a_walk_does_not_forget_what_changed_nothing_above() {
    for (text, path, excluded) in [
        ("**\n!a/b\na", "a/b", true),
        ("a\n!a/b\na", "a/b/c", true),
        ("!a\na/b\n!a", "a/b", false),
        ("**\n!a/b/c\na\n!a/b", "a/b/c", false),
        ("**\n!a/b/c\na", "a/b/c/d", true),
    ] {
        let ignore = Ignore::parse(text).unwrap();
        assert_eq!((ignore.excludes(path), walked(&ignore, path)), (excluded, excluded), "{text:?}");
    }
}
