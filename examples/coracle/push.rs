//! `push`: images to registries.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::fail::Result;
use coracle::Store;

pub const PUSH: &[Flag] = &[
    switch("all-tags", "All tags of the name that the store has").short('a'),
    flag("compression", "gzip|zstd|none", "For layers that the store has as plain archives (default: gzip)"),
    flag("parallel", "N", "Push so many layers at once (default: 5)"),
    switch("quiet", "Print the image's name alone").short('q'),
];

pub fn push(store: &Store, args: &Args) -> Result<u8> {
    registries::push(store, args, args.names()?[0])
}

#[cfg(not(feature = "registry"))]
mod registries {
    use super::*;

    pub fn push(_: &Store, _: &Args, name: &str) -> Result<u8> {
        Err(crate::pull::not_there(name))
    }
}

#[cfg(feature = "registry")]
mod registries {
    use super::*;
    use crate::fail::{fail, usage};
    use crate::format::line;
    use crate::images::has_tag;
    use crate::progress::Progress;
    use crate::pull::ca_file;
    use coracle::{Compression, Image, Push, PushEvent, Reference};
    use std::io::stdout;
    use std::sync::{Arc, Mutex, PoisonError};

    /// What a command line asks for, without anybody who is told.
    fn of(args: &Args, name: &Reference) -> Result<Push> {
        let mut push = Push::new(name.to_string()).compression(match args.get("compression")? {
            None | Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            Some("none") => Compression::None,
            Some(other) => return Err(usage(format!("--compression {other:?}: gzip, zstd or none"))),
        });
        if let Some(pem) = ca_file(args)? {
            push = push.root_certificates(pem);
        }
        if let Some(dir) = args.raw("cert-dir") {
            push = push.certificates_in(dir);
        }
        if let Some(layers) = args.number::<usize>("parallel")? {
            if layers == 0 {
                return Err(usage("--parallel 0: one at least"));
            }
            push = push.parallel(layers);
        }
        if args.has("plain-http") {
            push = push.plain_http(name.domain());
        }
        Ok(push)
    }

    /// The images of all tags of a name, by tag.
    fn all(store: &Store, name: &Reference) -> Result<Vec<(Reference, Image)>> {
        let mut found = Vec::new();
        for image in store.images()? {
            for other in image.references()? {
                if (other.domain(), other.path()) == (name.domain(), name.path()) && other.digest().is_none()
                {
                    found.push((other, image.clone()));
                }
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        match found.is_empty() {
            true => Err(fail(format!(
                "an image does not exist locally with the name {}/{}",
                name.domain(),
                name.path()
            ))),
            false => Ok(found),
        }
    }

    pub fn push(store: &Store, args: &Args, text: &str) -> Result<u8> {
        let name = text.parse::<Reference>()?;
        let images = match args.has("all-tags") {
            true if has_tag(text) || name.digest().is_some() => {
                return Err(fail("a tag can't be used with --all-tags"));
            }
            true => all(store, &name)?,
            // By its name: what could be the beginning of an id is none here.
            false => vec![(name.clone(), store.image(&name.to_string())?)],
        };
        if args.has("quiet") {
            for (name, image) in &images {
                of(args, name)?.run(image)?;
                line(name.to_string())?;
            }
            return Ok(0);
        }
        let progress = Arc::new(Mutex::new(Progress::from(stdout())));
        let shown = || progress.lock().unwrap_or_else(PoisonError::into_inner);
        if !args.has("all-tags") && !has_tag(text) && name.digest().is_none() {
            shown().say("Using default tag: latest");
        }
        shown().say(&format!("The push refers to repository [{}/{}]", name.domain(), name.path()));
        for (name, image) in &images {
            let told = progress.clone();
            let push = of(args, name)?.observe(move |event: &PushEvent| {
                told.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            });
            let pushed = push.run(image);
            shown().end();
            let pushed = pushed?;
            let digest = pushed.digest.to_string();
            let at = name.tag().unwrap_or(&digest);
            shown().say(&format!("{at}: digest: {digest} size: {}", pushed.size));
        }
        let failed = shown().failed();
        failed.map_or(Ok(0), |error| Err(fail(format!("writing the progress: {error}"))))
    }
}
