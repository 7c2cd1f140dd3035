//! A registry over a store: its images for docker, podman, skopeo or a cluster, and theirs for it (OCI distribution-spec 1.1).
//!
//! ```text
//! connection ─▶ head ─▶ route ─▶ who ─▶ what is asked for ─▶ answer
//! `connections`  `request`  `routes`  `users`  `blobs`, `manifests`, `lists`
//!                                         └ `shelf`: the store's index; `pending`: what waits for a manifest
//! ```
//! **Names.** A repository is an image's name as people write it, without its tag (`names`). What is pushed is an image of the
//! store from then on, and unpacked when it is first used; a manifest without a tag is there under its digest. Artifacts are
//! served and are no images.
//!
//! **Nothing is believed.** Digests are compared in the one pass that streams a blob, and what is not right leaves nothing.
//! Nothing of a request becomes a path. A blob without a manifest is in no index and in no layout: it waits in an inbox of this
//! server's, which ends with it, and which no collection touches. All that a client may send, hold or wait for is bounded.
//!
//! **Threads** are blocking: one that accepts, and one for each connection. All have ended when the handle is dropped.
#![forbid(unsafe_code)]

mod blobs;
mod body;
mod connections;
mod fault;
mod links;
mod lists;
mod manifests;
mod names;
mod pending;
mod request;
mod response;
mod routes;
mod shelf;
mod socket;
mod tls;
mod users;

pub use users::Access;

use crate::error::{Call, Error, ErrorKind, Result};
use crate::store::Store;
use crate::sys::fork::Witness;
use connections::Acceptor;
use names::Names;
use pending::Pending;
use rustls::ServerConfig;
use shelf::Shelf;
use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use users::{Door, Users};

/// What all connections of a registry share.
struct Shared {
    shelf: Shelf,
    pending: Pending,
    door: Door,
    /// Whether it answers only to names of this machine.
    only_as_local: bool,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
}

#[derive(Clone, Debug)]
struct Limits {
    connections: usize,
    header_bytes: usize,
    header_time: Duration,
    silence: Duration,
    blob_bytes: u64,
    uploads: usize,
    upload_time: Duration,
    grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 100,
            header_bytes: 16 << 10,
            header_time: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            blob_bytes: 32 << 30,
            uploads: 1000,
            upload_time: Duration::from_secs(3600),
            grace: Duration::from_secs(10),
        }
    }
}

/// A registry that serves a store, for as long as this value lives.
///
/// What `coracle images` shows as `me/app:1` is pulled as `HOST:PORT/me/app:1`, and what is pushed there is shown so. Images
/// of other registries have these in their repository: `HOST:PORT/quay.io/me/app:1`. Only names with a port in them need
/// a [prefix](RegistryBuilder::prefix).
///
/// A pushed image is one of the store's when its manifest has come, and all that leads to it was there; it is unpacked when it
/// is first used. A manifest that has no tag, or none any more, is there under its digest until it is deleted or
/// [pruned](Store::prune_images); an artifact (a signature, a bill of materials) until it is deleted. Several registries and
/// programs may use one store at once; an upload goes on only with the registry that it began with.
///
/// ```
/// use coracle::{Image, Import, Registry, Store};
/// let (here, there) = (Store::temp()?, Store::temp()?);
/// let dir = tempfile::tempdir().unwrap();
/// let image = Import::new().name("me/app:1").path(&here, dir.path())?;
///
/// let registry = Registry::serve(&here, "127.0.0.1:0")?;
/// let name = format!("{}/me/app:1", registry.addr());
/// assert_eq!(Image::pull(&there, &name)?.digest(), image.digest());
/// # Ok::<(), coracle::Error>(())
/// ```
pub struct Registry {
    addr: SocketAddr,
    /// `None` only while it ends.
    acceptor: Option<Acceptor>,
    witness: Witness,
}

impl Registry {
    /// Serves a store to this machine, or with [a builder's settings](Registry::builder) to others. Port 0 is a free one.
    ///
    /// Whoever can connect may pull, push and delete: on a loopback address all users and programs of this machine. Not pages in
    /// a browser: a request that names a host by another name than `localhost` is refused (421), unless
    /// [users](RegistryBuilder::user) or [`anonymous`](RegistryBuilder::anonymous) say who may do what.
    ///
    /// # Errors
    /// As [`RegistryBuilder::serve`].
    pub fn serve(store: &Store, addr: impl ToSocketAddrs) -> Result<Self> {
        Self::builder().serve(store, addr)
    }

