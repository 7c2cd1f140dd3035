//! The directories of tests/dockerfiles: each is a context with its Dockerfile, the file `expected` with the image that it is to
//! give, and maybe the file `case`, whose lines are what git does not keep and what a build is told:
//!
//! ```text
//! by hand: REASON                 `expected` is written by hand, as buildah can't build it or does it in another way than BuildKit
//! file PATH | target STAGE | arg NAME[=VALUE] | secret ID TEXT | build-context NAME DIR|docker-image://IMAGE
//! dir PATH | mode MODE PATH | link PATH TARGET | hard PATH OTHER | bytes PATH SIZE
//! tar PATH DIR                    an archive of that directory, compressed as its name says
//! ```

use super::*;
use coracle::BuildContext;
use std::os::unix::fs::PermissionsExt;

/// From the directory of the package, where tests are run.
const DIR: &str = "tests/dockerfiles";
const IMAGE: &str = "docker-image://";

pub struct Case {
    pub name: String,
    dir: PathBuf,
    lines: Vec<Vec<String>>,
}

impl Case {
    pub fn all() -> Vec<Self> {
        let mut all: Vec<_> =
            fs::read_dir(DIR).unwrap().map(|entry| Self::read(entry.unwrap().path())).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        if let Ok(name) = std::env::var("CORACLE_TEST_CASE") {
            all.retain(|case| case.name == name);
        }
        all
    }

    fn read(dir: PathBuf) -> Self {
        let text = match fs::read_to_string(dir.join("case")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.unwrap(),
        };
        let lines = text.lines().map(|line| line.splitn(3, ' ').map(str::to_owned).collect()).collect();
        Self { name: dir.file_name().unwrap().to_str().unwrap().to_owned(), dir, lines }
    }

    /// The lines that begin with this word: what follows, and what follows that.
    pub fn told(&self, word: &str) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.lines.iter().filter(move |line| line[0] == word);
        lines.map(|line| (line[1].as_str(), line.get(2).map_or("", String::as_str)))
    }

    pub fn is_by_hand(&self) -> bool {
        self.told("by").next().is_some()
    }

    pub fn file(&self) -> &str {
        self.told("file").next().map_or("Dockerfile", |(path, _)| path)
    }

    /// Whether its result stands on one of the images.
    pub fn has_base(&self) -> bool {
        let text = fs::read_to_string(self.dir.join(self.file())).unwrap();
        !text.lines().rfind(|line| line.starts_with("FROM ")).is_some_and(|line| line.ends_with(" scratch"))
    }

    pub fn expected(&self) -> String {
        fs::read_to_string(self.dir.join("expected")).unwrap()
    }

    pub fn bless(&self, expected: &str) {
        fs::write(self.dir.join("expected"), expected).unwrap();
    }

    /// Makes the context: the same modes whatever the umask was when git made the files.
    pub fn prepare(&self, context: &Path) {
        copy(&self.dir, context);
        for name in ["case", "expected"] {
            let _ = fs::remove_file(context.join(name));
        }
        let at = |path: &str| context.join(path);
        for line in &self.lines {
            let words: Vec<_> = line.iter().map(String::as_str).collect();
            match words[..] {
                ["dir", path] => {
                    fs::create_dir(at(path)).unwrap();
                    mode(&at(path), 0o755);
                }
                ["mode", bits, path] => mode(&at(path), u32::from_str_radix(bits, 8).unwrap()),
                ["link", path, target] => std::os::unix::fs::symlink(target, at(path)).unwrap(),
                ["hard", path, other] => fs::hard_link(at(other), at(path)).unwrap(),
                ["bytes", path, size] => {
                    let size: usize = size.parse().unwrap();
                    fs::write(at(path), (0..size).map(|n| (n % 251) as u8).collect::<Vec<_>>()).unwrap();
                    mode(&at(path), 0o644);
                }
                ["tar", path, dir] => {
                    fs::write(at(path), compressed(path, archive(&at(dir)))).unwrap();
                    mode(&at(path), 0o644);
                }
                ["by" | "file" | "target" | "arg" | "secret" | "build-context", ..] => {}
                _ => panic!("{}: {line:?}", self.name),
            }
        }
    }

    pub fn build(&self, context: &Path) -> Build {
        let mut build = Build::context(context).dockerfile(self.file());
        for (target, _) in self.told("target") {
            build = build.target(target);
        }
        for (arg, _) in self.told("arg") {
            if let Some((name, value)) = arg.split_once('=') {
                build = build.arg(name, value);
            }
        }
        for (id, text) in self.told("secret") {
            build = build.secret(id, text);
        }
        for (name, source) in self.told("build-context") {
            build = build.build_context(
                name,
                match source.strip_prefix(IMAGE) {
                    Some(image) => BuildContext::image(image),
                    None => BuildContext::dir(context.join(source)),
                },
            );
        }
        build
    }

    /// The same for `buildah bud` and `docker build`.
    pub fn flags(&self, context: &Path, scratch: &Path) -> Vec<String> {
        let mut flags = vec!["--file".into(), context.join(self.file()).to_str().unwrap().to_owned()];
        let mut add = |flag: &str, value: String| flags.extend([format!("--{flag}"), value]);
        for (target, _) in self.told("target") {
            add("target", target.into());
        }
        for (arg, _) in self.told("arg") {
            add("build-arg", arg.into());
        }
        for (id, text) in self.told("secret") {
            fs::write(scratch.join(id), text).unwrap();
            add("secret", format!("id={id},src={}", scratch.join(id).display()));
        }
        for (name, source) in self.told("build-context") {
            let source = if source.starts_with(IMAGE) {
                source.into()
            } else {
                context.join(source).display().to_string()
            };
            add("build-context", format!("{name}={source}"));
        }
        flags.push(context.to_str().unwrap().to_owned());
        flags
    }
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    mode(to, 0o755);
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
            let executable = entry.metadata().unwrap().permissions().mode() & 0o100 != 0;
            mode(&target, if executable { 0o755 } else { 0o644 });
        }
    }
}

