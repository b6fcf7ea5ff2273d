//! The services over the wire, on a real cell: read by the stock client, and by hand where it is too good.

use std::time::Duration;

use axum::http::StatusCode;
use hourglass_compute::ComputeError;
use hourglass_compute::client::{Client, ClientOptions, Patience, TokenSource};
use hourglass_compute::ids::ParentId;
use hourglass_compute::model::{Advice, Freshness, Level, Phase};
use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_ledger::core::{Command, Role};
use hourglass_proto::google::rpc;
use hourglass_proto::nebius::capacity::v1 as wire;
use hourglass_proto::nebius::capacity::v1::capacity_block_group_service_client::CapacityBlockGroupServiceClient;
use hourglass_proto::nebius::capacity::v1::capacity_block_group_status::{State, UsageState};
use hourglass_proto::nebius::capacity::v1::capacity_interval_service_client::CapacityIntervalServiceClient;
use hourglass_proto::nebius::capacity::v1::resource_advice_service_client::ResourceAdviceServiceClient;
use hourglass_proto::nebius::capacity::v1::resource_affinity::Versions;
use hourglass_proto::nebius::common::v1::ServiceError;
use hourglass_quota::{Bound, Class, Limits};
use hourglass_units::Interval;
use prost::Message;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::page::PAGE_SIZE_MAX;
use crate::testing::{OPERATOR_TOKEN, Served, Server, key_of, serve, with, with_server};

/// What acme has reserved of h100 in f-1 of eu, for ever.
const ACME: &str = "capacityblockgroup-61394815fbae8ed464d97dd2f7714a30";

async fn put(server: &Server, path: &str, body: Value) {
    let reply = server.send_with("PUT", path, OPERATOR_TOKEN, body.to_string()).await;
    reply.expect(StatusCode::OK);
}

async fn create(server: &Server, path: &str, body: Value) {
    let reply = server.send_with("POST", path, OPERATOR_TOKEN, body.to_string()).await;
    reply.expect(StatusCode::CREATED);
}

async fn reserve(server: &Server, tenant: &str, id: &str, gpus: u32, days: [&str; 2]) {
    let [from, until] = days.map(|day| format!("2026-01-{day}:00:00Z"));
    let draft = json!({"reservation": id, "project": "ml", "platform": "h100", "gpus": gpus, "fabric": "f-1",
        "from": from, "until": until, "payment": {"monthly": {"price": "2"}}});
    create(server, &format!("/v1/tenants/{tenant}/reservations"), draft).await;
}

/// A pool of 16 GPUs. Of these acme has 8 until midnight, with 6 in use, and 4 the day after; beta has 2.
async fn cell_with_reservations(server: Server) -> Server {
    server.with_customers().await;
    let server = server.guarded();
    let floor = json!({"shape": "steps", "points": [{"utilisation": "0", "price": "0.5"}]});
    let terms = json!({"currency": "USD", "gpus": 16, "reserve": floor});
    put(&server, "/v1/pools/h100/f-1", terms).await;
    reserve(&server, "acme", "r-1", 8, ["01T03", "02T00"]).await;
    reserve(&server, "acme", "r-2", 4, ["02T00", "03T00"]).await;
    reserve(&server, "beta", "r-3", 2, ["01T03", "03T00"]).await;
    let elsewhere = json!({"reservation": "r-9", "project": "ml", "platform": "h100", "gpus": 1,
        "from": "2026-01-01T03:00:00Z", "until": "2026-01-02T00:00:00Z", "payment": {"monthly": {"price": "2"}}});
    create(&server, "/v1/tenants/acme/reservations", elsewhere).await;
    server.clock.set("2026-01-01T04:00:00Z");
    server.tick().await;
    let inside = json!({"instance": "i-r", "project": "ml", "platform": "h100", "model": "reserved",
        "reservation": "r-1", "gpus": 6});
    create(&server, "/v1/tenants/acme/instances", inside).await;
    server
}

