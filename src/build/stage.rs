//! A stage: what it begins with, the triggers of that, and its instructions one after the other.
#![forbid(unsafe_code)]

use super::args::Scope;
use super::event::{BuildEvent, BuildStep};
use super::files::with_files;
use super::history::{self, Ground};
use super::transfer::{self, From, MADE, Transfer};
use super::tree::absolute;
use super::work::{Named, Work};
use crate::digest::Digest;
use crate::dockerfile::{Add, Base, Copy, Dockerfile, Expanded, Instruction, Stage, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{HistoryLine, Image, Revision, instruction};
use crate::layer::{Compression, EntryKind, Layer};
use crate::manifest::DEFAULT_PATH;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// What a stage has come to.
#[derive(Clone)]
pub(super) struct Finished {
    pub(super) image: Image,
    pub(super) scope: Scope,
    /// It has a CMD of its own, which an ENTRYPOINT leaves.
    pub(super) cmd_is_set: bool,
}

impl Finished {
    /// A base that is no stage.
    pub(super) fn of(image: Image) -> Self {
        Self { image, scope: Scope::default(), cmd_is_set: false }
    }

    pub(super) fn env(&self) -> &[String] {
        self.image.config().env()
    }

    fn working_dir(&self) -> &str {
        match self.image.config().working_dir() {
            "" => "/",
            path => path,
        }
    }
}

/// A PATH where the image that a stage begins with has none: docker's, which BuildKit puts there before all that the stage sets.
fn with_path(state: &mut Finished) -> Result<()> {
    let has_path =
        state.env().iter().any(|pair| pair.split_once('=').is_some_and(|(name, _)| name == "PATH"));
    if has_path || state.image.config().platform().os == "windows" {
        return Ok(());
    }
    let mut env = state.env().to_vec();
    env.push(format!("PATH={DEFAULT_PATH}"));
    state.image = state.image.retouched(|config| {
        if !config["config"].is_object() {
            config["config"] = json!({});
        }
        config["config"]["Env"] = json!(env);
        Ok(())
    })?;
    Ok(())
}

/// A step that is being done.
pub(super) struct At<'a> {
    pub(super) stage: usize,
    pub(super) step: &'a Step,
    pub(super) told: Arc<BuildStep>,
}

