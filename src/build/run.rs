//! RUN: a command in a container of the image so far, and what it has changed as a layer.
#![forbid(unsafe_code)]

use super::event::BuildEvent;
use super::history::{self, Ground};
use super::mounts::Mounted;
use super::secrets::{Redactor, is_in, patterns};
use super::stage::{At, Finished};
use super::work::{Work, time_is_up};
use crate::container::{Container, ContainerBuilder, ExitStatus, MemoryFile, Stream};
use crate::dockerfile::{Command, Heredoc, Mount, Run, RunMount, RunNetwork, RunSecurity};
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::{Layer, Scan};
use crate::network::Network;
use crate::security::seccomp::Seccomp;
use std::collections::VecDeque;
use std::fmt::Write;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

/// What docker has for an image that names no shell.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The same for each build, so that what a program writes of it is the same.
const HOSTNAME: &str = "build";

/// A script of its own, for its first line names who reads it.
const SCRIPT: &str = "/.coracle-run";

/// Of a command that has failed, so much is kept for the error, and so many lines are in its text.
const KEPT: usize = 64 << 10;
const LINES: usize = 12;
const LINE_MAX: usize = 200;

/// So much of a layer is looked through at once.
const SCANNED: u64 = 2 << 20;

/// What is executed.
struct Words {
    /// Also as the history has it.
    words: Vec<String>,
    is_shell: bool,
    /// A script that is a file.
    script: Option<String>,
}

impl Words {
    fn of(run: &Run, image: &Image) -> Result<Self> {
        let text = match &run.command {
            Command::Exec(words) => {
                return Ok(Self { words: words.clone(), is_shell: false, script: None });
            }
            Command::Shell(text) => text,
        };
        let shell = image.config().shell().filter(|shell| !shell.is_empty());
        let mut words = shell.map_or_else(|| SHELL.map(str::to_owned).to_vec(), <[String]>::to_vec);
        let (text, script) = match &run.heredocs[..] {
            [] => (text.clone(), None),
            [only] if Heredoc::is_alone(text) => {
                let script = only.stripped();
                (script.clone(), script.starts_with("#!").then_some(script))
            }
            all => {
                // The shell reads them.
                let mut whole = text.clone();
                for heredoc in all {
                    whole.push('\n');
                    whole.push_str(&heredoc.content);
                    whole.push_str(&heredoc.name);
                }
                (whole, None)
            }
        };
        words.push(text);
        Ok(Self { words, is_shell: true, script })
    }

    fn executed(&self) -> Vec<String> {
        let mut words = self.words.clone();
        if self.script.is_some() {
            words.pop();
            words.push(SCRIPT.to_owned());
        }
        words
    }
}

/// What a command has written last, and who is told of it.
struct Output {
    shown: Mutex<Shown>,
}

struct Shown {
    redactors: [Redactor; 2],
    kept: [VecDeque<u8>; 2],
    /// Both, as they came.
    last: VecDeque<u8>,
}

impl Output {
    fn new(mounted: &Mounted) -> Self {
        let patterns = patterns(mounted.secrets.iter().map(|(_, secret)| secret));
        let redactors = [Redactor::new(patterns.clone()), Redactor::new(patterns)];
        Self { shown: Mutex::new(Shown { redactors, kept: Default::default(), last: VecDeque::new() }) }
    }

    /// What may be told of some more bytes, or, without any, of the end.
    fn take(&self, stream: Stream, bytes: Option<&[u8]>) -> Vec<u8> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let at = stream as usize;
        let bytes = match bytes {
            Some(bytes) => shown.redactors[at].push(bytes),
            None => shown.redactors[at].finish(),
        };
        let Shown { kept, last, .. } = &mut *shown;
        for kept in [&mut kept[at], last] {
            kept.extend(&bytes);
            let over = kept.len().saturating_sub(KEPT);
            kept.drain(..over);
        }
        bytes
    }

    /// What an error has of it.
    fn into_error(self: Arc<Self>, error: Error) -> Error {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let Shown { kept: [out, err], last, .. } = &mut *shown;
        let error = error.with_last_words(&last_lines(last.make_contiguous()));
        error.with_output(std::mem::take(out).into(), std::mem::take(err).into())
    }
}

/// The last lines, as far as a terminal may see them.
fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut shown = String::new();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        let plain = |c: char| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        shown.push_str("\n      > ");
        shown.extend(line.chars().take(LINE_MAX).map(plain));
        if line.chars().count() > LINE_MAX {
            shown.push('…');
        }
    }
    shown
}

