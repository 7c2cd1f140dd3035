//! Which files are copied: sources with wildcards, `--exclude` and `--parents`, as BuildKit and its `fsutil/copy` have them.
#![forbid(unsafe_code)]

use super::super::tree::{Item, Lost, Tree, clean, follow, resolve, text};
use crate::dockerfile::{Ignore, Parents, nearest};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::{EntryKind, join, split};

/// More than any real tree has.
const DEPTH_MAX: usize = 512;

/// A file that a source names.
pub(super) struct Found {
    /// The last part of its name in the source, not of where a link led to.
    pub(super) name: Vec<u8>,
    pub(super) at: Vec<u8>,
    pub(super) item: Item,
    pub(super) by_wildcard: bool,
}

/// Which of the files below a directory are meant.
#[derive(Default)]
pub(super) struct Filter {
    /// `--parents`: those that match. The directories above come along.
    include: Option<Include>,
    exclude: Option<Ignore>,
}

struct Include {
    pattern: Ignore,
    /// The same as an exception, which knows where it can't match.
    below: Ignore,
}

impl Filter {
    pub(super) fn excluding(patterns: &[String]) -> Result<Self> {
        let exclude = if patterns.is_empty() { None } else { Some(Ignore::new(patterns)?) };
        Ok(Self { include: None, exclude })
    }

    pub(super) fn including(&self, pattern: &str) -> Result<Self> {
        let (pattern, below) = (Ignore::new([pattern])?, Ignore::new([format!("!{pattern}")])?);
        Ok(Self { include: Some(Include { pattern, below }), exclude: self.exclude.clone() })
    }

    /// Whether a file that a wildcard found is left out after all.
    pub(super) fn excludes(&self, name: &[u8]) -> bool {
        self.exclude.as_ref().is_some_and(|exclude| exclude.excludes(text(name)))
    }
}

/// Where the wildcard begins: the path before its part, and the parts from it on.
pub(super) fn has_wildcard(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// A source that means this path alone, whatever characters are in it.
pub(super) fn literal(path: &str) -> String {
    path.chars().fold(String::new(), |mut literal, c| {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            literal.push('\\');
        }
        literal.push(c);
        literal
    })
}

/// What a source means. A wildcard may mean nothing, any other source is an error then.
pub(super) fn find(tree: &mut dyn Tree, source: &str, verb: &str) -> Result<Vec<Found>> {
    let (path, leads_out) = clean(source.as_bytes());
    let parts: Vec<&[u8]> = path.split(|&b| b == b'/').filter(|part| !part.is_empty()).collect();
    let plain = parts.iter().take_while(|part| !has_wildcard(part)).count();
    let missing = |tree: &mut dyn Tree, path: &[u8]| not_found(tree, path, source, leads_out, verb);
    if plain == parts.len() {
        let Some((at, item)) = resolve(tree, &path)? else { return Err(missing(tree, &path)?) };
        return Ok(vec![Found { name: split(&path).1.to_vec(), at, item, by_wildcard: false }]);
    }
    let patterns = parts[plain..].iter().map(|part| Pattern::new(part));
    let patterns: Option<Vec<_>> = patterns.collect();
    let patterns = patterns.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("{verb} {source}: a pattern that is broken")).with_remedy(
            match source.starts_with('[') {
                true => "a list is JSON: quotation marks, commas, and a ] at its end",
                false => "a bracket is closed, and a backslash has something behind it",
            },
        )
    })?;
    let prefix = parts[..plain].join(&b'/');
    let Some((at, item)) = resolve(tree, &prefix)? else { return Err(missing(tree, &prefix)?) };
    let mut matches = Vec::new();
    if item.is_directory() {
        matching(tree, &at, &patterns, &mut matches)?;
    }
    let mut found = Vec::new();
    for path in matches {
        let Some((at, item)) = resolve(tree, &path)? else { return Err(missing(tree, &path)?) };
        found.push(Found { name: split(&path).1.to_vec(), at, item, by_wildcard: true });
    }
    Ok(found)
}