impl Work<'_> {
    pub(super) fn run_stage(&self, at: usize) -> Result<Finished> {
        let stage = &self.file.stages()[at];
        self.check()?;
        let told = self.step(at, 0, stage.span.first, &stage.text, false);
        self.tell(BuildEvent::Step { step: told.clone() });
        let mut state = self.base(at, stage).map_err(|error| stage.place(error))?;
        state.cmd_is_set = false;
        with_path(&mut state)?;
        state.scope.begin(state.image.config().env());
        self.tell(BuildEvent::Done { step: told, id: *state.image.id() });
        self.triggers(at, stage, &mut state)?;
        for (number, step) in stage.steps.iter().enumerate() {
            let told = self.step(at, number + 1, step.span.first, &step.text, false);
            self.instruction(&At { stage: at, step, told }, &mut state).map_err(|error| step.place(error))?;
        }
        if at == self.plan_target() {
            self.label(&mut state)?;
            self.aim(&mut state)?;
        }
        Ok(state)
    }

    /// What ONBUILD has in the base, as if it stood below FROM. It is done once: what stands on the result has none of it.
    fn triggers(&self, at: usize, stage: &Stage, state: &mut Finished) -> Result<()> {
        let triggers = state.image.config().on_build().to_vec();
        if triggers.is_empty() {
            return Ok(());
        }
        state.image = state.image.retouched(|config| {
            if let Some(config) = config["config"].as_object_mut() {
                config.remove("OnBuild");
            }
            Ok(())
        })?;
        for text in &triggers {
            let during =
                |error: Error| stage.place(error.during(format!("executing ONBUILD {text} of the base")));
            let step = Dockerfile::parse_trigger(text).map_err(during)?;
            if matches!(step.instruction, Instruction::Onbuild(_) | Instruction::Maintainer(_)) {
                let what = format!("{} is no trigger", step.instruction.name());
                return Err(during(Error::new(ErrorKind::InvalidData, what)));
            }
            let told = self.step(at, 0, stage.span.first, &step.text, true);
            self.instruction(&At { stage: at, step: &step, told }, state).map_err(during)?;
        }
        Ok(())
    }

    fn instruction(&self, at: &At<'_>, state: &mut Finished) -> Result<()> {
        self.check()?;
        self.tell(BuildEvent::Step { step: at.told.clone() });
        match &at.step.instruction {
            Instruction::Arg(args) => {
                let env = state.env().to_vec();
                let line = state.scope.declare(at.step, args, &self.given, &self.globals, &env)?;
                self.setting(at, state, &at.step.instruction, line, |_| Ok(()))?;
            }
            _ => {
                let env = state.env();
                let Expanded { instruction, .. } =
                    at.step.expand(&|name: &str| state.scope.get(env, name))?;
                match &instruction {
                    Instruction::Run(run) => self.run(at, run, state)?,
                    Instruction::Copy(copy) => self.copy(at, copy, state)?,
                    Instruction::Add(add) => self.add(at, add, state)?,
                    Instruction::Workdir(path) => self.workdir(at, path, &instruction, state)?,
                    _ => {
                        let line = history::of_setting(&instruction, &at.step.text);
                        let mut cmd_is_set = state.cmd_is_set;
                        self.setting(at, state, &instruction, line, |config| {
                            instruction::apply(config, &instruction, &mut cmd_is_set)
                        })?;
                        state.cmd_is_set |= matches!(instruction, Instruction::Cmd(_));
                        if let Instruction::Env(set) = &instruction {
                            state.scope.set_by_env(set.iter().map(|variable| variable.name.as_str()));
                        }
                    }
                }
            }
        }
        self.tell(BuildEvent::Done { step: at.told.clone(), id: *state.image.id() });
        Ok(())
    }

    /// An instruction that only changes the configuration.
    fn setting(
        &self,
        at: &At<'_>,
        state: &mut Finished,
        instruction: &Instruction,
        line: String,
        change: impl FnOnce(&mut Value) -> Result<()>,
    ) -> Result<()> {
        // What the line says may be meant in two ways, so it is the instruction that counts.
        let exact = format!("{instruction:?}");
        let flag = if state.cmd_is_set { "cmd" } else { "" };
        let parts = ["setting", &line, &exact, flag, &self.epoch_part()];
        let key = history::key_on(state.image.config(), Ground::Settings, &parts)?;
        let (image, was_there) = self.kept_on(&key, &state.image, &line, change, || Ok(None))?;
        self.done(at, state, image, was_there);
        Ok(())
    }

    fn done(&self, at: &At<'_>, state: &mut Finished, image: Image, was_there: bool) {
        if was_there {
            self.tell(BuildEvent::Cached { step: at.told.clone() });
        }
        state.image = image;
    }

    fn copy(&self, at: &At<'_>, copy: &Copy, state: &mut Finished) -> Result<()> {
        let transfer = Transfer::copy(copy, state.working_dir()).times(self.epoch).until(self.deadline());
        let line = |copied: &Digest| history::of_copy(copy, copied);
        match &copy.from {
            None => self.transfer(at, &transfer, From::Context(&self.context), &line, state),
            Some(name) => match self.named(name) {
                Some(Named::Files(context)) => {
                    self.transfer(at, &transfer, From::Context(context), &line, state)
                }
                Some(Named::Image(name)) => {
                    let image = self.image(name, self.build.platform.as_ref())?;
                    self.transfer(at, &transfer, From::Image(&image), &line, state)
                }
                None => {
                    let base = self.file.copy_from(at.stage, at.step, name)?;
                    let image = self.source(base)?;
                    self.transfer(at, &transfer, From::Image(&image), &line, state)
                }
            },
        }
    }

    /// The image that files are taken from.
    pub(super) fn source(&self, base: Base) -> Result<Image> {
        match base {
            Base::Scratch => self.scratch(None),
            Base::Stage(other) => self.stage(other).map(|done| done.image.clone()),
            Base::Image(name) => {
                self.image(&name, self.build.platform.as_ref()).map_err(|error| self.or_a_stage(&name, error))
            }
        }
    }

    fn add(&self, at: &At<'_>, add: &Add, state: &mut Finished) -> Result<()> {
        let transfer = Transfer::add(add, state.working_dir()).times(self.epoch).until(self.deadline());
        let line = |copied: &Digest| history::of_add(add, copied);
        self.transfer(at, &transfer, From::Context(&self.context), &line, state)
    }

    fn transfer(
        &self,
        at: &At<'_>,
        transfer: &Transfer,
        from: From<'_>,
        line: &dyn Fn(&Digest) -> String,
        state: &mut Finished,
    ) -> Result<()> {
        let _permit = self.permits().take();
        self.check()?;
        let copied = transfer.digest(self.store, from)?;
        let line = line(&copied);
        let exact = format!("{:?}", at.step.instruction);
        let parts = ["copy", &line, &exact, state.working_dir(), &self.epoch_part()];
        let key = history::key_on(state.image.config(), Ground::Files, &parts)?;
        let (image, was_there) = self.kept_or_known(&key, &state.image, &line, || {
            transfer.layer(self.store, from, Some(&state.image)).map(Some)
        })?;
        self.done(at, state, image, was_there);
        Ok(())
    }

    /// WORKDIR makes its directory where it is missing, and is a setting else.
    fn workdir(
        &self,
        at: &At<'_>,
        path: &str,
        instruction: &Instruction,
        state: &mut Finished,
    ) -> Result<()> {
        let line = history::of_setting(instruction, &at.step.text);
        let exact = format!("{:?}", at.step.instruction);
        let parts = ["workdir", &line, &exact, &self.epoch_part()];
        let key = history::key_on(state.image.config(), Ground::Settings, &parts)?;
        let change = |config: &mut Value| instruction::apply(config, instruction, &mut false);
        let (image, was_there) = self.kept_on(&key, &state.image, &line, change, || {
            let _permit = self.permits().take();
            self.directory(&state.image, &absolute(&Path::new(state.working_dir()).join(path)))
        })?;
        self.done(at, state, image, was_there);
        Ok(())
    }

    /// A layer with a directory, and those above it, that the image has not; `None` where it has all of them. A link to what is not
    /// there stays, and it is made where that leads, as in BuildKit.
    fn directory(&self, image: &Image, path: &Path) -> Result<Option<Layer>> {
        let path = transfer::place_in(image, path.as_os_str().as_bytes())?;
        let mut missing = Vec::new();
        let mut next = PathBuf::from("/");
        for part in Path::new(OsStr::from_bytes(&path)).components() {
            next.push(part);
            if missing.is_empty() {
                match image.locate(&next)? {
                    Some((_, EntryKind::Directory)) => continue,
                    Some((found, _)) => {
                        return Err(Error::new(
                            ErrorKind::InvalidInput,
                            "something else is there in the image",
                        )
                        .with_path(found)
                        .with_remedy("WORKDIR names a directory"));
                    }
                    None => {}
                }
            }
            missing.push(next.clone());
        }
        if missing.is_empty() {
            return Ok(None);
        }
        // As in BuildKit it is the user's; where that is nobody, root's.
        let user = image.config().user();
        let owner = match with_files(image, |below| transfer::owner(user, Some(below))) {
            Err(error) if error.kind() == ErrorKind::NotFound => (0, 0),
            other => other?,
        };
        let builder = Layer::builder().compression(Compression::None).owner(owner.0, owner.1);
        let builder = missing
            .iter()
            .fold(builder, |builder, path| builder.directory(path.strip_prefix("/").unwrap_or(path), 0o755));
        let made = self.epoch.map_or(MADE, |epoch| MADE.min(epoch.into()));
        builder.mtime(made).build(self.store).map(Some)
    }

    /// Labels that the build was given are over those of the file, and no step.
    fn label(&self, state: &mut Finished) -> Result<()> {
        if self.build.labels.is_empty() {
            return Ok(());
        }
        let labels = &self.build.labels;
        state.image = state.image.retouched(|config| {
            let config = &mut config["config"];
            if !config["Labels"].is_object() {
                config["Labels"] = json!({});
            }
            for (name, value) in labels {
                config["Labels"][name] = json!(value);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// What a build for another machine makes is for that machine, on whatever it stands.
    fn aim(&self, state: &mut Finished) -> Result<()> {
        let Some(wanted) = self.build.platform.as_ref().map(|platform| platform.normal()) else {
            return Ok(());
        };
        if state.image.config().platform() == wanted {
            return Ok(());
        }
        state.image = state.image.retouched(|config| {
            config["os"] = json!(wanted.os);
            config["architecture"] = json!(wanted.architecture);
            match (&wanted.variant, config.as_object_mut()) {
                (Some(variant), _) => config["variant"] = json!(variant),
                (None, Some(config)) => drop(config.remove("variant")),
                (None, None) => {}
            }
            Ok(())
        })?;
        Ok(())
    }

    /// The image with one more line of history.
    pub(super) fn derived(
        &self,
        parent: &Image,
        layer: Option<&Layer>,
        line: String,
        created: Option<SystemTime>,
        change: impl FnOnce(&mut Value) -> Result<()>,
    ) -> Result<Image> {
        let created = created.unwrap_or_else(|| self.now());
        let history = HistoryLine { created, created_by: line, comment: None, author: None };
        parent.derive_unlisted(Revision { layer, history, created: None }, change)
    }
}
