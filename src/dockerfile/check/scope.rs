//! The variables that a place in a Dockerfile has, as far as they are known without a build.
#![forbid(unsafe_code)]

use std::collections::HashMap;

/// What stands for a value that only a build has. No text of a Dockerfile has a NUL; what begins with it may be an
/// absolute path.
pub(super) const UNKNOWN: &str = "/\0";
/// Longer values are not known, so that a file whose values double with each line is no more work than its size.
pub(super) const VALUE_MAX: usize = 256;

/// Names and values, with all that was done since a place, so that it can be undone: a stage begins with what its base
/// ended with, and a copy of that for each would be more than the file.
#[derive(Debug, Default)]
pub(super) struct Scope {
    values: HashMap<String, String>,
    changes: Vec<(String, Option<String>)>,
}

impl Scope {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        let value = if value.len() > VALUE_MAX { UNKNOWN } else { value };
        let before = self.values.insert(name.to_owned(), value.to_owned());
        self.changes.push((name.to_owned(), before));
    }

    pub(super) fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// How much was changed so far.
    pub(super) fn place(&self) -> usize {
        self.changes.len()
    }

    /// As it was at that place.
    pub(super) fn undo(&mut self, to: usize) {
        for (name, before) in self.changes.drain(to..).rev() {
            match before {
                Some(value) => self.values.insert(name, value),
                None => self.values.remove(&name),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Scope, UNKNOWN};

    #[test]
    fn what_was_set_since_a_place_is_undone() {
        let mut scope = Scope::default();
        scope.set("A", "1");
        let place = scope.place();
        for (name, value) in [("A", "2"), ("B", "3"), ("A", "4")] {
            scope.set(name, value);
        }
        assert_eq!((scope.get("A"), scope.get("B")), (Some("4"), Some("3")));
        scope.undo(place);
        assert_eq!((scope.get("A"), scope.get("B"), scope.names().len()), (Some("1"), None, 1));
        scope.set("A", &"x".repeat(257));
        assert_eq!(scope.get("A"), Some(UNKNOWN));
    }
}
