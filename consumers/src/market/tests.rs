//! The service over the wire, on a real cell.

use std::time::Duration;

use hourglass_capacity::auction::reserve::{Point, ReserveDraft, ReservePolicy, Shape};
use hourglass_ledger::core::market::{MarketCommand, PoolTerms, Trigger};
use hourglass_ledger::core::{Command, Role};
use hourglass_proto::nebius::common::v1::ServiceError;
use hourglass_proto::v1;
use hourglass_proto::v1::market_service_client::MarketServiceClient;
use hourglass_proto::v1::watch_prices_response::Update;
use hourglass_units::{Currency, Percent, Price};
use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::testing::{OPERATOR_TOKEN, Served, Server, key_of, serve, with, with_server};

const POOL: &str = "eu/h100/f-1";
const OTHER: &str = "eu/h100/f-2";
/// Longest that a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

type Market = MarketServiceClient<Channel>;

async fn client(served: &Served) -> Market {
    MarketServiceClient::connect(served.address.clone()).await.unwrap()
}

async fn set_pool(server: &Server, pool: &str, gpus: u64) {
    let point = Point { utilisation: Percent::ZERO, price: Price::parse("0.5").unwrap() };
    let reserve = ReservePolicy::new(ReserveDraft { shape: Shape::Steps, points: vec![point] }).unwrap();
    let terms = PoolTerms::new(Currency::USD, gpus, reserve);
    let command = MarketCommand::SetPool { pool: pool.parse().unwrap(), terms };
    let _set = server.cell.submit(Command::from(command)).await.unwrap();
}

async fn clear(server: &Server) -> u64 {
    let command = Command::from(MarketCommand::Clear { trigger: Trigger::Tick });
    server.cell.submit(command).await.unwrap().answer().position.number()
}

fn spec(name: &str, pools: &[&str], units: [u32; 2], limit: &str) -> v1::BidSpec {
    v1::BidSpec {
        bid: name.to_owned(),
        project: "ml".to_owned(),
        pools: pools.iter().map(|pool| (*pool).to_owned()).collect(),
        gpus_per_unit: 1,
        min_units: units[0],
        max_units: units[1],
        limit: limit.to_owned(),
        notice_seconds: None,
        expires_unix_ms: None,
    }
}

fn place(tenant: &str, spec: v1::BidSpec) -> v1::PlaceBidRequest {
    v1::PlaceBidRequest { idempotency_key: String::new(), tenant: tenant.to_owned(), spec: Some(spec) }
}

fn update(tenant: &str, bid: &str, limit: &str) -> v1::UpdateBidRequest {
    v1::UpdateBidRequest {
        tenant: tenant.to_owned(),
        bid: bid.to_owned(),
        limit: Some(limit.to_owned()),
        ..v1::UpdateBidRequest::default()
    }
}

fn get(tenant: &str, bid: &str) -> v1::GetBidRequest {
    v1::GetBidRequest { tenant: tenant.to_owned(), bid: bid.to_owned() }
}

fn cancel(tenant: &str, bid: &str) -> v1::CancelBidRequest {
    v1::CancelBidRequest { idempotency_key: String::new(), tenant: tenant.to_owned(), bid: bid.to_owned() }
}

fn list(tenant: &str, page_size: u32, after: &str) -> v1::ListBidsRequest {
    v1::ListBidsRequest { tenant: tenant.to_owned(), page_size, after: after.to_owned() }
}

/// The code that programs read.
fn reason(status: &Status) -> String {
    let packed = hourglass_proto::google::rpc::Status::decode(status.details()).unwrap();
    let error = packed.details.iter().find_map(|any| any.to_msg::<ServiceError>().ok()).unwrap();
    assert_eq!(error.service, "market");
    error.code
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, why: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status}");
}

