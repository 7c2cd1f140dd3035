//! The patterns of `${name#pattern}` and its kin: `*`, `?`, and the escape character `\`. There are no brackets.
//!
//! Neither `*` nor `?` matches a newline, as in the regular expressions that BuildKit makes of them.
#![forbid(unsafe_code)]

const TOO_LONG: &str = "patterns and values this long take too many steps to compare";
const NOTHING: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
    Star,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let (mut tokens, mut chars) = (Vec::new(), text.chars());
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    // The braces' own two need it, and are no part of the pattern otherwise.
                    Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Token::Char(c),
                    Some(other) => return Err(format!("'\\{other}' is no escape")),
                    None => return Err("a '\\' at its end escapes nothing".into()),
                },
                c => Token::Char(c),
            });
        }
        Ok(Self(tokens))
    }

    /// For each place in `text`, where the match that begins there ends; the longest or the shortest. It takes characters
    /// of the text times characters of the pattern, of the `steps` that are left.
    fn ends(&self, text: &[char], longest: bool, steps: &mut usize) -> Result<Vec<u32>, &'static str> {
        let taken = (text.len() + 1).saturating_mul(self.0.len() + 1);
        let rest = steps.checked_sub(taken).filter(|_| text.len() < NOTHING as usize);
        *steps = rest.unwrap_or(0);
        rest.ok_or(TOO_LONG)?;
        let better = |a: u32, b: u32| match (a, b) {
            (NOTHING, other) | (other, NOTHING) => other,
            (a, b) if longest => a.max(b),
            (a, b) => a.min(b),
        };
        // Of the tokens from the last to the first: what matched from each place on before this token came.
        let mut ends: Vec<u32> = (0..=text.len() as u32).collect();
        for token in self.0.iter().rev() {
            match token {
                Token::Star => {
                    for at in (0..text.len()).rev() {
                        if text[at] != '\n' {
                            ends[at] = better(ends[at], ends[at + 1]);
                        }
                    }
                }
                Token::Char(_) | Token::Any => {
                    for at in 0..text.len() {
                        let fits = match token {
                            Token::Char(c) => text[at] == *c,
                            _ => text[at] != '\n',
                        };
                        ends[at] = if fits { ends[at + 1] } else { NOTHING };
                    }
                    ends[text.len()] = NOTHING;
                }
            }
        }
        Ok(ends)
    }

    pub(super) fn without_prefix<'a>(
        &self,
        value: &'a str,
        longest: bool,
        steps: &mut usize,
    ) -> Result<&'a str, &'static str> {
        let chars: Vec<char> = value.chars().collect();
        Ok(match self.ends(&chars, longest, steps)?[0] {
            NOTHING => value,
            end => &value[chars[..end as usize].iter().map(|c| c.len_utf8()).sum()..],
        })
    }

    pub(super) fn without_suffix<'a>(
        &self,
        value: &'a str,
        longest: bool,
        steps: &mut usize,
    ) -> Result<&'a str, &'static str> {
        let chars: Vec<char> = value.chars().rev().collect();
        let reversed = Self(self.0.iter().rev().copied().collect());
        Ok(match reversed.ends(&chars, longest, steps)?[0] {
            NOTHING => value,
            end => {
                let cut: usize = chars[..end as usize].iter().map(|c| c.len_utf8()).sum();
                &value[..value.len() - cut]
            }
        })
    }

    /// With the first match replaced, or all of them; the longest at each place.
    pub(super) fn replace(
        &self,
        value: &str,
        by: &str,
        all: bool,
        max: usize,
        steps: &mut usize,
    ) -> Result<String, &'static str> {
        let chars: Vec<char> = value.chars().collect();
        let ends = self.ends(&chars, true, steps)?;
        let (mut result, mut at, mut after) = (String::new(), 0, None);
        while at <= chars.len() {
            if result.len() > max {
                return Err("a value becomes too long by what is replaced in it");
            }
            let end = ends[at];
            // Nothing, right after a match, is no match of its own.
            if end != NOTHING && !(end as usize == at && after == Some(at)) {
                result.push_str(by);
                if !all {
                    result.extend(&chars[end as usize..]);
                    return Ok(result);
                }
                after = Some(end as usize);
                if end as usize > at {
                    at = end as usize;
                    continue;
                }
            }
            result.extend(chars.get(at));
            at += 1;
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn escapes_are_those_that_mean_something() {
        for bad in ["\\", "\\x", "\\\\\\", "ab\\"] {
            assert!(Pattern::new(bad).is_err(), "{bad:?}");
        }
        for good in ["*", "?", "\\*", "(()[]{\\}^$.\\*\\?|\\\\", "\\/"] {
            assert!(Pattern::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn shortest_and_longest_at_both_ends() {
        let cut = |pattern: &str, value: &'static str| {
            let pattern = Pattern::new(pattern).unwrap();
            let prefix = |longest| pattern.without_prefix(value, longest, &mut 1_000).unwrap();
            let suffix = |longest| pattern.without_suffix(value, longest, &mut 1_000).unwrap();
            [prefix(false), prefix(true), suffix(false), suffix(true)]
        };
        assert_eq!(cut("*.", "a.b.c"), ["b.c", "c", "a.b.c", "a.b.c"]);
        assert_eq!(cut(".*", "a.b.c"), ["a.b.c", "a.b.c", "a.b", "a"]);
        assert_eq!(cut("\\\\b", "\\b"), ["", "", "", ""]);
        assert_eq!(cut("👽*", "👽🚀👽🖖"), ["🚀👽🖖", "", "👽🚀", ""]);
        // A newline is not a part of what * and ? match.
        assert_eq!(cut("*", "a\nb"), ["a\nb", "\nb", "a\nb", "a\n"]);
        assert_eq!(cut("a?b", "a\nb"), ["a\nb"; 4]);
    }

    #[test]
    fn nothing_is_found_between_characters_but_not_after_a_match() {
        let replace = |pattern: &str, value: &str, by: &str| {
            Pattern::new(pattern).unwrap().replace(value, by, true, 100, &mut 1_000).unwrap()
        };
        assert_eq!(replace("", "ab", "-"), "-a-b-");
        assert_eq!(replace("*", "ab", "-"), "-");
        assert_eq!(replace("a", "banana", ""), "bnn");
        assert_eq!(replace("a*", "xaxa\na", "."), "x.\n.");
        assert_eq!(replace("a", "aaa", "$1"), "$1$1$1");
    }

    #[test]
    fn a_value_that_is_too_long_is_an_error() {
        assert!(Pattern::new("a").unwrap().replace("aaaa", "bbbb", true, 8, &mut 1_000).is_err());
    }

    #[test]
    fn steps_are_characters_times_characters() {
        let (pattern, mut steps) = (Pattern::new("*a").unwrap(), 40);
        for left in [25, 10] {
            assert_eq!(pattern.without_prefix("aaaa", false, &mut steps), Ok("aaa"));
            assert_eq!(steps, left);
        }
        assert!(pattern.without_prefix("aaaa", false, &mut steps).is_err());
    }
}