/// What is in a directory, all owned by 5:6. Not itself: buildah gives where it is unpacked that owner and mode, docker does not. A file's second name is a hard link to the first.
fn archive(dir: &Path) -> Vec<u8> {
    let mut layer = bases::Layer::new();
    let mut names = BTreeMap::new();
    walk(&mut layer, &mut names, dir, "");
    layer.end()
}

fn walk(layer: &mut bases::Layer, names: &mut BTreeMap<u64, String>, dir: &Path, name: &str) {
    use std::os::unix::fs::MetadataExt;
    const OWNER: (u64, u64) = (5, 6);
    let bits = |metadata: &fs::Metadata| metadata.mode() & 0o7777;
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        let name = format!("{name}{}", entry.file_name().to_str().unwrap());
        if metadata.is_dir() {
            layer.dir(&name, bits(&metadata), OWNER);
            walk(layer, names, &path, &format!("{name}/"));
        } else if metadata.is_symlink() {
            layer.link(&name, OWNER, fs::read_link(path).unwrap().to_str().unwrap());
        } else if let Some(first) = names.get(&metadata.ino()) {
            layer.hard_link(&name, bits(&metadata), OWNER, first);
        } else {
            layer.file(&name, bits(&metadata), OWNER, &fs::read(path).unwrap());
            names.insert(metadata.ino(), name);
        }
    }
}

fn compressed(path: &str, plain: Vec<u8>) -> Vec<u8> {
    match path.rsplit_once('.').map(|(_, kind)| kind) {
        Some("tar") => plain,
        #[cfg(feature = "zstd")]
        Some("zst") => zstd(&plain),
        Some("bz2") => piped("bzip2", &plain),
        Some("xz") => piped("xz", &plain),
        _ => gzip(&plain),
    }
}

fn piped(program: &str, data: &[u8]) -> Vec<u8> {
    use std::io::{Seek, Write};
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(data).unwrap();
    input.rewind().unwrap();
    let output = std::process::Command::new(program).arg("-c").stdin(input).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; this test needs it"));
    assert!(output.status.success());
    output.stdout
}
