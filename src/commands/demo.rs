//! `hourglass demo`: a simulated region, so that there is something to look at.

use std::net::SocketAddr;

use hourglass_consumers::api::ApiConfig;

use super::replay::{Summary, play_into};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer};
use crate::serving::{self, Serve};
use crate::simulate::demo;
use crate::simulate::driver::Pace;
use crate::wire;

/// Show a simulated region: a month at speed, then an API to look around in.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The same seed gives the same month
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to serve HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "HOURGLASS_HTTP")]
    http: Option<SocketAddr>,
    /// End when the month is over, without serving it
    #[arg(long)]
    no_serve: bool,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let workload = demo::workload(args.seed).map_err(|error| Failure::Unavailable(error.to_string()))?;
    // A demonstration leaves nothing behind unless it is told where.
    let temporary = if settings.data_was_named { None } else { Some(tempfile::tempdir()?) };
    let data = temporary.as_ref().map_or(settings.data.as_path(), |directory| directory.path());
    let serve = Serve {
        http: args.http.unwrap_or(settings.http),
        grpc: None,
        api: ApiConfig {
            operator_token: serving::operator_token(settings.operator_token_file.as_deref())?,
            oidc: settings.oidc.clone(),
            ..ApiConfig::default()
        },
        // The demonstration's month is over; its clock stands still.
        clockwork: None,
    };
    let cell = wire::start_cell(data, |_, _| {})?;
    let pace = Pace { every_ms: 600_000, tick_ms: 3_600_000, chaos: Some(args.seed) };
    let summary = play_into(&cell, &workload, pace)?;
    answer(format, &summary, Summary::to_text)?;
    if args.no_serve {
        cell.close();
        return Ok(());
    }
    serving::serve(cell, serve, Vec::new(), |http, _| {
        eprintln!("\nThe month is over and its invoices are final. Look around:");
        eprintln!("  http://{http}/docs                                        every route, to try out");
        eprintln!("  http://{http}/v1/tenants/acme-robotics/invoices/1         an invoice");
        eprintln!("  http://{http}/v1/usage?group_by=tenant,model              who used what");
        eprintln!("  http://{http}/v1/ledger/balances                          the book");
        eprintln!("  hourglass --data {} verify", data.display());
        eprintln!("stop it with Ctrl-C");
    })
}