/// The client of the compute API, with a token.
fn stock_client(served: &Served, token: &str) -> (Client, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token).unwrap();
    let options = ClientOptions {
        url: served.address.clone(),
        authority: None,
        token: TokenSource::File(file.path().to_owned()),
        patience: Patience { total: Duration::from_secs(20), ..Patience::default() },
        seed: 1,
    };
    (Client::new(options).unwrap(), file)
}

fn tenant(name: &str) -> ParentId {
    name.parse().unwrap()
}

fn during(from: &str, until: &str) -> Interval {
    Interval::new(from.parse().unwrap(), until.parse().unwrap()).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    let packed = rpc::Status::decode(status.details()).unwrap();
    let error = packed.details.iter().find_map(|any| any.to_msg::<ServiceError>().ok()).unwrap();
    assert_eq!((error.code.as_str(), error.service.as_str()), (reason, "capacity"), "{status:?}");
}

type Groups = CapacityBlockGroupServiceClient<Channel>;
type Intervals = CapacityIntervalServiceClient<Channel>;
type Advising = ResourceAdviceServiceClient<Channel>;

async fn clients(served: &Served) -> (Groups, Intervals, Advising) {
    let address = || served.address.clone();
    let groups = Groups::connect(address()).await.unwrap();
    (groups, Intervals::connect(address()).await.unwrap(), Advising::connect(address()).await.unwrap())
}

fn group(id: &str) -> wire::GetCapacityBlockGroupRequest {
    wire::GetCapacityBlockGroupRequest { id: id.to_owned() }
}

fn groups_of(tenant: &str, page_size: i64, token: &str) -> wire::ListCapacityBlockGroupsRequest {
    let (parent_id, page_token) = (tenant.to_owned(), token.to_owned());
    wire::ListCapacityBlockGroupsRequest { parent_id, page_size, page_token }
}

fn intervals_of(group: &str, page_size: i64, token: &str) -> wire::ListCapacityIntervalsRequest {
    let (parent_id, page_token) = (group.to_owned(), token.to_owned());
    wire::ListCapacityIntervalsRequest { parent_id, page_size, page_token }
}

fn advice_for(tenant: &str, page_size: i64, token: &str) -> wire::ListResourceAdviceRequest {
    let (parent_id, page_token) = (tenant.to_owned(), token.to_owned());
    wire::ListResourceAdviceRequest { parent_id, page_size, page_token }
}

fn affinity(
    tenant: &str,
    region: &str,
    place: [&str; 2],
) -> wire::GetCapacityBlockGroupByResourceAffinityRequest {
    let [platform, fabric] = place.map(str::to_owned);
    let versions = Some(Versions::ComputeV1(wire::ResourceAffinityComputeV1 { fabric, platform }));
    wire::GetCapacityBlockGroupByResourceAffinityRequest {
        parent_id: tenant.to_owned(),
        region: region.to_owned(),
        resource_affinity: Some(wire::ResourceAffinity { versions }),
    }
}

