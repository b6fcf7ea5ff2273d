//! The shapes of documents that other crates write, for the OpenAPI document.
//!
//! The documents themselves are serialized where they are defined: nothing here is ever filled in to
//! answer a request. Each shape can be read from its document and written again, and tests hold that
//! this gives the same document, so a shape cannot fall behind.

mod estimate;
mod explain;
mod invoice;
mod market;
mod quota;
mod rerate;
mod terms;

pub(crate) use estimate::Estimate;
pub(crate) use explain::{ChargeExplained, InvoiceLineExplained};
pub(crate) use invoice::{Invoice, InvoiceLine, Tax};
pub(crate) use market::{CapacitySource, ClearingMode, PoolBackend, Receipt, ReservePolicy};
pub(crate) use quota::{Bound, Drift, Limits, ListedInstance, QuotaItem, QuotaRules, StopTarget};
pub(crate) use rerate::{RerateDraft, ReratePreview};
pub(crate) use terms::{Component, Payment, Terms};

/// Bytes of another format.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it describes a body and is never made")]
pub(crate) struct Binary(Vec<u8>);

/// Whether a shape is the document's: what is read of it is all of it.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_describes<T: serde::Serialize + serde::de::DeserializeOwned>(
    document: &serde_json::Value,
) {
    let read: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error}: {document:#}"));
    assert_eq!(&serde_json::to_value(read).unwrap(), document);
}
