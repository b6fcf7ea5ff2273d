//! The commands that the documentation shows are run.

use std::process::Command;

use hourglass_test_servers::{Nats, Postgres};

use crate::support::root;

/// Lines that begin with `$ ` in blocks fenced as `console`, in order.
fn commands(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(fence) => inside = fence.trim() == "console",
            None if inside => commands.extend(line.strip_prefix("$ ").map(str::to_owned)),
            None => {}
        }
    }
    commands
}

#[test]
fn the_examples_of_the_documentation_run() {
    let database = Postgres::shared().database();
    let broker = Nats::shared().url();
    let documents = [
        "README.md",
        "docs/scenarios.md",
        "docs/backtest.md",
        "docs/billing-api.md",
        "docs/capacity-planning.md",
        "docs/price-feed.md",
        "docs/operating/embedded.md",
        "docs/operating/billing.md",
        "docs/operating/books.md",
        "docs/operating/compute-sim.md",
        "docs/operating/focus.md",
        "docs/operating/market.md",
        "docs/operating/quota.md",
        "docs/operating/production.md",
        "docs/operating/webhooks.md",
    ];
    for document in documents {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        // The documentation names ports; here they are whichever are free.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let second = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = text.replace("18437", &free.to_string()).replace("18438", &second.to_string());
        let commands = commands(&text);
        assert!(!commands.is_empty(), "{document} shows nothing to run");
        let data = tempfile::tempdir().unwrap();
        let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_hourglass")).parent().unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
        for line in commands {
            let mut shell = Command::new("sh");
            shell
                .args(["-euc", &line])
                .current_dir(root())
                .env("PATH", &path)
                .env("HOURGLASS_DATA", data.path())
                .env("HOURGLASS_POSTGRES_URL", &database)
                .env("HOURGLASS_NATS_SERVERS", &broker);
            let output = shell.output().unwrap();
            if !output.status.success() {
                let stop = "kill \"$(cat \"$HOURGLASS_DATA/pid\")\"";
                let _stopped =
                    Command::new("sh").args(["-c", stop]).env("HOURGLASS_DATA", data.path()).status();
            }
            assert!(
                output.status.success(),
                "{document}: {line}\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}
