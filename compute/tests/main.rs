//! The simulated cloud in virtual time, and client and server over loopback.

#![cfg(test)]

mod client;
mod cloud;
mod garbage;
mod support;
