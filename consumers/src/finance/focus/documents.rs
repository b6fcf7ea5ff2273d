//! On which document each row stands: an invoice, a credit note, or what will be the next invoice.
//!
//! An invoice takes whatever the ledger knew of periods up to its own and no earlier one had taken. So a
//! row of usage stands on the first document that is not void, was finalised after the row was written,
//! and reaches its period; and where there is none, on the invoice to come.

use std::collections::BTreeMap;

use hourglass_ledger::core::invoicing::{InvoiceKind, InvoiceLine, OpenLines, open_lines};
use hourglass_ledger::core::{InvoiceStatus, Position, Rejection, State};
use hourglass_units::{Currency, Interval, Month, TenantId};

/// What `InvoiceId` of an invoice to come has behind the account.
pub(super) const DRAFT: &str = "draft-";

/// A document, by its place in [`Documents`].
pub(super) type DocIx = u32;

/// A document, or what will be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) tenant: TenantId,
    pub(super) currency: Currency,
    /// Its billing period.
    pub(super) period: Month,
    pub(super) interval: Interval,
    /// Its number; `None` for the invoice to come.
    pub(super) number: Option<u64>,
    /// `InvoiceId`: `acme/7`, or `acme/draft-2026-01` for the invoice to come, whose draft is always there.
    pub(super) id: String,
    kind: InvoiceKind,
    /// Where it was finalised; the end of the log for the invoice to come.
    pub(super) position: Position,
    /// Of the invoice to come: what it will hold.
    pub(super) open: Vec<InvoiceLine>,
}

impl Document {
    /// Whether what it holds of a period corrects an invoice before it.
    pub(super) fn corrects(&self, period: Month) -> bool {
        period < self.period || self.kind == InvoiceKind::CreditNote
    }
}

/// All documents: those that are not void, in order, and those to come.
#[derive(Debug)]
pub(super) struct Documents {
    all: Vec<Document>,
    /// Of each tenant: its documents in the order of the log, and those to come by period.
    of: BTreeMap<TenantId, (Vec<DocIx>, BTreeMap<Month, DocIx>)>,
}

impl Documents {
    pub(super) fn of(state: &State) -> Result<Self, Rejection> {
        let mut documents = Self { all: Vec::new(), of: BTreeMap::new() };
        for (id, tenant) in state.tenants() {
            for (number, invoice) in &tenant.invoices {
                if invoice.status == InvoiceStatus::Void {
                    continue;
                }
                let (period, kind, position) = (invoice.period, invoice.kind, invoice.position);
                documents.push(Document {
                    tenant: id.clone(),
                    currency: tenant.currency,
                    period,
                    interval: state.period_interval(id, period),
                    number: Some(*number),
                    id: format!("{id}/{number}"),
                    kind,
                    position,
                    open: Vec::new(),
                });
            }
        }
        for OpenLines { tenant, period, lines } in open_lines(state)? {
            let ix = documents.coming(state, &tenant, period);
            if let Some(document) = ix.and_then(|ix| documents.all.get_mut(ix as usize)) {
                document.open = lines;
            }
        }
        Ok(documents)
    }

    fn push(&mut self, document: Document) -> Option<DocIx> {
        let ix = DocIx::try_from(self.all.len()).ok()?;
        let (finalised, to_come) = self.of.entry(document.tenant.clone()).or_default();
        match document.number {
            Some(_) => finalised.push(ix),
            None => drop(to_come.insert(document.period, ix)),
        }
        self.all.push(document);
        Some(ix)
    }

    /// The invoice to come of a billing period, made where there is none yet.
    fn coming(&mut self, state: &State, tenant: &TenantId, period: Month) -> Option<DocIx> {
        if let Some(ix) = self.of.get(tenant).and_then(|(_, to_come)| to_come.get(&period)) {
            return Some(*ix);
        }
        self.push(Document {
            tenant: tenant.clone(),
            currency: state.tenant(tenant)?.currency,
            period,
            interval: state.period_interval(tenant, period),
            number: None,
            id: format!("{tenant}/{DRAFT}{period}"),
            kind: InvoiceKind::Invoice,
            position: state.position(),
            open: Vec::new(),
        })
    }

    /// Where a row of a period stands that was written at a position; `None` where no row holds it yet.
    pub(super) fn holding(
        &mut self,
        state: &State,
        tenant: &TenantId,
        period: Month,
        written: Option<Position>,
    ) -> Option<DocIx> {
        if let Some(written) = written
            && let Some((finalised, _)) = self.of.get(tenant)
        {
            let first = finalised.partition_point(|ix| {
                self.all.get(*ix as usize).is_some_and(|document| document.position <= written)
            });
            let behind = finalised.get(first..).unwrap_or_default();
            let reaches = |ix: &&DocIx| self.all.get(**ix as usize).is_some_and(|it| it.period >= period);
            if let Some(found) = behind.iter().find(reaches) {
                return Some(*found);
            }
        }
        let closed = state.tenant(tenant)?.closed_until();
        let period = closed.map_or(period, |closed| period.max(closed.next()));
        self.coming(state, tenant, period)
    }

    pub(super) fn get(&self, ix: DocIx) -> Option<&Document> {
        self.all.get(ix as usize)
    }

    /// The documents in order, with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (DocIx, &Document)> {
        (0..).zip(&self.all)
    }

    /// The place of an invoice that is not void.
    pub(super) fn find(&self, tenant: &TenantId, number: u64) -> Option<DocIx> {
        let (finalised, _) = self.of.get(tenant)?;
        let found = finalised
            .iter()
            .find(|ix| self.all.get(**ix as usize).is_some_and(|document| document.number == Some(number)));
        found.copied()
    }
}
