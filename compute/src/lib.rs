//! The compute API of a GPU cloud: a client, and a simulator.

pub mod client;
mod draw;
pub mod error;
pub mod ids;
pub mod model;
pub mod simulator;
mod wire;

pub use error::{ComputeError, NextStep};
