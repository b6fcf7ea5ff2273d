//! The messages of the reading services, for servers other than the [`simulator`](crate::simulator).

use hourglass_proto::nebius::capacity::v1::ResourceAffinity;

use crate::error::ComputeError;
use crate::model::Place;
use crate::wire::capacity::read_place;
pub use crate::wire::capacity::{write_advice, write_group, write_interval};
use crate::wire::{PAGE_TOKEN_LENGTH_MAX, Wrong};

/// Longest page token that is taken from or by a service, in bytes.
pub const PAGE_TOKEN_BYTES_MAX: usize = PAGE_TOKEN_LENGTH_MAX;

/// Where machines stand, as a request says it.
///
/// # Errors
///
/// [`ComputeError::BadRequest`] names the field that is missing or is no name.
pub fn place(affinity: Option<ResourceAffinity>) -> Result<Place, ComputeError> {
    read_place(affinity).map_err(Wrong::bad_request)
}
