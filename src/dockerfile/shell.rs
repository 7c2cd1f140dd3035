//! Variables and quotes as BuildKit's shell lexer reads them ("Environment replacement" of the Dockerfile reference).
//!
//! It is no shell: there are no commands, no arithmetic and no globbing. `$name` and `${name}` are replaced, with the
//! modifiers `-`, `:-`, `+`, `:+`, `?`, `:?`, `#`, `##`, `%`, `%%`, `/` and `//`; quotes and the escape character work as
//! in a shell, but for the options of [`Expander`] that keep them.
//!
//! Three things are not as in BuildKit, on purpose. A `$` in the replacement of `//` is a dollar sign, as it is in that of
//! `/`; there it would be read once more, as a reference to a group of a regular expression. Text before a modifier stays
//! a part of its word when words are split. And there are [bounds](super::bounds), each with an error: on depth, on the size of
//! results and values, and on steps.
#![forbid(unsafe_code)]

use super::bounds::{Left, too_large};
use super::pattern::Pattern;
use super::place::{Fault, Found};
use super::syntax::shortened;
use crate::error::Result;
use std::collections::BTreeSet;

/// How deep `${a:-${b:-…}}` may go.
const DEPTH_MAX: usize = 64;

/// What the value of a variable is: of ARG and ENV, or of whatever the caller has. `None` where it is not set.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Replaces variables in a text, and removes quotes.
///
/// ```
/// use coracle::dockerfile::Expander;
/// let env = |name: &str| (name == "VERSION").then(|| "1.2.3".to_owned());
/// let word = Expander::new('\\').word("app-${VERSION%.*}${VARIANT:+-$VARIANT}.tar", &env)?;
/// assert_eq!(word.text, "app-1.2.tar");
/// assert!(word.used.contains("VERSION") && word.unset.contains("VARIANT"));
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Expander {
    escape: char,
    raw_quotes: bool,
    raw_escapes: bool,
    plain_quotes: bool,
    keep_unset: bool,
}

/// What a text became, and by which variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expansion {
    /// The text with everything replaced.
    pub text: String,
    /// The variables that have a value, whether or not it is in the text: a cache has to know of them.
    pub used: BTreeSet<String>,
    /// Those that have none.
    pub unset: BTreeSet<String>,
}

impl Expander {
    /// With this escape character: `\`, or the one of the directive `# escape=`.
    pub fn new(escape: char) -> Self {
        Self { escape, raw_quotes: false, raw_escapes: false, plain_quotes: false, keep_unset: false }
    }

    /// Quotes do what they do, and stay.
    #[must_use]
    pub fn raw_quotes(mut self, raw: bool) -> Self {
        self.raw_quotes = raw;
        self
    }

    /// The escape character does what it does, and stays. In double quotes one that escapes nothing becomes two, as in BuildKit.
    #[must_use]
    pub fn raw_escapes(mut self, raw: bool) -> Self {
        self.raw_escapes = raw;
        self
    }

    /// Quotes are characters like others, as in the content of a here-document.
    #[must_use]
    pub fn plain_quotes(mut self, plain: bool) -> Self {
        self.plain_quotes = plain;
        self
    }

    /// A variable that is not set stays as it is written, rather than becoming nothing.
    #[must_use]
    pub fn keep_unset(mut self, keep: bool) -> Self {
        self.keep_unset = keep;
        self
    }

    /// The text as one word: spaces stay.
    ///
    /// # Errors
    /// `InvalidData` for a quote or a brace that is not closed, for a modifier that does not exist, and where `${name:?}`
    /// says so; `TooLarge` beyond 16 MiB, where all values that were looked up have more than 64 MiB, and where patterns
    /// would take more than 2²⁶ steps: characters of values times characters of patterns.
    pub fn word(&self, text: &str, env: &Lookup) -> Result<Expansion> {
        let expanded = self.expand(text, env, &mut Left::new());
        expanded.map(|(expansion, _)| expansion).map_err(|fault| fault.into_error(text))
    }

    /// The text as words: split at spaces that are not quoted, after variables were replaced.
    ///
    /// # Errors
    /// As [`word`](Self::word).
    pub fn words(&self, text: &str, env: &Lookup) -> Result<Vec<String>> {
        let expanded = self.expand(text, env, &mut Left::new());
        expanded.map(|(_, words)| words).map_err(|fault| fault.into_error(text))
    }

    pub(super) fn expand(
        &self,
        text: &str,
        env: &Lookup,
        left: &mut Left,
    ) -> Found<(Expansion, Vec<String>)> {
        let mut lexer = Lexer {
            options: self,
            text,
            at: 0,
            raw_escapes: self.raw_escapes,
            env,
            depth: 0,
            left,
            expansion: Expansion::default(),
        };
        let (text, words) = lexer.until(None, self.raw_escapes)?;
        Ok((Expansion { text, ..lexer.expansion }, words))
    }
}

