//! JWTs, against a small issuer on loopback with keys made here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rsa::pkcs1::EncodeRsaPrivateKey;
use serde_json::{Value, json};

use crate::api::{ApiConfig, router};
use crate::auth::{CREDENTIAL_BYTES_MAX, KeySource, Oidc, OidcOptions, Signature};
use crate::testing::{Server, with_server};

/// A key of the issuer.
struct Signer {
    kid: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn es256(kid: &str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        Self { kid: kid.to_owned(), algorithm: Algorithm::ES256, key }
    }

    fn ed25519(kid: &str) -> Self {
        // PKCS #8 around a seed, as RFC 8410 has it.
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        der.extend(seed);
        let key = EncodingKey::from_ed_der(&der);
        Self { kid: kid.to_owned(), algorithm: Algorithm::EdDSA, key }
    }

    fn rsa(kid: &str, bits: usize, algorithm: Algorithm) -> Self {
        let pair = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits).unwrap();
        let key = EncodingKey::from_rsa_der(pair.to_pkcs1_der().unwrap().as_bytes());
        Self { kid: kid.to_owned(), algorithm, key }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.clone());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

/// What the issuer answers, and how often it was asked.
#[derive(Default)]
struct Answers {
    keys: Mutex<Option<Value>>,
    configured: Mutex<String>,
    asked: AtomicUsize,
}

struct Issuer {
    url: String,
    answers: Arc<Answers>,
}

impl Issuer {
    async fn start(keys: &[&Signer]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(Answers { configured: Mutex::new(url.clone()), ..Answers::default() });
        let (of_keys, of_configuration, at) = (Arc::clone(&answers), Arc::clone(&answers), url.clone());
        let routes = Router::new()
            .route(
                "/jwks",
                get(move || async move {
                    of_keys.asked.fetch_add(1, Ordering::Relaxed);
                    match of_keys.keys.lock().unwrap().clone() {
                        Some(keys) => axum::Json(keys).into_response(),
                        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                    }
                }),
            )
            .route(
                "/.well-known/openid-configuration",
                get(move || async move {
                    let issuer = of_configuration.configured.lock().unwrap().clone();
                    axum::Json(json!({"issuer": issuer, "jwks_uri": format!("{at}/jwks")}))
                }),
            )
            .route("/elsewhere", get(|| async { Redirect::temporary("/jwks") }))
            .route("/huge", get(|| async { vec![b' '; 1 << 20] }))
            .route("/text", get(|| async { "keys" }));
        drop(tokio::spawn(async move { axum::serve(listener, routes).await }));
        let issuer = Self { url, answers };
        issuer.publish(keys);
        issuer
    }

    fn publish(&self, keys: &[&Signer]) {
        self.publish_all(keys.iter().map(|it| it.jwk()).collect());
    }

    fn publish_all(&self, keys: Vec<Value>) {
        *self.answers.keys.lock().unwrap() = Some(json!({ "keys": keys }));
    }

    fn go_away(&self) {
        *self.answers.keys.lock().unwrap() = None;
    }

    fn asked(&self) -> usize {
        self.answers.asked.load(Ordering::Relaxed)
    }

    fn options(&self) -> OidcOptions {
        let keys = KeySource::Url(format!("{}/jwks", self.url));
        OidcOptions { keys, ..OidcOptions::new(&self.url, "hourglass") }
    }
}

fn trusting(server: &Server, options: OidcOptions) -> Server {
    let config = ApiConfig { oidc: Some(Oidc::new(options).unwrap()), ..ApiConfig::default() };
    let (cell, clock) = (server.cell.clone(), Arc::clone(&server.clock));
    Server { router: router(cell.clone(), config), cell, clock, hooks: crate::testing::hooks() }
}

/// Seconds by the cell's clock.
fn now(server: &Server) -> i64 {
    server.cell.now().unix_ms() / 1_000
}

