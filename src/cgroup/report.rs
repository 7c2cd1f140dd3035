//! What was really enforced.
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
    /// It does not, for this reason. Only what was asked as best effort ends so.
    NotEnforced(String),
}

impl Report {
    /// The entries, in the order in which they were carried out.
    pub fn entries(&self) -> &[ReportEntry] {
        &self.entries
    }

    /// The entry of a demand, by its name: `memory_max`.
    pub fn get(&self, name: &str) -> Option<&ReportEntry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Whether everything that was asked is enforced.
    pub fn is_complete(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.outcome, Outcome::Enforced(_)))
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

    /// Why a container has one user id only.
    pub(crate) fn add_single_id(&mut self, why: &str) {
        self.push("id_range", "65536", Outcome::NotEnforced(why.to_owned()));
    }

    /// What is enforced after all, in another way.
    pub(crate) fn enforced(&mut self, name: &str, how: String) {
        for entry in self.entries.iter_mut().filter(|entry| entry.name == name) {
            entry.outcome = Outcome::Enforced(how.clone());
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
        match &self.outcome {
            Outcome::Enforced(value) => write!(f, "{} {}: enforced ({value})", self.name, self.asked),
            Outcome::NotEnforced(why) => write!(f, "{} {}: not enforced: {why}", self.name, self.asked),
        }
    }
}
