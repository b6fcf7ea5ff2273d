//! API keys from the command line, on a data directory and against a running cell.

use serde_json::{Value, json};

use crate::support::{Answer, Server, agent, command, hourglass};

fn with_env(data: &std::path::Path, args: &[&str], env: &[(&str, &str)]) -> Answer {
    let output = command(data, args).envs(env.iter().copied()).output().unwrap();
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn status(server: &Server, path: &str, key: &str) -> u16 {
    let request = agent().get(format!("{}{path}", server.url));
    request.header("authorization", format!("Bearer {key}")).call().unwrap().status().as_u16()
}

#[test]
fn keys_are_made_on_the_directory_and_on_the_running_cell() {
    let data = tempfile::tempdir().unwrap();
    let operator = ("HOURGLASS_OPERATOR_TOKEN", "a-token-of-some-length");
    let server = Server::up(data.path(), &[operator]);
    let url = server.url.clone();
    let post = |path: &str, body: &Value| {
        let request = agent().post(format!("{url}{path}")).header("content-type", "application/json");
        let request = request.header("authorization", "Bearer a-token-of-some-length");
        request.send(body.to_string().as_bytes()).unwrap().status().as_u16()
    };
    assert_eq!(post("/v1/tenants", &json!({"tenant": "acme", "currency": "USD"})), 201);

    // Of the running cell.
    let customer = ["--role", "customer", "--tenant", "acme", "--name", "ci", "--expires-in", "90d"];
    let create: Vec<&str> = ["key", "create", "--server", &url].into_iter().chain(customer).collect();
    let created = with_env(data.path(), &create, &[operator]).ok();
    let key = created.stdout.trim().to_owned();
    assert!(key.starts_with("hg_") && created.stderr.contains("this once"), "{}", created.stderr);
    assert!(!created.stderr.contains(&key));
    assert_eq!((status(&server, "/v1/tenants/acme", &key), status(&server, "/v1/tenants", &key)), (200, 403));
    let list = with_env(data.path(), &["key", "list", "--server", &url, "--json"], &[operator]).json();
    assert_eq!((&list[0]["name"], &list[0]["active"]), (&json!("ci"), &json!(true)), "{list}");

    // A credential of one's own comes before the operator's token, and may not be enough.
    let narrow =
        with_env(data.path(), &["key", "list", "--server", &url], &[operator, ("HOURGLASS_TOKEN", &key)]);
    assert_eq!(narrow.code, 3, "{}", narrow.stderr);
    assert!(
        narrow.stderr.contains("answers 403") && narrow.stderr.contains("keys.manage"),
        "{}",
        narrow.stderr
    );
    assert!(!narrow.stderr.contains(&key));
    let nobody = with_env(data.path(), &["key", "list", "--server", &url], &[]);
    assert!(nobody.code == 3 && nobody.stderr.contains("answers 401"), "{}", nobody.stderr);
    // The directory is the running cell's.
    assert_eq!(hourglass(data.path(), &["key", "create", "--role", "planner"]).code, 4);

    let id = list[0]["id"].as_str().unwrap();
    with_env(data.path(), &["key", "revoke", id, "--server", &url], &[operator]).ok();
    assert_eq!(status(&server, "/v1/tenants/acme", &key), 401);
    let again = with_env(data.path(), &["key", "revoke", id, "--server", &url], &[operator]);
    assert!(again.code == 3 && again.stderr.contains("revoked already"), "{}", again.stderr);
    assert!(server.stop());

    // Of the directory.
    let made =
        hourglass(data.path(), &["key", "create", "--role", "operator", "--scope", "metrics", "--json"])
            .json();
    let scraper = made["key"].as_str().unwrap().to_owned();
    let text = hourglass(data.path(), &["key", "list"]).ok().stdout;
    assert!(text.contains("revoked") && text.contains("metrics") && !text.contains(&scraper), "{text}");
    let revoked = hourglass(data.path(), &["key", "revoke", id]);
    assert!(revoked.code == 3 && revoked.stderr.contains("revoked already"), "{}", revoked.stderr);
    let report = hourglass(data.path(), &["verify", "--json"]).json();
    assert_eq!(report["finding_count"], 0);
    let server = Server::up(data.path(), &[operator]);
    assert_eq!((status(&server, "/metrics", &scraper), status(&server, "/v1/tenants", &scraper)), (200, 403));
    assert_eq!(status(&server, "/v1/tenants/acme", &key), 401);
    let url = server.url.clone();
    drop(server);
    let gone = with_env(data.path(), &["key", "list", "--server", &url], &[operator]);
    assert!(gone.code == 4 && !gone.stderr.contains("a-token"), "{}", gone.stderr);
}

#[test]
fn what_makes_no_key_says_why() {
    let data = tempfile::tempdir().unwrap();
    let check = |args: &[&str], code: i32, says: &str| {
        let answer = hourglass(data.path(), args);
        assert_eq!(answer.code, code, "{args:?}: {}", answer.stderr);
        assert!(answer.stderr.contains(says), "{args:?} should say {says:?}: {}", answer.stderr);
    };
    check(&["key", "create", "--role", "king"], 2, "use one of customer, finance");
    check(&["key", "create", "--role", "customer"], 2, "--role customer needs --tenant");
    check(
        &["key", "create", "--role", "planner", "--tenant", "acme"],
        2,
        "--tenant is for --role customer only",
    );
    check(&["key", "create", "--role", "agent"], 2, "--role agent needs --agent");
    check(&["key", "create", "--role", "planner", "--scope", "write"], 2, "it has read");
    check(&["key", "create", "--role", "planner", "--scope", "all"], 2, "use one of read, write");
    check(&["key", "revoke", "x"], 2, "12 characters");
    check(&["key", "list", "--server", "http://cell.example"], 2, "in the clear");
    check(&["key", "list"], 4, "there is no ledger in");
    check(&["key", "create", "--role", "planner", "--expires-at", "2020-01-01"], 3, "open");
}
