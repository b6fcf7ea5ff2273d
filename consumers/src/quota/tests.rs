//! The services over the wire, on a real cell.

use std::collections::BTreeMap;
use std::time::Duration;

use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_ledger::core::{Command, Role};
use hourglass_proto::google::rpc;
use hourglass_proto::nebius::common::v1::operation_service_client::OperationServiceClient;
use hourglass_proto::nebius::common::v1::service_error::{Details, RetryType};
use hourglass_proto::nebius::common::v1::{
    GetOperationRequest, ListOperationsRequest, Operation, ResourceMetadata, ServiceError,
};
use hourglass_proto::nebius::quotas::v1::quota_allowance_service_client::QuotaAllowanceServiceClient;
use hourglass_proto::nebius::quotas::v1::quota_allowance_status::{State, UsageState};
use hourglass_proto::nebius::quotas::v1::{
    CreateQuotaAllowanceRequest, DeleteQuotaAllowanceRequest, GetByNameRequest, GetQuotaAllowanceRequest,
    ListQuotaAllowancesRequest, ListQuotaAllowancesResponse, QuotaAllowance, QuotaAllowanceSpec,
    UpdateQuotaAllowanceRequest,
};
use hourglass_proto::v1;
use hourglass_proto::v1::quota_service_client::QuotaServiceClient;
use hourglass_proto::v1::session_request::Request as Asked;
use hourglass_proto::v1::session_response::Response as Told;
use hourglass_quota::lease::{LEASE_MS, REFRESH_MS};
use hourglass_quota::{Bound, Class, Limits};
use prost::Message;
use prost::bytes::{Buf, Bytes};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::REQUESTS_UNDER_WAY_MAX;
use crate::api::ApiConfig;
use crate::testing::{OPERATOR_TOKEN, Served, Server, key_of, serve, with, with_cell, with_server};

const H100: &str = "compute.instance.gpu.h100";
/// Longest that a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

type Quota = QuotaServiceClient<Channel>;

async fn client(served: &Served) -> Quota {
    QuotaServiceClient::connect(served.address.clone()).await.unwrap()
}

fn scope(tenant: &str, project: &str) -> Option<v1::QuotaScope> {
    Some(v1::QuotaScope { tenant: tenant.to_owned(), project: project.to_owned() })
}

fn item(amount: u64) -> v1::QuotaItem {
    v1::QuotaItem { resource: H100.to_owned(), class: v1::QuotaClass::OnDemand.into(), amount }
}

fn reserve(key: &str, amount: u64) -> v1::ReserveRequest {
    v1::ReserveRequest {
        idempotency_key: key.to_owned(),
        scope: scope("beta", "train"),
        items: vec![item(amount)],
        ttl_seconds: 60,
    }
}

fn check(tenant: &str, amount: u64) -> v1::CheckRequest {
    v1::CheckRequest { scope: scope(tenant, "train"), items: vec![item(amount)] }
}

fn commit(hold: u64) -> v1::CommitRequest {
    v1::CommitRequest { idempotency_key: String::new(), hold }
}

fn release(hold: u64) -> v1::ReleaseRequest {
    v1::ReleaseRequest { idempotency_key: String::new(), hold }
}

async fn limit(server: &Server, node: &str, most: u64) {
    let command = QuotaCommand::SetLimits {
        node: node.parse().unwrap(),
        resource: H100.parse().unwrap(),
        class: Class::OnDemand,
        limits: Some(Limits::nominal(Bound::AtMost(most))),
    };
    let _set = server.cell.submit(Command::from(command)).await.unwrap();
}

