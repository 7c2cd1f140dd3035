//! The containers of a store, opened by whoever asks.
#![forbid(unsafe_code)]

use super::output::Streams;
use super::record::{Dir, Names};
use super::{Container, Held, Phase, end_event, names, start};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::Store;
use std::sync::Arc;

impl Store {
    /// All containers of the store, kept ones and those of running programs, oldest first.
    ///
    /// # Errors
    /// `InvalidData` for a record that is none, and the errors of the file system.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let mut all = Vec::new();
        for id in crate::store::list(self.containers_dir())? {
            let Some(id) = id.to_str() else { continue };
            if let Some(container) = open(self, id)? {
                all.push(container);
            }
        }
        all.sort_by_key(Container::created);
        Ok(all)
    }

    /// The container with this name, id, or unambiguous beginning of an id.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for the beginning of several ids.
    pub fn container(&self, name: &str) -> Result<Container> {
        let not_found =
            || Error::new(ErrorKind::NotFound, format!("no container {name:?}")).with_path(self.path());
        if names::is_valid(name)
            && let Some(id) = Names::get(self, name)?
            && let Some(container) = open(self, &id)?
        {
            return Ok(container);
        }
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
            // A name that was made up is only in its container's record.
            let found = self.containers()?.into_iter().find(|container| container.name() == name);
            return found.ok_or_else(not_found);
        }
        let ids = crate::store::list(self.containers_dir())?;
        let mut found = ids.iter().filter_map(|id| id.to_str()).filter(|id| id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(id), None) => open(self, id)?.ok_or_else(not_found),
            (Some(_), Some(_)) => {
                Err(Error::new(ErrorKind::InvalidInput, format!("several containers begin with {name:?}")))
            }
            (None, _) => Err(not_found()),
        }
    }
}

/// Opens what is in the store; `None` for what has just gone or is being made.
fn open(store: &Store, id: &str) -> Result<Option<Container>> {
    let Some(dir) = Dir::open(store, id)? else { return Ok(None) };
    let Some(record) = dir.record()? else { return Ok(None) };
    let image = start::reopen_image(store, &record)?;
    let phase = match dir.running()? {
        Some(running) => match start::join(&dir, &running)? {
            Some(running) => Phase::Running(running),
            None => Phase::Exited(start::exited_of_other(&dir, running.started)?),
        },
        // Read anew: it may just have ended.
        None => dir.record()?.and_then(|record| record.exited).map_or(Phase::Created, Phase::Exited),
    };
    let held = Held { dir: Arc::new(dir), record, range: None, kept: true };
    let end = match &phase {
        Phase::Running(running) => running.process.pidfd.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?,
        Phase::Created | Phase::Exited(_) => end_event()?,
    };
    Container::new(held, image, Streams::default(), phase, end).map(Some)
}