fn matching(tree: &mut dyn Tree, at: &[u8], patterns: &[Pattern], matches: &mut Vec<Vec<u8>>) -> Result<()> {
    let Some((pattern, rest)) = patterns.split_first() else { return Ok(()) };
    for (name, item) in tree.list(at)? {
        if !pattern.matches(&name) {
            continue;
        }
        let path = join(at, &name);
        match rest {
            [] => matches.push(path),
            // A link is not followed in the middle of a pattern.
            rest if item.is_directory() => matching(tree, &path, rest, matches)?,
            _ => {}
        }
    }
    Ok(())
}

/// Says that something is not there, and why, and what is there that may be meant.
pub(super) fn not_found(
    tree: &mut dyn Tree,
    path: &[u8],
    source: &str,
    leads_out: bool,
    verb: &str,
) -> Result<Error> {
    let (path, _) = clean(path);
    let place = tree.name();
    let not_found = |why: String| Error::new(ErrorKind::NotFound, format!("{verb} {source}: {why}"));
    if leads_out {
        return Ok(not_found(format!("leads out of {place}")).with_remedy(format!(
            "name a path from the root of {place}, or take a larger directory for it"
        )));
    }
    if tree.hides(&path)? {
        return Ok(not_found("left out by the .dockerignore".into()).with_remedy(
            "bring it back by a line with a ! and its path, behind the one that leaves it out",
        ));
    }
    if let Some(what) = lost_link(tree, &path)? {
        return Ok(not_found(what).with_remedy(format!("the root of {place} is that of its links")));
    }
    let (parent, name) = split(&path);
    let shown = String::from_utf8_lossy(name).into_owned();
    let mut names = Vec::new();
    if let Some((at, item)) = resolve(tree, parent)?
        && item.is_directory()
    {
        names = tree.list(&at)?;
    }
    let texts: Vec<_> = names.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    let error = not_found(format!("not found in {place}"));
    Ok(match nearest(&shown, texts.iter().map(|text| &**text)) {
        Some(near) => {
            let path = join(parent, near.as_bytes());
            error.with_remedy(format!("did you mean {}?", String::from_utf8_lossy(&path)))
        }
        None => error,
    })
}

/// What is to say of a link that a path ends at, or goes through, where that leads nowhere.
fn lost_link(tree: &mut dyn Tree, path: &[u8]) -> Result<Option<String>> {
    let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    for end in ends.chain([path.len()]) {
        let part = &path[..end];
        let Err(lost) = follow(tree, part)? else { continue };
        // The first that leads nowhere, so that all before it are found.
        let Ok((above, _)) = follow(tree, split(part).0)? else { break };
        let Some(item) = tree.find(&join(&above, split(part).1))? else { break };
        if item.entry.kind != EntryKind::Symlink {
            break;
        }
        let (name, to, place) =
            (String::from_utf8_lossy(part), String::from_utf8_lossy(&item.entry.link), tree.name());
        let own = if part == path { String::new() } else { format!("{name} is ") };
        return Ok(Some(match lost {
            Lost::Circle => format!("{own}a link to {to}, which leads around in a circle"),
            Lost::At(at) if tree.hides(&at)? => {
                format!("{own}a link to {to}, which is left out by the .dockerignore")
            }
            Lost::At(_) => format!("{own}a link to {to}, which leads to nothing in {place}"),
        }));
    }
    Ok(None)
}

/// Is told of each file, directories before what is in them: where it is, its path below the source, and whether it is meant
/// itself or only comes along with something in it.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&mut dyn Tree, &[u8], &[u8], &Item, bool) -> Result<()>;

/// Goes through what is in a directory.
pub(super) fn walk(tree: &mut dyn Tree, at: &[u8], filter: &Filter, visit: Visit<'_>) -> Result<()> {
    if filter.include.is_none() && filter.exclude.is_none() {
        tree.prepare(at)?;
    }
    let mut walk = Walk { tree, filter, visit, pending: Vec::new() };
    walk.directory(at, b"", &Parents::default(), &Parents::default())
}

struct Walk<'a> {
    tree: &'a mut dyn Tree,
    filter: &'a Filter,
    visit: Visit<'a>,
    /// The directories that it is in, and whether they were visited.
    pending: Vec<(Vec<u8>, Vec<u8>, Item, bool)>,
}

