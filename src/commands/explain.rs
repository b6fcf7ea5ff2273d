//! `hourglass explain`: how a charge or an invoice line was computed.

use hourglass_consumers::billing::explain::{
    ChargeExplained, InvoiceLineExplained, TransferExplained, charge, invoice_line, period_of,
};
use hourglass_consumers::billing::report::AsOf;
use hourglass_ledger::core::explain::{self, LineExplained, ModeExplained, PartExplained};
use hourglass_ledger::core::invoicing::Invoice;
use hourglass_units::{InstanceId, Instant, Interval, TenantId};
use serde::Serialize;

use super::usage::whole_hour;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// How a charge or an invoice line was computed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// What an instance cost within a UTC hour: coverage, prices and where they come from, reports, rows
    Charge {
        /// Whose usage
        instance: InstanceId,
        /// The start of the hour
        #[arg(value_parser = super::instant)]
        hour: Instant,
    },
    /// A line of an invoice: its rule, the usage that it counts, what was posted
    Invoice {
        /// Whose
        tenant: TenantId,
        /// Which invoice
        number: u64,
        /// Which line, from 1
        line: usize,
    },
}

/// An answer as of a log position: what HTTP answers too.
#[derive(Debug, Serialize)]
struct Answer<T> {
    as_of: AsOf,
    #[serde(flatten)]
    explained: T,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    match args.action {
        Action::Charge { instance, hour } => explain_charge(settings, &instance, hour, format),
        Action::Invoice { tenant, number, line } => explain_line(settings, &tenant, number, line, format),
    }
}

