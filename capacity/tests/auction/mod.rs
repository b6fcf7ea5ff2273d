//! The auction from outside: its laws on random books, oracles that share no code with it, all books of a
//! small size, and numbers worked out by hand.
//!
//! `PROPTEST_CASES=100000 cargo test -p hourglass-capacity` tries so many books for each law, from
//! `HOURGLASS_FIRST_SEED` on.

mod books;
mod brute;
mod laws;
mod receipts;
mod reserve;
mod slow;
mod small;
mod tables;
mod welfare;
