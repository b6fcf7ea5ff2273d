//! `hourglass demo`: a simulated region, so that there is something to look at.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hourglass_consumers::api::ApiConfig;
use hourglass_ledger::cell::Cell;
use serde::Serialize;
use tokio::sync::oneshot;

use super::replay::{Summary, play_into};
use crate::clockwork::Clockwork;
use crate::config::Resolved;
use crate::driving::{self, Cloud, ComputeArgs, Simulator};
use crate::failure::Failure;
use crate::hooking;
use crate::output::{Format, answer};
use crate::serving::{self, Serve, Task};
use crate::simulate::driver::Pace;
use crate::simulate::{demo, live};
use crate::wire;

/// Time between two accruals of what runs now.
const TICK: Duration = Duration::from_secs(5);

/// Show a simulated region: a month at speed, then a spot market that goes on now, and an API to look around in.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The same seed gives the same month
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to serve HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "HOURGLASS_HTTP")]
    http: Option<SocketAddr>,
    /// End when the month is over, without serving it
    #[arg(long, conflicts_with = "live")]
    no_serve: bool,
    /// End when the market has run for so long, and say what came of it
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    live: Option<Duration>,
    /// Time between two clearings of the spot market
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    market_tick: Duration,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// The month, and what came after it.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    month: &'a Summary,
    live: live::Summary,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    if args.market_tick < Duration::from_secs(1) {
        return Err(Failure::Usage("--market-tick must be at least 1s".to_owned()));
    }
    let workload = demo::workload(args.seed).map_err(|error| Failure::Unavailable(error.to_string()))?;
    // A demonstration leaves nothing behind unless it is told where.
    let temporary = if settings.data_was_named { None } else { Some(tempfile::tempdir()?) };
    let data = temporary.as_ref().map_or(settings.data.as_path(), |directory| directory.path());
    let (over, told) = oneshot::channel();
    let mut serve = Serve {
        http: args.http.unwrap_or(settings.http),
        grpc: None,
        api: ApiConfig {
            operator_token: serving::operator_token(settings.operator_token_file.as_deref())?,
            oidc: settings.oidc.clone(),
            public_prices: settings.feed.public,
            ..ApiConfig::default()
        },
        clockwork: Some(Clockwork { every: TICK, market_every: args.market_tick, finalise_invoices: true }),
        over: Some(told),
    };
    serve.check_exposure()?;
    let cell = wire::start_cell(data, |_, _| {})?;
    let pace = Pace { every_ms: 600_000, tick_ms: 3_600_000, chaos: Some(args.seed) };
    let month = play_into(&cell, &workload, pace)?;
    if args.live.is_none() || format == Format::People {
        answer(format, &month, Summary::to_text)?;
    }
    if args.no_serve {
        cell.close();
        return Ok(());
    }
    check_clock(&cell)?;
    let (section, mut simulator) = match args.compute.cloud(settings.compute.as_ref()) {
        Some(Cloud::At(section)) => (*section, None),
        Some(Cloud::Simulator) | None => {
            let simulator = Simulator::start(&live::simulator_flags(args.seed))?;
            (simulator.section(), Some(simulator))
        }
    };
    let section = section.listed_every(live::LIST_EVERY);
    let market =
        live::Live { seed: args.seed, cloud: live::Cloud::of(&section)?, ends_after: args.live, over };
    let run: Task = Box::new(move |cell, stopped| Box::pin(live::run(cell, stopped, market)));
    let before = cell.handle().read_blocking(|state| state.clone())?;
    let is_simulated = simulator.is_some();
    let url = section.url.clone();
    let watch = simulator.as_mut().map(Simulator::watch);
    let webhooks = settings.webhooks.open(Some(data))?.map(|hooks| hooking::task(hooks, &mut serve.api));
    let tasks = [driving::task(&section, &mut serve.api)?, run];
    let tasks = tasks.into_iter().chain(watch).chain(webhooks).collect();
    serving::serve(cell, serve, tasks, |http, _| {
        welcome(http, data, &url, is_simulated);
    })?;
    drop(simulator);
    if args.live.is_none() {
        return Ok(());
    }
    let live = live::summary(wire::open_directory(data)?.as_ref(), before)?;
    answer(format, &Report { month: &month, live }, |report| report.live.to_text())
}

/// The month has to lie in the past of the clock that goes on from there.
fn check_clock(cell: &Cell) -> Result<(), Failure> {
    let handle = cell.handle();
    let (over, now) = (handle.read_blocking(|state| state.now())?, handle.now());
    if now < over {
        let how = "set the clock, or see the month alone with --no-serve";
        return Err(Failure::Unavailable(format!("it is {now}, and the month was over at {over}: {how}")));
    }
    Ok(())
}

fn welcome(http: SocketAddr, data: &Path, cloud: &str, is_simulated: bool) {
    let [(platform, fabric, ..), ..] = live::POOLS;
    let show = |path: &str, what: &str| eprintln!("  {:<66}  {what}", format!("http://{http}{path}"));
    eprintln!("\nThe month is over and its invoices are final. Look around:");
    show("/docs", "every route, to try out");
    show("/v1/tenants/acme-robotics/invoices/1", "an invoice");
    show("/v1/usage?group_by=tenant,model", "who used what");
    show("/v1/ledger/balances", "the book");
    eprintln!("  hourglass --data {} verify", data.display());
    let simulated = if is_simulated { "a simulated cloud at " } else { "" };
    eprintln!("\nA spot market goes on now; its units run in {simulated}{cloud}");
    show("/v1/pools", "pools: prices, what is sold and free");
    show(&format!("/v1/pools/{platform}/{fabric}/prices"), "what one cost, step by step");
    show("/v1/clears", "clearings; /v1/clears/NUMBER is the receipt of one");
    show("/v1/tenants/acme-robotics/bids", "a customer's bids, and where their units stand");
    show("/v1/tenants/acme-robotics/instances/spot-NUMBER-UNIT", "a unit: when it ran, and at which limits");
    show("/v1/preemptions", "what has to stop, until when and why");
    eprintln!("  hourglass market why acme-robotics BID --server http://{http}");
    eprintln!("stop it with Ctrl-C\n");
}
