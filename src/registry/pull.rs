//! The steps of a pull: what is here, what the name leads to, its configuration, its layers, its name.
#![forbid(unsafe_code)]

use super::http::{Client, Settings};
use super::origin::repository;
use super::session::{Fetched, Session};
use super::{Pull, PullEvent, PullPolicy, layers};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, NESTING, check_layers, check_shape, entry, parse_config, publish_pulled};
use crate::manifest::{Descriptor, Document, ImageConfig, Manifest, ORIGIN_PLATFORM, Platform};
use crate::reference::Reference;
use crate::store::index::{name_of, origin_of};
use crate::store::{Lease, Store};

/// The file of which a byte is locked for each name that is being pulled.
const LOCKS: &str = "pulls";

pub(super) fn run(pull: &Pull, store: &Store) -> Result<Image> {
    let name: Reference = pull.name.parse()?;
    let during = |error: Error| error.during(format!("pulling {} from {}", short(&name), name.domain()));
    if pull.policy != PullPolicy::Always
        && let Some(image) = here(pull, store, &name).map_err(during)?
    {
        return called(pull, store, &name, image).map_err(during);
    }
    if pull.policy == PullPolicy::Never {
        return Err(Error::new(ErrorKind::NotFound, format!("no image {name:#} in the store"))
            .with_path(store.path())
            .with_remedy("pull it, with another policy than PullPolicy::Never"));
    }
    // Of two that want the same, one gets it and the other finds it.
    let lock = Lease::exclusive_byte_until(store.locks_dir(), LOCKS, number(&name), pull.settings.until);
    let lock = lock.map_err(during)?;
    let pulled = locked(pull, store, &name).map_err(during);
    drop(lock);
    // What is wrong is not kept. What is whole is, where only the way was bad: the next pull need not get it again.
    if let Err(error) = &pulled
        && !matches!(error.kind(), ErrorKind::Network | ErrorKind::TimedOut)
        && let Err(error) = store.collect_garbage()
    {
        tracing::warn!(%error, store = ?store.path(), "what a failed pull left stays until the next collection");
    }
    pulled
}

/// The repository and what of it, without the registry.
pub(super) fn short(name: &Reference) -> String {
    let whole = name.to_string();
    whole.strip_prefix(&format!("{}/", name.domain())).unwrap_or(&whole).to_owned()
}

/// A place in the file of locks. Two names of one place wait for each other, and no more.
fn number(name: &Reference) -> i64 {
    let hex = Digest::of(name.to_string().as_bytes()).hex();
    i64::from_str_radix(&hex[..15], 16).unwrap_or_default()
}

fn locked(pull: &Pull, store: &Store, name: &Reference) -> Result<Image> {
    let mut known = here(pull, store, name)?;
    if pull.policy == PullPolicy::Missing
        && let Some(image) = known
    {
        return called(pull, store, name, image);
    }
    // An image whose blobs are not all there is got again.
    known = known.filter(Image::is_whole);
    for (_, mirror) in pull.mirrors.iter().filter(|(of, _)| of == name.domain()) {
        let there = on_mirror(name, mirror)?;
        // Who one is to the registry is no mirror's business.
        let settings = Settings { client: None, certificates: None, ..pull.settings.clone() };
        let session = Session::new(Client::of(&settings, mirror)?, &there, None)?;
        match from(pull, store, name, &session, known.as_ref()) {
            Err(error) if is_of_registry(&error) => {
                tracing::warn!(%error, mirror, %name, "a mirror that does not have it as it should");
            }
            other => return other,
        }
    }
    let session = Session::new(Client::of(&pull.settings, name.domain())?, name, pull.credentials.clone())?;
    from(pull, store, name, &session, known.as_ref())
}

/// Where a mirror has what a name means.
fn on_mirror(name: &Reference, mirror: &str) -> Result<Reference> {
    let there = format!("{mirror}/{}", name.path()).parse::<Reference>().ok();
    there.filter(|there| there.domain() == mirror && there.path() == name.path()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("mirror {mirror:?}: not a registry's host with its port"))
    })
}

/// Whether another registry may do better.
fn is_of_registry(error: &Error) -> bool {
    use ErrorKind as K;
    matches!(
        error.kind(),
        K::Network
            | K::TimedOut
            | K::NotFound
            | K::PermissionDenied
            | K::InvalidData
            | K::Mismatch
            | K::TooLarge
            | K::Unsupported
    )
}

/// Pulls it from one registry, for the name, wherever that leads.
fn from(
    pull: &Pull,
    store: &Store,
    name: &Reference,
    session: &Session,
    known: Option<&Image>,
) -> Result<Image> {
    steps(pull, store, name, session, known).map_err(|error| session.client().scrubbed(error))
}

