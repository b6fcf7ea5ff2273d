//! `hourglass price rerate`: prices of the past, looked at and changed.

use std::path::PathBuf;

use hourglass_consumers::api::RERATE_LINES_MAX;
use hourglass_ledger::cell::Clock;
use hourglass_ledger::core::{Command, RerateDraft, rerating};
use hourglass_units::{Instant, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::change::Change;
use super::super::instant;
use crate::client::{Server, not_understood};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::simulate::PricesFile;
use crate::wire::{self, WallClock};

/// Change prices of the past.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// From when the prices should have held
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Instant,
    /// Until when; not in the future
    #[arg(long, value_name = "TIME", value_parser = instant)]
    to: Instant,
    /// The prices: a file of a single rate card. Its name, version and start do not matter
    #[arg(long, value_name = "FILE")]
    card: PathBuf,
    /// For this tenant alone, in place of what it pays [default: the list changes]
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Say whose bill would change by how much, and change nothing
    #[arg(long, group = "what", required_unless_present = "commit")]
    preview: bool,
    /// Change the prices and post the corrections
    #[arg(long, group = "what")]
    commit: bool,
    /// Correct periods too that have an invoice: the corrections stand on the next one
    #[arg(long)]
    into_closed: bool,
    /// With --preview: each line that would change
    #[arg(long, conflicts_with = "commit")]
    lines: bool,
}

/// What would change, as the API answers too.
#[derive(Debug, Serialize, Deserialize)]
struct Preview {
    lines_compared: u64,
    lines_changed: u64,
    tenants: Vec<TenantChange>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lines: Vec<Line>,
    #[serde(default)]
    more_lines: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct TenantChange {
    tenant: String,
    currency: String,
    before: String,
    after: String,
    difference: String,
    periods: Vec<PeriodChange>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PeriodChange {
    period: String,
    closed: bool,
    before: String,
    after: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    instance: String,
    tenant: String,
    model: String,
    hour: String,
    price: String,
    quantity: String,
    amount: String,
}

/// Runs the command.
pub fn run(args: Args, server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let file = PricesFile::read(&args.card)?;
    let mut cards = file.cards.into_iter();
    let (Some(card), None, true) = (cards.next(), cards.next(), file.contracts.is_empty()) else {
        return Err(Failure::Usage(format!("{}: give a file of a single rate card", args.card.display())));
    };
    let Args { from, to, tenant, into_closed, .. } = args;
    let draft = RerateDraft { card, from, until: to, tenant, into_closed };
    let body = crate::commands::body(&draft)?;
    if args.commit {
        let resource = "/v1/ledger/transfers".to_owned();
        let change =
            Change { command: Command::Rerate(draft), path: "/v1/rerates".to_owned(), body, resource };
        return change.run(server, settings, format, |_| "prices of the past are changed".to_owned());
    }
    let preview = match server.client()? {
        Some(client) => client.post("/v1/rerates:preview", &body)?,
        None => preview_here(&draft, settings)?,
    };
    let mut preview: Preview = serde_json::from_value(preview).map_err(|error| not_understood(&error))?;
    if !args.lines {
        preview.lines.clear();
    }
    answer(format, &preview, |preview| text(preview, args.lines))
}

fn preview_here(draft: &RerateDraft, settings: &Resolved) -> Result<Value, Failure> {
    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let state = &loaded.state;
    let refused = |rejection: hourglass_ledger::core::Rejection| Failure::Rejected(rejection.to_string());
    let rerating = rerating::check(state, draft, WallClock.now().max(state.now())).map_err(refused)?;
    let mut lines: Vec<Value> = Vec::new();
    let mut more_lines = false;
    let preview = rerating::preview(state, &rerating, |line| {
        if lines.len() < RERATE_LINES_MAX {
            lines.extend(serde_json::to_value(line));
        } else {
            more_lines = true;
        }
    });
    let mut preview = crate::commands::body(&preview.map_err(refused)?)?;
    if let Some(preview) = preview.as_object_mut() {
        preview.insert("lines".to_owned(), Value::Array(lines));
        preview.insert("more_lines".to_owned(), json!(more_lines));
    }
    Ok(preview)
}

fn text(preview: &Preview, with_lines: bool) -> String {
    let Preview { lines_compared, lines_changed, tenants, lines, more_lines } = preview;
    if *lines_changed == 0 {
        return format!("nothing changes: {lines_compared} lines were compared");
    }
    let row = |texts: [&str; 6]| texts.map(str::to_owned).to_vec();
    let mut rows = Vec::new();
    for it in tenants {
        for period in &it.periods {
            let closed = if period.closed { "closed, corrected on the next invoice" } else { "open" };
            rows.push(row([&it.tenant, &period.period, &period.before, &period.after, &it.currency, closed]));
        }
        let (before, after) = (it.before.as_str(), it.after.as_str());
        rows.push(row([
            &it.tenant,
            "in total",
            before,
            after,
            &it.currency,
            &format!("difference {}", it.difference),
        ]));
    }
    let mut text = table(&["tenant", "period", "before", "after", "currency", ""], &[2, 3], rows);
    text.push_str(&format!("\n{lines_changed} lines would change, of {lines_compared} compared"));
    if with_lines {
        let cells = lines.iter().map(|it| {
            [&it.tenant, &it.instance, &it.model, &it.hour, &it.price, &it.quantity, &it.amount]
                .map(Clone::clone)
                .into()
        });
        let head = ["tenant", "instance", "model", "hour", "price", "GPU-hours", "amount"];
        text.push_str(&format!("\n{}", table(&head, &[4, 5, 6], cells)));
        if *more_lines {
            text.push_str(&format!("\nand more: only the first {RERATE_LINES_MAX} lines are listed"));
        }
    }
    text
}