#[test]
fn the_stock_client_reads_what_is_reserved_as_time_goes_by() {
    with_server(async |server| {
        let server = cell_with_reservations(server).await;
        let key = server.key(key_of(Role::Customer, "acme", &[])).await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let (client, _token) = stock_client(&served, &key);

        let groups = client.block_groups(&tenant("acme")).await.unwrap();
        let [known] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!(known.id.as_str(), ACME);
        assert_eq!((known.region.as_str(), known.place.to_string()), ("eu", "h100/f-1".to_owned()));
        let midnight = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!((known.limit, known.used, known.next_change), (8, 6, Some((midnight, 4))));
        let both = during("2026-01-01T03:00:00Z", "2026-01-03T00:00:00Z");
        let check = |continuous: Option<hourglass_compute::model::Continuous>, phase, gpus| {
            let it = continuous.unwrap();
            assert_eq!((it.during, it.phase, it.gpus), (both, phase, gpus));
        };
        check(known.continuous, Phase::Active, 8);

        for (now, limit, phases, whole) in [
            ("2026-01-01T04:00:00Z", 8, [Phase::Active, Phase::Scheduled], Phase::Active),
            ("2026-01-02T00:00:00Z", 4, [Phase::Expired, Phase::Active], Phase::Active),
            ("2026-01-03T00:00:00Z", 0, [Phase::Expired, Phase::Expired], Phase::Expired),
        ] {
            server.clock.set(now);
            let group = client.block_groups(&tenant("acme")).await.unwrap().remove(0);
            assert_eq!((group.id.as_str(), group.limit), (ACME, limit), "{now}");
            check(group.continuous, whole, if limit == 0 { 4 } else { limit });
            let intervals = client.capacity_intervals(&group.id).await.unwrap();
            let told: Vec<_> = intervals.iter().map(|it| (it.id.as_str(), it.gpus, it.phase)).collect();
            let [first, second] = phases;
            let expected = [("capacityinterval-r-1", 8, first), ("capacityinterval-r-2", 4, second)];
            assert_eq!(told, expected, "{now}");
            assert_eq!(intervals[0].during, during("2026-01-01T03:00:00Z", "2026-01-02T00:00:00Z"));
        }
        let of_beta = client.block_groups(&tenant("beta")).await;
        assert!(matches!(of_beta, Err(ComputeError::NotFound { .. })), "{of_beta:?}");
    });
}

#[test]
fn a_group_is_told_whole() {
    with_server(async |server| {
        let server = cell_with_reservations(server).await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let (mut groups, mut intervals, _) = clients(&served).await;
        let told = groups.get(with(OPERATOR_TOKEN, group(ACME))).await.unwrap().into_inner();
        let metadata = told.metadata.clone().unwrap();
        assert_eq!((metadata.id.as_str(), metadata.parent_id.as_str()), (ACME, "acme"));
        let status = told.status.clone().unwrap();
        assert_eq!((status.state(), status.usage_state()), (State::Active, UsageState::Used));
        assert_eq!((status.service.as_str(), status.usage_percentage.as_str()), ("compute", "0.75"));
        let named =
            groups.get_by_resource_affinity(with(OPERATOR_TOKEN, affinity("acme", "eu", ["h100", "f-1"])));
        assert_eq!(named.await.unwrap().into_inner(), told);
        let request = wire::ListCapacityBlockGroupResourcesRequest { id: ACME.to_owned() };
        let resources = groups.list_resources(with(OPERATOR_TOKEN, request.clone())).await.unwrap();
        assert_eq!(resources.into_inner().resource_ids, ["i-r"]);
        let id = "capacityinterval-r-2".to_owned();
        let interval = intervals.get(with(OPERATOR_TOKEN, wire::GetCapacityIntervalRequest { id })).await;
        let interval = interval.unwrap().into_inner();
        assert_eq!(interval.metadata.unwrap().parent_id, ACME);
        assert_eq!(interval.status.unwrap().container_id, "acme");

        // Who stops is no longer inside.
        let start = json!({"at": "2026-01-01T04:00:00Z"}).to_string();
        let path = "/v1/tenants/acme/instances/i-r";
        let sent = server.send_with("POST", &format!("{path}:start"), OPERATOR_TOKEN, start.clone()).await;
        sent.expect(StatusCode::OK);
        server.clock.set("2026-01-01T04:30:00Z");
        let stop = start.replace("04:00", "04:20");
        server.send_with("POST", &format!("{path}:stop"), OPERATOR_TOKEN, stop).await.expect(StatusCode::OK);
        let resources = groups.list_resources(with(OPERATOR_TOKEN, request)).await.unwrap();
        assert_eq!(resources.into_inner().resource_ids, [""; 0]);
        let status =
            groups.get(with(OPERATOR_TOKEN, group(ACME))).await.unwrap().into_inner().status.unwrap();
        assert_eq!((status.usage, status.usage_state()), (0, UsageState::NotUsed));
    });
}

