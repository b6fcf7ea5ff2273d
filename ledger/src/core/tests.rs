//! The core alone: what decisions and folds must hold, without a store.

use hourglass_pricing::RateCardDraft;
use hourglass_proto::v1;
use hourglass_units::{Currency, Instant};
use prost::Message;

use super::rows::EventRows;
use super::usage::UsageBatch;
use super::{Command, Decision, Registration, Rejection, Request, State, apply, decide, digest, invoicing};

/// A core with its rows and no store: what a simulation drives.
pub(crate) struct Bench {
    pub(crate) state: State,
    pub(crate) rows: EventRows,
    pub(crate) now: Instant,
}

pub(crate) fn at(text: &str) -> Instant {
    text.parse().unwrap()
}

impl Bench {
    /// A cell with a card (H100 on demand at 2.95, spot at 1.25) and tenant `acme`.
    pub(crate) fn new() -> Self {
        let mut bench =
            Self { state: State::empty(), rows: EventRows::default(), now: at("2026-01-01T00:00:00Z") };
        bench
            .run(Command::OpenCell { region: "eu".parse().unwrap(), policy: super::Policy::default() })
            .unwrap();
        bench.run(Command::PublishRateCard(card())).unwrap();
        let (tenant, display_name) = ("acme".parse().unwrap(), "Acme".to_owned());
        bench.run(Command::OpenTenant { tenant, currency: Currency::USD, display_name }).unwrap();
        bench
    }

    pub(crate) fn run(&mut self, command: Command) -> Result<super::Answer, Rejection> {
        let request =
            Request { command: &command, key: None, now: self.now, chain_hash: crate::log::genesis() };
        match decide(&self.state, &request)? {
            Decision::AlreadyApplied(answer) => Ok(answer),
            Decision::Happens(recorded) => {
                let read_back = super::Recorded::decode(&recorded.encode()).unwrap();
                assert_eq!(read_back, recorded, "an event must read back from the log");
                Ok(apply(&mut self.state, self.now, &recorded, &mut self.rows).unwrap())
            }
        }
    }

    pub(crate) fn register(&mut self, instance: &str, gpus: u32) -> Result<super::Answer, Rejection> {
        self.run(Command::RegisterInstance(Registration {
            instance: instance.parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            project: "ml".parse().unwrap(),
            platform: "h100".parse().unwrap(),
            mode: super::Mode::OnDemand,
            gpus,
            agent: None,
            hold: None,
            fabric: None,
        }))
    }

    pub(crate) fn start(&mut self, instance: &str, at: Instant) -> Result<super::Answer, Rejection> {
        self.run(Command::StartInstance { instance: instance.parse().unwrap(), at })
    }

    pub(crate) fn stop(&mut self, instance: &str, at: Instant) -> Result<super::Answer, Rejection> {
        self.run(Command::StopInstance { instance: instance.parse().unwrap(), at, cause: "user".to_owned() })
    }

    pub(crate) fn report(&mut self, instance: &str, gpus: u32, start: Instant, end: Instant) {
        self.run(Command::AcceptUsage(batch(&[(instance, gpus, start, end)]))).unwrap();
    }
}

fn card() -> RateCardDraft {
    let price = |model, price: &str| hourglass_pricing::PriceDraft {
        platform: "h100".parse().unwrap(),
        region: "eu".parse().unwrap(),
        model,
        price: hourglass_units::Price::parse(price).unwrap(),
        from: None,
        until: None,
        components: Vec::new(),
    };
    RateCardDraft {
        name: "list".parse().unwrap(),
        version: 1,
        currency: Currency::USD,
        effective_from: at("2026-01-01T00:00:00Z"),
        prices: vec![
            price(hourglass_pricing::PurchaseModel::OnDemand, "2.95"),
            price(hourglass_pricing::PurchaseModel::Spot, "1.25"),
        ],
    }
}

pub(crate) fn batch(records: &[(&str, u32, Instant, Instant)]) -> UsageBatch {
    let records = records.iter().map(|(instance, gpus, start, end)| v1::UsageRecord {
        instance_id: (*instance).to_owned(),
        session: 1,
        start_unix_ms: start.unix_ms(),
        end_unix_ms: end.unix_ms(),
        gpus: *gpus,
        evidence: None,
    });
    let batch =
        v1::UsageBatch { agent_id: "agent-1".to_owned(), epoch: 1, first_seq: 0, records: records.collect() };
    UsageBatch::parse(batch.encode_to_vec().into()).unwrap()
}

