//! What settlement promises, whatever the rules; and a second rater that shares no code with it.

#![cfg(test)]

mod by_table;
mod margins;
mod oracle;
mod properties;
mod world;
