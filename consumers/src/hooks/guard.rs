//! Where messages may go: nowhere inside the cloud that sends them.
//!
//! A customer names the URL, so a request to it is a request that a customer makes from our network. Only
//! https to public addresses and few ports goes out. A name is resolved once for each attempt, *every*
//! address that it has is looked at, and the connection goes to those addresses: what the name resolves to
//! a moment later does not matter. Redirects are not followed, and no proxy is used.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The ports that may be reached.
pub const PORTS: [u16; 2] = [443, 8443];

/// Why a message may not go to a URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No URL.
    #[error("this is no URL: give one like https://example.com/hooks")]
    Malformed,
    /// In the clear.
    #[error("only https is used")]
    Scheme,
    /// With a user and password, or a fragment.
    #[error("a URL with a user, a password or a fragment is not taken")]
    Userinfo,
    /// Another port.
    #[error("port {0} is not used: only 443 and 8443")]
    Port(u16),
    /// An address that is not public.
    #[error("{host} is at {address}, which is no public address")]
    Address {
        /// Which host.
        host: String,
        /// Which of its addresses.
        address: IpAddr,
    },
}

/// A host and port that the operator allows, whatever its address, by http too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    host: String,
    port: u16,
}

impl FromStr for Allowed {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is no host with a port: write it like localhost:9000");
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let port = port.parse().map_err(|_| form())?;
        if host.is_empty() { Err(form()) } else { Ok(Self { host: host.to_ascii_lowercase(), port }) }
    }
}

/// What may be reached.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: BTreeSet<Allowed>,
}

/// Where a message goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The URL.
    pub(super) uri: Uri,
    /// Whether the operator named it.
    pub(super) is_named: bool,
}

impl Guard {
    /// All that is public, and what the operator names beside it.
    pub fn new(allowed: impl IntoIterator<Item = Allowed>) -> Self {
        Self { allowed: allowed.into_iter().collect() }
    }

    /// Checks what can be seen of a URL without resolving its name.
    pub fn check(&self, url: &str) -> Result<Target, Refusal> {
        let uri = Uri::from_str(url).map_err(|_| Refusal::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(Refusal::Malformed);
        };
        if authority.as_str().contains('@') || url.contains('#') {
            return Err(Refusal::Userinfo);
        }
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            return Err(Refusal::Malformed);
        }
        let https = *scheme == Scheme::HTTPS;
        if !https && *scheme != Scheme::HTTP {
            return Err(Refusal::Scheme);
        }
        // `http` reads a port that is none as no port.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => {
                if https {
                    443
                } else {
                    80
                }
            }
            _ => authority.port_u16().ok_or(Refusal::Malformed)?,
        };
        let is_named = self.allowed.contains(&Allowed { host: host.clone(), port });
        if !is_named {
            if !https {
                return Err(Refusal::Scheme);
            }
            if !PORTS.contains(&port) {
                return Err(Refusal::Port(port));
            }
            let literal = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(&host);
            if let Ok(address) = literal.parse::<IpAddr>()
                && !is_public(address)
            {
                return Err(Refusal::Address { host, address });
            }
        }
        Ok(Target { uri, is_named })
    }
}

/// Resolves a name, and answers only where every address may be reached.
#[derive(Debug)]
pub(super) struct Guarded<R> {
    /// Whether the operator named the host.
    pub(super) is_named: bool,
    pub(super) resolver: R,
}

impl Guarded<DefaultResolver> {
    pub(super) fn of(target: &Target) -> Self {
        Self { is_named: target.is_named, resolver: DefaultResolver::default() }
    }
}

impl<R: Resolver> Resolver for Guarded<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.resolver.resolve(uri, config, timeout)?;
        let private = found.iter().map(|it| it.ip()).find(|address| !self.is_named && !is_public(*address));
        match private {
            None => Ok(found),
            Some(address) => {
                let host = uri.host().unwrap_or_default().to_owned();
                Err(ureq::Error::Other(Box::new(Refusal::Address { host, address })))
            }
        }
    }
}

/// Networks of version 4 that are not the public's, as IANA lists them, and one that a large cloud serves its
/// machines' metadata from.
const PRIVATE_V4: [(Ipv4Addr, u8); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// The only part of version 6 that is given to the public.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What of it is not: protocols (tunnels through version 4 among them), documentation.
const PRIVATE_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Translation of version 4 into version 6 (RFC 6052): the last 32 bits say where it ends.
const TRANSLATED: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// Whether an address is the public's.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !PRIVATE_V4.iter().any(|(net, bits)| same_prefix(v4.to_bits(), net.to_bits(), *bits))
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let within = |(net, length): &(Ipv6Addr, u8)| same_prefix_v6(bits, net.to_bits(), *length);
            if let Some(v4) = v6.to_ipv4_mapped() {
                return is_public(IpAddr::V4(v4));
            }
            if within(&TRANSLATED) {
                let [.., a, b, c, d] = v6.octets();
                return is_public(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
            }
            within(&PUBLIC_V6) && !PRIVATE_V6.iter().any(within)
        }
    }
}

fn same_prefix(address: u32, net: u32, bits: u8) -> bool {
    let shift = 32_u32.saturating_sub(u32::from(bits));
    address.checked_shr(shift) == net.checked_shr(shift)
}

fn same_prefix_v6(address: u128, net: u128, bits: u8) -> bool {
    let shift = 128_u32.saturating_sub(u32::from(bits));
    address.checked_shr(shift) == net.checked_shr(shift)
}

#[cfg(test)]
mod tests;
