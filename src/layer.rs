#![forbid(unsafe_code)]

mod apply;
mod attributes;
mod below;
mod compression;
mod entry;
mod flow;
mod mapped;
mod meta;
mod owner;
mod path;
mod pax;
mod sparse;
pub(crate) mod tar;
mod unpack;

pub(crate) use apply::{Applied, Expected, apply, chain_id, find, unpack_stored};
pub use compression::Compression;
pub(crate) use compression::decoder;
pub use entry::{Entry, EntryKind};
pub(crate) use meta::{Device, LayerMeta, Owner, PathText};
pub(crate) use owner::{Owned, Owners};
