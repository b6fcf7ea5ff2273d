//! The book, the rows, and the log's head.

use axum::extract::State;
use hourglass_ledger::core::rows::{ChargeRow, TransferRow};
use hourglass_ledger::core::{Account, digest};
use hourglass_ledger::store::{ChargeFilter, Keyed, TransferFilter};
use hourglass_units::{InstanceId, Instant, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::{App, known_tenant};
use super::extract::{Path, Query};
use super::page::{ListPage, PageRequest};
use super::problem::Problem;
use super::usage::whole_hours;
use crate::billing::report::{AsOf, BalanceReport, balances};

/// What stands on a customer's accounts.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/balance", tag = "ledger", params(("tenant" = String, Path)),
    responses((status = 200, description = "The balances.", body = BalanceReport))
)]
pub(super) async fn tenant_balance(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
) -> Result<axum::Json<BalanceReport>, Problem> {
    let read = app.read(move |state| {
        known_tenant(state, &tenant)?;
        Ok(balances(state, Some(&tenant)))
    });
    Ok(axum::Json(read.await?))
}

/// What stands on all accounts. The sum is zero for each currency (B-1).
#[utoipa::path(
    get, path = "/v1/ledger/balances", tag = "ledger",
    responses((status = 200, description = "The balances.", body = BalanceReport))
)]
pub(super) async fn all_balances(State(app): State<App>) -> Result<axum::Json<BalanceReport>, Problem> {
    Ok(axum::Json(app.read(|state| Ok(balances(state, None))).await?))
}

/// Which transfers.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TransferQuery {
    /// With this account on either side, such as `assets:unbilled:acme`.
    account: Option<String>,
    /// Rows of a page: 1 to 1,000, 100 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// One movement between two accounts.
#[derive(Serialize, ToSchema)]
#[schema(as = Transfer)]
pub(super) struct TransferView {
    /// The log position of its cause.
    position: u64,
    /// Its number there.
    line: u32,
    tenant: String,
    /// The account that takes.
    debit: String,
    /// The account that gives.
    credit: String,
    /// An exact decimal, more than zero.
    amount: String,
    /// ISO 4217.
    currency: &'static str,
    /// What for.
    code: &'static str,
    /// When it was booked, RFC 3339.
    #[schema(format = DateTime)]
    at: String,
    /// The position whose transfer this one takes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    reverses: Option<u64>,
}

fn transfer_view(Keyed { key, row }: Keyed<TransferRow>) -> TransferView {
    TransferView {
        position: key.position.number(),
        line: key.line,
        tenant: row.tenant.to_string(),
        debit: row.debit.to_string(),
        credit: row.credit.to_string(),
        amount: row.amount.to_string(),
        currency: row.currency.code(),
        code: row.code.as_str(),
        at: row.at.to_string(),
        reverses: row.reverses.map(hourglass_ledger::core::Position::number),
    }
}

async fn transfers(
    app: App,
    tenant: Option<TenantId>,
    query: TransferQuery,
) -> Result<axum::Json<ListPage<TransferView>>, Problem> {
    let TransferQuery { account, page_size, page_token } = query;
    let account = account.map(|account| account.parse::<Account>().map(|account| account.to_string()));
    let account =
        account.transpose().map_err(|error| Problem::bad_request("account_unknown", error.to_string()))?;
    check_tenant(&app, tenant.as_ref()).await?;
    let filter = TransferFilter { tenant, account };
    let page = PageRequest::new(format!("transfers {filter:?}"), page_size, page_token.as_deref())?;
    let read = page.of_rows(&app, move |reader, page| reader.transfers(&filter, page), transfer_view);
    Ok(axum::Json(read.await?))
}

async fn check_tenant(app: &App, tenant: Option<&TenantId>) -> Result<(), Problem> {
    match tenant.cloned() {
        Some(tenant) => app.read(move |state| known_tenant(state, &tenant)).await,
        None => Ok(()),
    }
}

/// All transfers, in order of the log.
#[utoipa::path(
    get, path = "/v1/ledger/transfers", tag = "ledger", params(TransferQuery),
    responses((status = 200, description = "A page of transfers.", body = ListPage<TransferView>))
)]
pub(super) async fn all_transfers(
    State(app): State<App>,
    Query(query): Query<TransferQuery>,
) -> Result<axum::Json<ListPage<TransferView>>, Problem> {
    transfers(app, None, query).await
}

/// A customer's transfers, in order of the log.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/transfers", tag = "ledger",
    params(("tenant" = String, Path), TransferQuery),
    responses((status = 200, description = "A page of transfers.", body = ListPage<TransferView>))
)]
pub(super) async fn tenant_transfers(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<TransferQuery>,
) -> Result<axum::Json<ListPage<TransferView>>, Problem> {
    transfers(app, Some(tenant), query).await
}

/// Which charges.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChargeQuery {
    /// From this whole UTC hour on, RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    start: Option<Instant>,
    /// Before this whole UTC hour, RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    end: Option<Instant>,
    /// Of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Of this instance.
    #[param(value_type = Option<String>)]
    instance: Option<InstanceId>,
    /// Rows of a page: 1 to 1,000, 100 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A difference to one line (instance, model, price, hour). A line is the sum of its rows.
