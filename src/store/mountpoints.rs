//! The lowest layer of every container: empty places for what is mounted into it.
//!
//! An image need not have `/proc` or `/etc/resolv.conf`. Made in the writable layer they would be part of its
//! difference, and cost a file each at each start; below all layers they cost nothing and hide nothing.
#![forbid(unsafe_code)]

use super::{DIRECTORY, Store};
use crate::error::{Call, Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags, fchmod, mkdirat, openat, renameat};
use rustix::io::Errno;
use std::path::PathBuf;

const NAME: &str = "mountpoints";
const DIRS: [&str; 4] = ["proc", "sys", "dev", "etc"];
const FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];

impl Store {
    /// Its directory; made by the first container of the store.
    pub(crate) fn mountpoints(&self) -> Result<PathBuf> {
        let path = self.path().join(NAME);
        match rustix::fs::statat(self.dir(), NAME, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(path),
            Err(Errno::NOENT) => self.make_mountpoints().map(|()| path),
            Err(errno) => Err(Error::os("fstatat", errno).with_path(path)),
        }
    }

    fn make_mountpoints(&self) -> Result<()> {
        let (dir, name) = self.new_tmp_dir()?;
        let whole = || -> Result<()> {
            // The modes of the container's directories, whatever the umask is.
            fchmod(&dir, Mode::from_raw_mode(0o755)).call_at("fchmod", NAME)?;
            for dir_name in DIRS {
                mkdirat(&dir, dir_name, Mode::RWXU).call_at("mkdirat", dir_name)?;
                let made = openat(&dir, dir_name, DIRECTORY, Mode::empty()).call_at("openat", dir_name)?;
                fchmod(made, Mode::from_raw_mode(0o755)).call_at("fchmod", dir_name)?;
            }
            for file in FILES {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let made = openat(&dir, file, flags, Mode::RUSR).call_at("openat(O_CREAT)", file)?;
                fchmod(made, Mode::from_raw_mode(0o644)).call_at("fchmod", file)?;
            }
            match renameat(self.tmp_dir(), &name, self.dir(), NAME) {
                // Another program was faster.
                Err(Errno::NOTEMPTY | Errno::EXIST) => self.remove_tree(self.tmp_dir(), &name),
                other => other.call_at("renameat", self.path().join(NAME)),
            }
        };
        whole().map_err(|error| {
            self.abandon(&name);
            error.during("making the places to mount on")
        })
    }
}
