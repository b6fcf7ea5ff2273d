//! How an instance is sold over time: its mode timeline (P-1).
//!
//! What was *assigned* is what the caller said. What was *resolved* is what is billed: where a
//! reservation has no room for the whole instance, the instance is billed on demand. Nearly every
//! instance has one mode for all its life, which is kept in place.

use hourglass_units::{BidId, Fabric, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Price, ReservationId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::command::Mode;
use super::groups::GroupIx;

/// Most changes of one instance's mode.
pub const MODE_CHANGES_MAX: usize = 10_000;

/// From an instant on, billed in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModeStep {
    pub(crate) from: Instant,
    pub(crate) group: GroupIx,
    /// A spot instance never costs more.
    pub(crate) limit: Option<Price>,
}

/// The timeline of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Modes {
    /// One for all time.
    One(ModeStep),
    /// Several.
    Many(Box<ManyModes>),
}

/// More than one mode, or one that depends on a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManyModes {
    /// What the caller said, in order of time.
    pub(crate) assigned: Vec<(Instant, Mode)>,
    /// What is billed, in order of time; the first begins at the beginning of time.
    pub(crate) resolved: Vec<ModeStep>,
}

impl Modes {
    /// A single mode from the beginning of time.
    pub(crate) fn one(group: GroupIx, limit: Option<Price>) -> Self {
        Self::One(ModeStep { from: INSTANT_MIN, group, limit })
    }

    /// What is billed, in order of time.
    pub(crate) fn steps(&self) -> &[ModeStep] {
        match self {
            Self::One(step) => std::slice::from_ref(step),
            Self::Many(many) => &many.resolved,
        }
    }

    /// The step that holds at the instant, and until when it does.
    pub(crate) fn at(&self, at: Instant) -> Option<(ModeStep, Instant)> {
        match self {
            Self::One(step) => Some((*step, INSTANT_MAX)),
            Self::Many(many) => {
                let next = many.resolved.partition_point(|step| step.from <= at);
                let until = many.resolved.get(next).map_or(INSTANT_MAX, |step| step.from);
                Some((*many.resolved.get(next.checked_sub(1)?)?, until))
            }
        }
    }

    /// The parts of the window with one step each, in order: a partition of it.
    pub(crate) fn within(&self, window: Interval) -> impl Iterator<Item = (Interval, ModeStep)> {
        let steps = self.steps();
        let first = steps.partition_point(|step| step.from <= window.start()).saturating_sub(1);
        let steps = steps.get(first..).unwrap_or_default();
        let ends = steps.iter().skip(1).map(|step| step.from).chain([INSTANT_MAX]);
        steps.iter().zip(ends).take_while(move |(step, _)| step.from < window.end()).filter_map(
            move |(step, end)| Some((Interval::between(step.from, end)?.intersection(window)?, *step)),
        )
    }

    /// The newest mode as it was said, where it depends on more than its group.
    pub(crate) fn assigned_last(&self) -> Option<&Mode> {
        match self {
            Self::One(_) => None,
            Self::Many(many) => many.assigned.last().map(|(_, mode)| mode),
        }
    }

    /// The step of the newest mode.
    pub(crate) fn newest(&self) -> Option<&ModeStep> {
        self.steps().last()
    }
}

impl ManyModes {
    /// When each assigned mode holds, in order of time.
    pub(crate) fn assigned(&self) -> impl Iterator<Item = (Interval, &Mode)> {
        let ends = self.assigned.iter().skip(1).map(|(from, _)| *from).chain([INSTANT_MAX]);
        self.assigned
            .iter()
            .zip(ends)
            .filter_map(|((from, mode), end)| Some((Interval::between(*from, end)?, mode)))
    }
}

/// A mode as people read it: `{"model": "spot", "limit": "1.5"}`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case", deny_unknown_fields)]
enum Tagged {
    OnDemand,
    Reserved {
        reservation: ReservationId,
    },
    Spot {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bid: Option<BidId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<Price>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fabric: Option<Fabric>,
    },
}

/// A mode as snapshots hold it: their format knows fields by place.
#[derive(Serialize, Deserialize)]
enum Placed {
    OnDemand,
    Reserved(ReservationId),
    Spot(Option<BidId>, Option<Price>, Option<Fabric>),
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let readable = serializer.is_human_readable();
        match self.clone() {
            Self::OnDemand if readable => Tagged::OnDemand.serialize(serializer),
            Self::Reserved { reservation } if readable => {
                Tagged::Reserved { reservation }.serialize(serializer)
            }
            Self::Spot { bid, limit, fabric } if readable => {
                Tagged::Spot { bid, limit, fabric }.serialize(serializer)
            }
            Self::OnDemand => Placed::OnDemand.serialize(serializer),
            Self::Reserved { reservation } => Placed::Reserved(reservation).serialize(serializer),
            Self::Spot { bid, limit, fabric } => Placed::Spot(bid, limit, fabric).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            Ok(match Tagged::deserialize(deserializer)? {
                Tagged::OnDemand => Self::OnDemand,
                Tagged::Reserved { reservation } => Self::Reserved { reservation },
                Tagged::Spot { bid, limit, fabric } => Self::Spot { bid, limit, fabric },
            })
        } else {
            Ok(match Placed::deserialize(deserializer)? {
                Placed::OnDemand => Self::OnDemand,
                Placed::Reserved(reservation) => Self::Reserved { reservation },
                Placed::Spot(bid, limit, fabric) => Self::Spot { bid, limit, fabric },
            })
        }
    }
}
