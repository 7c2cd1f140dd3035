//! What was really enforced.
//!
//! Filled by whoever enforces: [`Cgroup`](super::Cgroup) its limits, a container everything that protects it.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;

/// What became of each demand: what was asked, and what is enforced or why it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    entries: Vec<ReportEntry>,
    /// It was filled, if with nothing: nobody can say of another that all is enforced.
    filled: bool,
}

/// One line of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportEntry {
    name: Cow<'static, str>,
    asked: String,
    outcome: Outcome,
}

/// What became of a demand.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It binds. The value is the kernel's own, read back: rounded to pages, for example. Where the kernel has
    /// several ways, the one that was taken is named.
    Enforced(String),
    /// A part of it binds: what the kernel has of it, and what not. Only what was asked as best effort ends so.
    Partial(String),
    /// It does not, for this reason. Only what was asked as best effort ends so.
    NotEnforced(String),
    /// It was not asked for, or turned off: by which setting.
    Off(String),
}

impl Report {
    /// The entries, in the order in which they were carried out.
    pub fn entries(&self) -> &[ReportEntry] {
        &self.entries
    }

    /// Names and outcomes, in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Outcome)> {
        self.entries.iter().map(|entry| (&*entry.name, &entry.outcome))
    }

    /// The entry of a demand, by its name (`"memory_max"`), a [`LimitKind`](super::LimitKind) or a
    /// [`Protection`](crate::Protection).
    pub fn get(&self, name: impl AsRef<str>) -> Option<&ReportEntry> {
        self.entries.iter().find(|entry| entry.name == name.as_ref())
    }

    /// Whether everything that was asked is enforced, in full. What is [off](Outcome::Off) was not asked. A report that nobody
    /// has filled, as before a start, is not complete.
    pub fn is_complete(&self) -> bool {
        self.filled
            && self
                .entries
                .iter()
                .all(|entry| matches!(entry.outcome, Outcome::Enforced(_) | Outcome::Off(_)))
    }

    /// To be filled, complete as long as nothing is said.
    pub(crate) fn begin() -> Self {
        Self { entries: Vec::new(), filled: true }
    }

    /// Of a container without a control group: nothing of these is enforced, for this reason.
    pub(crate) fn none(limits: &super::Limits, why: &str) -> Self {
        let mut report = Self::begin();
        for kind in limits.kinds() {
            report.push(
                kind.name(),
                limits.asked(kind).unwrap_or_default(),
                Outcome::NotEnforced(why.to_owned()),
            );
        }
        report
    }

    /// What became of it after all.
    pub(crate) fn amend(&mut self, name: &str, outcome: Outcome) {
        for entry in self.entries.iter_mut().filter(|entry| entry.name == name) {
            entry.outcome = outcome.clone();
        }
    }

    pub(crate) fn push(&mut self, name: &'static str, asked: impl Into<String>, outcome: Outcome) {
        self.entries.push(ReportEntry { name: name.into(), asked: asked.into(), outcome });
    }

    /// For other programs, which may be of another version: of each entry the name, what was asked, the kind of outcome and
    /// its words.
    pub(crate) fn to_json(&self) -> Value {
        let entries = self.entries.iter().map(|entry| {
            let (kind, words) = match &entry.outcome {
                Outcome::Enforced(words) => (ENFORCED, words),
                Outcome::Partial(words) => (PARTIAL, words),
                Outcome::NotEnforced(words) => (NOT_ENFORCED, words),
                Outcome::Off(words) => (OFF, words),
            };
            json!([entry.name, entry.asked, kind, words])
        });
        entries.collect()
    }

    /// What a program of any version told. An entry of a name that is not known here is one all the same; of a kind of
    /// outcome that is not known here nobody can say that it binds. What has no name says nothing.
    pub(crate) fn from_json(told: &Value) -> Self {
        let entry = |entry: &Value| {
            let text = |at: usize| entry.get(at).and_then(Value::as_str);
            let words = text(3).unwrap_or_default().to_owned();
            let outcome = match text(2) {
                Some(ENFORCED) => Outcome::Enforced(words),
                Some(PARTIAL) => Outcome::Partial(words),
                Some(NOT_ENFORCED) => Outcome::NotEnforced(words),
                Some(OFF) => Outcome::Off(words),
                kind => Outcome::NotEnforced(format!("not known here: {} {words}", kind.unwrap_or_default())),
            };
            let asked = text(1).unwrap_or_default().to_owned();
            Some(ReportEntry { name: text(0)?.to_owned().into(), asked, outcome })
        };
        let filled = told.is_array();
        Self { entries: told.as_array().into_iter().flatten().filter_map(entry).collect(), filled }
    }
}

const ENFORCED: &str = "enforced";
const PARTIAL: &str = "partial";
const NOT_ENFORCED: &str = "not_enforced";
const OFF: &str = "off";

impl ReportEntry {
    /// What it is about: `memory_max`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was asked.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// What became of it.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }
}

impl fmt::Display for ReportEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.asked.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}: ", self.name, self.asked)?;
        match &self.outcome {
            Outcome::Enforced(value) => write!(f, "enforced ({value})"),
            Outcome::Partial(how) => write!(f, "enforced in part: {how}"),
            Outcome::NotEnforced(why) => write!(f, "not enforced: {why}"),
            Outcome::Off(how) => write!(f, "off: {how}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_was_reported() {
        assert!(!Report::default().is_complete() && Report::begin().is_complete());
        let mut report = Report::begin();
        report.push("memory_max", "64", Outcome::Enforced("4096".into()));
        report.push("landlock", "", Outcome::Partial("some".into()));
        report.push("seccomp", "", Outcome::NotEnforced("refused".into()));
        report.push("disk_max", "", Outcome::Off("not asked for".into()));
        let text = report.to_json().to_string();
        // What programs of earlier versions have written, and read.
        assert!(
            text.starts_with(r#"[["memory_max","64","enforced","4096"],["landlock","","partial","some"],"#)
        );
        assert_eq!(Report::from_json(&serde_json::from_str(&text).unwrap()), report);
    }

    #[test]
    fn a_later_version_may_tell_more() {
        let told = json!([
            ["moon_phase", "full", "enforced", "by night", {"since": 2040}],
            ["seccomp", "", "observed", "by an auditor"],
            ["landlock"],
            [7, "", "enforced", ""],
            "words",
            {"name": "devices"},
        ]);
        let report = Report::from_json(&told);
        let all: Vec<_> = report.entries().iter().map(ToString::to_string).collect();
        assert_eq!(all[0], "moon_phase full: enforced (by night)");
        assert_eq!(all[1], "seccomp: not enforced: not known here: observed by an auditor");
        assert_eq!((all.len(), report.get("landlock").unwrap().asked()), (3, ""));
        assert!(!report.is_complete());
        for other in [Value::Null, json!({}), json!("text"), json!(1)] {
            assert_eq!(Report::from_json(&other), Report::default());
        }
    }
}
