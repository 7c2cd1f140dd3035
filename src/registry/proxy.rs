//! The way to a host: past the proxies of the environment, or through one of them.
//!
//! An address has the proxy of its scheme (`HTTPS_PROXY`, `HTTP_PROXY`), else `ALL_PROXY`, else the other scheme's; of both writings
//! the one in capitals counts first, and one that is empty is none. `NO_PROXY` is read as Go's programs do, docker, podman and
//! skopeo among them (`golang.org/x/net/http/httpproxy`): names and addresses between commas, a name for itself and all below it,
//! with a dot (or `*.`) before it for those below it alone, an address or a network (`10.0.0.0/8`), each but the last with a port
//! if it is to be for that alone, and `*` for all. This machine itself is reached by none.
#![forbid(unsafe_code)]

use super::url::Url;
use std::net::IpAddr;

pub(super) struct Proxies {
    pub(super) tls: Proxy,
    pub(super) plain: Proxy,
    except: Vec<Exception>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Proxy {
    None,
    Through(ureq::Proxy),
    /// What this program does not speak with, in a word.
    Foreign(String),
}

impl Proxies {
    pub(super) fn of_environment() -> Self {
        // What is no text is no address either, and that is said.
        Self::of(&|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn of(var: &dyn Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| {
            let values = [name.to_owned(), name.to_ascii_lowercase()];
            values.iter().find_map(|name| var(name).filter(|value| !value.trim().is_empty()))
        };
        let first = |names: [&str; 3]| {
            names.into_iter().find_map(|name| Some((name, var(name)?))).map_or(
                Proxy::None,
                |(name, value)| {
                    match ureq::Proxy::new(value.trim()) {
                        Ok(proxy) => match proxy.protocol() {
                            ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https => Proxy::Through(proxy),
                            foreign => Proxy::Foreign(format!("{foreign} proxy")),
                        },
                        // It may have a password in it.
                        Err(_) => Proxy::Foreign(format!("proxy without an address in {name}")),
                    }
                },
            )
        };
        Self {
            tls: first(["HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY"]),
            plain: first(["HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY"]),
            except: var("NO_PROXY").map_or_else(Vec::new, |list| exceptions(&list)),
        }
    }

    /// What leads to an address.
    pub(super) fn to(&self, url: &Url) -> &Proxy {
        if url.is_loopback() || self.except.iter().any(|exception| exception.has(url)) {
            return &Proxy::None;
        }
        if url.tls { &self.tls } else { &self.plain }
    }
}

enum Exception {
    All,
    Network { address: IpAddr, bits: u32 },
    Address(IpAddr, Option<u16>),
    Name { name: String, and_itself: bool, port: Option<u16> },
}

fn exceptions(list: &str) -> Vec<Exception> {
    list.split(',').filter_map(|entry| exception(entry.trim())).collect()
}

/// `None` for what is none, as with a port that is no number.
fn exception(entry: &str) -> Option<Exception> {
    if entry == "*" {
        return Some(Exception::All);
    }
    if let Some((address, bits)) = entry.split_once('/') {
        let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse().ok()?);
        let most = if address.is_ipv4() { 32 } else { 128 };
        return (bits <= most).then_some(Exception::Network { address, bits });
    }
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(Exception::Address(address.to_canonical(), None));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) if !entry.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (entry, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(Exception::Address(address.to_canonical(), port));
    }
    let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
    let (name, and_itself) = match host.strip_prefix('.') {
        Some(below) => (below, false),
        None => (host, true),
    };
    (!name.is_empty()).then(|| Exception::Name { name: name.to_ascii_lowercase(), and_itself, port })
}

impl Exception {
    fn has(&self, url: &Url) -> bool {
        let address = url.address();
        let is_port = |port: &Option<u16>| port.is_none_or(|port| port == url.port);
        match self {
            Self::All => true,
            Self::Network { address: network, bits } => {
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
            Self::Address(own, port) => address == Some(*own) && is_port(port),
            Self::Name { name, and_itself, port } => {
                let before = url.host.strip_suffix(name.as_str());
                let is = before.is_some_and(|before| match before {
                    "" => *and_itself,
                    before => before.ends_with('.'),
                });
                is && is_port(port)
            }
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (address.to_bits() ^ network.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            (address.to_bits() ^ network.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(vars: &[(&str, &str)]) -> Proxies {
        Proxies::of(&|name| vars.iter().find(|(var, _)| *var == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn exceptions_are_those_of_gos_programs() {
        for (list, url, is) in [
            ("reg.lan", "https://reg.lan/", true),
            ("lan", "https://reg.lan/", true),
            ("LAN", "https://reg.lan/", true),
            ("eg.lan", "https://reg.lan/", false),
            ("reg.lan", "https://lan/", false),
            (".lan", "https://reg.lan/", true),
            (".reg.lan", "https://reg.lan/", false),
            ("*.lan", "https://a.reg.lan/", true),
            ("*.reg.lan", "https://reg.lan/", false),
            ("other.lan , reg.lan\t", "https://reg.lan/", true),
            ("other.lan, x", "https://reg.lan/", false),
            ("reg.lan:5000", "https://reg.lan:5000/", true),
            ("reg.lan:5000", "https://reg.lan/", false),
            ("reg.lan:443", "https://reg.lan/", true),
            (".lan:80", "http://reg.lan/", true),
            (".lan:80", "https://reg.lan/", false),
            ("reg.lan:port", "https://reg.lan/", false),
            ("10.0.0.0/8", "https://10.1.2.3:5000/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("10.0.0.0/33", "https://10.0.0.0/", false),
            ("0.0.0.0/0", "https://11.1.2.3/", true),
            ("10.1.2.3/32", "https://10.1.2.2/", false),
            ("10.0.0.0/8", "https://10.1.2.3.example/", false),
            ("fd00::/8", "https://[fd12::1]/", true),
            ("fd00::/8", "https://[fe80::1]/", false),
            ("10.1.2.3", "https://10.1.2.3/", true),
            ("10.1.2.3:443", "https://10.1.2.3/", true),
            ("10.1.2.3:443", "https://10.1.2.3:5000/", false),
            ("0.1.2.3", "https://10.1.2.3/", false),
            ("fd12::1", "https://[fd12::1]/", true),
            ("[fd12::1]:443", "https://[fd12:0::1]/", true),
            ("[fd12::1]:444", "https://[fd12::1]/", false),
            ("x,*", "https://reg.lan/", true),
            ("", "https://reg.lan/", false),
            (",.,:80,*.", "https://reg.lan/", false),
            // This machine needs no exception.
            ("x", "http://localhost:5000/", true),
            ("x", "http://127.8.9.1/", true),
            ("x", "https://[::1]:5000/", true),
        ] {
            let proxies = proxies(&[("ALL_PROXY", "http://proxy:8080"), ("no_proxy", list)]);
            let way = proxies.to(&Url::parse(url).unwrap());
            assert_eq!(*way == Proxy::None, is, "{list:?} {url}: {way:?}");
        }
    }

    #[test]
    fn an_address_has_its_schemes_proxy() {
        let through = |port: u16| Proxy::Through(ureq::Proxy::new(&format!("http://p:{port}")).unwrap());
        let socks = Proxy::Foreign("SOCKS5 proxy".to_owned());
        let (all, https, http) =
            (("all_proxy", "socks5://p:1"), ("https_proxy", "http://p:2"), ("http_proxy", "p:3"));
        for (vars, tls, plain) in [
            (&[all, https, http][..], through(2), through(3)),
            (&[all, https], through(2), socks.clone()),
            (&[all, http], socks.clone(), through(3)),
            (&[all], socks.clone(), socks.clone()),
            (&[https], through(2), through(2)),
            (&[https, ("HTTPS_PROXY", "http://p:4")], through(4), through(4)),
            (&[https, ("HTTPS_PROXY", " ")], through(2), through(2)),
            (&[("http_proxy", "")], Proxy::None, Proxy::None),
            (&[], Proxy::None, Proxy::None),
        ] {
            let proxies = proxies(vars);
            let to = |url: &str| port_of(proxies.to(&Url::parse(url).unwrap()));
            assert_eq!(to("https://r.lan/"), port_of(&tls), "{vars:?}");
            assert_eq!(to("http://r.lan/"), port_of(&plain), "{vars:?}");
        }
        // Nobody goes past one that there is to be.
        let broken = proxies(&[("HTTPS_PROXY", "http://me:secret@")]);
        assert!(matches!(&broken.tls, Proxy::Foreign(what) if !what.contains("secret")), "{:?}", broken.tls);
    }

    /// One without a scheme is the same as with it, but for how it is written.
    fn port_of(proxy: &Proxy) -> String {
        match proxy {
            Proxy::Through(proxy) => format!("{} {} {}", proxy.protocol(), proxy.host(), proxy.port()),
            other => format!("{other:?}"),
        }
    }
}
