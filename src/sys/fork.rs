//! Knows whether this process is the one that made a handle, or a forked copy of it.
//!
//! A copy must not control what the original started (both would believe that they own it). A page that the
//! kernel wipes in a fork's child (`MADV_WIPEONFORK`, madvise(2)) tells them apart without a system call;
//! `getpid` would not: numbers come again, and it says nothing about what was copied.

use crate::error::{Call, Error, ErrorKind, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

/// The page of this process, or of the one it was forked from.
static CURRENT: AtomicPtr<AtomicU8> = AtomicPtr::new(std::ptr::null_mut());

/// One page, never unmapped: 1 in the process that made it, 0 in its forked copies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witness(&'static AtomicU8);

impl Witness {
    /// This process's witness.
    pub fn current() -> Result<Self> {
        // SAFETY: null or a page made below, which is never unmapped.
        if let Some(byte) = unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
            && byte.load(Ordering::Relaxed) == 1
        {
            return Ok(Self(byte));
        }
        // Two threads may both make one: either tells the truth.
        let new = Self::new()?;
        CURRENT.store(std::ptr::from_ref(new.0).cast_mut(), Ordering::Release);
        Ok(new)
    }

    fn new() -> Result<Self> {
        let len = rustix::param::page_size();
        // SAFETY: a new private mapping at an address of the kernel's choice; nothing else knows it.
        let page = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }
        .call("mmap")?;
        // SAFETY: the page just mapped, still empty.
        unsafe { madvise(page, len, Advice::LinuxWipeOnFork) }.call("madvise(MADV_WIPEONFORK)")?;
        // SAFETY: mapped, writable, never unmapped; a zeroed byte is a valid AtomicU8.
        let byte: &'static AtomicU8 = unsafe { &*page.cast::<AtomicU8>() };
        byte.store(1, Ordering::Relaxed);
        Ok(Self(byte))
    }

    /// Whether this is still the process that made it.
    pub fn is_here(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }

    pub fn check(&self) -> Result<()> {
        if self.is_here() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Gone, "this handle belongs to the process that this one was forked from")
            .with_remedy("open the container again with Store::container"))
    }
}
