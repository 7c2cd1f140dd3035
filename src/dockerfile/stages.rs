//! Which stage a name means. FROM, `COPY --from`, `RUN --mount=from=` and a target each have rules of their own.
//!
//! They are BuildKit's: FROM looks only at the stages before it, and at their names as they are in small letters;
//! all else takes the last stage of a name, in any case, wherever that stage is. Only `COPY --from` counts stages.
#![forbid(unsafe_code)]

use super::place::nearest;
use super::syntax::shortened;
use super::{Dockerfile, Stage, Step};
use crate::error::{Error, ErrorKind, Result};
use std::collections::HashMap;

/// How many names an error looks at for one that was meant.
const LOOKED_AT: usize = 1_000;

/// What a stage begins with, or what something is taken from.
///
/// Named contexts of a build take the place of stages and images; whoever has such looks for the name there first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Base {
    /// An earlier stage of the file, by its number from 0.
    Stage(usize),
    /// Nothing: `scratch`.
    Scratch,
    /// An image, by this name.
    Image(String),
}

/// The stages that have a name, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(HashMap<String, Vec<usize>>);

impl Names {
    pub(super) fn new(stages: &[Stage]) -> Self {
        let mut names = HashMap::<String, Vec<usize>>::new();
        for (at, stage) in stages.iter().enumerate() {
            if let Some(name) = &stage.name {
                names.entry(name.clone()).or_default().push(at);
            }
        }
        Self(names)
    }

    /// The last stage of a name that is before `limit`.
    fn before(&self, name: &str, limit: usize) -> Option<usize> {
        let all = self.0.get(name)?;
        all[..all.partition_point(|at| *at < limit)].last().copied()
    }

    fn last(&self, name: &str) -> Option<usize> {
        self.0.get(&name.to_lowercase())?.last().copied()
    }

    /// Whether an earlier stage has the name of this one.
    pub(super) fn is_again(&self, name: &str, stage: usize) -> bool {
        self.before(name, stage).is_some()
    }
}

fn image(name: &str) -> Base {
    match name {
        "scratch" => Base::Scratch,
        name => Base::Image(name.to_owned()),
    }
}

impl Dockerfile {
    /// What the stage with this number begins with, where its FROM, with [variables replaced](Stage::expand_base), has `name`:
    /// an earlier stage, if one has exactly this name, the last of those; else an image. A number is an image's name.
    ///
    /// ```
    /// use coracle::dockerfile::{Base, Dockerfile};
    /// let file = Dockerfile::parse("FROM debian AS tools\nFROM tools\nFROM 0")?;
    /// assert_eq!(file.base(1, "tools")?, Base::Stage(0));
    /// assert_eq!(file.base(2, "0")?, Base::Image("0".into()));
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidData` for no name at all, with the line; `NotFound` for a number of no stage.
    pub fn base(&self, stage: usize, name: &str) -> Result<Base> {
        let from = self.numbered(stage)?;
        if name.is_empty() {
            let why = format!("{:?} is empty with its variables replaced", from.base);
            let error = from.error(ErrorKind::InvalidData, &why, &from.base);
            return Err(error.with_remedy("give its ARG a default, or the build an argument"));
        }
        Ok(self.names.before(name, stage).map_or_else(|| image(name), Base::Stage))
    }

    /// Where a `COPY --from` in the stage with this number takes from: the last stage with this name, in any case, or with this
    /// number; else an image. `step` is the COPY, or what [`parse_trigger`](Self::parse_trigger) made of a trigger.
    ///
    /// ```
    /// use coracle::dockerfile::{Base, Dockerfile};
    /// let file = Dockerfile::parse("FROM debian AS tools\nFROM scratch\nCOPY --from=0 /a /\nCOPY --from=2 /b /")?;
    /// let [first, second] = &file.stages()[1].steps[..] else { panic!() };
    /// assert_eq!(file.copy_from(1, first, "0")?, Base::Stage(0));
    /// assert_eq!(file.copy_from(1, second, "2").unwrap_err().position(), Some((4, 13)));
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidData`, with the step's line, for a number that no stage has, and for a stage that is not before this one.
    pub fn copy_from(&self, stage: usize, step: &Step, name: &str) -> Result<Base> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(name.strip_prefix(['+', '-']).unwrap_or(name)) {
            return self.mount_from(stage, step, name);
        }
        let about = name;
        // What has a minus, or is more than fits, is the number of no stage either.
        match name.parse().ok().filter(|at| *at < self.stages.len()) {
            Some(at) => self.earlier(stage, at, step, name),
            None => {
                let (name, last) = (shortened(name), self.stages.len() - 1);
                let why = format!("there is no stage {name}: the last one has the number {last}");
                Err(step.error(ErrorKind::InvalidData, &why, about))
            }
        }
    }

    /// Where a `RUN --mount=from=` in the stage with this number takes from: as [`copy_from`](Self::copy_from), but a
    /// number is an image's name.
    ///
    /// # Errors
    /// `InvalidData`, with the step's line, for a stage that is not before this one.
    pub fn mount_from(&self, stage: usize, step: &Step, name: &str) -> Result<Base> {
        match self.names.last(name) {
            Some(at) => self.earlier(stage, at, step, name),
            None => Ok(image(name)),
        }
    }

    /// The number of the stage to build, from 0: the last of those with this name, in any case; for no name, the last of all.
    ///
    /// # Errors
    /// `NotFound` where no stage has it. A number is none: as in BuildKit, only names are.
    pub fn target(&self, name: &str) -> Result<usize> {
        if name.is_empty() {
            return Ok(self.stages.len() - 1);
        }
        self.names.last(name).ok_or_else(|| {
            let why = format!("there is no stage {} to build", shortened(name));
            let error = Error::new(ErrorKind::NotFound, why);
            let names = self.stages.iter().filter_map(|stage| stage.name.as_deref()).take(LOOKED_AT);
            match nearest(name, names) {
                Some(near) => error.with_remedy(format!("did you mean {near}?")),
                None => error.with_remedy("name one of the names after AS, or none for the last stage"),
            }
        })
    }

    fn numbered(&self, stage: usize) -> Result<&Stage> {
        self.stages.get(stage).ok_or_else(|| {
            let why = format!("there is no stage {stage}: the last one is {}", self.stages.len() - 1);
            Error::new(ErrorKind::NotFound, why)
        })
    }

    fn earlier(&self, stage: usize, at: usize, step: &Step, name: &str) -> Result<Base> {
        if at < stage {
            return Ok(Base::Stage(at));
        }
        let why = format!("the stage {} is not before this one", shortened(name));
        let error = step.error(ErrorKind::InvalidData, &why, name);
        Err(error.with_remedy(format!("move it above line {}", self.numbered(stage)?.span.first)))
    }
}
