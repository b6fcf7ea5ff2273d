//! `hourglass ledger`: the log and the book behind it.

use hourglass_ledger::core::{self, EventKind, Position};
use hourglass_ledger::store::{ChargeFilter, PAGE_ROWS_MAX, Page, RowKey, TransferFilter};
use hourglass_units::TenantId;
use serde_json::json;

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{self, Format, answer, log_progress, table};
use crate::wire;

/// The log and the book behind it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// One hash over the final lines, the balances and the invoices
    Digest,
    /// Where the log ends, and who writes to it
    Head,
    /// Events of the log
    Events(Stretch),
    /// Movements between accounts
    Transfers {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
        /// With this account on either side, such as assets:unbilled:TENANT
        #[arg(long)]
        account: Option<core::Account>,
        #[command(flatten)]
        stretch: Stretch,
    },
    /// Charge rows: differences to the lines of closed hours
    Charges {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        stretch: Stretch,
    },
}

#[derive(Debug, clap::Args)]
struct Stretch {
    /// Behind this position
    #[arg(long, default_value_t = 0, value_name = "POSITION")]
    after: u64,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=PAGE_ROWS_MAX as u64))]
    limit: u64,
}

impl Stretch {
    fn page(&self) -> Page {
        // The last row of a position is behind every other one of it.
        let after = RowKey { position: Position::new(self.after), line: u32::MAX };
        Page { after, until: Position::new(u64::MAX), limit: self.limit() }
    }

    fn limit(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(PAGE_ROWS_MAX)
    }
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let open = || wire::open_reader(settings);
    match args.action {
        Action::Digest => {
            let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
            let digest = core::digest(&loaded.state)?.to_hex().to_string();
            match format {
                Format::People => output::line(&digest),
                Format::Json => {
                    let position = loaded.state.position().number();
                    answer(format, &json!({ "digest": digest, "position": position }), |_| String::new())
                }
            }
        }
        Action::Head => {
            let head = open()?.head()?;
            let value = json!({
                "position": head.position.number(),
                "hash": head.hash.to_hex().to_string(),
                "epoch": head.epoch,
                "holder": head.holder,
                "lease_until": head.lease_until.to_string(),
            });
            answer(format, &value, |_| {
                let lease =
                    format!("epoch {}, {}, lease until {}", head.epoch, head.holder, head.lease_until);
                format!("position {}\nhash     {}\n{lease}", head.position, head.hash.to_hex())
            })
        }
        Action::Events(stretch) => {
            let events = open()?.events(Position::new(stretch.after), stretch.limit())?;
            let kind = |number| EventKind::from_number(number).map_or("unknown", EventKind::as_str);
            let value: Vec<_> = events
                .iter()
                .map(|it| {
                    json!({
                        "position": it.position.number(), "epoch": it.epoch, "kind": kind(it.kind),
                        "at": it.at.to_string(), "bytes": it.payload.len(), "hash": it.hash.to_hex().to_string(),
                    })
                })
                .collect();
            answer(format, &value, |_| {
                let rows = events.iter().map(|it| {
                    let hash: String = it.hash.to_hex().chars().take(16).collect();
                    let texts = [it.position.to_string(), it.at.to_string(), kind(it.kind).to_owned()];
                    texts.into_iter().chain([it.payload.len().to_string(), hash]).collect()
                });
                table(&["position", "at", "kind", "bytes", "hash"], &[0, 3], rows)
            })
        }
        Action::Transfers { tenant, account, stretch } => {
            let filter = TransferFilter { tenant, account: account.map(|account| account.to_string()) };
            let transfers = open()?.transfers(&filter, stretch.page())?;
            let value: Vec<_> = transfers
                .iter()
                .map(|it| {
                    json!({
                        "position": it.key.position.number(), "line": it.key.line, "at": it.row.at.to_string(),
                        "tenant": it.row.tenant, "debit": it.row.debit.to_string(), "credit": it.row.credit.to_string(),
                        "amount": it.row.amount, "currency": it.row.currency, "code": it.row.code,
                        "reverses": it.row.reverses.map(Position::number),
                    })
                })
                .collect();
            answer(format, &value, |_| {
                let rows = transfers.iter().map(|it| {
                    let place = format!("{}.{}", it.key.position, it.key.line);
                    let accounts = [it.row.debit.to_string(), it.row.credit.to_string()];
                    let sum = [
                        it.row.amount.to_string(),
                        it.row.currency.to_string(),
                        it.row.code.as_str().to_owned(),
                    ];
                    [place].into_iter().chain(accounts).chain(sum).collect()
                });
                table(&["position", "debit", "credit", "amount", "", "code"], &[3], rows)
            })
        }
        Action::Charges { tenant, stretch } => {
            let filter = ChargeFilter { tenant, ..ChargeFilter::default() };
            let charges = open()?.charges(&filter, stretch.page())?;
            let value: Vec<_> = charges
                .iter()
                .map(|it| {
                    json!({
                        "position": it.key.position.number(), "line": it.key.line, "tenant": it.row.tenant,
                        "project": it.row.project, "instance": it.row.instance, "platform": it.row.platform,
                        "region": it.row.region, "model": it.row.model, "hour": it.row.hour.to_string(),
                        "gpus": it.row.gpus, "milliseconds": it.row.milliseconds, "price": it.row.price,
                        "quantity": it.row.quantity, "amount": it.row.amount, "currency": it.row.currency,
                    })
                })
                .collect();
            answer(format, &value, |_| {
                let rows = charges.iter().map(|it| {
                    let place = format!("{}.{}", it.key.position, it.key.line);
                    let whose =
                        [it.row.tenant.to_string(), it.row.instance.to_string(), it.row.hour.to_string()];
                    let sum =
                        [it.row.quantity.to_string(), it.row.price.to_string(), it.row.amount.to_string()];
                    [place].into_iter().chain(whose).chain(sum).collect()
                });
                table(
                    &["position", "tenant", "instance", "hour", "GPU-hours", "price", "amount"],
                    &[4, 5, 6],
                    rows,
                )
            })
        }
    }
}
