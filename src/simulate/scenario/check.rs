//! Whether what a file expects is so.
//!
//! A subject is looked up as candidates, each a set of named facts; an expectation is met where exactly
//! one candidate has all of its fields. So a failure can always say what there was instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use hourglass_ledger::core::Position;
use hourglass_ledger::core::invoicing::{self, Invoice};
use hourglass_ledger::core::{Account, State};
use hourglass_ledger::store::{PAGE_ROWS_MAX, Page, Reader, RowKey, StoreError};
use hourglass_units::{
    Amount, CreditId, Currency, Hour, InstanceId, Instant, Month, Quantity, ReservationId, TenantId,
};
use serde_json::Value;

use super::expect_quota::QuotaSubject;
use super::market::{self, MarketSubject};
use super::quota::Names;

/// Candidates that a failure shows.
const SHOWN_MAX: usize = 20;

/// Something that must be so.
#[derive(Debug, Clone)]
pub struct Expectation {
    pub(super) subject: Subject,
    /// Names and values, as they are written.
    pub(super) fields: Vec<(String, String)>,
}

/// What an expectation is about.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    Balance {
        account: Account,
        currency: Option<Currency>,
    },
    Line {
        instance: InstanceId,
        hour: Instant,
    },
    Lines {
        instance: InstanceId,
    },
    Unused {
        reservation: ReservationId,
        hour: Option<Instant>,
    },
    Metering {
        instance: InstanceId,
    },
    Credit {
        credit: CreditId,
        tenant: TenantId,
    },
    Credits {
        tenant: TenantId,
    },
    Invoice {
        tenant: TenantId,
        number: u64,
    },
    InvoiceLine {
        tenant: TenantId,
        number: u64,
    },
    Invoices {
        tenant: TenantId,
    },
    Draft {
        tenant: TenantId,
        period: Month,
    },
    DraftLine {
        tenant: TenantId,
        period: Month,
    },
    /// Something of quota.
    Quota(QuotaSubject),
    /// Something of the market.
    Market(MarketSubject),
}

/// What is known of a candidate.
pub(super) type Facts = BTreeMap<String, String>;

impl Expectation {
    /// Whether it is so; else what there is.
    pub(super) fn check(&self, state: &State, reader: &Arc<dyn Reader>, names: &Names) -> Result<(), String> {
        let candidates = match &self.subject {
            Subject::Quota(subject) => subject.candidates(state, names),
            subject => subject.resolved(names).candidates(state, reader)?,
        };
        let meets = |facts: &Facts| {
            self.fields.iter().all(|(name, value)| facts.get(name).is_some_and(|found| same(found, value)))
        };
        match candidates.iter().filter(|facts| meets(facts)).count() {
            1 => Ok(()),
            0 => Err(self.shown(&candidates)),
            several => {
                Err(format!("{several} that are like this: name more fields\n{}", self.shown(&candidates)))
            }
        }
    }

    fn shown(&self, candidates: &[Facts]) -> String {
        let shown = candidates.iter().take(SHOWN_MAX).map(|facts| {
            let facts: Vec<String> = facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
            facts.join(" ")
        });
        let shown: Vec<String> = shown.collect();
        if shown.is_empty() { "nothing".to_owned() } else { shown.join("\n") }
    }
}

/// Texts that say the same: as they are, as decimals or as times.
fn same(a: &str, b: &str) -> bool {
    let decimals = || Amount::parse(a).ok().zip(Amount::parse(b).ok()).is_some_and(|(a, b)| a == b);
    let times = || a.parse::<Instant>().ok().zip(b.parse().ok()).is_some_and(|(a, b)| a == b);
    a == b || decimals() || times()
}

/// A duration as it is compared and shown, such as `1h30m`.
pub(super) fn span(milliseconds: i64) -> String {
    let duration = std::time::Duration::from_millis(milliseconds.unsigned_abs());
    let text = humantime::format_duration(duration).to_string().replace(' ', "");
    if milliseconds == 0 { "0".to_owned() } else { text }
}