/// What an error carries.
fn details(status: &Status) -> (Option<v1::QuotaDenial>, ServiceError) {
    let packed = rpc::Status::decode(status.details()).unwrap();
    assert_eq!((packed.code, packed.message.as_str()), (status.code() as i32, status.message()));
    let denial = packed.details.iter().find_map(|any| any.to_msg::<v1::QuotaDenial>().ok());
    let error = packed.details.iter().find_map(|any| any.to_msg::<ServiceError>().ok());
    (denial, error.expect("a ServiceError"))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> ServiceError {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    let (_, error) = details(&status);
    assert_eq!(error.code, reason, "{status:?}");
    error
}

fn state_of(response: &v1::HoldResponse) -> v1::HoldState {
    response.hold.as_ref().unwrap().state()
}

#[test]
fn a_hold_lives_from_its_reservation_to_its_release() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 16).await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;

        let held = quota.reserve(reserve("r-1", 8)).await.unwrap().into_inner();
        let hold = held.hold.clone().unwrap();
        assert_eq!((hold.scope.clone(), hold.items.clone()), (scope("beta", "train"), vec![item(8)]));
        assert_eq!((hold.state(), held.already_applied), (v1::HoldState::Held, false));
        let now = server.cell.now().unix_ms();
        assert_eq!((hold.expires_unix_ms, hold.position), (now + 60_000, hold.id));
        let again = quota.reserve(reserve("r-1", 8)).await.unwrap().into_inner();
        assert_eq!(again, v1::HoldResponse { already_applied: true, ..held });
        refused(quota.reserve(reserve("r-1", 9)).await, Code::FailedPrecondition, "idempotency_key_reused");

        let get = |hold| v1::GetHoldRequest { hold };
        assert_eq!(quota.get_hold(get(hold.id)).await.unwrap().into_inner(), hold);
        let renew = v1::RenewRequest { idempotency_key: String::new(), hold: hold.id, ttl_seconds: 86_400 };
        let renewed = quota.renew(renew.clone()).await.unwrap().into_inner().hold.unwrap();
        assert_eq!((renewed.state(), renewed.expires_unix_ms), (v1::HoldState::Held, now + 86_400_000));
        let resize =
            v1::ResizeRequest { idempotency_key: "s-1".to_owned(), hold: hold.id, items: vec![item(12)] };
        let resized = quota.resize(resize.clone()).await.unwrap().into_inner();
        assert_eq!(resized.hold.unwrap().items, [item(12)]);
        assert!(quota.resize(resize.clone()).await.unwrap().into_inner().already_applied);
        let too_much = v1::ResizeRequest { idempotency_key: String::new(), items: vec![item(17)], ..resize };
        assert_eq!(quota.resize(too_much).await.unwrap_err().code(), Code::ResourceExhausted);

        let committed = quota.commit(commit(hold.id)).await.unwrap().into_inner();
        assert_eq!((state_of(&committed), committed.already_applied), (v1::HoldState::Committed, false));
        assert_eq!(committed.hold.as_ref().unwrap().expires_unix_ms, 0);
        let again = quota.commit(commit(hold.id)).await.unwrap().into_inner();
        assert_eq!(again, v1::HoldResponse { already_applied: true, ..committed });
        refused(quota.renew(renew).await, Code::FailedPrecondition, "hold_committed");
        let told = quota.get_hold(get(hold.id)).await.unwrap().into_inner();
        assert_eq!((told.state(), told.items), (v1::HoldState::Committed, vec![item(12)]));

        let released = quota.release(release(hold.id)).await.unwrap().into_inner();
        assert_eq!(state_of(&released), v1::HoldState::Released);
        assert!(quota.release(release(hold.id)).await.unwrap().into_inner().already_applied);
        refused(quota.commit(commit(hold.id)).await, Code::FailedPrecondition, "hold_released");
        let told = quota.get_hold(get(hold.id)).await.unwrap().into_inner();
        assert_eq!((told.state(), told.scope), (v1::HoldState::Released, scope("beta", "train")));
        assert_eq!((told.items, told.expires_unix_ms), (Vec::new(), 0));
        let error = refused(quota.get_hold(get(1)).await, Code::NotFound, "hold_unknown");
        assert_eq!(error.retry_type(), RetryType::Nothing);
        refused(quota.release(release(999)).await, Code::NotFound, "hold_unknown");
    });
}

#[test]
fn a_hold_that_is_not_committed_expires() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let held = quota.reserve(reserve("r-1", 8)).await.unwrap().into_inner().hold.unwrap();
        server.clock.set("2026-01-01T02:02:00Z");
        let get = v1::GetHoldRequest { hold: held.id };
        // Before the event that says so, and after it.
        for _ in 0..2 {
            let told = quota.get_hold(get).await.unwrap().into_inner();
            assert_eq!((told.state(), told.items), (v1::HoldState::Expired, Vec::new()));
            assert_eq!(told.scope, scope("beta", "train"));
            refused(quota.commit(commit(held.id)).await, Code::FailedPrecondition, "hold_expired");
            let _reviewed = server.cell.submit(Command::from(QuotaCommand::Review)).await;
        }
    });
}

#[test]
fn a_denial_says_all_that_there_is_to_say() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 16).await;
        limit(&server, "tenants/beta/projects/train", 32).await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let used = quota.reserve(reserve("r-1", 4)).await.unwrap().into_inner().hold.unwrap();
        quota.commit(commit(used.id)).await.unwrap();
        quota.reserve(reserve("r-2", 6)).await.unwrap();

        let expected = v1::QuotaDenial {
            node: "tenants/beta".to_owned(),
            resource: H100.to_owned(),
            class: v1::QuotaClass::OnDemand.into(),
            region: "eu".to_owned(),
            limit: 16,
            used: 4,
            held: 6,
            asked: 8,
            fits: 6,
            ..v1::QuotaDenial::default()
        };
        let status = quota.reserve(reserve("r-3", 8)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let (denial, error) = details(&status);
        assert_eq!(denial, Some(expected.clone()));
        assert_eq!((error.code.as_str(), error.retry_type()), ("quota_exceeded", RetryType::UnitOfWork));
        let Some(Details::QuotaFailure(failure)) = error.details else { panic!("no quota failure") };
        let violation = &failure.violations[0];
        assert_eq!((violation.quota.as_str(), violation.limit.as_str()), (H100, "16"));
        assert_eq!(violation.requested, "18");

        // A check says the same, and holds nothing.
        let position = server.cell.read(|state| state.position().number()).await.unwrap();
        let checked = quota.check(check("beta", 8)).await.unwrap().into_inner();
        assert_eq!((checked.fits, checked.denial), (false, Some(expected)));
        let as_of = checked.as_of.unwrap();
        assert_eq!((as_of.position, as_of.unix_ms), (position, server.cell.now().unix_ms()));
        let fits = quota.check(check("beta", 6)).await.unwrap().into_inner();
        assert_eq!((fits.fits, fits.denial, fits.as_of), (true, None, Some(as_of)));
        refused(quota.check(check("nobody", 1)).await, Code::NotFound, "tenant_unknown");
    });
}