fn explain_charge(
    settings: &Resolved,
    instance: &InstanceId,
    hour: Instant,
    format: Format,
) -> Result<(), Failure> {
    let hour = whole_hour(hour)?;
    let (reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let state = &loaded.state;
    let found = explain::hour(state, instance.as_str(), hour).zip(state.cell());
    let unknown = || Failure::Rejected(format!("instance {instance} is not known"));
    let (explained, cell) = found.ok_or_else(unknown)?;
    let explained = charge(reader.as_ref(), explained, cell.policy, state.position())?;
    answer(format, &Answer { as_of: AsOf::of(state), explained }, charge_text)
}

fn explain_line(
    settings: &Resolved,
    tenant: &TenantId,
    number: u64,
    line: usize,
    format: Format,
) -> Result<(), Failure> {
    let (reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let state = &loaded.state;
    let stored = reader.invoice(tenant, number)?;
    let stored = stored.ok_or_else(|| Failure::Rejected(format!("{tenant} has no invoice {number}")))?;
    let invoice = Invoice::from_document(&stored.document)
        .map_err(|error| Failure::Unsound(format!("{error}; run `hourglass verify`")))?;
    let no_line = || Failure::Rejected(format!("invoice {number} of {tenant} has no line {line}"));
    let period = state.period_interval(tenant, period_of(&invoice, line).ok_or_else(no_line)?);
    let explained = invoice_line(reader.as_ref(), &invoice, stored.position, line, period)?;
    let explained = explained.ok_or_else(no_line)?;
    answer(format, &Answer { as_of: AsOf::of(state), explained }, line_text)
}

/// A heading, and what stands below it; nothing where there is nothing.
fn section(heading: &str, lines: Vec<String>) -> Option<String> {
    if lines.is_empty() { None } else { Some(format!("\n{heading}\n  {}", lines.join("\n  "))) }
}

/// A heading and a table below it.
fn table_section(heading: &str, head: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> Option<String> {
    if rows.is_empty() { None } else { Some(format!("\n{heading}\n{}", table(head, right, rows))) }
}

fn spans(intervals: &[Interval]) -> String {
    if intervals.is_empty() {
        return "nothing".to_owned();
    }
    intervals.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn charge_text(answer: &Answer<ChargeExplained>) -> String {
    let it = &answer.explained;
    let hour = &it.hour;
    let mut coverage = vec![
        format!("reported  {}", spans(&hour.reported)),
        format!("running   {}", spans(&hour.running)),
        format!("voided    {}", spans(&hour.voided)),
    ];
    for (reason, parts) in &hour.excluded {
        coverage.push(format!("excluded  {} ({reason})", spans(parts)));
    }
    let mut text = vec![format!(
        "{} of {}: {} GPUs of {} in the hour of {}, billing period {}",
        hour.instance, hour.tenant, hour.gpus, hour.platform, hour.hour, hour.period
    )];
    text.extend(section("Coverage: billed is what was reported while it ran and was not voided", coverage));
    text.extend(section("Sold", hour.modes.iter().map(mode_text).collect()));
    for line in &hour.lines {
        text.extend(section(&format!("Line: {}", line_name(line)), line_lines(line, hour.gpus)));
    }
    if hour.lines.is_empty() {
        text.push("\nNothing is billed in this hour".to_owned());
    }
    let evidence = it.evidence.iter().map(|it| {
        let (first, reported) = (spans(&it.first), spans(&it.reported));
        vec![it.position.to_string(), it.at.to_string(), it.agent.clone(), reported, first]
    });
    let head = ["position", "taken at", "agent", "reported", "of that first"];
    let heading = if it.evidence_is_complete {
        "Evidence: the reports that cover it"
    } else {
        "Evidence: reports that cover a part of it; beyond a limit no more events were looked through"
    };
    text.extend(table_section(heading, &head, &[0], evidence.collect()));
    let rows = it.rows.iter().map(|row| {
        let place = [row.position.to_string(), row.line.to_string(), row.model.to_string()];
        let numbers = [row.price.to_string(), row.milliseconds.to_string(), row.quantity.to_string()];
        place.into_iter().chain(numbers).chain([row.amount.to_string()]).collect()
    });
    let head = ["position", "row", "model", "price", "milliseconds", "GPU-hours", "amount"];
    text.extend(table_section(
        "Rows: together they are the lines",
        &head,
        &[0, 1, 3, 4, 5, 6],
        rows.collect(),
    ));
    text.extend(transfers_text("Accruals that hold it, with others of the same accounts", &it.transfers));
    text.push(as_of_text(&answer.as_of));
    text.join("\n")
}

fn mode_text(mode: &ModeExplained) -> String {
    let since = mode.from.map_or_else(|| "since it is known".to_owned(), |from| format!("since {from}"));
    let more = [
        mode.reservation.as_ref().map(|it| format!(" out of {it}")),
        mode.bid.as_ref().map(|it| format!(" by bid {it}")),
        mode.limit.map(|it| format!(" at most {it} per GPU-hour")),
    ];
    let more: String = more.into_iter().flatten().collect();
    format!("{}{more}, {since}", mode.model)
}

fn line_name(line: &LineExplained) -> String {
    let reservation = line.reservation.as_ref().map(|it| format!(" out of {it}")).unwrap_or_default();
    format!(
        "{} for {}{reservation} at {} {} per GPU-hour",
        line.model, line.project, line.price, line.currency
    )
}

fn line_lines(line: &LineExplained, gpus: u32) -> Vec<String> {
    let LineExplained { milliseconds, quantity, price, amount, currency, .. } = line;
    let mut lines: Vec<String> = line.parts.iter().flat_map(part_lines).collect();
    lines.push(format!("{milliseconds} ms × {gpus} GPUs / 3,600,000 = {quantity} GPU-hours, half to even"));
    lines.push(format!("{quantity} GPU-hours × {price} = {amount} {currency}, exactly"));
    lines
}

/// An interval, who says its price, and what that is made of.
fn part_lines(part: &PartExplained) -> Vec<String> {
    let list = part.list.as_ref().map(|list| format!(", discounted from {} of {}", list.price, list.source));
    let limit = part.above_limit.map(|price| format!(", limited: it would be {price}"));
    let more: String = [list, limit].into_iter().flatten().collect();
    let components = part.components.iter().map(|it| format!("  {} {} × {}", it.name, it.quantity, it.price));
    let price = format!("{} price of {}{more}", part.interval, part.source);
    std::iter::once(price).chain(components).collect()
}

fn line_text(answer: &Answer<InvoiceLineExplained>) -> String {
    let it = &answer.explained;
    let line = &it.text;
    let words = [
        Some(line.kind.as_str().to_owned()),
        line.project.as_ref().map(|project| format!("for {project}")),
        line.platform.as_ref().map(ToString::to_string),
        line.model.map(|model| model.to_string()),
        line.reservation.as_ref().map(|reservation| format!("out of {reservation}")),
        line.credit.as_ref().map(|credit| format!("by {credit}")),
    ];
    let what = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let mut text =
        vec![format!("Line {} of invoice {} of {}: {what}, {}", it.line, it.number, it.tenant, line.period)];
    text.extend(section("How", it.how.clone()));
    text.extend(section("Prices of the invoice", it.prices.clone()));
    let usage = it.usage.iter().map(|it| {
        let numbers = [it.quantity.to_string(), it.unit_price.to_string(), it.amount.to_string()];
        std::iter::once(it.instance.to_string()).chain(numbers).collect()
    });
    let heading = format!(
        "Usage that it counts: {} GPU-hours{}",
        it.usage_quantity,
        if it.usage_is_complete { "" } else { "; beyond a limit there is more" }
    );
    let head = ["instance", "GPU-hours", "unit price", "amount"];
    text.extend(table_section(&heading, &head, &[1, 2, 3], usage.collect()));
    text.extend(transfers_text("Posted when it was finalised", &it.transfers));
    text.push(as_of_text(&answer.as_of));
    text.join("\n")
}

fn transfers_text(heading: &str, transfers: &[TransferExplained]) -> Option<String> {
    let rows = transfers.iter().map(|it| {
        let reverses = it.reverses.map(|position| position.to_string()).unwrap_or_default();
        let place = [it.position.to_string(), it.code.to_owned()];
        let moved = [it.debit.clone(), it.credit.clone(), it.amount.to_string(), reverses];
        place.into_iter().chain(moved).collect()
    });
    let head = ["position", "code", "debit", "credit", "amount", "reverses"];
    table_section(heading, &head, &[0, 4, 5], rows.collect())
}

fn as_of_text(as_of: &AsOf) -> String {
    format!("\nas of {} (position {})", as_of.time, as_of.position)
}
