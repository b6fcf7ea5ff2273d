//! The client against the simulator, over loopback: the life of an instance, and each way to fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::support::{Simulator, client_options, file, new, options, patience, spec};
use hourglass_compute::client::{Client, ClientError, ClientOptions, Patience, TokenSource};
use hourglass_compute::ids::{CallKey, OperationId, ParentId};
use hourglass_compute::model::{Instance, InstanceState, Labels, NewInstance, Operation, Phase, Supply};
use hourglass_compute::simulator::{SecondCall, ServeOptions, Settings};
use hourglass_compute::{ComputeError, NextStep};
use hourglass_units::InstanceId;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

fn key(text: &str) -> CallKey {
    text.parse().unwrap()
}

fn project() -> ParentId {
    "project-1".parse().unwrap()
}

fn tenant() -> ParentId {
    "tenant-1".parse().unwrap()
}

/// Looks until something is as it should be. The deadline is for a machine that is very busy.
async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("it does not come to pass")
}

async fn outcome(client: &Client, operation: &Operation) -> Result<(), ComputeError> {
    until(async || client.operation(&operation.id).await.unwrap().outcome).await
}

async fn until_in(client: &Client, id: &InstanceId, state: InstanceState) -> Instance {
    until(async || client.instance(id).await.ok().filter(|known| known.state == state)).await
}

#[tokio::test]
async fn an_instance_lives_its_life_over_the_wire() {
    let simulator = Simulator::start(options(""));
    let client = simulator.client();
    let made = client.create(&key("create"), &new("a")).await.unwrap();
    assert_eq!(made.outcome, None);
    assert_eq!(outcome(&client, &made).await, Ok(()));
    let known = client.instance(&made.instance).await.unwrap();
    assert_eq!((known.state, known.version, known.reconciling), (InstanceState::Running, 1, false));
    // All of it came through, what nobody reads included.
    let NewInstance { parent, name, labels, spec } = new("a");
    assert_eq!((&known.parent, &known.name, &known.labels, &known.spec), (&parent, &name, &labels, &spec));
    assert_eq!(client.instance_by_name(&project(), "a").await.unwrap(), known);
    assert_eq!(client.instances(&project()).await.unwrap(), std::slice::from_ref(&known));
    assert_eq!(client.instances(&"project-2".parse().unwrap()).await.unwrap(), []);

    let labels = Labels::from([("hourglass/bid".to_owned(), "8".to_owned())]);
    let update = client.update_labels(&key("update"), &known, labels.clone()).await.unwrap();
    assert_eq!(outcome(&client, &update).await, Ok(()));
    assert_eq!(client.instance(&known.id).await.unwrap().labels, labels);
    let outdated = client.update_labels(&key("update-2"), &known, labels).await.unwrap_err();
    assert!(matches!(outdated, ComputeError::ResourceConflict { .. }), "{outdated}");

    let stop = client.stop(&key("stop"), &known.id).await.unwrap();
    assert_eq!(outcome(&client, &stop).await, Ok(()));
    assert_eq!(client.instance(&known.id).await.unwrap().state, InstanceState::Stopped);
    let start = client.start(&key("start"), &known.id).await.unwrap();
    assert_eq!(outcome(&client, &start).await, Ok(()));
    let remembered = client.operations(&known.id).await.unwrap();
    let ids: Vec<&OperationId> = remembered.iter().map(|operation| &operation.id).collect();
    assert_eq!(ids, [&made.id, &update.id, &stop.id, &start.id]);
    let delete = client.delete(&key("delete"), &known.id).await.unwrap();
    assert_eq!(outcome(&client, &delete).await, Ok(()));
    let gone = client.instance(&known.id).await.unwrap_err();
    assert_eq!(
        (gone.next_step(), gone),
        (NextStep::Gone, ComputeError::NotFound { what: known.id.to_string() })
    );
    simulator.stop().await;
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let mut options = options("");
    options.settings.quotas.clear();
    let simulator = Simulator::start(options);
    let client = simulator.client();
    for number in 0..450 {
        let mut new = new(&format!("name-{number}"));
        new.spec.stopped = true;
        client.create(&key(&format!("key-{number}")), &new).await.unwrap();
    }
    assert_eq!(client.instances(&project()).await.unwrap().len(), 450);
}

