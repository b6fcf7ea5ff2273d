//! The operator's token, and what loopback is.

use std::net::IpAddr;

/// The operator's token, as its hash.
#[derive(Clone, Copy)]
pub(crate) struct OperatorToken(Option<blake3::Hash>);

impl OperatorToken {
    pub(crate) fn new(token: Option<&str>) -> Self {
        Self(token.map(|token| blake3::hash(token.as_bytes())))
    }

    /// Whether there is a token to know.
    pub(crate) const fn is_set(self) -> bool {
        self.0.is_some()
    }

    /// Whether a credential is the token. Without a token none is.
    pub(crate) fn admits(self, credential: &[u8]) -> bool {
        // Comparing two `blake3::Hash`es takes the same time wherever they differ.
        self.0.is_some_and(|expected| blake3::hash(credential) == expected)
    }
}

/// Whether a `Host` names this machine's own loopback interface.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a URL is `http` to this machine itself: elsewhere only `https` keeps what is sent secret.
pub fn is_loopback_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A name before an `@` is no host.
    !authority.contains('@') && is_loopback_host(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_admits() {
        let open = OperatorToken::new(None);
        assert!(!open.admits(b"") && !open.is_set());
        let token = OperatorToken::new(Some("correct horse battery"));
        assert!(token.admits(b"correct horse battery") && token.is_set());
        for wrong in ["", "correct", "correct horse batterz", "correct horse battery "] {
            assert!(!token.admits(wrong.as_bytes()), "{wrong:?}");
        }
    }

    #[test]
    fn secrets_go_to_this_machine_in_the_clear_and_nowhere_else() {
        for url in ["http://localhost/keys", "http://127.0.0.1:80", "http://[::1]:8080/a?b"] {
            assert!(is_loopback_url(url), "{url}");
        }
        for url in [
            "http://issuer.example/keys",
            "http://localhost@evil.example/",
            "http://localhost.evil.example",
            "https://localhost",
            "localhost",
            "http:///",
        ] {
            assert!(!is_loopback_url(url), "{url}");
        }
    }

    #[test]
    fn only_loopback_names_are_loopback() {
        for host in
            ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:80", "127.1.2.3:1", "[::1]", "[::1]:8080"]
        {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in
            ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::2]:1", "10.0.0.1"]
        {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
