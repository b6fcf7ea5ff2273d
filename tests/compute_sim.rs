//! The simulated cloud as a process: killed, told to stop, and given flags that it cannot use.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hourglass_compute::ComputeError;
use hourglass_compute::client::{Client, ClientOptions, Patience, TokenSource};
use hourglass_compute::model::{InstanceSpec, Labels, NewInstance, Operation, Recovery, Supply, Template};

use crate::support::{command, hourglass};

/// The process, and where it listens.
pub(crate) struct Simulator {
    child: Child,
    pub(crate) address: String,
}

impl Simulator {
    pub(crate) fn start(directory: &Path, more: &[&str]) -> Self {
        let args = [&["compute-sim", "--capacity", "gpu-h100-sxm/fabric-1=100000"], more].concat();
        let mut child =
            command(directory, &args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim().to_owned() }
    }

    pub(crate) fn client(&self) -> Client {
        let patience = Patience { attempts_max: 1, ..Patience::default() };
        let url = format!("http://{}", self.address);
        let options = ClientOptions { url, authority: None, token: TokenSource::None, patience, seed: 1 };
        Client::new(options).unwrap()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn new(number: usize) -> NewInstance {
    NewInstance {
        parent: "project-1".parse().unwrap(),
        name: format!("name-{number}"),
        labels: Labels::new(),
        spec: InstanceSpec {
            platform: "gpu-h100-sxm".parse().unwrap(),
            preset: "8gpu-128vcpu-1600gb".parse().unwrap(),
            cluster: None,
            recovery: Recovery::Fail,
            supply: Supply::OnDemand,
            hostname: String::new(),
            stopped: false,
            template: Template::default(),
        },
    }
}

async fn create(client: &Client, number: usize) -> Result<Operation, ComputeError> {
    client.create(&format!("key-{number}").parse().unwrap(), &new(number)).await
}

#[tokio::test]
async fn what_was_answered_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("cloud.json");
    let args = ["--state", state.to_str().unwrap()];
    let mut answered: Vec<(usize, Operation)> = Vec::new();
    let mut number = 0;
    for round in 1..=3 {
        let simulator = Simulator::start(directory.path(), &args);
        let client = simulator.client();
        for (number, known) in &answered {
            let Operation { id, instance, .. } = create(&client, *number).await.unwrap();
            assert_eq!((&id, &instance), (&known.id, &known.instance), "key {number} in round {round}");
        }
        let killed = AtomicBool::new(false);
        let killer = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(simulator);
            killed.store(true, Ordering::Relaxed);
        };
        let asker = async {
            while !killed.load(Ordering::Relaxed) {
                if let Ok(operation) = create(&client, number).await {
                    answered.push((number, operation));
                }
                number += 1;
            }
        };
        tokio::join!(killer, asker);
    }
    let simulator = Simulator::start(directory.path(), &args);
    let client = simulator.client();
    let there = client.instances(&"project-1".parse().unwrap()).await.unwrap();
    assert!(answered.len() >= 3, "{answered:?}");
    for (number, known) in &answered {
        let named =
            |instance: &&hourglass_compute::model::Instance| instance.name == format!("name-{number}");
        let ids: Vec<_> = there.iter().filter(named).map(|instance| &instance.id).collect();
        assert_eq!(ids, [&known.instance], "name-{number}");
    }
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("faults");
    std::fs::write(&script, "at 0s every list for 1h: never-answer\n").unwrap();
    let mut simulator = Simulator::start(directory.path(), &["--faults", script.to_str().unwrap()]);
    let client = simulator.client();
    create(&client, 1).await.unwrap();
    // A call that is never answered keeps nobody.
    let parent = "project-1".parse().unwrap();
    let (silent, ()) = tokio::join!(client.instances(&parent), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        hourglass_test_servers::signal("TERM", simulator.child.id());
    });
    assert!(silent.is_err());
    // Nor does this caller, whose thread waits and does not say goodbye to the server.
    assert!(simulator.child.wait().unwrap().success());
}

#[test]
fn flags_that_it_cannot_use_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("faults");
    std::fs::write(&script, "# first\nat soon next create: unavailable\nat 1s next stop: explode\n").unwrap();
    let script = script.to_str().unwrap();
    let check = |flags: &[&str], says: &[&str]| {
        let answer = hourglass(directory.path(), &[&["compute-sim"], flags].concat());
        assert_eq!(answer.code, 2, "{flags:?}: {}", answer.stderr);
        for says in says {
            assert!(answer.stderr.contains(says), "{flags:?} should say {says:?}: {}", answer.stderr);
        }
    };
    check(&["--listen", "0.0.0.0:0"], &["--token-file"]);
    check(&["--capacity", "much"], &["--capacity", "gpu-h100-sxm/fabric-1=512"]);
    check(&["--quota", "h100"], &["--quota", "compute.instance.gpu.h100=64"]);
    check(&["--reservation", "g=gpu-h100-sxm/fabric-1:513"], &["raise --capacity"]);
    check(&["--fault-rate", "2"], &["--fault-rate", "like 2%"]);
    check(&["--fault-rate", "explode=2%"], &["there is no fault \"explode\""]);
    check(&["--speed", "0"], &["--speed"]);
    check(&["--boot", "soon"], &["--boot"]);
    check(
        &["--faults", script],
        &["faults: line 2: \"soon\" is no time", "faults: line 3: there is no fault"],
    );
    check(&["--token-file", "/nowhere/token"], &["/nowhere/token"]);
}
