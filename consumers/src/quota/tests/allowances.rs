//! What a stock client of the Nebius API reads and sets.

use super::*;

/// Messages as the bytes that they are.
#[derive(Clone)]
pub(super) struct Raw;

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
pub(super) fn vector(message: &str) -> Bytes {
    let root = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let text = std::fs::read_to_string(root.join("../proto/tests/nebius_vectors.json")).unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let found = all.iter().find(|vector| vector["message"] == format!("nebius.quotas.v1.{message}")).unwrap();
    let hex = found["hex"].as_str().unwrap().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.chunks(2).map(byte).collect::<Vec<_>>().into()
}

pub(super) async fn call(served: &Served, method: &str, message: Bytes) -> Bytes {
    let channel = Channel::from_shared(served.address.clone()).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = format!("/nebius.quotas.v1.QuotaAllowanceService/{method}").parse().unwrap();
    client.unary(Request::new(message), path, Raw).await.unwrap().into_inner()
}

#[test]
pub(super) fn a_stock_client_reads_the_allowance_of_its_own_bytes() {
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

pub(super) type AllowanceClient = QuotaAllowanceServiceClient<Channel>;

pub(super) fn metadata(parent: &str, name: &str) -> Option<ResourceMetadata> {
    let (parent_id, name) = (parent.to_owned(), name.to_owned());
    Some(ResourceMetadata { parent_id, name, ..ResourceMetadata::default() })
}

pub(super) fn spec(limit: Option<u64>, region: &str) -> Option<QuotaAllowanceSpec> {
    Some(QuotaAllowanceSpec { limit, region: region.to_owned() })
}

pub(super) fn named(parent: &str, name: &str, region: &str) -> GetByNameRequest {
    GetByNameRequest { parent_id: parent.to_owned(), name: name.to_owned(), region: region.to_owned() }
}

pub(super) fn create(parent: &str, name: &str, limit: Option<u64>) -> CreateQuotaAllowanceRequest {
    CreateQuotaAllowanceRequest { metadata: metadata(parent, name), spec: spec(limit, "eu") }
}

pub(super) fn keyed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-idempotency-key", key.parse().unwrap());
    request
}

pub(super) async fn limit_of(allowances: &mut AllowanceClient, parent: &str, name: &str) -> Option<u64> {
    let got = allowances.get_by_name(named(parent, name, "")).await.unwrap().into_inner();
    got.spec.unwrap().limit
}

#[test]
pub(super) fn allowances_are_set_and_taken_away() {
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
pub(super) fn allowances_are_listed_a_page_at_a_time() {
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
pub(super) fn a_customer_reads_its_own_allowances_and_sets_none() {
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
