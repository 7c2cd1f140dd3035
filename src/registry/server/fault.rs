//! What a client is told that does not get what it asked for (distribution-spec, "Error Codes").
#![forbid(unsafe_code)]

use super::response::Response;
use crate::error::{Error, ErrorKind};
use serde_json::json;
use std::io;

/// The specification's codes.
pub(super) mod code {
    pub const BLOB_UNKNOWN: &str = "BLOB_UNKNOWN";
    pub const BLOB_UPLOAD_INVALID: &str = "BLOB_UPLOAD_INVALID";
    pub const BLOB_UPLOAD_UNKNOWN: &str = "BLOB_UPLOAD_UNKNOWN";
    pub const DENIED: &str = "DENIED";
    pub const DIGEST_INVALID: &str = "DIGEST_INVALID";
    pub const MANIFEST_BLOB_UNKNOWN: &str = "MANIFEST_BLOB_UNKNOWN";
    pub const MANIFEST_INVALID: &str = "MANIFEST_INVALID";
    pub const MANIFEST_UNKNOWN: &str = "MANIFEST_UNKNOWN";
    pub const NAME_INVALID: &str = "NAME_INVALID";
    pub const NAME_UNKNOWN: &str = "NAME_UNKNOWN";
    pub const SIZE_INVALID: &str = "SIZE_INVALID";
    pub const TOO_MANY: &str = "TOOMANYREQUESTS";
    pub const UNAUTHORIZED: &str = "UNAUTHORIZED";
    pub const UNSUPPORTED: &str = "UNSUPPORTED";
}

/// Why there is no answer, or which.
#[derive(Debug)]
pub(super) enum Fault {
    Answer {
        status: u16,
        code: &'static str,
        message: String,
        headers: Vec<(&'static str, String)>,
        /// Where the next request would begin is not known, or not worth waiting for.
        close: bool,
    },
    /// The client has gone, or is not worth an answer.
    Gone,
}

impl Fault {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self::Answer { status, code, message: message.into(), headers: Vec::new(), close: false }
    }

    /// What can't be understood: where it ends is not known either.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(400, code::UNSUPPORTED, message).closing()
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }

    pub(super) fn closing(mut self) -> Self {
        if let Self::Answer { close, .. } = &mut self {
            *close = true;
        }
        self
    }

    /// What became of reading from a client, or of writing to it.
    pub(super) fn of_connection(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::TimedOut {
            return Self::new(408, code::UNSUPPORTED, "the request took too long").closing();
        }
        tracing::debug!(%error, "a connection of the registry's");
        Self::Gone
    }

    /// The answer, and whether the connection ends with it; `None` where there is nobody to be told.
    pub(super) fn into_response(self) -> Option<(Response, bool)> {
        let Self::Answer { status, code, message, headers, close } = self else { return None };
        let body = json!({"errors": [{"code": code, "message": message}]});
        let mut response = Response::json(status, &body);
        response.headers.extend(headers);
        Some((response, close))
    }
}

/// What went wrong on this side. Its words are for this side, too: they name paths.
impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        tracing::warn!(%error, "the registry can't do what it was asked for");
        match error.kind() {
            ErrorKind::StorageFull => Self::new(507, code::DENIED, "no room for it").closing(),
            ErrorKind::TooLarge => {
                Self::new(413, code::DENIED, "the store has no room in its index").closing()
            }
            ErrorKind::ResourceExhausted | ErrorKind::OutOfMemory => {
                Self::new(503, code::TOO_MANY, "too much at once").with("Retry-After", "5").closing()
            }
            _ => Self::new(500, "UNKNOWN", "an error of the registry's own").closing(),
        }
    }
}
