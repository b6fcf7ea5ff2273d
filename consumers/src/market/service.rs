//! `hourglass.v1.MarketService`: single calls. The stream of prices is in `watch`.

use std::sync::Arc;

use hourglass_ledger::cell::{CellError, Submission};
use hourglass_ledger::core::market::{MarketCommand, MarketRejection};
use hourglass_ledger::core::{IdempotencyKey, Rejection, State};
use hourglass_ledger::store::{PAGE_ROWS_MAX, Reader};
use hourglass_proto::v1;
use hourglass_proto::v1::market_service_server;
use hourglass_units::{BidId, TenantId};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::HeaderMap;
use tonic::{Request, Response, Status};

use super::wire::{bid, bid_response, change, draft, pools, read};
use crate::api::page::PAGE_SIZE_DEFAULT;
use crate::auth::Principal;
use crate::auth::roles::{Permission, Reach};
use crate::billing::market::{ClearError, ReceiptDocument, clearing};
use crate::grpc::{Gate, credentials};
use crate::quota::wire::Method;
use crate::refusal::{Refusal, refused};

/// Takes bids, and tells what became of them.
#[derive(Clone)]
pub(crate) struct MarketService(Gate);

impl MarketService {
    pub(crate) const fn new(gate: Gate) -> Self {
        Self(gate)
    }

    pub(super) const fn gate(&self) -> &Gate {
        &self.0
    }

    /// Who asks, where it may do this for all or, below a tenant, for its own.
    async fn caller<T>(
        &self,
        request: &Request<T>,
        permission: Permission,
        tenant: &str,
    ) -> Result<(Principal, TenantId), Status> {
        let principal = self.0.principal(request.metadata().as_ref()).await?;
        let may = match principal.reach(permission) {
            Reach::None => Err(Refusal::lacks(&principal, permission)),
            Reach::All => read("tenant", tenant),
            Reach::Own => read("tenant", tenant).and_then(|tenant| match principal.tenant() {
                Some(own) if *own == tenant => Ok(tenant),
                _ => Err(Refusal::of_rejection(Rejection::TenantUnknown { tenant }, "")),
            }),
        };
        may.map(|tenant| (principal, tenant)).map_err(told)
    }

    /// Whether who asks may see the market as such.
    pub(super) async fn watcher(&self, headers: &HeaderMap) -> Result<Principal, Status> {
        let principal = self.0.principal(headers).await?;
        match principal.reach(Permission::ReadMarket) {
            Reach::All => Ok(principal),
            Reach::Own | Reach::None => Err(told(Refusal::lacks(&principal, Permission::ReadMarket))),
        }
    }