#[test]
fn what_is_lent_out_is_waited_for() {
    with_server(async |server| {
        server.with_customers().await;
        let lender = Limits::nominal(Bound::AtMost(8));
        let borrower = Limits { borrowing: Bound::AtMost(8), ..Limits::nominal(Bound::AtMost(0)) };
        for (project, class, limits) in
            [("train", Class::OnDemand, lender), ("spot", Class::Preemptible, borrower)]
        {
            let command = QuotaCommand::SetLimits {
                node: format!("tenants/beta/projects/{project}").parse().unwrap(),
                resource: H100.parse().unwrap(),
                class,
                limits: Some(limits),
            };
            let _set = server.cell.submit(Command::from(command)).await.unwrap();
        }
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let spot = v1::QuotaItem { class: v1::QuotaClass::Preemptible.into(), ..item(8) };
        let lent =
            v1::ReserveRequest { scope: scope("beta", "spot"), items: vec![spot], ..reserve("r-1", 8) };
        let lent = quota.reserve(lent).await.unwrap().into_inner().hold.unwrap();
        assert_eq!(lent.state(), v1::HoldState::Held);

        let checked = quota.check(check("beta", 6)).await.unwrap().into_inner();
        assert_eq!((checked.fits, checked.after_reclaim), (true, true));
        let claim = quota.reserve(reserve("r-2", 6)).await.unwrap().into_inner().hold.unwrap();
        assert_eq!(claim.state(), v1::HoldState::Pending);
        let pending = refused(quota.commit(commit(claim.id)).await, Code::FailedPrecondition, "hold_pending");
        assert_eq!(pending.retry_type(), RetryType::Call);
        quota.release(release(lent.id)).await.unwrap();
        let told = quota.get_hold(v1::GetHoldRequest { hold: claim.id }).await.unwrap().into_inner();
        assert_eq!(told.state(), v1::HoldState::Held);
        quota.commit(commit(claim.id)).await.unwrap();
    });
}

#[test]
fn what_breaks_the_contract_is_named() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let unspecified = v1::QuotaItem { class: 0, ..item(1) };
        let fine = reserve("r-1", 1);
        let cases: [(&str, v1::ReserveRequest); 10] = [
            ("idempotency_key", v1::ReserveRequest { idempotency_key: String::new(), ..fine.clone() }),
            ("idempotency_key", v1::ReserveRequest { idempotency_key: "a b".to_owned(), ..fine.clone() }),
            ("scope", v1::ReserveRequest { scope: None, ..fine.clone() }),
            ("scope.tenant", v1::ReserveRequest { scope: scope("", "train"), ..fine.clone() }),
            ("scope.project", v1::ReserveRequest { scope: scope("beta", ""), ..fine.clone() }),
            ("items", v1::ReserveRequest { items: Vec::new(), ..fine.clone() }),
            ("items", v1::ReserveRequest { items: vec![item(1), item(1)], ..fine.clone() }),
            ("items", v1::ReserveRequest { items: vec![item(1); 17], ..fine.clone() }),
            ("class", v1::ReserveRequest { items: vec![unspecified], ..fine.clone() }),
            (
                "resource",
                v1::ReserveRequest {
                    items: vec![v1::QuotaItem { resource: "H".to_owned(), ..item(1) }],
                    ..fine.clone()
                },
            ),
        ];
        for (field, request) in cases {
            let error = refused(quota.reserve(request).await, Code::InvalidArgument, "request_invalid");
            let Some(Details::BadRequest(bad)) = error.details else { panic!("no violation of {field}") };
            assert_eq!(bad.violations[0].field, field);
        }
        let short = v1::ReserveRequest { ttl_seconds: 0, ..fine.clone() };
        refused(quota.reserve(short).await, Code::InvalidArgument, "ttl_out_of_range");
        let long = v1::ReserveRequest { ttl_seconds: 86_401, ..fine.clone() };
        refused(quota.reserve(long).await, Code::InvalidArgument, "ttl_out_of_range");
        let nothing = v1::ReserveRequest { items: vec![item(0)], ..fine.clone() };
        refused(quota.reserve(nothing).await, Code::InvalidArgument, "items_invalid");
        let nobody = v1::ReserveRequest { scope: scope("nobody", "train"), ..fine };
        refused(quota.reserve(nobody).await, Code::NotFound, "tenant_unknown");
    });
}

