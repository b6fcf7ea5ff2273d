//! JWTs.
