//! Who is let in, and who is not.

mod credentials;
mod oidc;