#[test]
fn roles_and_tenants_are_kept_apart() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 16).await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let mut quota = client(&served).await;
        let compute = server.key(key_of(Role::Compute, "", &[])).await;
        let other = server.key(key_of(Role::Compute, "", &[])).await;
        let acme = server.key(key_of(Role::Customer, "acme", &[])).await;
        let beta = server.key(key_of(Role::Customer, "beta", &[])).await;
        let agent = server.key(key_of(Role::Agent, "node-1", &[])).await;

        let none = quota.reserve(reserve("r-1", 1)).await.unwrap_err();
        assert_eq!(none.code(), Code::Unauthenticated);
        let wrong = quota.reserve(with("wrong", reserve("r-1", 1))).await.unwrap_err();
        assert_eq!(wrong.code(), Code::Unauthenticated);
        for key in [&beta, &agent] {
            refused(quota.reserve(with(key, reserve("r-1", 1))).await, Code::PermissionDenied, "forbidden");
        }
        refused(quota.check(with(&agent, check("beta", 1))).await, Code::PermissionDenied, "forbidden");

        let hold = quota.reserve(with(&compute, reserve("r-1", 8))).await.unwrap().into_inner().hold.unwrap();
        // A key is its owner's own.
        let another = quota.reserve(with(&other, reserve("r-1", 1))).await.unwrap().into_inner();
        assert!(!another.already_applied);

        let get = |key: &str, hold| with(key, v1::GetHoldRequest { hold });
        assert!(quota.get_hold(get(&beta, hold.id)).await.is_ok());
        let foreign = quota.get_hold(get(&acme, hold.id)).await.unwrap_err();
        let absent = quota.get_hold(get(&acme, 999_999)).await.unwrap_err();
        assert_eq!(foreign.code(), Code::NotFound);
        assert_eq!(
            foreign.message().replace(&hold.id.to_string(), "N"),
            absent.message().replace("999999", "N")
        );
        assert!(quota.check(with(&beta, check("beta", 1))).await.unwrap().into_inner().fits);
        refused(quota.check(with(&acme, check("beta", 1))).await, Code::NotFound, "tenant_unknown");
        quota.release(with(&compute, release(hold.id))).await.unwrap();
        assert!(quota.get_hold(get(&beta, hold.id)).await.is_ok());
        refused(quota.get_hold(get(&acme, hold.id)).await, Code::NotFound, "hold_unknown");
        let lease = v1::ReturnLeaseRequest { lease: 1 };
        refused(quota.return_lease(with(&beta, lease)).await, Code::PermissionDenied, "forbidden");
    });
}

#[test]
fn a_lease_is_acquired_refreshed_and_returned() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 16).await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let acquire = v1::AcquireLeaseRequest {
            idempotency_key: "l-1".to_owned(),
            scope: scope("beta", ""),
            holder: "edge-1".to_owned(),
            resource: H100.to_owned(),
            class: v1::QuotaClass::OnDemand.into(),
            wants: 20,
            safe_capacity: 4,
        };
        let first = quota.acquire_lease(acquire.clone()).await.unwrap().into_inner();
        let lease = first.lease.clone().unwrap();
        let now = server.cell.now().unix_ms();
        let expected = v1::Lease {
            id: lease.id,
            holder: "edge-1".to_owned(),
            scope: scope("beta", ""),
            resource: H100.to_owned(),
            class: v1::QuotaClass::OnDemand.into(),
            capacity: 16,
            safe_capacity: 4,
            granted_unix_ms: now,
            expires_unix_ms: now + LEASE_MS,
            refresh_interval_seconds: (REFRESH_MS / 1_000) as u32,
            version: 1,
            state: v1::LeaseState::Active.into(),
        };
        assert_eq!(lease, expected);
        let again = quota.acquire_lease(acquire.clone()).await.unwrap().into_inner();
        assert_eq!(again, v1::LeaseResponse { already_applied: true, ..first });
        let more = v1::AcquireLeaseRequest { idempotency_key: "l-2".to_owned(), ..acquire.clone() };
        let status = quota.acquire_lease(more).await.unwrap_err();
        assert_eq!((status.code(), details(&status).0.unwrap().used), (Code::ResourceExhausted, 16));
        let keyless = v1::AcquireLeaseRequest { idempotency_key: String::new(), ..acquire };
        refused(quota.acquire_lease(keyless).await, Code::InvalidArgument, "request_invalid");

        // What a smaller version takes away is free once the holder knows that version.
        server.clock.set("2026-01-01T02:01:15Z");
        let refresh =
            |known_version| v1::RefreshLeaseRequest { lease: lease.id, wants: 6, known_version, in_use: 5 };
        let smaller = quota.refresh_lease(refresh(1)).await.unwrap().into_inner().lease.unwrap();
        let expected = v1::Lease {
            capacity: 6,
            version: 2,
            granted_unix_ms: now + 15_000,
            expires_unix_ms: now + 15_000 + LEASE_MS,
            ..expected
        };
        assert_eq!(smaller, expected);
        assert!(!quota.check(check("beta", 1)).await.unwrap().into_inner().fits);
        quota.refresh_lease(refresh(2)).await.unwrap();
        assert!(quota.check(check("beta", 10)).await.unwrap().into_inner().fits);
        refused(quota.refresh_lease(refresh(9)).await, Code::FailedPrecondition, "lease_inconsistent");

        let give_back = v1::ReturnLeaseRequest { lease: lease.id };
        let returned = quota.return_lease(give_back).await.unwrap().into_inner();
        assert_eq!(returned.lease.as_ref().unwrap().state(), v1::LeaseState::Returned);
        assert_eq!(returned.lease.as_ref().unwrap().holder, "edge-1");
        let again = quota.return_lease(give_back).await.unwrap().into_inner();
        assert_eq!(again, v1::LeaseResponse { already_applied: true, ..returned });
        refused(quota.refresh_lease(refresh(2)).await, Code::NotFound, "lease_unknown");
        for never in [0, 1, 999] {
            let never = v1::ReturnLeaseRequest { lease: never };
            refused(quota.return_lease(never).await, Code::NotFound, "lease_unknown");
        }
    });
}

/// A session, with the end that asks.
async fn session(
    quota: &mut Quota,
    key: Option<&str>,
) -> (mpsc::Sender<v1::SessionRequest>, tonic::Streaming<v1::SessionResponse>) {
    let (sender, receiver) = mpsc::channel(REQUESTS_UNDER_WAY_MAX);
    let stream = ReceiverStream::new(receiver);
    let request = match key {
        Some(key) => with(key, stream),
        None => Request::new(stream),
    };
    (sender, quota.session(request).await.unwrap().into_inner())
}

