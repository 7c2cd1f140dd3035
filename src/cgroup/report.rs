//! What was really enforced.
//!
//! Filled by whoever enforces: [`Cgroup`](super::Cgroup) its limits, a container everything that protects it.
#![forbid(unsafe_code)]

use std::fmt;

/// What became of each demand: what was asked, and what is enforced or why it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    entries: Vec<ReportEntry>,
}

/// One line of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportEntry {
    name: &'static str,
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
        self.entries.iter().map(|entry| (entry.name, &entry.outcome))
    }

    /// The entry of a demand, by its name (`"memory_max"`), a [`LimitKind`](super::LimitKind) or a
    /// [`Protection`](crate::Protection).
    pub fn get(&self, name: impl AsRef<str>) -> Option<&ReportEntry> {
        self.entries.iter().find(|entry| entry.name == name.as_ref())
    }

    /// Whether everything that was asked is enforced, in full. What is [off](Outcome::Off) was not asked.
    pub fn is_complete(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.outcome, Outcome::Enforced(_) | Outcome::Off(_)))
    }

    /// Of a container without a control group: nothing of these is enforced, for this reason.
    pub(crate) fn none(limits: &super::Limits, why: &str) -> Self {
        let mut report = Self::default();
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
        self.entries.push(ReportEntry { name, asked: asked.into(), outcome });
    }
}

impl ReportEntry {
    /// What it is about: `memory_max`.
    pub fn name(&self) -> &str {
        self.name
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
