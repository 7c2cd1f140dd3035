//! Which stages a target needs, and who waits for whom.
//!
//! A stage only ever needs earlier ones. So whoever takes them up in their order never waits for one that nobody has taken up,
//! but for those that only a base's ONBUILD names: they are found when the base is there, and then whoever needs one builds it.
#![forbid(unsafe_code)]

use super::args::Globals;
use crate::dockerfile::{Base, Dockerfile, Instruction, RunMount, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::reference::Reference;
use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What is to be done.
pub(super) struct Plan {
    /// The number of the stage that becomes the image.
    pub(super) target: usize,
    /// All that are needed for it, in the order of the file.
    pub(super) needed: Vec<usize>,
    /// Of each stage that is needed, the number of its FROM among the steps of all of them, from 1.
    first: Vec<usize>,
    /// How many steps there are.
    pub(super) of: usize,
}

impl Plan {
    /// `is_context`: whether a name is that of a further context, which takes the place of stages.
    pub(super) fn new(
        file: &Dockerfile,
        target: usize,
        globals: &Globals,
        is_context: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        let (mut needed, mut todo) = (BTreeSet::from([target]), vec![target]);
        while let Some(at) = todo.pop() {
            for other in needs(file, at, globals, is_context)? {
                if needed.insert(other) {
                    todo.push(other);
                }
            }
        }
        let mut first = vec![0; file.stages().len()];
        let mut number = 1;
        for &at in &needed {
            first[at] = number;
            number += 1 + file.stages()[at].steps.len();
        }
        Ok(Self { target, needed: needed.into_iter().collect(), first, of: number - 1 })
    }

    /// The number of a stage's FROM, if it was known to be needed from the beginning.
    pub(super) fn number(&self, stage: usize) -> usize {
        self.first.get(stage).copied().unwrap_or(0)
    }
}

fn needs(
    file: &Dockerfile,
    at: usize,
    globals: &Globals,
    is_context: &dyn Fn(&str) -> bool,
) -> Result<Vec<usize>> {
    let mut all = Vec::new();
    let mut add = |base: Base| {
        if let Base::Stage(other) = base {
            all.push(other);
        }
    };
    let stage = &file.stages()[at];
    let base = stage.expand_base(&|name: &str| globals.get(name))?.text;
    if !is_context(&base) {
        add(base_of(file, at, &base)?);
    }
    for step in &stage.steps {
        for (name, is_copy) in sources(step) {
            if is_context(&name) {
                continue;
            }
            add(match is_copy {
                true => file.copy_from(at, step, &name)?,
                false => file.mount_from(at, step, &name)?,
            });
        }
    }
    Ok(all)
}

/// What a stage begins with. A name that no image can have, for its capitals, is that of a stage, if there is one.
pub(super) fn base_of(file: &Dockerfile, at: usize, name: &str) -> Result<Base> {
    let base = file.base(at, name)?;
    if let Base::Image(image) = &base
        && image.parse::<Reference>().is_err()
        && let Ok(Base::Stage(stage)) = file.base(at, &image.to_lowercase())
    {
        return Ok(Base::Stage(stage));
    }
    Ok(base)
}

/// What an instruction takes from elsewhere, and whether it is a COPY.
fn sources(step: &Step) -> Vec<(String, bool)> {
    match &step.instruction {
        Instruction::Copy(copy) => copy.from.iter().map(|name| (name.clone(), true)).collect(),
        Instruction::Run(run) => run.mounts.iter().filter_map(from_of).map(|name| (name, false)).collect(),
        _ => Vec::new(),
    }
}

fn from_of(mount: &RunMount) -> Option<String> {
    match mount {
        RunMount::Read(mount) => mount.from.clone(),
        // `from=` has no variables. One that is quoted is found when the mount is read.
        RunMount::Written(text) => text.split(',').find_map(|field| {
            let (key, value) = field.split_once('=')?;
            key.trim().eq_ignore_ascii_case("from").then(|| value.to_owned())
        }),
    }
}

/// A stage as far as it has come.
enum State<T> {
    Idle,
    Working,
    Done(Arc<T>),
}

/// The stages, which several threads work on.
pub(super) struct Stages<T> {
    states: Mutex<Vec<State<T>>>,
    changed: Condvar,
    /// Why all of it stops: the first error.
    wrong: Mutex<Option<Error>>,
    stopped: std::sync::atomic::AtomicBool,
}

impl<T> Stages<T> {
    pub(super) fn new(count: usize) -> Self {
        Self {
            states: Mutex::new((0..count).map(|_| State::Idle).collect()),
            changed: Condvar::new(),
            wrong: Mutex::new(None),
            stopped: std::sync::atomic::AtomicBool::new(false),
        }
    }

    fn states(&self) -> MutexGuard<'_, Vec<State<T>>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result of a stage: of the thread that works on it, else of this one's `work`.
    pub(super) fn get(&self, at: usize, work: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut states = self.states();
        loop {
            self.check()?;
            match &states[at] {
                State::Done(done) => return Ok(done.clone()),
                State::Idle => break,
                State::Working => {
                    states = self.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        states[at] = State::Working;
        drop(states);
        let guard = Guard(self);
        let done = Arc::new(work().map_err(|error| self.stop(error))?);
        std::mem::forget(guard);
        self.states()[at] = State::Done(done.clone());
        self.changed.notify_all();
        Ok(done)
    }

    /// An error, when another stage has failed.
    pub(super) fn check(&self) -> Result<()> {
        match self.stopped.load(std::sync::atomic::Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::State, "another stage of the build has failed")),
            false => Ok(()),
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.check().is_err()
    }

    /// Stops all of it. The first one says why.
    pub(super) fn stop(&self, error: Error) -> Error {
        let again = error.again();
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.halt();
        again
    }

    fn halt(&self) {
        self.stopped.store(true, std::sync::atomic::Ordering::Release);
        // Whoever is about to wait has looked before, with the lock.
        drop(self.states());
        self.changed.notify_all();
    }

    /// What went wrong first.
    pub(super) fn wrong(&self) -> Option<Error> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A thread that panics is waited for in vain.
struct Guard<'a, T>(&'a Stages<T>);

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.0.halt();
    }
}

/// So many may work at once.
pub(super) struct Permits {
    free: Mutex<usize>,
    changed: Condvar,
}

pub(super) struct Permit<'a>(&'a Permits);