#[test]
fn a_report_becomes_a_line_a_transfer_and_an_invoice() {
    let mut bench = Bench::new();
    bench.register("i-1", 8).unwrap();
    bench.now = at("2026-01-01T02:01:00Z");
    bench.start("i-1", at("2026-01-01T00:30:00Z")).unwrap();
    bench.report("i-1", 8, at("2026-01-01T00:30:00Z"), at("2026-01-01T01:00:00Z"));
    bench.report("i-1", 8, at("2026-01-01T00:50:00Z"), at("2026-01-01T02:00:01Z"));
    bench.run(Command::Tick).unwrap();
    // 5,401 s × 8 GPUs, of which 1 s × 8 lies in the hour that is still open.
    let charges: Vec<_> =
        bench.rows.charges.iter().map(|row| (row.milliseconds, row.quantity.to_string())).collect();
    assert_eq!(charges, [(1_800_000, "4".to_owned()), (3_600_000, "8".to_owned())]);
    assert_eq!(bench.rows.transfers.len(), 1);
    assert_eq!(bench.rows.transfers[0].amount.to_string(), "35.4065555549");

    bench.stop("i-1", at("2026-01-01T02:00:00Z")).unwrap();
    bench.run(Command::Tick).unwrap();
    let codes: Vec<_> = bench.rows.transfers.iter().map(|row| row.code.as_str()).collect();
    assert_eq!(codes, ["accrual", "accrual_reversal"]);
    assert!(bench.rows.transfers[1].reverses.is_some());
    let accounting = bench.state.accounting(|_| true, true);
    assert!(accounting.balances());
    assert_eq!((accounting.billed_ms, accounting.excluded_ms.get("not_running")), (5_400_000, Some(&1_000)));

    let finalise = |period: &str| Command::FinaliseInvoice {
        tenant: "acme".parse().unwrap(),
        period: period.parse().unwrap(),
    };
    assert_eq!(bench.run(finalise("2026-01")).unwrap_err().code(), "period_open");
    bench.now = at("2026-02-04T00:00:00Z");
    assert_eq!(invoicing::due(&bench.state, bench.now).len(), 1);
    bench.run(finalise("2026-01")).unwrap();
    assert_eq!(bench.run(finalise("2026-01")).unwrap_err().code(), "period_finalised");
    let invoice = invoicing::Invoice::from_document(&bench.rows.invoices[0].document).unwrap();
    assert_eq!((invoice.number, invoice.total.to_string().as_str()), (1, "35.4"));
    let balances: Vec<_> = bench.state.book().balances().map(|(a, _, sum)| format!("{a} {sum}")).collect();
    assert_eq!(
        balances,
        ["assets:unbilled:acme 0", "assets:receivable:acme 35.4", "income:revenue:h100:on_demand -35.4"]
    );
    assert!(digest(&bench.state).is_ok());
}

#[test]
fn what_comes_late_for_a_closed_hour_is_written_by_the_next_tick() {
    let mut bench = Bench::new();
    bench.register("i-1", 1).unwrap();
    bench.now = at("2026-01-01T02:01:00Z");
    bench.start("i-1", at("2026-01-01T00:30:00Z")).unwrap();
    bench.run(Command::Tick).unwrap();
    bench.report("i-1", 1, at("2026-01-01T01:00:00Z"), at("2026-01-01T01:10:00Z"));
    bench.run(Command::Tick).unwrap();
    assert_eq!(bench.rows.charges.len(), 1);
    // The hour that is open goes on growing, and is written when it closes.
    bench.report("i-1", 1, at("2026-01-01T02:00:00Z"), at("2026-01-01T02:01:00Z"));
    bench.report("i-1", 1, at("2026-01-01T01:10:00Z"), at("2026-01-01T01:20:00Z"));
    bench.run(Command::Tick).unwrap();
    assert_eq!(bench.rows.charges.len(), 2);
    bench.now = at("2026-01-01T03:00:00Z");
    bench.run(Command::Tick).unwrap();
    let written: Vec<_> = bench.rows.charges.iter().map(|row| row.milliseconds).collect();
    assert_eq!(written, [600_000, 600_000, 60_000]);
    assert_eq!(bench.state.unwritten_lines().count(), 0);
}

/// A key of `acme` that reads and holds until the end of 2026.
pub(crate) fn customer_key(id: &str) -> super::KeyGrant {
    super::KeyGrant {
        id: id.parse().unwrap(),
        hash: blake3::hash(id.as_bytes()).into(),
        name: "ci".to_owned(),
        role: super::Role::Customer,
        tenant: Some("acme".parse().unwrap()),
        agent: None,
        scopes: [super::Scope::Read].into(),
        expires_at: Some(at("2027-01-01T00:00:00Z")),
    }
}

