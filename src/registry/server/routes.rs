//! From a request to what it is about.
#![forbid(unsafe_code)]

use super::body::Body;
use super::fault::{Fault, code};
use super::request::Head;
use super::response::Response;
use super::users::Access;
use super::{Shared, blobs, lists, manifests};
use crate::registry::url::Url;
use serde_json::json;
use std::net::IpAddr;

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Base,
    Catalog,
    Tags(&'a str),
    Manifest(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Referrers(&'a str, &'a str),
}

/// Repositories have slashes, too: a path is read from its end.
fn route(path: &str) -> Option<Route<'_>> {
    let path = path.strip_prefix("/v2").filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
    match path {
        "" | "/" => return Some(Route::Base),
        "/_catalog" => return Some(Route::Catalog),
        _ => {}
    }
    let path = &path[1..];
    if let Some(repository) = path.strip_suffix("/tags/list") {
        return Some(Route::Tags(repository));
    }
    if let Some(repository) =
        path.strip_suffix("/blobs/uploads/").or_else(|| path.strip_suffix("/blobs/uploads"))
    {
        return Some(Route::Uploads(repository));
    }
    let (rest, last) = path.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    match kind {
        "manifests" => Some(Route::Manifest(repository, last)),
        "blobs" => Some(Route::Blob(repository, last)),
        "referrers" => Some(Route::Referrers(repository, last)),
        "uploads" => Some(Route::Upload(repository.strip_suffix("/blobs")?, last)),
        _ => None,
    }
}

/// Whether a Host header is one that nobody else can have lead here: no name, or this machine's own.
fn is_local(host: &str) -> bool {
    Url::of_domain(host, false).is_ok_and(|url| {
        let address = url.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&url.host);
        url.is_loopback() || address.parse::<IpAddr>().is_ok()
    })
}

pub(super) fn answer(shared: &Shared, head: &Head, body: &mut Body<'_>) -> Result<Response, Fault> {
    if shared.only_as_local && !head.header("host").is_none_or(is_local) {
        let what =
            "this registry answers to localhost and to addresses alone, unless it is told who may do what";
        return Err(Fault::new(421, code::DENIED, what));
    }
    let reads = matches!(head.method.as_str(), "GET" | "HEAD");
    let route = route(&head.path);
    // Of an upload nothing is to be read by whoever may not write it.
    let is_upload = matches!(route, Some(Route::Upload(..) | Route::Uploads(_)));
    let needed = if reads && !is_upload { Access::Read } else { Access::Write };
    // Before anything is said of what there is.
    shared.door.admit(head, needed)?;
    // A page of another site in somebody's browser can send requests to this machine, and its password with them.
    if !reads && head.header("origin").is_some() {
        return Err(Fault::new(403, code::DENIED, "a browser's page may not change a registry"));
    }
    let Some(route) = route else {
        return Err(Fault::new(404, code::UNSUPPORTED, "the registry has nothing there"));
    };
    let repository = |name: &str| shared.shelf.names.repository(name);
    match (head.method.as_str(), route) {
        ("GET" | "HEAD", Route::Base) => Ok(Response::json(200, &json!({}))),
        ("GET" | "HEAD", Route::Catalog) => lists::catalog(shared, head),
        ("GET" | "HEAD", Route::Tags(name)) => lists::tags(shared, head, &repository(name)?),
        ("GET" | "HEAD", Route::Referrers(name, digest)) => {
            lists::referrers(shared, head, &repository(name)?, digest)
        }
        ("GET" | "HEAD", Route::Manifest(name, which)) => manifests::get(shared, &repository(name)?, which),
        ("PUT", Route::Manifest(name, which)) => {
            manifests::put(shared, head, &repository(name)?, which, body)
        }
        ("DELETE", Route::Manifest(name, which)) => manifests::delete(shared, &repository(name)?, which),
        ("GET" | "HEAD", Route::Blob(name, digest)) => blobs::get(shared, head, &repository(name)?, digest),
        ("DELETE", Route::Blob(name, digest)) => blobs::delete(shared, &repository(name)?, digest),
        ("POST", Route::Uploads(name)) => blobs::post(shared, head, &repository(name)?, body),
        ("GET" | "HEAD", Route::Upload(name, id)) => blobs::status(shared, &repository(name)?, id),
        ("PATCH", Route::Upload(name, id)) => blobs::patch(shared, head, &repository(name)?, id, body),
        ("PUT", Route::Upload(name, id)) => blobs::put(shared, head, &repository(name)?, id, body),
        ("DELETE", Route::Upload(name, id)) => blobs::cancel(shared, &repository(name)?, id),
        (_, route) => {
            let allowed = match route {
                Route::Base | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
                Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
                Route::Blob(..) => "GET, HEAD, DELETE",
                Route::Uploads(_) => "POST",
                Route::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
            };
            Err(Fault::new(405, code::UNSUPPORTED, "not that").with("Allow", allowed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        for (path, expected) in [
            ("/v2/", Some(Route::Base)),
            ("/v2", Some(Route::Base)),
            ("/v2/_catalog", Some(Route::Catalog)),
            ("/v2/a/b/tags/list", Some(Route::Tags("a/b"))),
            ("/v2/a/manifests/1", Some(Route::Manifest("a", "1"))),
            ("/v2/blobs/manifests/blobs/uploads/", Some(Route::Uploads("blobs/manifests"))),
            ("/v2/a/blobs/uploads", Some(Route::Uploads("a"))),
            ("/v2/a/blobs/uploads/id", Some(Route::Upload("a", "id"))),
            ("/v2/a/blobs/sha256:0", Some(Route::Blob("a", "sha256:0"))),
            ("/v2/manifests/manifests/manifests", Some(Route::Manifest("manifests", "manifests"))),
            ("/v2/a/referrers/x", Some(Route::Referrers("a", "x"))),
            ("/v2/manifests/1", None),
            ("/v2/a/uploads/id", None),
            ("/v2x/a/manifests/1", None),
            ("/v1/", None),
            ("/", None),
            ("/v2/a", None),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }
}
