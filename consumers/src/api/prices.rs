//! Rate cards and contracts.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use hourglass_ledger::core::Command;
use hourglass_pricing::terms::Terms;
use hourglass_pricing::{Component, Contract, ContractDraft, PriceTimeline, RateCard, RateCardDraft, Sku};
use hourglass_units::{INSTANT_MAX, TenantId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::app::{App, known_tenant};
use super::done::{Done, done};
use super::extract::{Body, Idempotency, Path, Query, json, unsupported};
use super::page::{ListPage, PageRequest, invalid};
use super::problem::Problem;
use super::schema;
use super::tenants::PageQuery;
use axum::http::StatusCode;

/// One price of a card or contract.
#[derive(Serialize, ToSchema)]
#[schema(as = Price)]
pub(super) struct PriceView {
    /// GPU platform.
    platform: String,
    /// Region.
    region: String,
    /// How it is sold: `on_demand` or `spot`.
    model: &'static str,
    /// Per GPU-hour, a decimal string with at most 9 digits after the point.
    price: String,
    /// From when, RFC 3339; the card's own start where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    from: Option<String>,
    /// Until when, RFC 3339; the card's own end where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    until: Option<String>,
    /// What the price is made of, where the card says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::Component>, required = false)]
    components: Vec<Component>,
}

/// The prices of one currency from a date on, until a later version. Never edited.
#[derive(Serialize, ToSchema)]
#[schema(as = RateCard)]
pub(super) struct RateCardView {
    /// The name that all versions share.
    name: String,
    /// From 1, without a gap.
    version: u32,
    /// ISO 4217.
    currency: &'static str,
    /// From when it holds, RFC 3339.
    #[schema(format = DateTime)]
    effective_from: String,
    /// Each SKU must be priced from `effective_from` on, without a gap or an overlap.
    prices: Vec<PriceView>,
}

/// A customer's own prices and rules: they go before the card while the contract runs.
#[derive(Serialize, ToSchema)]
#[schema(as = Contract)]
pub(super) struct ContractView {
    /// The name that all versions share.
    name: String,
    /// From 1, without a gap.
    version: u32,
    /// From when it holds, RFC 3339.
    #[schema(format = DateTime)]
    effective_from: String,
    /// Until when, RFC 3339; open where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    effective_until: Option<String>,
    /// Each SKU must be priced as long as the contract runs, without a gap or an overlap. There may be none
    /// where there are terms.
    #[schema(required = false)]
    prices: Vec<PriceView>,
    /// Its rules beside the prices; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Terms>)]
    terms: Option<Terms>,
}

fn prices(prices: &BTreeMap<Sku, PriceTimeline>) -> Vec<PriceView> {
    let steps =
        prices.iter().flat_map(|(sku, timeline)| timeline.steps().iter().map(move |step| (sku, step)));
    let view = |(sku, step): (&Sku, &hourglass_pricing::PriceStep)| PriceView {
        platform: sku.platform.to_string(),
        region: sku.region.to_string(),
        model: sku.model.as_str(),
        price: step.price.to_string(),
        from: Some(step.interval.start().to_string()),
        until: (step.interval.end() != INSTANT_MAX).then(|| step.interval.end().to_string()),
        components: step.components.as_slice().to_vec(),
    };
    steps.map(view).collect()
}

fn card_view(card: &RateCard) -> RateCardView {
    RateCardView {
        name: card.id().name.to_string(),
        version: card.id().version,
        currency: card.currency().code(),
        effective_from: card.effective_from().to_string(),
        prices: prices(card.prices()),
    }
}

fn contract_view(contract: &Contract) -> ContractView {
    let effective = contract.effective();
    ContractView {
        name: contract.id().name.to_string(),
        version: contract.id().version,
        effective_from: effective.start().to_string(),
        effective_until: (effective.end() != INSTANT_MAX).then(|| effective.end().to_string()),
        prices: prices(contract.prices()),
        terms: Some(contract.terms()).filter(|terms| **terms != Terms::default()).cloned(),
    }
}

/// Reads a draft in JSON or TOML, as its content type says.
fn draft<T: DeserializeOwned>(body: &Body) -> Result<T, Problem> {
    match body.media_type.as_str() {
        "application/json" => json(&body.bytes),
        "application/toml" | "text/toml" => {
            let text = str::from_utf8(&body.bytes).map_err(|error| {
                Problem::bad_request("body_malformed", format!("the body is not UTF-8: {error}"))
            })?;
            let invalid = |error: toml::de::Error| {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "body_invalid", error.to_string())
            };
            toml::from_str(text).map_err(invalid)
        }
        other => Err(unsupported(other, "application/json or application/toml")),
    }
}

