//! What a build tells while it works, collected.

use super::*;
use coracle::{BuildEvent, BuildStep};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
pub struct Told {
    pub step: Arc<BuildStep>,
    pub is_cached: bool,
    pub output: Vec<u8>,
    pub id: Option<coracle::Digest>,
}

/// Runs it, and gives the steps in their order with what became of them.
pub fn watched(build: Build, store: &Store) -> (coracle::Result<Image>, Vec<Told>) {
    let all: Arc<Mutex<Vec<Told>>> = Arc::default();
    let told = all.clone();
    let image = build
        .on_event(move |event| {
            let mut told = told.lock().unwrap();
            // A trigger has the number of its FROM, and is another step.
            let find = |step: &Arc<BuildStep>| {
                let at = told.iter().position(|other| other.step == *step).expect("Step comes first");
                assert!(told[at].id.is_none(), "Done comes last: {step:?}");
                at
            };
            match event {
                BuildEvent::Step { step } => {
                    told.push(Told { step: step.clone(), is_cached: false, output: Vec::new(), id: None });
                }
                BuildEvent::Cached { step } => {
                    let at = find(step);
                    told[at].is_cached = true;
                }
                BuildEvent::Output { step, bytes, .. } => {
                    let at = find(step);
                    told[at].output.extend_from_slice(bytes);
                }
                BuildEvent::Done { step, id } => {
                    let at = find(step);
                    told[at].id = Some(*id);
                }
                _ => {}
            }
        })
        .run(store);
    let mut all = std::mem::take(&mut *all.lock().unwrap());
    all.sort_by_key(|told| told.step.number);
    (image, all)
}

/// The texts of the steps that were done and not found. FROM is none: there is nothing to be done.
pub fn done(told: &[Told]) -> Vec<&str> {
    let done = told.iter().filter(|told| !told.is_cached && !told.step.text.starts_with("FROM"));
    done.map(|told| told.step.text.as_str()).collect()
}

/// Builds what has to succeed, and gives the texts of the steps that were done.
#[track_caller]
pub fn steps_done(build: &Build, store: &Store) -> (Image, Vec<String>) {
    let (image, told) = watched(build.clone(), store);
    let image = image.unwrap_or_else(|error| panic!("{error}"));
    (image, done(&told).into_iter().map(str::to_owned).collect())
}
