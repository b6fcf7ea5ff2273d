//! Every form of an invoice says the same.

use hourglass_units::Amount;
use serde_json::{Value, json};

use super::*;

/// An invoice on which everything stands that can.
pub(crate) fn full_document() -> Value {
    let provenance = json!({"position": 9, "chain_hash": "ab".repeat(32), "prices": ["deal@1", "list@1"],
        "engine": "hourglass-rating/2"});
    let tax = json!({"rule": {"name": "VAT", "rate_percent": "19", "kind": "exclusive", "rounding": "line"},
        "base": "29.4", "amount": "5.58"});
    json!({
        "kind": "invoice", "tenant": "acme", "number": 3, "period": "2026-02",
        "period_start": "2026-01-31T23:00:00Z", "period_end": "2026-02-28T23:00:00Z", "currency": "USD",
        "issued_at": "2026-03-04T00:00:00Z", "lines": lines(), "exact_total": "9.399999999", "rounding": "0.000000001",
        "total": "9.4", "tax": tax, "due": "14.98",
        "commitments": [{"contract": "deal@1", "amount": "1000", "drawn": "13.399999999"}],
        "provenance": provenance,
    })
}

fn lines() -> Value {
    json!([
        {"kind": "usage", "period": "2026-02", "project": "ml", "platform": "h100", "region": "eu", "model": "on_demand",
            "rule": "tier 2 of deal@1", "price": "2.95", "quantity": "4.542372881", "exact_amount": "13.399999999",
            "amount": "13.4", "tax": "2.55"},
        {"kind": "usage", "period": "2026-02", "project": "ml", "platform": "h100", "region": "eu", "model": "reserved",
            "reservation": "r-1", "price": "0", "quantity": "8", "exact_amount": "0", "amount": "0", "tax": "0"},
        {"kind": "fee", "period": "2026-02", "project": "ml", "platform": "h100", "region": "eu",
            "reservation": "r-1", "quantity": "10", "exact_amount": "20", "amount": "20", "tax": "3.8"},
        {"kind": "minimum", "period": "2026-02", "rule": "minimum of deal@1", "exact_amount": "1", "amount": "1", "tax": "0.19"},
        {"kind": "true_up", "period": "2026-02", "rule": "commitment of deal@1", "exact_amount": "2", "amount": "2", "tax": "0.38"},
        {"kind": "usage", "period": "2026-01", "correction": true, "project": "ml", "platform": "h100", "region": "eu",
            "model": "spot", "price": "1", "quantity": "-2", "exact_amount": "-2", "amount": "-2", "tax": "-0.38"},
        {"kind": "promotion", "period": "2026-02", "credit": "welcome", "exact_amount": "-5", "amount": "-5", "tax": "-0.96"},
        {"kind": "prepaid", "period": "2026-02", "credit": "top-up", "exact_amount": "-20", "amount": "-20"},
    ])
}

fn full() -> Invoice {
    let document = full_document();
    let invoice: Invoice = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(&invoice).unwrap(), document, "as the core writes it");
    invoice
}

/// What stands in the cells of a class, in order.
fn cells(page: &str, class: &str) -> Vec<String> {
    let open = format!("<td class=\"{class}\"");
    let cells = page.split(&open).skip(1).filter_map(|rest| rest.split_once('>')?.1.split_once("</td>"));
    cells.map(|(text, _)| text.to_owned()).collect()
}

fn sum<'a>(amounts: impl IntoIterator<Item = &'a str>) -> Amount {
    let amounts = amounts.into_iter().map(|amount| Amount::parse(amount).unwrap());
    amounts.fold(Amount::ZERO, |sum, amount| sum.checked_add(amount).unwrap())
}

