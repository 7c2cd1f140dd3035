//! Patterns once more, in the plainest way: whatever they may match is tried. What is faster has to say the same.

use std::collections::BTreeSet;

/// How much is still tried. `None` of the functions below is that it was not enough to know.
pub struct Tries(pub u32);

impl Tries {
    fn take(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(1)?;
        Some(())
    }
}

fn is_plain(pattern: &[char]) -> bool {
    !pattern.iter().any(|c| matches!(c, '*' | '?' | '[' | ']' | '\\'))
}

/// Whether patterns of a `.dockerignore`, each an exception or not, leave this path out.
pub fn excludes(patterns: &[(&str, bool)], path: &str, tries: &mut Tries) -> Option<bool> {
    let path: Vec<char> = path.chars().collect();
    let mut excluded = false;
    for (pattern, is_exception) in patterns {
        let pattern: Vec<char> = pattern.chars().collect();
        // A path is meant by whatever means a directory above it.
        let ends = (0..=path.len()).filter(|end| path.get(*end).is_none_or(|c| *c == '/'));
        for end in ends {
            if matches(&pattern, &path[..end], tries)? {
                excluded = !is_exception;
                break;
            }
        }
    }
    Some(excluded)
}

/// One pattern and one path, without the directories above it.
fn matches(pattern: &[char], path: &[char], tries: &mut Tries) -> Option<bool> {
    // These are no regular expressions to moby, so for them `**` is not about whole names.
    match pattern {
        ['*', '*', rest @ ..] if is_plain(rest) => {
            return Some(path.ends_with(rest) || rest.strip_prefix(&['/']) == Some(path));
        }
        [rest @ .., '*', '*'] if is_plain(rest) => return Some(path.starts_with(rest)),
        _ => {}
    }
    expression(pattern, path, tries)
}

fn expression(pattern: &[char], path: &[char], tries: &mut Tries) -> Option<bool> {
    tries.take()?;
    // Without a character nothing fits, whatever is said of this one.
    let c = path.first().copied().unwrap_or('\0');
    let (fits, rest) = match pattern {
        [] => return Some(path.is_empty()),
        ['*', '*', rest @ ..] => {
            let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
            if rest.is_empty() {
                return Some(true);
            }
            for at in (0..=path.len()).filter(|at| *at == 0 || path[at - 1] == '/') {
                if expression(rest, &path[at..], tries)? {
                    return Some(true);
                }
            }
            return Some(false);
        }
        ['*', rest @ ..] => {
            let name = path.iter().take_while(|c| **c != '/').count();
            for at in 0..=name {
                if expression(rest, &path[at..], tries)? {
                    return Some(true);
                }
            }
            return Some(false);
        }
        ['?', rest @ ..] => (c != '/', rest),
        ['[', '^', inner @ ..] => {
            let (fits, rest) = class(inner, c);
            (!fits, rest)
        }
        ['[', inner @ ..] => class(inner, c),
        ['\\', own, rest @ ..] | [own, rest @ ..] => (c == *own, rest),
    };
    match path {
        [_, below @ ..] if fits => expression(rest, below, tries),
        _ => Some(false),
    }
}

/// Whether a character is in brackets, and what follows them. That they are right was said before.
fn class(mut rest: &[char], c: char) -> (bool, &[char]) {
    fn one(rest: &[char]) -> (char, &[char]) {
        match rest {
            ['\\', c, after @ ..] | [c, after @ ..] => (*c, after),
            [] => panic!("a bracket is not closed"),
        }
    }
    let mut fits = false;
    loop {
        let named = |after: &[char]| after.windows(2).position(|two| two == [':', ']']);
        match rest {
            [']', after @ ..] => return (fits, after),
            ['[', ':', after @ ..] if named(after).is_some() => {
                let (name, after) = after.split_at(named(after).unwrap_or_default());
                fits |= is_of(&String::from_iter(name), c);
                rest = &after[2..];
            }
            _ => {
                let (low, after) = one(rest);
                let (high, after) = match after {
                    ['-', after @ ..] => one(after),
                    after => (low, after),
                };
                fits |= low <= c && c <= high;
                rest = after;
            }
        }
    }
}