pub(super) fn facts<const N: usize>(facts: [(&str, String); N]) -> Facts {
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl Subject {
    /// With the instance that an id stands for.
    fn resolved(&self, names: &Names) -> Self {
        let mut subject = self.clone();
        if let Self::Line { instance, .. } | Self::Lines { instance } | Self::Metering { instance } =
            &mut subject
        {
            *instance = market::resolved_id(instance, names);
        }
        subject
    }

    fn candidates(&self, state: &State, reader: &Arc<dyn Reader>) -> Result<Vec<Facts>, String> {
        Ok(match self {
            Self::Balance { account, currency } => balances(state, account, *currency),
            Self::Line { instance, hour } => {
                let mut lines = lines(state, instance)?;
                lines.retain(|(of, _)| *of == Hour::containing(*hour));
                lines.into_iter().map(|(_, facts)| facts).collect()
            }
            Self::Lines { instance } => vec![count("lines", lines(state, instance)?.len())],
            Self::Unused { reservation, hour } => vec![unused(reader, reservation, *hour)?],
            Self::Metering { instance } => vec![metering(state, instance)],
            Self::Credit { credit, tenant } => {
                let grants = state.tenant(tenant).into_iter().flat_map(|tenant| &tenant.credits);
                grants.filter(|grant| grant.credit == *credit).map(grant).collect()
            }
            Self::Credits { tenant } => {
                vec![count("credits", state.tenant(tenant).map_or(0, |tenant| tenant.credits.len()))]
            }
            Self::Invoices { tenant } => {
                vec![count("invoices", state.tenant(tenant).map_or(0, |tenant| tenant.invoices.len()))]
            }
            Self::Invoice { tenant, number } => match finalised(reader, tenant, *number)? {
                None => Vec::new(),
                Some(invoice) => {
                    let mut found = head(&invoice);
                    let kept = state.tenant(tenant).and_then(|tenant| tenant.invoices.get(number));
                    if let Some(kept) = kept {
                        found.insert("status".to_owned(), kept.status.as_str().to_owned());
                        found.insert("paid".to_owned(), kept.paid.to_string());
                        found.insert("set_off".to_owned(), kept.set_off.to_string());
                    }
                    vec![found]
                }
            },
            Self::InvoiceLine { tenant, number } => {
                finalised(reader, tenant, *number)?.iter().flat_map(invoice_lines).collect()
            }
            Self::Draft { tenant, period } => vec![head(&draft(state, tenant, *period)?)],
            Self::DraftLine { tenant, period } => invoice_lines(&draft(state, tenant, *period)?),
            // What the file names is looked up with its names.
            Self::Quota(_) => Vec::new(),
            Self::Market(subject) => subject.candidates(state, reader)?,
        })
    }
}

/// What stands on an account, in one currency or in each that it has.
fn balances(state: &State, account: &Account, currency: Option<Currency>) -> Vec<Facts> {
    let wanted = |of: &Account, in_it: Currency| of == account && currency.is_none_or(|it| it == in_it);
    let found = state.book().balances().filter(|(of, in_it, _)| wanted(of, *in_it));
    let found: Vec<Facts> = found
        .map(|(_, in_it, sum)| facts([("balance", sum.to_string()), ("currency", in_it.to_string())]))
        .collect();
    if found.is_empty() { vec![facts([("balance", "0".to_owned())])] } else { found }
}

pub(super) fn count(name: &str, count: usize) -> Facts {
    facts([(name, count.to_string())])
}

fn lines(state: &State, instance: &InstanceId) -> Result<Vec<(Hour, Facts)>, String> {
    let Some(view) = state.instance(instance.as_str()) else { return Ok(Vec::new()) };
    let lines = state.lines_of(view).map_err(|error| error.to_string())?;
    let of = |view: &hourglass_ledger::core::LineView<'_>| {
        let line = view.line;
        let mut found = facts([
            ("model", view.sku().model.to_string()),
            ("price", line.price.to_string()),
            ("milliseconds", line.milliseconds.to_string()),
            ("quantity", line.quantity.to_string()),
            ("amount", line.price.times(line.quantity).to_string()),
        ]);
        found.extend(view.reservation().map(|it| ("reservation".to_owned(), it.to_string())));
        (line.hour, found)
    };
    Ok(lines.iter().map(of).collect())
}

