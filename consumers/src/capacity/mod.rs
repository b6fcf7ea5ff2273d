//! `nebius.capacity.v1` from the state of a cell: what is reserved, and how much there is to be had, as
//! clients of the public Nebius API read it.
//!
//! A *capacity block group* is all that a tenant has reserved of one platform in one fabric; each of these
//! reservations is an *interval* of it. Reservations that name no fabric are no capacity: nothing is kept
//! free for them. *Advice* is about a pool, once for single GPUs and once for each size of its known nodes.
//!
//! | field | is |
//! |---|---|
//! | id of a group | `capacityblockgroup-` and a hash of tenant, region, platform and fabric |
//! | id of an interval | `capacityinterval-` and the reservation |
//! | `parent_id` of groups and advice, `container_id` | the tenant |
//! | `current_limit`, `quantity` | GPUs reserved now |
//! | `usage` | GPUs of instances that run inside, or were admitted |
//! | `on_demand` of advice | what would be admitted now, at once or when spot has made way |
//! | `preemptible` of advice | what the last clearing left; stale when another one is due, unknown before the first |
//! | `reserved` of advice | what of the tenant's own group is not used; absent where it has none |
//! | `limit` of advice | the tenant's nominal quota of the class, else all that is there |
//! | labels of advice | `spot_price` and `spot_currency`: what a spot GPU-hour cost at the last clearing |
//!
//! # What it guarantees
//!
//! * Nothing here decides or changes anything.
//! * Ids follow from names: they are the same for ever, on every process and after every replay.
//! * To whom one tenant alone is open, what others have is as unknown as what is not there.

mod advice;
mod groups;
mod page;
mod service;
#[cfg(test)]
mod tests;

pub(crate) use service::Capacity;
