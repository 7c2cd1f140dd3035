//! A registry in this process that takes what is pushed, and does with it what a test has it do.

use super::server::*;
use coracle::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

#[derive(Default)]
pub struct Repository {
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// By tag and by digest: type and text.
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    uploads: BTreeSet<String>,
}

#[derive(Default)]
pub struct Writable(pub Mutex<BTreeMap<String, Repository>>);

fn error(status: u16, code: &str) -> Reply {
    Reply::new(status, format!(r#"{{"errors":[{{"code":"{code}","message":"as it is"}}]}}"#))
}

fn with_digest(reply: Reply, data: &[u8]) -> Reply {
    reply.with("Docker-Content-Digest", Digest::of(data).to_string())
}

/// The parameters of a query, for the values that these tests have.
pub fn parameters(path: &str) -> BTreeMap<String, String> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let plain =
        |text: &str| text.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace("%20", " ");
    pairs.map(|(name, value)| (name.to_owned(), plain(value))).collect()
}

impl Writable {
    /// What an honest registry says and does (distribution-spec).
    pub fn reply(&self, request: &Request) -> Reply {
        let mut repositories = self.0.lock().unwrap();
        let path = request.path.split('?').next().unwrap();
        let rest = path.strip_prefix("/v2/").unwrap_or_default();
        let (name, what) = ["/blobs/uploads/", "/blobs/", "/manifests/"]
            .iter()
            .find_map(|kind| rest.split_once(kind).map(|(name, what)| (name, (*kind, what))))
            .unwrap_or_default();
        let given = parameters(&request.path);
        match (request.method.as_str(), what) {
            ("POST", ("/blobs/uploads/", "")) => {
                if let (Some(digest), Some(from)) = (given.get("mount"), given.get("from"))
                    && let Some(blob) =
                        repositories.get(from).and_then(|from| from.blobs.get(digest)).cloned()
                {
                    let reply = with_digest(Reply::new(201, ""), &blob);
                    repositories.entry(name.into()).or_default().blobs.insert(digest.clone(), blob);
                    return reply;
                }
                let repository = repositories.entry(name.into()).or_default();
                let upload = format!("upload-{}", repository.uploads.len());
                repository.uploads.insert(upload.clone());
                // Relative, and with a query of its own.
                Reply::new(202, "").with("Location", format!("/v2/{name}/blobs/uploads/{upload}?state=a%2Fb"))
            }
            ("PUT", ("/blobs/uploads/", upload)) => {
                let repository = repositories.entry(name.into()).or_default();
                if !repository.uploads.contains(upload)
                    || given.get("state").is_none_or(|state| state != "a/b")
                {
                    return error(404, "BLOB_UPLOAD_UNKNOWN");
                }
                let digest = Digest::of(&request.bytes).to_string();
                if given.get("digest") != Some(&digest) {
                    return error(400, "DIGEST_INVALID");
                }
                repository.blobs.insert(digest, request.bytes.clone());
                with_digest(Reply::new(201, ""), &request.bytes)
            }
            ("PUT", ("/manifests/", at)) => {
                let repository = repositories.entry(name.into()).or_default();
                let raw = &request.bytes;
                let text: serde_json::Value = serde_json::from_slice(raw).unwrap();
                let digest = |of: &serde_json::Value| of["digest"].as_str().unwrap().to_owned();
                let blobs = text["layers"].as_array().into_iter().flatten().chain(text.get("config"));
                if blobs.map(digest).any(|digest| !repository.blobs.contains_key(&digest)) {
                    return error(400, "MANIFEST_BLOB_UNKNOWN");
                }
                let children = text["manifests"].as_array().into_iter().flatten();
                if children.map(digest).any(|digest| !repository.manifests.contains_key(&digest)) {
                    return error(400, "MANIFEST_UNKNOWN");
                }
                let media_type = request.header("content-type").unwrap().to_owned();
                assert_eq!(text["mediaType"], media_type);
                for at in [at.to_owned(), Digest::of(raw).to_string()] {
                    repository.manifests.insert(at, (media_type.clone(), raw.clone()));
                }
                with_digest(Reply::new(201, ""), raw)
            }
            ("GET" | "HEAD", ("/manifests/", at)) => {
                match repositories.get(name).and_then(|repository| repository.manifests.get(at)) {
                    Some((media_type, raw)) => {
                        with_digest(Reply::new(200, raw.clone()), raw).with("Content-Type", media_type)
                    }
                    None => error(404, "MANIFEST_UNKNOWN"),
                }
            }
            ("GET" | "HEAD", ("/blobs/", digest)) => {
                match repositories.get(name).and_then(|repository| repository.blobs.get(digest)) {
                    Some(blob) => with_digest(Reply::new(200, blob.clone()), blob),
                    None => error(404, "BLOB_UNKNOWN"),
                }
            }
            _ => error(405, "UNSUPPORTED"),
        }
    }
}
