//! What the tests share: a core without a store, messages, and chance that a seed fixes.

use hourglass_ledger::core::rows::EventRows;
use hourglass_ledger::core::usage::UsageBatch;
use hourglass_ledger::core::{
    Answer, Command, Decision, IdempotencyKey, KeyGrant, Mode, Outcome, Policy, Position, Registration,
    Rejection, Request, Role, Scope, State, apply, decide,
};
use hourglass_ledger::log::{self, StoredEvent};
use hourglass_pricing::{ContractDraft, PriceDraft, PurchaseModel, RateCardDraft};
use hourglass_proto::v1;
use hourglass_units::{Currency, Instant, Price};
use prost::Message;

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

pub(crate) fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(ms).unwrap()
}

pub(crate) fn ms(text: &str) -> i64 {
    text.parse::<Instant>().unwrap().unix_ms()
}

/// A core that keeps its log and its rows in memory.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) state: State,
    pub(crate) chain: blake3::Hash,
    pub(crate) events: Vec<StoredEvent>,
    pub(crate) rows: Vec<EventRows>,
    pub(crate) now: i64,
}

impl Core {
    /// Before the first event.
    pub(crate) fn new(now: i64) -> Self {
        let (events, rows) = (Vec::new(), Vec::new());
        Self { state: State::empty(), chain: log::genesis(), events, rows, now }
    }

    /// An open cell with a card (H100 at 2.95 on demand and 1.25 spot) and the tenants.
    pub(crate) fn open(now: i64, policy: Policy, tenants: &[(&str, Currency)]) -> Self {
        let mut core = Self::new(now);
        core.run(open_cell(policy)).unwrap();
        let currencies: std::collections::BTreeSet<Currency> = tenants.iter().map(|(_, it)| *it).collect();
        for currency in currencies {
            core.run(Command::PublishRateCard(card(currency, 1, now, 2_950_000_000))).unwrap();
        }
        for (tenant, currency) in tenants {
            core.run(open_tenant(tenant, *currency)).unwrap();
        }
        core
    }

    pub(crate) fn run(&mut self, command: Command) -> Result<Answer, Rejection> {
        self.submit(&command, None).map(|outcome| outcome.answer().clone())
    }

    /// Decides and applies; an event must read back from its bytes.
    pub(crate) fn submit(
        &mut self,
        command: &Command,
        key: Option<IdempotencyKey>,
    ) -> Result<Outcome, Rejection> {
        let now = at(self.now).max(self.state.now());
        let request = Request { command, key, now, chain_hash: self.chain };
        match decide(&self.state, &request)? {
            Decision::AlreadyApplied(answer) => Ok(Outcome::AlreadyApplied(answer)),
            Decision::Happens(recorded) => {
                let position = self.state.position();
                let stored = StoredEvent::chain(&self.chain, position.next(), 1, now, &recorded);
                assert_eq!(stored.open(position, &self.chain).unwrap(), recorded, "it must read back");
                let mut rows = EventRows::default();
                let answer = apply(&mut self.state, now, &recorded, &mut rows).unwrap();
                self.chain = stored.hash;
                self.events.push(stored);
                self.rows.push(rows);
                Ok(Outcome::Applied(answer))
            }
        }
    }

    /// The state and the chain at a position, from the log alone.
    pub(crate) fn replay(&self, until: Position) -> (State, blake3::Hash) {
        let (mut state, mut chain) = (State::empty(), log::genesis());
        for event in self.events.iter().take_while(|event| event.position <= until) {
            let recorded = event.open(state.position(), &chain).unwrap();
            apply(&mut state, event.at, &recorded, &mut EventRows::default()).unwrap();
            chain = event.hash;
        }
        (state, chain)
    }
}

pub(crate) fn open_cell(policy: Policy) -> Command {
    Command::OpenCell { region: "eu".parse().unwrap(), policy }
}

