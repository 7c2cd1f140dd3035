//! Files into containers and out of them: docker's rules, whatever the container is doing.

mod common;

#[path = "copy/attacks.rs"]
mod attacks;
#[path = "copy/kept.rs"]
mod kept;
#[path = "copy/peers.rs"]
mod peers;
#[path = "copy/places.rs"]
mod places;
#[path = "copy/rules.rs"]
mod rules;
#[path = "copy/streams.rs"]
mod streams;

use common::*;
use coracle::{Container, Image, Store};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// An image with nothing to execute in it.
fn empty(store: &Store) -> Image {
    let layer =
        tar([("etc/", Node::Dir), ("etc/motd", Node::File(b"ahoy")), ("way", Node::Link("/etc/../etc"))]);
    let archive = docker_archive(&[(&Fixture::of(vec![layer]), &["empty:1"])]);
    Image::load_reader(store, &archive[..]).unwrap().remove(0)
}

/// A container in each state that there is, and what it is called here.
fn everywhere(test: impl Fn(&Container)) {
    let image = host();
    let nothing = empty(image.store());
    let created = Container::builder(&nothing).command(["/none"]).create().unwrap();
    test(&created);
    let running = ready(&sh(&image, "echo; sleep 1000"));
    test(&running);
    let ended = sh(&image, "true").start().unwrap();
    ended.wait().unwrap();
    test(&ended);
    // What was written while it had ended is there when it runs again, and is not written over.
    ended.copy_in("/etc/passwd", "/again").unwrap();
    ended.start().unwrap();
    ended.wait().unwrap();
    assert_eq!(read(&ended, "/again"), fs::read_to_string("/etc/passwd").unwrap());
    // As another program has it that finds it in the store.
    let other = ready(&sh(&image, "echo; sleep 1000"));
    test(&image.store().container(other.id()).unwrap());
}

/// A file of the container.
#[track_caller]
fn read(container: &Container, path: &str) -> String {
    let mut archive = Vec::new();
    container.copying().follow(true).copy_out_tar(path, &mut archive).unwrap();
    let mut text = String::new();
    let mut archive = tar::Archive::new(&archive[..]);
    archive.entries().unwrap().next().unwrap().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// What an archive has, but for the directory that it is of: names with content or target.
fn listed(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let mut all: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let path = path.strip_prefix(".").unwrap_or(&path).display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            match entry.header().entry_type() {
                tar::EntryType::Directory => format!("{}/", path.trim_end_matches('/')),
                tar::EntryType::Symlink => {
                    format!("{path}->{}", entry.link_name().unwrap().unwrap().display())
                }
                tar::EntryType::Link => format!("{path}=={}", entry.link_name().unwrap().unwrap().display()),
                tar::EntryType::Fifo => format!("{path}|"),
                _ => format!("{path}={text}"),
            }
        })
        .filter(|line| line != "/")
        .collect();
    all.sort();
    all
}

/// The same of a directory of a container.
#[track_caller]
fn inside(container: &Container, dir: &str) -> Vec<String> {
    let mut archive = Vec::new();
    container.copying().copy_out_tar(format!("{dir}/."), &mut archive).unwrap();
    listed(&archive)
}

/// The same of a directory of this machine.
fn outside(dir: &Path) -> Vec<String> {
    fn walk(top: &Path, dir: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let shown = path.strip_prefix(top).unwrap().display().to_string();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_symlink() {
                all.push(format!("{shown}->{}", fs::read_link(&path).unwrap().display()));
            } else if meta.is_dir() {
                all.push(format!("{shown}/"));
                walk(top, &path, all);
            } else if meta.file_type().is_fifo() {
                all.push(format!("{shown}|"));
            } else {
                all.push(format!("{shown}={}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut all = Vec::new();
    walk(dir, dir, &mut all);
    all.sort();
    all
}

/// Owner and mode.
fn stat(path: &Path) -> (u32, u32, u32) {
    let meta = path.symlink_metadata().unwrap();
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}
