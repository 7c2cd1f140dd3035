//! Credential helpers: programs `docker-credential-NAME` in PATH that keep credentials where this machine keeps secrets
//! (docker-credential-helpers' README): `get`, `store` and `erase`, told by stdin and never by an argument, which everybody
//! on the machine could read.
//!
//! One is started as newuidmap is, by posix_spawn: nothing is forked in the host program, and only its own child is
//! waited for. Its stdin is a file in memory, so that one that does not read it blocks nobody and raises no SIGPIPE.
#![forbid(unsafe_code)]

use super::credentials::{Credentials, Kind};
use super::secret::Secret;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::sys::memfd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const SAYS_MAX: usize = 1 << 20;
const SHOWN_MAX: usize = 300;
/// It may ask a person for a password.
const TIME: Duration = Duration::from_secs(120);
/// The name that stands for "this is a token".
const TOKEN: &str = "<token>";

/// A helper by the name that docker's file has for it.
pub(super) struct Helper {
    program: String,
    until: Option<Instant>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    username: String,
    secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Tell<'a> {
    #[serde(rename = "ServerURL")]
    server: &'a str,
    username: &'a str,
    secret: &'a str,
}

impl Helper {
    pub(super) fn named(name: &str) -> Result<Self> {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(Error::new(
                ErrorKind::InvalidData,
                format!("credentials: {name:?} is no helper's name"),
            ));
        }
        Ok(Self { program: format!("docker-credential-{name}"), until: None })
    }

    /// It is not waited for after that.
    pub(super) fn until(self, until: Option<Instant>) -> Self {
        Self { until, ..self }
    }

    /// What it keeps for a registry; anonymous where that is nothing.
    pub(super) fn get(&self, key: &str) -> Result<Credentials> {
        let (said, status) = self.run("get", key.as_bytes())?;
        if let Ok(Told { username, secret }) = serde_json::from_slice(&said) {
            return Ok(match username.as_str() {
                TOKEN => Credentials::identity_token(secret),
                _ => Credentials::basic(username, secret),
            });
        }
        match status {
            _ if has_none(&said) => Ok(Credentials::anonymous()),
            Some(status) if !status.success() => Err(self.failed("get", &said, None)),
            // Who had no error to tell may have told a secret, in a form of its own.
            _ => Err(self.failed("get", b"what is no answer", None)),
        }
    }

    /// Has it keep these for a registry, in place of what it kept.
    pub(super) fn store(&self, key: &str, credentials: &Credentials) -> Result<()> {
        let (username, secret) = match &credentials.0 {
            // Nobody's can't be given to be kept.
            Kind::Anonymous => return Ok(()),
            Kind::Bearer(_) => {
                let what = format!("{} store: an access token, for which helpers have no form", self.program);
                return Err(Error::new(ErrorKind::Unsupported, what)
                    .with_remedy("log in with a name and a password, or with an identity token"));
            }
            Kind::Basic { user, password } => (user.as_str(), password),
            Kind::Refresh(token) => (TOKEN, token),
        };
        let tell = Tell { server: key, username, secret: secret.reveal() };
        let tell =
            serde_json::to_vec(&tell).map_err(|_| Error::new(ErrorKind::InvalidInput, "credentials"))?;
        let (said, status) = self.run("store", &tell)?;
        match done(&said, status) {
            true => Ok(()),
            false => Err(self.failed("store", &said, Some(secret))),
        }
    }

    /// Has it forget what it keeps for a registry: whether that was anything.
    pub(super) fn erase(&self, key: &str) -> Result<bool> {
        let (said, status) = self.run("erase", key.as_bytes())?;
        match done(&said, status) {
            true => Ok(true),
            false if has_none(&said) => Ok(false),
            false => Err(self.failed("erase", &said, None)),
        }
    }

    fn failed(&self, verb: &str, said: &[u8], secret: Option<&Secret>) -> Error {
        let said = String::from_utf8_lossy(said).trim().to_owned();
        let said = match secret {
            Some(secret) => secret.as_in_json().scrub(secret.scrub(said)),
            None => said,
        };
        let said: String = said.chars().take(SHOWN_MAX).collect();
        Error::new(ErrorKind::PermissionDenied, format!("{} {verb}: {said:?}", self.program))
            .with_remedy("unlock what keeps the credentials, or log in again")
    }

    /// What it says to an input, and how it ended where that can be known.
    fn run(&self, verb: &str, input: &[u8]) -> Result<(Vec<u8>, Option<ExitStatus>)> {
        let mut stdin = File::from(memfd::sealed("coracle-credentials", input, 0, false)?);
        stdin.seek(SeekFrom::Start(0)).call("lseek(memfd)")?;
        let mut command = Command::new(&self.program);
        command.arg(verb).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| {
            let error = Error::os("posix_spawn", error).with_path(&self.program);
            match error.kind() {
                ErrorKind::NotFound => error
                    .with_remedy("install this credential helper, or take it out of the file that names it"),
                _ => error,
            }
        })?;
        let deadline = Instant::now() + TIME;
        let deadline = self.until.map_or(deadline, |until| until.min(deadline));
        let said = listen(&mut child, deadline).map_err(|error| error.with_path(&self.program));
        if said.is_err() {
            let _ = child.kill();
        }
        // A host that ignores SIGCHLD or reaps everything leaves no status: what was said counts.
        let status = child.wait().ok();
        Ok((said?, status))
    }
}

/// The words of the helpers' own library, the same in all of them.
fn has_none(said: &[u8]) -> bool {
    String::from_utf8_lossy(said).contains("credentials not found")
}

/// Whether it did what it was told: then it says nothing.
fn done(said: &[u8], status: Option<ExitStatus>) -> bool {
    status.map_or_else(|| said.trim_ascii().is_empty(), |status| status.success())
}

fn listen(child: &mut Child, deadline: Instant) -> Result<Vec<u8>> {
    let Some(mut stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(Error::new(ErrorKind::TimedOut, "a credential helper that does not answer")),
            Err(rustix::io::Errno::INTR) => continue,
            other => other.call("poll")?,
        };
        match stdout.read(&mut buffer) {
            Ok(0) => return Ok(said),
            Ok(n) => said.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).call("read"),
        }
        if said.len() > SAYS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "a credential helper that says more than a megabyte",
            ));
        }
    }
}
