//! Blobs and their uploads (distribution-spec, "Pulling blobs", "Pushing blobs", "Deleting Blobs").
#![forbid(unsafe_code)]

use super::Shared;
use super::body::Body;
use super::fault::{Fault, code};
use super::names::Repository;
use super::pending::{Session, Upload};
use super::request::Head;
use super::response::{self, Response};
use super::shelf::digest;
use super::users::Access;
use crate::digest::Digest;
use std::fs::File;

fn unknown(digest: &Digest) -> Fault {
    Fault::new(404, code::BLOB_UNKNOWN, format!("no blob {digest} in this repository"))
}

/// Of a blob of a repository its size, and its file where that is wanted.
fn find(
    shared: &Shared,
    repository: &Repository,
    digest: &Digest,
    open: bool,
) -> Result<(Option<File>, u64), Fault> {
    if let Some(size) = shared.shelf.blob(repository, digest)? {
        let file = match open {
            // It may have gone this moment: then it is not there.
            true => shared.shelf.store.open_blob(digest).ok(),
            false => None,
        };
        if file.is_some() || !open {
            return Ok((file, size));
        }
    }
    if !open {
        let size = shared.pending.blob(Some(&repository.key()), digest).ok_or_else(|| unknown(digest))?;
        return Ok((None, size));
    }
    let (file, size) = shared.pending.open(&repository.key(), digest)?.ok_or_else(|| unknown(digest))?;
    Ok((Some(file), size))
}

pub(super) fn get(
    shared: &Shared,
    head: &Head,
    repository: &Repository,
    text: &str,
) -> Result<Response, Fault> {
    let digest = digest(text)?;
    let is_head = head.method == "HEAD";
    let (file, size) = find(shared, repository, &digest, true)?;
    // Whoever could push it and is told that it is there will not: it stays for a while.
    if is_head && shared.door.admit(head, Access::Write).is_ok() {
        shared.pending.keep(&repository.key(), &digest, size)?;
    }
    let Some(file) = file else { return Err(unknown(&digest)) };
    let tag = format!("\"{digest}\"");
    let answer = |status| {
        Response::new(status)
            .digest(&digest)
            .with("Content-Type", "application/octet-stream")
            .with("Accept-Ranges", "bytes")
            .with("ETag", &tag)
    };
    // A part of something else than the client has is of no use to it.
    let wanted = head.header("if-range").is_none_or(|known| known == tag);
    let range = head.header("range").filter(|_| wanted && !is_head).map(|range| parse_range(range, size));
    match range {
        None | Some(Range::Other) => {
            Ok(Response { body: response::Body::File { file, at: 0, length: size }, ..answer(200) })
        }
        Some(Range::Part { first, last }) => {
            let length = last - first + 1;
            let answer = answer(206).with("Content-Range", format!("bytes {first}-{last}/{size}"));
            Ok(Response { body: response::Body::File { file, at: first, length }, ..answer })
        }
        Some(Range::Outside) => Err(Fault::new(416, code::SIZE_INVALID, "the blob has no such part")
            .with("Content-Range", format!("bytes */{size}"))),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// From one byte to the other, which is part of it.
    Part { first: u64, last: u64 },
    /// Nothing of it is there.
    Outside,
    /// Several, another unit or no range at all: then all is sent (RFC 9110, 14.2).
    Other,
}

fn parse_range(text: &str, size: u64) -> Range {
    let number = |text: &str| -> Option<u64> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let Some((first, last)) = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Range::Other;
    };
    match (first, number(first), last, number(last)) {
        ("", _, _, Some(0)) => Range::Outside,
        ("", _, _, Some(_)) if size == 0 => Range::Outside,
        ("", _, _, Some(length)) => Range::Part { first: size.saturating_sub(length), last: size - 1 },
        (_, Some(first), "", _) if first < size => Range::Part { first, last: size - 1 },
        (_, Some(_), "", _) => Range::Outside,
        (_, Some(first), _, Some(last)) if first > last || first >= size => Range::Outside,
        (_, Some(first), _, Some(last)) => Range::Part { first, last: last.min(size - 1) },
        _ => Range::Other,
    }
}

pub(super) fn delete(shared: &Shared, repository: &Repository, text: &str) -> Result<Response, Fault> {
    let digest = digest(text)?;
    if shared.shelf.blob(repository, &digest)?.is_some() {
        let fault = Fault::new(405, code::UNSUPPORTED, "a manifest of this repository has it: delete that");
        return Err(fault.with("Allow", "GET, HEAD"));
    }
    match shared.pending.forget(&repository.key(), &digest) {
        true => Ok(Response::new(202)),
        false => Err(unknown(&digest)),
    }
}

/// Begins an upload; or has all of it at once, or mounts it from another repository.
pub(super) fn post(
    shared: &Shared,
    head: &Head,
    repository: &Repository,
    body: &mut Body<'_>,
) -> Result<Response, Fault> {
    let key = repository.key();
    if let Some(text) = head.parameter("mount")
        // What can't be had is uploaded; that says what is wrong with it.
        && let Ok(digest) = text.parse::<Digest>()
        && mount(shared, &key, &digest, head.parameter("from"))?
    {
        return Ok(created(repository, &digest));
    }
    let promised = head.parameter("digest").map(digest).transpose()?;
    let upload = shared.pending.begin(&key)?;
    let mut session = shared.pending.session(&upload)?;
    let Some(promised) = promised else {
        return Ok(location(Response::new(202), repository, &upload, session.size()));
    };
    // There is nobody who could go on with it.
    session.append(body).inspect_err(|_| session.cancel())?;
    session.finish(&promised)?;
    Ok(created(repository, &promised))
}

