//! Here-documents ("Here-Documents" of the Dockerfile reference): `<<NAME` in a line, and lines up to `NAME`.
#![forbid(unsafe_code)]

use super::bounds::Left;
use super::place::{Fault, Found};
use super::shell::Expander;
use std::sync::Arc;

/// A here-document of RUN, COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Heredoc {
    /// The word after `<<`, without its quotes. For COPY and ADD it is the file's name.
    pub name: String,
    /// The descriptor before it, as in `3<<EOF`; 0 where there is none.
    pub descriptor: u32,
    /// Whether variables in it are to be replaced: not where a part of its word is quoted.
    pub expand: bool,
    /// Whether tabs at the beginning of each line are no part of it: `<<-EOF`.
    pub strip_tabs: bool,
    /// Its lines as they are in the file, with tabs and line ends. Shared by all sources of a COPY that name it.
    pub content: Arc<str>,
}

impl Heredoc {
    /// What is to be in the file: without the tabs, where it has `<<-`.
    pub fn stripped(&self) -> String {
        if !self.strip_tabs {
            return self.content.to_string();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }

    /// Whether a command's line is nothing else than the announcement of one.
    pub(crate) fn is_alone(command: &str) -> bool {
        matches!(Self::parse(command.trim()), Ok(Some(_)))
    }

    /// A word of a line as one without content, if it is one.
    pub(super) fn parse(word: &str) -> Found<Option<Self>> {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let Some(rest) = word[digits..].strip_prefix("<<") else { return Ok(None) };
        let (rest, strip_tabs) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
        let rest = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
        if rest.is_empty() || rest.contains('<') {
            return Ok(None);
        }
        let nothing = |_: &str| None;
        let lexer = Expander::new('\\').keep_unset(true);
        let at = word.len() - rest.len();
        let moved = |fault: Fault| fault.moved(|range| range.start + at..range.end + at);
        let (_, plain) = lexer.expand(rest, &nothing, &mut Left::new()).map_err(moved)?;
        let [name] = plain.as_slice() else { return Ok(None) };
        let (_, raw) = lexer.raw_quotes(true).expand(rest, &nothing, &mut Left::new()).map_err(moved)?;
        let quotes = |text: &str| text.matches(['\'', '"']).count();
        let expand = raw.first().is_some_and(|raw| quotes(raw) == quotes(name));
        let descriptor = word[..digits].parse().unwrap_or(0);
        Ok(Some(Self { name: name.clone(), descriptor, expand, strip_tabs, content: Arc::default() }))
    }

    /// All that a line announces.
    pub(super) fn all_of(line: &str) -> Found<Vec<Self>> {
        let lexer = Expander::new('\\').raw_quotes(true).raw_escapes(true).keep_unset(true);
        // What can't be read as words has none: a shell will say what is wrong.
        let read = lexer.expand(line, &|_: &str| None, &mut Left::new());
        let Ok((_, words)) = read else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for word in words {
            let found = Self::parse(&word).map_err(|fault| {
                let at = line.find(&word).unwrap_or(0);
                fault.moved(|_| at..at + word.len())
            })?;
            all.extend(found);
        }
        Ok(all)
    }

    pub(super) fn ends_with(&self, line: &str) -> bool {
        let line = line.trim_end_matches(['\r', '\n']);
        let line = if self.strip_tabs { line.trim_start_matches('\t') } else { line };
        line == self.name
    }
}

#[cfg(test)]
mod tests {
    use super::Heredoc;

    /// What BuildKit's parser_heredoc_test.go says of single words.
    #[test]
    fn a_word_is_a_here_document_or_is_not() {
        for good in [
            "<<EOF",
            "<<'EOF'",
            "<<\"EOF\"",
            "<<-EOF",
            "<<-'EOF'",
            "<<-\"EOF\"",
            "<<EO\"F\"",
            "<< EOF",
            "<<- EOF",
        ] {
            let found = Heredoc::parse(good).unwrap().unwrap();
            assert_eq!(found.name, "EOF", "{good}");
            assert_eq!(found.strip_tabs, good.contains('-'), "{good}");
            assert_eq!(found.expand, !good.contains(['\'', '"']), "{good}");
        }
        for bad in ["<<'EOF", "<<\"EOF", "<<EOF'", "<<EOF\""] {
            assert!(Heredoc::parse(bad).is_err(), "{bad}");
        }
        for other in ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh"] {
            assert_eq!(Heredoc::parse(other).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn a_line_may_announce_several() {
        let names = |line: &str| {
            let all = Heredoc::all_of(line).unwrap();
            all.into_iter().map(|found| (found.name, found.descriptor)).collect::<Vec<_>>()
        };
        let named =
            |names: &[(&str, u32)]| names.iter().map(|(n, d)| (n.to_string(), *d)).collect::<Vec<_>>();
        for (line, expected) in [
            ("RUN <<EOF", vec![("EOF", 0)]),
            ("RUN <<-EOF", vec![("EOF", 0)]),
            // In a line the dash is a word of its own; BuildKit's table has a name here, and does not look at it.
            ("RUN <<- EOF", vec![]),
            ("RUN << -EOF", vec![("-EOF", 0)]),
            ("RUN <<'EOF'", vec![("EOF", 0)]),
            ("RUN 4<<EOF", vec![("EOF", 4)]),
            ("RUN <<EOF <<EOF2", vec![("EOF", 0), ("EOF2", 0)]),
            ("RUN '<<EOF'", vec![]),
            ("RUN \"<<EOF\"", vec![]),
            ("RUN 99999999999<<EOF", vec![("EOF", 0)]),
            ("RUN it's <<EOF", vec![]),
        ] {
            assert_eq!(names(line), named(&expected), "{line}");
        }
    }

    #[test]
    fn tabs_go_only_where_they_are_asked_to() {
        let mut found = Heredoc::parse("<<-EOF").unwrap().unwrap();
        found.content = "\thello\n\t\tworld\n a\tb\n".into();
        assert_eq!(found.stripped(), "hello\nworld\n a\tb\n");
        assert!(found.ends_with("\t\tEOF\r\n") && !found.ends_with(" EOF\n"));
        found.strip_tabs = false;
        assert_eq!(*found.stripped(), *found.content);
        assert!(found.ends_with("EOF\n") && !found.ends_with("\tEOF\n"));
    }
}