#[test]
fn what_others_have_is_as_unknown_as_what_is_not_there() {
    with_server(async |server| {
        let server = cell_with_reservations(server).await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let (mut groups, mut intervals, mut advising) = clients(&served).await;
        let beta = server.key(key_of(Role::Customer, "beta", &[])).await;
        let nobody = format!("capacityblockgroup-{}", "0".repeat(32));
        for id in [ACME, nobody.as_str(), "capacityblockgroup-", "capacityinterval-r-1"] {
            refused(groups.get(with(&beta, group(id))).await, Code::NotFound, "block_group_unknown");
            let request = wire::ListCapacityBlockGroupResourcesRequest { id: id.to_owned() };
            let told = groups.list_resources(with(&beta, request)).await;
            refused(told, Code::NotFound, "block_group_unknown");
            let told = intervals.list(with(&beta, intervals_of(id, 0, ""))).await;
            refused(told, Code::NotFound, "block_group_unknown");
        }
        // r-9 keeps nothing free anywhere, r-8 is none.
        for id in ["capacityinterval-r-1", "capacityinterval-r-9", "capacityinterval-r-8", "r-3"] {
            let request = wire::GetCapacityIntervalRequest { id: id.to_owned() };
            refused(intervals.get(with(&beta, request)).await, Code::NotFound, "interval_unknown");
        }
        for parent in ["acme", "nobody"] {
            let told = groups.list(with(&beta, groups_of(parent, 0, ""))).await;
            refused(told, Code::NotFound, "tenant_unknown");
            let told = advising.list(with(&beta, advice_for(parent, 0, ""))).await;
            refused(told, Code::NotFound, "tenant_unknown");
            let told = groups.get_by_resource_affinity(with(&beta, affinity(parent, "eu", ["h100", "f-1"])));
            refused(told.await, Code::NotFound, "tenant_unknown");
        }
        let told = groups.get_by_resource_affinity(with(&beta, affinity("beta", "eu", ["h100", "f-2"])));
        refused(told.await, Code::NotFound, "block_group_unknown");
        let own = groups.list(with(&beta, groups_of("beta", 0, ""))).await.unwrap().into_inner();
        let own: Vec<u64> = own.items.into_iter().map(|it| it.status.unwrap().current_limit).collect();
        assert_eq!(own, [2]);

        let without = groups.list(groups_of("acme", 0, "")).await;
        assert_eq!(without.unwrap_err().code(), Code::Unauthenticated);
        let wrong = advising.list(with("hg_wrong", advice_for("acme", 0, ""))).await;
        assert_eq!(wrong.unwrap_err().code(), Code::Unauthenticated);
        let agent = server.key(key_of(Role::Agent, "agent-1", &[])).await;
        refused(groups.get(with(&agent, group(ACME))).await, Code::PermissionDenied, "forbidden");
        refused(
            advising.list(with(&agent, advice_for("acme", 0, ""))).await,
            Code::PermissionDenied,
            "forbidden",
        );
        // A trader sees the market, and not who has reserved what.
        let trader = server.key(key_of(Role::Trader, "", &[])).await;
        refused(groups.get(with(&trader, group(ACME))).await, Code::PermissionDenied, "forbidden");
        let advice = advising.list(with(&trader, advice_for("acme", 0, ""))).await.unwrap().into_inner();
        assert_eq!(advice.items[0].status.unwrap().reserved, None);
    });
}

