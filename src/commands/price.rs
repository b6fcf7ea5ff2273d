//! `hourglass price`: rate cards and contracts.

use std::path::PathBuf;

use hourglass_pricing::{Contract, RateCard};
use serde_json::json;

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::simulate::PricesFile;
use crate::wire;

/// Rate cards and contracts: list those in force, check a file.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List every price of every version of every rate card
    List,
    /// Check a file of prices (`[[cards]]`, `[[contracts]]`) or a single rate card, TOML or JSON
    Check {
        /// Which file
        file: PathBuf,
    },
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    match args.action {
        Action::List => list(settings, format),
        Action::Check { file } => check(&file, format),
    }
}

fn list(settings: &Resolved, format: Format) -> Result<(), Failure> {
    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let mut prices = Vec::new();
    for card in loaded.state.prices().cards() {
        for (sku, timeline) in card.prices() {
            for step in timeline.steps() {
                prices.push(json!({
                    "card": card.id().to_string(), "platform": sku.platform, "region": sku.region,
                    "model": sku.model, "from": step.interval.start().to_string(),
                    "price": step.price, "currency": card.currency(),
                }));
            }
        }
    }
    answer(format, &prices, |prices| {
        let keys = ["card", "platform", "region", "model", "from", "price", "currency"];
        let text = |row: &serde_json::Value, key: &str| {
            row.get(key).and_then(|it| it.as_str()).unwrap_or_default().to_owned()
        };
        table(&keys, &[5], prices.iter().map(|row| keys.iter().map(|key| text(row, key)).collect()))
    })
}

fn check(file: &std::path::Path, format: Format) -> Result<(), Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
    let prices = PricesFile::read(file)?;
    let (mut names, mut count) = (Vec::new(), 0_usize);
    for draft in prices.cards {
        count = count.saturating_add(draft.prices.len());
        names.push(RateCard::check(draft).map_err(|error| wrong(&error))?.id().to_string());
    }
    for contract in prices.contracts {
        let (tenant, draft) = contract.parts();
        count = count.saturating_add(draft.prices.len());
        names.push(Contract::check(tenant, draft).map_err(|error| wrong(&error))?.id().to_string());
    }
    answer(format, &json!({ "checked": names, "prices": count }), |_| {
        format!("{} hold together: {count} prices without a gap or an overlap", names.join(", "))
    })
}
