//! What whoever talks to a registry can say of it: the same words for each of them.
#![forbid(unsafe_code)]

/// The methods of a builder with the fields `credentials` and `settings`.
macro_rules! settings {
    ($builder:ty) => {
        impl $builder {
            /// Who to be. Without, it is who is logged in on this machine, as docker's and podman's files and their helper
            /// programs have it (`DOCKER_AUTH_CONFIG`, the text of such a file, else `REGISTRY_AUTH_FILE`, else
            /// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`), when the registry asks.
            pub fn credentials(mut self, credentials: Credentials) -> Self {
                self.credentials = Some(credentials);
                self
            }

            /// How many layers travel at once: 1 to 64, by default docker's 3 for a pull and 5 for a push. A zstd layer may have its
            /// reader remember 128 MiB; with gzip it is some kilobytes.
            pub fn parallel(mut self, layers: usize) -> Self {
                self.settings.parallel = layers.clamp(1, 64);
                self
            }

            /// How often a request is tried again that failed for what may pass: 429 and 5xx, a connection that broke. By
            /// default 4 times, at most 20, after 0.2 seconds and twice as long each time, or after what Retry-After says, at
            /// most a minute. For a download this counts anew with each megabyte that came; an upload begins anew.
            pub fn retries(mut self, times: u32) -> Self {
                self.settings.retries = times.min(20);
                self
            }

            /// How long the registry may take: by default a minute, at most a day. From it follows half of it to be connected, twice for
            /// an answer to begin and between any of its bytes, five times for a document (a manifest, a token). A blob has to go on
            /// at 4 KiB a second, on the average of this time. What takes longer is tried again, and then an error.
            pub fn patience(mut self, time: std::time::Duration) -> Self {
                self.settings.pace = crate::registry::pace::Pace::of(time);
                self
            }

            /// Speaks plain HTTP with this registry (`registry.lan:5000`), where anybody on the way can read what passes,
            /// passwords too, and change it. With this machine itself (`localhost`, 127.0.0.0/8, `::1`) it is plain HTTP by
            /// itself, unless there are certificates for it ([`root_certificates`](Self::root_certificates),
            /// [`client_certificate`](Self::client_certificate), [`certificates_in`](Self::certificates_in)): then it is TLS,
            /// and nothing less.
            pub fn plain_http(mut self, host: impl Into<String>) -> Self {
                self.settings.plain.push(host.into().to_ascii_lowercase());
                self
            }

            /// Trusts these certificates (PEM) beside the system's, whichever host shows one on the way: an authority's, or that of
            /// the server itself, also as `openssl req -x509` makes it, which is an authority's by its own words.
            pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
                self.settings.roots.push(pem.into());
                self
            }

            /// Shows this certificate to the registry's host when it asks for one in TLS, and to no other that it names: a chain,
            /// its own first, and the private key, both PEM.
            pub fn client_certificate(mut self, chain: impl Into<Vec<u8>>, key: impl Into<String>) -> Self {
                self.settings.client = Some((chain.into(), Secret::new(key)));
                self
            }

            /// Takes certificates for the registry's host, and no other, from a directory as docker, podman and skopeo know it
            /// (containers-certs.d(5)): `*.crt` to trust as [`root_certificates`](Self::root_certificates) are, `*.cert` with its
            /// `*.key` for [`client_certificate`](Self::client_certificate). Without, it is the directory that is named as the registry
            /// (`registry.lan:5000`) in `~/.config/containers/certs.d`, `/etc/containers/certs.d` or `/etc/docker/certs.d`,
            /// the first that is there.
            pub fn certificates_in(mut self, dir: impl Into<std::path::PathBuf>) -> Self {
                self.settings.certificates = Some(dir.into());
                self
            }
        }
    };
}

pub(super) use settings;