impl Walk<'_> {
    fn directory(&mut self, at: &[u8], below: &[u8], included: &Parents, excluded: &Parents) -> Result<()> {
        if self.pending.len() > DEPTH_MAX {
            let what = format!("deeper than {DEPTH_MAX} directories");
            return Err(Error::new(ErrorKind::TooLarge, what).with_path(text(at)));
        }
        let filter = self.filter;
        for (name, item) in self.tree.list(at)? {
            let (at, path) = (join(at, &name), join(below, &name));
            let (mut is_meant, own_included) = match &filter.include {
                None => (true, Parents::default()),
                Some(include) => include.pattern.excludes_below(text(&path), included),
            };
            let (is_excluded, own_excluded) = match &filter.exclude {
                None => (false, Parents::default()),
                Some(exclude) => exclude.excludes_below(text(&path), excluded),
            };
            is_meant &= !is_excluded;
            let is_directory = item.is_directory();
            if is_meant {
                for (at, path, item, visited) in &mut self.pending {
                    if !std::mem::replace(visited, true) {
                        (self.visit)(self.tree, at, path, item, false)?;
                    }
                }
                (self.visit)(self.tree, &at, &path, &item, true)?;
            }
            if !is_directory {
                continue;
            }
            let may_be_brought_back = |exclude: &Ignore| exclude.may_include_below(text(&path));
            if is_excluded && !filter.exclude.as_ref().is_some_and(may_be_brought_back) {
                continue;
            }
            if let (false, Some(include)) = (is_meant, &filter.include)
                && !include.below.may_include_below(text(&path))
            {
                continue;
            }
            self.pending.push((at.clone(), path.clone(), item, is_meant));
            self.directory(&at, &path, &own_included, &own_excluded)?;
            self.pending.pop();
        }
        Ok(())
    }
}

/// One part of a path, as Go's `filepath.Match` compares it: `*`, `?`, `[a-z]`, `[^a-z]`, and a backslash before what is meant as
/// it is.
pub(super) struct Pattern(Vec<Token>);

enum Token {
    Char(char),
    Any,
    Many,
    Class(bool, Vec<(char, char)>),
}

impl Pattern {
    /// `None` for what is none.
    pub(super) fn new(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let (mut tokens, mut chars) = (Vec::new(), text.chars().peekable());
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Many,
                '?' => Token::Any,
                '\\' => Token::Char(chars.next()?),
                '[' => {
                    let negated = chars.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    loop {
                        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
                            break;
                        }
                        let mut one = || match chars.next()? {
                            '\\' => chars.next(),
                            '-' | ']' => None,
                            c => Some(c),
                        };
                        let low = one()?;
                        let is_range = chars.next_if_eq(&'-').is_some();
                        let high = if is_range {
                            match chars.next()? {
                                '\\' => chars.next()?,
                                '-' | ']' => return None,
                                c => c,
                            }
                        } else {
                            low
                        };
                        ranges.push((low, high));
                    }
                    Token::Class(negated, ranges)
                }
                c => Token::Char(c),
            });
        }
        Some(Self(tokens))
    }

    /// In steps that are the product of both lengths.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let name: Vec<char> = String::from_utf8_lossy(name).chars().collect();
        let mut reached = vec![false; name.len() + 1];
        reached[0] = true;
        for token in &self.0 {
            if let Token::Many = token {
                for at in 1..reached.len() {
                    reached[at] |= reached[at - 1];
                }
                continue;
            }
            for at in (1..reached.len()).rev() {
                let c = name[at - 1];
                let fits = match token {
                    Token::Char(own) => *own == c,
                    Token::Class(negated, ranges) => {
                        ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
                    }
                    _ => true,
                };
                reached[at] = reached[at - 1] && fits;
            }
            reached[0] = false;
        }
        reached[name.len()]
    }
}

/// What `--parents` makes of a source: the directory that it begins in, and the pattern from there on.
pub(super) fn pivot(source: &str) -> (&str, String) {
    let (start, pattern) = source.split_once("/./").unwrap_or(("/", source));
    (start, String::from_utf8_lossy(&clean(pattern.as_bytes()).0).into_owned())
}

/// Of a file that is not a directory, whether it can be copied at all.
pub(super) fn is_whiteout_name(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').any(|part| part.starts_with(b".wh."))
}