#[test]
fn garbage_is_refused_and_a_token_is_good_for_its_list_only() {
    with_server(async |server| {
        let server = cell_with_reservations(server).await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let (mut groups, mut intervals, mut advising) = clients(&served).await;
        let operator = OPERATOR_TOKEN;
        let wrong = (Code::InvalidArgument, "request_invalid");
        let long = "a".repeat(129);
        for id in ["", "a b", "../x", "ö", &long] {
            refused(groups.get(with(operator, group(id))).await, wrong.0, wrong.1);
            refused(groups.list(with(operator, groups_of(id, 0, ""))).await, wrong.0, wrong.1);
            refused(intervals.list(with(operator, intervals_of(id, 0, ""))).await, wrong.0, wrong.1);
            refused(advising.list(with(operator, advice_for(id, 0, ""))).await, wrong.0, wrong.1);
            let request = wire::GetCapacityIntervalRequest { id: id.to_owned() };
            refused(intervals.get(with(operator, request)).await, wrong.0, wrong.1);
        }
        let too_many = i64::try_from(PAGE_SIZE_MAX).unwrap() + 1;
        for size in [-1, too_many, i64::MIN, i64::MAX] {
            refused(groups.list(with(operator, groups_of("acme", size, ""))).await, wrong.0, wrong.1);
            refused(intervals.list(with(operator, intervals_of(ACME, size, ""))).await, wrong.0, wrong.1);
            refused(advising.list(with(operator, advice_for("acme", size, ""))).await, wrong.0, wrong.1);
        }
        refused(
            groups.get_by_resource_affinity(with(operator, affinity("acme", "us", ["h100", "f-1"]))).await,
            wrong.0,
            wrong.1,
        );
        refused(
            groups.get_by_resource_affinity(with(operator, affinity("acme", "eu", ["", "f-1"]))).await,
            wrong.0,
            wrong.1,
        );
        let without = wire::GetCapacityBlockGroupByResourceAffinityRequest {
            resource_affinity: None,
            ..affinity("acme", "eu", ["h100", "f-1"])
        };
        refused(groups.get_by_resource_affinity(with(operator, without)).await, wrong.0, wrong.1);

        let first = intervals.list(with(operator, intervals_of(ACME, 1, ""))).await.unwrap().into_inner();
        let second = intervals.list(with(operator, intervals_of(ACME, 1, &first.next_page_token))).await;
        let second = second.unwrap().into_inner();
        assert_eq!(second.next_page_token, "");
        let whole = intervals.list(with(operator, intervals_of(ACME, 2, ""))).await.unwrap().into_inner();
        assert_eq!(whole.next_page_token, "");
        assert_eq!([first.items, second.items].concat(), whole.items);
        let token = first.next_page_token;
        let changed = format!("{}A", &token[..token.len() - 1]);
        for bad in ["x", "!!", &changed, &"a".repeat(2_000)] {
            refused(intervals.list(with(operator, intervals_of(ACME, 1, bad))).await, wrong.0, wrong.1);
        }
        refused(groups.list(with(operator, groups_of("acme", 1, &token))).await, wrong.0, wrong.1);
        refused(advising.list(with(operator, advice_for("acme", 1, &token))).await, wrong.0, wrong.1);
    });
}

