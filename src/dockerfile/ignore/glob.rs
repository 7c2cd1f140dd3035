//! One pattern against one path.
#![forbid(unsafe_code)]

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Many,
    /// `**` or `**/`, with something behind it: nothing, or all up to some slash.
    Directories,
    /// `**` at the end.
    All,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// How a pattern is compared. The first three are not only faster: `**x` matches any path that ends with x, but `**x*` only
/// where a name begins with x.
#[derive(Clone, Debug)]
pub(super) enum Glob {
    Exact(Vec<char>),
    Prefix(Vec<char>),
    Suffix(Vec<char>),
    Tokens(Vec<Token>),
}

impl Glob {
    pub(super) fn new(pattern: &str) -> Result<Self, &'static str> {
        let chars: Vec<char> = pattern.chars().collect();
        let (mut tokens, mut at) = (Vec::new(), 0);
        // Where a name of a class may end at the latest: not each `[:` is to look for it to the end.
        let last = chars.windows(2).rposition(|two| two == [':', ']']).unwrap_or(0);
        // Whether it needs no tokens: nothing special so far but for a first or a last `**`.
        let (mut is_plain, mut begins, mut ends) = (true, false, false);
        while at < chars.len() {
            let c = chars[at];
            at += 1;
            match c {
                '*' if chars.get(at) == Some(&'*') => {
                    let is_first = at == 1;
                    at += 1;
                    if chars.get(at) == Some(&'/') {
                        at += 1;
                    }
                    let is_last = at == chars.len();
                    tokens.push(if is_last { Token::All } else { Token::Directories });
                    match (is_first, is_last) {
                        (true, _) => begins = true,
                        (false, true) if is_plain && !begins => ends = true,
                        (false, _) => is_plain = false,
                    }
                }
                '*' => {
                    tokens.push(Token::Many);
                    is_plain = false;
                }
                '?' => {
                    tokens.push(Token::One);
                    is_plain = false;
                }
                '\\' => {
                    let escaped = chars.get(at).ok_or("a backslash at its end escapes nothing")?;
                    tokens.push(Token::Char(*escaped));
                    at += 1;
                    is_plain = false;
                }
                '[' => {
                    tokens.push(class(&chars, &mut at, last)?);
                    is_plain = false;
                }
                c => {
                    tokens.push(Token::Char(c));
                    // By itself a bracket is a character, and makes moby compare it the long way.
                    is_plain &= c != ']';
                }
            }
        }
        Ok(match (is_plain, begins, ends) {
            (true, true, _) => Self::Suffix(chars[2..].to_vec()),
            (true, false, true) => Self::Prefix(chars[..chars.len() - 2].to_vec()),
            (true, false, false) => Self::Exact(chars),
            (false, ..) => Self::Tokens(tokens),
        })
    }

    /// The path, or what ends at one of these places in it.
    pub(super) fn matches(&self, path: &[char], ends: &[usize]) -> bool {
        let any =
            |is_match: &dyn Fn(usize) -> bool| is_match(path.len()) || ends.iter().any(|end| is_match(*end));
        match self {
            Self::Exact(text) => path.starts_with(text) && any(&|end| end == text.len()),
            Self::Prefix(text) => path.starts_with(text),
            // `**/x` matches x itself.
            Self::Suffix(text) => any(&|end| {
                let path = &path[..end];
                path.ends_with(text) || text.first() == Some(&'/') && path == &text[1..]
            }),
            Self::Tokens(tokens) => reached(tokens, path).is_some_and(|reached| any(&|end| reached[end])),
        }
    }

    /// Whether some path below this directory may match; `pattern` is the text that this was made of.
    pub(super) fn may_match_below(&self, pattern: &str, directory: &str) -> bool {
        // Up to the first thing that is no plain character, the directory has to agree.
        let plain = pattern.find(['*', '?', '[', '\\']).unwrap_or(pattern.len());
        let is_whole = plain == pattern.len();
        let (plain, below) = (&pattern[..plain], format!("{directory}/"));
        match is_whole {
            // What is below a path that matches is brought back with it.
            true => plain.starts_with(&below) || below.starts_with(&format!("{plain}/")),
            false => plain.starts_with(&below) || below.starts_with(plain),
        }
    }
}

/// After a `[`.
fn class(chars: &[char], at: &mut usize, last: usize) -> Result<Token, &'static str> {
    const OPEN: &str = "a '[' without its ']'";
    let negated = chars.get(*at) == Some(&'^');
    *at += usize::from(negated);
    let mut ranges = Vec::new();
    let one = |at: &mut usize| match chars.get(*at) {
        None => Err(OPEN),
        Some('-' | ']') => Err("in brackets '-' and ']' need a backslash before them"),
        Some('\\') => {
            let escaped = chars.get(*at + 1).ok_or(OPEN)?;
            *at += 2;
            Ok(*escaped)
        }
        Some(c) => {
            *at += 1;
            Ok(*c)
        }
    };
    loop {
        if chars.get(*at) == Some(&']') && !ranges.is_empty() {
            *at += 1;
            return Ok(Token::Class { negated, ranges });
        }
        if *at < last
            && let Some(named) = named(&chars[*at..])
        {
            let (length, named) = named?;
            ranges.extend_from_slice(named);
            *at += length;
            continue;
        }
        let low = one(at)?;
        let high = match chars.get(*at) {
            Some('-') => {
                *at += 1;
                one(at)?
            }
            _ => low,
        };
        if high < low {
            return Err("a range in brackets goes from the higher to the lower character");
        }
        ranges.push((low, high));
    }
}

type Named = Option<Result<(usize, &'static [(char, char)]), &'static str>>;

/// `[:digit:]` and others, which a regular expression has.
fn named(rest: &[char]) -> Named {
    if !rest.starts_with(&['[', ':']) {
        return None;
    }
    let end = rest.windows(2).skip(2).position(|two| two == [':', ']'])? + 2;
    let name: String = rest[2..end].iter().collect();
    let ranges: &[(char, char)] = match name.as_str() {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return Some(Err("no class of characters has this name")),
    };
    Some(Ok((end + 2, ranges)))
}

/// Which places of the path can be reached by the tokens, if any can: as many steps as both are long, whatever they are.
fn reached(tokens: &[Token], path: &[char]) -> Option<Vec<bool>> {
    // Most differ in what they begin with.
    if let (Some(Token::Char(c)), first) = (tokens.first(), path.first())
        && Some(c) != first
    {
        return None;
    }
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for token in tokens {
        let mut any = false;
        let fits = |c: char| match token {
            Token::Char(own) => *own == c,
            Token::One => c != '/',
            Token::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
            _ => false,
        };
        match token {
            Token::Many => {
                for at in 1..reached.len() {
                    reached[at] |= reached[at - 1] && path[at - 1] != '/';
                }
            }
            Token::Directories => {
                for at in 0..reached.len() {
                    let after_slash = at > 0 && path[at - 1] == '/';
                    let before = any;
                    any |= reached[at];
                    reached[at] |= after_slash && before;
                }
            }
            Token::All => {
                for at in 1..reached.len() {
                    reached[at] |= reached[at - 1];
                }
            }
            _ => {
                for at in (1..reached.len()).rev() {
                    reached[at] = reached[at - 1] && fits(path[at - 1]);
                }
                reached[0] = false;
            }
        }
        if !reached.contains(&true) {
            return None;
        }
    }
    Some(reached)
}