fn steps(
    pull: &Pull,
    store: &Store,
    name: &Reference,
    session: &Session,
    known: Option<&Image>,
) -> Result<Image> {
    let at = match name.digest() {
        Some(digest) => digest.to_string(),
        None => name.tag().unwrap_or_default().to_owned(),
    };
    if let Some(image) = known {
        // A digest leads to the same for ever.
        if name.digest().is_some() || session.head_manifest(&at)?.is_some_and(|found| image.is_from(&found)) {
            return called(pull, store, name, image.clone());
        }
    }
    let platform = pull.platform.clone().unwrap_or_else(Platform::host);
    let first = session.manifest(&at, None)?;
    // A registry need not answer a HEAD.
    if let Some(image) = known.filter(|image| image.is_from(&first.digest)) {
        return Ok(image.clone());
    }
    let origin = first.digest;
    let manifest = resolve(session, first, &platform)?;
    check_shape(&manifest)?;
    let config = session.document(manifest.config()).and_then(|raw| parse_config(&manifest, raw));
    let is_chosen = origin != *manifest.digest();
    let config = config
        .and_then(|config| suitable(config, pull.platform.as_ref(), is_chosen))
        .map_err(|error| error.during(format!("reading the configuration {}", manifest.config().digest)))?;
    check_layers(&manifest, &config)?;
    pull.tell(&PullEvent::Found { digest: *manifest.digest(), layers: manifest.layers().to_vec() });
    let _writing = store.writing()?;
    layers::pull(store, session, &manifest, &config, pull.settings.parallel, &|event| pull.tell(event))?;
    store.put_blob(config.raw())?;
    store.put_blob(manifest.raw())?;
    let name = name.digest().map_or_else(|| name.clone(), |digest| name.by_digest(*digest));
    publish_pulled(store, manifest, name, origin, &platform, repository(session.name()))
}

/// What the store had: where it was asked for by a digest, and is here from elsewhere, it is listed by that now.
fn called(pull: &Pull, store: &Store, name: &Reference, image: Image) -> Result<Image> {
    if let Some(digest) = name.digest()
        && pull.policy != PullPolicy::Never
    {
        // Also where a tag leads to it: that may move.
        let name = name.by_digest(*digest);
        let is_it = |listed: &Descriptor| {
            listed.digest == image.listed().digest && name_of(listed).as_ref() == Some(&name)
        };
        if !store.index()?.manifests.iter().any(is_it) {
            image.call(&name)?;
        }
    }
    Ok(image)
}

/// The image that the store has under a name, or by a digest that it came from, for the machine that is wanted.
fn here(pull: &Pull, store: &Store, name: &Reference) -> Result<Option<Image>> {
    let index = store.index()?;
    let is_of = |digest: &Digest, listed: &Descriptor| {
        listed.digest == *digest || origin_of(listed).as_ref() == Some(digest)
    };
    // A digest means the same in any repository; and one of an index may have led to several, each for another machine.
    let others = index.manifests.iter().filter(|listed| name.digest().is_some_and(|it| is_of(it, listed)));
    for listed in entry(&index, name).into_iter().chain(others) {
        match Image::from_listed(store, listed) {
            Ok(image) if is_wanted(pull, name, listed, &image) => return Ok(Some(image)),
            Ok(_) => {}
            // It is got again.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::Mismatch | ErrorKind::InvalidData
                ) =>
            {
                tracing::warn!(%error, %name, store = ?store.path(), "an image that can't be read");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether an image of the store is what a pull is for. Where no machine was named, that is this one if there was a choice; what
/// is for another machine and the only one that its name means, as what was loaded or built here, is taken as it is.
fn is_wanted(pull: &Pull, name: &Reference, listed: &Descriptor, image: &Image) -> bool {
    let (found, chosen) = (image.config().platform(), listed.annotations.get(ORIGIN_PLATFORM));
    let chosen = chosen.map(|chosen| chosen.parse::<Platform>().ok());
    let is_chosen =
        |wanted: &Platform| chosen.as_ref().is_some_and(|chosen| *chosen == Some(wanted.normal()));
    match &pull.platform {
        Some(wanted) if chosen.is_some() && !is_chosen(wanted) => found.is_for(wanted),
        Some(wanted) => may_be_for(&found, wanted, is_chosen(wanted)),
        None => {
            let had_choice = origin_of(listed).is_some() && name.digest() != Some(&listed.digest);
            let host = Platform::host();
            !had_choice || pull.policy == PullPolicy::Never || is_chosen(&host) || found.is_for(&host)
        }
    }
}

/// Whether an image does for the machine that was asked for by name. Some say nothing at all; and the index that it was chosen from
/// knows its variant, which many a configuration does not say.
fn may_be_for(found: &Platform, wanted: &Platform, is_chosen: bool) -> bool {
    let (own, other) = (found.normal(), wanted.normal());
    let is_same = (own.os, own.architecture) == (other.os, other.architecture);
    found.is_for(wanted) || found.architecture.is_empty() || is_chosen && is_same
}

/// Refuses an image of another machine than was asked for by name.
fn suitable(config: ImageConfig, wanted: Option<&Platform>, is_chosen: bool) -> Result<ImageConfig> {
    let Some(wanted) = wanted else { return Ok(config) };
    let found = config.platform();
    if may_be_for(&found, wanted, is_chosen) {
        return Ok(config);
    }
    Err(Error::new(ErrorKind::Unsupported, format!("the image is for {found}, not for {wanted}"))
        .with_remedy("pull it for the machine that it is for, or without naming one"))
}

/// The manifest of an image; of an index, the one for this machine.
fn resolve(session: &Session, first: Fetched, platform: &Platform) -> Result<Manifest> {
    let mut at = first;
    for _ in 0..NESTING {
        let Fetched { raw, digest } = at;
        match Document::parse(raw).map_err(|error| error.during(format!("reading the manifest {digest}")))? {
            Document::Manifest(manifest) => return Ok(*manifest),
            Document::Index(index) => {
                let child = index.choose(platform, &digest)?;
                at = session.manifest(&child.digest.to_string(), Some(child))?;
            }
        }
    }
    Err(Error::new(ErrorKind::InvalidData, "an index that leads to indexes only"))
}
