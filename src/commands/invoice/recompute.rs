//! `hourglass invoice recompute`: an invoice again, from the log alone.

use std::sync::Arc;

use hourglass_ledger::core::invoicing::{self, InvoiceKind};
use hourglass_ledger::core::{Position, State};
use hourglass_ledger::load::load_until;
use hourglass_ledger::store::{Reader, StoredInvoice};
use hourglass_units::TenantId;
use serde::Serialize;

use super::{read, stored};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{self, Format, answer};
use crate::wire;

/// One invoice and what its recomputation gave.
#[derive(Debug, Serialize)]
struct Recomputed {
    tenant: TenantId,
    number: u64,
    equal: bool,
    /// Stored and recomputed, where they differ, field by field.
    differences: Vec<String>,
}

/// Computes every invoice of a number again, and compares.
pub fn recompute(
    settings: &Resolved,
    number: u64,
    tenant: Option<&TenantId>,
    format: Format,
) -> Result<(), Failure> {
    let reader: Arc<dyn Reader> = wire::open_reader(settings)?;
    let wanted: Vec<_> = stored(&reader, tenant)?.into_iter().filter(|it| it.number == number).collect();
    if wanted.is_empty() {
        let whose = tenant.map_or_else(|| "no tenant".to_owned(), |tenant| format!("{tenant} not"));
        return Err(Failure::Rejected(format!("there is no invoice {number} ({whose} has one)")));
    }
    let mut results = Vec::new();
    let bar = output::progress("recomputing");
    bar.set_length(wanted.len() as u64);
    for stored in wanted {
        let before = Position::new(stored.position.number().saturating_sub(1));
        let loaded = load_until(reader.as_ref(), before)?;
        results.push(compare(&stored, &loaded.state, &loaded.chain_hash)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    answer(format, &results, |results| {
        let line = |it: &Recomputed| {
            let Recomputed { tenant, number, equal, differences } = it;
            let verdict = if *equal {
                "equal, byte for byte".to_owned()
            } else {
                format!("DIFFERENT\n  {}", differences.join("\n  "))
            };
            format!("invoice {number} of {tenant}: {verdict}")
        };
        results.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    if results.iter().all(|result| result.equal) {
        Ok(())
    } else {
        Err(Failure::Unsound(
            "an invoice comes out differently from the log; run `hourglass verify`".to_owned(),
        ))
    }
}

fn compare(stored: &StoredInvoice, before: &State, chain_hash: &blake3::Hash) -> Result<Recomputed, Failure> {
    let StoredInvoice { tenant, number, period, .. } = stored;
    // The document says what it is and when it was issued; everything else is computed.
    let (kind, issued_at) = read(stored)
        .map_or((InvoiceKind::Invoice, before.now()), |invoice| (invoice.kind, invoice.issued_at));
    let again = invoicing::draw_kind(before, kind, tenant, *period, *number, issued_at, chain_hash)
        .map_err(|rejection| Failure::Unsound(format!("invoice {number} of {tenant}: {rejection}")))?;
    let document = again.to_document();
    let equal = document == stored.document;
    let mut differences = Vec::new();
    if !equal {
        let fields = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
        differences_between("", &fields(&stored.document), &fields(&document), &mut differences);
    }
    Ok(Recomputed { tenant: tenant.clone(), number: *number, equal, differences })
}

/// The leaves in which two JSON values differ.
fn differences_between(
    at: &str,
    stored: &serde_json::Value,
    again: &serde_json::Value,
    found: &mut Vec<String>,
) {
    use serde_json::Value;
    match (stored, again) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differences_between(&format!("{at}.{key}"), &value(a), &value(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                let value = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                differences_between(&format!("{at}[{index}]"), &value(a), &value(b), found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{}: stored {a}, recomputed {b}", at.trim_start_matches('.'))),
    }
}