#[test]
fn html_csv_and_the_document_have_the_same_lines_and_sums() {
    let invoice = full();
    let sheet = Sheet::of(&invoice, Some("Acme"), None);
    let amounts: Vec<String> =
        invoice.lines.iter().map(|line| line.amount.to_minor_string(invoice.currency)).collect();
    let exact: Vec<String> = invoice.lines.iter().map(|line| line.exact_amount.to_string()).collect();

    let page = sheet.html();
    let shown = cells(&page, "number amount");
    assert_eq!(shown, amounts);
    assert_eq!(sum(shown.iter().map(String::as_str)), invoice.total);
    let subtotals = sheet.sections.iter().map(|block| block.subtotal.clone().unwrap());
    assert_eq!(subtotals.collect::<Vec<_>>(), ["36.40", "-2.00", "-25.00"]);

    let csv = String::from_utf8(sheet.csv().unwrap()).unwrap();
    assert!(csv.lines().count() == invoice.lines.len() + 1 && csv.ends_with("\r\n"), "{csv}");
    let mut reader = ::csv::Reader::from_reader(csv.as_bytes());
    let head = reader.headers().unwrap().clone();
    let records: Vec<_> = reader.records().map(Result::unwrap).collect();
    let column = |name: &str| {
        let at = head.iter().position(|it| it == name).unwrap();
        records.iter().map(move |record| record.get(at).unwrap())
    };
    assert_eq!(column("amount").collect::<Vec<_>>(), amounts);
    assert_eq!(column("exact_amount").collect::<Vec<_>>(), exact);
    assert_eq!(sum(column("amount")), invoice.total);
    assert_eq!(sum(column("exact_amount")), invoice.exact_total);
    assert_eq!(sum(column("tax").filter(|tax| !tax.is_empty())), invoice.tax.as_ref().unwrap().amount);
    assert_eq!(column("correction").filter(|it| *it == "true").count(), 1);
    assert_eq!(sheet.rows().map(|row| row.amount.clone()).collect::<Vec<_>>(), amounts);
    assert_eq!(sheet.rows().map(|row| row.exact_amount.clone()).collect::<Vec<_>>(), exact);
}

#[test]
fn a_page_names_what_it_shows() {
    let invoice = full();
    let paid = Standing {
        status: "open".to_owned(),
        paid: "4.98".to_owned(),
        set_off: "0".to_owned(),
        open: "10".to_owned(),
    };
    let page = Sheet::of(&invoice, Some("Acme"), Some(paid)).html();
    for text in [
        "<h1>Invoice 3</h1>",
        "Acme (acme)",
        "tier 2 of deal@1",
        "correction of 2026-01",
        "Corrections of earlier periods",
        "h100 in eu, out of reservation r-1",
        "Reservation r-1, h100 in eu",
        "Prepaid credit top-up",
        "VAT 19 % on 29.40",
        "14.98",
        "partly paid",
        "10.00 USD",
        "13.40 of 1000.00 USD drawn",
        "log position 9",
        "deal@1, list@1",
        "The lines come to 9.399999999 exactly; rounding to minor units is 0.000000001.",
    ] {
        assert!(page.contains(text), "no {text:?} in {page}");
    }
    let hash = blake3::hash(&invoice.to_document()).to_hex();
    assert!(page.contains(hash.as_str()));
    // A page that needs nothing else, and runs nothing.
    for text in ["<script", "http://", "https://", "<link", "<img", "@import", "url("] {
        assert!(!page.contains(text), "{text:?}");
    }
}

/// What stands between the parentheses of the pages, in order.
fn texts(pdf: &[u8]) -> Vec<String> {
    let text: String = pdf.iter().map(|byte| char::from(*byte)).collect();
    let shown =
        text.split(") Tj").filter_map(|before| before.rsplit_once('(')).map(|(_, shown)| shown.to_owned());
    shown.collect()
}

#[test]
fn a_pdf_has_the_same_lines_and_sums() {
    let invoice = full();
    let sheet = Sheet::of(&invoice, Some("Acme"), None);
    let pdf = sheet.pdf();
    assert!(pdf.starts_with(b"%PDF-1.") && pdf.trim_ascii_end().ends_with(b"%%EOF"));
    assert_eq!(pdf, sheet.pdf(), "one document, the same bytes");
    let shown = texts(&pdf);
    let mut at = 0;
    for row in sheet.rows() {
        for text in [&row.what, &row.quantity, &row.price, &row.amount] {
            let found = shown[at..].iter().position(|it| it == text);
            at += found.unwrap_or_else(|| panic!("no {text:?} behind {at} in {shown:?}")) + 1;
        }
    }
    for total in &sheet.totals {
        let found = shown[at..].iter().position(|it| *it == total.amount);
        at += found.unwrap_or_else(|| panic!("no {total:?} in {shown:?}")) + 1;
    }
    assert!(shown.iter().any(|it| it.contains("page 1 of 1")));
}