impl Permits {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), changed: Condvar::new() }
    }

    pub(super) fn take(&self) -> Permit<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.changed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::Given;
    use super::*;
    use crate::manifest::Platform;

    fn plan(text: &str, target: &str, contexts: &[&str]) -> Result<Plan> {
        let file = Dockerfile::parse(text)?;
        let (given, host) = (Given::new(&[]), Platform::host());
        let globals = Globals::new(&file, &given, &host, &host, target)?;
        let at = file.target(target)?;
        Plan::new(&file, at, &globals, &|name| contexts.contains(&name))
    }

    const FILE: &str = "ARG BASE=tools
FROM a AS tools
RUN x
FROM b AS unused
FROM c AS more
FROM $BASE AS built
COPY --from=2 / /
RUN --mount=from=unused2,target=$X --mount=type=bind,from=MORE,target=/x y
FROM scratch AS unused2
FROM scratch
COPY --from=built / /";

    #[test]
    fn only_what_the_target_needs_is_built() {
        // A later stage is none; by its name it is an error.
        assert_eq!(plan(FILE, "", &[]).err().unwrap().position(), Some((8, 18)));
        let plan = plan(FILE, "", &["unused2"]).unwrap();
        assert_eq!((plan.target, &plan.needed[..]), (5, &[0, 2, 3, 5][..]));
        let numbers: Vec<_> = plan.needed.iter().map(|at| plan.number(*at)).collect();
        assert_eq!((numbers, plan.of), (vec![1, 3, 4, 7], 8));
    }

    #[test]
    fn a_target_and_contexts_make_it_less() {
        assert_eq!(plan(FILE, "tools", &[]).unwrap().needed, [0]);
        let plan = plan(FILE, "", &["built"]).unwrap();
        assert_eq!(plan.needed, [5]);
    }

    #[test]
    fn each_stage_is_done_once_and_all_get_it() {
        let stages = Stages::new(2);
        let count = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let work = || Ok(count.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
                    assert_eq!(*stages.get(1, work).unwrap(), 0);
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }

    #[test]
    fn who_waits_for_one_that_fails_is_told() {
        let stages = Stages::<()>::new(2);
        let (begun, begin) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                stages.get(0, || {
                    begun.send(()).unwrap();
                    Err(Error::new(ErrorKind::NotFound, "first"))
                })
            });
            begin.recv().unwrap();
            let second = stages.get(0, || Ok(())).unwrap_err();
            assert!(matches!(second.kind(), ErrorKind::State | ErrorKind::NotFound));
            assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::NotFound);
        });
        assert_eq!(stages.wrong().unwrap().kind(), ErrorKind::NotFound);
        assert!(stages.get(1, || Ok(())).is_err());
    }

    #[test]
    fn who_waits_for_one_that_panics_is_told() {
        let stages = Stages::<()>::new(1);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| stages.get(0, || panic!("of the test")));
            assert!(first.join().is_err());
        });
        assert!(stages.get(0, || Ok(())).is_err());
    }
}