#[test]
fn advice_is_what_the_pool_has() {
    with_server(async |server| {
        let server = cell_with_reservations(server).await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let (client, _token) = stock_client(&served, OPERATOR_TOKEN);
        let advice = async || client.resource_advice(&tenant("acme")).await.unwrap();
        let told = |advice: &Advice| {
            let of = |it: Option<hourglass_compute::model::Availability>| {
                it.map(|it| (it.freshness, it.available, it.limit, it.level))
            };
            (
                advice.preset.as_str().to_owned(),
                [of(advice.reserved), of(advice.on_demand), of(advice.preemptible)],
            )
        };
        let fresh = |available, limit, level| Some((Freshness::Fresh, available, limit, level));
        // 10 of 16 are reserved. What was never cleared has no advice.
        let unknown = Some((Freshness::Unknown, 0, 0, Level::Unknown));
        let single = [fresh(2, 8, Level::Medium), fresh(6, 16, Level::Medium), unknown];
        assert_eq!(advice().await.iter().map(told).collect::<Vec<_>>(), [("1gpu".to_owned(), single)]);

        put(&server, "/v1/pools/h100/f-1/nodes/n-1", json!({"gpus": 4, "state": "healthy"})).await;
        let on_demand = json!({"instance": "od-1", "project": "ml", "platform": "h100", "model": "on_demand",
            "gpus": 1, "fabric": "f-1"});
        create(&server, "/v1/tenants/beta/instances", on_demand.clone()).await;
        create(&server, "/v1/market:clear", Value::Null).await;
        let all = advice().await;
        let single = [fresh(2, 8, Level::Medium), fresh(5, 16, Level::Medium), fresh(5, 16, Level::Medium)];
        let node = [fresh(0, 8, Level::Low), fresh(4, 16, Level::Medium), fresh(4, 16, Level::Medium)];
        let expected = [("1gpu".to_owned(), single), ("4gpu".to_owned(), node)];
        assert_eq!(all.iter().map(told).collect::<Vec<_>>(), expected);
        let now = Some("2026-01-01T04:00:00Z".parse().unwrap());
        assert_eq!(all[0].preemptible.unwrap().measured_at, now);

        // i-1 of acme has 8 of them elsewhere; the quota leaves one, and then none for a node.
        let command = QuotaCommand::SetLimits {
            node: "tenants/acme".parse().unwrap(),
            resource: "compute.instance.gpu.h100".parse().unwrap(),
            class: Class::OnDemand,
            limits: Some(Limits::nominal(Bound::AtMost(9))),
        };
        let _set = server.cell.submit(Command::from(command)).await.unwrap();
        // Somebody who comes before spot: what was cleared is old.
        let mut more = on_demand;
        more["instance"] = json!("od-2");
        create(&server, "/v1/tenants/beta/instances", more.clone()).await;
        let all = advice().await;
        let stale = |available| Some((Freshness::Stale, available, 16, Level::Medium));
        let single = [fresh(2, 8, Level::Medium), fresh(1, 9, Level::Low), stale(5)];
        let node = [fresh(0, 8, Level::Low), fresh(0, 9, Level::LimitReached), stale(4)];
        let expected = [("1gpu".to_owned(), single), ("4gpu".to_owned(), node)];
        assert_eq!(all.iter().map(told).collect::<Vec<_>>(), expected);

        // Below which price nobody gets it, and a page at a time.
        let (_, _, mut advising) = clients(&served).await;
        let first =
            advising.list(with(OPERATOR_TOKEN, advice_for("beta", 1, ""))).await.unwrap().into_inner();
        let labels = first.items[0].metadata.clone().unwrap().labels;
        assert_eq!((labels["spot_price"].as_str(), labels["spot_currency"].as_str()), ("0.5", "USD"));
        let rest = advising.list(with(OPERATOR_TOKEN, advice_for("beta", 1, &first.next_page_token))).await;
        let rest = rest.unwrap().into_inner();
        assert_eq!((rest.items.len(), rest.next_page_token.as_str()), (1, ""));
        assert_ne!(first.items, rest.items);

        // So many are admitted on demand as are told, and not one more.
        let told = first.items[0].status.unwrap().on_demand.unwrap().available;
        assert_eq!(told, 4);
        more["instance"] = json!("od-3");
        more["gpus"] = json!(told + 1);
        let path = "/v1/tenants/beta/instances";
        let refused = server.send_with("POST", path, OPERATOR_TOKEN, more.to_string()).await;
        refused.expect_problem(409, "pool_full");
        more["gpus"] = json!(told);
        create(&server, path, more).await;
        let all = client.resource_advice(&tenant("beta")).await.unwrap();
        let left = all.iter().map(|it| it.on_demand.unwrap()).map(|it| (it.available, it.level));
        assert_eq!(left.collect::<Vec<_>>(), [(0, Level::Low), (0, Level::Low)]);
    });
}
