//! Instances that report in order, and the batches that they come in.

use hourglass_ledger::core::rows::NoRows;
use hourglass_ledger::core::usage::UsageBatch;
use hourglass_ledger::core::{
    Command, Decision, Mode, Outcome, Policy, Recorded, Registration, Request, State, apply, decide,
};
use hourglass_pricing::{PriceDraft, PurchaseModel, RateCardDraft};
use hourglass_proto::v1;
use hourglass_units::{AgentId, Currency, Instant, Price};
use prost::Message;
use prost::bytes::Bytes;

/// Records in a batch.
pub(crate) const RECORDS: usize = 1_000;
/// Length of a report.
pub(crate) const REPORT_MS: i64 = 60_000;

/// When everything starts.
pub(crate) fn opens_at() -> Instant {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

/// Who pays for instances.
pub(crate) const TENANTS: usize = 50;
/// GPUs of an instance.
pub(crate) const GPUS: u32 = 8;

/// Which tenant an instance belongs to.
pub(crate) fn tenant(n: usize) -> String {
    format!("tenant-{:02}", n % TENANTS)
}

/// What an instance costs, nanos a GPU-hour.
pub(crate) fn price_nanos(n: usize) -> i64 {
    card_price((n / 200 % 4) * 2 + n / 800 % 2)
}

/// The price of a platform and model: there are eight.
fn card_price(n: usize) -> i64 {
    1_250_000_000 + 100_000_000 * n as i64
}

/// The commands that make so many instances known and start them: 50 tenants, 4 projects each, 4
/// platforms, two models.
pub(crate) fn set_up(instances: usize) -> impl Iterator<Item = Command> {
    set_up_at(opens_at(), instances, |_| None)
}

/// As [`set_up`], at another time and with instances bound to agents.
pub(crate) fn set_up_at(
    opens_at: Instant,
    instances: usize,
    agent: impl Fn(usize) -> Option<AgentId>,
) -> impl Iterator<Item = Command> {
    let platform = |n: usize| format!("gpu-{}", n % 4).parse().expect("a platform");
    let model = |n: usize| if n.is_multiple_of(2) { PurchaseModel::OnDemand } else { PurchaseModel::Spot };
    let price = move |n: usize| PriceDraft {
        platform: platform(n / 2),
        region: "bench".parse().expect("a region"),
        model: model(n),
        price: Price::from_nanos(card_price(n)).expect("a price"),
        from: None,
        until: None,
        components: Vec::new(),
    };
    let card = RateCardDraft {
        name: "list".parse().expect("a name"),
        version: 1,
        currency: Currency::USD,
        effective_from: opens_at,
        prices: (0..8).map(price).collect(),
    };
    let open = Command::OpenCell { region: "bench".parse().expect("a region"), policy: Policy::default() };
    let tenants = (0..TENANTS).map(|n| Command::OpenTenant {
        tenant: tenant(n).parse().expect("a tenant"),
        currency: Currency::USD,
        display_name: tenant(n),
    });
    let running = (0..instances).flat_map(move |n| {
        let instance: hourglass_units::InstanceId = id(n).parse().expect("an id");
        let registration = Registration {
            instance: instance.clone(),
            tenant: tenant(n).parse().expect("a tenant"),
            project: format!("project-{}", n / 50 % 4).parse().expect("a project"),
            platform: platform(n / 200),
            mode: match model(n / 800) {
                PurchaseModel::Spot => Mode::SPOT,
                _ => Mode::OnDemand,
            },
            gpus: GPUS,
            agent: agent(n),
            hold: None,
            fabric: None,
        };
        [Command::RegisterInstance(registration), Command::StartInstance { instance, at: opens_at }]
    });
    [open, Command::PublishRateCard(card)].into_iter().chain(tenants).chain(running)
}

/// An id as clouds give them: of that length, and as good as random (SplitMix64's finaliser), so that
/// batches compress no better than real ones.
pub(crate) fn id(n: usize) -> String {
    let mut mixed = (n as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("computeinstance-e00{:016x}", mixed ^ (mixed >> 31))
}

/// The batches of one round, in which every instance reports one more interval.
pub(crate) fn round(instances: usize, round: usize) -> Vec<Bytes> {
    let start = opens_at().unix_ms() + round as i64 * REPORT_MS;
    let numbers: Vec<usize> = (0..instances).collect();
    let batch = |numbers: &[usize]| {
        let agent = numbers.first().copied().unwrap_or(0) / RECORDS;
        let record = |n: &usize| v1::UsageRecord {
            instance_id: id(*n),
            session: 1,
            start_unix_ms: start,
            end_unix_ms: start + REPORT_MS,
            gpus: GPUS,
            evidence: None,
        };
        let batch = v1::UsageBatch {
            agent_id: format!("agent-{agent:04}"),
            epoch: 1,
            first_seq: (round * RECORDS) as u64,
            records: numbers.iter().map(record).collect(),
        };
        Bytes::from(batch.encode_to_vec())
    };
    numbers.chunks(RECORDS).map(batch).collect()
}

/// Decides and applies a command on a bare state.
pub(crate) fn run(state: &mut State, command: &Command, now: Instant) {
    let chain_hash = hourglass_ledger::log::genesis();
    let request = Request { command, key: None, now, chain_hash };
    match decide(state, &request).expect("a command that is accepted") {
        Decision::Happens(recorded) => {
            let _answer = apply(state, now, &recorded, &mut NoRows).expect("an event that applies");
        }
        Decision::AlreadyApplied(_) => {}
    }
}

/// Decides and applies a command that may be refused.
pub(crate) fn answer(state: &mut State, command: &Command, now: Instant) -> Option<Outcome> {
    let chain_hash = hourglass_ledger::log::genesis();
    match decide(state, &Request { command, key: None, now, chain_hash }).ok()? {
        Decision::Happens(recorded) => {
            Some(Outcome::Applied(apply(state, now, &recorded, &mut NoRows).expect("an event that applies")))
        }
        Decision::AlreadyApplied(answer) => Some(Outcome::AlreadyApplied(answer)),
    }
}

/// Decodes and applies a batch: all that metering is.
pub(crate) fn meter(state: &mut State, raw: Bytes, now: Instant) {
    let batch = UsageBatch::parse(raw).expect("a batch");
    let recorded = Recorded { key: None, event: hourglass_ledger::core::Event::UsageAccepted(batch) };
    let _answer = apply(state, now, &recorded, &mut NoRows).expect("an event that applies");
}