#[tokio::test]
async fn capacity_is_read() {
    let simulator = Simulator::start(ServeOptions { speed: 1, ..options("") });
    let client = simulator.client();
    let reserved =
        NewInstance { spec: spec(8, Supply::Reserved(vec!["group-1".parse().unwrap()])), ..new("a") };
    let made = client.create(&key("a"), &reserved).await.unwrap();
    let known = client.instance(&made.instance).await.unwrap();
    assert_eq!(known.reservation, Some("group-1".parse().unwrap()));

    let groups = client.block_groups(&tenant()).await.unwrap();
    let [group] = groups.as_slice() else { panic!("{groups:?}") };
    assert_eq!((group.limit, group.used, group.next_change.unwrap().1), (16, 8, 24));
    assert_eq!(group.continuous.unwrap().phase, Phase::Active);
    let intervals = client.capacity_intervals(&group.id).await.unwrap();
    let told: Vec<_> = intervals.iter().map(|interval| (interval.gpus, interval.phase)).collect();
    assert_eq!(told, [(16, Phase::Active), (8, Phase::Scheduled)]);
    let advice = client.resource_advice(&tenant()).await.unwrap();
    let [advice] = advice.as_slice() else { panic!("{advice:?}") };
    let available =
        [advice.reserved, advice.on_demand, advice.preemptible].map(|class| class.unwrap().available);
    // The quota of 32 has 24 left; preemptible ones have none.
    assert_eq!(available, [8, 24, 56]);
    let unknown = client.resource_advice(&"tenant-2".parse().unwrap()).await;
    assert!(matches!(unknown, Err(ComputeError::BadRequest { .. })), "{unknown:?}");
}

#[tokio::test]
async fn what_the_cloud_refuses_is_told_with_what_to_do() {
    let simulator = Simulator::start(ServeOptions { speed: 1, ..options("") });
    let client = simulator.client();
    let made = client.create(&key("a"), &new("a")).await.unwrap();
    let check = |error: ComputeError, expected: ComputeError, next: NextStep| {
        assert_eq!((error.next_step(), error), (next, expected));
    };
    let id = made.instance.clone();
    check(
        client.stop(&key("b"), &id).await.unwrap_err(),
        ComputeError::OperationConflict { operation: Some(made.id) },
        NextStep::Wait,
    );
    check(
        client.create(&key("c"), &new("a")).await.unwrap_err(),
        ComputeError::AlreadyExists { instance: Some(id.clone()) },
        NextStep::ReadAgain,
    );
    check(
        client
            .create(&key("d"), &NewInstance { spec: spec(32, Supply::OnDemand), ..new("d") })
            .await
            .unwrap_err(),
        ComputeError::QuotaFailure {
            quota: "compute.instance.gpu.h100".into(),
            limit: "32".into(),
            requested: "40".into(),
        },
        NextStep::NotUntilThereIsMore,
    );
    let other = client.create(&key("a"), &new("e")).await.unwrap_err();
    assert!(
        matches!(&other, ComputeError::BadRequest { field, .. } if field == "x-idempotency-key"),
        "{other}"
    );
    assert_eq!(other.next_step(), NextStep::Operator);
    let nothing = client.operation(&"computeoperation-x".parse().unwrap()).await.unwrap_err();
    assert_eq!(nothing, ComputeError::NotFound { what: "computeoperation-x".into() });
}

