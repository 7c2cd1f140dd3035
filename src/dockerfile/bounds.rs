//! How much may be done to replace variables, as what refers to itself doubles with each line.
#![forbid(unsafe_code)]

use super::place::{Fault, Found};
use crate::error::ErrorKind;
use std::ops::Range;

/// How long the result may be, in bytes.
pub(super) const LENGTH_MAX: usize = 16 << 20;
/// How many bytes of values may be looked up: with `${name:+text}` none of them is in the result.
const VALUES_MAX: usize = 4 * LENGTH_MAX;
/// How many steps patterns may take: characters of values times characters of patterns.
const STEPS_MAX: usize = 1 << 26;

/// What is left of it, for an instruction, for a text that is expanded by itself, or for all of a file that is checked. What was not
/// enough is nothing afterwards: who goes on after the error does not try again.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) length: usize,
    values: usize,
    pub(super) steps: usize,
}

impl Left {
    pub(super) fn new() -> Self {
        Self { length: LENGTH_MAX, values: VALUES_MAX, steps: STEPS_MAX }
    }

    /// The result becomes longer by that much.
    pub(super) fn grow(&mut self, at: Range<usize>, by: usize) -> Found<()> {
        take(&mut self.length, by, || {
            too_large(at, format!("it becomes longer than {LENGTH_MAX} bytes with its variables replaced"))
        })
    }

    /// A value that long was looked up.
    pub(super) fn look_up(&mut self, at: Range<usize>, length: usize) -> Found<()> {
        take(&mut self.values, length, || {
            too_large(at, format!("the values of its variables are more than {VALUES_MAX} bytes"))
        })
    }
}

fn take(left: &mut usize, by: usize, otherwise: impl FnOnce() -> Fault) -> Found<()> {
    let rest = left.checked_sub(by);
    *left = rest.unwrap_or(0);
    rest.map(drop).ok_or_else(otherwise)
}

pub(super) fn too_large(at: Range<usize>, why: impl Into<String>) -> Fault {
    Fault::new(at, why).with_kind(ErrorKind::TooLarge)
}
