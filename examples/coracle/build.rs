//! `build` and `builder prune`: images from Dockerfiles.
#![forbid(unsafe_code)]

#[cfg(feature = "build")]
mod output;
#[cfg(feature = "build")]
mod run;
#[cfg(feature = "build")]
mod steps;

use crate::args::{Args, Flag, flag, switch};
use crate::fail::{Result, usage};
use crate::format::{self, bytes, line};
use crate::moment;
use coracle::Store;

pub const BUILD: &[Flag] = &[
    flag("allow", "WHAT", "What a RUN may ask for: network.host, security.insecure"),
    flag("build-arg", "NAME[=VALUE]", "The value of an ARG, by default of the environment"),
    flag(
        "build-context",
        "NAME=DIR|docker-image://IMAGE",
        "A further place to copy from, or instead of a base of that name",
    ),
    flag(
        "cache-dir",
        "DIR",
        "Where cache mounts are, each a directory; to be kept and restored by whoever likes",
    ),
    flag("cache-from", "IMAGE", "An image of the store that is believed about what its steps gave"),
    switch("check", "Say what is not good in the Dockerfile, and build nothing"),
    flag("file", "FILE", "The Dockerfile (default: PATH/Dockerfile); - is stdin").short('f'),
    switch("force-rm", "Always so: nothing of a RUN that failed stays"),
    flag("iidfile", "FILE", "Write the image's id to this file"),
    flag("jobs", "N", "Work on so many stages at once (default: as many as there are processors)"),
    flag("label", "KEY=VALUE", "A label of the image"),
    flag("network", "NET", "Of each RUN: host (default) or none"),
    switch("load", "Always so: the image is in the store"),
    switch("no-cache", "Do every step anew"),
    flag(
        "output",
        "DIR|-|type=TYPE[,dest=PATH]",
        "The files as well: type local (a directory), tar; or the image: image, docker, oci (archives)",
    )
    .short('o'),
    flag("pids-limit", "N", "Processes and threads that each RUN may have (2048); -1 for no limit"),
    flag("platform", "OS/ARCH[/VARIANT]", "For this machine"),
    flag("progress", "TYPE", "auto (default), plain, tty or quiet"),
    flag("pull", "POLICY", "Ask the registry for bases: always, missing (default) or never").bare("always"),
    switch("quiet", "Print the image's id alone").short('q'),
    switch("rm", "Always so: nothing of a RUN stays but its files"),
    flag("secret", "id=ID[,src=FILE|,env=NAME]", "A secret for RUN --mount=type=secret"),
    flag("ssh", "ID[=SOCKET]", "An agent for RUN --mount=type=ssh (default: $SSH_AUTH_SOCK)"),
    flag("tag", "NAME[:TAG]", "A name for the image").short('t'),
    flag("target", "STAGE", "Build this stage (default: the last)"),
];

pub const PRUNE: &[Flag] = &[
    switch("all", "Always so: all that no limit keeps").short('a'),
    flag("filter", "until=TIME", "What was not used for that long: 24h"),
    switch("force", "Always so: nobody is asked").short('f'),
    flag("keep-storage", "SIZE", "Keep so much, what was used last first"),
];

#[cfg(feature = "build")]
pub fn build(store: &Store, args: &Args) -> Result<u8> {
    run::build(store, args)
}

#[cfg(not(feature = "build"))]
pub fn build(_: &Store, _: &Args) -> Result<u8> {
    Err(usage("build: this coracle can't: build it with --features build"))
}

pub fn prune(store: &Store, args: &Args) -> Result<u8> {
    let mut age = None;
    for (key, value) in crate::containers::filters(args)? {
        let time = (key == "until" || key == "unused-for").then(|| moment::duration(value)).flatten();
        age = Some(
            time.ok_or_else(|| usage(format!("invalid filter {:?}: until=24h", format!("{key}={value}"))))?,
        );
    }
    let keep = args.get("keep-storage")?.map(|text| bytes("keep-storage", text)).transpose()?;
    let pruned = store.prune_cache(age, keep)?;
    line(format!("Removed: {} steps, {} cache mounts", pruned.steps, pruned.mounts))?;
    line(format!("Total reclaimed space: {}", format::size(pruned.freed)))?;
    Ok(0)
}