/// Puts a rate card in force, whole or not at all.
#[utoipa::path(
    post, path = "/v1/rate-cards", tag = "prices",
    request_body(content((RateCardView = "application/json"), (String = "application/toml"))),
    responses((status = 201, description = "In force.", body = Done))
)]
pub(super) async fn publish_rate_card(
    State(app): State<App>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let card: RateCardDraft = draft(&body)?;
    let outcome = app.submit(Command::PublishRateCard(card), name).await?;
    Ok(done(&outcome, true, "/v1/rate-cards".to_owned()))
}

/// All versions of all rate cards, by name and version.
#[utoipa::path(
    get, path = "/v1/rate-cards", tag = "prices", params(PageQuery),
    responses((status = 200, description = "A page of rate cards.", body = ListPage<RateCardView>))
)]
pub(super) async fn list_rate_cards(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<RateCardView>>, Problem> {
    let page = PageRequest::new("rate-cards".to_owned(), query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, |state, after, limit| {
        let after = after.map(|after| version(after).ok_or_else(invalid)).transpose()?;
        let behind = state
            .prices()
            .cards()
            .filter(|card| after.is_none_or(|after| (card.id().name.as_str(), card.id().version) > after));
        Ok(behind.take(limit).map(|card| (card.id().to_string(), card_view(card))).collect())
    });
    Ok(axum::Json(page.await?))
}

/// Reads `name@version`: names have no `@`.
fn version(text: &str) -> Option<(&str, u32)> {
    let (name, version) = text.split_once('@')?;
    Some((name, version.parse().ok()?))
}

/// Puts a customer's own prices in force, whole or not at all.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/contracts", tag = "prices", params(("tenant" = String, Path)),
    request_body(content((ContractView = "application/json"), (String = "application/toml"))),
    responses((status = 201, description = "In force.", body = Done))
)]
pub(super) async fn sign_contract(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Idempotency(name): Idempotency,
    body: Body,
) -> Result<Response, Problem> {
    let contract: ContractDraft = draft(&body)?;
    let resource = format!("/v1/tenants/{tenant}/contracts");
    let outcome = app.submit(Command::SignContract { tenant, contract }, name).await?;
    Ok(done(&outcome, true, resource))
}

/// All versions of a customer's contracts, by name and version.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/contracts", tag = "prices",
    params(("tenant" = String, Path), PageQuery),
    responses((status = 200, description = "A page of contracts.", body = ListPage<ContractView>))
)]
pub(super) async fn list_contracts(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<ListPage<ContractView>>, Problem> {
    let list = format!("contracts {tenant}");
    let page = PageRequest::new(list, query.page_size, query.page_token.as_deref())?;
    let page = page.of_state(&app, move |state, after, limit| {
        known_tenant(state, &tenant)?;
        let after = after.map(|after| version(after).ok_or_else(invalid)).transpose()?;
        let behind = state.prices().contracts(&tenant).filter(|contract| {
            after.is_none_or(|after| (contract.id().name.as_str(), contract.id().version) > after)
        });
        Ok(behind.take(limit).map(|it| (it.id().to_string(), contract_view(it))).collect())
    });
    Ok(axum::Json(page.await?))
}
