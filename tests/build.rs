//! Builds: what comes out of a Dockerfile, beside what buildah makes of it; what is done again and what is not; what is refused.
#![cfg(feature = "build")]

#[path = "build/bases.rs"]
mod bases;
#[cfg(feature = "registry")]
#[path = "build/buildah.rs"]
mod buildah;
#[path = "build/cache.rs"]
mod cache;
#[cfg_attr(not(feature = "registry"), allow(dead_code))] // some of it is for buildah
#[path = "build/case.rs"]
mod case;
#[path = "build/cli.rs"]
mod cli;
mod common;
#[path = "build/disk.rs"]
mod disk;
#[path = "build/dockerfiles.rs"]
mod dockerfiles;
#[path = "build/killed.rs"]
mod killed;
#[path = "build/peers.rs"]
mod peers;
#[path = "build/progress.rs"]
mod progress;
#[path = "build/pruned.rs"]
mod pruned;
#[path = "build/refused.rs"]
mod refused;
#[path = "build/remote.rs"]
mod remote;
#[path = "build/same.rs"]
mod same;
#[cfg_attr(not(feature = "registry"), allow(dead_code))] // some of it is for buildah
#[path = "build/seen.rs"]
mod seen;
#[path = "build/settings.rs"]
mod settings;
#[path = "build/software.rs"]
mod software;
#[path = "build/told.rs"]
mod told;

use bases::{context, write};
use common::*;
use coracle::{Build, Image, Store};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
