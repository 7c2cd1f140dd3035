//! Whether what lies beside unpacked layers is what unpacking wrote.
#![forbid(unsafe_code)]

use super::meta::LayerMeta;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Store, StorePart, Verification};
use std::ffi::OsStr;

const REMEDY: &str =
    "remove the directory while no program uses the store: the layer is unpacked again from its blob";

pub(crate) fn verify(store: &Store, found: &mut Verification) -> Result<()> {
    for name in store.layer_names()? {
        let path = store.path().join("layers").join(&name);
        match check(store, &name) {
            Ok(true) => found.layers += 1,
            // Removed meanwhile.
            Ok(false) => {}
            Err(error) => {
                found.layers += 1;
                found.add(StorePart::Layer, error, path, REMEDY)?;
            }
        }
    }
    Ok(())
}

fn check(store: &Store, name: &OsStr) -> Result<bool> {
    let invalid = |what: String| Err(Error::new(ErrorKind::InvalidData, what));
    let key = name.to_str().and_then(|name| format!("sha256:{name}").parse::<Digest>().ok());
    let Some(key) = key else { return invalid("not the name of a layer".into()) };
    let Some(layer) = store.layer(&key)? else { return Ok(false) };
    let meta: LayerMeta = layer.meta()?;
    let ids = [meta.diff_id.filter(|_| meta.self_contained), meta.chain_id];
    if !ids.iter().flatten().any(|id| meta.base.file(id) == key) {
        let shown = |id: Option<Digest>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        return invalid(format!(
            "a layer with diff_id {} and chain_id {} is not filed under them",
            shown(meta.diff_id),
            shown(meta.chain_id)
        ));
    }
    Ok(true)
}
