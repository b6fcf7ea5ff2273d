//! The steps in the life of an instance, as its owner is shown them: when it came, ran, was told to stop
//! and stopped, and why (A-7, L-1).
//!
//! A step is noted where the fold makes it, and written as a row when the event is folded: between
//! events nothing is noted, so no state and no snapshot holds any.

use hourglass_units::{InstanceId, Instant};

use super::command::Mode;
use super::rows::{Rows, TimelineRow};
use super::state::State;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// What happened to an instance.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum LifeStep {
            $($(#[$doc])* $name,)+
        }

        impl LifeStep {
            /// Every step.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The stable code.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

steps! {
    /// It became known: it was asked for, or its bid won.
    Registered = "registered",
    /// It ran from then on.
    Started = "started",
    /// It is sold differently from then on.
    SoldDifferently = "sold_differently",
    /// It was told to stop.
    ToldToStop = "told_to_stop",
    /// It ran no longer.
    Stopped = "stopped",
    /// It never ran, and will not.
    Failed = "failed",
    /// What was reported of it is not to count, from then on for a time.
    UsageVoided = "usage_voided",
}

/// A step that the event being folded makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) instance: InstanceId,
    pub(crate) step: LifeStep,
    pub(crate) at: Instant,
    pub(crate) cause: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) deadline: Option<Instant>,
}

impl Noted {
    /// A step that needs no reason.
    pub(crate) fn new(instance: &InstanceId, step: LifeStep, at: Instant) -> Self {
        Self { instance: instance.clone(), step, at, cause: None, detail: None, deadline: None }
    }

    /// With a reason; an empty detail is none.
    pub(crate) fn because(self, cause: &str, detail: &str) -> Self {
        let detail = (!detail.is_empty()).then(|| detail.to_owned());
        Self { cause: Some(cause.to_owned()), detail, ..self }
    }

    /// How it is sold.
    pub(crate) fn sold(self, mode: &Mode) -> Self {
        let of = match mode {
            Mode::OnDemand => String::new(),
            Mode::Reserved { reservation } => format!("reservation {reservation}"),
            Mode::Spot { bid, limit, fabric } => {
                let bid = bid.as_ref().map(|bid| format!("bid {bid}"));
                let limit = limit.map(|limit| format!("at most {limit} per GPU-hour"));
                let fabric = fabric.as_ref().map(|fabric| format!("in {fabric}"));
                bid.into_iter().chain(limit).chain(fabric).collect::<Vec<_>>().join(", ")
            }
        };
        self.because(mode.model().as_str(), &of)
    }
}

/// Writes down what the event made.
pub(super) fn write(state: &mut State, rows: &mut impl Rows) {
    for noted in std::mem::take(&mut state.noted) {
        let Noted { instance, step, at, cause, detail, deadline } = noted;
        // Nothing is noted of what is not registered.
        let Some(view) = state.instance(instance.as_str()) else { continue };
        let tenant = view.tenant().clone();
        rows.timeline(TimelineRow { tenant, instance, step, at, cause, detail, deadline });
    }
}
