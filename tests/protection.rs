//! What protects the host from a container: what the report says of it, levels, the second wall, profiles.
#![forbid(unsafe_code)]

mod common;

use coracle::{ContainerBuilder, Landlock, Protection};

/// With as much of Landlock as the kernel has, where that is not all: before Linux 6.12.
fn as_far_as_the_kernel(builder: ContainerBuilder) -> ContainerBuilder {
    if has_landlock(6) { builder } else { builder.best_effort(Protection::Landlock) }
}

fn has_landlock(abi: u32) -> bool {
    match Landlock::abi() {
        Ok(there) => there >= abi,
        Err(error) => {
            let is_off =
                error.missing().is_some_and(|missing| missing.reason().contains("switched off at boot"));
            assert!(is_off, "{error}");
            false
        }
    }
}

#[path = "protection/landlock.rs"]
mod landlock;
#[path = "protection/levels.rs"]
mod levels;
#[path = "protection/profile.rs"]
mod profile;
