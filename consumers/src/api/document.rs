//! The OpenAPI document: what handlers say of themselves, and what holds for all of them.

use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Object, ObjectBuilder, Ref, RefOr, Required, ResponseBuilder, Schema, Type,
};

use super::extract::IDEMPOTENCY_KEY;
use super::instances::{__path_start_instance, __path_stop_instance};
use super::problem::{PROBLEM_MEDIA_TYPE, ProblemDocument};
use super::quarantine::__path_replay_quarantine;

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
    paths(start_instance, stop_instance, replay_quarantine),
    components(schemas(ProblemDocument)),
    tags(
        (name = "tenants", description = "Customers."),
        (name = "prices", description = "Rate cards and contracts."),
        (name = "instances", description = "Instances and their life cycle."),
        (name = "usage", description = "Usage in, and reports of it."),
        (name = "ledger", description = "Balances, rows and the log."),
        (name = "invoices", description = "Invoices."),
        (name = "operation", description = "Probes and metrics."),
    ),
)]
pub(super) struct Document;

/// Adds what holds for every operation: errors, idempotency and the token.
pub(super) fn completed(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    if let Some(components) = &mut document.components {
        components.add_security_scheme("operator_token", SecurityScheme::Http(bearer));
    }
    for (path, item) in &mut document.paths.paths {
        let public = matches!(path.as_str(), "/healthz" | "/readyz");
        for (operation, mutation) in [(&mut item.get, false), (&mut item.post, true)] {
            if let Some(operation) = operation {
                complete(operation, mutation, public);
            }
        }
    }
    document
}

fn complete(operation: &mut Operation, mutation: bool, public: bool) {
    let schema = RefOr::Ref(Ref::from_schema_name("ProblemDocument"));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let error = ResponseBuilder::new().description("An error.").content(PROBLEM_MEDIA_TYPE, content).build();
    operation.responses.responses.insert("default".to_owned(), RefOr::T(error));
    if !public {
        operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("operator_token", [])]);
    }
    if mutation {
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