/// A contract with terms, a reservation, a spot price, credit, tax, an SLA incident and a re-rating.
fn what_is_sold_otherwise(bench: &mut Bench) {
    let acme = || "acme".parse().unwrap();
    let terms = r#"{"minimum": "10", "sla": {"credit_percent": "100", "xids": [79], "valid_days": 30}}"#;
    let contract = hourglass_pricing::ContractDraft {
        name: "deal".parse().unwrap(),
        version: 1,
        effective_from: at("2026-03-01T00:00:00Z"),
        effective_until: None,
        prices: Vec::new(),
        terms: serde_json::from_str(terms).unwrap(),
    };
    bench.run(Command::SignContract { tenant: acme(), contract }).unwrap();
    let reservation = hourglass_pricing::reservation::ReservationDraft {
        reservation: "r-1".parse().unwrap(),
        project: "ml".parse().unwrap(),
        platform: "h100".parse().unwrap(),
        gpus: 8,
        from: at("2026-02-04T00:00:00Z"),
        until: at("2026-02-05T00:00:00Z"),
        payment: hourglass_pricing::reservation::Payment::Upfront { price: "2".parse_price() },
        fabric: None,
    };
    bench.run(Command::Reserve { tenant: acme(), reservation }).unwrap();
    let (instance, mode) =
        ("i-1".parse().unwrap(), super::Mode::Reserved { reservation: "r-1".parse().unwrap() });
    bench.run(Command::ChangeMode { instance, mode, at: at("2026-02-03T12:00:00Z") }).unwrap();
    let (platform, currency, price) = ("h100".parse().unwrap(), Currency::USD, "1.5".parse_price());
    bench.run(Command::SetSpotPrice { platform, currency, price, fabric: None, from: None }).unwrap();
    let credit =
        r#"{"credit": "c-1", "kind": "promotional", "amount": "5", "valid_until": "2026-02-04T12:00:00Z"}"#;
    let credit = serde_json::from_str(credit).unwrap();
    bench.run(Command::GrantCredit { tenant: acme(), credit }).unwrap();
    let tax = r#"{"name": "VAT", "rate_percent": "19", "kind": "exclusive", "rounding": "line"}"#;
    bench.run(Command::SetTax { tenant: acme(), tax: Some(serde_json::from_str(tax).unwrap()) }).unwrap();
    let mut card = card();
    card.name = "again".parse().unwrap();
    let (from, until) = (at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
    let rerate = super::RerateDraft { card, from, until, tenant: None, into_closed: false };
    bench.run(Command::Rerate(rerate)).unwrap();
}

/// Reads a price, or fails the test.
trait ParsePrice {
    fn parse_price(&self) -> hourglass_units::Price;
}

impl ParsePrice for str {
    fn parse_price(&self) -> hourglass_units::Price {
        hourglass_units::Price::parse(self).unwrap()
    }
}

/// A budget with a threshold that was reached, and a webhook with two secrets.
fn who_is_told(bench: &mut Bench) {
    let draft = r#"{"description": "", "amount": "0.01", "project": null, "platform": null, "model": null,
        "thresholds": ["50"], "forecast_thresholds": ["100"]}"#;
    let draft = Some(serde_json::from_str(draft).unwrap());
    let (tenant, budget) = ("acme".parse().unwrap(), "all".parse().unwrap());
    bench.run(super::quotas::QuotaCommand::SetBudget { tenant, budget, draft }.into()).unwrap();
    bench.run(super::quotas::QuotaCommand::Review.into()).unwrap();
    let draft = r#"{"url": "https://example.com/", "description": "", "events": ["*"], "enabled": true}"#;
    let draft = serde_json::from_str(draft).unwrap();
    let secret = |text: &str| super::webhooks::SealedSecret::new(text.to_owned()).unwrap();
    for action in [
        super::webhooks::WebhookAction::Create { draft, secret: secret("first") },
        super::webhooks::WebhookAction::Rotate { secret: secret("second"), overlap_ms: 1_000 },
    ] {
        let (owner, webhook) = (Some("acme".parse().unwrap()), "billing".parse().unwrap());
        bench.run(super::webhooks::WebhookCommand { owner, webhook, action }.into()).unwrap();
    }
}

/// A state in which every part holds something, and its snapshot.
pub(crate) fn a_state_of_everything() -> (State, crate::snapshot::Snapshot) {
    let mut bench = Bench::new();
    bench.register("i-1", 8).unwrap();
    bench.now = at("2026-01-01T02:01:00Z");
    bench.start("i-1", at("2026-01-01T00:30:00Z")).unwrap();
    bench.report("i-1", 8, at("2026-01-01T00:30:00Z"), at("2026-01-01T01:00:00Z"));
    bench.report("i-1", 4, at("2026-01-01T01:00:00Z"), at("2026-01-01T01:10:00Z"));
    bench.report("unknown", 8, at("2026-01-01T00:30:00Z"), at("2026-01-01T01:00:00Z"));
    bench.run(Command::Tick).unwrap();
    bench.report("i-1", 8, at("2026-01-01T01:20:00Z"), at("2026-01-01T02:01:00Z"));
    bench.now = at("2026-02-04T00:00:00Z");
    what_is_sold_otherwise(&mut bench);
    let (tenant, period) = ("acme".parse().unwrap(), "2026-01".parse().unwrap());
    bench.run(Command::FinaliseInvoice { tenant, period }).unwrap();
    let labels = hourglass_units::Labels::new([("team", "research")]).unwrap();
    bench.run(Command::LabelInstance { instance: "i-1".parse().unwrap(), labels }).unwrap();
    bench.run(Command::Tick).unwrap();
    bench.run(Command::ClosePeriod { month: period }).unwrap();
    bench.run(Command::CreateKey(customer_key("a1b2c3d4e5f6"))).unwrap();
    bench.run(Command::RevokeKey { id: "a1b2c3d4e5f6".parse().unwrap() }).unwrap();
    who_is_told(&mut bench);
    let snapshot = crate::snapshot::Snapshot::of(&bench.state, &crate::log::genesis()).unwrap();
    (bench.state, snapshot)
}
