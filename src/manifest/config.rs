//! The configuration of an image (image-spec, `config.md`, and docker's fields beside it).
#![forbid(unsafe_code)]

use super::{History, null_is_default, nulls_are_empty, parse};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where commands are searched for where a configuration says nothing of it, as in docker.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The configuration of an image: for which machine it is, how its containers start, and what its layers are.
#[derive(Clone, Debug)]
pub struct ImageConfig(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raw: Vec<u8>,
    digest: Digest,
    parts: Parts,
}

#[derive(Debug, Deserialize)]
struct Parts {
    #[serde(default, deserialize_with = "null_is_default")]
    architecture: String,
    #[serde(default, deserialize_with = "null_is_default")]
    os: String,
    variant: Option<String>,
    created: Option<String>,
    author: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    config: Run,
    rootfs: RootFs,
    #[serde(default, deserialize_with = "null_is_default")]
    history: Vec<History>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

type Set = BTreeMap<String, serde::de::IgnoredAny>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "variables")]
    env: Vec<String>,
    #[serde(deserialize_with = "texts")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "texts")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    volumes: Set,
    #[serde(deserialize_with = "null_is_default")]
    exposed_ports: Set,
    #[serde(deserialize_with = "nulls_are_empty")]
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
    healthcheck: Option<Healthcheck>,
    shell: Option<Vec<String>>,
    #[serde(deserialize_with = "texts")]
    on_build: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    args_escaped: bool,
}

/// Go reads a null among texts as an empty one.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    let texts: Vec<Option<String>> = null_is_default(deserializer)?;
    Ok(texts.into_iter().map(Option::unwrap_or_default).collect())
}

/// Likewise, and what is empty is no variable.
fn variables<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    let variables: Vec<Option<String>> = null_is_default(deserializer)?;
    Ok(variables.into_iter().flatten().collect())
}

/// How docker asks a container whether it is well. Times are in nanoseconds, 0 means the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", argument, …]` or `["CMD-SHELL", command]`; empty: as in the base image.
    #[serde(deserialize_with = "texts")]
    pub test: Vec<String>,
    /// From one check to the next.
    #[serde(deserialize_with = "null_is_default")]
    pub interval: i64,
    /// How long one check may take.
    #[serde(deserialize_with = "null_is_default")]
    pub timeout: i64,
    /// How long after the start a failure does not count.
    #[serde(deserialize_with = "null_is_default")]
    pub start_period: i64,
    /// From one check to the next while starting.
    #[serde(deserialize_with = "null_is_default")]
    pub start_interval: i64,
    /// How many failures in a row make it unhealthy.
    #[serde(deserialize_with = "null_is_default")]
    pub retries: i64,
}

impl ImageConfig {
    pub(crate) fn parse(raw: Vec<u8>) -> Result<Self> {
        let parts: Parts = parse("image configuration", &raw)?;
        if parts.rootfs.diff_ids.len() > LAYERS_MAX {
            return Err(Error::new(ErrorKind::TooLarge, format!("image of more than {LAYERS_MAX} layers")));
        }
        Ok(Self(Arc::new(Inner { digest: Digest::of(&raw), raw, parts })))
    }

    /// A configuration for this machine with these layers and nothing else.
    pub(crate) fn new(diff_ids: &[Digest], history: Value, created: &str) -> Result<Self> {
        let platform = super::Platform::host();
        let value = json!({
            "created": created,
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        });
        Self::parse(super::encode(&value)?)
    }

