//! Media types: OCI's and docker's for the same things.
#![forbid(unsafe_code)]

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a registry is asked for.
#[cfg(feature = "registry")]
pub(crate) const DOCUMENTS: [&str; 4] = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// Layers of images; what ends otherwise (an artifact's content, an encrypted layer) is none of ours.
const LAYERS: [&str; 10] = [
    LAYER,
    LAYER_GZIP,
    LAYER_ZSTD,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    DOCKER_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

pub(crate) fn is_manifest(media_type: &str) -> bool {
    [MANIFEST, DOCKER_MANIFEST].contains(&media_type)
}

pub(crate) fn is_index(media_type: &str) -> bool {
    [INDEX, DOCKER_LIST].contains(&media_type)
}

/// What may be an image's configuration.
pub(crate) fn is_config(media_type: &str) -> bool {
    [CONFIG, DOCKER_CONFIG].contains(&media_type) || is_any_config(media_type)
}

/// What old registries and their clients have called the configurations of images (docker takes these,
/// distribution/distribution#1621), and others call anything else: it is one if it can be read as one.
pub(crate) fn is_any_config(media_type: &str) -> bool {
    ["application/octet-stream", "application/json", "text/html", ""].contains(&media_type)
}

/// Layers that are not pushed: they are where their `urls` say.
#[cfg(feature = "registry")]
pub(crate) fn is_elsewhere(media_type: &str) -> bool {
    is_layer(media_type) && (media_type.contains(".nondistributable.") || media_type.contains(".foreign."))
}

/// OCI's name for a kind of layer that docker has another for.
pub(crate) fn oci_layer(media_type: &str) -> &str {
    match media_type {
        DOCKER_LAYER => LAYER,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => LAYER_ZSTD,
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        }
        other => other,
    }
}

pub(crate) fn is_layer(media_type: &str) -> bool {
    LAYERS.contains(&media_type)
}

/// What an index may have beside manifests: BuildKit's caches are indexes of layers.
pub(crate) fn is_no_document(media_type: &str) -> bool {
    is_layer(media_type)
        || [CONFIG, DOCKER_CONFIG, "application/vnd.buildkit.cacheconfig.v0"].contains(&media_type)
}