    async fn submit(
        &self,
        command: MarketCommand,
        key: Option<IdempotencyKey>,
    ) -> Result<Response<v1::BidResponse>, Status> {
        let submission = Submission { command: command.into(), key, at: None };
        match self.0.cell().submit(submission).await {
            Ok(outcome) => bid_response(&outcome).map(Response::new).map_err(told),
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// Why the cell does not do it.
    pub(super) async fn failed(&self, error: CellError) -> Status {
        told(refused(&self.0, error).await)
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> Result<T, Rejection> + Send + 'static,
    ) -> Result<T, Status> {
        match self.0.cell().read(look).await {
            Ok(found) => found.map_err(|rejection| told(Refusal::of_rejection(rejection, ""))),
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// Reads the store, on a thread that may block.
    pub(super) async fn store<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, ClearError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let reader = Arc::clone(self.0.cell().reader());
        let done = tokio::task::spawn_blocking(move || read(reader.as_ref())).await;
        done.map_err(|_| Refusal::internal())?.map_err(|error| match error {
            ClearError::Store(error) => error.into(),
            ClearError::TooLarge { .. } => Refusal::out_of_range("receipt_too_large", error.to_string()),
            ClearError::Unreadable { .. } => {
                tracing::error!(%error, "an event cannot be read");
                Refusal::internal()
            }
        })
    }
}

/// As a status of this service.
pub(super) fn told(refusal: Refusal) -> Status {
    refusal.of_market().into()
}

fn as_of(state: &State) -> Option<v1::AsOf> {
    Some(v1::AsOf { position: state.position().number(), unix_ms: state.now().unix_ms() })
}

fn known(state: &State, tenant: &TenantId) -> Result<(), Rejection> {
    let unknown = || Rejection::TenantUnknown { tenant: tenant.clone() };
    state.tenant(tenant).map(|_| ()).ok_or_else(unknown)
}

#[tonic::async_trait]
impl market_service_server::MarketService for MarketService {
    async fn place_bid(
        &self,
        request: Request<v1::PlaceBidRequest>,
    ) -> Result<Response<v1::BidResponse>, Status> {
        let tenant = &request.get_ref().tenant;
        let (principal, tenant) = self.caller(&request, Permission::WriteBids, tenant).await?;
        let request = request.into_inner();
        let key = Method::PlaceBid.key(&principal, &request.idempotency_key).map_err(told)?;
        let bid = draft(request.spec).map_err(told)?;
        self.submit(MarketCommand::PlaceBid { tenant, bid }, key).await
    }

    async fn update_bid(
        &self,
        request: Request<v1::UpdateBidRequest>,
    ) -> Result<Response<v1::BidResponse>, Status> {
        let tenant = &request.get_ref().tenant;
        let (principal, tenant) = self.caller(&request, Permission::WriteBids, tenant).await?;
        let request = request.into_inner();
        let key = Method::UpdateBid.key(&principal, &request.idempotency_key).map_err(told)?;
        let bid = read("bid", &request.bid).map_err(told)?;
        let change = change(&request).map_err(told)?;
        self.submit(MarketCommand::UpdateBid { tenant, bid, change }, key).await
    }

    async fn cancel_bid(
        &self,
        request: Request<v1::CancelBidRequest>,
    ) -> Result<Response<v1::BidResponse>, Status> {
        let tenant = &request.get_ref().tenant;
        let (principal, tenant) = self.caller(&request, Permission::WriteBids, tenant).await?;
        let request = request.into_inner();
        let key = Method::CancelBid.key(&principal, &request.idempotency_key).map_err(told)?;
        let bid = read("bid", &request.bid).map_err(told)?;
        self.submit(MarketCommand::CancelBid { tenant, bid }, key).await
    }

    async fn get_bid(
        &self,
        request: Request<v1::GetBidRequest>,
    ) -> Result<Response<v1::GetBidResponse>, Status> {
        let tenant = &request.get_ref().tenant;
        let (_, tenant) = self.caller(&request, Permission::ReadBids, tenant).await?;
        let name: BidId = read("bid", &request.get_ref().bid).map_err(told)?;
        let found = self.look(move |state| {
            known(state, &tenant)?;
            let unknown = || MarketRejection::BidUnknown { bid: name.clone() };
            let (number, found) = state.market().bid(&tenant, &name).ok_or_else(unknown)?;
            Ok(v1::GetBidResponse { bid: Some(bid(state, number, found)), as_of: as_of(state) })
        });
        Ok(Response::new(found.await?))
    }

    async fn list_bids(
        &self,
        request: Request<v1::ListBidsRequest>,
    ) -> Result<Response<v1::ListBidsResponse>, Status> {
        let tenant = &request.get_ref().tenant;
        let (_, tenant) = self.caller(&request, Permission::ReadBids, tenant).await?;
        let v1::ListBidsRequest { page_size, after, .. } = request.into_inner();
        let limit = match usize::try_from(page_size).unwrap_or(usize::MAX) {
            0 => PAGE_SIZE_DEFAULT,
            size if size <= PAGE_ROWS_MAX => size,
            _ => {
                let what = format!("it is at most {PAGE_ROWS_MAX}");
                return Err(told(Refusal::invalid("page_size", what)));
            }
        };
        let after: Option<BidId> = match after.as_str() {
            "" => None,
            after => Some(read("after", after).map_err(told)?),
        };
        let found = self.look(move |state| {
            known(state, &tenant)?;
            let behind = |name: &BidId| after.as_ref().is_none_or(|after| name > after);
            let all = state.market().bids_of(&tenant).filter(|(_, it)| behind(&it.draft.bid));
            let bids = all.take(limit).map(|(number, it)| bid(state, number, it)).collect();
            Ok(v1::ListBidsResponse { bids, as_of: as_of(state) })
        });
        Ok(Response::new(found.await?))
    }

    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        self.watcher(request.metadata().as_ref()).await?;
        let clear = request.get_ref().clear;
        let read = self.store(move |reader| {
            let found = clearing(reader, clear)?;
            // Numbers, names and prices have no value that JSON lacks.
            Ok(found.map(|it| serde_json::to_vec(&ReceiptDocument::from(it)).unwrap_or_default()))
        });
        let none = || {
            let what = "there is no clearing at this position";
            Refusal::not_found("clear_unknown", &clear.to_string(), what)
        };
        let document = read.await.and_then(|found| found.ok_or_else(none)).map_err(told)?;
        Ok(Response::new(v1::GetReceiptResponse { document }))
    }

    type WatchPricesStream = ReceiverStream<Result<v1::WatchPricesResponse, Status>>;

    async fn watch_prices(
        &self,
        request: Request<v1::WatchPricesRequest>,
    ) -> Result<Response<Self::WatchPricesStream>, Status> {
        let headers = credentials(request.metadata().as_ref());
        let principal = self.watcher(&headers).await?;
        let v1::WatchPricesRequest { pools: wanted, after } = request.into_inner();
        let wanted = pools(&wanted).map_err(told)?;
        super::watch::open(self.clone(), principal, headers, wanted, after).await.map(Response::new)
    }
}
