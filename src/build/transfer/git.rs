//! Git repositories as sources of ADD: `https://host/repository.git#ref:directory`, `git@host:repository`. The host's `git` gets
//! them; nothing of git is in this crate.
//!
//! Files have the time of the commit, and the mode of a checkout with the usual umask, so that a commit is the same layer anywhere.
#![forbid(unsafe_code)]

use super::super::disk::Disk;
use super::super::tree::clean;
use super::super::work::time_is_up;
use crate::dockerfile::Ignore;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::layer::Mtime;
use crate::store::{Lease, Store};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

const SHOWN_MAX: usize = 500;

/// Of the list of a remote's references; it has millions at most.
const SAID_MAX: u64 = 256 << 20;

/// Runs a command in a process group that is killed when its input ends, which is when this program closes it or is gone: git and
/// what it starts may else wait for a silent server for good. A terminal gives it errors, and stops nobody. The last line of the
/// errors is its status.
const WATCHED: &str = "\
trap '' TTIN TTOU
exec 3<&0 </dev/null
{ read -r _ <&3; kill -s KILL 0; } >/dev/null 2>&1 &
\"$@\" 3<&-
printf '\\n%s\\n' $? >&2
exec 2>/dev/null
kill -s KILL $!
";

const OF_A_HOOK: [&str; 9] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_WORK_TREE",
];

/// A repository, and what of it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GitSource {
    /// For git, without what follows a `#` or a `?`.
    pub(super) remote: String,
    /// A branch, a tag or a commit; the remote's default where it is empty.
    pub(super) reference: String,
    /// Empty: all of it.
    pub(super) directory: String,
    /// A commit that it has to be.
    pub(super) checksum: Option<String>,
    pub(super) keep_git_dir: Option<bool>,
    pub(super) submodules: bool,
    /// The end of the build's time.
    pub(super) until: Option<Instant>,
}

impl GitSource {
    /// As BuildKit's dfgitutil has it; `None` for what is a local path, or the URL of a file.
    pub(super) fn parse(source: &str) -> Result<Option<Self>> {
        let (before, fragment) = source.split_once('#').unwrap_or((source, ""));
        let (remote, query) = before.split_once('?').unwrap_or((before, ""));
        let is_git = match remote.split_once("://") {
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => rest.ends_with(".git"),
                "ssh" | "git" => true,
                _ => false,
            },
            None => is_scp(remote),
        };
        if !is_git {
            return Ok(None);
        }
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut git = Self {
            remote: remote.to_owned(),
            reference: reference.to_owned(),
            directory: directory.to_owned(),
            checksum: None,
            keep_git_dir: None,
            submodules: true,
            until: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            git.take(pair).map_err(|why| {
                Error::new(ErrorKind::InvalidInput, format!("{source}: {why} in the address of a repository"))
            })?;
        }
        let (directory, leads_out) = clean(git.directory.as_bytes());
        if leads_out {
            let what = format!("{source}: a directory outside of the repository");
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        git.directory = String::from_utf8_lossy(&directory).into_owned();
        // git takes neither for an option then.
        if git.remote.starts_with('-') || git.reference.starts_with('-') {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{source}: no name of a repository")));
        }
        Ok(Some(git))
    }

