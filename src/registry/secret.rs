//! What nobody may see: passwords and tokens.
#![forbid(unsafe_code)]

use std::fmt;

/// So many characters may be a secret's.
const LEAST: usize = 4;

/// A password or a token. Neither its `Debug` shows it nor has it a `Display`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// For the wire.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// As it stands in a string of JSON.
    pub(super) fn as_in_json(&self) -> Self {
        let text = serde_json::Value::from(self.0.as_str()).to_string();
        Self(text.trim_matches('"').to_owned())
    }

    /// Takes it out of a text from outside: a registry may repeat what it was told. Also what is left of it where the text was
    /// cut, which is before a quotation mark or the end.
    pub(super) fn scrub(&self, text: String) -> String {
        // A password of a letter or two is in every word.
        if self.0.len() < LEAST {
            return text;
        }
        let mut text = if text.contains(&self.0) { text.replace(&self.0, "…") } else { text };
        let ends = text.match_indices(['"', '…']).map(|(at, _)| at).chain([text.len()]);
        let begin = |end: usize| {
            let from = (end.saturating_sub(self.0.len())..=end.saturating_sub(LEAST)).find(|from| {
                text.get(*from..end).is_some_and(|part| part.len() >= LEAST && self.0.starts_with(part))
            });
            from.map(|from| from..end)
        };
        let mut cut: Vec<_> = ends.filter_map(begin).collect();
        // A secret with a quotation mark in it may be found twice.
        cut.dedup_by(|later, before| later.start < before.end);
        for part in cut.into_iter().rev() {
            text.replace_range(part, "…");
        }
        text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hunter22");
        assert!(!format!("{secret:?} {:#?}", Some(&secret)).contains("hunter"));
        assert_eq!(secret.scrub("bad password hunter22!".into()), "bad password …!");
        // Where it was cut there may be a part of it.
        for (text, clean) in [
            ("a \"text hunter2\" hunt", "a \"text …\" …"),
            ("hun", "hun"),
            ("the hunter has it", "the hunter has it"),
            ("hunter2222\"", "…22\""),
            ("hunter2…", "……"),
            ("ü\"", "ü\""),
        ] {
            assert_eq!(secret.scrub(text.into()), clean);
        }
        let secret = Secret::new("hunt\\er\"22");
        assert_eq!(secret.as_in_json().scrub(r#"{"Secret":"hunt\\er\"22"}"#.into()), r#"{"Secret":"…"}"#);
    }
}
