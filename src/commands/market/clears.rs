//! Clearings, their receipts, and why a bid has what it has.

use std::path::PathBuf;

use hourglass_consumers::billing::market::{
    self, ClearError, ClearRow, ReceiptDocument, Replayed, WhyRow, about, clearing, clearings_before,
};
use hourglass_ledger::core::market::{MarketCommand, MarketRejection, Trigger};
use hourglass_units::{BidId, Percent, TenantId};
use serde_json::{Value, json};

use super::{Act, Method, Where, number};
use crate::client::{Server, not_understood};
use crate::commands::change::AFTER_HELP;
use crate::commands::tenant_of;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// The spot market: clear it, read and replay receipts, ask why.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Clear all pools now
    Clear,
    /// Clearings, newest first
    Clears {
        /// How many at most: 1 to 1,000
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        last: u16,
    },
    /// The receipt of a clearing; with --json all that is needed to run it again
    Receipt {
        /// Which clearing, by its log position
        clear: u64,
    },
    /// Clear the book of a receipt again and compare. Exits with 1 where anything differs
    Replay(Replay),
    /// Why a bid has what it has, and with which limit it would have won
    Why {
        /// Whose
        tenant: TenantId,
        /// Which
        bid: BidId,
        /// In which clearing, by its log position [default: the last one in which it took part]
        #[arg(long)]
        clear: Option<u64>,
    },
    /// Let a tenant start nothing any more, and tell what it runs to stop
    Suspend {
        /// Who
        tenant: TenantId,
        /// Why, for the record
        #[arg(long)]
        reason: String,
    },
    /// Let a suspended tenant start instances again
    Resume {
        /// Who
        tenant: TenantId,
    },
    /// Show by how much a bid must exceed what runs to displace it, or set it
    Margin {
        /// The new one, in percent of the limit of what runs
        percent: Option<Percent>,
    },
}

#[derive(Debug, clap::Args)]
struct Replay {
    /// Which clearing, by its log position
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    clear: Option<u64>,
    /// A receipt in JSON, as `hourglass market receipt --json` or GET /v1/clears/N gives it
    #[arg(long)]
    file: Option<PathBuf>,
}

/// Something about a tenant.
fn of_tenant(
    at: Where<'_>,
    tenant: &TenantId,
    path: String,
    body: Value,
    command: MarketCommand,
    says: String,
) -> Result<(), Failure> {
    let resource = format!("/v1/tenants/{tenant}");
    let act = Act { method: Method::Post, path, body, of: None, resource };
    act.run(at, |_| Ok(command), |_| says)
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let at = Where { server: &args.server, settings, format };
    match args.action {
        Action::Clear => clear(at),
        Action::Clears { last } => list(usize::from(last), at),
        Action::Receipt { clear } => {
            let document = receipt(clear, at)?;
            answer(at.format, &document, receipt_text)
        }
        Action::Replay(args) => replay(&args, at),
        Action::Why { tenant, bid, clear } => why(&tenant, &bid, clear, at),
        Action::Suspend { tenant, reason } => {
            let says = format!("{tenant} is suspended");
            let path = format!("/v1/tenants/{tenant}:suspend");
            let command = MarketCommand::Suspend { tenant: tenant.clone(), reason: reason.clone() };
            of_tenant(at, &tenant, path, json!({ "reason": reason }), command, says)
        }
        Action::Resume { tenant } => {
            let says = format!("{tenant} may start instances again");
            let path = format!("/v1/tenants/{tenant}:resume");
            let command = MarketCommand::Resume { tenant: tenant.clone() };
            of_tenant(at, &tenant, path, json!({}), command, says)
        }
        Action::Margin { percent: None } => show_margin(at),
        Action::Margin { percent: Some(margin) } => set_margin(margin, at),
    }
}

impl From<ClearError> for Failure {
    fn from(error: ClearError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

fn clear(at: Where<'_>) -> Result<(), Failure> {
    let act = Act {
        method: Method::Post,
        path: "/v1/market:clear".to_owned(),
        body: json!({}),
        of: None,
        resource: "/v1/clears".to_owned(),
    };
    let says = |done: &Value| {
        format!("cleared: {} units start, {} stop", number(done, "starts"), number(done, "stops"))
    };
    act.run(at, |_| Ok(MarketCommand::Clear { trigger: Trigger::Asked }), says)
}

fn list(last: usize, at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<ClearRow> = match at.server.client()? {
        Some(client) => {
            let mut page = client.get(&format!("/v1/clears?page_size={last}"))?;
            let rows = page.get_mut("rows").map(Value::take).unwrap_or_default();
            serde_json::from_value(rows).map_err(|error| not_understood(&error))?
        }
        None => {
            let reader = wire::open_reader(at.settings)?;
            let found = clearings_before(reader.as_ref(), u64::MAX).take(last);
            found.map(|logged| Ok(ClearRow::from(&logged?))).collect::<Result<_, ClearError>>()?
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let texts = [it.clear.to_string(), it.at.clone(), it.trigger.as_str().to_owned()];
            let numbers =
                [it.bids.to_string(), it.won.to_string(), it.starts.to_string(), it.stops.to_string()];
            texts.into_iter().chain(numbers).chain([it.welfare_percent.clone()]).collect()
        });
        let head = ["clear", "at", "why", "bids", "won", "starts", "stops", "welfare %"];
        table(&head, &[0, 3, 4, 5, 6, 7], cells)
    })
}