    fn take(&mut self, pair: &str) -> Result<(), String> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let mut reference = |value: String| {
            if !self.reference.is_empty() && self.reference != value {
                return Err(format!("two references, {:?} and {value:?},", self.reference));
            }
            self.reference = value;
            Ok(())
        };
        let is = |value: &str| match value {
            "" | "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(format!("{value:?}, which is neither true nor false,")),
        };
        let full = |prefix: &str| match value.starts_with(prefix) {
            true => value.to_owned(),
            false => format!("{prefix}{value}"),
        };
        match name {
            "ref" => reference(value.to_owned())?,
            "tag" => reference(full("refs/tags/"))?,
            "branch" => reference(full("refs/heads/"))?,
            "subdir" if self.directory.is_empty() || self.directory == value => {
                self.directory = value.to_owned();
            }
            "subdir" => return Err("two directories".into()),
            "checksum" | "commit" => self.checksum = Some(value.to_owned()),
            "keep-git-dir" => self.keep_git_dir = Some(is(value)?),
            "submodules" => self.submodules = is(value)?,
            // Times are the commit's anyway.
            "mtime" if ["checkout", "commit"].contains(&value) => {}
            "fetch-by-commit" => _ = is(value)?,
            _ => return Err(format!("{pair:?}")),
        }
        Ok(())
    }

    /// As an error may show it: without a token or a password.
    pub(super) fn shown(&self) -> String {
        super::remote::shown(&self.remote)
    }

    fn is_commit(text: &str) -> bool {
        (text.len() == 40 || text.len() == 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
    }

    /// The commit that it means now.
    pub(super) fn commit(&self) -> Result<String> {
        let commit = match Self::is_commit(&self.reference) {
            true => self.reference.to_ascii_lowercase(),
            false => self.remote_commit()?,
        };
        match &self.checksum {
            Some(promised) if promised.len() < 7 || !commit.starts_with(&promised.to_ascii_lowercase()) => {
                let what =
                    format!("{}: its commit is {commit} and not the promised {promised}", self.shown());
                Err(Error::new(ErrorKind::Mismatch, what))
            }
            _ => Ok(commit),
        }
    }

    fn remote_commit(&self) -> Result<String> {
        let wanted = if self.reference.is_empty() { "HEAD" } else { &self.reference };
        let said = self.run(None, &["ls-remote", "--", &self.remote])?;
        let lines: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once('\t')).collect();
        // An annotated tag is an object of its own; with `^{}` it is its commit.
        let names = [
            format!("{wanted}^{{}}"),
            wanted.to_owned(),
            format!("refs/heads/{wanted}"),
            format!("refs/tags/{wanted}^{{}}"),
            format!("refs/tags/{wanted}"),
            format!("refs/{wanted}"),
        ];
        let found = names.iter().find_map(|name| lines.iter().find(|(_, other)| other == name));
        match found {
            Some((commit, _)) if Self::is_commit(commit) => Ok((*commit).to_owned()),
            _ => Err(Error::new(ErrorKind::NotFound, format!("{}: no reference {wanted:?}", self.shown()))
                .with_remedy("name a branch, a tag, or a commit with all of its digits")),
        }
    }

    /// Its files, in a directory of the store that goes with them.
    pub(super) fn checkout(&self, store: &Store, commit: &str, keep_git_dir: bool) -> Result<Checkout> {
        let (lease, name) = store.new_tmp_dir()?;
        let path = store.path().join("tmp").join(&name);
        let temporary = Temporary { store: store.clone(), name, _lease: lease };
        let run = |arguments: &[&str]| self.run(Some(&path), arguments);
        let format = if commit.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        run(&["init", "--quiet", "--template=", format])?;
        run(&["remote", "add", "--", "origin", &self.remote])?;
        // Few servers refuse a commit by itself; those are asked for all.
        if run(&["fetch", "--quiet", "--depth=1", "--", "origin", commit]).is_err() {
            run(&["fetch", "--quiet", "--tags", "--", "origin"])?;
        }
        run(&["-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit, "--"])?;
        if self.submodules && path.join(".gitmodules").symlink_metadata().is_ok() {
            run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])?;
        }
        let time = run(&["show", "--no-patch", "--format=%ct", commit, "--"])?;
        let secs = time.trim().parse().map_err(|_| {
            Error::new(ErrorKind::InvalidData, format!("{}: a commit without a time", self.shown()))
        })?;
        let patterns: &[&str] = if keep_git_dir { &[] } else { &["**/.git"] };
        let disk = Disk::open(&path, Ignore::new(patterns)?, None)?.with_time(Mtime { secs, nanos: 0 });
        Ok(Checkout { disk, _temporary: temporary })
    }

    fn run(&self, directory: Option<&Path>, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("/bin/sh");
        // Nobody is asked for a password, nothing of the repository is executed, and no submodule is a repository of this host.
        command
            .args(["-c", WATCHED, "sh", "git"])
            .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0"])
            .args(["-c", "core.autocrlf=false", "-c", "protocol.ext.allow=never"])
            .args(["-c", "protocol.file.allow=user"])
            .args(["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60"])
            .args(arguments)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("LC_ALL", "C")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A hook of somebody's repository has them for its own.
        for name in OF_A_HOOK {
            command.env_remove(name);
        }
        if let Some(directory) = directory {
            command.current_dir(directory);
        }
        let verb = arguments.iter().find(|word| !word.starts_with('-') && !word.contains('='));
        let step = format!("git {} of {}", verb.unwrap_or(&"-"), self.shown());
        let ran = Ran::run(command, self.until).map_err(|error| error.during(step.clone()))?;
        let said = String::from_utf8_lossy(&ran.err).replace(&self.remote, &self.shown());
        // The shell's last line.
        let (said, status) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
        let said: String =
            said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_MAX).collect();
        match status {
            "0" => Ok(String::from_utf8_lossy(&ran.out).into_owned()),
            "127" => Err(Error::new(ErrorKind::Unsupported, format!("{step}: {said}"))
                .with_remedy("install git, or get the repository and COPY it")),
            _ => Err(Error::new(ErrorKind::Network, format!("{step}: {said}")).with_remedy(
                "try it by hand; a private repository wants what git itself uses: a key, or a credential helper",
            )),
        }
    }
}

