//! What protects the host from a container: what the report says of it, levels, the second wall, profiles.
#![forbid(unsafe_code)]

mod common;

#[path = "protection/landlock.rs"]
mod landlock;
#[path = "protection/levels.rs"]
mod levels;
#[path = "protection/profile.rs"]
mod profile;
