//! What nobody may see: passwords and tokens.
#![forbid(unsafe_code)]

use std::fmt;

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

    /// Takes it out of a text from outside: a registry may repeat what it was told.
    pub(super) fn scrub(&self, text: String) -> String {
        // A password of a letter or two is in every word.
        if self.0.len() < 4 || !text.contains(&self.0) { text } else { text.replace(&self.0, "…") }
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
        let secret = Secret::new("hunt\\er\"22");
        assert_eq!(secret.as_in_json().scrub(r#"{"Secret":"hunt\\er\"22"}"#.into()), r#"{"Secret":"…"}"#);
    }
}