fn ask(tag: u64, request: Asked) -> v1::SessionRequest {
    v1::SessionRequest { tag, request: Some(request) }
}

async fn answers(answers: &mut tonic::Streaming<v1::SessionResponse>, count: usize) -> BTreeMap<u64, Told> {
    let mut told = BTreeMap::new();
    for _ in 0..count {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        assert!(told.insert(answer.tag, answer.response.unwrap()).is_none(), "{} answered twice", answer.tag);
    }
    told
}

#[test]
fn a_session_has_many_requests_under_way() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 90).await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let (asks, mut told) = session(&mut quota, None).await;
        for tag in 0..100 {
            asks.send(ask(tag, Asked::Reserve(reserve(&format!("r-{tag}"), 1)))).await.unwrap();
        }
        let first = answers(&mut told, 100).await;
        // They are decided in the order in which they were sent.
        let mut holds = Vec::new();
        for (tag, answer) in &first {
            match answer {
                Told::Hold(v1::HoldResponse { hold: Some(hold), already_applied: false }) if *tag < 90 => {
                    assert_eq!(hold.state(), v1::HoldState::Held);
                    holds.push(hold.id);
                }
                Told::Denial(denial) if *tag >= 90 => {
                    assert_eq!((denial.limit, denial.held, denial.fits), (90, 90, 0));
                    assert_eq!((denial.region.as_str(), denial.node.as_str()), ("eu", "tenants/beta"));
                }
                other => panic!("{tag}: {other:?}"),
            }
        }
        assert!(holds.is_sorted());

        // A key is the same one in a single call.
        assert!(quota.reserve(reserve("r-7", 1)).await.unwrap().into_inner().already_applied);
        let (first, second, third) = (holds[0], holds[1], holds[2]);
        let renew = v1::RenewRequest { idempotency_key: String::new(), hold: second, ttl_seconds: 120 };
        let resize = v1::ResizeRequest { idempotency_key: String::new(), hold: third, items: vec![item(50)] };
        let requests = [
            Some(Asked::Commit(commit(first))),
            Some(Asked::Release(release(first))),
            Some(Asked::Renew(renew)),
            Some(Asked::Resize(resize)),
            Some(Asked::Check(check("beta", 1))),
            Some(Asked::Commit(commit(999_999))),
            Some(Asked::Reserve(reserve("", 1))),
            None,
        ];
        for (tag, request) in (200..).zip(requests) {
            asks.send(v1::SessionRequest { tag, request }).await.unwrap();
        }
        let mut told_now = answers(&mut told, 8).await;
        let mut take = |tag| told_now.remove(&tag).unwrap();
        let hold = |told: Told| match told {
            Told::Hold(v1::HoldResponse { hold: Some(hold), .. }) => (hold.state(), hold.expires_unix_ms),
            other => panic!("{other:?}"),
        };
        let error = |told: Told| match told {
            Told::Error(error) => (error.grpc_code, error.code, error.retryable),
            other => panic!("{other:?}"),
        };
        assert_eq!(hold(take(200)), (v1::HoldState::Committed, 0));
        assert_eq!(hold(take(201)), (v1::HoldState::Released, 0));
        assert_eq!(hold(take(202)), (v1::HoldState::Held, server.cell.now().unix_ms() + 120_000));
        let Told::Denial(denial) = take(203) else { panic!("it fits") };
        assert_eq!((denial.asked, denial.fits), (49, 1));
        let Told::Check(checked) = take(204) else { panic!("no check") };
        assert!(checked.fits);
        assert_eq!(error(take(205)), (Code::NotFound as i32, "hold_unknown".to_owned(), false));
        let invalid = (Code::InvalidArgument as i32, "request_invalid".to_owned(), false);
        assert_eq!((error(take(206)), error(take(207))), (invalid.clone(), invalid));

        // What was asked before the stream ended is answered.
        for tag in 300..310 {
            asks.send(ask(tag, Asked::Check(check("beta", 1)))).await.unwrap();
        }
        drop(asks);
        assert_eq!(answers(&mut told, 10).await.len(), 10);
        assert!(told.message().await.unwrap().is_none());
    });
}