#[tokio::test]
async fn a_second_call_may_abort_the_first() {
    let mut options = options("");
    options.settings.second_call = SecondCall::Aborts;
    let simulator = Simulator::start(ServeOptions { speed: 1, ..options });
    let client = simulator.client();
    let made = client.create(&key("a"), &new("a")).await.unwrap();
    let stop = client.stop(&key("b"), &made.instance).await.unwrap();
    assert_eq!(outcome(&client, &made).await, Err(ComputeError::Aborted { by: Some(stop.id.clone()) }));
    assert_eq!(outcome(&client, &stop).await, Ok(()));
}

/// What becomes of the creation of an instance under a script, and how many instances there are when
/// everything is over.
async fn create_under(script: &str) -> (Result<Operation, ComputeError>, usize) {
    let simulator = Simulator::start(options(script));
    let client = simulator.client();
    let made = client.create(&key("a"), &new("a")).await;
    // Longer than what is delayed or comes twice.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let there = client.instances(&project()).await.unwrap().len();
    (made, there)
}

#[tokio::test]
async fn a_call_that_is_tried_again_happens_once() {
    for script in [
        "at 0s next 2 create: unavailable",
        "at 0s next 2 create: too-many-requests",
        "at 0s next create: never-answer",
        "at 0s next create: lose-answer by error",
        "at 0s next create: lose-answer by silence",
        "at 0s next create: lose-answer by cut",
        "at 0s next create: duplicate after 5s",
        "at 0s next create: delay by 10s",
        "at 0s next create: delay by 80s",
        "at 0s next create: late-answer by 10s",
    ] {
        let (made, there) = create_under(script).await;
        assert!(made.is_ok(), "{script}: {made:?}");
        assert_eq!(there, 1, "{script}");
    }
}

#[tokio::test]
async fn a_call_that_never_goes_well_tells_what_is_known() {
    let unavailable = ("at 0s every create for 1h: unavailable", "not available", 0);
    let busy = ("at 0s every create for 1h: too-many-requests", "too many requests", 0);
    let stranger = ("at 0s every create for 1h: unauthenticated", "the token is not accepted", 0);
    let silent = ("at 0s every create for 1h: never-answer", "it is not known whether it happened", 0);
    let lost = ("at 0s every create for 1h: lose-answer by error", "it is not known whether it happened", 1);
    let cut = ("at 0s every create for 1h: lose-answer by cut", "it is not known whether it happened", 1);
    // Not even a clear refusal says that nothing happened, once an attempt before it got lost.
    let doubtful = (
        "at 0s next create: lose-answer by error\nat 0s every create for 1h: unauthenticated",
        "it is not known whether it happened",
        1,
    );
    let garbage = ("at 0s next create: garbage no-metadata", "the answer makes no sense", 1);
    for (script, says, expected) in [unavailable, busy, stranger, silent, lost, cut, doubtful, garbage] {
        let (made, there) = create_under(script).await;
        let error = made.unwrap_err();
        assert!(error.to_string().contains(says), "{script}: {error}");
        assert_eq!(there, expected, "{script}");
    }
}

#[tokio::test]
async fn an_operation_tells_how_it_ended() {
    let check = async |script: &str, expected: ComputeError, state: InstanceState| {
        let simulator = Simulator::start(options(script));
        let client = simulator.client();
        let made = client.create(&key("a"), &new("a")).await.unwrap();
        let mut told = outcome(&client, &made).await.unwrap_err();
        // What the cloud says in words is not looked at.
        if let ComputeError::NotEnoughResources { message } | ComputeError::Failed { message } = &mut told {
            message.clear();
        }
        if let ComputeError::QuotaFailure { quota, .. } = &mut told {
            quota.clear();
        }
        assert_eq!(told, expected, "{script}");
        assert_eq!(client.instance(&made.instance).await.unwrap().state, state, "{script}");
    };
    let message = String::new;
    check(
        "at 0s next create: not-enough-resources after 30s",
        ComputeError::NotEnoughResources { message: message() },
        InstanceState::Stopped,
    )
    .await;
    let none = || "0".to_owned();
    check(
        "at 0s next create: quota-failure after 5s",
        ComputeError::QuotaFailure { quota: message(), limit: none(), requested: none() },
        InstanceState::Stopped,
    )
    .await;
    check("at 0s next create: abort after 5s", ComputeError::Aborted { by: None }, InstanceState::Stopped)
        .await;
    check(
        "at 0s next create: fail after 5s",
        ComputeError::Failed { message: message() },
        InstanceState::Error,
    )
    .await;
}

