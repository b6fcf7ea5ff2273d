//! The compute API of a GPU cloud: a client, and a simulator.

pub mod error;
pub mod ids;
pub mod model;
mod wire;

pub use error::{ComputeError, NextStep};
