//! `hourglass.v1.UsageService`: a stream of batches in, one watermark a batch out.
//!
//! Messages are taken as the bytes that came, not as decoded structs: the log then holds exactly what
//! the agent sent, fields of later versions included, and what cannot be decoded can be quarantined.
//!
//! * Answers come in the order of the batches, each after the commit that holds its batch.
//! * At most [`BATCHES_UNDER_WAY_MAX`] batches of a stream wait for their commit; then the stream is
//!   not read on, and HTTP/2 flow control holds the agent back.
//! * A message that is no batch is quarantined, and ends the stream with `INVALID_ARGUMENT` once all
//!   batches before it are answered. Its status says where it is kept.
//! * A batch in which an agent speaks for another one is refused and not kept, and ends the stream with
//!   `PERMISSION_DENIED` in the same way.
//! * The credential of an open stream is looked at again every
//!   [`CREDENTIAL_CHECK`](crate::grpc::CREDENTIAL_CHECK).
//! * On shutdown a stream is not read on, its batches are answered, and it ends with `UNAVAILABLE`:
//!   the agent sends what has no answer again.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use hourglass_ledger::cell::CellHandle;
use hourglass_ledger::core::usage::{BATCH_BYTES_MAX, UsageBatch};
use hourglass_ledger::core::{Command, Detail};
use hourglass_proto::v1;
use hourglass_units::AgentId;
use prost::Message;
use prost::bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

use super::reading::{Format, ReadError, numbered};
use crate::grpc::{Gate, credentials, denied, status};

/// Most batches of one stream that wait for their commit.
pub const BATCHES_UNDER_WAY_MAX: usize = 16;
/// The path of the one method.
const PUBLISH: &str = "/hourglass.v1.UsageService/Publish";

/// Takes usage in.
#[derive(Clone)]
pub(crate) struct UsageService(Gate);

impl UsageService {
    pub(crate) const fn new(gate: Gate) -> Self {
        Self(gate)
    }
}

impl NamedService for UsageService {
    const NAME: &'static str = "hourglass.v1.UsageService";
}

/// One call, and whose it is.
#[derive(Clone)]
struct Call {
    service: UsageService,
    headers: http::HeaderMap,
    sender: Option<AgentId>,
}

impl Service<http::Request<Body>> for UsageService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != PUBLISH {
                return Ok(Status::unimplemented("hourglass.v1.UsageService has Publish").into_http());
            }
            let headers = credentials(request.headers());
            let call = match service.sender(&headers).await {
                Ok(sender) => Call { service, headers, sender },
                Err(denied) => return Ok(denied.into_http()),
            };
            let mut grpc = tonic::server::Grpc::new(RawBatches)
                .apply_max_message_size_config(Some(BATCH_BYTES_MAX), None);
            Ok(grpc.streaming(call, request).await)
        })
    }
}

impl UsageService {
    /// For which agent the caller speaks; `None` where for any.
    async fn sender(&self, headers: &http::HeaderMap) -> Result<Option<AgentId>, Status> {
        let principal = self.0.principal(headers).await?;
        principal.ingests().map(Option::<&AgentId>::cloned).map_err(denied)
    }
}

impl tonic::server::StreamingService<Bytes> for Call {
    type Response = v1::Watermark;
    type ResponseStream = ReceiverStream<Result<v1::Watermark, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (answers, receiver) = mpsc::channel(BATCHES_UNDER_WAY_MAX);
        let publish = publish(self.clone(), request.into_inner(), answers);
        drop(tokio::spawn(publish));
        Box::pin(async move { Ok(Response::new(ReceiverStream::new(receiver))) })
    }
}

type Answer = Result<v1::Watermark, Status>;

