//! The forms of an invoice: the document itself, a page for people, and lines for a spreadsheet.

use axum::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use hourglass_ledger::core::invoicing::Invoice;
use hourglass_ledger::store::{StoreError, StoredInvoice};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::InvoiceDraft;
use crate::api::problem::Problem;
use crate::billing::invoices::Standing;
use crate::finance::invoice::Sheet;

/// The page runs nothing and loads nothing.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
/// Most entries of an `Accept` header that are looked at.
const ACCEPT_ENTRIES_MAX: usize = 32;
/// The weight of a media type that names none, in thousandths (RFC 9110, 12.4.2).
const WEIGHT_WHOLE: u32 = 1_000;

/// How to answer with an invoice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::api) enum Form {
    /// The document.
    Json,
    /// A page, to read or to print.
    Html,
    /// One row a line.
    Csv,
    /// Pages to send and to keep.
    Pdf,
}

/// Every form and its media type; where two are welcome alike, the first is taken.
const FORMS: [(Form, &str, &str); 4] = [
    (Form::Json, "application", "json"),
    (Form::Html, "text", "html"),
    (Form::Csv, "text", "csv"),
    (Form::Pdf, "application", "pdf"),
];

/// In which form.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct FormQuery {
    /// `json`, `html`, `csv` or `pdf`; what `Accept` asks for where absent.
    #[param(inline)]
    pub(super) format: Option<Form>,
}

impl Form {
    /// The form that the caller likes best; the document where it likes none.
    pub(in crate::api) fn accepted(headers: &HeaderMap) -> Self {
        let texts = headers.get_all(ACCEPT).iter().filter_map(|header| header.to_str().ok());
        let entries: Vec<(&str, u32)> =
            texts.flat_map(|text| text.split(',')).take(ACCEPT_ENTRIES_MAX).map(weighed).collect();
        let mut best = (Self::Json, 0);
        for (form, kind, subtype) in FORMS {
            let weight = weight_of(&entries, kind, subtype);
            if weight > best.1 {
                best = (form, weight);
            }
        }
        best.0
    }
}

/// An entry of `Accept`: the media range, and its weight in thousandths.
fn weighed(entry: &str) -> (&str, u32) {
    let mut parts = entry.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (range, weight.map_or(WEIGHT_WHOLE, thousandths))
}

/// `0.5` is 500. What is no weight is none.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    match (whole, digits) {
        ("1", _) => WEIGHT_WHOLE,
        ("0", true) => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

/// The most specific range that covers a media type says its weight.
fn weight_of(entries: &[(&str, u32)], kind: &str, subtype: &str) -> u32 {
    let covers = |range: &str| match range.split_once('/') {
        Some((a, b)) if a.eq_ignore_ascii_case(kind) && b.eq_ignore_ascii_case(subtype) => Some(2),
        Some((a, "*")) if a.eq_ignore_ascii_case(kind) => Some(1),
        Some(("*", "*")) => Some(0),
        _ => None,
    };
    let covering = entries.iter().filter_map(|(range, weight)| Some((covers(range)?, *weight)));
    covering.max().map_or(0, |(_, weight)| weight)
}

/// A finalised invoice.
pub(super) fn answer_document(
    form: Form,
    stored: StoredInvoice,
    name: Option<&str>,
    standing: Option<Standing>,
) -> Result<Response, Problem> {
    if form == Form::Json {
        let etag = format!("\"{}\"", blake3::hash(&stored.document).to_hex());
        let mut response = in_form(form, stored.document.into_response());
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            response.headers_mut().insert(ETAG, etag);
        }
        return Ok(response);
    }
    let invoice = Invoice::from_document(&stored.document).map_err(|error| StoreError(error.to_string()))?;
    rendered(form, &Sheet::of(&invoice, name, standing))
}

/// A draft.
pub(super) fn answer_draft(form: Form, draft: InvoiceDraft, name: Option<&str>) -> Result<Response, Problem> {
    match form {
        Form::Json => Ok(in_form(form, axum::Json(draft).into_response())),
        Form::Html | Form::Csv | Form::Pdf => rendered(form, &Sheet::of(&draft.invoice, name, None)),
    }
}

fn rendered(form: Form, sheet: &Sheet<'_>) -> Result<Response, Problem> {
    let body = match form {
        Form::Csv => sheet.csv().map_err(|error| {
            tracing::error!(%error, "no CSV");
            Problem::internal()
        })?,
        Form::Pdf => sheet.pdf(),
        Form::Json | Form::Html => sheet.html().into_bytes(),
    };
    Ok(in_form(form, body.into_response()))
}

fn in_form(form: Form, mut response: Response) -> Response {
    let media_type = match form {
        Form::Json => "application/json",
        Form::Html => "text/html; charset=utf-8",
        Form::Csv => "text/csv; charset=utf-8; header=present",
        Form::Pdf => "application/pdf",
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    if form == Form::Html {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_form_is_taken() {
        let check = |accept: &[&str], expected: Form| {
            let mut headers = HeaderMap::new();
            accept.iter().for_each(|it| {
                headers.append(ACCEPT, HeaderValue::from_str(it).unwrap());
            });
            assert_eq!(Form::accepted(&headers), expected, "{accept:?}");
        };
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8";
        check(&[], Form::Json);
        check(&["*/*"], Form::Json);
        check(&[browser], Form::Html);
        check(&["text/csv"], Form::Csv);
        check(&["TEXT/CSV; q=0.5, application/json; q=0.4"], Form::Csv);
        check(&["text/html;q=0.1", "text/csv;q=0.25"], Form::Csv);
        check(&["text/*"], Form::Html);
        check(&["text/html;q=0, text/*"], Form::Csv);
        check(&["application/json, text/html"], Form::Json);
        check(&["application/pdf"], Form::Pdf);
        // What we have not, and what nobody can read: the document.
        check(&["image/png"], Form::Json);
        check(&["text/html;q=2, text/csv;q=0.1234, text/csv;q=-1"], Form::Json);
        check(&["", ";;;", "text/html;q=", "\"/,,,/"], Form::Json);
    }
}