#[derive(Serialize, ToSchema)]
#[schema(as = Charge)]
pub(super) struct ChargeView {
    /// The log position of its cause.
    position: u64,
    /// Its number there.
    line: u32,
    tenant: String,
    project: String,
    instance: String,
    platform: String,
    region: String,
    /// How it was sold.
    model: &'static str,
    /// Out of which reservation, where it was sold so.
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<String>,
    /// Per GPU-hour, a decimal.
    price: String,
    /// What a GPU-hour costs with what was paid for it otherwise: the price, and the amortised price of
    /// the reservation. A decimal.
    effective_price: String,
    /// The UTC hour, RFC 3339.
    #[schema(format = DateTime)]
    hour: String,
    /// GPUs that the instance held.
    gpus: u32,
    /// Milliseconds of the instance, negative in a correction.
    milliseconds: i64,
    /// GPU-hours, an exact decimal.
    quantity: String,
    /// Price × quantity, an exact decimal (U-1).
    amount: String,
    /// ISO 4217.
    currency: &'static str,
}

fn charge_view(Keyed { key, row }: Keyed<ChargeRow>) -> ChargeView {
    ChargeView {
        position: key.position.number(),
        line: key.line,
        tenant: row.tenant.to_string(),
        project: row.project.to_string(),
        instance: row.instance.to_string(),
        platform: row.platform.to_string(),
        region: row.region.to_string(),
        model: row.model.as_str(),
        reservation: row.reservation.as_ref().map(ToString::to_string),
        price: row.price.to_string(),
        effective_price: row.effective_price.to_string(),
        hour: row.hour.to_string(),
        gpus: row.gpus,
        milliseconds: row.milliseconds,
        quantity: row.quantity.to_string(),
        amount: row.amount.to_string(),
        currency: row.currency.code(),
    }
}

async fn charges(
    app: App,
    tenant: Option<TenantId>,
    query: ChargeQuery,
) -> Result<axum::Json<ListPage<ChargeView>>, Problem> {
    let (from, until) = whole_hours(query.start, query.end)?;
    check_tenant(&app, tenant.as_ref()).await?;
    let ChargeQuery { project, instance, page_size, page_token, .. } = query;
    let filter = ChargeFilter { tenant, project, instance, from, until };
    let page = PageRequest::new(format!("charges {filter:?}"), page_size, page_token.as_deref())?;
    let read = page.of_rows(&app, move |reader, page| reader.charges(&filter, page), charge_view);
    Ok(axum::Json(read.await?))
}

/// All charges, in order of the log. What no `Tick` wrote yet is in the usage report only.
#[utoipa::path(
    get, path = "/v1/ledger/charges", tag = "ledger", params(ChargeQuery),
    responses((status = 200, description = "A page of charges.", body = ListPage<ChargeView>))
)]
pub(super) async fn all_charges(
    State(app): State<App>,
    Query(query): Query<ChargeQuery>,
) -> Result<axum::Json<ListPage<ChargeView>>, Problem> {
    charges(app, None, query).await
}

/// A customer's charges, in order of the log.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/charges", tag = "ledger",
    params(("tenant" = String, Path), ChargeQuery),
    responses((status = 200, description = "A page of charges.", body = ListPage<ChargeView>))
)]
pub(super) async fn tenant_charges(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<ChargeQuery>,
) -> Result<axum::Json<ListPage<ChargeView>>, Problem> {
    charges(app, Some(tenant), query).await
}

/// Where the log ends, and who writes it.
#[derive(Serialize, ToSchema)]
#[schema(as = Head)]
pub(super) struct HeadView {
    /// The last position.
    position: u64,
    /// The hash of the chain there: it commits to all that the log holds.
    hash: String,
    /// Grows each time that a writer takes over.
    epoch: u64,
    /// Who writes.
    holder: String,
    /// Until when nobody else may take over, RFC 3339.
    #[schema(format = DateTime)]
    lease_until: String,
}

/// Where the log ends.
#[utoipa::path(
    get, path = "/v1/ledger/head", tag = "ledger",
    responses((status = 200, description = "The head.", body = HeadView))
)]
pub(super) async fn head(State(app): State<App>) -> Result<axum::Json<HeadView>, Problem> {
    let head = app.store(|reader| reader.head()).await?;
    Ok(axum::Json(HeadView {
        position: head.position.number(),
        hash: head.hash.to_hex().to_string(),
        epoch: head.epoch,
        holder: head.holder,
        lease_until: head.lease_until.to_string(),
    }))
}

/// One hash over final lines, balances and invoices.
#[derive(Serialize, ToSchema)]
#[schema(as = Digest)]
pub(super) struct DigestView {
    as_of: AsOf,
    /// The same for every log of the same usage, however its reports were ordered and cut (M-1).
    digest: String,
}

/// One hash over final lines, balances and invoices. It walks over every line: ask seldom.
#[utoipa::path(
    get, path = "/v1/ledger/digest", tag = "ledger",
    responses((status = 200, description = "The digest.", body = DigestView))
)]
pub(super) async fn state_digest(State(app): State<App>) -> Result<axum::Json<DigestView>, Problem> {
    let read = app.read(|state| {
        let digest = digest(state).map_err(|error| {
            tracing::error!(%error, "no digest");
            Problem::internal()
        })?;
        Ok(DigestView { as_of: AsOf::of(state), digest: digest.to_hex().to_string() })
    });
    Ok(axum::Json(read.await?))
}