    /// A registry with other settings.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder {
            prefix: None,
            users: Users::default(),
            most: Access::Write,
            tls: None,
            plain_http: false,
            limits: Limits::default(),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Registry {
    /// Ends it: connections that wait for a request at once, requests that are under way when they are answered, or after
    /// [a time](RegistryBuilder::grace). No thread of it is left then, and its port is free.
    fn drop(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            match self.witness.is_here() {
                true => acceptor.end(),
                // A forked copy has no such thread, and what is in the store is not its own.
                false => std::mem::forget(acceptor),
            }
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.addr).finish()
    }
}

/// How a store is served; [`Registry::serve`] is this with nothing set.
///
/// ```no_run
/// use coracle::{Access, Registry, Store};
/// let registry = Registry::builder()
///     .htpasswd(&std::fs::read_to_string("htpasswd").unwrap(), Access::Write)?
///     .user("ci", "a secret", Access::Read)
///     .tls(std::fs::read("cert.pem").unwrap(), std::fs::read("key.pem").unwrap())
///     .serve(&Store::open_default()?, "0.0.0.0:5000")?;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone)]
pub struct RegistryBuilder {
    prefix: Option<String>,
    users: Users,
    most: Access,
    /// A chain and its key, PEM.
    tls: Option<(Vec<u8>, Vec<u8>)>,
    plain_http: bool,
    limits: Limits,
}

impl RegistryBuilder {
    /// Serves only images whose names begin so, without it: with `registry.lan:5000/team`, the repository `app` is
    /// `registry.lan:5000/team/app`. What is pushed gets such names, and takes no others.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// A user with a password. Passwords are compared in constant time.
    pub fn user(mut self, name: &str, password: &str, access: Access) -> Self {
        self.users.add(name, password, access);
        self
    }

    /// The users of such a file, all with the same access: a line `NAME:HASH` for each, as `htpasswd -B` writes it.
    /// Of the ways to hash a password bcrypt is understood alone, as in docker's registry.
    ///
    /// # Errors
    /// `InvalidData` for what is no such file, `TooLarge` for more than ten thousand users.
    pub fn htpasswd(mut self, text: &str, access: Access) -> Result<Self> {
        self.users.add_htpasswd(text, access)?;
        Ok(self)
    }

    /// What may be done without a password. By default it is everything where there are no users and the address is this
    /// machine's own, and else nothing.
    ///
    /// With [`Access::Read`] and users beside, docker, podman and skopeo can't push: they send a password only to a registry that
    /// wants one for everything.
    pub fn anonymous(mut self, access: Access) -> Self {
        self.users.anonymous = Some(access);
        self
    }

    /// Nobody pushes or deletes, whoever it is.
    pub fn read_only(mut self) -> Self {
        self.most = Access::Read;
        self
    }

    /// Speaks TLS, with this certificate (PEM, a chain with its own first) and its private key (PEM).
    pub fn tls(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls = Some((certificate.into(), key.into()));
        self
    }

