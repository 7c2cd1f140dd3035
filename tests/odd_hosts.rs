//! Host programs that are not as most are, and hosts that run out of something. What changes a process is in one of its
//! own: this test program again, with one test.

mod common;

#[path = "odd_hosts/descriptors.rs"]
mod descriptors;
#[path = "odd_hosts/disk.rs"]
mod disk;
#[path = "odd_hosts/programs.rs"]
mod programs;
#[path = "odd_hosts/warden.rs"]
mod warden;

use common::*;
use coracle::{Container, ErrorKind, Image, Store};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than anything here takes; shorter than a person's patience.
const LONG: Duration = Duration::from_secs(60);