#[tokio::test]
async fn an_operation_that_vanishes_goes_on() {
    let simulator = Simulator::start(options("at 0s next create: vanish after 1s"));
    let client = simulator.client();
    let made = client.create(&key("a"), &new("a")).await.unwrap();
    let gone = until(async || client.operation(&made.id).await.err()).await;
    assert!(matches!(gone, ComputeError::NotFound { .. }), "{gone}");
    until_in(&client, &made.instance, InstanceState::Running).await;
}

#[tokio::test]
async fn instances_stop_without_a_word() {
    let script = "at 60s instance off: power-off\nat 60s instance away: take-away\nat 60s instance m: maintenance\n\
                  at 60s next stop: slow by 60s";
    let simulator = Simulator::start(options(script));
    let client = simulator.client();
    let mut ids = Vec::new();
    for name in ["off", "away", "m"] {
        ids.push(client.create(&key(name), &new(name)).await.unwrap().instance);
    }
    until_in(&client, &ids[1], InstanceState::Stopping).await;
    until_in(&client, &ids[0], InstanceState::Stopped).await;
    let waits = client.instance(&ids[2]).await.unwrap();
    assert!(waits.maintenance.is_some(), "{waits:?}");
    until_in(&client, &ids[1], InstanceState::Stopped).await;
    for id in &ids {
        // Nobody was told of an operation.
        assert_eq!(client.operations(id).await.unwrap().len(), 1);
    }
    let began = tokio::time::Instant::now();
    let slow = client.stop(&key("stop"), &ids[2]).await.unwrap();
    assert_eq!(outcome(&client, &slow).await, Ok(()));
    // 70 s at a speed of 120.
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn answers_that_make_no_sense_are_garbage() {
    let simulator = Simulator::start(options(
        "at 0s next get: garbage wrong-id
         at 0s next get: garbage no-metadata
         at 0s next get: garbage unknown-state
         at 0s next list: garbage wrong-id
         at 0s next list: garbage no-metadata
         at 0s next list: garbage unknown-state
         at 0s every list for 1ms: garbage same-page
         at 0s next operation: garbage wrong-id
         at 0s next operation: garbage no-metadata
         at 0s next delete: garbage wrong-id",
    ));
    let client = simulator.client();
    let mut new = new("a");
    new.spec.stopped = true;
    let made = client.create(&key("a"), &new).await.unwrap();
    let garbage = |error: ComputeError, says: &str| {
        assert!(matches!(&error, ComputeError::Garbage { message } if message.contains(says)), "{error}");
        assert_eq!(error.next_step(), NextStep::Reconcile);
    };
    garbage(client.instance(&made.instance).await.unwrap_err(), "the question was about");
    garbage(client.instance(&made.instance).await.unwrap_err(), "metadata: it is missing");
    garbage(client.instance(&made.instance).await.unwrap_err(), "99 is no value of it");
    garbage(client.instances(&project()).await.unwrap_err(), "project-nobody");
    garbage(client.instances(&project()).await.unwrap_err(), "metadata: it is missing");
    garbage(client.instances(&project()).await.unwrap_err(), "99 is no value of it");
    garbage(client.operation(&made.id).await.unwrap_err(), "the question was about");
    garbage(client.operation(&made.id).await.unwrap_err(), "it is no id");
    until_in(&client, &made.instance, InstanceState::Stopped).await;
    let settled = async || client.instance(&made.instance).await.ok().filter(|known| !known.reconciling);
    until(settled).await;
    garbage(client.delete(&key("d"), &made.instance).await.unwrap_err(), "the question was about");
    // And yet it happened.
    until(async || client.instance(&made.instance).await.err()).await;

    // About a creation nobody can tell: the id is of nothing.
    let simulator = Simulator::start(options("at 0s next create: garbage wrong-id"));
    let client = simulator.client();
    let wrong = client.create(&key("a"), &new).await.unwrap();
    let nothing = client.instance(&wrong.instance).await.unwrap_err();
    assert_eq!(nothing.next_step(), NextStep::Gone);
    assert_eq!(client.instances(&project()).await.unwrap().len(), 1);

    let simulator = Simulator::start(options("at 0s every list for 1h: garbage same-page"));
    garbage(simulator.client().instances(&project()).await.unwrap_err(), "does not end");
}

#[tokio::test]
async fn a_token_is_sent_read_again_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = file(&folder, "accepted", "old-secret\n");
    let token = file(&folder, "token", "old-secret\n");
    let simulator = Simulator::start(ServeOptions { tokens: Some(tokens.clone()), ..options("") });
    let with = |token| Client::new(ClientOptions { token, ..client_options(simulator.address) }).unwrap();
    let client = with(TokenSource::File(token.clone()));
    assert_eq!(client.instances(&project()).await, Ok(Vec::new()));

    // The token is renewed at both ends, and the client's file looks as if it had not changed.
    let modified = std::fs::metadata(&token).unwrap().modified().unwrap();
    let write = |text: &str, modified: SystemTime| {
        std::fs::write(&token, text).unwrap();
        std::fs::File::options().append(true).open(&token).unwrap().set_modified(modified).unwrap();
    };
    file(&folder, "accepted", "new-secret\n");
    write("new-secret\n", modified);
    assert_eq!(client.instances(&project()).await, Ok(Vec::new()));
    write("wrong-secret\n", modified + Duration::from_secs(1));
    let refused = client.instances(&project()).await.unwrap_err();
    assert!(matches!(refused, ComputeError::Unauthenticated { .. }), "{refused}");

    let none = with(TokenSource::None).instances(&project()).await.unwrap_err();
    assert!(matches!(none, ComputeError::Unauthenticated { .. }), "{none}");
    let missing = with(TokenSource::File(folder.path().join("missing"))).instances(&project()).await;
    assert!(matches!(missing, Err(ComputeError::Unauthenticated { .. })), "{missing:?}");
    for shown in [format!("{client:?}"), format!("{refused:?} {refused}")] {
        assert!(!shown.contains("secret\"") && !shown.contains("wrong-secret"), "{shown}");
    }
}

