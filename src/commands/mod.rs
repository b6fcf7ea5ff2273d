//! One file a command: its arguments, what it does, how it answers.

pub mod agent;
pub mod backtest;
pub mod balance;
pub mod budget;
pub mod capacity;
mod change;
pub mod compute_sim;
pub mod credit;
pub mod demo;
pub mod doctor;
pub mod estimate;
pub mod explain;
pub mod export;
pub mod instance;
pub mod invoice;
pub mod key;
pub mod ledger;
pub mod market;
pub mod metering;
pub mod nats;
pub mod period;
pub mod price;
pub mod quarantine;
pub mod quota;
pub mod replay;
pub mod report;
pub mod reserve;
pub mod scenario;
pub mod serve;
pub mod spend;
pub mod tax;
pub mod up;
pub mod usage;
pub mod verify;
pub mod webhook;

use std::path::Path;

use hourglass_ledger::core::quotas::Ask;
use hourglass_ledger::core::{Rejection, State, Tenant};
use hourglass_quota::{Class, UnknownClass};
use hourglass_units::{Instant, ResourceNameError, TenantId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Client, not_understood};
use crate::failure::Failure;

/// Reads a time of the command line: RFC 3339, or a date that means its midnight in UTC.
pub fn instant(text: &str) -> Result<Instant, String> {
    let midnight = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    midnight.parse().map_err(|error: hourglass_units::TimeError| error.to_string())
}

/// Reads a duration such as `10m`, in whole milliseconds and at least one.
pub fn milliseconds(text: &str) -> Result<i64, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match i64::try_from(duration.as_millis()) {
        Ok(milliseconds) if milliseconds > 0 => Ok(milliseconds),
        _ => Err("it must be between a millisecond and 292 million years".to_owned()),
    }
}

/// Reads `RESOURCE=AMOUNT` or `RESOURCE=AMOUNT@CLASS`; on demand where it names no class.
pub fn item(text: &str) -> Result<Ask, String> {
    let form = || format!("{text:?} is no amount of a resource: write it like compute.instance.gpu.h100=8");
    let (resource, rest) = text.split_once('=').ok_or_else(form)?;
    let (amount, class) = rest.split_once('@').unwrap_or((rest, Class::OnDemand.as_str()));
    Ok(Ask {
        resource: resource.parse().map_err(|error: ResourceNameError| error.to_string())?,
        class: class.parse().map_err(|error: UnknownClass| error.to_string())?,
        amount: amount.parse().map_err(|_| form())?,
    })
}

/// Reads all rows of a list of a running cell.
fn rows_of<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Vec<T>, Failure> {
    let rows = client.list(path)?.into_iter().map(serde_json::from_value);
    rows.collect::<Result<_, _>>().map_err(|error| not_understood(&error))
}

/// The account of a tenant.
fn tenant_of<'a>(state: &'a State, tenant: &TenantId) -> Result<&'a Tenant, Failure> {
    let unknown = || Rejection::TenantUnknown { tenant: tenant.clone() };
    state.tenant(tenant).ok_or_else(|| Failure::Rejected(unknown().to_string()))
}

/// A draft as the API takes it.
fn body(draft: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(draft).map_err(|error| Failure::Unavailable(error.to_string()))
}

/// Reads a draft: JSON where the name of the file ends so, else TOML.
fn read_draft<T: DeserializeOwned>(file: &Path) -> Result<T, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    if file.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    } else {
        toml::from_str(&text).map_err(|error| wrong(&error))
    }
}
