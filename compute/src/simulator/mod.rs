//! The simulator.

mod admission;
mod call;
mod cloud;
mod duration;
pub mod faults;
mod query;
mod room;
pub mod script;
mod settings;
mod state;

pub use admission::INSTANCES_MAX;
pub use call::{
    Answer, Call, CallKind, Change, Delivery, Listed, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Page, Query, Response,
};
pub use cloud::{Cloud, KEY_LENGTH_MAX, ResumeError, Saved};
pub use settings::{CLUSTER_PREFIX, PLACE_GPUS_MAX, Reservation, SecondCall, Settings, SettingsError};
