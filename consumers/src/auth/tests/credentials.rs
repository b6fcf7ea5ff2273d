//! The operator's token and API keys.

use axum::http::StatusCode;
use hourglass_ledger::core::{Role, Scope};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

use crate::auth::{ApiKey, KeyDraft, KeyError, draw_key};
use crate::testing::{OPERATOR_TOKEN, key_of, request, with_server};
use axum::body::Body;

fn drawn() -> ApiKey {
    draw_key(key_of(Role::Planner, "", &[])).unwrap().0
}

#[test]
fn a_key_is_shown_once_and_recognised_by_its_hash() {
    let (key, grant) = draw_key(key_of(Role::Planner, "", &[])).unwrap();
    let text = key.reveal();
    let read = ApiKey::parse(&text).unwrap();
    assert_eq!((read.id(), read.hash()), (&grant.id, grant.hash));
    assert_eq!(grant.scopes, [Scope::Read].into());
    let secret = &text["hg_".len() + grant.id.as_str().len() + "_".len()..];
    assert!(!format!("{key:?} {grant:?}").contains(secret));
    assert_ne!(drawn().hash(), drawn().hash());
    assert_ne!(drawn().id(), drawn().id());
    let useless = KeyDraft { scopes: [Scope::Keys].into(), ..key_of(Role::Planner, "", &[]) };
    assert_eq!(
        draw_key(useless).unwrap_err().to_string(),
        "role planner has nothing in scope keys; it has read"
    );
}

proptest! {
    #[test]
    fn a_key_with_one_character_changed_is_told_from_an_unknown_one(
        at in 16..63_usize, to in "[A-Za-z0-9_-]",
    ) {
        let text = drawn().reveal();
        let mut changed = text.clone();
        changed.replace_range(at..=at, &to);
        let read = ApiKey::parse(&changed);
        prop_assert_eq!(read.is_ok(), changed == text);
        if let Err(error) = read {
            prop_assert_eq!(error, KeyError::Checksum);
        }
    }

    #[test]
    fn what_is_no_key_is_none(text in "(hg_)?[a-z2-7]{0,14}_?[A-Za-z0-9_-]{0,60}") {
        prop_assert!(ApiKey::parse(&text).is_err());
    }
}

/// Credentials of every look, and well-formed keys that nobody created.
fn random_credential() -> impl Strategy<Value = String> {
    proptest::prop_oneof![
        "[ -~]{0,80}",
        "hg_[a-z2-7]{12}_[A-Za-z0-9_-]{47}",
        "[A-Za-z0-9_-]{1,40}\\.[A-Za-z0-9_-]{1,40}\\.[A-Za-z0-9_-]{0,40}",
        any::<bool>().prop_map(|_| drawn().reveal()),
    ]
}

#[test]
fn a_random_credential_never_authenticates() {
    with_server(async |server| {
        let known = server.key(key_of(Role::Operator, "", &[])).await;
        let server = server.guarded();
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let strategies =
            (random_credential(), proptest::sample::select(vec!["Bearer ", "bearer ", "Basic ", ""]));
        for _ in 0..600 {
            let tree = proptest::strategy::Strategy::new_tree(&strategies, &mut runner).unwrap();
            let (credential, scheme) = proptest::strategy::ValueTree::current(&tree);
            let header = format!("{scheme}{credential}");
            let answer =
                server.send(request("GET", "/v1/tenants", &[("authorization", &header)], Body::empty()));
            let answer = answer.await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{header:?}");
            let secret = credential.trim();
            assert!(secret.len() < 9 || !answer.text().contains(secret), "{header:?} is echoed");
        }
        server.get_with("/v1/tenants", &known).await.expect(StatusCode::OK);
        // The id of a key that exists with another secret is a key that does not exist.
        let id = known.split('_').nth(1).unwrap();
        let other = ApiKey::new(id.parse().unwrap(), [7; 32]);
        server.get_with("/v1/tenants", &other.reveal()).await.expect_problem(401, "unauthenticated");
    });
}

#[test]
fn a_credential_is_given_once_whole_and_not_too_long() {
    with_server(async |server| {
        let server = server.guarded();
        let token = format!("Bearer {OPERATOR_TOKEN}");
        let ask = async |headers: &[(&str, &str)]| {
            server.send(request("GET", "/v1/tenants", headers, Body::empty())).await
        };
        ask(&[("authorization", &token)]).await.expect(StatusCode::OK);
        let twice = [("authorization", token.as_str()), ("authorization", token.as_str())];
        ask(&twice).await.expect_problem(401, "unauthenticated");
        let long = format!("Bearer {}", "x".repeat(crate::auth::CREDENTIAL_BYTES_MAX));
        ask(&[("authorization", &long)]).await.expect_problem(401, "unauthenticated");
        let none = ask(&[]).await;
        assert_eq!(none.header("www-authenticate"), "Bearer realm=\"hourglass\"");
        none.expect_problem(401, "unauthenticated");
    });
}

/// On loopback nobody needs a credential; who gives one is who it says, or nobody.
#[test]
fn a_credential_that_is_given_counts_where_none_is_needed() {
    with_server(async |server| {
        server.with_customers().await;
        let customer = server.key(key_of(Role::Customer, "acme", &[])).await;
        server.get("/v1/tenants").await.expect(StatusCode::OK);
        server.get_with("/v1/tenants", &customer).await.expect_problem(403, "forbidden");
        server.get_with("/v1/tenants/acme", &customer).await.expect(StatusCode::OK);
        server.get_with("/v1/tenants", "anything").await.expect_problem(401, "unauthenticated");
    });
}