#[test]
fn a_long_invoice_has_pages_and_strange_names_do_no_harm() {
    let mut document = full_document();
    let line = document["lines"][0].clone();
    let lines: Vec<Value> = std::iter::repeat_n(line, 200).collect();
    document["lines"] = json!(lines);
    let mut invoice: Invoice = serde_json::from_value(document).unwrap();
    for line in &mut invoice.lines {
        line.rule = Some(") Tj ET (é € – \u{4e2d}\\".to_owned() + &"very long words ".repeat(20));
    }
    let sheet = Sheet::of(&invoice, Some("株式会社 (Acme)"), None);
    let pdf = sheet.pdf();
    let text: String = pdf.iter().map(|byte| char::from(*byte)).collect();
    let pages = text.matches("/Type /Page\n").count();
    assert!(pages > 10 && text.contains(&format!("page {pages} of {pages}")), "{pages}");
    // Parentheses that match need no escape in the format.
    assert!(text.contains("(???? (Acme) (acme)) Tj"), "what the faces lack is a question mark");
    assert_eq!(text.matches(") Tj ET (").count(), 0, "no text ends its own string");
}

#[test]
fn what_others_wrote_is_escaped() {
    let mut document = full_document();
    let evil = "<script>alert('&\"1')</script>";
    document["lines"][0]["rule"] = json!(evil);
    document["tax"]["rule"]["name"] = json!(evil);
    document["commitments"][0]["contract"] = json!(evil);
    document["provenance"]["prices"] = json!([evil]);
    let invoice: Invoice = serde_json::from_value(document).unwrap();
    let page = Sheet::of(&invoice, Some(evil), None).html();
    assert!(!page.contains("<script"), "{page}");
    assert_eq!(page.matches("&lt;script&gt;").count(), 6, "{page}");
}

#[test]
fn sums_by_table() {
    let check =
        |change: Value, standing: Option<(&str, &str, &str)>, title: &str, expected: &[(&str, &str)]| {
            let mut document = full_document();
            for (field, value) in change.as_object().unwrap() {
                match value {
                    Value::Null => document.as_object_mut().unwrap().remove(field),
                    value => document.as_object_mut().unwrap().insert(field.clone(), value.clone()),
                };
            }
            let invoice: Invoice = serde_json::from_value(document).unwrap();
            let standing = standing.map(|(status, paid, open)| Standing {
                status: status.to_owned(),
                paid: paid.to_owned(),
                set_off: "0".to_owned(),
                open: open.to_owned(),
            });
            let sheet = Sheet::of(&invoice, None, standing);
            let found: Vec<_> =
                sheet.totals.iter().map(|it| (it.label.as_str(), it.amount.as_str())).collect();
            assert_eq!((sheet.title.as_str(), found.as_slice()), (title, expected));
            assert_eq!(sheet.html().contains("class=\"stamp void\""), sheet.is_void());
        };
    let taxed = [("Total", "9.40"), ("VAT 19 % on 29.40", "5.58"), ("Due", "14.98")];
    check(json!({}), None, "Invoice 3", &taxed);
    check(json!({}), Some(("open", "0", "14.98")), "Invoice 3", &taxed);
    check(json!({}), Some(("void", "0", "0")), "Invoice 3", &taxed);
    let paid = [&taxed[..], &[("Paid", "14.98"), ("Open", "0.00")]].concat();
    check(json!({}), Some(("paid", "14.98", "0")), "Invoice 3", &paid);
    let untaxed = json!({"number": 0, "tax": null, "due": "9.4"});
    check(untaxed, None, "Draft invoice", &[("Total", "9.40"), ("Due", "9.40")]);
    let inclusive = json!({"rule": {"name": "VAT", "rate_percent": "19", "kind": "inclusive", "rounding": "total"},
        "base": "29.4", "amount": "4.69"});
    let within = [("Total", "9.40"), ("of which VAT 19 % within 29.40", "4.69"), ("Due", "9.40")];
    check(json!({"tax": inclusive, "due": "9.4"}), None, "Invoice 3", &within);
    let yen = json!({"currency": "JPY", "lines": [], "tax": null, "total": "-12", "due": "-12", "kind": "credit_note"});
    check(yen, None, "Credit note 3", &[("Total", "-12"), ("In your favour", "12")]);
}

#[test]
fn the_described_invoice_is_this_one() {
    crate::api::schema::assert_describes::<crate::api::schema::Invoice>(&full_document());
    let mut least = full_document();
    for absent in ["tax", "commitments"] {
        least.as_object_mut().unwrap().remove(absent);
    }
    crate::api::schema::assert_describes::<crate::api::schema::Invoice>(&least);
}
