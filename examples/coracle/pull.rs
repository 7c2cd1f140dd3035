//! `pull`, and what `run` and `create` pull: images from registries.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::fail::{Result, usage};
use coracle::{ErrorKind, Image, Store};

/// How a registry is reached.
pub const REACH: &[Flag] = &[
    flag("ca-file", "FILE", "Trust these certificates (PEM) beside the system's"),
    flag(
        "cert-dir",
        "DIR",
        "Take *.crt, *.cert and *.key from here (default: /etc/docker/certs.d/HOST and the like)",
    ),
    switch("plain-http", "Speak plain HTTP with the registry: everybody on the way can read and change all"),
    switch("tls-verify", "Certificates are always verified: false is an error"),
];

/// How an image comes from it.
pub const FROM: &[Flag] = &[
    flag(
        "mirror",
        "[REGISTRY=]HOST",
        "Ask this mirror before the image's registry, or REGISTRY; again for more",
    ),
    flag("parallel", "N", "Pull so many layers at once (default: 3)"),
];

pub const PULL: &[Flag] = &[
    flag("platform", "OS/ARCH[/VARIANT]", "For this machine, of an image for several"),
    switch("quiet", "Print the image's name alone").short('q'),
];

/// Of what makes a container.
pub const MISSING: &[Flag] = &[
    flag("platform", "OS/ARCH[/VARIANT]", "Pull an image for this machine, of one for several"),
    flag("pull", "POLICY", "When the registry is asked: missing (the default), always or never"),
    switch("quiet", "Show nothing of a pull").short('q'),
];

/// The image of a container, pulled where that is wanted.
pub fn wanted(store: &Store, args: &Args, name: &str) -> Result<Image> {
    let policy = args.get("pull")?.unwrap_or("missing");
    if !["missing", "always", "never"].contains(&policy) {
        return Err(usage(format!("--pull {policy:?}: missing, always or never")));
    }
    // An image of another machine under the name is not what was asked for, so the name alone does not do.
    let any = args.raw("platform").is_none();
    if policy != "always" && any {
        match store.image(name) {
            Err(error) if error.kind() == ErrorKind::NotFound && policy == "missing" && registries::THERE => {
            }
            other => return Ok(other?),
        }
        if !args.has("quiet") {
            eprintln!("Unable to find image '{name}' locally");
        }
    }
    registries::get(store, args, name, policy, std::io::stderr())
}

pub fn pull(store: &Store, args: &Args) -> Result<u8> {
    registries::pull(store, args, args.names()?[0])
}

#[cfg(not(feature = "registry"))]
pub fn not_there(name: &str) -> crate::fail::Fail {
    usage(format!("{name}: this coracle can't ask registries: build it with --features registry"))
}

#[cfg(all(feature = "registry", feature = "build"))]
pub use registries::reach;
#[cfg(feature = "registry")]
pub use registries::{ca_file, client};

#[cfg(not(feature = "registry"))]
mod registries {
    use super::*;

    pub const THERE: bool = false;

    pub fn get<W>(_: &Store, _: &Args, name: &str, _: &str, _: W) -> Result<Image> {
        Err(not_there(name))
    }

    pub fn pull(store: &Store, args: &Args, name: &str) -> Result<u8> {
        get(store, args, name, "always", ()).map(|_| 0)
    }
}

#[cfg(feature = "registry")]
mod registries {
    use super::*;
    use crate::fail::{context, fail};
    use crate::format::line;
    use crate::progress::Progress;
    use coracle::{Pull, PullEvent, PullPolicy, Reference, RegistryClient};
    use std::sync::{Arc, Mutex, PoisonError};

    pub const THERE: bool = true;

    /// Who may be in between can read, change and keep all that passes, so nothing turns that off: podman's flag has people
    /// do it for a registry whose certificate is their own, and that is what these are for.
    fn check_tls(args: &Args) -> Result<()> {
        match args.is_off("tls-verify") {
            true => Err(usage(
                "--tls-verify=false: certificates are always verified. --ca-file or --cert-dir have it trust one more, \
                 --plain-http does without TLS",
            )),
            false => Ok(()),
        }
    }

