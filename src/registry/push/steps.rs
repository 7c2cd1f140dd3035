//! The steps of a push: the layers, the configuration, the manifest, and that it is remembered.
#![forbid(unsafe_code)]

use super::blob::{Blob, check_digest, is_there};
use super::pack::{packed, packed_type, rewritten};
use super::plan::Plan;
use super::{Push, PushEvent, Sent};
use crate::digest::Digest;
use crate::error::{Call, Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::Compression;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::registry::http::{Client, Method, Payload, stopped};
use crate::registry::origin::{Origins, remember, remember_packed, repository};
use crate::registry::pull::short;
use crate::registry::session::Session;
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Other repositories that a token is asked for; each makes the question longer.
const BESIDE_MAX: usize = 4;
/// What a registry says of a manifest whose blobs it has not (distribution-spec, "Error Codes").
const BLOB_UNKNOWN: [&str; 2] = ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"];

pub(super) fn run(push: &Push, image: &Image) -> Result<Descriptor> {
    let name: Reference = push.name.parse()?;
    let during = |error: Error| error.during(format!("pushing {} to {}", short(&name), name.domain()));
    pushed(push, image, &name).map_err(during)
}

fn pushed(push: &Push, image: &Image, name: &Reference) -> Result<Descriptor> {
    if image.is_host() {
        return Err(Error::new(ErrorKind::Unsupported, "the host image has no layers to be pushed")
            .with_remedy("import a root filesystem"));
    }
    let store = image.store();
    // What its entry in the index names stays, whoever removes it meanwhile.
    let _lease = store.lease_blob(&image.listed().digest)?;
    let plan = Plan::of(image)?;
    let origins = Origins::of(store)?;
    let beside = beside(&plan, &origins, name);
    let session = Session::new(Client::of(&push.settings, name.domain())?, name, push.credentials.clone())?
        .pushing(&beside);
    steps(push, image, name, &session, &plan, &origins, &beside)
        .map_err(|error| session.client().scrubbed(error))
}

fn steps(
    push: &Push,
    image: &Image,
    name: &Reference,
    session: &Session,
    plan: &Plan,
    origins: &Origins,
    beside: &[String],
) -> Result<Descriptor> {
    let store = image.store();
    let work = Work {
        push,
        store,
        session,
        origins,
        beside,
        packing: Mutex::default(),
        packs: plan.documents.len() == 1 && push.compression != Compression::None,
        sent: Mutex::default(),
        packed: Mutex::default(),
    };
    if let (Some(index), Some((manifest, _))) = (plan.in_place_of, plan.documents.last()) {
        push.tell(&PushEvent::OnePlatform { index, manifest: manifest.digest });
    }
    push.tell(&PushEvent::Started { layers: plan.layers.clone() });
    work.blobs(plan, false)?;
    let packed = work.packed();
    let documents = match packed.is_empty() {
        true => plan.documents.clone(),
        false => {
            let manifest = rewritten(image.manifest(), &packed)?;
            vec![(manifest.descriptor(), manifest.raw().to_vec())]
        }
    };
    let Some((top, _)) = documents.last() else {
        return Err(Error::new(ErrorKind::State, "an image without a manifest"));
    };
    let at = tag_or_digest(name, &top.digest)?;
    match work.documents(&documents, &at) {
        // It said that it had them.
        Err(Refused { error, blobs_unknown: true }) if work.some_were_not_sent() => {
            tracing::debug!(%error, %name, "blobs that the registry claims to have are sent");
            work.blobs(plan, true)?;
            work.documents(&documents, &at).map_err(|refused| refused.error)?;
        }
        other => other.map_err(|refused| refused.error)?,
    }
    let image = &image.listed().digest;
    let noted = match packed.is_empty() {
        true => remember(store, image, &repository(name)),
        false => remember_packed(store, image, push.compression, &packed),
    };
    if let Err(error) = noted {
        // It only spares work; the store may be for reading only.
        tracing::debug!(%error, %name, "what was pushed is not remembered");
    }
    Ok(Descriptor::new(&top.media_type, top.digest, top.size))
}

/// What the manifest is put under.
fn tag_or_digest(name: &Reference, digest: &Digest) -> Result<String> {
    match (name.digest(), name.tag()) {
        (Some(wanted), _) if wanted != digest => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("the image has the digest {digest} in a registry, not the one in its name"),
        )
        .with_remedy("name it with a tag")),
        (_, Some(tag)) => Ok(tag.to_owned()),
        (_, None) => Ok(digest.to_string()),
    }
}

