//! `--publish`, `--publish-all`, `--expose`: which ports are forwarded.
#![forbid(unsafe_code)]

use crate::args::Args;
use crate::fail::{Result, fail, usage};
use coracle::{ContainerBuilder, ImageConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

pub fn publish(mut b: ContainerBuilder, image: &ImageConfig, args: &Args) -> Result<ContainerBuilder> {
    let mut given = Vec::new();
    for option in args.all("publish")? {
        for (address, port) in forwards(option)? {
            given.push(port);
            b = b.publish_at(address, port);
        }
    }
    let mut exposed = Vec::new();
    for option in args.all("expose")?.into_iter().chain(image.exposed_ports()) {
        let (plain, protocol) = option.split_once('/').unwrap_or((option, "tcp"));
        if protocol != "tcp" {
            if args.has("publish-all") {
                // An image may well expose some, and its others are of use.
                eprintln!("coracle: --publish-all: {option} is not forwarded: only TCP can be");
            }
        } else {
            exposed.extend(range(plain).ok_or_else(|| usage(format!("invalid --expose {option:?}")))?);
        }
    }
    if args.has("publish-all") {
        exposed.sort_unstable();
        exposed.dedup();
        for port in exposed.into_iter().filter(|port| !given.contains(port)) {
            b = b.publish_at(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), port);
        }
    }
    Ok(b)
}

/// `80` or `80-89`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

/// `80`, `8080:80`, `127.0.0.1:8080:80`, `[::1]::80`, `8000-8009:80-89`, each with `/tcp` or without. As docker has it,
/// without an address it is every one of the host's.
fn forwards(option: &str) -> Result<Vec<(SocketAddr, u16)>> {
    let wrong = || usage(format!("invalid --publish {option:?}: [IP:][HOST:]PORT[/tcp]"));
    let plain = match option.rsplit_once('/') {
        Some((plain, "tcp")) => plain,
        Some((_, protocol)) => {
            return Err(fail(format!("--publish: {protocol:?}: only TCP can be forwarded")));
        }
        None => option,
    };
    let (rest, container) = match plain.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, plain),
    };
    let (address, host) = match rest.map(|rest| rest.rsplit_once(':').ok_or(rest)) {
        None => (None, ""),
        Some(Ok((address, host))) => (Some(address), host),
        Some(Err(host)) => (None, host),
    };
    let address: IpAddr = match address {
        None | Some("") => Ipv4Addr::UNSPECIFIED.into(),
        Some(address) => {
            address.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| wrong())?
        }
    };
    let container = range(container).ok_or_else(wrong)?;
    let host: Vec<u16> = match host {
        "" | "0" => vec![0; container.len()],
        host => range(host).ok_or_else(wrong)?.collect(),
    };
    if host.len() != container.len() {
        return Err(usage(format!("--publish {option:?}: as many ports of the host as of the container")));
    }
    Ok(host.into_iter().map(|port| SocketAddr::new(address, port)).zip(container).collect())
}