    /// Certificates to trust.
    pub fn ca_file(args: &Args) -> Result<Option<Vec<u8>>> {
        check_tls(args)?;
        let read = |path: &std::ffi::OsStr| {
            std::fs::read(path).map_err(context(format!("--ca-file {}", path.display())))
        };
        args.raw("ca-file").map(read).transpose()
    }

    /// A registry as a whole.
    pub fn client(args: &Args, host: &str) -> Result<RegistryClient> {
        let mut client = RegistryClient::new(host)?;
        if let Some(pem) = ca_file(args)? {
            client = client.root_certificates(pem);
        }
        if let Some(dir) = args.raw("cert-dir") {
            client = client.certificates_in(dir);
        }
        if args.has("plain-http") {
            client = client.plain_http();
        }
        Ok(client)
    }

    /// What a command line asks for, without anybody who is told.
    fn of(args: &Args, name: &str, policy: &str) -> Result<Pull> {
        let mut pull = Pull::new(name).policy(match policy {
            "always" => PullPolicy::Always,
            "never" => PullPolicy::Never,
            _ => PullPolicy::Missing,
        });
        if let Some(platform) = args.get("platform")? {
            pull = pull.platform(platform.parse()?);
        }
        if let Some(pem) = ca_file(args)? {
            pull = pull.root_certificates(pem);
        }
        if let Some(dir) = args.raw("cert-dir") {
            pull = pull.certificates_in(dir);
        }
        if let Some(layers) = args.number::<usize>("parallel")? {
            if layers == 0 {
                return Err(usage("--parallel 0: one at least"));
            }
            pull = pull.parallel(layers);
        }
        for mirror in args.all("mirror")? {
            pull = match mirror.split_once('=') {
                Some((registry, mirror)) => pull.mirror(registry, mirror),
                None => pull.mirror(name.parse::<Reference>()?.domain(), mirror),
            };
        }
        if args.has("plain-http") {
            pull = pull.plain_http(name.parse::<Reference>()?.domain());
        }
        Ok(pull)
    }

    /// How a build reaches the registries of its bases.
    #[cfg(feature = "build")]
    pub fn reach(args: &Args) -> Result<impl Fn(Pull) -> Pull + Send + Sync + 'static> {
        let pem = ca_file(args)?;
        let dir = args.raw("cert-dir").map(std::ffi::OsStr::to_owned);
        if args.has("plain-http") {
            return Err(usage(
                "--plain-http: which registry that is, a build can't tell: pull the image first",
            ));
        }
        Ok(move |mut pull: Pull| {
            if let Some(pem) = &pem {
                pull = pull.root_certificates(pem.clone());
            }
            if let Some(dir) = &dir {
                pull = pull.certificates_in(dir);
            }
            pull
        })
    }

    pub fn get(
        store: &Store,
        args: &Args,
        name: &str,
        policy: &str,
        out: impl Into<Progress>,
    ) -> Result<Image> {
        let pull = of(args, name, policy)?;
        if args.has("quiet") {
            return Ok(pull.run(store)?);
        }
        let reference = name.parse::<Reference>()?;
        let progress: Arc<Mutex<Progress>> = Arc::new(Mutex::new(out.into()));
        let (told, pulling) = (progress.clone(), reference.clone());
        let pull = pull.observe(move |event: &PullEvent| {
            told.lock().unwrap_or_else(PoisonError::into_inner).tell(&pulling, event);
        });
        let image = pull.run(store);
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.end();
        let image = image?;
        if policy != "always" && !progress.is_new() {
            return Ok(image);
        }
        progress.say(&format!("Digest: {}", crate::images::digest(&image, Some(&reference))?));
        let status = match progress.is_new() {
            true => "Downloaded newer image",
            false => "Image is up to date",
        };
        progress.say(&format!("Status: {status} for {}", reference.familiar()));
        progress.failed().map_or(Ok(image), |error| Err(fail(format!("writing the progress: {error}"))))
    }

    pub fn pull(store: &Store, args: &Args, name: &str) -> Result<u8> {
        get(store, args, name, "always", std::io::stdout())?;
        line(name.parse::<Reference>()?.to_string())?;
        Ok(0)
    }
}