impl Work<'_> {
    pub(super) fn run(&self, at: &At<'_>, run: &Run, state: &mut Finished) -> Result<()> {
        let mounts = self.allowed(run)?;
        let words = Words::of(run, &state.image)?;
        let mounted = self.mounted_digest(at, &mounts)?;
        let args = state.scope.of_run(state.env());
        let of_build = self.settings_of(run)?;
        let line =
            history::of_run(run, &of_build, &mounts, args, &words.words, words.is_shell, mounted.as_ref());
        let exact = format!("{:?}", run.command);
        let scripts = format!("{:?}", run.heredocs);
        let parts = ["run", &of_build, &line, &exact, &scripts, &self.epoch_part()];
        let key = history::key_on(state.image.config(), Ground::Process, &parts)?;
        let (image, was_there) = self.kept_or_known(&key, &state.image, &line, || {
            let mounted = self.mount(at, &mounts, state)?;
            let _permit = self.permits().take();
            self.check()?;
            self.execute(at, run, &words, mounted, state)
        })?;
        if was_there {
            self.tell(BuildEvent::Cached { step: at.told.clone() });
        }
        state.image = image;
        Ok(())
    }

    /// The mounts, when the build allows what the RUN asks for.
    fn allowed(&self, run: &Run) -> Result<Vec<Mount>> {
        if run.security == RunSecurity::Insecure && !self.build.allow_insecure {
            return Err(Error::new(ErrorKind::PermissionDenied, "--security=insecure is not allowed")
                .with_remedy("Build::allow_insecure allows it: --allow security.insecure"));
        }
        self.network(run)?;
        if let Some(device) = run.devices.iter().find(|device| device.required) {
            let what = format!("the device {:?}: devices by name (CDI) are not known here", device.name);
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let read = |mount: &RunMount| match mount {
            RunMount::Read(mount) => Ok(mount.clone()),
            other => Err(Error::new(ErrorKind::State, format!("a mount that was not read: {other:?}"))),
        };
        run.mounts.iter().map(read).collect()
    }

    /// What of the build's settings a RUN depends on, where they are not the usual ones.
    fn settings_of(&self, run: &Run) -> Result<String> {
        let mut text = String::new();
        for (name, address) in &self.build.hosts {
            let _ = write!(text, "--add-host={name}:{address} ");
        }
        for limit in &self.build.ulimits {
            let _ = write!(text, "--ulimit={limit} ");
        }
        if run.network == RunNetwork::Default && !self.network(run)?.is_host() {
            text.push_str("--network=none ");
        }
        if self.build.new_privileges && run.security != RunSecurity::Insecure {
            text.push_str("--security-opt=no-new-privileges=false ");
        }
        Ok(text)
    }

    fn network(&self, run: &Run) -> Result<Network> {
        match run.network {
            RunNetwork::None => Ok(Network::none()),
            RunNetwork::Host if self.build.network.is_host() || self.build.allow_host_network => {
                Ok(Network::host())
            }
            RunNetwork::Host => Err(Error::new(ErrorKind::PermissionDenied, "--network=host is not allowed")
                .with_remedy(
                    "Build::allow_host_network allows it where the build's own network is none: --allow network.host",
                )),
            _ => Ok(self.build.network.clone()),
        }
    }

    fn execute(
        &self,
        at: &At<'_>,
        run: &Run,
        words: &Words,
        mut mounted: Mounted,
        state: &Finished,
    ) -> Result<Option<Layer>> {
        let output = Arc::new(Output::new(&mounted));
        let mut given = std::mem::take(&mut mounted.given);
        given.no_volumes = true;
        // A proxy's address may have a password in it: none of them is written down.
        given.env = state
            .scope
            .env_of_run(state.env(), &self.given)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .chain(std::mem::take(&mut mounted.env))
            .collect();
        if let Some(script) = &words.script {
            let (target, bytes) = (SCRIPT.into(), script.as_bytes().into());
            given.files.push(MemoryFile { target, bytes, mode: 0o755, owner: (0, 0) });
        }
        let mut builder = Container::builder(&state.image)
            .entrypoint(words.executed())
            .hostname(HOSTNAME)
            .network(self.network(run)?)
            .no_new_privileges(!self.build.new_privileges)
            .limits(self.build.limits.clone())
            .given(given)
            .output_max(0);
        builder = mounted.binds.drain(..).fold(builder, ContainerBuilder::mount);
        builder =
            self.build.hosts.iter().fold(builder, |builder, (name, address)| builder.host(name, *address));
        if self.network(run)?.is_host() && !self.build.hosts.iter().any(|(name, _)| name == HOSTNAME) {
            // Else the host's name server would be asked for it.
            builder = builder.host(HOSTNAME, std::net::Ipv4Addr::LOCALHOST.into());
        }
        builder = self.build.ulimits.iter().cloned().fold(builder, ContainerBuilder::ulimit);
        if run.security == RunSecurity::Insecure {
            builder = builder
                .cap_add("ALL")
                .seccomp(Seccomp::Unconfined)
                .no_new_privileges(false)
                .masked_paths(Vec::<std::path::PathBuf>::new())
                .read_only_paths(Vec::<std::path::PathBuf>::new());
        }
        if let Some(left) = self.left() {
            builder = builder.timeout(left);
        }
        let (told, teller, taken) = (at.told.clone(), self.teller.clone(), output.clone());
        builder = builder.on_output(move |stream, bytes| {
            let bytes = taken.take(stream, Some(bytes));
            if !bytes.is_empty() {
                teller.tell(BuildEvent::Output { step: told.clone(), stream, bytes });
            }
        });
        let container = Arc::new(builder.create()?);
        self.tell(BuildEvent::Running { step: at.told.clone(), container: container.id().to_owned() });
        container.start()?;
        self.watch(&container);
        let ended = container.wait();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let bytes = output.take(stream, None);
            if !bytes.is_empty() {
                self.tell(BuildEvent::Output { step: at.told.clone(), stream, bytes });
            }
        }
        let status = match ended {
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(output.into_error(at.step.place(time_is_up())));
            }
            other => other?,
        };
        // The reason may be another stage's.
        self.check()?;
        if !status.success() {
            return Err(output.into_error(failed(at, &status)));
        }
        // Until the image with it is leased.
        let _writing = self.store.writing()?;
        let scan = |stream: &mut dyn Read| without_secrets(&mounted.secrets, stream);
        let scan: Option<Scan<'_>> = if mounted.secrets.is_empty() { None } else { Some(&scan) };
        let (layer, left_out) = container.difference(self.epoch, scan)?;
        for (path, why) in left_out {
            let text = format!("/{} is not in the image: {why}", path.display());
            self.teller.warn(Some(at.told.line), text);
        }
        match Arc::try_unwrap(container) {
            Ok(container) => container.remove()?,
            // The thread that would kill it has it at this moment, and lets go of it.
            Err(container) => drop(container),
        }
        Ok(layer)
    }
}

