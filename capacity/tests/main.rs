//! Capacity from outside.

#![cfg(test)]

mod auction;
