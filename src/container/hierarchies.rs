//! /sys/fs/cgroup of a container, as docker has it: only what it is in itself, from its own group on down, read-only.
//!
//! With v2 alone that is the unified hierarchy. With v1 it is a small tmpfs with a directory for each hierarchy in which
//! the container has a group, and `unified` for v2 beside them; only where limits were asked for, as programs look there
//! for nothing else and each hierarchy is a filesystem to be made at each start. The others are left out: there it is in the group of
//! the program that started it, whose numbers are none of its business. The same hides the host's own from a container
//! that shares the host's network and with it /sys.
#![forbid(unsafe_code)]

use super::script::{Links, Script};
use crate::cgroup::Cgroup;
use crate::sys::plan::Cell;
use linux_raw_sys::general as n;
use std::ffi::CString;
use std::path::{Path, PathBuf};

const PLACE: &str = "sys/fs/cgroup";
const PLAIN: u32 = n::MOUNT_ATTR_NOSUID | n::MOUNT_ATTR_NODEV | n::MOUNT_ATTR_NOEXEC;

/// Where a container has groups of its own.
#[derive(Debug, Default)]
pub(super) struct Hierarchies {
    /// The controllers of each v1 hierarchy.
    pub v1: Vec<Vec<String>>,
    pub unified: bool,
}

impl Hierarchies {
    /// `asked`: the caller wants limits, beyond the default one on processes. `v1`: the host has such hierarchies.
    pub fn of(cgroup: Option<&Cgroup>, asked: bool, v1: bool) -> Self {
        let Some(cgroup) = cgroup.filter(|_| asked || !v1) else {
            return Self::default();
        };
        let v1 = cgroup.v1_controllers().filter(|controllers| !controllers.is_empty());
        Self { v1: v1.map(<[String]>::to_vec).collect(), unified: cgroup.v2_dir().is_some() }
    }

    /// Mounts them, in the cgroup namespace that begins at the container's groups. `covers` where the host's are seen else.
    pub fn mount(&self, s: &mut Script<'_>, root: Cell, covers: bool) {
        if self.v1.is_empty() && !self.unified && !covers {
            return;
        }
        s.during("mounting /sys/fs/cgroup");
        let absent = s.label();
        let place = s.open_in(root, Path::new(PLACE), Links::Refuse, Some(absent));
        if self.v1.is_empty() && self.unified {
            self.unified(s, place, Path::new(PLACE));
        } else {
            self.several(s, place);
        }
        s.place(absent);
    }

    fn unified(&self, s: &mut Script<'_>, target: Cell, path: &Path) {
        let fs = s.fsopen(c"cgroup2");
        let cgroup = s.fsmount(fs, "cgroup2", PLAIN | n::MOUNT_ATTR_RDONLY);
        s.attach(cgroup, target, &Path::new("/").join(path));
    }

    fn several(&self, s: &mut Script<'_>, place: Cell) {
        let inodes = 4 + self.v1.iter().map(|controllers| 2 + controllers.len() as u64).sum::<u64>();
        let tmpfs = s.tmpfs(4096, inodes, 0o755, None, PLAIN);
        // First of all: before Linux 6.15 nothing is attached to what lies nowhere itself.
        s.attach(tmpfs, place, Path::new("/sys/fs/cgroup"));
        for controllers in &self.v1 {
            let name = controllers.join(",");
            let target = directory(s, tmpfs, &name);
            let fs = s.fsopen(c"cgroup");
            for controller in controllers {
                let key = CString::new(controller.as_str()).unwrap_or_default();
                s.set_flag(fs, &key);
                if controllers.len() > 1 {
                    let (to, at) = (s.string(&name), s.string(controller));
                    s.op(n::__NR_symlinkat, "symlinkat", [to.into(), tmpfs.into(), at.into()])
                        .path(controller);
                }
            }
            let cgroup = s.fsmount(fs, "cgroup", PLAIN | n::MOUNT_ATTR_RDONLY);
            s.attach(cgroup, target, &Path::new("/").join(PLACE).join(&name));
        }
        if self.unified {
            let target = directory(s, tmpfs, "unified");
            self.unified(s, target, &Path::new(PLACE).join("unified"));
        }
        s.set_attributes(tmpfs, n::MOUNT_ATTR_RDONLY, None, false, Path::new("/sys/fs/cgroup"));
    }
}

fn directory(s: &mut Script<'_>, tmpfs: Cell, name: &str) -> Cell {
    let path: PathBuf = Path::new("/").join(PLACE).join(name);
    let at = s.string(name);
    s.op(n::__NR_mkdirat, "mkdirat", [tmpfs.into(), at.into(), 0o755.into()]).path(&path);
    s.open_in(tmpfs, Path::new(name), Links::Refuse, None)
}
