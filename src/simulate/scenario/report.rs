//! What came of a scenario: final lines, unused hours, balances, credits and invoices, exact.

use std::collections::BTreeMap;
use std::sync::Arc;

use hourglass_consumers::billing::report::{AsOf, BalanceRow, balances};
use hourglass_ledger::core::invoicing::Invoice;
use hourglass_ledger::core::{self, State};
use hourglass_ledger::store::{Reader, StoreError};
use hourglass_units::{Amount, Quantity, TenantId};
use serde::Serialize;

use super::check::{finalised, unused_rows};
use super::run::{Failed, Played, RefusedStep};
use crate::output::table;

/// All that came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    as_of: AsOf,
    /// Of final lines, balances and invoices.
    pub digest: String,
    lines: Vec<Line>,
    unused: Vec<Unused>,
    balances: Vec<BalanceRow>,
    credits: Vec<Credit>,
    invoices: Vec<FinalInvoice>,
    /// Those that were refused.
    steps: Vec<RefusedStep>,
    /// What the file expects.
    pub expectations: Expectations,
}

/// How many expectations were met, and which were not.
#[derive(Debug, Serialize)]
pub struct Expectations {
    met: u64,
    /// Those that were not.
    pub failed: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct Line {
    instance: String,
    tenant: String,
    project: String,
    platform: String,
    model: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<String>,
    hour: String,
    price: String,
    milliseconds: i64,
    quantity: String,
    amount: String,
    currency: String,
}

#[derive(Debug, Serialize)]
struct Unused {
    reservation: String,
    tenant: String,
    project: String,
    platform: String,
    hour: String,
    quantity: String,
    effective_cost: String,
    currency: String,
}

#[derive(Debug, Serialize)]
struct Credit {
    tenant: TenantId,
    #[serde(flatten)]
    grant: core::Grant,
    remaining: Option<Amount>,
}

/// An invoice with what became of it.
#[derive(Debug, Serialize)]
struct FinalInvoice {
    status: core::InvoiceStatus,
    paid: Amount,
    #[serde(flatten)]
    invoice: Invoice,
}

/// Sums it up from the state and the rows. The error says what cannot be read.
pub fn report(state: &State, reader: &Arc<dyn Reader>, played: Played) -> Result<Report, String> {
    let Played { refused, met, failed } = played;
    Ok(Report {
        as_of: AsOf::of(state),
        digest: core::digest(state).map_err(|error| error.to_string())?.to_hex().to_string(),
        lines: lines(state)?,
        unused: unused(reader).map_err(|error| error.to_string())?,
        balances: balances(state, None).rows,
        credits: credits(state),
        invoices: invoices(state, reader)?,
        steps: refused,
        expectations: Expectations { met, failed },
    })
}

fn lines(state: &State) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for view in state.lines() {
        let view = view.map_err(|error| error.to_string())?;
        let (line, sku) = (view.line, view.sku());
        lines.push(Line {
            instance: view.instance.id().to_string(),
            tenant: view.instance.tenant().to_string(),
            project: view.project().to_string(),
            platform: sku.platform.to_string(),
            model: sku.model.as_str(),
            reservation: view.reservation().map(ToString::to_string),
            hour: line.hour.to_string(),
            price: line.price.to_string(),
            milliseconds: line.milliseconds,
            quantity: line.quantity.to_string(),
            amount: line.price.times(line.quantity).to_string(),
            currency: view.instance.currency().to_string(),
        });
    }
    Ok(lines)
}

/// Unused hours added up, since late usage makes a second row of an hour.
fn unused(reader: &Arc<dyn Reader>) -> Result<Vec<Unused>, StoreError> {
    let mut sums: BTreeMap<_, (Quantity, Amount)> = BTreeMap::new();
    for row in unused_rows(reader)? {
        let key = (row.reservation, row.hour, row.tenant, row.project, row.platform, row.currency);
        let (quantity, cost) = sums.entry(key).or_insert((Quantity::ZERO, Amount::ZERO));
        let overflow = || StoreError("the unused hours are too many to add up".to_owned());
        *quantity = quantity.checked_add(row.quantity).ok_or_else(overflow)?;
        *cost = cost.checked_add(row.effective_cost).ok_or_else(overflow)?;
    }
    let left = sums.into_iter().filter(|(_, (quantity, cost))| !quantity.is_zero() || !cost.is_zero());
    let unused =
        left.map(|((reservation, hour, tenant, project, platform, currency), (quantity, cost))| Unused {
            reservation: reservation.to_string(),
            tenant: tenant.to_string(),
            project: project.to_string(),
            platform: platform.to_string(),
            hour: hour.to_string(),
            quantity: quantity.to_string(),
            effective_cost: cost.to_string(),
            currency: currency.to_string(),
        });
    Ok(unused.collect())
}

fn credits(state: &State) -> Vec<Credit> {
    let of = |(id, tenant): (&TenantId, &core::Tenant)| {
        let id = id.clone();
        let credits = tenant.credits.clone().into_iter();
        credits.map(move |grant| Credit { tenant: id.clone(), remaining: grant.remaining(), grant })
    };
    state.tenants().flat_map(of).collect()
}