    /// The same configuration, changed; what this crate does not know survives.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Self> {
        let mut value: Value = parse("image configuration", &self.0.raw)?;
        if !value["config"].is_object() {
            value["config"] = json!({});
        }
        change(&mut value)?;
        Self::parse(super::encode(&value)?)
    }

    pub(crate) fn raw(&self) -> &[u8] {
        &self.0.raw
    }

    /// The document without its layers and how it came to be.
    #[cfg(feature = "build")]
    pub(crate) fn settings(&self) -> Result<Value> {
        let mut value: serde_json::Map<String, Value> = parse("image configuration", &self.0.raw)?;
        value.retain(|field, _| !matches!(field.as_str(), "created" | "history" | "rootfs"));
        Ok(Value::Object(value))
    }

    /// The digest of the configuration: the image's id.
    pub(crate) fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// The whole document as it was written, JSON.
    pub fn json(&self) -> &str {
        // JSON that was parsed is UTF-8.
        std::str::from_utf8(&self.0.raw).unwrap_or_default()
    }

    /// The processor, in Go's words: `amd64`, `arm64`.
    pub fn architecture(&self) -> &str {
        &self.0.parts.architecture
    }

    /// The operating system: `linux`.
    pub fn os(&self) -> &str {
        &self.0.parts.os
    }

    /// The variant of the processor, such as `v8`.
    pub fn variant(&self) -> Option<&str> {
        self.0.parts.variant.as_deref()
    }

    #[cfg(any(feature = "registry", feature = "build"))]
    pub(crate) fn platform(&self) -> super::Platform {
        let Parts { architecture, os, variant, .. } = &self.0.parts;
        let (architecture, os, variant) = (architecture.clone(), os.clone(), variant.clone());
        super::Platform { architecture, os, variant, extra: Default::default() }
    }

    /// When the image was made, as it was written (RFC 3339).
    pub fn created(&self) -> Option<&str> {
        self.0.parts.created.as_deref()
    }

    /// Who made the image.
    pub fn author(&self) -> Option<&str> {
        self.0.parts.author.as_deref()
    }

    /// USER: a name or number, with `:group` where one is given; empty means root.
    pub fn user(&self) -> &str {
        &self.0.parts.config.user
    }

    /// ENV: `NAME=value`.
    pub fn env(&self) -> &[String] {
        &self.0.parts.config.env
    }

    /// ENTRYPOINT; empty where there is none.
    pub fn entrypoint(&self) -> &[String] {
        &self.0.parts.config.entrypoint
    }

    /// CMD; empty where there is none.
    pub fn cmd(&self) -> &[String] {
        &self.0.parts.config.cmd
    }

    /// WORKDIR; empty means `/`.
    pub fn working_dir(&self) -> &str {
        &self.0.parts.config.working_dir
    }

    /// VOLUME: the paths that get an anonymous volume.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        self.0.parts.config.volumes.keys().map(String::as_str)
    }

    /// EXPOSE: `80/tcp`.
    pub fn exposed_ports(&self) -> impl Iterator<Item = &str> {
        self.0.parts.config.exposed_ports.keys().map(String::as_str)
    }

    /// LABEL.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.0.parts.config.labels
    }

    /// STOPSIGNAL: a name or a number.
    pub fn stop_signal(&self) -> Option<&str> {
        self.0.parts.config.stop_signal.as_deref()
    }

    /// HEALTHCHECK.
    pub fn healthcheck(&self) -> Option<&Healthcheck> {
        self.0.parts.config.healthcheck.as_ref()
    }

    /// SHELL, for the shell form of a build's instructions.
    pub fn shell(&self) -> Option<&[String]> {
        self.0.parts.config.shell.as_deref()
    }

    /// ONBUILD: instructions for builds upon this image.
    pub fn on_build(&self) -> &[String] {
        &self.0.parts.config.on_build
    }

    /// Whether the command is one string with its own quoting (Windows).
    pub fn args_escaped(&self) -> bool {
        self.0.parts.config.args_escaped
    }

    /// The digests of the layers' uncompressed archives, lowest first.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.0.parts.rootfs.diff_ids
    }

    /// For each layer the digest of the stack up to it (image-spec, `config.md`, "Layer ChainID").
    pub(crate) fn chain_ids(&self) -> Vec<Digest> {
        let mut chain = None;
        let next = |diff_id: &Digest| {
            let id = match chain {
                None => *diff_id,
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            };
            chain = Some(id);
            id
        };
        self.diff_ids().iter().map(next).collect()
    }

    /// How the image came to be, oldest step first.
    pub fn history(&self) -> &[History] {
        &self.0.parts.history
    }
}

/// Overlayfs stacks 500, and below all layers lie the places to mount on: with more it is no image that could run.
const LAYERS_MAX: usize = 499;
