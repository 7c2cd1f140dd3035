//! `serve`: the store as a registry.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::fail::Result;
use coracle::Store;

pub const SERVE: &[Flag] = &[
    flag("anonymous", "ACCESS", "What may be done without a password: none, read or write"),
    flag("htpasswd", "FILE", "Who may pull and push, a line NAME:HASH for each, as htpasswd -B writes it"),
    flag("listen", "ADDR:PORT", "Where to listen (default: 127.0.0.1:5000); port 0 is a free one"),
    switch("plain-http", "Take passwords of other machines without TLS: everybody on the way can read them"),
    flag("prefix", "NAME", "Serve only images whose names begin so, without it: registry.lan:5000/team"),
    switch("read-only", "Nobody pushes or deletes"),
    flag("tls-cert", "FILE", "Speak TLS with this certificate (PEM)"),
    flag("tls-key", "FILE", "and this private key (PEM)"),
];

#[cfg(not(feature = "registry"))]
pub fn serve(_: &Store, _: &Args) -> Result<u8> {
    Err(crate::fail::usage("this coracle can't serve: build it with --features registry"))
}

#[cfg(feature = "registry")]
pub fn serve(store: &Store, args: &Args) -> Result<u8> {
    use crate::fail::{context, usage};
    use crate::format::line;
    use coracle::{Access, Registry};
    use nix::sys::signal::{SigSet, Signal};
    use std::net::ToSocketAddrs;

    let read = |name: &str| -> Result<Option<Vec<u8>>> {
        let read = |path: &std::ffi::OsStr| {
            std::fs::read(path).map_err(context(format!("--{name} {}", path.display())))
        };
        args.raw(name).map(read).transpose()
    };
    let mut builder = Registry::builder();
    if let Some(text) = read("htpasswd")? {
        builder = builder.htpasswd(&String::from_utf8_lossy(&text), Access::Write)?;
    }
    match args.get("anonymous")? {
        None => {}
        Some("none") => builder = builder.anonymous(Access::None),
        Some("read") => builder = builder.anonymous(Access::Read),
        Some("write") => builder = builder.anonymous(Access::Write),
        Some(other) => return Err(usage(format!("--anonymous {other:?}: none, read or write"))),
    }
    let scheme = match (read("tls-cert")?, read("tls-key")?) {
        (None, None) => "http",
        (Some(certificate), Some(key)) => {
            builder = builder.tls(certificate, key);
            "https"
        }
        _ => return Err(usage("--tls-cert and --tls-key go together")),
    };
    if args.has("plain-http") {
        builder = builder.plain_http();
    }
    if args.has("read-only") {
        builder = builder.read_only();
    }
    if let Some(prefix) = args.get("prefix")? {
        builder = builder.prefix(prefix);
    }
    // Before there are threads, which have the mask of the one that made them.
    let ends = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    ends.thread_block().map_err(context("pthread_sigmask"))?;
    let listen = args.get("listen")?.unwrap_or("127.0.0.1:5000");
    let addrs = listen.to_socket_addrs().map_err(context(format!("--listen {listen}")))?;
    let registry = builder.serve(store, &addrs.collect::<Vec<_>>()[..])?;
    line(format!("Serving {} on {scheme}://{}", store.path().display(), registry.addr()))?;
    ends.wait().map_err(context("sigwait"))?;
    // A second one does not wait for what is under way.
    ends.thread_unblock().map_err(context("pthread_sigmask"))?;
    drop(registry);
    Ok(0)
}
