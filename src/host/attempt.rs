//! One feature, used by a process of the warden's.
#![forbid(unsafe_code)]

use super::Ability;
use crate::error::{Error, Result};
use crate::feature::{Feature, Missing, words};
use crate::sys::plan::Cell;
use crate::sys::plan::format::Status;
use crate::sys::script::Script;
use crate::sys::warden::{Started, Warden};
use linux_raw_sys::general as n;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages of plans: it is being executed; it has come to its end.
const BEGUN: u32 = Status::PLAN + 8;
const DONE: u32 = Status::PLAN + 9;

/// None of them waits for anything but the kernel.
const TIME: Duration = Duration::from_secs(10);

pub(super) struct Attempt {
    feature: Feature,
    outcome: Outcome,
}

enum Outcome {
    Running(Started),
    Failed(Error),
    Known(Missing),
}

impl Attempt {
    /// Starts a plan that comes to its end where the feature is there. What it leaves in the cell is the answer's detail.
    pub fn start<'a>(
        warden: &Arc<Warden>,
        feature: Feature,
        write: impl FnOnce(&mut Script<'a>, Cell) -> Result<()>,
    ) -> Self {
        let start = || {
            let mut s = Script::new();
            let begun = s.words64(&[u64::from(BEGUN), 0]);
            let done = s.words64(&[u64::from(DONE), 0]);
            let status = s.status();
            // Who is killed by a filter has at least said that it was there.
            s.op(n::__NR_write, "write(status)", [status.into(), begun.into(), 16.into()]);
            write(&mut s, Cell(done.0 + 8))?;
            s.op(n::__NR_write, "write(status)", [status.into(), done.into(), 16.into()]);
            warden.start_plan(s.plan)
        };
        let outcome = start().map_or_else(Outcome::Failed, Outcome::Running);
        Self { feature, outcome }
    }

    /// What need not be tried, for this reason.
    pub fn known(feature: Feature, missing: Missing) -> Self {
        Self { feature, outcome: Outcome::Known(missing) }
    }

    pub fn finish(self) -> Ability {
        let feature = self.feature;
        let failed = |error: Error| error.into_missing(feature, words::REFUSED.remedy);
        let outcome = match self.outcome {
            Outcome::Running(started) => match listen(started) {
                Ok(Some(value)) => Ok(detail(feature, value)),
                Ok(None) => Err((words::KILLED.of(feature), None)),
                Err(error) => Err(failed(error)),
            },
            Outcome::Failed(error) => Err(failed(error)),
            Outcome::Known(missing) => Err((missing, None)),
        };
        Ability::new(feature, outcome)
    }
}

/// What the plan left at its end; `None` if it did not come to it.
fn listen(mut started: Started) -> Result<Option<i64>> {
    let deadline = Instant::now() + TIME;
    let mut value = None;
    while let Some(told) = started.next(Some(deadline))? {
        if told.kind == DONE {
            value = Some(told.value);
        }
    }
    Ok(value)
}

fn detail(feature: Feature, value: i64) -> Option<String> {
    (feature == Feature::Landlock).then(|| format!("ABI {value}"))
}