fn invoices(state: &State, reader: &Arc<dyn Reader>) -> Result<Vec<FinalInvoice>, String> {
    let mut invoices = Vec::new();
    for (id, tenant) in state.tenants() {
        for (number, kept) in &tenant.invoices {
            let lost = || format!("invoice {number} of {id} has no document");
            let invoice = finalised(reader, id, *number)?.ok_or_else(lost)?;
            invoices.push(FinalInvoice { status: kept.status, paid: kept.paid, invoice });
        }
    }
    Ok(invoices)
}

impl Report {
    /// Tables, for people.
    pub fn to_text(&self) -> String {
        let mut parts = vec![self.lines_text()];
        if !self.unused.is_empty() {
            parts.push(self.unused_text());
        }
        parts.push(self.balances_text());
        if !self.credits.is_empty() {
            parts.push(self.credits_text());
        }
        parts.extend(self.invoices.iter().map(FinalInvoice::to_text));
        let refused = self.steps.iter().map(RefusedStep::to_text);
        parts.extend(refused);
        parts.extend(self.expectations.failed.iter().map(Failed::to_text));
        let Expectations { met, failed } = &self.expectations;
        let verdict = match failed.len() {
            0 => format!("all {met} expectations met"),
            not => format!("{met} expectations met, {not} not"),
        };
        parts.push(format!("{verdict}; position {}, digest {}", self.as_of.position, self.digest));
        parts.join("\n\n")
    }

    fn lines_text(&self) -> String {
        let rows = self.lines.iter().map(|it| {
            let reservation = it.reservation.clone().unwrap_or_default();
            let numbers = [&it.price, &it.quantity, &it.amount, &it.currency].map(Clone::clone);
            [it.hour.clone(), it.instance.clone(), it.project.clone(), it.model.to_owned(), reservation]
                .into_iter()
                .chain(numbers)
                .collect()
        });
        let head =
            ["hour", "instance", "project", "model", "reservation", "price", "GPU-hours", "amount", ""];
        format!("Lines\n{}", table(&head, &[5, 6, 7], rows))
    }

    fn unused_text(&self) -> String {
        let rows = self.unused.iter().map(|it| {
            [&it.hour, &it.reservation, &it.quantity, &it.effective_cost, &it.currency]
                .map(Clone::clone)
                .into()
        });
        format!(
            "Reserved and not used\n{}",
            table(&["hour", "reservation", "GPU-hours", "cost", ""], &[2, 3], rows)
        )
    }

    fn balances_text(&self) -> String {
        let rows =
            self.balances.iter().map(|it| [&it.account, &it.balance, &it.currency].map(Clone::clone).into());
        format!("Balances\n{}", table(&["account", "balance", ""], &[1], rows))
    }

    fn credits_text(&self) -> String {
        let rows = self.credits.iter().map(|Credit { tenant, grant, remaining }| {
            let remaining = remaining.map(|it| it.to_string()).unwrap_or_default();
            let amounts = [grant.amount, grant.drawn, grant.expired].map(|it| it.to_string());
            [grant.credit.to_string(), tenant.to_string(), grant.kind.as_str().to_owned()]
                .into_iter()
                .chain(amounts)
                .chain([remaining])
                .collect()
        });
        let head = ["credit", "tenant", "kind", "granted", "drawn", "expired", "left"];
        format!("Credits\n{}", table(&head, &[3, 4, 5, 6], rows))
    }
}

impl FinalInvoice {
    fn to_text(&self) -> String {
        let Self { status, paid, invoice } = self;
        let currency = invoice.currency;
        let rows = invoice.lines.iter().map(|line| {
            let text = |it: Option<String>| it.unwrap_or_default();
            let correction = if line.correction { "correction " } else { "" };
            let what = [
                text(line.project.as_ref().map(ToString::to_string)),
                text(line.platform.as_ref().map(ToString::to_string)),
                text(line.model.map(|it| it.to_string())),
                text(line.reservation.as_ref().map(ToString::to_string)),
                text(line.credit.as_ref().map(ToString::to_string)),
                text(line.rule.clone()),
            ];
            let what: Vec<String> = what.into_iter().filter(|it| !it.is_empty()).collect();
            vec![
                format!("{correction}{}", line.kind.as_str()),
                line.period.to_string(),
                what.join(" "),
                text(line.price.map(|it| it.to_string())),
                text(line.quantity.map(|it| it.to_string())),
                line.exact_amount.to_string(),
                line.amount.to_minor_string(currency),
            ]
        });
        let head = ["line", "period", "what", "price", "GPU-hours", "exact", "amount"];
        let tax = invoice.tax.as_ref().map_or_else(String::new, |tax| {
            format!("{} {}, ", tax.rule.name, tax.amount.to_minor_string(currency))
        });
        let minor = |amount: Amount| amount.to_minor_string(currency);
        format!(
            "{} {} of {} for {}, {}: total {}, {tax}due {} {currency}, paid {}\n{}",
            invoice.kind.as_str(),
            invoice.number,
            invoice.tenant,
            invoice.period,
            status.as_str(),
            minor(invoice.total),
            minor(invoice.due),
            minor(*paid),
            table(&head, &[3, 4, 5, 6], rows)
        )
    }
}
