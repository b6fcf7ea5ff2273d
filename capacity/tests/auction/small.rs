//! All books of a small size.
