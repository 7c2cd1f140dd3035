//! Layers through the public interface: hostile archives, the builder, and other programs as oracles.

mod common;
#[path = "../src/layer/testing.rs"]
mod testing;

#[path = "layers/built.rs"]
mod built;
#[path = "layers/hostile.rs"]
mod hostile;
#[path = "layers/peers.rs"]
mod peers;
#[path = "layers/trees.rs"]
mod trees;
#[path = "layers/whole.rs"]
mod whole;