/// Reads the stream and answers it, until either side ends it.
async fn publish(call: Call, mut batches: Streaming<Bytes>, answers: mpsc::Sender<Answer>) {
    let Call { service, headers, sender } = call;
    let cell = service.0.cell().clone();
    let (mut stopped, mut checks) = (service.0.stopped(), service.0.checks());
    // Commands enter the cell's queue in the order of the stream, and answers leave in it.
    let mut under_way: FuturesOrdered<BoxFuture<v1::Watermark, Status>> = FuturesOrdered::new();
    let mut reading = true;
    loop {
        tokio::select! {
            biased;
            Some(answer) = under_way.next() => {
                let last = answer.is_err();
                if answers.send(answer).await.is_err() || last {
                    return;
                }
            }
            () = stopped.wait(), if reading => {
                reading = false;
                under_way.push_back(Box::pin(async {
                    Err(Status::unavailable("the server shuts down: send what has no answer again"))
                }));
            }
            // A key that was revoked must not live on in the streams that it opened.
            _ = checks.tick(), if reading => {
                if let Err(denied) = service.sender(&headers).await.and_then(|now| match now == sender {
                    true => Ok(()),
                    false => Err(Status::unauthenticated("the credential became another's: begin again")),
                }) {
                    reading = false;
                    under_way.push_back(Box::pin(async move { Err(denied) }));
                }
            }
            read = batches.message(), if reading && under_way.len() < BATCHES_UNDER_WAY_MAX => {
                match read {
                    Ok(Some(raw)) => match numbered(raw.clone()) {
                        Ok(batch) => match foreign(sender.as_ref(), &batch) {
                            None => under_way.push_back(Box::pin(accept(cell.clone(), batch))),
                            Some(refused) => {
                                reading = false;
                                under_way.push_back(Box::pin(async move { Err(refused) }));
                            }
                        },
                        Err(error) => {
                            reading = false;
                            under_way.push_back(Box::pin(refuse(cell.clone(), raw, error)));
                        }
                    },
                    Ok(None) => reading = false,
                    Err(status) => {
                        reading = false;
                        under_way.push_back(Box::pin(async move { Err(status) }));
                    }
                }
            }
            else => return,
        }
    }
}

/// The answer to a batch in which an agent speaks for another one.
fn foreign(sender: Option<&AgentId>, batch: &UsageBatch) -> Option<Status> {
    let sender = sender.filter(|sender| *sender != batch.agent())?;
    let agent = batch.agent();
    let what =
        format!("the sender is agent {sender} and the batch speaks for agent {agent}: it was not kept");
    Some(Status::permission_denied(what))
}

async fn accept(cell: CellHandle, batch: UsageBatch) -> Answer {
    let (agent_id, epoch) = (batch.agent().to_string(), batch.epoch());
    let outcome = cell.submit(Command::AcceptUsage(batch)).await.map_err(status)?;
    let answer = outcome.answer();
    let (next_seq, quarantined) = match &answer.detail {
        Detail::Usage { next_seq, quarantined, .. } => (*next_seq, quarantined.as_slice()),
        _ => (0, [].as_slice()),
    };
    Ok(v1::Watermark {
        agent_id,
        epoch,
        next_seq,
        position: answer.position.number(),
        quarantined: quarantined
            .iter()
            .map(|(index, reason)| v1::Quarantined { index: *index, reason: reason.clone() })
            .collect(),
    })
}

/// Keeps a message that is no batch, and says so.
async fn refuse(cell: CellHandle, original: Bytes, error: ReadError) -> Answer {
    match error {
        ReadError::TooLarge { detail, .. } => Err(Status::resource_exhausted(detail)),
        ReadError::Unreadable { reason, detail } => {
            let content_type = Format::Protobuf.media_type().to_owned();
            let command = Command::QuarantineUsage { reason: reason.to_owned(), content_type, original };
            let position = cell.submit(command).await.map_err(status)?.answer().position;
            let kept =
                format!("{reason}: {detail}; the message is kept in quarantine at position {position}");
            Err(Status::invalid_argument(kept))
        }
    }
}

/// Batches as the bytes that came; watermarks by prost.
struct RawBatches;
struct RawDecoder;
struct WatermarkEncoder;

impl Codec for RawBatches {
    type Encode = v1::Watermark;
    type Decode = Bytes;
    type Encoder = WatermarkEncoder;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> WatermarkEncoder {
        WatermarkEncoder
    }

    fn decoder(&mut self) -> RawDecoder {
        RawDecoder
    }
}

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    /// The buffer holds exactly one message.
    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}

impl Encoder for WatermarkEncoder {
    type Item = v1::Watermark;
    type Error = Status;

    fn encode(&mut self, watermark: v1::Watermark, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        watermark.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}