/// What a program has written.
struct Ran {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Ran {
    fn run(mut command: Command, until: Option<Instant>) -> Result<Self> {
        let mut child =
            command.spawn().map_err(|error| Error::os("posix_spawn", error).with_path("/bin/sh"))?;
        // As long as it is open, the program runs.
        let mut alive = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ran = std::thread::scope(|scope| {
            let (done, ended) = std::sync::mpsc::channel::<()>();
            let done = [done.clone(), done];
            let [of_out, of_err] = done;
            let out = scope.spawn(move || {
                let _done = of_out;
                read(stdout)
            });
            let err = scope.spawn(move || {
                let _done = of_err;
                read(stderr)
            });
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // Nothing is ever sent: both have ended, or the time has.
            let is_late = match left {
                Some(left) => ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout),
                None => ended.recv().is_ok(),
            };
            if is_late {
                drop(alive.take());
            }
            let panicked = |_| Error::new(ErrorKind::State, "a thread that reads has panicked");
            let ran = Self { out: out.join().map_err(panicked)??, err: err.join().map_err(panicked)?? };
            if is_late { Err(time_is_up()) } else { Ok(ran) }
        });
        drop(alive);
        // What it said tells how it ended; a host that reaps everything leaves no status.
        let _ = child.wait();
        ran
    }
}

fn read(from: Option<impl Read>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(mut from) = from {
        from.by_ref().take(SAID_MAX).read_to_end(&mut all).call("read")?;
        // What is more is not kept.
        std::io::copy(&mut from, &mut std::io::sink()).call("read")?;
    }
    Ok(all)
}

/// `git@host:repository`, as ssh has it.
fn is_scp(text: &str) -> bool {
    let Some((host, path)) = text.split_once(':') else { return false };
    let Some((user, host)) = host.split_once('@') else { return false };
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    is_name(user) && is_name(host) && !path.is_empty() && !path.starts_with("//")
}

/// The files of a commit.
pub(super) struct Checkout {
    pub(super) disk: Disk,
    _temporary: Temporary,
}

