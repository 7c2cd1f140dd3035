//! Ways out of a container that were tried, each with what has to be untouched by it.

mod common;

#[path = "attacks/depths.rs"]
mod depths;
#[path = "attacks/descriptors.rs"]
mod descriptors;
#[path = "attacks/images.rs"]
mod images;
#[path = "attacks/keys.rs"]
mod keys;

#[path = "attacks/leaks.rs"]
mod leaks;
#[path = "attacks/procfs.rs"]
mod procfs;
#[path = "attacks/signals.rs"]
mod signals;

#[path = "attacks/streams.rs"]
mod streams;

use common::*;
use coracle::{Container, ErrorKind};
use std::fs;