pub(crate) fn open_tenant(tenant: &str, currency: Currency) -> Command {
    Command::OpenTenant { tenant: tenant.parse().unwrap(), currency, display_name: tenant.to_uppercase() }
}

pub(crate) fn price_draft(model: PurchaseModel, nanos: i64) -> PriceDraft {
    PriceDraft {
        platform: "h100".parse().unwrap(),
        region: "eu".parse().unwrap(),
        model,
        price: Price::from_nanos(nanos).unwrap(),
        from: None,
        until: None,
        components: Vec::new(),
    }
}

/// A version of the list of a currency: on demand at `nanos`, spot at less than half of it.
pub(crate) fn card(currency: Currency, version: u32, from: i64, nanos: i64) -> RateCardDraft {
    RateCardDraft {
        name: format!("list-{currency}").parse().unwrap(),
        version,
        currency,
        effective_from: at(from),
        prices: vec![
            price_draft(PurchaseModel::OnDemand, nanos),
            price_draft(PurchaseModel::Spot, spot_price(nanos)),
        ],
    }
}

pub(crate) fn spot_price(nanos: i64) -> i64 {
    nanos * 3 / 7
}

/// A contract for on-demand prices.
pub(crate) fn contract(version: u32, from: i64, until: Option<i64>, nanos: i64) -> ContractDraft {
    ContractDraft {
        name: "deal".parse().unwrap(),
        version,
        effective_from: at(from),
        effective_until: until.map(at),
        prices: vec![price_draft(PurchaseModel::OnDemand, nanos)],
        terms: Default::default(),
    }
}

pub(crate) fn registration(instance: &str, tenant: &str, gpus: u32) -> Registration {
    Registration {
        instance: instance.parse().unwrap(),
        tenant: tenant.parse().unwrap(),
        project: "ml".parse().unwrap(),
        platform: "h100".parse().unwrap(),
        mode: Mode::OnDemand,
        gpus,
        agent: None,
        hold: None,
        fabric: None,
    }
}

pub(crate) fn start(instance: &str, from: i64) -> Command {
    Command::StartInstance { instance: instance.parse().unwrap(), at: at(from) }
}

pub(crate) fn stop(instance: &str, from: i64) -> Command {
    Command::StopInstance { instance: instance.parse().unwrap(), at: at(from), cause: "user".to_owned() }
}

pub(crate) fn finalise(tenant: &str, period: &str) -> Command {
    Command::FinaliseInvoice { tenant: tenant.parse().unwrap(), period: period.parse().unwrap() }
}

pub(crate) fn record(instance: &str, gpus: u32, start: i64, end: i64) -> v1::UsageRecord {
    v1::UsageRecord {
        instance_id: instance.to_owned(),
        session: 1,
        start_unix_ms: start,
        end_unix_ms: end,
        gpus,
        evidence: None,
    }
}

pub(crate) fn batch(agent: &str, first_seq: u64, records: Vec<v1::UsageRecord>) -> UsageBatch {
    let batch = v1::UsageBatch { agent_id: agent.to_owned(), epoch: 1, first_seq, records };
    UsageBatch::parse(batch.encode_to_vec().into()).unwrap()
}

pub(crate) fn usage(instance: &str, gpus: u32, start: i64, end: i64) -> Command {
    Command::AcceptUsage(batch("agent-1", 0, vec![record(instance, gpus, start, end)]))
}

/// A key of `acme` that reads and holds until the end of 2026; its hash follows from its id.
pub(crate) fn customer_key(id: &str) -> KeyGrant {
    KeyGrant {
        id: id.parse().unwrap(),
        hash: blake3::hash(id.as_bytes()).into(),
        name: "ci".to_owned(),
        role: Role::Customer,
        tenant: Some("acme".parse().unwrap()),
        agent: None,
        scopes: [Scope::Read].into(),
        expires_at: Some("2027-01-01T00:00:00Z".parse().unwrap()),
    }
}
