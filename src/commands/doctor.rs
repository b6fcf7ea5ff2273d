//! `hourglass doctor`: what is wrong with this set-up, and the command that mends it.

use std::path::Path;
use std::time::Duration;

use hourglass_consumers::nats;
use hourglass_ledger::cell::Clock;
use hourglass_ledger::load::{From, load};
use hourglass_ledger::store::Reader;
use hourglass_ledger::store::postgres::{self, PostgresOptions, PostgresReader};
use hourglass_ledger::store::sqlite::{OpenError, SqliteOptions, SqliteReader, SqliteStore};
use hourglass_proto::subjects::Subjects;
use serde::Serialize;

use crate::config::Resolved;
use crate::config::production::NatsSection;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress};
use crate::wire::WallClock;

/// A clock before this was never set.
const CLOCK_EARLIEST: &str = "2026-01-01T00:00:00Z";

/// How long NATS may take to answer.
const BROKER_PATIENCE: Duration = Duration::from_secs(5);

/// Say what is wrong with this set-up, and how to mend it.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    ok: bool,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

fn fine(what: &'static str, says: impl Into<String>) -> Finding {
    Finding { what, ok: true, says: says.into(), mend: None }
}

fn wrong(what: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { what, ok: false, says: says.into(), mend: Some(mend.into()) }
}

