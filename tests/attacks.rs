//! Ways out of a container that were tried, each with what has to be untouched by it.

mod common;

#[path = "attacks/descriptors.rs"]
mod descriptors;
#[path = "attacks/keys.rs"]
mod keys;

use common::*;
use coracle::{Container, ErrorKind};
