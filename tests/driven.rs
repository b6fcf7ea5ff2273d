//! A cell drives units of spot bids in a cloud that is a process of its own; both are killed now and then.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hourglass_compute::model::{InstanceState, Supply};
use serde_json::{Value, json};

use crate::compute_sim::Simulator;
use crate::support::{Server, command, hourglass};

const POOL: &str = "test/gpu-h100-sxm/fabric-1";

/// Looks until something is as it should be. The deadline is for a machine that is very busy.
#[expect(clippy::disallowed_methods, reason = "looks again a little later, up to a deadline")]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what} does not come to pass");
}

/// A rate card, and one tenant.
fn open_accounts(server: &Server) {
    let price =
        |model, price| json!({"platform": "gpu-h100-sxm", "region": "test", "model": model, "price": price});
    let card = json!({
        "name": "list", "version": 1, "currency": "USD", "effective_from": "2026-01-01T00:00:00Z",
        "prices": [price("on_demand", "2.95"), price("spot", "1.25")],
    });
    assert_eq!(server.post("/v1/rate-cards", &card).0, 201);
    let tenant = json!({"tenant": "acme", "currency": "USD", "display_name": "Acme"});
    assert_eq!(server.post("/v1/tenants", &tenant).0, 201);
}

fn run(server: &Server, args: &[&str]) -> Value {
    let url = ["--server", &server.url, "--json"];
    hourglass(Path::new("/nonexistent"), &[args, &url].concat()).json()
}

/// The states of a bid's units, and the names of those that run.
fn running(server: &Server, bid: &str) -> Vec<String> {
    let bid = run(server, &["bid", "show", "acme", bid]);
    let units = bid["instances"].as_array().unwrap().iter();
    units
        .filter(|it| it["state"] == "running")
        .map(|it| it["instance"].as_str().unwrap().to_owned())
        .collect()
}

fn names(simulator: &Simulator) -> Vec<(String, InstanceState)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let there = runtime.block_on(async {
        let client = simulator.client();
        client.instances(&"hourglass".parse().unwrap()).await.unwrap()
    });
    let mut names: Vec<_> = there.into_iter().map(|it| (it.name, it.state)).collect();
    names.sort();
    names
}

#[test]
fn l1_l3_units_run_and_go_though_everybody_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (data, state) = (directory.path().join("cell"), directory.path().join("cloud.json"));
    let simulate = || {
        let args = ["--boot", "1s", "--stop", "1s", "--state", state.to_str().unwrap(), "--fault-rate", "2%"];
        Simulator::start(directory.path(), &args)
    };
    let up = |simulator: &Simulator| {
        let url = format!("http://{}", simulator.address);
        Server::up(&data, &[("HOURGLASS_COMPUTE", &url)])
    };
    let simulator = simulate();
    let server = up(&simulator);
    open_accounts(&server);
    run(
        &server,
        &[
            "pool",
            "set",
            "gpu-h100-sxm",
            "fabric-1",
            "--gpus",
            "16",
            "--currency",
            "USD",
            "--reserve",
            "0.6",
            "--driven",
        ],
    );
    let place = ["bid", "place", "acme", "b", "--project", "ml", "--pool", POOL, "--limit", "1"];
    run(&server, &[&place[..], &["--gpus-per-unit", "8", "--units", "2", "--min-units", "2"]].concat());
    run(&server, &["market", "clear"]);
    // The cell is killed while they come up, and so is the cloud once they run.
    server.kill();
    let server = up(&simulator);
    let units = until("two units that run", || Some(running(&server, "b")).filter(|it| it.len() == 2));
    drop(simulator);
    server.kill();
    let simulator = simulate();
    let server = up(&simulator);
    let there = names(&simulator);
    assert_eq!(there.iter().map(|(name, _)| name).collect::<Vec<_>>(), units.iter().collect::<Vec<_>>());
    assert!(there.iter().all(|(_, state)| *state == InstanceState::Running), "{there:?}");

    // What this cell drives nobody else can say to be stopped.
    let stop = json!({"at": "2026-01-01T00:00:00Z", "cause": "user"});
    let (status, refused) = server.post(&format!("/v1/tenants/acme/instances/{}:stop", units[0]), &stop);
    assert_eq!((status, &refused["code"]), (409, &json!("is_a_unit")), "{refused}");

    run(&server, &["bid", "cancel", "acme", "b"]);
    until("a cloud with nothing in it", || names(&simulator).is_empty().then_some(()));
    until("a bid that is over", || {
        let bids = run(&server, &["bid", "list", "acme"]);
        bids.as_array().is_some_and(Vec::is_empty).then_some(())
    });
    assert!(server.stop());
    hourglass(&data, &["verify"]).ok();
}

