//! What goes into an image that is built: the context, and what COPY and ADD take.
#![forbid(unsafe_code)]
// Whoever runs the steps is to come.
#![allow(dead_code, unused_imports)]

mod context;
mod disk;
mod files;
mod memory;
mod stats;
mod transfer;
mod tree;

pub(crate) use context::Context;
pub(crate) use transfer::{From, Transfer};
