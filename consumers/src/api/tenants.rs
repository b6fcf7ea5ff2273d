//! Customers.

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::market::MarketCommand;
use hourglass_ledger::core::{Command, Rejection, State as Ledger, Tenant};
use hourglass_pricing::tax::Tax;
use hourglass_units::{Currency, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::App;
use super::done::{Done, done};
use super::extract::{Body, Idempotency, Json, Path, Query, given, json, unsupported};
use super::page::{ListPage, PageRequest};
use super::problem::Problem;
use super::schema;
use crate::billing::report::AsOf;
use crate::usage::Name;

/// Which page of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Rows of a page: 1 to 1,000, 100 where absent.
    pub(super) page_size: Option<usize>,
    /// `next_page_token` of the page before.
    pub(super) page_token: Option<String>,
}

/// A customer's account to open.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantDraft {
    /// Its id: 1 to 64 of `a-z A-Z 0-9 - _ .`
    #[schema(value_type = String)]
    tenant: TenantId,
    /// In which it is billed, ISO 4217.
    #[schema(value_type = String)]
    currency: Currency,
    /// For people.
    #[serde(default)]
    display_name: String,
}

/// A customer.
#[derive(Serialize, ToSchema)]
pub(super) struct TenantView {
    tenant: String,
    /// In which it is billed, ISO 4217.
    currency: &'static str,
    /// For people.
    display_name: String,
    /// Its finalised invoices and credit notes.
    invoices: usize,
    /// How its invoices are taxed; absent where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Tax>)]
    tax: Option<Tax>,
    /// Why it may start nothing, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    suspension: Option<SuspensionView>,
}

/// Why a customer may start nothing.
#[derive(Serialize, ToSchema)]
#[schema(as = Suspension)]
pub(super) struct SuspensionView {
    /// For people.
    reason: String,
    /// Since when, RFC 3339.
    #[schema(format = DateTime)]
    since: String,
}

/// Why a customer is suspended.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SuspendDraft {
    /// For people.
    reason: String,
}

/// How a customer is to be taxed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TaxDraft {
    /// For all invoices from now on; not at all where `null`.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<schema::Tax>, required = true)]
    tax: Option<Tax>,
}

/// A customer, as of a log position.
#[derive(Serialize, ToSchema)]
pub(super) struct TenantAnswer {
    as_of: AsOf,
    #[serde(flatten)]
    tenant: TenantView,
}

fn view(state: &Ledger, id: &TenantId, tenant: &Tenant) -> TenantView {
    let suspension = state.market().suspension(id);
    TenantView {
        suspension: suspension
            .map(|it| SuspensionView { reason: it.reason.clone(), since: it.since.to_string() }),
        tenant: id.to_string(),
        currency: tenant.currency.code(),
        display_name: tenant.display_name.clone(),
        invoices: tenant.invoices.len(),
        tax: tenant.tax.clone(),
    }
}

/// Opens a customer's account.
#[utoipa::path(
    post, path = "/v1/tenants", tag = "tenants", request_body = TenantDraft,
    responses((status = 201, description = "Opened.", body = Done))
)]
pub(super) async fn open_tenant(
    State(app): State<App>,
    Idempotency(name): Idempotency,
    Json(draft): Json<TenantDraft>,
) -> Result<Response, Problem> {
    let TenantDraft { tenant, currency, display_name } = draft;
    let resource = format!("/v1/tenants/{tenant}");
    let outcome = app.submit(Command::OpenTenant { tenant, currency, display_name }, name).await?;
    Ok(done(&outcome, true, resource))
}

/// All customers, by id.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "tenants", params(PageQuery),
    responses((status = 200, description = "A page of customers.", body = ListPage<TenantView>))
)]
pub(super) async fn list_tenants(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<TenantView>>, Problem> {
    let page = PageRequest::new("tenants".to_owned(), query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, |state, after, limit| {
        let behind = state.tenants().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
        Ok(behind.take(limit).map(|(id, tenant)| (id.to_string(), view(state, id, tenant))).collect())
    });
    Ok(axum::Json(page.await?))
}

/// One customer.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, description = "The customer.", body = TenantAnswer))
)]
pub(super) async fn get_tenant(
    State(app): State<App>,
    Path(id): Path<TenantId>,
) -> Result<axum::Json<TenantAnswer>, Problem> {
    let read = app.read(move |state| match state.tenant(&id) {
        Some(tenant) => Ok(TenantAnswer { as_of: AsOf::of(state), tenant: view(state, &id, tenant) }),
        None => Err(Rejection::TenantUnknown { tenant: id }.into()),
    });
    Ok(axum::Json(read.await?))
}

/// `POST …/{tenant}:suspend` and `:resume`. The router knows no suffix of a segment, so it is read here.
pub(super) async fn act_on_tenant(
    State(app): State<App>,
    Path(named): Path<String>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let unknown = || Problem::not_found("action_unknown", "a tenant has the actions :suspend and :resume");
    let (id, action) = named.rsplit_once(':').ok_or_else(unknown)?;
    let id = id.parse().map_err(|error| Problem::bad_request("path_invalid", format!("{error}")))?;
    match action {
        "resume" => resume_tenant(app, id, name).await,
        "suspend" if body.media_type != "application/json" => {
            Err(unsupported(&body.media_type, "application/json"))
        }
        "suspend" => suspend_tenant(app, id, name, json(&body.bytes)?).await,
        _ => Err(unknown()),
    }
}

/// Lets a customer start nothing any more: what it runs, on demand and spot, is told to stop, its bids win nothing,
/// and new instances, holds and bids are refused. What it has reserved stays its own, and paid for.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}:suspend", tag = "tenants", params(("tenant" = String, Path)),
    request_body = SuspendDraft, responses((status = 200, description = "Suspended.", body = Done))
)]
pub(super) async fn suspend_tenant(
    app: App,
    tenant: TenantId,
    name: Option<Name>,
    draft: SuspendDraft,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}");
    let command = MarketCommand::Suspend { tenant, reason: draft.reason };
    let outcome = app.submit(command.into(), name).await?;
    Ok(done(&outcome, false, resource))
}

/// Lets a suspended customer start instances again.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}:resume", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, description = "Resumed.", body = Done))
)]
pub(super) async fn resume_tenant(
    app: App,
    tenant: TenantId,
    name: Option<Name>,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}");
    let outcome = app.submit(MarketCommand::Resume { tenant }.into(), name).await?;
    Ok(done(&outcome, false, resource))
}

/// Taxes a customer's invoices from now on, or no longer. Drafts show it at once, finalised invoices stay.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/tax", tag = "tenants", params(("tenant" = String, Path)),
    request_body = TaxDraft, responses((status = 200, description = "Set.", body = Done))
)]
pub(super) async fn set_tax(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    Json(draft): Json<TaxDraft>,
) -> Result<Response, Problem> {
    let resource = format!("/v1/tenants/{tenant}");
    let outcome = app.submit(Command::SetTax { tenant, tax: draft.tax }, name).await?;
    Ok(done(&outcome, false, resource))
}
