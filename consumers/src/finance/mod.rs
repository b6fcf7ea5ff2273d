//! Finance exports: the book as accountants' own tools read it, and invoices as people do.

pub mod columnar;
pub mod focus;
pub mod invoice;
pub mod journal;
pub mod reports;
pub mod run;
pub mod span;
