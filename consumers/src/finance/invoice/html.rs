//! An invoice as one HTML page that needs nothing else, on screen and printed on A4.
//!
//! Whatever stands on it is escaped where it is written: names and notes are other people's texts.

use hourglass_ledger::core::invoicing::CommitmentStatus;
use hourglass_units::Amount;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Block, Row, Sheet, Total};

/// The look of the page. It has no text of anybody in it.
const STYLE: &str = include_str!("invoice.css");

/// Columns of the table of lines.
const COLUMNS: usize = 5;

impl Sheet<'_> {
    /// The page.
    pub fn html(&self) -> String {
        let invoice = self.invoice;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    title { (self.title) " · " (self.customer) " · " (invoice.period) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        (self.head())
                        (self.table())
                        (self.sums())
                        @if !invoice.commitments.is_empty() { (self.commitments()) }
                    }
                    (self.provenance())
                }
            }
        };
        page.into_string()
    }

    fn head(&self) -> Markup {
        let invoice = self.invoice;
        let due = self.totals.iter().rev().find(|total| total.strong);
        html! {
            header {
                div.title {
                    h1 { (self.title) }
                    @if let Some(stamp) = self.stamp() {
                        p.stamp.void[self.is_void()] { (stamp) }
                    }
                }
                dl.facts {
                    div { dt { "Customer" } dd { (self.customer) } }
                    div { dt { "Billing period" } dd { (invoice.period) } }
                    div { dt { "From" } dd { (invoice.period_start) } }
                    div { dt { "Until" } dd { (invoice.period_end) } }
                    div { dt { @if invoice.number == 0 { "Drawn" } @else { "Issued" } } dd { (invoice.issued_at) } }
                    div { dt { "Currency" } dd { (invoice.currency) } }
                }
                @if let Some(due) = due {
                    p.due { span { (due.label) } strong { (due.amount) " " (invoice.currency) } }
                }
            }
        }
    }

    fn table(&self) -> Markup {
        html! {
            table.lines {
                caption { "Lines of " (self.title) " in " (self.invoice.currency) }
                thead {
                    tr {
                        th scope="col" { "Project" }
                        th scope="col" { "What" }
                        th.number scope="col" { "GPU-hours" }
                        th.number scope="col" { "Price per GPU-hour" }
                        th.number scope="col" { "Amount" }
                    }
                }
                @for block in &self.sections { (section(block)) }
                @if self.sections.is_empty() {
                    tbody { tr { td colspan=(COLUMNS) { "Nothing is owed for this period." } } }
                }
            }
        }
    }

    fn sums(&self) -> Markup {
        html! {
            table.totals {
                caption { "Totals in " (self.invoice.currency) }
                tbody { @for total in &self.totals { (sum(total)) } }
            }
            p.exact {
                "The lines come to " (self.invoice.exact_total) " exactly; rounding to minor units is "
                (self.invoice.rounding) "."
            }
        }
    }

    fn commitments(&self) -> Markup {
        let minor = |status: &CommitmentStatus| {
            // What is drawn is exact and need not be whole minor units.
            let drawn = status.drawn.round_half_even_to_minor(self.invoice.currency);
            let drawn = Amount::from_minor_units(drawn, self.invoice.currency).unwrap_or(status.drawn);
            let text = |amount: Amount| amount.to_minor_string(self.invoice.currency);
            (text(status.amount), text(drawn))
        };
        html! {
            section.commitments {
                h2 { "Commitments" }
                @for status in &self.invoice.commitments {
                    @let (amount, drawn) = minor(status);
                    p {
                        span { "Contract " (status.contract) }
                        strong { (drawn) " of " (amount) " " (self.invoice.currency) " drawn" }
                    }
                }
            }
        }
    }

    fn provenance(&self) -> Markup {
        let from = &self.invoice.provenance;
        let document = blake3::hash(&self.invoice.to_document()).to_hex().to_string();
        html! {
            footer {
                p {
                    "Computed by " (from.engine) " from log position " (from.position) ", chain "
                    code { (from.chain_hash) }
                    @if !from.prices.is_empty() { ", with prices " (from.prices.join(", ")) }
                    ". Whoever has the log can compute it again, byte for byte."
                }
                p { "BLAKE3 of the document: " code { (document) } }
            }
        }
    }
}

fn section(block: &Block) -> Markup {
    html! {
        tbody {
            tr.section { th colspan=(COLUMNS) scope="rowgroup" { (block.section.title()) } }
            @for row in &block.rows { (line(row)) }
            @if let Some(subtotal) = &block.subtotal {
                tr.subtotal {
                    th colspan=(COLUMNS.saturating_sub(1)) scope="row" { "Subtotal" }
                    td.number { (subtotal) }
                }
            }
        }
    }
}

fn line(row: &Row) -> Markup {
    html! {
        tr {
            td { (row.project) }
            td { (row.what) @if !row.note.is_empty() { span.note { (row.note) } } }
            td.number { (row.quantity) }
            td.number { (row.price) }
            td.number.amount title=(row.exact_amount) { (row.amount) }
        }
    }
}

fn sum(total: &Total) -> Markup {
    html! {
        tr.strong[total.strong] {
            th scope="row" { (total.label) }
            td.number { (total.amount) }
        }
    }
}
