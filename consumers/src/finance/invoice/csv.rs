//! The lines of an invoice as CSV (RFC 4180): one row a line, exact and rounded amounts.

use hourglass_ledger::core::invoicing::InvoiceLine;
use hourglass_units::Amount;

use super::Sheet;

/// The columns, in order. What a line has no use for is empty.
const COLUMNS: [&str; 20] = [
    "tenant",
    "document",
    "number",
    "period",
    "currency",
    "kind",
    "line_period",
    "correction",
    "project",
    "platform",
    "region",
    "model",
    "reservation",
    "credit",
    "rule",
    "price",
    "gpu_hours",
    "exact_amount",
    "amount",
    "tax",
];

impl Sheet<'_> {
    /// The lines as CSV, with a head.
    pub fn csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        writer.write_record(COLUMNS)?;
        for line in &self.invoice.lines {
            writer.write_record(self.fields(line))?;
        }
        writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))
    }

    fn fields(&self, line: &InvoiceLine) -> [String; COLUMNS.len()] {
        fn text(it: Option<&impl ToString>) -> String {
            it.map(ToString::to_string).unwrap_or_default()
        }
        let invoice = self.invoice;
        let minor = |amount: Amount| amount.to_minor_string(invoice.currency);
        [
            invoice.tenant.to_string(),
            invoice.kind.as_str().to_owned(),
            invoice.number.to_string(),
            invoice.period.to_string(),
            invoice.currency.to_string(),
            line.kind.as_str().to_owned(),
            line.period.to_string(),
            line.correction.to_string(),
            text(line.project.as_ref()),
            text(line.platform.as_ref()),
            text(line.region.as_ref()),
            text(line.model.as_ref()),
            text(line.reservation.as_ref()),
            text(line.credit.as_ref()),
            text(line.rule.as_ref()),
            text(line.price.as_ref()),
            text(line.quantity.as_ref()),
            line.exact_amount.to_string(),
            minor(line.amount),
            line.tax.map(minor).unwrap_or_default(),
        ]
    }
}
