//! Who may ask: the operator, who knows a token.

use std::net::IpAddr;

/// The operator's token, as its hash. Without one, whoever reaches the loopback interface is the
/// operator.
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

    /// Whether an `Authorization` header proves that the caller is the operator.
    pub(crate) fn admits(self, authorization: Option<&[u8]>) -> bool {
        let Some(expected) = self.0 else { return true };
        let given = authorization.and_then(|header| match header.split_at_checked("Bearer ".len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => Some(token),
            _ => None,
        });
        // Comparing two `blake3::Hash`es takes the same time wherever they differ.
        given.is_some_and(|token| blake3::hash(token.trim_ascii()) == expected)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_admits() {
        let open = OperatorToken::new(None);
        assert!(open.admits(None) && !open.is_set());
        let token = OperatorToken::new(Some("correct horse battery"));
        assert!(token.admits(Some(b"Bearer correct horse battery")));
        assert!(token.admits(Some(b"bearer correct horse battery")));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer correct",
            "Basic correct horse battery",
            "correct horse battery",
        ] {
            assert!(!token.admits(Some(wrong.as_bytes())), "{wrong:?}");
        }
        assert!(!token.admits(None));
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