fn is_of(name: &str, c: char) -> bool {
    match name {
        "alnum" => c.is_ascii_alphanumeric(),
        "alpha" => c.is_ascii_alphabetic(),
        "ascii" => c.is_ascii(),
        "blank" => c == ' ' || c == '\t',
        "cntrl" => c.is_ascii_control(),
        "digit" => c.is_ascii_digit(),
        "graph" => c.is_ascii_graphic(),
        "lower" => c.is_ascii_lowercase(),
        "print" => c.is_ascii_graphic() || c == ' ',
        "punct" => c.is_ascii_punctuation(),
        "space" => c.is_ascii_whitespace() || c == '\u{b}',
        "upper" => c.is_ascii_uppercase(),
        "word" => c.is_ascii_alphanumeric() || c == '_',
        "xdigit" => c.is_ascii_hexdigit(),
        _ => panic!("{name:?} is no class"),
    }
}

/// A pattern of `${name#pattern}` and its kin.
pub struct Pattern(Vec<(char, bool)>);

impl Pattern {
    /// `None` for one that has an escape that there is not.
    pub fn new(text: &str) -> Option<Self> {
        let (mut all, mut chars) = (Vec::new(), text.chars());
        while let Some(c) = chars.next() {
            all.push(match c {
                '\\' => (chars.next().filter(|c| matches!(c, '}' | '/' | '*' | '?' | '\\'))?, false),
                c => (c, c == '*' || c == '?'),
            });
        }
        Some(Self(all))
    }

    /// Where what matches from `from` on may end.
    fn ends(&self, value: &[char], from: usize, tries: &mut Tries) -> Option<BTreeSet<usize>> {
        let mut ends = BTreeSet::new();
        Self::from(&self.0, value, from, &mut ends, tries)?;
        Some(ends)
    }

    fn from(
        parts: &[(char, bool)],
        value: &[char],
        at: usize,
        ends: &mut BTreeSet<usize>,
        tries: &mut Tries,
    ) -> Option<()> {
        tries.take()?;
        let Some(((part, is_special), rest)) = parts.split_first() else {
            ends.insert(at);
            return Some(());
        };
        let is_star = *is_special && *part == '*';
        if is_star {
            Self::from(rest, value, at, ends, tries)?;
        }
        match value.get(at) {
            Some('\n') if *is_special => Some(()),
            Some(_) if is_star => Self::from(parts, value, at + 1, ends, tries),
            Some(c) if *is_special || c == part => Self::from(rest, value, at + 1, ends, tries),
            _ => Some(()),
        }
    }

    /// `${value#…}`, and with `longest` `${value##…}`.
    pub fn without_prefix(&self, value: &str, longest: bool, tries: &mut Tries) -> Option<String> {
        let value: Vec<char> = value.chars().collect();
        let ends = self.ends(&value, 0, tries)?;
        let end = if longest { ends.last() } else { ends.first() };
        Some(value[end.copied().unwrap_or(0)..].iter().collect())
    }

    /// `${value%…}`, and with `longest` `${value%%…}`.
    pub fn without_suffix(&self, value: &str, longest: bool, tries: &mut Tries) -> Option<String> {
        let value: Vec<char> = value.chars().collect();
        let mut begins = Vec::new();
        for at in 0..=value.len() {
            if self.ends(&value, at, tries)?.contains(&value.len()) {
                begins.push(at);
            }
        }
        let begin = if longest { begins.first() } else { begins.last() };
        Some(value[..begin.copied().unwrap_or(value.len())].iter().collect())
    }

    /// `${value/…/by}`, and with `all` `${value//…/by}`.
    pub fn replace(&self, value: &str, by: &str, all: bool, tries: &mut Tries) -> Option<String> {
        let value: Vec<char> = value.chars().collect();
        let (mut result, mut at, mut last, mut done) = (String::new(), 0, None, false);
        while at <= value.len() {
            let end = self.ends(&value, at, tries)?.last().copied().filter(|_| !done);
            match end {
                // Nothing is found right after something.
                Some(end) if end > at || last != Some(at) => {
                    result.push_str(by);
                    (last, done) = (Some(end), !all);
                    if end > at {
                        at = end;
                        continue;
                    }
                }
                _ => {}
            }
            result.extend(value.get(at));
            at += 1;
        }
        Some(result)
    }
}
