//! `hourglass up`: the embedded cell for real use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hourglass_consumers::api::ApiConfig;
use hourglass_consumers::grpc::SERVICES;
use hourglass_ledger::core::{Command, Policy};
use hourglass_units::Region;

use crate::clockwork::Clockwork;
use crate::config::Resolved;
use crate::driving::{self, Cloud, ComputeArgs, Simulator};
use crate::failure::Failure;
use crate::hooking;
use crate::output::log_progress;
use crate::serving::{self, Serve};
use crate::wire;

/// The file in the data directory in which a simulated cloud keeps what it must not forget.
const SIMULATOR_STATE: &str = "simulator.json";

/// Run the embedded cell: a data directory and no server but this one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to serve HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "HOURGLASS_HTTP")]
    http: Option<SocketAddr>,
    /// Where to serve gRPC [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR", env = "HOURGLASS_GRPC")]
    grpc: Option<SocketAddr>,
    /// Name of the region, when the ledger is new [default: local]
    #[arg(long, value_name = "NAME", env = "HOURGLASS_REGION")]
    region: Option<String>,
    /// Time between two accruals
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    tick: Duration,
    /// Time between two clearings of the spot market
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    market_tick: Duration,
    /// File with the bearer token that every request must carry
    #[arg(long, value_name = "FILE", env = "HOURGLASS_OPERATOR_TOKEN_FILE")]
    operator_token_file: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved) -> Result<(), Failure> {
    if args.tick < Duration::from_secs(1) {
        return Err(Failure::Usage("--tick must be at least 1s".to_owned()));
    }
    if args.market_tick < Duration::from_secs(1) {
        return Err(Failure::Usage("--market-tick must be at least 1s".to_owned()));
    }
    let token_file = args.operator_token_file.or_else(|| settings.operator_token_file.clone());
    let mut serve = Serve {
        http: args.http.unwrap_or(settings.http),
        grpc: Some(args.grpc.unwrap_or(settings.grpc)),
        api: ApiConfig {
            operator_token: serving::operator_token(token_file.as_deref())?,
            oidc: settings.oidc.clone(),
            public_prices: settings.feed.public,
            ..ApiConfig::default()
        },
        clockwork: Some(Clockwork {
            every: args.tick,
            market_every: args.market_tick,
            finalise_invoices: true,
        }),
        over: None,
    };
    serve.check_exposure()?;
    let webhooks = settings.webhooks.open(Some(&settings.data))?;
    let webhooks = webhooks.map(|hooks| hooking::task(hooks, &mut serve.api));
    let asked = args.region.as_deref().unwrap_or(&settings.region);
    let asked: Region = asked.parse().map_err(|error| Failure::Usage(format!("--region: {error}")))?;
    let cell = wire::start_cell(&settings.data, log_progress("recovering the ledger"))?;
    let handle = cell.handle();
    let opened = handle.read_blocking(|state| state.cell().map(|cell| cell.region.clone()))?;
    match opened {
        Some(region) if args.region.is_some() && region != asked => {
            return Err(Failure::Usage(format!(
                "the ledger in {} is that of region {region}, not {asked}: give each region a directory of its own",
                settings.data.display()
            )));
        }
        Some(_) => {}
        None => {
            let _opened =
                handle.submit_blocking(Command::OpenCell { region: asked, policy: Policy::default() })?;
        }
    }
    drop(handle);
    let (data, guarded) = (settings.data.display().to_string(), serve.api.operator_token.is_some());
    let (driven, mut simulator) = match args.compute.cloud(settings.compute.as_ref()) {
        None => (None, None),
        Some(Cloud::At(section)) => (Some(*section), None),
        Some(Cloud::Simulator) => {
            // The cloud remembers as long as the ledger does.
            let state = settings.data.join(SIMULATOR_STATE).display().to_string();
            let simulator = Simulator::start(&["--state".to_owned(), state])?;
            (Some(simulator.section()), Some(simulator))
        }
    };
    let driver = driven.map(|section| driving::task(&section, &mut serve.api)).transpose()?;
    let cloud = simulator.as_ref().map(|simulator| simulator.url().to_owned());
    let watch = simulator.as_mut().map(Simulator::watch);
    serving::serve(cell, serve, driver.into_iter().chain(watch).chain(webhooks).collect(), |http, grpc| {
        eprintln!("hourglass is up; the ledger is in {data}");
        eprintln!("  HTTP     http://{http}   (browse http://{http}/docs)");
        if let Some(grpc) = grpc {
            eprintln!("  gRPC     {grpc}   {}", SERVICES.join(", "));
        }
        if let Some(cloud) = cloud {
            eprintln!("  compute  {cloud}   (a simulated cloud)");
        }
        if !guarded {
            eprintln!(
                "  no operator token is set: every local user can use this API (HOURGLASS_OPERATOR_TOKEN)"
            );
        }
        eprintln!("stop it with Ctrl-C");
    })
}
