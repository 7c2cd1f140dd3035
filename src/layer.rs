#![forbid(unsafe_code)]

mod entry;
mod pax;
mod sparse;
pub(crate) mod tar;