fn receipt(clear: u64, at: Where<'_>) -> Result<ReceiptDocument, Failure> {
    if let Some(client) = at.server.client()? {
        let said = client.get_bytes(&format!("/v1/clears/{clear}"))?;
        return serde_json::from_slice(&said).map_err(|error| not_understood(&error));
    }
    let reader = wire::open_reader(at.settings)?;
    let none = || format!("there is no clearing at position {clear}: `hourglass market clears` lists them");
    let found = clearing(reader.as_ref(), clear)?.ok_or_else(|| Failure::Rejected(none()))?;
    Ok(found.into())
}

fn receipt_text(document: &ReceiptDocument) -> String {
    let receipt = &document.receipt;
    let (book, clearing) = (&receipt.book, &receipt.clearing);
    let pools = book.pools().iter().zip(&clearing.pools).map(|(pool, outcome)| {
        let numbers = [pool.supply, outcome.sold, outcome.free].map(|it| it.to_string());
        let prices = [pool.reserve.to_string(), outcome.price.to_string()];
        [pool.name.to_string()].into_iter().chain(numbers).chain(prices).collect()
    });
    let pools = table(&["pool", "for spot", "sold", "free", "reserve", "price"], &[1, 2, 3, 4, 5], pools);
    let won = clearing.bids.iter().filter(|outcome| outcome.won().is_some()).count();
    format!(
        "clearing {} at {}, by rules {}: {won} of {} bids won, {} % of the best that is possible\n{pools}",
        document.clear,
        document.at,
        receipt.rules,
        book.bids().len(),
        receipt.welfare.ratio()
    )
}

fn replay(args: &Replay, at: Where<'_>) -> Result<(), Failure> {
    let document = match (&args.file, args.clear) {
        (Some(file), _) => {
            let wrong =
                |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
            let text = std::fs::read(file).map_err(|error| wrong(&error))?;
            serde_json::from_slice(&text).map_err(|error| wrong(&error))?
        }
        (None, Some(clear)) => receipt(clear, at)?,
        (None, None) => return Err(Failure::Usage("name a clearing, or a file with --file".to_owned())),
    };
    let replayed = document.replay();
    answer(at.format, &replayed, |replayed| match &replayed.difference {
        None => format!(
            "clearing {} is the same again: outcome, prices and welfare ({} % of the best that is possible)",
            replayed.clear, replayed.welfare_percent
        ),
        Some(_) => format!("clearing {} is another one when it is cleared again", replayed.clear),
    })?;
    match replayed {
        Replayed { difference: Some(difference), .. } => Err(Failure::Unsound(difference)),
        Replayed { difference: None, .. } => Ok(()),
    }
}

fn why(tenant: &TenantId, bid: &BidId, clear: Option<u64>, at: Where<'_>) -> Result<(), Failure> {
    let row: WhyRow = match at.server.client()? {
        Some(client) => {
            let of = clear.map(|clear| format!("?clear={clear}")).unwrap_or_default();
            let said = client.get(&format!("/v1/tenants/{tenant}/bids/{bid}/why{of}"))?;
            serde_json::from_value(said).map_err(|error| not_understood(&error))?
        }
        None => {
            let (reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            tenant_of(&loaded.state, tenant)?;
            let unknown = || MarketRejection::BidUnknown { bid: bid.clone() }.to_string();
            let about = about(&loaded.state, tenant, bid).ok_or_else(|| Failure::Rejected(unknown()))?;
            market::why(reader.as_ref(), about, clear)?
        }
    };
    answer(at.format, &row, why_text)
}

fn why_text(row: &WhyRow) -> String {
    let mut text = format!("bid {} (number {}, {}): {}", row.bid, row.number, row.state.as_str(), row.says);
    if let (Some(clear), Some(cleared_at)) = (row.clear, &row.cleared_at) {
        text.push_str(&format!("\nin clearing {clear} at {cleared_at}"));
    }
    for stopped in &row.stopped {
        let by = stopped.by.map(|by| format!(" by bid number {by}")).unwrap_or_default();
        let line =
            format!("\n{} units in {} were told to stop: {}{by}", stopped.units, stopped.pool, stopped.cause);
        text.push_str(&line);
    }
    if !row.standings.is_empty() {
        let cells = row.standings.iter().map(|it| {
            let numbers = [it.sold, it.free].map(|it| it.to_string());
            let ahead = [it.bids_ahead.to_string(), it.gpus_ahead.to_string()];
            [it.pool.to_string(), it.price.clone()].into_iter().chain(numbers).chain(ahead).collect()
        });
        let head = ["pool", "price", "sold", "free", "bids ahead", "GPUs ahead"];
        text.push_str(&format!("\n{}", table(&head, &[1, 2, 3, 4, 5], cells)));
    }
    text
}

fn show_margin(at: Where<'_>) -> Result<(), Failure> {
    let margin = match at.server.client()? {
        Some(client) => client.get("/v1/market")?.get("margin").cloned().unwrap_or_default(),
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            json!(loaded.state.market().margin())
        }
    };
    answer(at.format, &json!({"margin": margin}), |answer| {
        let margin = answer.get("margin").and_then(Value::as_str).unwrap_or("?");
        format!("a bid must exceed what runs by more than {margin} % to displace it")
    })
}

fn set_margin(margin: Percent, at: Where<'_>) -> Result<(), Failure> {
    let act = Act {
        method: Method::Put,
        path: "/v1/market/margin".to_owned(),
        body: json!({"margin": margin}),
        of: None,
        resource: "/v1/market".to_owned(),
    };
    let says = format!("a bid must exceed what runs by more than {margin} % to displace it");
    act.run(at, move |_| Ok(MarketCommand::SetMargin { margin }), |_| says)
}
