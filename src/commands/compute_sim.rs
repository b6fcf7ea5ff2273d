//! `hourglass compute-sim`: a cloud that is not there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hourglass_compute::ids::ParentId;
use hourglass_compute::model::Preset;
use hourglass_compute::simulator::script::{SCRIPT_BYTES_MAX, Script};
use hourglass_compute::simulator::{
    SERVICES, SPEED_MAX, SecondCall, ServeError, ServeOptions, Settings, StateFileError, serve,
};
use hourglass_ledger::cell::Clock as _;
use hourglass_units::Region;
use tokio::net::TcpListener;

use crate::failure::Failure;
use crate::output::line;
use crate::serving::told_to_stop;
use crate::wire::WallClock;

/// Machines where nothing else is said.
const CAPACITY_DEFAULT: &str = "gpu-h100-sxm/fabric-1=512";

/// Simulate the compute API of a GPU cloud, with every way in which it fails: docs/operating/compute-sim.md.
///
/// It has instances, operations, capacity, reservations and quotas, and speaks the protocol of the real
/// one. Prints its address on stdout. Without faults named it does not fail by itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to serve gRPC; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// From what all chance follows: the same seed and calls give the same answers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many times faster than the wall's its time passes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(SPEED_MAX)))]
    speed: u32,
    /// GPUs of a place, such as gpu-h100-sxm/fabric-1=512; repeat it for more places
    #[arg(long = "capacity", value_name = "PLACE=GPUS", default_value = CAPACITY_DEFAULT)]
    capacities: Vec<String>,
    /// GPUs of a place that are reserved, such as capacityblockgroup-1=gpu-h100-sxm/fabric-1:64, with @1h..30d for a
    /// time since the start; repeat it for more
    #[arg(long = "reservation", value_name = "ID=PLACE:GPUS")]
    reservations: Vec<String>,
    /// A limit, such as compute.instance.gpu.h100=64 or compute.instance.gpu.h100.preemptible=8; repeat it for more
    #[arg(long = "quota", value_name = "NAME=GPUS")]
    quotas: Vec<String>,
    /// From a call to an instance that runs
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::milliseconds)]
    boot: i64,
    /// From a call to an instance that is off
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::milliseconds)]
    stop: i64,
    /// From when the provider takes an instance away to when it is off
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = super::milliseconds)]
    notice: i64,
    /// How long a call waits for room before its operation fails
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = super::milliseconds)]
    patience: i64,
    /// How long an operation is remembered after its end
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = super::milliseconds)]
    operation_memory: i64,
    /// How long an idempotency key is remembered
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = super::milliseconds)]
    key_memory: i64,
    /// What becomes of a second call while an operation goes on: it conflicts, or it aborts the first
    #[arg(long, value_name = "WHAT", default_value = "conflicts", value_parser = ["conflicts", "aborts"])]
    second_call: String,
    /// Script of what goes wrong and when, a line each
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// How often something goes wrong: 2%, or `stop:slow by 40s=5%`, or power-off=1%; repeat it for more
    #[arg(long = "fault-rate", value_name = "RATE")]
    fault_rates: Vec<String>,
    /// File of what it must not forget: written before each answer, read at the start
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// File of the bearer tokens that it accepts, one a line
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The region
    #[arg(long, value_name = "NAME", default_value = "local")]
    region: Region,
    /// Who has the reservations
    #[arg(long, value_name = "ID", default_value = "tenant-e00sim")]
    tenant: ParentId,
    /// Sizes that advice is given about
    #[arg(
        long,
        value_name = "PRESET,…",
        value_delimiter = ',',
        default_value = "1gpu-16vcpu-200gb,8gpu-128vcpu-1600gb"
    )]
    presets: Vec<Preset>,
    /// End when stdin does, too: whoever started it and holds the other end is gone then
    #[arg(long)]
    while_stdin: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let address = args.listen;
    if !address.ip().is_loopback() && args.token_file.is_none() {
        let how = "can be reached from other machines: give --token-file, or listen on 127.0.0.1";
        return Err(Failure::Usage(format!("{address} {how}")));
    }
    if let Some(tokens) = &args.token_file {
        let unreadable = |error| Failure::Usage(format!("{}: {error}", tokens.display()));
        std::fs::metadata(tokens).map_err(unreadable)?;
    }
    let options = ServeOptions {
        settings: settings(&args)?,
        state: args.state,
        tokens: args.token_file,
        speed: args.speed,
        started: WallClock.now(),
    };
    let while_stdin = args.while_stdin;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cannot = |error| {
            Failure::Unavailable(format!("cannot listen on {address}: {error}; name another --listen"))
        };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        line(&listener.local_addr()?.to_string())?;
        if !while_stdin {
            eprintln!("a simulated cloud serves {}; stop it with Ctrl-C", SERVICES.join(", "));
        }
        let ended = async {
            tokio::select! {
                () = told_to_stop() => {}
                () = stdin_ended(), if while_stdin => {}
            }
        };
        Ok(serve(listener, options, ended).await?)
    })
}

/// Waits for the end of stdin. A thread of its own reads it: no runtime waits for that when it ends.
async fn stdin_ended() {
    let (told, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _read = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(told);
    });
    let _ended = ended.await;
}

fn settings(args: &Args) -> Result<Settings, Failure> {
    let wrong = |flag: &str, error: &dyn std::fmt::Display| Failure::Usage(format!("{flag}: {error}"));
    let mut settings = Settings {
        seed: args.seed,
        boot_ms: args.boot,
        stop_ms: args.stop,
        notice_ms: args.notice,
        patience_ms: args.patience,
        operation_memory_ms: args.operation_memory,
        key_memory_ms: args.key_memory,
        second_call: if args.second_call == "aborts" { SecondCall::Aborts } else { SecondCall::Conflicts },
        ..Settings::new(args.region.clone(), args.tenant.clone(), args.presets.clone())
    };
    for text in &args.capacities {
        settings.add_capacity(text).map_err(|error| wrong("--capacity", &error))?;
    }
    for text in &args.reservations {
        settings.add_reservation(text).map_err(|error| wrong("--reservation", &error))?;
    }
    for text in &args.quotas {
        settings.add_quota(text).map_err(|error| wrong("--quota", &error))?;
    }
    for text in &args.fault_rates {
        settings.rates.add(text).map_err(|error| wrong("--fault-rate", &error))?;
    }
    if let Some(file) = &args.faults {
        settings.script = script(file)?;
    }
    settings.check().map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(settings)
}

/// Reads a script; or tells of each line that is wrong.
fn script(file: &Path) -> Result<Script, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
    let bytes = std::fs::metadata(file).map_err(|error| wrong(&error))?.len();
    if bytes > SCRIPT_BYTES_MAX as u64 {
        return Err(wrong(&format!("it has {bytes} bytes, more than {SCRIPT_BYTES_MAX}: shorten it")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    Script::parse(&text).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(|error| format!("{}: {error}", file.display())).collect();
        Failure::Usage(errors.join("\n"))
    })
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match &error {
            ServeError::Settings(_)
            | ServeError::Resume(_)
            | ServeError::Speed(_)
            | ServeError::StateFile(StateFileError::Contents { .. }) => Self::Usage(error.to_string()),
            ServeError::StateFile(StateFileError::Io { .. }) | ServeError::Server(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}