#[test]
fn bids_are_placed_changed_looked_at_and_taken_back() {
    with_server(async |server| {
        server.with_customers().await;
        set_pool(&server, POOL, 4).await;
        let served = serve(&server, None).await;
        let mut market = client(&served).await;
        let mut first = place("acme", spec("low", &[POOL], [1, 4], "1.00"));
        first.idempotency_key = "k".to_owned();
        let placed = market.place_bid(first.clone()).await.unwrap().into_inner();
        let again = market.place_bid(first).await.unwrap().into_inner();
        assert_eq!(
            (placed.number, again.number, again.already_applied),
            (placed.position, placed.number, true)
        );
        clear(&server).await;
        let low = market.get_bid(get("acme", "low")).await.unwrap().into_inner().bid.unwrap();
        assert_eq!(
            (low.state(), low.units, low.pool.as_str(), low.price.as_str()),
            (v1::BidState::Winning, 4, POOL, "0.5")
        );
        assert_eq!((low.instances.len(), low.instances[0].state()), (4, v1::UnitState::Accepted));
        assert_eq!(low.spec.unwrap(), spec("low", &[POOL], [1, 4], "1"));

        market.place_bid(place("beta", spec("high", &[POOL], [3, 3], "2"))).await.unwrap();
        let clearing = clear(&server).await;
        let low = market.get_bid(get("acme", "low")).await.unwrap().into_inner().bid.unwrap();
        let last = low.instances.last().unwrap();
        assert_eq!((low.units, last.state(), last.cause.as_str()), (1, v1::UnitState::Stopping, "outbid"));
        assert_eq!(last.deadline_unix_ms, server.cell.now().unix_ms() + 60_000);

        let changed = market.update_bid(update("acme", "low", "3")).await.unwrap().into_inner();
        assert_eq!(changed.number, placed.number);
        market.place_bid(place("acme", spec("a", &[POOL], [1, 1], "1"))).await.unwrap();
        let page = market.list_bids(list("acme", 1, "")).await.unwrap().into_inner();
        assert_eq!(page.bids[0].spec.as_ref().unwrap().bid, "a");
        let page = market.list_bids(list("acme", 0, "a")).await.unwrap().into_inner();
        assert_eq!((page.bids.len(), page.bids[0].number), (1, placed.number));
        market.cancel_bid(cancel("acme", "low")).await.unwrap();
        let low = market.get_bid(get("acme", "low")).await.unwrap().into_inner().bid.unwrap();
        assert_eq!((low.state(), low.units), (v1::BidState::Cancelled, 0));

        // The receipt is the one of HTTP, to the byte.
        let receipt =
            market.get_receipt(v1::GetReceiptRequest { clear: clearing }).await.unwrap().into_inner();
        assert_eq!(receipt.document, server.get(&format!("/v1/clears/{clearing}")).await.body);
        for none in [0, 1, 999] {
            let answer = market.get_receipt(v1::GetReceiptRequest { clear: none }).await;
            refused(answer, Code::NotFound, "clear_unknown");
        }
    });
}

#[test]
fn what_is_wrong_is_refused_by_status_and_code() {
    with_server(async |server| {
        server.with_customers().await;
        set_pool(&server, POOL, 4).await;
        let served = serve(&server, None).await;
        let mut market = client(&served).await;
        let good = || spec("b", &[POOL], [1, 2], "1");
        market.place_bid(place("acme", good())).await.unwrap();
        for (spec, code, why) in [
            (good(), Code::AlreadyExists, "bid_exists"),
            (spec("x", &[OTHER], [1, 1], "1"), Code::NotFound, "pool_unknown"),
            (spec("x", &["f-1"], [1, 1], "1"), Code::InvalidArgument, "request_invalid"),
            (spec("x", &[], [1, 1], "1"), Code::InvalidArgument, "bid_invalid"),
            (spec("x", &[POOL], [3, 1], "1"), Code::InvalidArgument, "bid_invalid"),
            (spec("x", &[POOL], [1, 1], "0"), Code::InvalidArgument, "limit_zero"),
            (spec("x", &[POOL], [1, 1], "one"), Code::InvalidArgument, "request_invalid"),
            (spec("x", &[POOL], [9, 9], "1"), Code::FailedPrecondition, "above_supply"),
            (
                v1::BidSpec { notice_seconds: Some(1), ..spec("x", &[POOL], [1, 1], "1") },
                Code::InvalidArgument,
                "notice_out_of_range",
            ),
            (
                v1::BidSpec { expires_unix_ms: Some(1), ..spec("x", &[POOL], [1, 1], "1") },
                Code::InvalidArgument,
                "expires_in_the_past",
            ),
            (
                v1::BidSpec { expires_unix_ms: Some(i64::MIN), ..spec("x", &[POOL], [1, 1], "1") },
                Code::InvalidArgument,
                "request_invalid",
            ),
        ] {
            refused(market.place_bid(place("acme", spec)).await, code, why);
        }
        let empty = v1::PlaceBidRequest { spec: None, ..place("acme", good()) };
        refused(market.place_bid(empty).await, Code::InvalidArgument, "request_invalid");
        refused(market.place_bid(place("nobody", good())).await, Code::NotFound, "tenant_unknown");
        let nothing = v1::UpdateBidRequest { limit: None, ..update("acme", "b", "") };
        refused(market.update_bid(nothing).await, Code::InvalidArgument, "request_invalid");
        refused(market.update_bid(update("beta", "b", "2")).await, Code::NotFound, "bid_unknown");
        refused(market.get_bid(get("acme", "x")).await, Code::NotFound, "bid_unknown");
        refused(market.list_bids(list("acme", 1_001, "")).await, Code::InvalidArgument, "request_invalid");
        let key = v1::CancelBidRequest { idempotency_key: "a b".to_owned(), ..cancel("acme", "b") };
        refused(market.cancel_bid(key).await, Code::InvalidArgument, "request_invalid");
    });
}