#[tokio::test]
async fn a_cloud_that_is_not_there_is_unavailable_at_once() {
    // It was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(client_options(address)).unwrap();
    let error = client.create(&key("a"), &new("a")).await.unwrap_err();
    assert!(matches!(error, ComputeError::Unavailable { .. }), "surely nothing happened: {error}");
    assert_eq!(error.next_step(), NextStep::Later);
}

#[tokio::test]
async fn a_call_ends_whatever_the_cloud_does() {
    let simulator = Simulator::start(options("at 0s every call for 10h: never-answer"));
    let patience = Patience { total: Duration::from_millis(700), attempts_max: 100, ..patience() };
    let client = Client::new(ClientOptions { patience, ..client_options(simulator.address) }).unwrap();
    let began = tokio::time::Instant::now();
    let error = client.instances(&project()).await.unwrap_err();
    assert!(matches!(error, ComputeError::Unavailable { .. }), "whoever reads changes nothing: {error}");
    let took = began.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&took), "{took:?}");
    // And the server ends although calls are open that it never answers.
    simulator.stop().await;
}

#[test]
fn options_that_cannot_be_are_told() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let at = |url: &str| ClientOptions { url: url.to_owned(), ..client_options(([127, 0, 0, 1], 1).into()) };
    for url in ["", "compute.example.com", "ftp://compute.example.com", "http:// "] {
        assert!(matches!(Client::new(at(url)), Err(ClientError::Url(_))), "{url:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Some(file(&folder, "authority.pem", "nothing"));
    let no_certificate = Client::new(ClientOptions { authority, ..at("https://localhost:1") });
    assert!(matches!(no_certificate, Err(ClientError::Authority { .. })), "{no_certificate:?}");
}

#[tokio::test]
async fn a_client_can_be_shared_between_tasks() {
    let simulator = Simulator::start(options(""));
    let client = Arc::new(simulator.client());
    let tasks: Vec<_> = (0..4)
        .map(|number| {
            let client = Arc::clone(&client);
            tokio::spawn(async move {
                client.create(&key(&format!("key-{number}")), &new(&format!("name-{number}"))).await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(client.instances(&project()).await.unwrap().len(), 4);
}

#[tokio::test]
async fn tls_trusts_the_authority_that_it_is_told() {
    let simulator = Simulator::start(options(""));
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let port = before(simulator.address, &own).await;
    let folder = tempfile::tempdir().unwrap();
    let with = |name: &str, certificate: String| {
        let authority = Some(file(&folder, name, &certificate));
        let url = format!("https://localhost:{port}");
        Client::new(ClientOptions { url, authority, ..client_options(simulator.address) }).unwrap()
    };
    let trusting = with("own.pem", own.cert.pem());
    assert_eq!(trusting.instances(&project()).await, Ok(Vec::new()));
    assert!(trusting.create(&key("a"), &new("a")).await.is_ok());
    let refusing = with("other.pem", other.cert.pem());
    let error = refusing.create(&key("b"), &new("b")).await.unwrap_err();
    assert!(matches!(error, ComputeError::Unavailable { .. }), "nothing was sent: {error}");
}

/// Stands before a server and speaks TLS for it; tells its port.
async fn before(server: SocketAddr, certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> u16 {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![certified.cert.der().clone()];
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(server).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_cloud_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("cloud.json");
    let with_state = |script: &str, settings: Option<Settings>| {
        let mut options = ServeOptions { state: Some(state.clone()), speed: 1, ..options(script) };
        options.settings = settings.unwrap_or(options.settings);
        options
    };
    let simulator = Simulator::start(with_state("", None));
    let client = simulator.client();
    let made = client.create(&key("a"), &new("a")).await.unwrap();
    let before = client.instances(&project()).await.unwrap();
    // As after kill -9: nothing is told to it, nothing is written at the end.
    drop(simulator);

    let simulator = Simulator::start(with_state("", None));
    let client = simulator.client();
    assert_eq!(client.instances(&project()).await.unwrap(), before);
    assert_eq!(client.operation(&made.id).await.unwrap(), made);
    assert_eq!(client.create(&key("a"), &new("a")).await.unwrap().id, made.id, "its key is remembered");
    drop(simulator);

    // A minute later, by the wall: the cloud has gone on meanwhile.
    let later =
        ServeOptions { started: crate::support::started().saturating_add_ms(60_000), ..with_state("", None) };
    let simulator = Simulator::start(later);
    let client = simulator.client();
    assert_eq!(client.operation(&made.id).await.unwrap().outcome, Some(Ok(())));
    simulator.stop().await;

    let refused = async |options: ServeOptions| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        hourglass_compute::simulator::serve(listener, options, async {}).await.unwrap_err().to_string()
    };
    let other = refused(with_state("at 1s next call: unavailable", None)).await;
    assert!(other.contains("another script"), "{other}");
    std::fs::write(&state, "{}").unwrap();
    let broken = refused(with_state("", None)).await;
    assert!(broken.contains("is no state of a simulated cloud"), "{broken}");
    let nowhere = ServeOptions { state: Some("/nowhere/cloud.json".into()), ..options("") };
    assert!(refused(nowhere).await.contains("/nowhere/cloud.json"));
}
