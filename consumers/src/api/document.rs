//! The OpenAPI document: what handlers say of themselves, and what holds for all of them.

use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Object, ObjectBuilder, Ref, RefOr, Required, ResponseBuilder, Schema, Type,
};

use super::access::{is_price, is_public, needed};
use super::extract::IDEMPOTENCY_KEY;
use super::instances::{__path_change_mode, __path_start_instance, __path_stop_instance, __path_void_usage};
use super::invoices::life::{__path_pay_invoice, __path_void_invoice};
use super::keys::__path_revoke_key;
use super::market::bids::{__path_cancel_bid, __path_update_bid};
use super::problem::{PROBLEM_MEDIA_TYPE, ProblemDocument};
use super::quarantine::__path_replay_quarantine;
use super::quotas::__path_place_project;
use super::quotas::holds::{__path_commit_hold, __path_release_hold, __path_renew_hold, __path_resize_hold};
use super::quotas::leases::{__path_refresh_lease, __path_return_lease};
use super::quotas::requests::__path_decide_request;
use super::reports::__path_close_period;
use super::reservations::{
    __path_amend_reservation, __path_assign_reservation, __path_claim_loan, __path_lend_reservation,
    __path_withdraw_loan,
};
use super::tenant_keys::__path_revoke_tenant_key;
use super::tenants::{__path_resume_tenant, __path_suspend_tenant};
use super::webhooks::cell::{
    __path_redeliver_cell_message, __path_rotate_cell_secret, __path_test_cell_webhook,
};
use super::webhooks::tenant::{__path_redeliver_message, __path_rotate_secret, __path_test_webhook};

use crate::auth::roles::{Permission, Reach, holders};

/// What the router cannot say by itself.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hourglass",
        description = "Metering, pricing and books of a GPU cloud. Amounts, prices and quantities are decimal \
                       strings, times RFC 3339 in UTC; every answer about money says as of which log position \
                       it holds; every mutation takes an Idempotency-Key; every error is a problem document \
                       (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        suspend_tenant, resume_tenant, start_instance, stop_instance, change_mode, void_usage, amend_reservation, assign_reservation, claim_loan,
        lend_reservation, withdraw_loan, pay_invoice, void_invoice,
        revoke_key, revoke_tenant_key, replay_quarantine, place_project, commit_hold, release_hold, renew_hold, resize_hold,
        refresh_lease, return_lease, decide_request, update_bid, cancel_bid, close_period,
        rotate_secret, test_webhook, redeliver_message, rotate_cell_secret, test_cell_webhook, redeliver_cell_message,
    ),
    components(schemas(ProblemDocument)),
    tags(
        (name = "tenants", description = "Customers."),
        (name = "prices", description = "Rate cards, contracts, spot prices and re-rating."),
        (name = "credits", description = "Credit of customers."),
        (name = "reservations", description = "GPUs that are sold for a time."),
        (name = "instances", description = "Instances and their life cycle."),
        (name = "quotas", description = "Limits, spend caps, requests for more, and what has to stop."),
        (name = "holds", description = "What is held of quota, and leased to checkers far away."),
        (name = "market", description = "Spot: pools and their prices, bids, clearings and their receipts."),
        (name = "capacity", description = "What pools had, what was wanted of them, and what comes next."),
        (name = "usage", description = "Usage in, and reports of it."),
        (name = "ledger", description = "Balances, rows and the log."),
        (name = "invoices", description = "Invoices."),
        (name = "budgets", description = "What is to be spent, and who is told when it is."),
        (name = "webhooks", description = "What happens, sent to where a customer or the operator says: Standard Webhooks."),
        (name = "reports", description = "Statements of the book, and its months."),
        (name = "keys", description = "API keys."),
        (name = "operation", description = "Probes and metrics."),
    ),
)]
pub(super) struct Document;

/// Adds what holds for every operation: errors, idempotency and who may use it.
pub(super) fn completed(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    if let Some(components) = &mut document.components {
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
    for (path, item) in &mut document.paths.paths {
        for (operation, method) in [
            (&mut item.get, "GET"),
            (&mut item.post, "POST"),
            (&mut item.put, "PUT"),
            (&mut item.delete, "DELETE"),
        ] {
            if let Some(operation) = operation {
                complete(operation, method != "GET");
                if !is_public(path) {
                    guarded(operation, needed(method, path));
                    if is_price(&method.parse().unwrap_or_default(), path) {
                        public(operation);
                    }
                }
            }
        }
    }
    document
}

/// Says that an operation needs a credential, and whose.
fn guarded(operation: &mut Operation, permission: Option<Permission>) {
    operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("bearer", [])]);
    let needs = permission.map_or_else(
        || "Open to nobody.".to_owned(),
        |permission| {
            let holders = holders(permission).map(|(role, reach)| match reach {
                Reach::Own => format!("{role} (its own)"),
                Reach::All | Reach::None => role.to_string(),
            });
            let holders = holders.collect::<Vec<_>>().join(", ");
            format!("Needs the permission `{permission}`: {holders}.")
        },
    );
    let described = operation.description.take().map(|text| format!("{text}\n\n{needs}"));
    operation.description = Some(described.unwrap_or(needs));
}

/// What parameters of a name look like wherever they stand, so that a client can know what is refused.
fn constrain(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        let Some(pattern) = pattern_of(&parameter.name) else { continue };
        if let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
            && schema.pattern.is_none()
        {
            schema.pattern = Some(pattern.to_owned());
        }
    }
}

/// The form of a parameter, as a regular expression (ECMA-262).
fn pattern_of(name: &str) -> Option<&'static str> {
    match name {
        "tenant" | "project" | "instance" | "platform" | "region" | "fabric" | "node" | "reservation"
        | "bid" => Some("^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
        "key" => Some("^[a-z0-9]{12}$"),
        "period" => Some("^[0-9]{4}-(0[1-9]|1[0-2])$"),
        "page_token" => Some("^[A-Za-z0-9_-]+$"),
        _ => None,
    }
}

/// A repeat of a request that made something answers 200 with the first answer.
fn repeatable(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    if let Some(RefOr::T(created)) = responses.get("201").cloned()
        && !responses.contains_key("200")
    {
        let mut repeated = created;
        "A repeat under the same idempotency key, or nothing new: what the first request made."
            .clone_into(&mut repeated.description);
        responses.insert("200".to_owned(), RefOr::T(repeated));
    }
}

/// Says that an operator can let everybody use an operation.
fn public(operation: &mut Operation) {
    let text = operation.description.take().unwrap_or_default();
    operation.description = Some(format!("{text} Where the operator makes prices public, everybody."));
    // Either of them is enough.
    let credential = SecurityRequirement::new::<_, [&str; 0], &str>("bearer", []);
    operation.security = Some(vec![credential, SecurityRequirement::default()]);
}

fn complete(operation: &mut Operation, mutation: bool) {
    constrain(operation);
    let schema = RefOr::Ref(Ref::from_schema_name("ProblemDocument"));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let error = ResponseBuilder::new().description("An error.").content(PROBLEM_MEDIA_TYPE, content).build();
    operation.responses.responses.insert("default".to_owned(), RefOr::T(error));
    if mutation {
        repeatable(operation);
        let key: Object =
            ObjectBuilder::new().schema_type(Type::String).max_length(Some(255)).min_length(Some(1)).build();
        let parameter = ParameterBuilder::new()
            .name(IDEMPOTENCY_KEY)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some("1 to 255 visible ASCII characters. A repeat gets the first answer, with 200 and Idempotent-Replayed."))
            .schema(Some(RefOr::T(Schema::Object(key))))
            .build();
        operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
    }
}
