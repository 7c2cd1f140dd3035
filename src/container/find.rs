//! The containers of a store, opened by whoever asks.
#![forbid(unsafe_code)]

use super::output::Streams;
use super::record::{Dir, Names};
use super::{Container, Held, Phase, end_event, names, pausing, start, verify};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::{Problem, Store, StorePart, Verification};
use std::sync::Arc;

const LISTED: &str =
    "Store::containers lists those that are there; one that was not kept goes with its program";

impl Store {
    /// All containers of the store, kept ones and those of running programs, oldest first. One that can't be read is in
    /// [`broken_containers`](Self::broken_containers) instead.
    ///
    /// # Errors
    /// Those of the file system for the store's own directories, and of a program that lacks memory or descriptors.
    pub fn containers(&self) -> Result<Vec<Container>> {
        Ok(self.readable_containers()?.0)
    }

    /// What should be a container and can't be opened: its record is damaged, or its image is. Nothing that it may need is
    /// removed meanwhile. [`Store::verify`] looks at more than is needed to list one.
    ///
    /// ```
    /// use coracle::Store;
    /// let store = Store::temp()?;
    /// for problem in store.broken_containers()? {
    ///     eprintln!("{problem}");
    /// }
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`containers`](Self::containers).
    pub fn broken_containers(&self) -> Result<Vec<Problem>> {
        self.each_container(drop)
    }

    fn readable_containers(&self) -> Result<(Vec<Container>, Vec<Problem>)> {
        let mut all = Vec::new();
        let broken = self.each_container(|container| all.push(container))?;
        all.sort_by_key(Container::created);
        Ok((all, broken))
    }

    /// Hands over those that can be read, and gives the others.
    fn each_container(&self, mut readable: impl FnMut(Container)) -> Result<Vec<Problem>> {
        let mut broken = Verification::default();
        for id in crate::store::list(self.containers_dir())? {
            let path = self.path().join("containers").join(&id);
            let opened = match id.to_str() {
                Some(id) => open(self, id),
                None => Err(verify::no_id()),
            };
            match opened {
                Ok(Some(container)) => readable(container),
                // Removed meanwhile.
                Ok(None) | Err(_) if path.symlink_metadata().is_err() => {}
                Ok(None) => broken.add(StorePart::Container, verify::no_record(), &path, verify::REMEDY)?,
                Err(error) => broken.add(StorePart::Container, error, &path, verify::REMEDY)?,
            }
        }
        Ok(broken.problems)
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
            let (all, broken) = self.readable_containers()?;
            let found = all.into_iter().find(|container| container.name() == name);
            return found.ok_or_else(|| match broken.first() {
                None => not_found().with_remedy(LISTED),
                Some(one) => not_found().with_remedy(format!(
                    "it may be one of those that can't be read (Store::broken_containers), as {}",
                    one.path().display()
                )),
            });
        }
        let ids = crate::store::list(self.containers_dir())?;
        let mut found = ids.iter().filter_map(|id| id.to_str()).filter(|id| id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(id), None) => open(self, id)?.ok_or_else(not_found),
            (Some(_), Some(_)) => {
                let what = format!("several containers begin with {name:?}");
                Err(Error::new(ErrorKind::InvalidInput, what).with_remedy("say more digits of its id"))
            }
            (None, _) => Err(not_found().with_remedy(LISTED)),
        }
    }
}

/// Opens what is in the store; `None` for what has just gone or is being made.
fn open(store: &Store, id: &str) -> Result<Option<Container>> {
    let Some(dir) = Dir::open(store, id)? else { return Ok(None) };
    let Some(record) = dir.record()? else { return Ok(None) };
    let image = start::reopen_image(store, &record)?;
    let phase = match dir.running()? {
        Some(running) if running.is_elsewhere(store)? => Phase::Elsewhere(Box::new(running)),
        Some(running) => match start::join(&dir, &running)? {
            Some(running) => {
                pausing::settle(&running);
                Phase::Running(running)
            }
            None => Phase::Exited(start::exited_of_other(&dir, running.started)?),
        },
        // Read anew: it may just have ended.
        None => dir.record()?.and_then(|record| record.exited).map_or(Phase::Created, Phase::Exited),
    };
    let held = Held { dir: Arc::new(dir), record, range: None, kept: true, prepared: None };
    let end = match &phase {
        Phase::Running(running) => running.process.pidfd.try_clone().call("fcntl(F_DUPFD_CLOEXEC)")?,
        Phase::Created | Phase::Exited(_) | Phase::Elsewhere(_) => end_event()?,
    };
    Container::new(held, image, Streams::default(), phase, end, Arc::default()).map(Some)
}