/// Σ of the unused hours of a reservation, of one hour or of all.
fn unused(
    reader: &Arc<dyn Reader>,
    reservation: &ReservationId,
    hour: Option<Instant>,
) -> Result<Facts, String> {
    let (mut quantity, mut cost) = (Quantity::ZERO, Amount::ZERO);
    for row in unused_rows(reader).map_err(|error| error.to_string())? {
        if row.reservation != *reservation || hour.is_some_and(|hour| row.hour != Hour::containing(hour)) {
            continue;
        }
        let overflow = || "the unused hours are too many to add up".to_owned();
        quantity = quantity.checked_add(row.quantity).ok_or_else(overflow)?;
        cost = cost.checked_add(row.effective_cost).ok_or_else(overflow)?;
    }
    Ok(facts([("quantity", quantity.to_string()), ("cost", cost.to_string())]))
}

/// Every row of unused hours.
pub(super) fn unused_rows(
    reader: &Arc<dyn Reader>,
) -> Result<Vec<hourglass_ledger::core::rows::UnusedRow>, StoreError> {
    let mut page = Page { after: RowKey::default(), until: Position::new(u64::MAX), limit: PAGE_ROWS_MAX };
    let mut found = Vec::new();
    loop {
        let rows = reader.unused(None, page)?;
        let Some(last) = rows.last() else { return Ok(found) };
        page.after = last.key;
        found.extend(rows.into_iter().map(|keyed| keyed.row));
    }
}

fn metering(state: &State, instance: &InstanceId) -> Facts {
    let sum = state.accounting(|view| view.id() == instance, false);
    let mut found = facts([
        ("measured", span(sum.measured_ms)),
        ("billed", span(sum.billed_ms)),
        ("unreported", span(sum.unreported_ms)),
    ]);
    let reasons = hourglass_ledger::core::Exclusion::ALL;
    for reason in reasons.map(hourglass_ledger::core::Exclusion::as_str) {
        found.insert(reason.to_owned(), span(sum.excluded_ms.get(reason).copied().unwrap_or(0)));
    }
    found
}

fn grant(grant: &hourglass_ledger::core::Grant) -> Facts {
    facts([
        ("kind", grant.kind.as_str().to_owned()),
        ("amount", grant.amount.to_string()),
        ("drawn", grant.drawn.to_string()),
        ("expired", grant.expired.to_string()),
        ("remaining", grant.remaining().map_or_else(|| "out of range".to_owned(), |it| it.to_string())),
        ("closed", grant.closed.to_string()),
        ("note", grant.note.clone()),
    ])
}

/// An invoice as the log holds it.
pub(super) fn finalised(
    reader: &Arc<dyn Reader>,
    tenant: &TenantId,
    number: u64,
) -> Result<Option<Invoice>, String> {
    let stored = reader.invoice(tenant, number).map_err(|error| error.to_string())?;
    stored.map(|it| Invoice::from_document(&it.document).map_err(|error| error.to_string())).transpose()
}

fn draft(state: &State, tenant: &TenantId, period: Month) -> Result<Invoice, String> {
    // A preview says from which log it was drawn; a scenario looks at what it says of money.
    let nothing = blake3::hash(&[]);
    invoicing::draw(state, tenant, period, 0, state.now(), &nothing).map_err(|error| error.to_string())
}

fn head(invoice: &Invoice) -> Facts {
    let mut found = scalars(invoice);
    found.insert("lines".to_owned(), invoice.lines.len().to_string());
    let (base, tax) = invoice.tax.as_ref().map_or((Amount::ZERO, Amount::ZERO), |tax| (tax.base, tax.amount));
    found.insert("tax_base".to_owned(), base.to_string());
    found.insert("tax".to_owned(), tax.to_string());
    found.extend(invoice.commitments.first().map(|it| ("drawn".to_owned(), it.drawn.to_string())));
    for name in ["number", "tenant", "issued_at", "period_start", "period_end"] {
        found.remove(name);
    }
    found
}

fn invoice_lines(invoice: &Invoice) -> Vec<Facts> {
    let of = |line| {
        let mut found = scalars(line);
        found.entry("correction".to_owned()).or_insert_with(|| "false".to_owned());
        found
    };
    invoice.lines.iter().map(of).collect()
}

/// The fields of a document that are neither lists nor documents.
pub(super) fn scalars(document: &impl serde::Serialize) -> Facts {
    let fields = match serde_json::to_value(document) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let text = |value: Value| match value {
        Value::String(text) => Some(text),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    fields.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect()
}
