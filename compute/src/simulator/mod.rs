//! The simulator.

mod admission;
mod call;
mod cloud;
mod connection;
mod duration;
pub mod faults;
mod file;
mod query;
mod room;
pub mod script;
mod server;
mod services;
mod settings;
mod state;

pub use admission::INSTANCES_MAX;
pub use call::{
    Answer, Call, CallKind, Change, Delivery, Listed, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Page, Query, Response,
};
pub use cloud::{Cloud, KEY_LENGTH_MAX, ResumeError, Saved};
pub use file::StateFileError;
pub use server::{SPEED_MAX, ServeError, ServeOptions, serve};
pub use services::{BATCH_MAX, REQUEST_BYTES_MAX, SERVICES};
pub use settings::{CLUSTER_PREFIX, PLACE_GPUS_MAX, Reservation, SecondCall, Settings, SettingsError};
