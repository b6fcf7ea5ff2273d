use super::*;
use proptest::prelude::*;
use std::net::SocketAddr;

#[test]
fn only_public_addresses_are() {
    let check = |address: &str, expected: bool| {
        assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
    };
    for public in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "168.63.129.15",
        "2606:4700:4700::1111",
        "2a00:1450:4001:80b::200e",
        "2001:200::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ] {
        check(public, true);
    }
    for private in [
        "0.0.0.0",
        "0.255.255.255",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.0",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.0.0",
        "169.254.169.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::",
        "::1",
        "::7f00:1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "100::1",
        "2001::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
    ] {
        check(private, false);
    }
}

#[test]
fn urls_are_refused_before_anything_is_resolved() {
    let guard = Guard::new(["localhost:9000".parse().unwrap(), "127.0.0.1:9443".parse().unwrap()]);
    let check = |url: &str, expected: Result<bool, &str>| {
        let found = guard.check(url).map(|target| target.is_named).map_err(|refusal| refusal.to_string());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{url}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{url}: {found}"),
            (found, _) => panic!("{url}: {found:?}"),
        }
    };
    check("https://example.com/hooks?a=b", Ok(false));
    check("https://example.com:8443/", Ok(false));
    check("https://8.8.8.8/", Ok(false));
    check("https://[2606:4700:4700::1111]/", Ok(false));
    check("http://localhost:9000/x", Ok(true));
    check("https://LOCALHOST:9000/x", Ok(true));
    check("https://127.0.0.1:9443/x", Ok(true));
    check("http://example.com/", Err("only https"));
    check("ftp://example.com/", Err("only https"));
    check("file:///etc/passwd", Err("no URL"));
    check("/hooks", Err("no URL"));
    check("example.com", Err("no URL"));
    check("https://", Err("no URL"));
    check("https://example.com:99999/", Err("no URL"));
    check("https://example.com:/", Err("no URL"));
    check("https://user:secret@example.com/", Err("user"));
    check("https://example.com@127.0.0.1/", Err("user"));
    check("https://example.com/#part", Err("fragment"));
    check("https://example.com:22/", Err("port 22"));
    check("https://example.com:80/", Err("port 80"));
    check("https://localhost:9001/", Err("port 9001"));
    check("http://localhost/", Err("only https"));
    check("http://127.0.0.1:9000/", Err("only https"));
    check("https://127.0.0.1/", Err("no public address"));
    check("https://169.254.169.254/latest/meta-data", Err("no public address"));
    check("https://[::1]/", Err("no public address"));
    check("https://[::ffff:10.0.0.1]/", Err("no public address"));
    check("https://[fd00:ec2::254]/", Err("no public address"));
    for bad in ["", "localhost", ":80", "localhost:x", "localhost:70000"] {
        assert!(bad.parse::<Allowed>().is_err(), "{bad}");
    }
}

/// A name server that says what it is told to.
#[derive(Debug)]
struct Says(Vec<SocketAddr>);

impl Resolver for Says {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = self.empty();
        self.0.iter().for_each(|address| found.push(*address));
        Ok(found)
    }
}

fn resolved(addresses: &[&str], is_named: bool) -> Result<Vec<SocketAddr>, String> {
    let addresses: Vec<SocketAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
    let guarded = Guarded { is_named, resolver: Says(addresses) };
    let config = ureq::Agent::config_builder().build();
    let found = guarded.resolve(&Uri::from_static("https://example.com/"), &config, NextTimeout::default());
    found.map(|found| found.to_vec()).map_err(|error| error.to_string())
}

/// One private address among public ones is enough, and what was looked at is what is connected to.
#[test]
fn every_address_of_a_name_is_looked_at() {
    assert_eq!(resolved(&["8.8.8.8:443", "[2606:4700::1]:443"], false).unwrap().len(), 2);
    for mixed in
        [&["8.8.8.8:443", "10.0.0.1:443"][..], &["[::1]:443", "8.8.8.8:443"], &["169.254.169.254:443"]]
    {
        let refused = resolved(mixed, false).unwrap_err();
        assert!(refused.contains("no public address"), "{refused}");
        assert_eq!(resolved(mixed, true).unwrap().len(), mixed.len());
    }
}

proptest! {
    /// An address of version 4 is judged alike however it is written into version 6.
    #[test]
    fn version_4_is_judged_alike_in_version_6(bits: u32) {
        let v4 = Ipv4Addr::from_bits(bits);
        let public = is_public(IpAddr::V4(v4));
        prop_assert_eq!(is_public(IpAddr::V6(v4.to_ipv6_mapped())), public);
        let translated = Ipv6Addr::from_bits(TRANSLATED.0.to_bits() | u128::from(bits));
        prop_assert_eq!(is_public(IpAddr::V6(translated)), public);
        // What the standard library knows of private addresses is among what is refused.
        let known = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
            || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
        prop_assert!(!(known && public));
    }

    #[test]
    fn version_6_is_public_within_its_one_part_alone(bits: u128) {
        let v6 = Ipv6Addr::from_bits(bits);
        let known = v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()
            || v6.is_multicast() || v6.is_unspecified();
        prop_assert!(!(known && is_public(IpAddr::V6(v6))));
        // Outside of that part only what stands for version 4 can be.
        let stands_for_v4 = v6.to_ipv4_mapped().is_some() || bits >> 32 == TRANSLATED.0.to_bits() >> 32;
        prop_assert!(!is_public(IpAddr::V6(v6)) || bits >> 125 == 1 || stands_for_v4);
    }

    /// The same over what is private, which few random numbers are.
    #[test]
    fn every_address_of_a_private_network_is(net in 0..PRIVATE_V4.len(), rest: u32) {
        let (net, bits) = PRIVATE_V4[net];
        let host = rest.checked_shr(u32::from(bits)).unwrap_or(0);
        prop_assert!(!is_public(IpAddr::V4(Ipv4Addr::from_bits(net.to_bits() | host))));
    }

    #[test]
    fn no_text_breaks_the_check(url in "[ -~]{0,60}") {
        let guard = Guard::default();
        if let Ok(target) = guard.check(&url) {
            prop_assert!(url.to_ascii_lowercase().starts_with("https://"), "{url}");
            prop_assert!(!target.is_named);
        }
    }
}
