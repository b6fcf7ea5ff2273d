//! What becomes of an invoice: paid, taken back, credited.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::Command;
use hourglass_units::{Amount, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{resource_of, unknown};
use crate::api::app::{App, known_tenant};
use crate::api::done::{Done, done};
use crate::api::extract::{Body, Idempotency, Path, json, unsupported};
use crate::api::problem::Problem;
use crate::billing::invoices::{Standing, standing};
use crate::billing::report::AsOf;
use crate::usage::Name;

/// A payment that came in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct PaymentDraft {
    /// How much, a decimal in whole minor units, at most what is open.
    #[schema(value_type = String)]
    amount: Amount,
    /// As it stands on the bank's statement, for the record.
    #[serde(default)]
    reference: String,
}

/// An invoice to take back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct VoidDraft {
    /// Why, for the record.
    #[serde(default)]
    reason: String,
}

/// What became of an invoice, as of a log position.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct InvoiceStatusAnswer {
    as_of: AsOf,
    number: u64,
    /// ISO 4217.
    currency: &'static str,
    /// `invoice`, or `credit_note`.
    kind: &'static str,
    /// The billing period that it closes, `YYYY-MM`.
    period: String,
    /// What was to be paid when it was issued, tax included, a decimal.
    due: String,
    #[serde(flatten)]
    standing: Standing,
}

/// What became of an invoice.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/invoices/{number}/status", tag = "invoices",
    params(("tenant" = String, Path), ("number" = u64, Path)),
    responses((status = 200, description = "What became of it.", body = InvoiceStatusAnswer))
)]
pub(in crate::api) async fn invoice_status(
    State(app): State<App>,
    Path((tenant, number)): Path<(TenantId, u64)>,
) -> Result<axum::Json<InvoiceStatusAnswer>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        let account = state.tenant(&tenant);
        let invoice = account.and_then(|account| Some((account, account.invoices.get(&number)?)));
        let found = invoice.zip(standing(state, &tenant, number));
        let ((account, invoice), standing) = found.ok_or_else(|| unknown(&tenant, number))?;
        Ok(InvoiceStatusAnswer {
            as_of: AsOf::of(state),
            number,
            currency: account.currency.code(),
            kind: invoice.kind.as_str(),
            period: invoice.period.to_string(),
            due: invoice.due.to_string(),
            standing,
        })
    });
    Ok(axum::Json(read.await?))
}

/// `POST …/{number}:pay` and `:void`. The router knows no suffix of a segment, so it is read here.
pub(in crate::api) async fn act_on_invoice(
    State(app): State<App>,
    Path((tenant, named)): Path<(TenantId, String)>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let no_action = || Problem::not_found("action_unknown", "an invoice has the actions :pay and :void");
    let (number, action) = named.rsplit_once(':').ok_or_else(no_action)?;
    let number = number.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
    if body.media_type != "application/json" {
        return Err(unsupported(&body.media_type, "application/json"));
    }
    let change = Change { app, tenant, number, name };
    match action {
        "pay" => pay_invoice(change, json(&body.bytes)?).await,
        "void" => void_invoice(change, json(&body.bytes)?).await,
        _ => Err(no_action()),
    }
}

/// Which invoice to change, and under which name.
pub(in crate::api) struct Change {
    app: App,
    tenant: TenantId,
    number: u64,
    name: Option<Name>,
}

impl Change {
    async fn submit(self, command: Command) -> Result<Response, Problem> {
        let resource = format!("/v1/tenants/{}/invoices/{}/status", self.tenant, self.number);
        let outcome = self.app.submit(command, self.name).await?;
        Ok(done(&outcome, false, resource))
    }
}

/// Records that an invoice was paid, in part or in full. A key keeps a repeat from paying twice.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/invoices/{number}:pay", tag = "invoices",
    params(("tenant" = String, Path), ("number" = u64, Path)), request_body = PaymentDraft,
    responses((status = 200, description = "Recorded.", body = Done))
)]
pub(in crate::api) async fn pay_invoice(change: Change, draft: PaymentDraft) -> Result<Response, Problem> {
    let PaymentDraft { amount, reference } = draft;
    let (tenant, number) = (change.tenant.clone(), change.number);
    change.submit(Command::RecordPayment { tenant, number, amount, reference }).await
}

/// Takes an invoice back that nobody has paid for. What it charged is open again.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/invoices/{number}:void", tag = "invoices",
    params(("tenant" = String, Path), ("number" = u64, Path)), request_body = VoidDraft,
    responses((status = 200, description = "Taken back.", body = Done))
)]
pub(in crate::api) async fn void_invoice(change: Change, draft: VoidDraft) -> Result<Response, Problem> {
    let (tenant, number) = (change.tenant.clone(), change.number);
    change.submit(Command::VoidInvoice { tenant, number, reason: draft.reason }).await
}

/// Gives back at once what closed periods were charged too much, instead of on the next invoice.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/credit-notes", tag = "invoices", params(("tenant" = String, Path)),
    responses((status = 201, description = "Issued: a document with a number of its own.", body = Done))
)]
pub(in crate::api) async fn issue_credit_note(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
) -> Result<Response, Problem> {
    let outcome = app.submit(Command::IssueCreditNote { tenant: tenant.clone() }, name).await?;
    Ok(done(&outcome, true, resource_of(&outcome, &tenant)))
}
