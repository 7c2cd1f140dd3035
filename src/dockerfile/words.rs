//! How the arguments of an instruction are split, before anything of them is expanded: quotes and escapes stay where they
//! are, but for flags, which lose theirs.
#![forbid(unsafe_code)]

use serde_json::value::RawValue;

/// A part of a line: what it says, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) at: usize,
    /// How long it is as it is written.
    pub(super) length: usize,
}

impl Word {
    pub(super) fn new(text: impl Into<String>, at: usize) -> Self {
        let text = text.into();
        Self { length: text.len(), text, at }
    }

    pub(super) fn place(&self) -> std::ops::Range<usize> {
        self.at..self.at + self.length
    }
}

/// The white space between plain arguments. A newline is none: lines are joined without.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// The first word, what follows it, and where that begins.
pub(super) fn split_first(text: &str) -> (&str, Option<(&str, usize)>) {
    let Some(end) = text.find(is_blank) else { return (text, None) };
    let rest = text[end..].trim_start_matches(is_blank);
    (&text[..end], Some((rest, text.len() - rest.len())))
}

/// Split at blanks, whatever is quoted. `at` is where the text begins.
pub(super) fn blank_separated(text: &str, at: usize) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = (text, at);
    while !rest.0.is_empty() {
        let (first, next) = split_first(rest.0);
        words.push(Word::new(first, rest.1));
        let Some((next, by)) = next else { break };
        rest = (next, rest.1 + by);
    }
    words
}

/// The words that begin with `--`, without their quotes, and where the rest begins. A word `--` ends them and is none.
pub(super) fn flags(text: &str, escape: char) -> (Vec<Word>, usize) {
    let mut flags = Vec::new();
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let Some(&(from, _)) = chars.peek() else { return (flags, text.len()) };
        if !text[from..].starts_with("--") {
            return (flags, from);
        }
        let (mut word, mut quote) = (String::new(), None);
        let mut end = text.len();
        while let Some((at, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    end = at;
                    break;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                // At the very end it escapes nothing.
                _ if c == escape => word.extend(chars.next().map(|(_, c)| c)),
                _ => word.push(c),
            }
        }
        if word == "--" {
            return (flags, end);
        }
        flags.push(Word { text: word, at: from, length: end - from });
    }
}