/// The repositories that blobs may be mounted from, those with most of them first.
fn beside(plan: &Plan, origins: &Origins, name: &Reference) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for blob in plan.layers.iter().chain(&plan.configs) {
        for path in origins.beside(&blob.digest, name) {
            *counts.entry(path).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().take(BESIDE_MAX).map(|(path, _)| path.to_owned()).collect()
}

struct Work<'a> {
    push: &'a Push,
    store: &'a Store,
    session: &'a Session,
    origins: &'a Origins,
    beside: &'a [String],
    /// Whether plain layers are compressed.
    packs: bool,
    /// One of them at a time: all processors work on it already, and others are sent meanwhile.
    packing: Mutex<()>,
    /// What became of the blobs, by their digests in the store.
    sent: Mutex<BTreeMap<Digest, Sent>>,
    /// What stands for a plain layer in the registry.
    packed: Mutex<BTreeMap<Digest, Descriptor>>,
}

/// A manifest that the registry did not take.
struct Refused {
    error: Error,
    /// For the sake of blobs that it has not.
    blobs_unknown: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, blobs_unknown: false }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work<'_> {
    fn packed(&self) -> Vec<(Digest, Descriptor)> {
        locked(&self.packed).iter().map(|(digest, packed)| (*digest, packed.clone())).collect()
    }

    /// Whether there is any blob that only the registry's word is known of.
    fn some_were_not_sent(&self) -> bool {
        locked(&self.sent).values().any(|sent| *sent != Sent::Uploaded)
    }

    /// Has the registry get all blobs: the layers several at once, then the configurations. With `anew` it is sent what has not
    /// been yet.
    fn blobs(&self, plan: &Plan, anew: bool) -> Result<()> {
        self.each(&plan.layers, &|layer| {
            let digest = layer.digest;
            let sent = self.layer(layer, anew)?;
            self.push.tell(&PushEvent::Done { layer: digest, sent });
            Ok(())
        })?;
        for config in &plan.configs {
            self.blob(config, anew, &|_| ())
                .map_err(|error| error.during(format!("pushing the configuration {}", config.digest)))?;
        }
        Ok(())
    }

    /// Does the same for each, several at once. The first error ends all.
    fn each(&self, all: &[Descriptor], work: &(dyn Fn(&Descriptor) -> Result<()> + Sync)) -> Result<()> {
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let give_up = |error: Error| {
            // Others fail because they are stopped.
            locked(&failed).get_or_insert(error);
            self.session.client().stop();
        };
        let worker = || {
            while let Some(layer) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                if locked(&failed).is_some() {
                    return;
                }
                if let Err(error) = work(layer) {
                    return give_up(error.during(format!("pushing the layer {}", layer.digest)));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.push.settings.parallel.min(all.len()) {
                let thread = std::thread::Builder::new().name("coracle-push".into());
                if let Err(error) = thread.spawn_scoped(scope, worker).call("starting a thread") {
                    give_up(error);
                    break;
                }
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn layer(&self, layer: &Descriptor, anew: bool) -> Result<Sent> {
        let Descriptor { digest, .. } = *layer;
        let media_type = match self.packs && !self.origins.has(&digest) {
            true => packed_type(&layer.media_type, self.push.compression),
            false => None,
        };
        let Some(media_type) = media_type else {
            let size = layer.size;
            return self
                .blob(layer, anew, &|done| self.push.tell(&PushEvent::Bytes { layer: digest, done, size }));
        };
        if anew && locked(&self.sent).get(&digest) == Some(&Sent::Uploaded) {
            return Ok(Sent::Uploaded);
        }
        // What it became the last time may be there.
        if !anew
            && let Some((becomes, size)) = self.origins.packed(self.push.compression, &digest)
            && is_there(self.session, &becomes, size)?
        {
            locked(&self.packed).insert(digest, Descriptor::new(&media_type, becomes, size));
            locked(&self.sent).insert(digest, Sent::Exists);
            return Ok(Sent::Exists);
        }
        let (packed, file) = {
            let _turn = locked(&self.packing);
            let seen = |done| match self.session.client().is_stopped() {
                true => Err(stopped()),
                false => {
                    self.push.tell(&PushEvent::Packed { layer: digest, done, size: layer.size });
                    Ok(())
                }
            };
            packed(self.store, layer, &media_type, self.push.compression, &seen)
                .map_err(|error| error.during("compressing it"))?
        };
        let size = packed.size;
        let seen = |done| self.push.tell(&PushEvent::Bytes { layer: digest, done, size });
        let blob = Blob { session: self.session, file, digest: packed.digest, size, seen: &seen };
        let sent = blob.push(None, anew)?;
        locked(&self.packed).insert(digest, packed);
        locked(&self.sent).insert(digest, sent.clone());
        Ok(sent)
    }

    /// A blob of the store, as it is.
    fn blob(&self, descriptor: &Descriptor, anew: bool, seen: &(dyn Fn(u64) + Sync)) -> Result<Sent> {
        let Descriptor { digest, size, .. } = *descriptor;
        if anew && locked(&self.sent).get(&digest) == Some(&Sent::Uploaded) {
            return Ok(Sent::Uploaded);
        }
        let there = self.origins.beside(&digest, self.session.name());
        let from = there.into_iter().find(|path| self.beside.iter().any(|other| other == path));
        let blob = Blob { session: self.session, file: self.store.open_blob(&digest)?, digest, size, seen };
        let sent = blob.push(from, anew)?;
        locked(&self.sent).insert(digest, sent.clone());
        Ok(sent)
    }

    /// Puts manifests and indexes, by their digests, and the last one where the name says.
    fn documents(&self, documents: &[(Descriptor, Vec<u8>)], at: &str) -> std::result::Result<(), Refused> {
        for (n, (document, raw)) in documents.iter().enumerate() {
            let by_digest = document.digest.to_string();
            let at = if n + 1 == documents.len() { at } else { &by_digest };
            self.document(document, raw, at).map_err(|refused| {
                let error = refused.error.during(format!("pushing the manifest {}", document.digest));
                Refused { error, ..refused }
            })?;
        }
        Ok(())
    }

    fn document(&self, document: &Descriptor, raw: &[u8], at: &str) -> std::result::Result<(), Refused> {
        let payload = Payload { media_type: &document.media_type, size: raw.len() as u64, content: &raw };
        let url = self.session.url(&format!("manifests/{at}"));
        let answer = self.session.send(Method::Put(&payload), &url, &[])?;
        if matches!(answer.status, 200..=202 | 204) {
            check_digest(&answer, &document.digest)?;
            return Ok(());
        }
        let (error, codes) = self.session.client().refusal(answer);
        let blobs_unknown = codes.iter().any(|code| BLOB_UNKNOWN.contains(&code.as_str()));
        let error = match blobs_unknown {
            true => error.with_kind(ErrorKind::InvalidData).with_remedy(
                "the registry has been sent all blobs, or claims to have them: it needs looking after",
            ),
            false => error,
        };
        Err(Refused { error, blobs_unknown })
    }
}