/// Good claims of an operator for ten minutes.
fn claims(server: &Server, issuer: &Issuer) -> Value {
    json!({"iss": issuer.url, "aud": "hourglass", "sub": "alice", "exp": now(server) + 600,
        "nbf": now(server), "iat": now(server), "hourglass_role": "operator"})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

async fn status(server: &Server, token: &str) -> u16 {
    server.get_with("/v1/tenants", token).await.status.as_u16()
}

#[test]
fn each_algorithm_opens_what_the_role_may() {
    with_server(async |server| {
        server.with_customers().await;
        let signers = [
            Signer::es256("ec"),
            Signer::ed25519("ed"),
            Signer::rsa("rs", 2_048, Algorithm::RS256),
            Signer::rsa("ps", 2_048, Algorithm::PS256),
        ];
        let issuer = Issuer::start(&signers.iter().collect::<Vec<_>>()).await;
        let server = trusting(&server, issuer.options());
        // With an issuer nobody is trusted for being near.
        server.get("/v1/tenants").await.expect_problem(401, "unauthenticated");
        for signer in &signers {
            let good = claims(&server, &issuer);
            server.get_with("/v1/tenants", &signer.sign(&good)).await.expect(StatusCode::OK);
            let customer =
                with(with(good, "hourglass_role", json!("customer")), "hourglass_tenant", json!("acme"));
            let customer = signer.sign(&customer);
            server.get_with("/v1/tenants/acme/balance", &customer).await.expect(StatusCode::OK);
            server
                .get_with("/v1/tenants/beta/balance", &customer)
                .await
                .expect_problem(404, "tenant_unknown");
            server.get_with("/v1/tenants", &customer).await.expect_problem(403, "forbidden");
        }
        assert_eq!(issuer.asked(), 1);
        // The allowed algorithms can be fewer, and a key can be for one of them.
        let es_only = OidcOptions { algorithms: vec![Signature::Es256], ..issuer.options() };
        let narrow = trusting(&server, es_only);
        let token = |signer: &Signer| signer.sign(&claims(&server, &issuer));
        assert_eq!(
            (status(&narrow, &token(&signers[0])).await, status(&narrow, &token(&signers[1])).await),
            (200, 401)
        );
        let as_ps = Signer { algorithm: Algorithm::PS256, kid: "rs".to_owned(), key: signers[2].key.clone() };
        assert_eq!(status(&server, &token(&as_ps)).await, 401);
    });
}

/// A token of three parts as they are, signed by nobody.
fn assembled(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!(
        "{}.{}.{}",
        part(header.to_string().as_bytes()),
        part(claims.to_string().as_bytes()),
        part(signature)
    )
}

#[test]
fn what_is_not_proved_is_refused() {
    with_server(async |server| {
        let signer = Signer::es256("k1");
        let issuer = Issuer::start(&[&signer]).await;
        let server = trusting(&server, issuer.options());
        let good = claims(&server, &issuer);
        let token = signer.sign(&good);
        assert_eq!(status(&server, &token).await, 200);
        let (head, signature) = token.rsplit_once('.').unwrap();
        let (header, payload) = head.split_once('.').unwrap();
        let signed = URL_SAFE_NO_PAD.decode(signature).unwrap();

        let stranger = Signer::es256("k1");
        let unknown = Signer::es256("k9");
        let now = now(&server);
        let changed = |name: &str, value: Value| with(good.clone(), name, value);
        let mut critical: Value = json!({"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": false});
        let crit = assembled(&critical, &good, &signed);
        critical["crit"] = json!([]);
        // The public key as the secret of an HMAC, in the forms in which it can be had.
        let hmac = |secret: &[u8], alg| {
            let header = Header { kid: Some("k1".to_owned()), ..Header::new(alg) };
            encode(&header, &good, &EncodingKey::from_secret(secret)).unwrap()
        };
        let jwk = signer.jwk();
        let point = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
        let bad = [
            ("another issuer", signer.sign(&changed("iss", json!("http://127.0.0.1:1")))),
            ("issuers in a list", signer.sign(&changed("iss", json!([issuer.url])))),
            ("no issuer", signer.sign(&changed("iss", Value::Null))),
            ("another audience", signer.sign(&changed("aud", json!("other")))),
            ("other audiences", signer.sign(&changed("aud", json!(["other", "hourglass2"])))),
            ("no audience", signer.sign(&changed("aud", Value::Null))),
            ("expired", signer.sign(&changed("exp", json!(now - 30)))),
            ("no end", signer.sign(&changed("exp", Value::Null))),
            ("an end that is no time", signer.sign(&changed("exp", json!("tomorrow")))),
            ("an end out of range", signer.sign(&changed("exp", json!(i64::MAX)))),
            ("a fraction", signer.sign(&changed("exp", json!(1.5e9)))),
            ("not valid yet", signer.sign(&changed("nbf", json!(now + 31)))),
            ("a start that is no time", signer.sign(&changed("nbf", json!("now")))),
            ("nobody", signer.sign(&changed("sub", Value::Null))),
            ("a sub with a space", signer.sign(&changed("sub", json!("a b")))),
            ("a long sub", signer.sign(&changed("sub", json!("a".repeat(256))))),
            ("another's key under our kid", stranger.sign(&good)),
            ("an unknown kid", unknown.sign(&good)),
            ("no kid", encode(&Header::new(Algorithm::ES256), &good, &signer.key).unwrap()),
            ("none", assembled(&json!({"alg": "none", "kid": "k1"}), &good, b"")),
            ("None", assembled(&json!({"alg": "None", "kid": "k1"}), &good, b"")),
            ("no algorithm", assembled(&json!({"kid": "k1"}), &good, &signed)),
            ("another algorithm", assembled(&json!({"alg": "EdDSA", "kid": "k1"}), &good, &signed)),
            ("RSA by an EC key", assembled(&json!({"alg": "RS256", "kid": "k1"}), &good, &signed)),
            (
                "an algorithm that is not taken",
                assembled(&json!({"alg": "ES384", "kid": "k1"}), &good, &signed),
            ),
            ("a kid that is no text", assembled(&json!({"alg": "ES256", "kid": 1}), &good, &signed)),
            ("critical", crit),
            ("critical and empty", assembled(&critical, &good, &signed)),
            ("HS256 by the key's point", hmac(&point, Algorithm::HS256)),
            ("HS512 by the key's JSON", hmac(jwk.to_string().as_bytes(), Algorithm::HS512)),
            (
                "a changed payload",
                assembled(&json!({"alg": "ES256", "kid": "k1"}), &changed("sub", json!("bob")), &signed),
            ),
            ("no signature", format!("{head}.")),
            ("two parts", head.to_owned()),
            ("four parts", format!("{token}.{signature}")),
            (
                "a signature of another length",
                assembled(&json!({"alg": "ES256", "kid": "k1"}), &good, &signed[1..]),
            ),
            ("zeros", format!("{head}.{}", URL_SAFE_NO_PAD.encode([0; 64]))),
            ("padding", format!("{header}.{payload}=.{signature}")),
            ("claims that are a list", signer.sign(&json!(["operator"]))),
            ("empty parts", "..".to_owned()),
            ("too long", format!("{token}{}", "A".repeat(CREDENTIAL_BYTES_MAX))),
        ];
        for (what, token) in bad {
            let answer = server.get_with("/v1/tenants", &token).await;
            assert_eq!(answer.status, 401, "{what}: {}", answer.text());
            assert_eq!(
                answer.header("www-authenticate"),
                "Bearer realm=\"hourglass\", error=\"invalid_token\""
            );
            assert!(!answer.text().contains(signature), "{what} is echoed");
        }
        // Every bit counts.
        for at in 0..token.len() {
            let mut changed = token.clone();
            let other = if &token[at..=at] == "A" { "B" } else { "A" };
            changed.replace_range(at..=at, other);
            assert_eq!(status(&server, &changed).await, 401, "{at}");
        }
        // Clocks may be apart by the leeway; claims may be more than are needed.
        for good in [
            changed("exp", json!(now - 29)),
            changed("nbf", json!(now + 30)),
            changed("nbf", Value::Null),
            changed("aud", json!(["other", "hourglass"])),
            changed("email", json!("alice@login.example")),
        ] {
            assert_eq!(status(&server, &signer.sign(&good)).await, 200, "{good}");
        }
    });
}

#[test]
fn who_is_known_and_may_nothing_is_forbidden() {
    with_server(async |server| {
        server.with_customers().await;
        let signer = Signer::ed25519("k1");
        let issuer = Issuer::start(&[&signer]).await;
        let server = trusting(&server, issuer.options());
        let good = claims(&server, &issuer);
        for (role, tenant, status, code) in [
            (Value::Null, Value::Null, 403, "role_missing"),
            (json!("king"), Value::Null, 403, "role_unknown"),
            (json!("Operator"), Value::Null, 403, "role_unknown"),
            (json!(7), Value::Null, 403, "role_unknown"),
            (json!(["admin", "user"]), Value::Null, 403, "role_unknown"),
            (json!(["operator", "customer"]), json!("acme"), 403, "role_ambiguous"),
            (json!("customer"), Value::Null, 403, "tenant_missing"),
            (json!("customer"), json!(""), 403, "tenant_missing"),
            (json!("customer"), json!(["acme"]), 403, "tenant_missing"),
            (json!("customer"), json!("../beta"), 403, "tenant_missing"),
            (json!("agent"), Value::Null, 403, "agent_missing"),
            (json!("trader"), Value::Null, 403, "forbidden"),
            (json!("customer"), json!("beta"), 404, "tenant_unknown"),
            // A tenant that the token names and the cell does not have.
            (json!("customer"), json!("nobody"), 404, "tenant_unknown"),
        ] {
            let claims = with(with(good.clone(), "hourglass_role", role), "hourglass_tenant", tenant);
            let answer = server.get_with("/v1/tenants/acme", &signer.sign(&claims)).await;
            if status == 403 {
                assert!(answer.header("www-authenticate").ends_with("error=\"insufficient_scope\""));
            }
            answer.expect_problem(status, code);
        }
        let roles = with(good.clone(), "hourglass_role", json!(["admin", "finance"]));
        server.get_with("/v1/tenants/acme", &signer.sign(&roles)).await.expect(StatusCode::OK);
        // Claims of other names.
        let named = OidcOptions {
            role_claim: "https://login.example/role".to_owned(),
            tenant_claim: "org".to_owned(),
            ..issuer.options()
        };
        let named = trusting(&server, named);
        let claims = with(with(good, "https://login.example/role", json!("customer")), "org", json!("acme"));
        named.get_with("/v1/tenants/acme", &signer.sign(&claims)).await.expect(StatusCode::OK);
        named.get_with("/v1/tenants", &signer.sign(&claims)).await.expect_problem(403, "forbidden");
    });
}

#[test]
fn keys_are_read_again_when_they_may_have_changed() {
    with_server(async |server| {
        let (old, new) = (Signer::es256("old"), Signer::es256("new"));
        let issuer = Issuer::start(&[&old]).await;
        let server = trusting(&server, issuer.options());
        let at = |time: &str| server.clock.set(&format!("2026-01-01T{time}Z"));
        let token =
            |signer: &Signer| signer.sign(&with(claims(&server, &issuer), "exp", json!(2_000_000_000)));
        let (of_old, of_new) = (token(&old), token(&new));
        assert_eq!((status(&server, &of_old).await, issuer.asked()), (200, 1));

        // The issuer rotates: an unknown name has the set read again, but not at once.
        issuer.publish(&[&new]);
        at("02:01:29");
        assert_eq!((status(&server, &of_new).await, issuer.asked()), (401, 1));
        at("02:01:30");
        assert_eq!((status(&server, &of_new).await, issuer.asked()), (200, 2));
        assert_eq!(status(&server, &of_old).await, 401);
        // However many names are made up, and by however many at once.
        let made_up = token(&Signer::es256("made-up"));
        let many = (0..50).map(|_| status(&server, &made_up));
        assert!(futures_util::future::join_all(many).await.iter().all(|status| *status == 401));
        assert_eq!(issuer.asked(), 2);

        // A key that was taken back is refused once the set is too old to be used unseen.
        issuer.publish(&[]);
        at("02:06:29");
        assert_eq!((status(&server, &of_new).await, issuer.asked()), (200, 2));
        at("02:06:31");
        assert_eq!((status(&server, &of_new).await, issuer.asked()), (401, 3));

        // The issuer goes away: what was read last is used on, for a day.
        issuer.publish(&[&new]);
        at("02:10:00");
        assert_eq!((status(&server, &of_new).await, issuer.asked()), (200, 4));
        issuer.go_away();
        at("02:20:00");
        assert_eq!((status(&server, &of_new).await, issuer.asked()), (200, 5));
        server.clock.set("2026-01-02T02:09:59Z");
        assert_eq!((status(&server, &of_new).await, issuer.asked()), (200, 6));
        server.clock.set("2026-01-02T02:10:00Z");
        assert_eq!(status(&server, &of_new).await, 401);
        issuer.publish(&[&new]);
        server.clock.set("2026-01-02T02:11:00Z");
        assert_eq!(status(&server, &of_new).await, 200);
    });
}

#[test]
fn sources_that_cannot_be_trusted_give_no_keys() {
    with_server(async |server| {
        let signer = Signer::es256("k1");
        let issuer = Issuer::start(&[&signer]).await;
        let token = signer.sign(&claims(&server, &issuer));
        let directory = tempfile::tempdir().unwrap();
        let (good, large) = (directory.path().join("jwks.json"), directory.path().join("large.json"));
        std::fs::write(&good, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
        std::fs::write(&large, vec![b' '; 1 << 20]).unwrap();
        let url = |path: &str| KeySource::Url(format!("{}{path}", issuer.url));
        for (source, expected) in [
            (KeySource::Discovery, 200),
            (url("/jwks"), 200),
            (KeySource::File(good), 200),
            (KeySource::File(large), 401),
            (KeySource::File(directory.path().join("none.json")), 401),
            (KeySource::File(directory.path().to_owned()), 401),
            (url("/elsewhere"), 401),
            (url("/huge"), 401),
            (url("/text"), 401),
            (url("/nothing"), 401),
            (KeySource::Url("http://127.0.0.1:1/jwks".to_owned()), 401),
        ] {
            let what = format!("{source:?}");
            let trusting = trusting(&server, OidcOptions { keys: source, ..issuer.options() });
            assert_eq!(status(&trusting, &token).await, expected, "{what}");
        }
        // One issuer must not speak for another.
        *issuer.answers.configured.lock().unwrap() = "http://127.0.0.1:2".to_owned();
        let discovering = trusting(&server, OidcOptions { keys: KeySource::Discovery, ..issuer.options() });
        assert_eq!(status(&discovering, &token).await, 401);

        let wrong = |options: OidcOptions| Oidc::new(options).unwrap_err().to_string();
        assert!(wrong(OidcOptions::new("http://login.example", "a")).contains("https"));
        assert!(wrong(OidcOptions::new("", "a")).contains("empty"));
        assert!(wrong(OidcOptions::new("https://login.example", "")).contains("empty"));
        let none = OidcOptions { algorithms: Vec::new(), ..issuer.options() };
        assert!(wrong(none).contains("algorithm"));
        let clear = KeySource::Url("http://keys.example/jwks".to_owned());
        assert!(wrong(OidcOptions { keys: clear, ..issuer.options() }).contains("https"));
        for name in ["none", "HS256", "RS512", "rs256", ""] {
            assert!(name.parse::<Signature>().is_err(), "{name}");
        }
    });
}

#[test]
fn keys_that_are_weak_secret_or_broken_are_passed_over() {
    with_server(async |server| {
        let (good, weak) = (Signer::es256("good"), Signer::rsa("weak", 1_024, Algorithm::RS256));
        let edwards = Signer::ed25519("short");
        let issuer = Issuer::start(&[&good]).await;
        let secret = b"a secret that somebody published";
        let oct = json!({"kty": "oct", "kid": "oct", "k": URL_SAFE_NO_PAD.encode(secret)});
        let mut encryption = good.jwk();
        encryption["kid"] = json!("enc");
        encryption["use"] = json!("enc");
        // Shorter than its curve has it: to use it unseen would be to read past its end.
        let mut short = edwards.jwk();
        short["x"] = json!(URL_SAFE_NO_PAD.encode([1; 31]));
        let broken =
            json!({"kty": "EC", "crv": "P-256", "kid": "broken", "x": "AA", "y": "AA", "alg": "ES256"});
        issuer.publish_all(vec![json!(7), oct, weak.jwk(), encryption, short, broken, good.jwk()]);
        let server = trusting(&server, issuer.options());
        let claims = claims(&server, &issuer);
        assert_eq!(status(&server, &good.sign(&claims)).await, 200);
        let header = Header { kid: Some("oct".to_owned()), ..Header::new(Algorithm::HS256) };
        let by_secret = encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap();
        let named = |kid: &str, signer: &Signer| {
            let signer = Signer { kid: kid.to_owned(), key: signer.key.clone(), ..*signer };
            signer.sign(&claims)
        };
        for token in [
            by_secret,
            weak.sign(&claims),
            named("enc", &good),
            named("short", &edwards),
            named("broken", &good),
        ] {
            assert_eq!(status(&server, &token).await, 401, "{token}");
        }
    });
}