#[test]
fn a_customer_reaches_its_own_bids_alone() {
    with_server(async |server| {
        server.with_customers().await;
        set_pool(&server, POOL, 4).await;
        let acme = server.key(key_of(Role::Customer, "acme", &[])).await;
        let trader = server.key(key_of(Role::Trader, "", &[])).await;
        let finance = server.key(key_of(Role::Finance, "", &[])).await;
        let agent = server.key(key_of(Role::Agent, "node-1", &[])).await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let mut market = client(&served).await;
        let bid = |tenant: &str, name: &str| place(tenant, spec(name, &[POOL], [1, 1], "1"));
        market.place_bid(with(&trader, bid("beta", "b"))).await.unwrap();
        market.place_bid(with(&acme, bid("acme", "a"))).await.unwrap();
        market.get_bid(with(&acme, get("acme", "a"))).await.unwrap();
        // Another tenant is as unknown as none, whatever is asked of it.
        for tenant in ["beta", "nobody"] {
            refused(market.place_bid(with(&acme, bid(tenant, "c"))).await, Code::NotFound, "tenant_unknown");
            refused(
                market.update_bid(with(&acme, update(tenant, "b", "9"))).await,
                Code::NotFound,
                "tenant_unknown",
            );
            refused(
                market.cancel_bid(with(&acme, cancel(tenant, "b"))).await,
                Code::NotFound,
                "tenant_unknown",
            );
            refused(market.get_bid(with(&acme, get(tenant, "b"))).await, Code::NotFound, "tenant_unknown");
            refused(
                market.list_bids(with(&acme, list(tenant, 0, ""))).await,
                Code::NotFound,
                "tenant_unknown",
            );
        }
        refused(market.get_bid(with(&acme, get("acme", "b"))).await, Code::NotFound, "bid_unknown");
        refused(market.get_bid(with(&finance, get("acme", "a"))).await, Code::PermissionDenied, "forbidden");
        let watch = with(&agent, v1::WatchPricesRequest::default());
        refused(market.watch_prices(watch).await, Code::PermissionDenied, "forbidden");
        let nobody = market.watch_prices(v1::WatchPricesRequest::default()).await.unwrap_err();
        assert_eq!(nobody.code(), Code::Unauthenticated);
    });
}

/// The next update that is no heartbeat.
async fn next(stream: &mut Streaming<v1::WatchPricesResponse>) -> Result<Update, Status> {
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.message()).await.expect("something must come");
        match read?.expect("the stream goes on").update.unwrap() {
            Update::Heartbeat(_) => {}
            update => return Ok(update),
        }
    }
}

async fn tick(stream: &mut Streaming<v1::WatchPricesResponse>) -> v1::PriceUpdate {
    match next(stream).await.unwrap() {
        Update::Tick(update) => update,
        other => panic!("{other:?}"),
    }
}

fn watch(pools: &[&str], after: Option<v1::PriceSequence>) -> v1::WatchPricesRequest {
    v1::WatchPricesRequest { pools: pools.iter().map(|it| (*it).to_owned()).collect(), after }
}

/// Another supply of the pool, and so another clearing.
async fn change(server: &Server, gpus: u64) -> u64 {
    set_pool(server, POOL, gpus).await;
    clear(server).await
}

