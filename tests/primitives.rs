//! `Namespaces` and `Overlay` by themselves: no image, no store, no container.

mod common;

#[path = "primitives/namespaces.rs"]
mod namespaces;
#[path = "primitives/overlay.rs"]
mod overlay;

const LONG: std::time::Duration = std::time::Duration::from_secs(20);