/// Runs the command.
pub fn run(Args {}: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let mut findings = vec![clock()];
    match &settings.postgres {
        Some(postgres) => findings.extend(database(postgres)),
        None => findings.extend(data_directory(settings.data.as_path())),
    }
    if let Some(nats) = &settings.nats {
        findings.extend(broker(nats, &settings.region)?);
    }
    answer(format, &findings, |findings| {
        let line = |finding: &Finding| {
            let mark = if finding.ok { "ok   " } else { "WRONG" };
            let mend =
                finding.mend.as_ref().map(|mend| format!("\n      mend it: {mend}")).unwrap_or_default();
            format!("{mark} {:10} {}{mend}", finding.what, finding.says)
        };
        findings.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    if findings.iter().all(|finding| finding.ok) {
        Ok(())
    } else {
        Err(Failure::Unsound("this set-up needs mending".to_owned()))
    }
}

fn clock() -> Finding {
    let now = WallClock.now();
    match CLOCK_EARLIEST.parse() {
        Ok(earliest) if now < earliest => wrong(
            "clock",
            format!("the system's clock says {now}"),
            "set the clock, for example with `timedatectl set-ntp true`",
        ),
        _ => fine("clock", now.to_string()),
    }
}

fn data_directory(data: &Path) -> Vec<Finding> {
    let mut findings = vec![directory(data)];
    match SqliteReader::open(data) {
        Err(OpenError::Missing { .. }) => findings.push(fine("ledger", "none yet: `hourglass up` makes one")),
        Err(error) => findings.push(wrong("ledger", error.to_string(), mend_open(&error, data))),
        Ok(reader) => {
            findings.push(writer(data));
            findings.extend(ledger(&reader, &format!("hourglass --data {} verify", data.display())));
        }
    }
    findings
}

fn database(options: &PostgresOptions) -> Vec<Finding> {
    let reader = match PostgresReader::open(options) {
        Ok(reader) => reader,
        Err(postgres::OpenError::Missing { address }) => {
            return vec![fine(
                "database",
                format!("{address} answers, with no ledger yet: `hourglass serve` makes one"),
            )];
        }
        Err(error) => {
            let mend = "look at [postgres] in the settings, at the server, and at what stands between";
            return vec![wrong("database", error.to_string(), mend)];
        }
    };
    let mut findings = vec![fine("database", format!("{options:?}"))];
    if let Ok(head) = reader.head() {
        let now = WallClock.now();
        findings.push(if head.lease_until > now {
            fine("writer", format!("{} writes, epoch {}", head.holder, head.epoch))
        } else {
            let says = format!("nobody: the lease of {:?} ended at {}", head.holder, head.lease_until);
            wrong(
                "writer",
                says,
                "start `hourglass serve --config FILE`; look at /readyz and the log of each process",
            )
        });
    }
    findings.extend(ledger(&reader, "hourglass --config FILE verify"));
    findings
}

/// Whether usage can come by NATS, and how much of it waits.
fn broker(section: &NatsSection, region: &str) -> Result<Vec<Finding>, Failure> {
    let options = section.options("hourglass doctor")?;
    let subjects = Subjects::of_region(region);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let look = nats::look(&options, &subjects, section.partition, BROKER_PATIENCE);
    Ok(match runtime.block_on(look) {
        Ok(streams) => streams
            .into_iter()
            .map(|stream| match stream.holds {
                Some((messages, bytes)) => {
                    fine("stream", format!("{}: {messages} messages, {bytes} bytes", stream.name))
                }
                None => fine("stream", format!("{}: not there yet, the writer makes it", stream.name)),
            })
            .collect(),
        Err(error) => {
            let mend = "look at [nats] in the settings, at the server, and at this user's permissions";
            vec![wrong("nats", error, mend)]
        }
    })
}

/// Whether a file can be made in the data directory, or in the nearest directory above that exists.
fn directory(data: &Path) -> Finding {
    let shown = data.display();
    let Some(nearest) = data.ancestors().find(|directory| directory.is_dir()) else {
        return wrong(
            "directory",
            format!("{shown} does not exist and cannot be made"),
            "name one with --data DIR",
        );
    };
    match tempfile::tempfile_in(nearest) {
        Ok(_) => fine("directory", shown.to_string()),
        Err(error) => wrong(
            "directory",
            format!("cannot write in {}: {error}", nearest.display()),
            format!("chown $(id -u) {} (or name another with --data DIR)", nearest.display()),
        ),
    }
}

fn writer(data: &Path) -> Finding {
    match SqliteStore::open(data, SqliteOptions::default()) {
        Ok(_) => fine("writer", "none: the ledger is free"),
        Err(OpenError::InUse { holder, .. }) => fine("writer", format!("running{holder}")),
        Err(error) => wrong("writer", error.to_string(), mend_open(&error, data)),
    }
}

fn mend_open(error: &OpenError, data: &Path) -> String {
    match error {
        OpenError::NewerVersion { .. } => {
            "install the release of hourglass that wrote it, or a later one".to_owned()
        }
        OpenError::NotALedger { file } => {
            format!("move {} away, or name another directory with --data", file.display())
        }
        _ => format!("look at the permissions and the disk of {}", data.display()),
    }
}

fn ledger(reader: &dyn Reader, verify: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    match load(reader, From::Snapshot, log_progress("reading the ledger")) {
        Ok(loaded) => {
            let state = &loaded.state;
            let region = state.cell().map_or("no region yet", |cell| cell.region.as_str());
            let snapshot = match loaded.from_snapshot.number() {
                0 => "no snapshot".to_owned(),
                position => format!("snapshot at {position}"),
            };
            findings.push(fine("ledger", format!("{region}, position {}, {snapshot}", state.position())));
            let waiting = state.instances_in_suspense().count();
            if waiting > 0 {
                let first = state.instances_in_suspense().next().map(ToString::to_string).unwrap_or_default();
                findings.push(wrong(
                    "suspense",
                    format!("usage of {waiting} unknown instances waits, among them {first}"),
                    "register them: POST /v1/tenants/TENANT/instances, then …/instances/INSTANCE:start",
                ));
            }
            let counts = state.counts();
            let quarantined = counts.quarantined_messages.saturating_add(counts.quarantined_records);
            if quarantined > 0 {
                let says = format!(
                    "{quarantined} records and messages could not be used: see `hourglass quarantine list`"
                );
                findings.push(fine("quarantine", says));
            }
            let ahead = state.now().ms_since(WallClock.now());
            if ahead > 300_000 {
                findings.push(wrong(
                    "time",
                    format!("the ledger's last event is of {}, after the system's clock", state.now()),
                    "set the system's clock; until it catches up, events get the ledger's last time",
                ));
            }
        }
        Err(error) => {
            findings.push(wrong("ledger", error.to_string(), verify));
        }
    }
    match reader.head() {
        Ok(head) => findings.push(fine("head", format!("position {}, epoch {}", head.position, head.epoch))),
        Err(error) => findings.push(wrong("head", error.to_string(), verify)),
    }
    findings
}
