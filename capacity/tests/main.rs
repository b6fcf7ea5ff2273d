//! Capacity from outside.

#![cfg(test)]