/// What is read so far: as one text and as words.
#[derive(Default)]
struct Words {
    text: String,
    done: Vec<String>,
    word: String,
}

impl Words {
    /// A character that splits where it is a space.
    fn split(&mut self, c: char) {
        match c.is_whitespace() {
            false => self.word.push(c),
            true if self.word.is_empty() => {}
            true => self.done.push(std::mem::take(&mut self.word)),
        }
    }

    fn finish(mut self) -> (String, Vec<String>) {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        (self.text, self.done)
    }
}

struct Lexer<'a> {
    options: &'a Expander,
    text: &'a str,
    at: usize,
    raw_escapes: bool,
    env: &'a Lookup<'a>,
    depth: usize,
    left: &'a mut Left,
    expansion: Expansion,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn fault<T>(&self, from: usize, message: impl Into<String>) -> Found<T> {
        Err(Fault::new(from..self.at, message))
    }

    /// Up to the end, or up to and with `stop`.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Found<(String, Vec<String>)> {
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let mut words = Words::default();
        let start = self.at;
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                self.raw_escapes = outer;
                return Ok(words.finish());
            }
            let from = self.at;
            match c {
                '\'' | '"' if !self.options.plain_quotes => {
                    let quoted = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    words.text.push_str(&quoted);
                    words.word.push_str(&quoted);
                    // An empty word in quotes is none to BuildKit, unless something follows.
                }
                '$' => {
                    let value = self.dollar()?;
                    self.left.grow(from..self.at, value.len())?;
                    words.text.push_str(&value);
                    value.chars().for_each(|c| words.split(c));
                }
                '<' => {
                    let text = self.here();
                    words.text.push_str(text);
                    words.word.push_str(text);
                }
                _ => {
                    self.next();
                    let mut plain = c;
                    if c == self.options.escape {
                        if self.raw_escapes {
                            words.text.push(c);
                            words.word.push(c);
                        }
                        // At the end it escapes nothing.
                        let Some(escaped) = self.next() else { break };
                        plain = escaped;
                        words.word.push(escaped);
                    } else {
                        words.split(c);
                    }
                    words.text.push(plain);
                }
            }
        }
        if let Some(stop) = stop {
            return self.fault(start, format!("the end was reached, and a {stop:?} was expected"));
        }
        self.raw_escapes = outer;
        Ok(words.finish())
    }

    /// All up to the next quote as it is; nothing escapes it.
    fn single_quoted(&mut self) -> Found<String> {
        let from = self.at;
        self.next();
        let Some(length) = self.text[self.at..].find('\'') else {
            self.at = self.text.len();
            return self.fault(from, "a single quote is not closed");
        };
        let inner = &self.text[self.at..self.at + length];
        self.at += length + 1;
        Ok(if self.options.raw_quotes { format!("'{inner}'") } else { inner.to_owned() })
    }

    /// Variables are replaced, and the escape character is one before `"`, `$` and itself.
    fn double_quoted(&mut self) -> Found<String> {
        let from = self.at;
        let mut result = String::new();
        self.next();
        if self.options.raw_quotes {
            result.push('"');
        }
        while let Some(c) = self.peek() {
            match c {
                '"' => {
                    self.next();
                    if self.options.raw_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                '$' => {
                    let value = self.dollar()?;
                    self.left.grow(from..self.at, value.len())?;
                    result.push_str(&value);
                }
                _ => {
                    self.next();
                    let mut plain = c;
                    if c == self.options.escape {
                        if self.raw_escapes {
                            result.push(c);
                        }
                        match self.peek() {
                            None => continue,
                            Some(next) if next == '"' || next == '$' || next == c => {
                                self.next();
                                plain = next;
                            }
                            Some(_) => {}
                        }
                    }
                    result.push(plain);
                }
            }
        }
        self.fault(from, "a double quote is not closed")
    }

    /// `<<` with the spaces behind it belongs to the word that follows.
    fn here(&mut self) -> &str {
        let from = self.at;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while let Some('\t' | '\r' | ' ') = self.peek() {
                self.next();
            }
        }
        &self.text[from..self.at]
    }

    /// The name of a variable, of a parameter by its number, or of a special one; empty if there is none.
    fn name(&mut self) -> String {
        let from = self.at;
        match self.peek() {
            Some(c) if c.is_numeric() => {
                while self.peek().is_some_and(char::is_numeric) {
                    self.next();
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                self.next();
            }
            _ => {
                while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    self.next();
                }
            }
        }
        self.text[from..self.at].to_owned()
    }

    fn value(&mut self, from: usize, name: &str) -> Found<Option<String>> {
        let value = (self.env)(name);
        self.left.look_up(from..self.at, value.as_ref().map_or(0, String::len))?;
        let names = if value.is_some() { &mut self.expansion.used } else { &mut self.expansion.unset };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        Ok(value)
    }

    fn dollar(&mut self) -> Found<String> {
        let from = self.at;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            let value = self.value(from, &name)?;
            return Ok(match value {
                None if self.options.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.next();
        match self.peek() {
            None => return self.fault(from, "a '}' is missing"),
            Some('{' | '}' | ':') => return self.fault(from, "a name is missing after '${'"),
            Some(_) => {}
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let why = format!("more than {DEPTH_MAX} variables are inside each other");
            return Err(too_large(from..self.at, why));
        }
        let name = self.name();
        let value = self.braced(from, &name)?;
        self.depth -= 1;
        Ok(value)
    }

    /// After `${name`.
    fn braced(&mut self, from: usize, name: &str) -> Found<String> {
        let mut modifier = self.next();
        let colon = modifier == Some(':');
        if colon {
            modifier = self.next();
        }
        let Some(modifier) = modifier else { return self.fault(from, "a '}' is missing") };
        let sign = if colon { format!(":{modifier}") } else { modifier.to_string() };
        match modifier {
            '}' if !colon => {
                let value = self.value(from, name)?;
                Ok(match value {
                    None if self.options.keep_unset => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                })
            }
            '-' | '+' | '?' => {
                let word = self.part('}', false, from)?;
                let value = self.value(from, name)?;
                if value.is_none() && self.options.keep_unset {
                    return Ok(format!("${{{name}{sign}{word}}}"));
                }
                let is_null = colon && value.as_deref() == Some("");
                match (modifier, value) {
                    ('-', Some(value)) if !is_null => Ok(value),
                    ('-', _) => Ok(word),
                    ('+', Some(_)) if !is_null => Ok(word),
                    ('+', _) => Ok(String::new()),
                    (_, Some(value)) if !is_null => Ok(value),
                    (_, _) if !word.is_empty() => self.fault(from, format!("{name}: {word}")),
                    (_, None) => self.fault(from, format!("{name} has to be set")),
                    (_, Some(_)) => self.fault(from, format!("{name} has to have a value that is not empty")),
                }
            }
            '#' | '%' if !colon => {
                let word = self.part('}', true, from)?;
                let value = self.value(from, name)?;
                let Some(value) = value else {
                    let kept = format!("${{{name}{sign}{word}}}");
                    // The pattern has to be right, whatever it is held against.
                    self.pattern(from, word.strip_prefix(modifier).unwrap_or(&word))?;
                    return Ok(if self.options.keep_unset { kept } else { String::new() });
                };
                let longest = word.starts_with(modifier);
                let pattern = self.pattern(from, word.strip_prefix(modifier).unwrap_or(&word))?;
                let cut = match modifier {
                    '#' => pattern.without_prefix(&value, longest, &mut self.left.steps),
                    _ => pattern.without_suffix(&value, longest, &mut self.left.steps),
                };
                cut.map(str::to_owned).map_err(|why| too_large(from..self.at, why))
            }
            '/' if !colon => {
                let all = self.peek() == Some('/');
                if all {
                    self.next();
                }
                let pattern = self.part('/', true, from)?;
                let replacement = self.part('}', true, from)?;
                let value = self.value(from, name)?;
                if value.is_none() && self.options.keep_unset {
                    let sign = if all { "//" } else { "/" };
                    return Ok(format!("${{{name}{sign}{pattern}/{replacement}}}"));
                }
                let pattern = self.pattern(from, &pattern)?;
                let (value, left) = (value.unwrap_or_default(), &mut *self.left);
                let replaced = pattern.replace(&value, &replacement, all, left.length, &mut left.steps);
                replaced.map_err(|why| {
                    left.length = 0;
                    too_large(from..self.at, why)
                })
            }
            _ => self.fault(from, format!("{sign:?} is no modifier of a variable")),
        }
    }

    fn part(&mut self, stop: char, raw_escapes: bool, from: usize) -> Found<String> {
        match self.until(Some(stop), raw_escapes) {
            Ok((text, _)) => Ok(text),
            Err(_) if self.peek().is_none() && self.depth <= DEPTH_MAX => {
                self.fault(from, format!("a {stop:?} is missing"))
            }
            Err(fault) => Err(fault),
        }
    }

    fn pattern(&self, from: usize, text: &str) -> Found<Pattern> {
        Pattern::new(text).or_else(|why| self.fault(from, format!("the pattern {}: {why}", shortened(text))))
    }
}
