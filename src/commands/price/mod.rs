//! `hourglass price`: rate cards, contracts, spot prices and how they change, and prices of the past.

use std::path::{Path, PathBuf};

use hourglass_consumers::billing::spot::{SpotRow, spot_prices};
use hourglass_ledger::core::Command;
use hourglass_pricing::{Contract, ContractDraft, RateCard, RateCardDraft};
use hourglass_units::{Currency, Fabric, Instant, Platform, Price, TenantId};
use serde_json::{Value, json};

use super::change::{AFTER_HELP, Change, Done};
use super::{instant, rows_of};
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::simulate::PricesFile;
use crate::wire;

mod events;
mod feed;
mod rerate;

/// Prices: list, check, publish, sign, spot, watch, history, ohlc, depth, interruptions, re-rate.
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
    /// List every price of every version of every rate card
    List,
    /// Check a file of prices (`[[cards]]`, `[[contracts]]`) or a single rate card, TOML or JSON
    Check {
        /// Which file
        file: PathBuf,
    },
    /// Put the rate cards of such a file in force, then its contracts, one after another
    Publish {
        /// Which file
        file: PathBuf,
    },
    /// Put a tenant's own prices and rules in force: a file of a single contract, TOML or JSON
    Sign {
        /// Whose
        tenant: TenantId,
        /// Which file
        file: PathBuf,
    },
    /// What spot GPU-hours cost
    Spot {
        #[command(subcommand)]
        action: Spot,
    },
    /// Spot prices as they change: all pools, or one
    Watch(feed::Watch),
    /// What a spot pool cost, as it was logged or by steps
    History(feed::Past),
    /// What a spot pool cost hour by hour: first, highest, lowest and last price, mean, and GPU-hours sold
    Ohlc(feed::Past),
    /// What is wanted of a spot pool, by what is offered for it
    Depth(feed::Which),
    /// How likely a unit of a spot pool is interrupted, by its limit
    Interruptions(feed::Which),
    /// Change prices of the past: look at it first with --preview
    Rerate(rerate::Args),
}

#[derive(Debug, clap::Subcommand)]
enum Spot {
    /// Set what a spot GPU-hour costs from a time on
    Set {
        /// On which platform
        platform: Platform,
        /// Per GPU-hour
        #[arg(value_parser = Price::parse)]
        price: Price,
        /// In which currency
        #[arg(long)]
        currency: Currency,
        /// In which fabric [default: the pool that is all of the platform]
        #[arg(long)]
        fabric: Option<Fabric>,
        /// From when [default: from now on]
        #[arg(long, value_name = "TIME", value_parser = instant)]
        from: Option<Instant>,
    },
    /// List the prices that hold, and those that are set for later
    List,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let server = &args.server;
    let at = feed::Where { server, settings, format };
    match args.action {
        Action::List => list(server, settings, format),
        Action::Check { file } => check(&file, format),
        Action::Publish { file } => publish(&file, server, settings, format),
        Action::Sign { tenant, file } => {
            let says = format!("the contract with {tenant} is in force");
            signing(tenant, super::read_draft(&file)?)?.run(server, settings, format, |_| says)
        }
        Action::Spot { action: Spot::Set { platform, price, currency, fabric, from } } => {
            let says = format!("a spot GPU-hour on {platform} costs {price} {currency}");
            let path = "/v1/spot-prices".to_owned();
            let change = Change {
                body: json!({
                    "platform": platform, "currency": currency, "price": price, "fabric": fabric, "from": from,
                }),
                command: Command::SetSpotPrice { platform, currency, price, fabric, from },
                resource: path.clone(),
                path,
            };
            change.run(server, settings, format, |_| says)
        }
        Action::Spot { action: Spot::List } => list_spot(server, settings, format),
        Action::Watch(args) => feed::watch(args, at),
        Action::History(args) => feed::history(args, at),
        Action::Ohlc(args) => feed::ohlc(args, at),
        Action::Depth(which) => feed::depth(which, at),
        Action::Interruptions(which) => feed::interruptions(which, at),
        Action::Rerate(args) => rerate::run(args, server, settings, format),
    }
}

