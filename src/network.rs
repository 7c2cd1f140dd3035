//! Networks of containers.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Which network a container has.
///
/// ```
/// use coracle::Network;
/// assert_eq!(Network::default(), Network::none());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Network(pub(crate) Kind);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Its own, with a loopback interface and nothing else.
    #[default]
    None,
    /// The host's.
    Host,
}

impl Network {
    /// A network of the container's own with only a loopback interface; the default. The host reaches its ports
    /// with [`Container::connect`](crate::Container::connect) and published ports. Its /etc/resolv.conf is empty, as no
    /// server of names can be reached; /etc/hosts has its own names.
    pub fn none() -> Self {
        Self(Kind::None)
    }

    /// The host's network, with its interfaces, ports and name resolution. Nothing stands between the container and
    /// the services that listen on the host.
    pub fn host() -> Self {
        Self(Kind::Host)
    }

    /// Whether it is the host's.
    pub fn is_host(&self) -> bool {
        self.0 == Kind::Host
    }

    /// Its name, as docker has it.
    pub fn name(&self) -> &'static str {
        match self.0 {
            Kind::None => "none",
            Kind::Host => "host",
        }
    }
}
