//! `hourglass tax`: how a tenant's invoices are taxed.

use hourglass_ledger::core::Command;
use hourglass_pricing::tax::{Tax, TaxKind, TaxRounding};
use hourglass_units::{Percent, TenantId};
use serde_json::json;

use super::change::{AFTER_HELP, Change};
use crate::client::Server;
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::Format;

/// How a tenant is taxed: set, clear.
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
    /// Tax a tenant's invoices from now on
    Set(Set),
    /// Tax them no longer
    Clear {
        /// Whose
        tenant: TenantId,
    },
}

#[derive(Debug, clap::Args)]
struct Set {
    /// Whose
    tenant: TenantId,
    /// As it is called on the invoice, such as VAT
    name: String,
    /// In percent, between 0 and 100
    #[arg(value_name = "PERCENT")]
    rate: Percent,
    /// Prices hold the tax already. Otherwise it comes on top
    #[arg(long)]
    inclusive: bool,
    /// Round the tax of each line. Otherwise that of the total is rounded
    #[arg(long)]
    by_line: bool,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let (tenant, tax, says) = match args.action {
        Action::Set(Set { tenant, name, rate, inclusive, by_line }) => {
            let says = format!("invoices of {tenant} are taxed: {name} {rate} %");
            let kind = if inclusive { TaxKind::Inclusive } else { TaxKind::Exclusive };
            let rounding = if by_line { TaxRounding::Line } else { TaxRounding::Total };
            (tenant, Some(Tax { name, rate_percent: rate, kind, rounding }), says)
        }
        Action::Clear { tenant } => {
            let says = format!("invoices of {tenant} are not taxed");
            (tenant, None, says)
        }
    };
    let resource = format!("/v1/tenants/{tenant}");
    let (path, body) = (format!("{resource}/tax"), json!({ "tax": tax }));
    let change = Change { command: Command::SetTax { tenant, tax }, path, body, resource };
    change.run(&args.server, settings, format, |_| says)
}
