//! Images whose base is exchanged for another, without being built again.
#![forbid(unsafe_code)]

use super::Image;
use super::edit::{Draft, HistoryLine, has_layer, take_history};
use super::load::transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::store::clock;
use serde_json::{Map, Value, json};

impl Image {
    /// The layers that this image has above `old_base`, above those of `new_base` instead: a base with its security updates
    /// below a program that needs no new build. The files are as if the same layers had been made there; whether the program runs on
    /// the new base, nobody can say but a container of it.
    ///
    /// The settings are this image's. But variables and labels that it had from `old_base`, unchanged, become those of
    /// `new_base`, with what that has more of them; one that was taken away stays away.
    ///
    /// `old_base` may be of any store. Unnamed: see [above](Self::scratch).
    ///
    /// ```
    /// use coracle::{Image, Store};
    /// let store = Store::temp()?;
    /// let old = Image::scratch(&store)?.with_file("/etc/version", "1")?.with_env("VERSION", "1")?;
    /// let app = old.with_file("/app", "…")?.with_env("MODE", "fast")?;
    /// let new = Image::scratch(&store)?.with_file("/etc/version", "2")?.with_env("VERSION", "2")?;
    /// let rebased = app.rebase(&old, &new)?;
    /// assert_eq!(rebased.config().env(), ["VERSION=2", "MODE=fast"]);
    /// assert_eq!(rebased.layers()?[0].digest(), new.layers()?[0].digest());
    /// assert!(app.rebase(&new, &old).is_err());
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidInput` where this image does not stand on `old_base` (not all of its layers are the lowest of this one), where `new_base`
    /// is of another store or for another machine; `InvalidData` where a layer can't be above `new_base`, as it has a hard link to a
    /// file that only `old_base` has; `TooLarge` above 499 layers; `Unsupported` for the host image.
    pub fn rebase(&self, old_base: &Self, new_base: &Self) -> Result<Self> {
        self.check_base(old_base)?;
        new_base.refuse_host()?;
        if new_base.store().path() != self.store().path() {
            let error = Error::new(ErrorKind::InvalidInput, "a new base of another store than the image's");
            return Err(error.with_remedy("save it there and load it here"));
        }
        let machine = |image: &Self| format!("{}/{}", image.config().os(), image.config().architecture());
        if machine(self) != machine(new_base) {
            let what = format!("an image for {} on a base for {}", machine(self), machine(new_base));
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        let kept = old_base.config().diff_ids().len();
        let (mut layers, mut diff_ids) = (new_base.oci_layers(), new_base.config().diff_ids().to_vec());
        layers.extend_from_slice(&self.oci_layers()[kept..]);
        diff_ids.extend_from_slice(&self.config().diff_ids()[kept..]);
        let created = self.now();
        let line = HistoryLine {
            created,
            created_by: String::new(),
            comment: Some(format!("rebased from {} onto {}", old_base.id(), new_base.id())),
            author: None,
        };
        let (mut old, mut new) = (old_base.document()?, new_base.document()?);
        let config = self.config().edit(|value| {
            value["created"] = json!(clock::rfc3339(created));
            value["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
            let mut lines = take_history(&mut new, new_base.config().diff_ids().len());
            let own = take_history(value, self.config().diff_ids().len());
            lines.extend(above(own, &take_history(&mut old, kept), kept));
            lines.push(line.to_json(true));
            value["history"] = Value::Array(lines);
            let config = |value: &Value, key: &str| value["config"][key].clone();
            let env = merged_env([value, &old, &new].map(|value| config(value, "Env")));
            let labels = merged_labels([value, &old, &new].map(|value| config(value, "Labels")));
            if let Some(config) = value["config"].as_object_mut() {
                let mut set = |key: &str, value: Value, is_empty: bool| match is_empty {
                    true => drop(config.remove(key)),
                    false => drop(config.insert(key.to_owned(), value)),
                };
                let (no_env, no_labels) = (env.is_empty(), labels.is_empty());
                set("Env", Value::Array(env), no_env);
                set("Labels", Value::Object(labels), no_labels);
            }
            Ok(())
        })?;
        transaction(self.store(), "rebase", || {
            let image = Draft { config, layers }.make(self.store(), self.0.fixed)?;
            image.layer_dirs().map_err(|error| error.during("putting the layers above the new base"))?;
            Ok(image)
        })
    }

    /// Its configuration, to be read field by field.
    fn document(&self) -> Result<Value> {
        crate::manifest::parse("image configuration", self.config().raw())
    }
}

/// The lines of the layers above the base: what follows the base's own history, else what follows its topmost layer.
fn above(lines: Vec<Value>, base: &[Value], layers: usize) -> Vec<Value> {
    if lines.starts_with(base) {
        return lines[base.len()..].to_vec();
    }
    let mut seen = 0;
    let is_above = |line: &Value| {
        let is_above = seen >= layers;
        seen += usize::from(has_layer(line));
        is_above
    };
    let mut is_above = is_above;
    lines.into_iter().filter(|line| is_above(line)).collect()
}

/// The variables of an image on another base, whose order comes first.
fn merged_env([own, old, new]: [Value; 3]) -> Vec<Value> {
    let list = |value: Value| match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    let (own, old, new) = (list(own), list(old), list(new));
    let name = |entry: &Value| entry.as_str().and_then(|text| text.split('=').next()).map(str::to_owned);
    let find =
        |list: &[Value], wanted: &Value| list.iter().find(|entry| name(entry) == name(wanted)).cloned();
    let mut merged: Vec<Value> = Vec::new();
    for entry in &new {
        match (find(&own, entry), find(&old, entry)) {
            // Taken away.
            (None, Some(_)) => {}
            (Some(own), old) if old.as_ref() != Some(&own) => merged.push(own),
            _ => merged.push(entry.clone()),
        }
    }
    let rest = own.iter().filter(|entry| find(&new, entry).is_none() && !old.contains(entry));
    merged.extend(rest.cloned());
    merged
}

fn merged_labels([own, old, new]: [Value; 3]) -> Map<String, Value> {
    let map = |value: Value| match value {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let (own, old, new) = (map(own), map(old), map(new));
    let from_new = new.iter().filter(|(key, _)| own.contains_key(*key) || !old.contains_key(*key));
    let mut merged: Map<_, _> = from_new.map(|(key, value)| (key.clone(), value.clone())).collect();
    let changed = own.into_iter().filter(|(key, value)| old.get(key) != Some(value));
    merged.extend(changed);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inherited_follows_the_base() {
        let merged = merged_env([
            json!(["PATH=/bin", "A=mine", "KEEP=1", "DROPPED_BY_NEW=x", "OWN=1"]),
            json!(["PATH=/bin", "A=old", "GONE=1", "KEEP=0", "DROPPED_BY_NEW=x"]),
            json!(["NEW=1", "PATH=/usr/bin", "GONE=2", "A=new"]),
        ]);
        assert_eq!(json!(merged), json!(["NEW=1", "PATH=/usr/bin", "A=mine", "KEEP=1", "OWN=1"]));
        assert_eq!(merged_env([json!(null), json!(null), json!(null)]), Vec::<Value>::new());
        let merged = merged_labels([
            json!({ "a": "1", "own": "1", "b": "mine", "dropped": "1" }),
            json!({ "a": "1", "b": "1", "gone": "1", "dropped": "1" }),
            json!({ "a": "2", "b": "2", "gone": "2", "new": "2" }),
        ]);
        assert_eq!(json!(merged), json!({ "a": "2", "b": "mine", "own": "1", "new": "2" }));
    }

    #[test]
    fn lines_above_the_base_are_found_by_words_or_by_layers() {
        let line = |text: &str, is_empty: bool| json!({ "created_by": text, "empty_layer": is_empty });
        let base = [line("a", false), line("b", true)];
        let own = [line("a", false), line("b", true), line("c", true), line("d", false)];
        assert_eq!(above(own.to_vec(), &base, 1), own[2..]);
        let other = [line("a2", false), line("x", false)];
        assert_eq!(above(own.to_vec(), &other[..1], 1), own[1..]);
    }
}