#[test]
fn a_simulator_lives_as_long_as_its_cell() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["up", "--compute", "simulator", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
    for signal in ["TERM", "KILL"] {
        let mut up = command(directory.path(), &args).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(up.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("a simulated cloud")).unwrap();
        let address = line.split_once("http://").unwrap().1.split_whitespace().next().unwrap();
        drop(TcpStream::connect(address).unwrap());
        hourglass_test_servers::signal(signal, up.id());
        assert_eq!(up.wait().unwrap().success(), signal == "TERM");
        until("the end of the simulated cloud", || TcpStream::connect(address).err());
    }
    assert!(directory.path().join("simulator.json").exists(), "it remembers for the next cell");
    // One that cannot start takes the cell along.
    std::fs::write(directory.path().join("simulator.json"), "nonsense").unwrap();
    let refused = hourglass(directory.path(), &args);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    for says in ["simulator.json is no state of a simulated cloud", "the simulated cloud has ended"] {
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    // The cells of a production ledger would each have a cloud of their own.
    let settings = directory.path().join("hourglass.toml");
    std::fs::write(&settings, "[postgres]\nurl = \"postgres://nobody@127.0.0.1:1/nothing\"\n").unwrap();
    let serve = ["serve", "--compute", "simulator", "--config", settings.to_str().unwrap()];
    let refused = hourglass(directory.path(), &serve);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("outlives its processes"), "{}", refused.stderr);
    // A flag lies over the section, which is no cloud here.
    std::fs::write(&settings, "[compute]\nurl = \"nowhere\"\n").unwrap();
    let up = |more: &[&str]| {
        let all =
            ["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--config", settings.to_str().unwrap()];
        hourglass(directory.path(), &[&all, more].concat())
    };
    assert!(up(&[]).stderr.contains("\"nowhere\" is no address"), "{}", up(&[]).stderr);
    assert!(up(&["--compute", "elsewhere"]).stderr.contains("\"elsewhere\" is no address"));
}

/// A pool has what the cloud reserves or advises, units can be ones that the provider takes back, and a cloud that
/// is away changes nothing of what is known.
#[test]
fn pools_have_what_the_cloud_says() {
    let directory = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(
        directory.path(),
        &[
            "--boot",
            "1s",
            "--stop",
            "1s",
            "--region",
            "test",
            "--tenant",
            "tenant-1",
            "--capacity",
            "gpu-h100-sxm/fabric-2=24",
            "--reservation",
            "capacityblockgroup-1=gpu-h100-sxm/fabric-1:16",
        ],
    );
    let settings = directory.path().join("hourglass.toml");
    let compute = format!(
        "[compute]\nurl = \"http://{}\"\ntenant = \"tenant-1\"\nlist_every = \"1s\"\n",
        simulator.address
    );
    std::fs::write(&settings, compute).unwrap();
    let data = directory.path().join("cell");
    let args = [
        "up",
        "--http",
        "127.0.0.1:0",
        "--grpc",
        "127.0.0.1:0",
        "--region",
        "test",
        "--config",
        settings.to_str().unwrap(),
    ];
    let server = Server::start(&mut command(&data, &args));
    open_accounts(&server);
    for (fabric, more) in [
        ("fabric-1", ["--capacity", "intervals", "--backend", "regular"]),
        ("fabric-2", ["--capacity", "advice", "--backend", "preemptible"]),
        ("fabric-9", ["--capacity", "intervals", "--backend", "regular"]),
    ] {
        let set = [
            "pool",
            "set",
            "gpu-h100-sxm",
            fabric,
            "--gpus",
            "1",
            "--currency",
            "USD",
            "--reserve",
            "0.6",
            "--driven",
        ];
        run(&server, &[&set[..], &more[..]].concat());
    }
    let gpus = |fabric: &str| run(&server, &["pool", "show", "gpu-h100-sxm", fabric])["gpus"].as_u64();
    until("what is reserved", || gpus("fabric-1").filter(|it| *it == 16));
    until("what is advised", || gpus("fabric-2").filter(|it| *it == 24));
    assert_eq!(gpus("fabric-9"), Some(1), "nobody speaks of it: what the operator said holds");
    let metrics = || server.get("/metrics").1.as_str().unwrap().to_owned();
    let since = "hourglass_compute_capacity_read_timestamp_seconds";
    assert!(metrics().contains(&format!("{since} 0\n")), "not of all pools: {}", metrics());

    let bid = [
        "bid",
        "place",
        "acme",
        "b",
        "--project",
        "ml",
        "--pool",
        "test/gpu-h100-sxm/fabric-2",
        "--limit",
        "1",
    ];
    run(&server, &[&bid[..], &["--gpus-per-unit", "8", "--units", "2"]].concat());
    run(&server, &["market", "clear"]);
    until("two units that run", || Some(running(&server, "b")).filter(|it| it.len() == 2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let parent = "hourglass".parse().unwrap();
    let there = runtime.block_on(async { simulator.client().instances(&parent).await.unwrap() });
    assert!(there.iter().all(|it| it.spec.supply == Supply::Preemptible), "{there:?}");
    // With what they took it is the same again.
    until("what is advised, and taken", || gpus("fabric-2").filter(|it| *it == 24));
    let set = [
        "pool",
        "set",
        "gpu-h100-sxm",
        "fabric-2",
        "--gpus",
        "1",
        "--currency",
        "USD",
        "--reserve",
        "0.6",
        "--driven",
    ];
    let url = ["--server", &server.url];
    let refused = hourglass(Path::new("/nonexistent"), &[&set[..], &url].concat());
    assert_eq!(refused.code, 3, "{}", refused.stdout);
    assert!(refused.stderr.contains("its backend can change when they are gone"), "{}", refused.stderr);

    // A cloud that is gone is asked in vain: the cell serves, and what was known stays.
    drop(simulator);
    let head = || server.get("/v1/ledger/head").1["position"].as_u64();
    run(
        &server,
        &["pool", "set", "gpu-h100-sxm", "fabric-3", "--gpus", "4", "--currency", "USD", "--reserve", "0.6"],
    );
    let before = head();
    until("a clearing without the cloud", || (head() > before).then_some(()));
    assert_eq!((gpus("fabric-1"), gpus("fabric-2")), (Some(16), Some(24)));
    assert!(server.stop());
    hourglass(&data, &["verify"]).ok();
}
