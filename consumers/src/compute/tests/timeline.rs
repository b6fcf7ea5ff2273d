//! What the steps of each instance say together.

use std::collections::BTreeMap;

use hourglass_ledger::core::rows::TimelineRow;
use hourglass_ledger::core::{LifeStep, State};
use hourglass_units::{INSTANT_MAX, InstanceId};

/// All steps, by instance.
#[derive(Default)]
pub(super) struct Timeline(BTreeMap<InstanceId, Vec<TimelineRow>>);

impl Timeline {
    pub(super) fn note(&mut self, rows: Vec<TimelineRow>) {
        for row in rows {
            self.0.entry(row.instance.clone()).or_default().push(row);
        }
    }

    /// L-1 and A-7: each instance came once; whatever is over says why, once, and with the cause that it
    /// was told where it was told to stop; what runs began when its last step says.
    pub(super) fn says_why(&self, state: &State) {
        for instance in state.instances() {
            let id = instance.id();
            let steps = self.0.get(id).map(Vec::as_slice).unwrap_or_default();
            let of = |step: LifeStep| steps.iter().filter(move |row| row.step == step);
            assert_eq!(steps.first().map(|row| row.step), Some(LifeStep::Registered), "{id}");
            assert_eq!(of(LifeStep::Registered).count(), 1, "{id} came once");
            assert!(steps.iter().all(|row| row.tenant == *instance.tenant()), "{id}");
            assert!(of(LifeStep::ToldToStop).count() <= 1, "A-7: {id} was told once: {steps:?}");
            let ends: Vec<_> = of(LifeStep::Stopped).chain(of(LifeStep::Failed)).collect();
            let running = instance.running();
            match instance.running_since() {
                Some(since) => {
                    assert!(ends.is_empty(), "{id} runs");
                    assert_eq!(of(LifeStep::Started).next_back().map(|row| row.at), Some(since), "{id}");
                }
                // It holds quota while it is wanted and not up yet.
                None if instance.unheld().is_some() => assert!(ends.is_empty(), "{id} is on its way"),
                None => {
                    let [end] = ends[..] else { panic!("L-1: {id} ended once, with a reason: {steps:?}") };
                    let cause = end.cause.as_deref().unwrap_or_default();
                    assert!(!cause.is_empty(), "{id}: {end:?}");
                    if let Some(last) = running.last().filter(|last| last.end() != INSTANT_MAX) {
                        assert_eq!(end.at, last.end(), "{id} says when it ran last");
                    }
                    let told = of(LifeStep::ToldToStop).next().and_then(|row| row.cause.as_deref());
                    let code = if told == Some("owner") { "owner_stopped" } else { told.unwrap_or(cause) };
                    let by_itself = matches!(cause, "provider" | "cloud_error" | "not_enough_resources");
                    assert!(by_itself || code == cause, "A-7: {id} was told {told:?} and ended by {cause}");
                }
            }
        }
    }
}