#[test]
fn a_session_ends_with_its_credential_and_with_the_server() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let mut quota = client(&served).await;
        let agent = server.key(key_of(Role::Agent, "node-1", &[])).await;
        let stream = || tokio_stream::iter([ask(1, Asked::Check(check("beta", 1)))]);
        assert_eq!(quota.session(stream()).await.unwrap_err().code(), Code::Unauthenticated);
        refused(quota.session(with(&agent, stream())).await, Code::PermissionDenied, "forbidden");

        // A customer may look at its own, and hold nothing.
        let beta = server.key(key_of(Role::Customer, "beta", &[])).await;
        let (asks, mut told) = session(&mut quota, Some(&beta)).await;
        asks.send(ask(1, Asked::Check(check("beta", 1)))).await.unwrap();
        asks.send(ask(2, Asked::Check(check("acme", 1)))).await.unwrap();
        asks.send(ask(3, Asked::Reserve(reserve("r-1", 1)))).await.unwrap();
        let mut all = answers(&mut told, 3).await;
        assert!(matches!(all.remove(&1), Some(Told::Check(checked)) if checked.fits));
        for (tag, code) in [(2, Code::NotFound), (3, Code::PermissionDenied)] {
            let Some(Told::Error(error)) = all.remove(&tag) else { panic!("{tag} is no error") };
            assert_eq!(error.grpc_code, code as i32);
        }

        let compute = server.key(key_of(Role::Compute, "", &[])).await;
        let (asks_more, mut told_more) = session(&mut quota, Some(&compute)).await;
        asks_more.send(ask(1, Asked::Reserve(reserve("r-1", 1)))).await.unwrap();
        assert!(matches!(answers(&mut told_more, 1).await.remove(&1), Some(Told::Hold(_))));
        let id = compute.split('_').nth(1).unwrap().parse().unwrap();
        let _revoked = server.cell.submit(Command::RevokeKey { id }).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, told_more.message()).await.unwrap();
        assert_eq!(ended.unwrap_err().code(), Code::Unauthenticated);

        served.stop.send(()).unwrap();
        let ended = tokio::time::timeout(PATIENCE, told.message()).await.unwrap();
        assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
    });
}

/// Messages as the bytes that they are.
#[derive(Clone)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put(into, message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}

/// The bytes of a message that was written outside.
fn vector(message: &str) -> Bytes {
    let root = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let text = std::fs::read_to_string(root.join("../proto/tests/nebius_vectors.json")).unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let found = all.iter().find(|vector| vector["message"] == format!("nebius.quotas.v1.{message}")).unwrap();
    let hex = found["hex"].as_str().unwrap().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.chunks(2).map(byte).collect::<Vec<_>>().into()
}

async fn call(served: &Served, method: &str, message: Bytes) -> Bytes {
    let channel = Channel::from_shared(served.address.clone()).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = format!("/nebius.quotas.v1.QuotaAllowanceService/{method}").parse().unwrap();
    client.unary(Request::new(message), path, Raw).await.unwrap().into_inner()
}

#[test]
fn a_stock_client_reads_the_allowance_of_its_own_bytes() {
    with_cell(
        "eu-north1",
        ApiConfig::default(),
        |store| store,
        async |server| {
            let tenant = "tenant-e00a";
            let open = Command::OpenTenant {
                tenant: tenant.parse().unwrap(),
                currency: "USD".parse().unwrap(),
                display_name: tenant.to_owned(),
            };
            let _opened = server.cell.submit(open).await.unwrap();
            limit(&server, "tenants/tenant-e00a", 64).await;
            let served = serve(&server, None).await;
            let mut quota = client(&served).await;
            let scope = scope(tenant, "train");
            let held =
                quota.reserve(v1::ReserveRequest { scope, ..reserve("r-1", 24) }).await.unwrap().into_inner();
            quota.commit(commit(held.hold.unwrap().id)).await.unwrap();

            let expected = QuotaAllowance::decode(vector("QuotaAllowance")).unwrap();
            let like_expected = |mut allowance: QuotaAllowance| {
                let metadata = allowance.metadata.as_mut().unwrap();
                let id = std::mem::replace(&mut metadata.id, "quotaallowance-1".to_owned());
                let labels = [("class", "on_demand"), ("node", "tenants/tenant-e00a")];
                let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
                assert_eq!(std::mem::take(&mut metadata.labels), labels.into());
                assert_eq!(allowance, expected);
                assert_eq!(allowance.encode_to_vec(), vector("QuotaAllowance"));
                id
            };
            let list = call(&served, "List", vector("ListQuotaAllowancesRequest")).await;
            let mut list = ListQuotaAllowancesResponse::decode(list).unwrap();
            assert_eq!((list.items.len(), list.next_page_token.as_str()), (1, ""));
            let listed = like_expected(list.items.remove(0));
            let named = call(&served, "GetByName", vector("GetByNameRequest")).await;
            assert_eq!(like_expected(QuotaAllowance::decode(named).unwrap()), listed);
            let by_id = GetQuotaAllowanceRequest { id: listed.clone() }.encode_to_vec();
            let got = call(&served, "Get", by_id.into()).await;
            assert_eq!(like_expected(QuotaAllowance::decode(got).unwrap()), listed);
        },
    );
}

type AllowanceClient = QuotaAllowanceServiceClient<Channel>;

fn metadata(parent: &str, name: &str) -> Option<ResourceMetadata> {
    let (parent_id, name) = (parent.to_owned(), name.to_owned());
    Some(ResourceMetadata { parent_id, name, ..ResourceMetadata::default() })
}

fn spec(limit: Option<u64>, region: &str) -> Option<QuotaAllowanceSpec> {
    Some(QuotaAllowanceSpec { limit, region: region.to_owned() })
}

fn named(parent: &str, name: &str, region: &str) -> GetByNameRequest {
    GetByNameRequest { parent_id: parent.to_owned(), name: name.to_owned(), region: region.to_owned() }
}

fn create(parent: &str, name: &str, limit: Option<u64>) -> CreateQuotaAllowanceRequest {
    CreateQuotaAllowanceRequest { metadata: metadata(parent, name), spec: spec(limit, "eu") }
}

fn keyed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-idempotency-key", key.parse().unwrap());
    request
}