/// A secret that is in a layer is nobody's secret any more: there is to be no such layer, at no moment.
fn without_secrets(secrets: &[(String, Arc<[u8]>)], stream: &mut dyn Read) -> Result<()> {
    let most = secrets.iter().map(|(_, secret)| secret.len()).max().unwrap_or(0);
    let (mut held, mut found) = (Vec::new(), None);
    loop {
        let n = (&mut *stream).take(SCANNED).read_to_end(&mut held).call("reading a layer")?;
        if n == 0 {
            break;
        }
        // To the end of it also when one is found: who writes it is not to be stopped by another error.
        if found.is_none() {
            found = secrets.iter().find(|(_, secret)| is_in(secret, &held)).map(|(id, _)| id);
        }
        held.drain(..held.len().saturating_sub(most));
    }
    let Some(id) = found else { return Ok(()) };
    let error = Error::new(ErrorKind::PermissionDenied, format!("it leaves the secret {id:?} in its layer"));
    Err(error.with_remedy("use the secret where it is mounted, and write it nowhere else"))
}

fn failed(at: &At<'_>, status: &ExitStatus) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal} (exit code {})", status.shell_code()),
        (None, None) => format!("{status}"),
    };
    let memory = if status.oom_killed() { ", out of memory" } else { "" };
    let what = format!("RUN in step {} of {} has failed: {how}{memory}", at.told.number, at.told.of);
    let error = at.step.error(ErrorKind::Command, &what, "");
    match status.oom_killed() {
        true => error.with_remedy("raise the limit on memory (Build::limits)"),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_layer_is_found_wherever_it_is_cut() {
        let secrets = [("a".to_owned(), Arc::from(*b"12345678")), ("b".to_owned(), Arc::from([b'x'; 3000]))];
        let scan = |at: usize| {
            let mut layer = vec![0; 5 << 20];
            layer[at..at + 8].copy_from_slice(b"12345678");
            without_secrets(&secrets, &mut &layer[..])
        };
        for at in (0..16).map(|n| SCANNED as usize - n).chain([0, (5 << 20) - 8]) {
            assert_eq!(scan(at).unwrap_err().kind(), ErrorKind::PermissionDenied, "{at}");
        }
        assert!(without_secrets(&secrets, &mut &[0; 5000][..]).is_ok());
    }

    #[test]
    fn an_error_has_the_last_lines_and_no_escapes() {
        let text: String = (0..100).map(|line| format!("line {line}\n\n")).collect();
        let shown = last_lines(format!("{text}\u{1b}[2J{}", "x".repeat(1000)).as_bytes());
        assert_eq!(shown.lines().count(), LINES + 1);
        assert!(shown.starts_with("\n      > line 89\n") && !shown.contains('\u{1b}'));
        assert!(shown.ends_with('…') && shown.len() < 1000);
        assert_eq!(last_lines(b""), "");
    }
}