/// Whether a blob of another repository is now one that waits in this.
fn mount(shared: &Shared, key: &str, digest: &Digest, from: Option<&str>) -> Result<bool, Fault> {
    let size = match from {
        Some(from) => {
            let Ok(from) = shared.shelf.names.repository(from) else { return Ok(false) };
            match shared.shelf.blob(&from, digest)? {
                Some(size) => Some(size),
                None => shared.pending.blob(Some(&from.key()), digest),
            }
        }
        None => match shared.shelf.blob_anywhere(digest)? {
            Some(size) => Some(size),
            None => shared.pending.blob(None, digest),
        },
    };
    match size {
        Some(size) => Ok(shared.pending.keep(key, digest, size)?),
        None => Ok(false),
    }
}

pub(super) fn patch(
    shared: &Shared,
    head: &Head,
    repository: &Repository,
    id: &str,
    body: &mut Body<'_>,
) -> Result<Response, Fault> {
    let upload = shared.pending.upload(&repository.key(), id)?;
    let mut session = shared.pending.session(&upload)?;
    check_order(head, repository, &session, &upload, body)?;
    session.append(body)?;
    Ok(location(Response::new(202), repository, &upload, session.size()))
}

pub(super) fn put(
    shared: &Shared,
    head: &Head,
    repository: &Repository,
    id: &str,
    body: &mut Body<'_>,
) -> Result<Response, Fault> {
    let upload = shared.pending.upload(&repository.key(), id)?;
    let mut session = shared.pending.session(&upload)?;
    let promised = head.parameter("digest").ok_or_else(|| {
        Fault::new(400, code::DIGEST_INVALID, "an upload ends with the digest of all of it")
    })?;
    let promised = digest(promised)?;
    check_order(head, repository, &session, &upload, body)?;
    session.append(body)?;
    session.finish(&promised)?;
    Ok(created(repository, &promised))
}

/// A chunk begins where the last one ended, and is as long as it says.
fn check_order(
    head: &Head,
    repository: &Repository,
    session: &Session<'_>,
    upload: &Upload,
    body: &Body<'_>,
) -> Result<(), Fault> {
    let Some(text) = head.header("content-range") else { return Ok(()) };
    let number = |text: &str| -> Option<u64> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let range = text.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
    let Some((first, last)) = range.filter(|(first, last)| first <= last) else {
        return Err(Fault::new(
            400,
            code::BLOB_UPLOAD_INVALID,
            format!("Content-Range {text:?}: not FIRST-LAST"),
        ));
    };
    if first != session.size() {
        let what = format!("the next byte is {}, not {first}", session.size());
        let fault = Fault::new(416, code::BLOB_UPLOAD_INVALID, what);
        return Err(fault.with("Location", path(repository, upload)).with("Range", so_far(session.size())));
    }
    match body.length() {
        Some(length) if length.checked_sub(1) != Some(last - first) => {
            let what = format!("a body of {length} bytes for the range {text}");
            Err(Fault::new(400, code::SIZE_INVALID, what))
        }
        _ => Ok(()),
    }
}

pub(super) fn status(shared: &Shared, repository: &Repository, id: &str) -> Result<Response, Fault> {
    let upload = shared.pending.upload(&repository.key(), id)?;
    let session = shared.pending.session(&upload)?;
    Ok(location(Response::new(204), repository, &upload, session.size()))
}

pub(super) fn cancel(shared: &Shared, repository: &Repository, id: &str) -> Result<Response, Fault> {
    let upload = shared.pending.upload(&repository.key(), id)?;
    shared.pending.session(&upload)?.cancel();
    Ok(Response::new(204))
}

fn path(repository: &Repository, upload: &Upload) -> String {
    format!("/v2/{}/blobs/uploads/{}", repository.name, upload.id)
}

/// As docker's registry has it: for nothing it is the same as for one byte.
fn so_far(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn location(response: Response, repository: &Repository, upload: &Upload, size: u64) -> Response {
    response
        .with("Location", path(repository, upload))
        .with("Range", so_far(size))
        .with("Docker-Upload-UUID", &upload.id)
}

fn created(repository: &Repository, digest: &Digest) -> Response {
    Response::new(201).digest(digest).with("Location", format!("/v2/{}/blobs/{digest}", repository.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_blob() {
        let part = |first, last| Range::Part { first, last };
        for (text, size, expected) in [
            ("bytes=0-0", 10, part(0, 0)),
            ("bytes=2-5", 10, part(2, 5)),
            ("bytes=2-", 10, part(2, 9)),
            ("bytes=2-99", 10, part(2, 9)),
            ("bytes=-3", 10, part(7, 9)),
            ("bytes=-30", 10, part(0, 9)),
            ("bytes=10-", 10, Range::Outside),
            ("bytes=5-2", 10, Range::Outside),
            ("bytes=-0", 10, Range::Outside),
            ("bytes=-1", 0, Range::Outside),
            ("bytes=0-", 0, Range::Outside),
            ("bytes=0-1,3-4", 10, Range::Other),
            ("bytes=a-b", 10, Range::Other),
            ("bytes=-", 10, Range::Other),
            ("bytes=+1-2", 10, Range::Other),
            ("lines=1-2", 10, Range::Other),
            ("bytes=99999999999999999999-", 10, Range::Other),
        ] {
            assert_eq!(parse_range(text, size), expected, "{text} of {size}");
        }
    }
}