struct Temporary {
    store: Store,
    name: String,
    _lease: Lease,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.store.abandon(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(source: &str) -> Option<(String, String, String)> {
        let git = GitSource::parse(source).unwrap()?;
        Some((git.remote, git.reference, git.directory))
    }

    /// What dfgitutil's test table has of forms, and which of them ADD takes.
    #[test]
    fn addresses_of_repositories() {
        for (source, expected) in [
            ("https://github.com/foo/bar.git", Some(("https://github.com/foo/bar.git", "", ""))),
            ("https://example.com/foo.git#main:a/b", Some(("https://example.com/foo.git", "main", "a/b"))),
            ("https://example.com/foo.git#:/a/../b/", Some(("https://example.com/foo.git", "", "b"))),
            ("git@github.com:foo/bar.git#v1", Some(("git@github.com:foo/bar.git", "v1", ""))),
            ("git@github.com:foo/bar", Some(("git@github.com:foo/bar", "", ""))),
            ("ssh://user@host:22/foo", Some(("ssh://user@host:22/foo", "", ""))),
            ("git://host/foo", Some(("git://host/foo", "", ""))),
            ("https://e.com/f.git?tag=v1&subdir=x", Some(("https://e.com/f.git", "refs/tags/v1", "x"))),
            ("https://e.com/f.git?branch=main", Some(("https://e.com/f.git", "refs/heads/main", ""))),
            ("https://example.com/foo.tar.gz", None),
            ("https://example.com/foo", None),
            ("github.com/foo/bar", None),
            ("./foo.git", None),
            ("../foo.git", None),
            ("foo.git", None),
            ("a:b", None),
        ] {
            let expected = expected
                .map(|(remote, reference, dir)| (remote.to_owned(), reference.to_owned(), dir.to_owned()));
            assert_eq!(parsed(source), expected, "{source}");
        }
        for bad in [
            "https://e.com/f.git?what=x",
            "https://e.com/f.git?tag=a&branch=b",
            "https://e.com/f.git?keep-git-dir=perhaps",
            "https://e.com/f.git#main:../../x",
            "https://e.com/f.git#--upload-pack=x",
        ] {
            assert_eq!(GitSource::parse(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    #[ignore = "needs git"]
    fn an_error_shows_no_token() {
        let source = GitSource::parse("http://me:a-token@127.0.0.1:1/x.git#main").unwrap().unwrap();
        let error = source.commit().unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("http://***@127.0.0.1:1/x.git") && !shown.contains("a-token"), "{shown}");
    }

    #[test]
    #[ignore = "needs git"]
    fn a_commit_is_checked_out_with_its_time_and_without_git() {
        let origin = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.args(["-c", "user.name=me", "-c", "user.email=me@example.com"]).args(arguments);
            command.env("GIT_COMMITTER_DATE", "1700000000 +0000").env("GIT_AUTHOR_DATE", "1600000000 +0000");
            let out = command.current_dir(origin.path()).output().unwrap();
            assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        git(&["init", "--quiet", "--initial-branch=main"]);
        std::fs::create_dir(origin.path().join("sub")).unwrap();
        std::fs::write(origin.path().join("sub/file"), "one\n").unwrap();
        git(&["add", "."]);
        git(&["commit", "--quiet", "-m", "one"]);
        git(&["tag", "-m", "first", "v1"]);
        let first = git(&["rev-parse", "HEAD"]);
        std::fs::write(origin.path().join("sub/file"), "two\n").unwrap();
        git(&["commit", "--quiet", "-am", "two"]);
        let second = git(&["rev-parse", "HEAD"]);

        let mut source = GitSource::parse("https://example.com/x.git").unwrap().unwrap();
        source.remote = origin.path().to_str().unwrap().to_owned();
        assert_eq!(source.commit().unwrap(), second);
        for (reference, commit) in
            [("v1", &first), ("main", &second), ("refs/heads/main", &second), (&first, &first)]
        {
            source.reference = reference.to_owned();
            assert_eq!(source.commit().unwrap(), *commit, "{reference}");
        }
        source.checksum = Some(second.clone());
        assert_eq!(source.commit().unwrap_err().kind(), ErrorKind::Mismatch);
        source.reference = "nothing".to_owned();
        assert_eq!(source.commit().unwrap_err().kind(), ErrorKind::NotFound);

        let store = Store::temp().unwrap();
        let checkout = source.checkout(&store, &first, false).unwrap();
        let mut tree = &checkout.disk;
        use super::super::super::tree::Tree;
        let names: Vec<_> = tree.list(b"").unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [b"sub"]);
        let file = tree.find(b"sub/file").unwrap().unwrap();
        assert_eq!((file.entry.mode, file.entry.size), (0o644, 4));
        assert_eq!(file.entry.mtime, Mtime { secs: 1_700_000_000, nanos: 0 });
        drop(checkout);
    }
}