async fn limit_of(allowances: &mut AllowanceClient, parent: &str, name: &str) -> Option<u64> {
    let got = allowances.get_by_name(named(parent, name, "")).await.unwrap().into_inner();
    got.spec.unwrap().limit
}

#[test]
fn allowances_are_set_and_taken_away() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, None).await;
        let mut allowances = QuotaAllowanceServiceClient::connect(served.address.clone()).await.unwrap();
        let mut operations = OperationServiceClient::connect(served.address.clone()).await.unwrap();

        let done =
            allowances.create(keyed("k-1", create("beta", H100, Some(64)))).await.unwrap().into_inner();
        let Operation { id, created_at, finished_at, status, resource_id, .. } = done.clone();
        assert_eq!((created_at.unwrap().seconds, status), (1_767_232_860, Some(rpc::Status::default())));
        assert_eq!(created_at, finished_at);
        let got = operations.get(GetOperationRequest { id: id.clone() }).await.unwrap().into_inner();
        assert_eq!(got, done);
        let again =
            allowances.create(keyed("k-1", create("beta", H100, Some(64)))).await.unwrap().into_inner();
        assert_eq!(again, done);
        let reused = allowances.create(keyed("k-1", create("beta", H100, Some(65)))).await;
        refused(reused, Code::FailedPrecondition, "idempotency_key_reused");
        assert_eq!(limit_of(&mut allowances, "beta", H100).await, Some(64));
        // As that API has it: what is there is replaced.
        allowances.create(create("beta", H100, Some(48))).await.unwrap();
        assert_eq!(limit_of(&mut allowances, "beta", H100).await, Some(48));

        // By its id, and by its name; how it borrows stays.
        let borrowing = Limits { borrowing: Bound::AtMost(8), ..Limits::nominal(Bound::AtMost(1)) };
        let command = QuotaCommand::SetLimits {
            node: "tenants/beta".parse().unwrap(),
            resource: H100.parse().unwrap(),
            class: Class::Preemptible,
            limits: Some(borrowing),
        };
        let _set = server.cell.submit(Command::from(command)).await.unwrap();
        let spot = format!("{H100}.preemptible");
        let update =
            UpdateQuotaAllowanceRequest { metadata: metadata("beta", &spot), spec: spec(Some(2), "") };
        let changed = allowances.update(update).await.unwrap().into_inner();
        let standing = server.cell.read(|state| {
            let tree = state.quotas().tree();
            let node = tree.find(&"tenants/beta".parse().unwrap()).unwrap();
            tree.standing(node, tree.key(&H100.parse().unwrap(), Class::Preemptible).unwrap()).limits
        });
        assert_eq!(standing.await.unwrap(), Some(Limits { nominal: Bound::AtMost(2), ..borrowing }));
        let by_id = |id: &str, version, limit| UpdateQuotaAllowanceRequest {
            metadata: Some(ResourceMetadata {
                id: id.to_owned(),
                resource_version: version,
                ..ResourceMetadata::default()
            }),
            spec: spec(limit, "eu"),
        };
        allowances.update(by_id(&resource_id, 0, None)).await.unwrap();
        assert_eq!(limit_of(&mut allowances, "beta", H100).await, None);
        refused(
            allowances.update(by_id(&resource_id, 7, None)).await,
            Code::FailedPrecondition,
            "version_unknown",
        );
        let missing =
            UpdateQuotaAllowanceRequest { metadata: metadata("beta", "x.y"), spec: spec(Some(1), "") };
        refused(allowances.update(missing).await, Code::NotFound, "allowance_unknown");

        // A limit that is taken away leaves nothing to list where nothing is used.
        let delete = |id: &str| DeleteQuotaAllowanceRequest { id: id.to_owned() };
        let gone = allowances.delete(keyed("k-2", delete(&changed.resource_id))).await.unwrap().into_inner();
        assert_eq!(gone.resource_id, changed.resource_id);
        let again = allowances.delete(keyed("k-2", delete(&changed.resource_id))).await.unwrap().into_inner();
        assert_eq!(again, gone);
        let spot = allowances.get_by_name(named("beta", &spot, "eu")).await;
        refused(spot, Code::NotFound, "allowance_unknown");
        refused(allowances.delete(delete("quotaallowance-7")).await, Code::NotFound, "allowance_unknown");

        let elsewhere = allowances.get_by_name(named("beta", H100, "us")).await.unwrap_err();
        assert_eq!(elsewhere.code(), Code::InvalidArgument);
        assert!(elsewhere.message().contains("serves eu"), "{elsewhere}");
        for id in ["", "quotaop-", "quotaop-1", "quotaop-01", "quotaop-99999", "op-1"] {
            let unknown = operations.get(GetOperationRequest { id: id.to_owned() }).await;
            refused(unknown, Code::NotFound, "operation_unknown");
        }
        let list = operations.list(ListOperationsRequest { resource_id, ..ListOperationsRequest::default() });
        refused(list.await, Code::Unimplemented, "unimplemented");
    });
}