fn publishing(card: RateCardDraft) -> Result<Change, Failure> {
    let (body, path) = (super::body(&card)?, "/v1/rate-cards".to_owned());
    Ok(Change { command: Command::PublishRateCard(card), body, resource: path.clone(), path })
}

fn signing(tenant: TenantId, contract: ContractDraft) -> Result<Change, Failure> {
    let (body, path) = (super::body(&contract)?, format!("/v1/tenants/{tenant}/contracts"));
    Ok(Change { command: Command::SignContract { tenant, contract }, body, resource: path.clone(), path })
}

fn publish(file: &Path, server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let prices = PricesFile::read(file)?;
    let mut changes = Vec::new();
    for card in prices.cards {
        changes.push((format!("{}@{}", card.name, card.version), publishing(card)?));
    }
    for contract in prices.contracts {
        let (tenant, draft) = contract.parts();
        changes.push((format!("{}@{} of {tenant}", draft.name, draft.version), signing(tenant, draft)?));
    }
    let mut done: Vec<(String, Done)> = Vec::new();
    for (name, change) in changes {
        match change.submit(server, settings, None) {
            Ok(one) => done.push((name, one)),
            Err(failure) => {
                let before: Vec<&str> = done.iter().map(|(name, _)| name.as_str()).collect();
                if !before.is_empty() {
                    eprintln!("in force already: {}", before.join(", "));
                }
                return Err(failure);
            }
        }
    }
    let rows: Vec<Value> = done
        .iter()
        .map(|(name, it)| json!({"name": name, "position": it.position, "resource": it.resource}))
        .collect();
    answer(format, &rows, |_| {
        let line = |(name, it): &(String, Done)| format!("{name} is in force (position {})", it.position);
        done.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn list(server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let mut prices = Vec::new();
    if let Some(client) = server.client()? {
        for card in client.list("/v1/rate-cards")? {
            let text =
                |it: &Value, key: &str| it.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let version = card.get("version").and_then(Value::as_u64).unwrap_or_default();
            for price in card.get("prices").and_then(Value::as_array).into_iter().flatten() {
                prices.push(json!({
                    "card": format!("{}@{version}", text(&card, "name")), "platform": text(price, "platform"),
                    "region": text(price, "region"), "model": text(price, "model"), "from": text(price, "from"),
                    "price": text(price, "price"), "currency": text(&card, "currency"),
                }));
            }
        }
    } else {
        let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
        for card in loaded.state.prices().cards() {
            let steps = card
                .prices()
                .iter()
                .flat_map(|(sku, timeline)| timeline.steps().iter().map(move |step| (sku, step)));
            prices.extend(steps.map(|(sku, step)| {
                json!({
                    "card": card.id().to_string(), "platform": sku.platform, "region": sku.region,
                    "model": sku.model, "from": step.interval.start().to_string(),
                    "price": step.price, "currency": card.currency(),
                })
            }));
        }
    }
    answer(format, &prices, |prices| {
        let keys = ["card", "platform", "region", "model", "from", "price", "currency"];
        let text =
            |row: &Value, key: &str| row.get(key).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
        table(&keys, &[5], prices.iter().map(|row| keys.iter().map(|key| text(row, key)).collect()))
    })
}

fn list_spot(server: &Server, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let rows: Vec<SpotRow> = match server.client()? {
        Some(client) => rows_of(&client, "/v1/spot-prices")?,
        None => {
            let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
            spot_prices(&loaded.state)
        }
    };
    answer(format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let fabric = it.fabric.clone().unwrap_or_default();
            let [platform, region, price, currency, from] =
                [&it.platform, &it.region, &it.price, &it.currency, &it.from].map(Clone::clone);
            [platform, region, fabric, price, currency, from].into()
        });
        table(&["platform", "region", "fabric", "price", "currency", "from"], &[3], cells)
    })
}

fn check(file: &Path, format: Format) -> Result<(), Failure> {
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