    /// Takes passwords without TLS from other machines, too: behind a proxy that has TLS, or in a network where nobody listens.
    pub fn plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// The most connections at once, at least 1; by default 100. Who comes then is told to come back (503).
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.limits.connections = connections.max(1);
        self
    }

    /// The most bytes of a request's head, from 1 KiB to 1 MiB; by default 16 KiB. More is refused (431).
    pub fn header_max(mut self, bytes: usize) -> Self {
        self.limits.header_bytes = bytes.clamp(1 << 10, 1 << 20);
        self
    }

    /// How long a request's head may take, or a TLS handshake; by default 10 seconds. Then it is refused (408). Between
    /// requests a connection may wait for [`idle_timeout`](Self::idle_timeout).
    pub fn header_timeout(mut self, time: Duration) -> Self {
        self.limits.header_time = time.max(Duration::from_millis(1));
        self
    }

    /// How long a connection may be silent, between requests and within a body; by default a minute. Beyond this, a body has to
    /// go on at 4 KiB a second on average: else it is refused (408), or no more is sent.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.limits.silence = time.max(Duration::from_millis(1));
        self
    }

    /// The most bytes of a blob; by default 32 GiB. More is refused (413). Manifests have 4 MiB. Whatever this says, some of the
    /// disk stays free (507).
    pub fn blob_max(mut self, bytes: u64) -> Self {
        self.limits.blob_bytes = bytes;
        self
    }

    /// The most uploads under way together with blobs that wait for a manifest, in each repository anew, at least 1; by default
    /// 1000. More are refused (429), unless one was left alone for a minute.
    pub fn uploads_max(mut self, uploads: usize) -> Self {
        self.limits.uploads = uploads.max(1);
        self
    }

    /// How long an upload may be left alone, and a blob wait for a manifest; by default an hour.
    pub fn upload_timeout(mut self, time: Duration) -> Self {
        self.limits.upload_time = time;
        self
    }

    /// How long requests that are under way may go on when the registry ends; by default 10 seconds.
    pub fn grace(mut self, time: Duration) -> Self {
        self.limits.grace = time;
        self
    }

    /// Begins to serve. Of several addresses the first that can be had.
    ///
    /// # Errors
    /// `InvalidInput` for a prefix that no name has, or a certificate or key that is none, or where others than this machine could
    /// connect and neither users nor [`anonymous`](Self::anonymous) say who may do what, or passwords would
    /// travel in the clear without [`plain_http`](Self::plain_http). `InUse`
    /// where the address is taken; those of the system.
    pub fn serve(&self, store: &Store, addr: impl ToSocketAddrs) -> Result<Registry> {
        let names = self.prefix.as_deref().map(Names::below).transpose()?.unwrap_or_default();
        let tls = self.tls.as_ref().map(|(chain, key)| tls::config(chain, key)).transpose()?;
        let addrs = addr.to_socket_addrs().call("getaddrinfo")?.collect::<Vec<_>>();
        let listener = TcpListener::bind(&addrs[..]).map_err(|error| {
            let is_taken = error.kind() == std::io::ErrorKind::AddrInUse;
            let error = Error::os("bind", error).during(format!("listening on {addrs:?}"));
            if is_taken { error.with_kind(ErrorKind::InUse) } else { error }
        })?;
        let addr = listener.local_addr().call("getsockname")?;
        let is_local = addr.ip().is_loopback();
        let refuse = |what: &'static str, remedy: &'static str| {
            Err(Error::new(ErrorKind::InvalidInput, format!("registry on {addr}: {what}"))
                .with_remedy(remedy))
        };
        let anonymous = match self.users.anonymous {
            Some(access) => access,
            None if !self.users.is_empty() => Access::None,
            None if is_local => Access::Write,
            None => {
                return refuse(
                    "other machines can connect, and nothing says who may do what",
                    "name users, or say what may be done without one (RegistryBuilder::anonymous), or listen on 127.0.0.1",
                );
            }
        };
        if !is_local && !self.users.is_empty() && tls.is_none() && !self.plain_http {
            return refuse(
                "passwords of other machines would travel in the clear",
                "give a certificate (RegistryBuilder::tls), or allow it (RegistryBuilder::plain_http)",
            );
        }
        let limits = self.limits.clone();
        let shared = Shared {
            pending: Pending::new(store, limits.uploads, limits.blob_bytes, limits.upload_time)?,
            shelf: Shelf::new(store.clone(), names),
            // A page whose name leads here (DNS rebinding) is of this site to a browser, and sends that name.
            only_as_local: is_local && self.users.is_empty() && self.users.anonymous.is_none(),
            door: Door::new(self.users.clone(), anonymous, self.most)?,
            tls,
            limits,
        };
        let witness = Witness::current()?;
        Ok(Registry { addr, acceptor: Some(Acceptor::start(listener, shared)?), witness })
    }
}

impl fmt::Debug for RegistryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryBuilder")
            .field("prefix", &self.prefix)
            .field("users", &self.users)
            .field("most", &self.most)
            .field("tls", &self.tls.is_some())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