#[test]
fn allowances_are_listed_a_page_at_a_time() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, None).await;
        let mut allowances = QuotaAllowanceServiceClient::connect(served.address.clone()).await.unwrap();
        for (name, limit) in [("a.b", Some(0)), ("a.c", None), ("a.c.reserved", Some(5))] {
            allowances.create(create("acme", name, limit)).await.unwrap();
        }
        let request = |parent: &str, page_size, token: &str| ListQuotaAllowancesRequest {
            parent_id: parent.to_owned(),
            page_size,
            page_token: token.to_owned(),
        };
        let all = allowances.list(request("acme", 0, "")).await.unwrap().into_inner();
        let told = |allowance: &QuotaAllowance| {
            let (metadata, status) = (allowance.metadata.clone().unwrap(), allowance.status.clone().unwrap());
            assert_eq!((status.state(), metadata.parent_id.as_str()), (State::Active, "acme"));
            (metadata.name, status.usage, status.usage_percentage.clone(), status.usage_state(), status.unit)
        };
        let expected = [
            // i-1 takes eight, and nothing limits them.
            (H100, 8, "", UsageState::NotApplicable, "GPU"),
            ("a.b", 0, "0", UsageState::NotUsed, ""),
            ("a.c", 0, "", UsageState::NotApplicable, ""),
            ("a.c.reserved", 0, "0", UsageState::NotUsed, ""),
        ];
        let expected = expected.map(|(name, usage, share, state, unit)| {
            (name.to_owned(), usage, share.to_owned(), state, unit.to_owned())
        });
        assert_eq!(all.items.iter().map(told).collect::<Vec<_>>(), expected);

        let (mut token, mut paged) = (String::new(), Vec::new());
        loop {
            let page = allowances.list(request("acme", 3, &token)).await.unwrap().into_inner();
            paged.extend(page.items);
            if page.next_page_token.is_empty() {
                break;
            }
            token = page.next_page_token;
        }
        assert_eq!(paged, all.items);
        let foreign = allowances.list(request("beta", 3, &token)).await;
        refused(foreign, Code::InvalidArgument, "request_invalid");
        for size in [-1, 1_001] {
            let refused_size = allowances.list(request("acme", size, "")).await;
            refused(refused_size, Code::InvalidArgument, "request_invalid");
        }

        // A project by its id, and where two tenants have one of this name, by all of it.
        let of_project = allowances.list(request("ml", 0, "")).await.unwrap().into_inner();
        let metadata = of_project.items[0].metadata.clone().unwrap();
        assert_eq!((of_project.items.len(), metadata.parent_id.as_str()), (1, "ml"));
        assert_eq!(metadata.labels["node"], "tenants/acme/projects/ml");
        allowances.create(create("tenants/beta/projects/ml", H100, Some(1))).await.unwrap();
        refused(allowances.list(request("ml", 0, "")).await, Code::FailedPrecondition, "parent_ambiguous");
        let one = allowances.list(request("tenants/beta/projects/ml", 0, "")).await.unwrap().into_inner();
        assert_eq!(one.items[0].spec.as_ref().unwrap().limit, Some(1));
        refused(allowances.list(request("nobody", 0, "")).await, Code::NotFound, "parent_unknown");
        let group = allowances.list(request("tenants/beta/groups/g", 0, "")).await;
        refused(group, Code::InvalidArgument, "request_invalid");
    });
}

#[test]
fn a_customer_reads_its_own_allowances_and_sets_none() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let mut allowances = QuotaAllowanceServiceClient::connect(served.address.clone()).await.unwrap();
        let mut operations = OperationServiceClient::connect(served.address.clone()).await.unwrap();
        let set = allowances.create(with(OPERATOR_TOKEN, create("beta", H100, Some(4)))).await.unwrap();
        let set = set.into_inner();
        let acme = server.key(key_of(Role::Customer, "acme", &[])).await;
        let beta = server.key(key_of(Role::Customer, "beta", &[])).await;
        assert_eq!(
            allowances.get_by_name(named("beta", H100, "eu")).await.unwrap_err().code(),
            Code::Unauthenticated
        );
        let create_own = allowances.create(with(&beta, create("beta", H100, Some(5)))).await;
        refused(create_own, Code::PermissionDenied, "forbidden");
        let delete = DeleteQuotaAllowanceRequest { id: set.resource_id.clone() };
        refused(allowances.delete(with(&beta, delete)).await, Code::PermissionDenied, "forbidden");

        let get = |key: &str| with(key, GetQuotaAllowanceRequest { id: set.resource_id.clone() });
        assert!(allowances.get(get(&beta)).await.is_ok());
        refused(allowances.get(get(&acme)).await, Code::NotFound, "allowance_unknown");
        let foreign = allowances.get_by_name(with(&acme, named("beta", H100, "eu"))).await;
        refused(foreign, Code::NotFound, "parent_unknown");
        let operation = |key: &str| with(key, GetOperationRequest { id: set.id.clone() });
        assert_eq!(operations.get(operation(&beta)).await.unwrap().into_inner(), set);
        refused(operations.get(operation(&acme)).await, Code::NotFound, "operation_unknown");
        // A project of another tenant makes no name ambiguous.
        let other = create("tenants/beta/projects/ml", H100, Some(1));
        allowances.create(with(OPERATOR_TOKEN, other)).await.unwrap();
        let list = |parent: &str| ListQuotaAllowancesRequest {
            parent_id: parent.to_owned(),
            ..ListQuotaAllowancesRequest::default()
        };
        let own = allowances.list(with(&acme, list("ml"))).await.unwrap().into_inner();
        assert_eq!(own.items[0].metadata.as_ref().unwrap().labels["node"], "tenants/acme/projects/ml");
        refused(allowances.list(with(&beta, list("acme"))).await, Code::NotFound, "parent_unknown");
    });
}
