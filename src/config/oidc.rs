//! `[oidc]`: whose JSON Web Tokens are taken.

use std::path::PathBuf;

use hourglass_consumers::auth::{KeySource, Oidc, OidcOptions};
use serde::Deserialize;

use crate::failure::Failure;

/// One issuer. `docs/operating/access.md` says what a token must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcSection {
    issuer: String,
    audience: String,
    /// Where its keys are; found by discovery where neither is given.
    jwks_url: Option<String>,
    jwks_file: Option<PathBuf>,
    role_claim: Option<String>,
    tenant_claim: Option<String>,
    agent_claim: Option<String>,
    algorithms: Option<Vec<String>>,
}

impl OidcSection {
    /// The issuer, its keys not read yet.
    pub fn open(self) -> Result<Oidc, Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("oidc: {error}"));
        let mut options = OidcOptions::new(self.issuer, self.audience);
        options.keys = match (self.jwks_url, self.jwks_file) {
            (None, None) => KeySource::Discovery,
            (Some(url), None) => KeySource::Url(url),
            (None, Some(file)) => KeySource::File(file),
            (Some(_), Some(_)) => return Err(wrong(&"give jwks_url or jwks_file, not both")),
        };
        let claims = [
            (&mut options.role_claim, self.role_claim),
            (&mut options.tenant_claim, self.tenant_claim),
            (&mut options.agent_claim, self.agent_claim),
        ];
        for (claim, named) in claims {
            *claim = named.unwrap_or_else(|| std::mem::take(claim));
        }
        if let Some(algorithms) = self.algorithms {
            let read = algorithms.iter().map(|name| name.parse());
            options.algorithms = read.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
        }
        Oidc::new(options).map_err(|error| wrong(&error))
    }
}