/// Split at white space that is neither quoted nor escaped; quotes and escapes stay.
pub(super) fn quoted_words(text: &str, at: usize, escape: char) -> Vec<Word> {
    let mut words = Vec::new();
    let mut chars = text.char_indices();
    let (mut word, mut from, mut quote) = (String::new(), None, None);
    while let Some((here, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if let Some(from) = from.take() {
                    let text = std::mem::take(&mut word);
                    words.push(Word { text, at: at + from, length: here - from });
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        from.get_or_insert(here);
        // Nothing escapes a single quote.
        if c == escape && quote != Some('\'') {
            match chars.next() {
                Some((_, escaped)) => word.extend([c, escaped]),
                None => break,
            }
            continue;
        }
        word.push(c);
    }
    if let Some(from) = from.filter(|_| !word.is_empty()) {
        words.push(Word { text: word, at: at + from, length: text.len() - from });
    }
    words
}

/// What a text that begins with `[` is.
pub(super) enum List {
    /// JSON, and all of its elements are strings.
    Strings(Vec<Word>),
    /// JSON, with the element that is none.
    Other(Word),
    /// No JSON: a command of a shell may begin so.
    None,
}

pub(super) fn json_list(text: &str, at: usize) -> List {
    let inner = text.trim_start();
    if !inner.starts_with('[') {
        return List::None;
    }
    // Elements as they are written: what is deeply nested in one is not looked into.
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(inner) else { return List::None };
    let mut words = Vec::with_capacity(elements.len());
    for element in elements {
        let raw = element.get();
        // A slice of `text`, so this is its place in it.
        let from = at + (raw.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        match serde_json::from_str::<String>(raw) {
            Ok(string) => words.push(Word { text: string, at: from, length: raw.len() }),
            Err(_) => return List::Other(Word::new(raw, from)),
        }
    }
    List::Strings(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[Word]) -> Vec<&str> {
        words.iter().map(|word| word.text.as_str()).collect()
    }

    #[test]
    fn words_keep_their_quotes() {
        for (text, expected) in [
            ("foo", vec!["foo"]),
            ("foo bar", vec!["foo", "bar"]),
            (r"foo\ bar", vec![r"foo\ bar"]),
            ("foo=bar", vec!["foo=bar"]),
            ("foo bar 'abc xyz'", vec!["foo", "bar", "'abc xyz'"]),
            (r#"foo bar "abc xyz""#, vec!["foo", "bar", r#""abc xyz""#]),
            ("àöû", vec!["àöû"]),
            (r#"föo bàr "âbc xÿz""#, vec!["föo", "bàr", r#""âbc xÿz""#]),
            (r#"a="b\" c" d"#, vec![r#"a="b\" c""#, "d"]),
            (r"a='b\' c", vec![r"a='b\'", "c"]),
            (r"a\", vec!["a"]),
            ("\"\" x", vec!["\"\"", "x"]),
            ("", vec![]),
        ] {
            assert_eq!(texts(&quoted_words(text, 0, '\\')), expected, "{text:?}");
        }
        let words = quoted_words("  à=1  b", 10, '\\');
        assert_eq!((words[0].at, words[1].at), (12, 18));
        assert_eq!(texts(&quoted_words("a` b \\ c", 0, '`')), ["a` b", "\\", "c"]);
    }

    #[test]
    fn flags_lose_their_quotes_and_end_at_the_first_other_word() {
        let (found, rest) = flags("  --a=1 --b=\"x y\" --c=d\\ e --é='ü' z --d", '\\');
        assert_eq!(texts(&found), ["--a=1", "--b=x y", "--c=d e", "--é=ü"]);
        assert_eq!(&"  --a=1 --b=\"x y\" --c=d\\ e --é='ü' z --d"[rest..], "z --d");
        assert_eq!((found[1].at, found[1].length), (8, 9));
        let (found, rest) = flags("--a -- --b", '\\');
        assert_eq!((texts(&found), rest), (vec!["--a"], 6));
        assert_eq!(flags("--", '\\').0, []);
        assert_eq!(flags("-a", '\\').1, 0);
        assert_eq!(texts(&flags("--a\\", '\\').0), ["--a"]);
    }

    /// What the two tables of BuildKit's json_test.go say.
    #[test]
    fn a_list_is_json_or_it_is_not() {
        let strings = |text: &str| -> Vec<String> {
            let List::Strings(words) = json_list(text, 0) else { panic!("{text:?} is no list of strings") };
            words.into_iter().map(|word| word.text).collect()
        };
        assert_eq!(strings("[]"), Vec::<String>::new());
        assert_eq!(strings(r#"[""]"#), [""]);
        assert_eq!(strings(r#"["a"]"#), ["a"]);
        for spaced in [r#"["a","b"]"#, r#"[ "a", "b" ]"#, "[\t\"a\",\t\"b\"\t]", "\t[\t\"a\",\t\"b\"\t]\t"] {
            assert_eq!(strings(spaced), ["a", "b"]);
        }
        let escapes = r#"["abc 123", "♥", "☃", "\" \\ \/ \b \f \n \r \t \u0000"]"#;
        assert_eq!(strings(escapes), ["abc 123", "♥", "☃", "\" \\ / \u{8} \u{c} \n \r \t \0"]);
        for other in ["42", "123.456", "{}", r#"{"c": "d"}"#, r#"["c"]"#, "true", "false", "null"] {
            let text = format!(r#"["a",{other},"b"]"#);
            let List::Other(word) = json_list(&text, 7) else { panic!("{text:?} passes") };
            assert_eq!((word.text.as_str(), word.at), (other, 12));
        }
        for none in ["", "a", "['a']", r#"["a""#, r#"["a"] b"#, "[ -f x ]"] {
            assert!(matches!(json_list(none, 0), List::None), "{none:?}");
        }
    }
}
