//! Capacity: what there is, what is promised, and who runs on the rest.
//!
//! Pure data and decisions. Nothing here knows a clock, a log or a network; the ledger's core brings
//! time and positions, and writes down what was decided.
//!
//! * [`pool`] names pools.
//! * [`auction`] decides who runs on spot GPUs, and at what price.
//! * [`nodes::Nodes`] is what a pool has: nodes, and what the cloud gives. Over time it is a
//!   [`steps::Steps`], and so is what is promised.
//! * [`calendar::Calendar`] holds reservations, and refuses those that do not fit, with what would.
//! * [`series`] says where the GPU-time of a pool went, step by step.
//! * [`supply::Pool`] says what is left for spot, term by term; whether on-demand may start; and whose GPUs
//!   spot ran on.
//! * [`lifecycle::Lifecycle`] is the life of an instance and the calls to the cloud that it takes;
//!   [`lifecycle::reconcile`](lifecycle::reconcile()) is what a listing of the cloud says about it.
//! * [`cooldown::Cooldown`] leaves out for a while what the cloud proved not to have.
//!
//! GPUs are counted in `u64`, times are instants, and every limit is a named constant. What is written into a
//! snapshot is what was decided; what follows from it is computed again when it is read.
//!
//! # Invariants
//!
//! * **C-1** nothing is promised that is not there, at any instant, when it is admitted.
//! * **C-2** every GPU-second is accounted once: reserved, on demand, spot, idle or excluded.
//! * **A-7** an instance ends by exactly one cause.
//! * **L-1** every request ends in RUNNING or in a reason.
//! * **L-2** what is billed ran.
//! * **L-3** to repeat, delay, lose or duplicate any call to the cloud changes no outcome.

pub mod auction;
pub mod calendar;
pub mod cooldown;
pub mod lifecycle;
pub mod nodes;
pub mod pool;
pub mod series;
pub mod steps;
pub mod supply;
