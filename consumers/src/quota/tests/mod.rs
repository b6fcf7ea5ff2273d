//! The services over the wire, on a real cell.

mod allowances;
mod holds;
mod leases;
mod session;

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