#[test]
fn prices_are_watched_and_resumed_without_a_gap() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, None).await;
        let mut market = client(&served).await;
        // Before there is any market the snapshot is empty.
        let mut all = market.watch_prices(watch(&[], None)).await.unwrap().into_inner();
        let Update::Snapshot(none) = next(&mut all).await.unwrap() else { panic!() };
        assert_eq!((none.pools.len(), none.sequence.unwrap().position), (0, 0));

        set_pool(&server, OTHER, 8).await;
        let mut clearings = vec![change(&server, 4).await];
        market.place_bid(place("acme", spec("b", &[POOL], [1, 2], "1.20"))).await.unwrap();
        market.place_bid(place("acme", spec("low", &[POOL], [1, 9], "0.10"))).await.unwrap();
        clearings.push(clear(&server).await);
        let first = tick(&mut all).await;
        assert_eq!(first.pools.iter().map(|it| it.pool.as_str()).collect::<Vec<_>>(), [POOL, OTHER]);
        let second = tick(&mut all).await;
        let expected = v1::PoolPrice {
            pool: POOL.to_owned(),
            currency: "USD".to_owned(),
            price: "0.5".to_owned(),
            sold: 2,
            free: 2,
            supply: 4,
            reserve_price: "0.5".to_owned(),
            bids: 1,
            gpus_wanted: 2,
        };
        assert_eq!(second.pools, [expected], "the other pool is as it was");
        assert_eq!(second.unix_ms, server.cell.now().unix_ms());

        let mut late = market.watch_prices(watch(&[OTHER], None)).await.unwrap().into_inner();
        let Update::Snapshot(snapshot) = next(&mut late).await.unwrap() else { panic!() };
        assert_eq!(snapshot.sequence, second.sequence);
        assert_eq!((snapshot.pools.len(), snapshot.pools[0].pool.as_str()), (1, OTHER));

        for gpus in [5, 6, 7, 8, 9, 10] {
            clearings.push(change(&server, gpus).await);
        }
        let mut seen = vec![first, second];
        while seen.len() < clearings.len() {
            seen.push(tick(&mut all).await);
        }
        let positions = |seen: &[v1::PriceUpdate]| -> Vec<u64> {
            seen.iter().map(|it| it.sequence.unwrap().position).collect()
        };
        assert_eq!(positions(&seen), clearings);
        // From each of them on, whoever resumes gets the rest, to the letter; so does who begins before all.
        let before_all = Some(v1::PriceSequence { epoch: 0, position: 0 });
        for (from, after) in [before_all].into_iter().chain(seen.iter().map(|it| it.sequence)).enumerate() {
            let mut again = market.watch_prices(watch(&[], after)).await.unwrap().into_inner();
            let mut rest = Vec::new();
            while from + rest.len() < seen.len() {
                rest.push(tick(&mut again).await);
            }
            assert_eq!(rest, seen[from..]);
        }
        // Only what is asked for: the other pool did not change.
        let mut other = market.watch_prices(watch(&[OTHER], before_all)).await.unwrap().into_inner();
        assert_eq!(positions(&[tick(&mut other).await]), clearings[..1]);
        set_pool(&server, OTHER, 9).await;
        let last = clear(&server).await;
        assert_eq!(positions(&[tick(&mut other).await]), [last]);

        let epoch = seen[0].sequence.unwrap().epoch;
        for (epoch, position) in [(epoch, last + 1), (epoch + 1, last), (epoch, last - 1), (0, last)] {
            let foreign = Some(v1::PriceSequence { epoch, position });
            refused(market.watch_prices(watch(&[], foreign)).await, Code::OutOfRange, "resync");
        }
        refused(market.watch_prices(watch(&["f-1"], None)).await, Code::InvalidArgument, "request_invalid");
    });
}

#[test]
fn a_watch_ends_with_its_credential_and_with_the_server() {
    with_server(async |server| {
        server.with_customers().await;
        let (key, grant) = crate::auth::draw_key(key_of(Role::Customer, "acme", &[])).unwrap();
        let id = grant.id.clone();
        let _created = server.cell.submit(Command::CreateKey(grant)).await.unwrap();
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let mut market = client(&served).await;
        let open = with(&key.reveal(), watch(&[], None));
        let mut customers = market.watch_prices(open).await.unwrap().into_inner();
        let mut operators =
            market.watch_prices(with(OPERATOR_TOKEN, watch(&[], None))).await.unwrap().into_inner();
        for stream in [&mut customers, &mut operators] {
            let Update::Snapshot(_) = next(stream).await.unwrap() else { panic!() };
        }
        let _revoked = server.cell.submit(Command::RevokeKey { id }).await.unwrap();
        assert_eq!(next(&mut customers).await.unwrap_err().code(), Code::Unauthenticated);
        // The other one lives on, and says so.
        let beat = tokio::time::timeout(PATIENCE, operators.message()).await.unwrap().unwrap().unwrap();
        assert!(matches!(beat.update, Some(Update::Heartbeat(_))), "{beat:?}");
        served.stop.send(()).unwrap();
        assert_eq!(next(&mut operators).await.unwrap_err().code(), Code::Unavailable);
    });
}
