//! What there is: repositories, tags, referrers (distribution-spec, "Content Discovery").
#![forbid(unsafe_code)]

use super::Shared;
use super::fault::{Fault, code};
use super::names::Repository;
use super::request::Head;
use super::response::Response;
use super::shelf::digest;
use crate::manifest::{DOCUMENT_MAX, media};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A page of a list, and where the next one is.
struct Page {
    items: Vec<String>,
    next: Option<String>,
}

/// The part of a list that a request wants; `n` entries at most, those after `last`.
fn page(head: &Head, all: BTreeSet<String>, path: &str) -> Result<Page, Fault> {
    let bad = |text: &str| Fault::new(400, code::UNSUPPORTED, format!("n={text:?}: not a number of entries"));
    let most = match head.parameter("n") {
        None => usize::MAX,
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map_err(|_| bad(text))?,
        Some(text) => return Err(bad(text)),
    };
    let last = head.parameter("last");
    let mut rest = all.into_iter().filter(|item| last.is_none_or(|last| item.as_str() > last));
    let items: Vec<_> = rest.by_ref().take(most).collect();
    let next = match (items.last(), rest.next()) {
        (Some(last), Some(_)) => Some(format!("<{path}?n={most}&last={last}>; rel=\"next\"")),
        _ => None,
    };
    Ok(Page { items, next })
}

fn linked(response: Response, next: Option<String>) -> Response {
    match next {
        Some(next) => response.with("Link", next),
        None => response,
    }
}

/// Repositories: docker's, as the specification has no such list.
pub(super) fn catalog(shared: &Shared, head: &Head) -> Result<Response, Fault> {
    let Page { items, next } = page(head, shared.shelf.repositories()?, "/v2/_catalog")?;
    Ok(linked(Response::json(200, &json!({"repositories": items})), next))
}

pub(super) fn tags(shared: &Shared, head: &Head, repository: &Repository) -> Result<Response, Fault> {
    let name = &repository.name;
    let tags = shared.shelf.tags(repository)?;
    let tags = tags.ok_or_else(|| Fault::new(404, code::NAME_UNKNOWN, format!("no repository {name}")))?;
    let Page { items, next } = page(head, tags, &format!("/v2/{name}/tags/list"))?;
    Ok(linked(Response::json(200, &json!({"name": name, "tags": items})), next))
}

/// Signatures, bills of materials and whatever else says that it belongs to a manifest.
pub(super) fn referrers(
    shared: &Shared,
    head: &Head,
    repository: &Repository,
    text: &str,
) -> Result<Response, Fault> {
    let subject = digest(text)?;
    let wanted = head.parameter("artifactType").filter(|kind| !kind.is_empty());
    // By digests, so that what is pushed meanwhile moves nothing.
    let last = head.parameter("last").map(digest).transpose()?;
    let all = shared.shelf.referrers(repository, &subject, |links| {
        last.is_none_or(|last| links.digest > last)
            && wanted.is_none_or(|wanted| links.artifact_type.as_deref() == Some(wanted))
    })?;
    let (mut manifests, mut bytes, mut next) = (Vec::<Value>::new(), 0, None);
    let mut before = None;
    for one in &all {
        // It may have been deleted since.
        let Some(descriptor) = shared.shelf.links(one)?.map(|links| links.referrer()) else { continue };
        bytes += descriptor.to_string().len() as u64 + 1;
        if let Some(before) = before
            && bytes > DOCUMENT_MAX - 1024
        {
            let filter = wanted.map(|kind| format!("artifactType={}&", encoded(kind))).unwrap_or_default();
            let path = format!("/v2/{}/referrers/{subject}", repository.name);
            next = Some(format!("<{path}?{filter}last={before}>; rel=\"next\""));
            break;
        }
        before = Some(*one);
        manifests.push(descriptor);
    }
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests});
    let response =
        Response::new(200).with("Content-Type", media::INDEX).bytes(index.to_string().into_bytes());
    let response = match wanted {
        Some(_) => response.with("OCI-Filters-Applied", "artifactType"),
        None => response,
    };
    Ok(linked(response, next))
}

/// For a query (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        match byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            true => all.push(char::from(byte)),
            false => all.push_str(&format!("%{byte:02X}")),
        }
        all
    })
}
