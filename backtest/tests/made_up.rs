//! Traces that a seed makes up.
