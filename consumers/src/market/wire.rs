//! Between messages and what the core understands. Whatever is wrong with a message is found here.

use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::market::{Bid, BidChange, BidDraft};
use hourglass_ledger::core::quotas::Target;
use hourglass_ledger::core::{Outcome, State};
use hourglass_proto::v1;
use hourglass_units::{Instant, Price};

use crate::billing::market::{BidState, UnitState, state_of, unit_state};
use crate::refusal::Refusal;

type Result<T> = std::result::Result<T, Refusal>;

/// Reads a text of a message.
pub(super) fn read<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| Refusal::invalid(field, error.to_string()))
}

fn price(field: &str, text: &str) -> Result<Price> {
    Price::parse(text).map_err(|error| Refusal::invalid(field, error.to_string()))
}

fn time(field: &str, unix_ms: i64) -> Result<Instant> {
    Instant::from_unix_ms(unix_ms).map_err(|error| Refusal::invalid(field, error.to_string()))
}

/// The pools of a message, by name.
pub(super) fn pools(texts: &[String]) -> Result<Vec<PoolName>> {
    texts.iter().map(|text| read("pools", text)).collect()
}

/// A bid to place.
pub(super) fn draft(spec: Option<v1::BidSpec>) -> Result<BidDraft> {
    let spec = spec.ok_or_else(|| Refusal::invalid("spec", "it is missing"))?;
    Ok(BidDraft {
        bid: read("spec.bid", &spec.bid)?,
        project: read("spec.project", &spec.project)?,
        pools: pools(&spec.pools)?,
        gpus_per_unit: spec.gpus_per_unit,
        min_units: spec.min_units,
        max_units: spec.max_units,
        limit: price("spec.limit", &spec.limit)?,
        notice_ms: spec.notice_seconds.map(|seconds| i64::from(seconds).saturating_mul(1_000)),
        expires_at: spec.expires_unix_ms.map(|at| time("spec.expires_unix_ms", at)).transpose()?,
    })
}

/// A change of a bid.
pub(super) fn change(request: &v1::UpdateBidRequest) -> Result<BidChange> {
    let change = BidChange {
        limit: request.limit.as_ref().map(|limit| price("limit", limit)).transpose()?,
        min_units: request.min_units,
        max_units: request.max_units,
        expires_at: request.expires_unix_ms.map(|at| time("expires_unix_ms", at)).transpose()?,
    };
    if change == BidChange::default() {
        return Err(Refusal::invalid("limit", "nothing is to change: give at least one change"));
    }
    Ok(change)
}

/// The answer to a request about a bid.
pub(super) fn bid_response(outcome: &Outcome) -> Result<v1::BidResponse> {
    let answer = outcome.answer();
    let hourglass_ledger::core::Detail::Bid { number } = answer.detail else {
        tracing::error!(?outcome, "the core answered something else than was asked");
        return Err(Refusal::internal());
    };
    let already_applied = matches!(outcome, Outcome::AlreadyApplied(_));
    Ok(v1::BidResponse { number, position: answer.position.number(), already_applied })
}

/// A bid as it is told.
pub(super) fn bid(state: &State, number: u64, bid: &Bid) -> v1::Bid {
    let draft = &bid.draft;
    let seconds = |ms: i64| u32::try_from(ms.div_euclid(1_000)).unwrap_or(u32::MAX);
    let price = |pool: &PoolName| state.market().pool(pool)?.cleared.map(|it| it.price.to_string());
    let is = match state_of(state, bid) {
        BidState::Waiting => v1::BidState::Waiting,
        BidState::Winning => v1::BidState::Winning,
        BidState::Cancelled => v1::BidState::Cancelled,
        BidState::Expired => v1::BidState::Expired,
    };
    v1::Bid {
        tenant: bid.tenant.to_string(),
        spec: Some(v1::BidSpec {
            bid: draft.bid.to_string(),
            project: draft.project.to_string(),
            pools: draft.pools.iter().map(ToString::to_string).collect(),
            gpus_per_unit: draft.gpus_per_unit,
            min_units: draft.min_units,
            max_units: draft.max_units,
            limit: draft.limit.to_string(),
            notice_seconds: draft.notice_ms.map(seconds),
            expires_unix_ms: draft.expires_at.map(Instant::unix_ms),
        }),
        number,
        state: is.into(),
        pool: bid.held.as_ref().map(|(pool, _)| pool.to_string()).unwrap_or_default(),
        units: bid.held.as_ref().map_or(0, |(_, units)| *units),
        price: bid.held.as_ref().and_then(|(pool, _)| price(pool)).unwrap_or_default(),
        instances: bid.instances(state).map(|instance| unit(state, instance)).collect(),
    }
}

fn unit(state: &State, instance: &hourglass_units::InstanceId) -> v1::BidUnit {
    let is = match unit_state(state, instance) {
        UnitState::Accepted => v1::UnitState::Accepted,
        UnitState::Running => v1::UnitState::Running,
        UnitState::Stopping => v1::UnitState::Stopping,
    };
    let order = state.quotas().preemption(&Target::Instance(instance.clone()));
    v1::BidUnit {
        instance: instance.to_string(),
        state: is.into(),
        cause: order.map(|order| order.cause.to_string()).unwrap_or_default(),
        reason: order.map(|order| order.reason.clone()).unwrap_or_default(),
        deadline_unix_ms: order.map_or(0, |order| order.deadline.unix_ms()),
    }
}
