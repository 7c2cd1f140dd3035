//! Debian's buildah (1.28), with a directory of its own. It has its bases from a docker-registry on this machine, and reaches
//! nothing else: no network and no store of this machine's.

use super::common::distribution::Distribution;
use super::*;
use std::process::{Command, Output, Stdio};

/// A docker-registry with the images to build on.
pub struct Bases(Distribution);

impl Bases {
    pub fn serve() -> Self {
        let (registry, store) = (Distribution::start(""), bases::store());
        let bases = Self(registry);
        for name in [bases::BOX, bases::OTHER, bases::ONBUILD] {
            store.image(name).unwrap().push(&bases.name(name)).unwrap();
        }
        bases
    }

    /// What Dockerfiles have on localhost, which is no registry.
    fn name(&self, name: &str) -> String {
        format!("{}/{}", self.0.authority, name.strip_prefix("localhost/").unwrap())
    }
}

pub struct Buildah {
    dir: tempfile::TempDir,
}

impl Buildah {
    /// With the images to build on.
    pub fn new(bases: &Bases) -> Self {
        let buildah = Self { dir: tempfile::tempdir().unwrap() };
        // It looks for nobody's credentials on this machine.
        let nobody = buildah.dir.path().join("auth.json");
        fs::write(&nobody, "{}").unwrap();
        for name in [bases::BOX, bases::OTHER, bases::ONBUILD] {
            let there = bases.name(name);
            let auth = ["--authfile", nobody.to_str().unwrap()];
            buildah
                .run(&[&["pull", "--quiet", "--tls-verify=false"], &auth[..], &[&there]].concat())
                .unwrap();
            buildah.run(&["tag", &there, name]).unwrap();
        }
        buildah
    }

    fn command(&self, args: &[&str]) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = Command::new("buildah");
        command.arg("--root").arg(at("root")).arg("--runroot").arg(at("run"));
        command.args(["--storage-driver", "vfs"]).args(args);
        command.env("TMPDIR", self.dir.path()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Result<String, String> {
        let Output { status, stdout, stderr } = self
            .command(args)
            .output()
            .unwrap_or_else(|error| panic!("buildah: {error}; this test needs it"));
        if status.success() { Ok(text(&stdout)) } else { Err(format!("{}{}", text(&stdout), text(&stderr))) }
    }

    pub fn build(&self, case: &case::Case, context: &Path) -> Result<seen::Seen, String> {
        let scratch = tempfile::tempdir_in(self.dir.path()).unwrap();
        let name = format!("localhost/out/{}:1", case.name);
        let mut args =
            vec!["bud", "--quiet", "--isolation", "chroot", "--format", "docker", "--network", "host"];
        args.extend(["--pull-never", "--tag", &name]);
        let flags = case.flags(context, scratch.path());
        args.extend(flags.iter().map(String::as_str));
        self.run(&args)?;
        let archive = scratch.path().join("image.tar");
        self.run(&["push", "--quiet", &name, &format!("docker-archive:{}:{name}", archive.display())])?;
        Ok(seen::Seen::of_archive(&archive))
    }
}
