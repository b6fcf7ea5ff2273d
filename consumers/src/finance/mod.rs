//! Finance exports: the book as accountants' own tools read it.

pub mod journal;
