//! `hourglass serve`: a production cell.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hourglass_consumers::api::ApiConfig;
use hourglass_consumers::grpc::SERVICES;
use hourglass_ledger::cell::{CellError, CellHandle, CellOptions};
use hourglass_ledger::core::{Command, Policy};
use hourglass_units::Region;
use tokio::sync::watch;

use crate::clockwork::Clockwork;
use crate::config::Resolved;
use crate::config::production::FinaliseInvoices;
use crate::driving::{self, Cloud, ComputeArgs};
use crate::failure::Failure;
use crate::hooking;
use crate::serving::{self, Serve, Task};
use crate::transport::Transport;
use crate::wire;

/// How often a new ledger is looked for to be opened.
const OPENING_EVERY: Duration = Duration::from_millis(100);

/// Run a production cell, as the file named by --config says. Start it twice, on two machines: one
/// writes, the other stands by.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to serve HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "HOURGLASS_HTTP")]
    http: Option<SocketAddr>,
    /// Where to serve gRPC [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR", env = "HOURGLASS_GRPC")]
    grpc: Option<SocketAddr>,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run(args: Args, settings: Resolved) -> Result<(), Failure> {
    let missing = "`hourglass serve` needs a settings file with a [postgres] section: see docs/examples/hourglass.toml \
                   (`hourglass up` needs neither)";
    let postgres = settings.postgres.as_ref().ok_or_else(|| Failure::Usage(missing.to_owned()))?;
    let region: Region =
        settings.region.parse().map_err(|error| Failure::Usage(format!("region: {error}")))?;
    let http = args.http.unwrap_or(settings.http);
    let token = serving::operator_token(settings.operator_token_file.as_deref())?;
    let holder = settings.cell.holder(http);
    let transport = settings.nats.as_ref().map(|nats| Transport::new(nats, &region, &holder)).transpose()?;
    let exposers = transport.as_ref().map(Transport::exposer).into_iter().collect();
    let mut serve = Serve {
        http,
        grpc: Some(args.grpc.unwrap_or(settings.grpc)),
        api: ApiConfig {
            operator_token: token,
            exposers,
            oidc: settings.oidc.clone(),
            public_prices: settings.feed.public,
            ..ApiConfig::default()
        },
        clockwork: Some(Clockwork {
            every: settings.cell.tick,
            market_every: settings.cell.market_tick,
            finalise_invoices: settings.cell.finalise_invoices == FinaliseInvoices::WhenDue,
        }),
        over: None,
    };
    serve.check_exposure()?;
    let webhooks = settings.webhooks.open(None)?.map(|hooks| hooking::task(hooks, &mut serve.api));
    let driven = match args.compute.cloud(settings.compute.as_ref()) {
        None => None,
        Some(Cloud::At(section)) => Some(*section),
        // Each candidate would have a cloud of its own, and lose it with its turn.
        Some(Cloud::Simulator) => {
            let how = "the cloud of a production cell outlives its processes: give --compute the URL of a `hourglass compute-sim`";
            return Err(Failure::Usage(how.to_owned()));
        }
    };

    let cell = wire::stand_by(postgres, CellOptions::candidate(&holder, settings.cell.lease))?;
    let policy = settings.cell.policy();
    let of_region = region.clone();
    let mut tasks: Vec<Task> =
        vec![Box::new(move |cell, stopped| Box::pin(open_when_new(cell, of_region, policy, stopped)))];
    if let Some(transport) = transport {
        tasks.push(Box::new(move |cell, stopped| Box::pin(transport.run(cell, stopped))));
    }
    tasks.extend(webhooks);
    if let Some(section) = driven {
        tasks.push(driving::task(&section, &mut serve.api)?);
    }
    serving::serve(cell, serve, tasks, |http, grpc| {
        eprintln!("hourglass serves region {region} as {holder}");
        eprintln!("  HTTP     http://{http}   (/readyz tells who writes)");
        if let Some(grpc) = grpc {
            eprintln!("  gRPC     {grpc}   {}", SERVICES.join(", "));
        }
    })
}

/// Opens the ledger with its region when this process first writes and nobody has done it; refuses to
/// go on with the ledger of another region.
async fn open_when_new(
    cell: CellHandle,
    region: Region,
    policy: Policy,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Failure> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(OPENING_EVERY) => {}
            _ = stopped.changed() => return Ok(()),
        }
        if cell.status().writable.load(Ordering::Acquire) == 0 {
            continue;
        }
        let opened = match cell.read(|state| state.cell().map(|cell| cell.region.clone())).await {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                let open = Command::OpenCell { region: region.clone(), policy };
                match cell.submit(open).await {
                    Err(CellError::Rejected(rejection)) => {
                        return Err(Failure::Rejected(rejection.to_string()));
                    }
                    Ok(_) | Err(_) => continue,
                }
            }
            Err(_) => continue,
        };
        if opened == region {
            return Ok(());
        }
        return Err(Failure::Usage(format!(
            "the ledger in this database is that of region {opened}, not {region}: give each region a database of its own"
        )));
    }
}
