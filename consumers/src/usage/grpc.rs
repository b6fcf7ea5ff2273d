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
//! * On shutdown a stream is not read on, its batches are answered, and it ends with `UNAVAILABLE`:
//!   the agent sends what has no answer again.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use hourglass_ledger::cell::{CellError, CellHandle};
use hourglass_ledger::core::usage::{BATCH_BYTES_MAX, UsageBatch};
use hourglass_ledger::core::{Command, Detail, Rejection};
use hourglass_proto::v1;
use prost::Message;
use prost::bytes::{Buf, Bytes};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Request, Response, Status};

use super::reading::{Format, ReadError, numbered};
use crate::api::ApiConfig;
use crate::auth::OperatorToken;

/// Most batches of one stream that wait for their commit.
pub const BATCHES_UNDER_WAY_MAX: usize = 16;
/// Most streams of one connection.
pub const STREAMS_MAX: u32 = 64;
/// How often a silent connection is asked whether it still lives.
pub const KEEPALIVE: Duration = Duration::from_secs(30);

/// The path of the one method.
const PUBLISH: &str = "/hourglass.v1.UsageService/Publish";

/// Serves until `shutdown`, then answers what is under way.
pub async fn serve_grpc(
    listener: TcpListener,
    cell: CellHandle,
    config: ApiConfig,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let token = OperatorToken::new(config.operator_token.as_deref());
    let service = UsageService { cell, token, stopped };
    let shutdown = async move {
        shutdown.await;
        let _streams = stop.send(true);
    };
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .serve_with_incoming_shutdown(service, TcpListenerStream::new(listener), shutdown)
        .await
        .map_err(std::io::Error::other)
}

#[derive(Clone)]
struct UsageService {
    cell: CellHandle,
    token: OperatorToken,
    stopped: watch::Receiver<bool>,
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
                return Ok(Status::unimplemented("this server has hourglass.v1.UsageService").into_http());
            }
            let authorization = request.headers().get(http::header::AUTHORIZATION);
            if !service.token.admits(authorization.map(http::HeaderValue::as_bytes)) {
                let how = "give the operator's token as `authorization: Bearer …`";
                return Ok(Status::unauthenticated(how).into_http());
            }
            let mut grpc = tonic::server::Grpc::new(RawBatches)
                .apply_max_message_size_config(Some(BATCH_BYTES_MAX), None);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

impl tonic::server::StreamingService<Bytes> for UsageService {
    type Response = v1::Watermark;
    type ResponseStream = ReceiverStream<Result<v1::Watermark, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (answers, receiver) = mpsc::channel(BATCHES_UNDER_WAY_MAX);
        let publish = publish(self.cell.clone(), request.into_inner(), answers, self.stopped.clone());
        drop(tokio::spawn(publish));
        Box::pin(async move { Ok(Response::new(ReceiverStream::new(receiver))) })
    }
}

type Answer = Result<v1::Watermark, Status>;

/// Reads the stream and answers it, until either side ends it.
async fn publish(
    cell: CellHandle,
    mut batches: Streaming<Bytes>,
    answers: mpsc::Sender<Answer>,
    mut stopped: watch::Receiver<bool>,
) {
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
            () = stop(&mut stopped), if reading => {
                reading = false;
                under_way.push_back(Box::pin(async {
                    Err(Status::unavailable("the server shuts down: send what has no answer again"))
                }));
            }
            read = batches.message(), if reading && under_way.len() < BATCHES_UNDER_WAY_MAX => {
                match read {
                    Ok(Some(raw)) => match numbered(raw.clone()) {
                        Ok(batch) => under_way.push_back(Box::pin(accept(cell.clone(), batch))),
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

/// Waits until the server shuts down, or is gone.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    let _either = stopped.wait_for(|stopped| *stopped).await;
}

async fn accept(cell: CellHandle, batch: UsageBatch) -> Answer {
    let (agent_id, epoch) = (batch.agent().to_string(), batch.epoch());
    let outcome = cell.submit(Command::AcceptUsage(batch)).await.map_err(status)?;
    let answer = outcome.answer();
    let (next_seq, quarantined) = match &answer.detail {
        Detail::Usage { next_seq, quarantined, .. } => (*next_seq, quarantined.as_slice()),
        Detail::Done | Detail::Invoice { .. } => (0, [].as_slice()),
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

/// The status by which an agent knows whether to send again.
fn status(error: CellError) -> Status {
    let text = error.to_string();
    match error {
        CellError::Unavailable(_) | CellError::Deposed | CellError::StandingBy { .. } | CellError::Closed => {
            Status::unavailable(text)
        }
        CellError::Rejected(Rejection::SuspenseFull) => Status::resource_exhausted(text),
        CellError::Rejected(rejection) if rejection.is_retryable() => Status::unavailable(text),
        CellError::Rejected(_) => Status::failed_precondition(text),
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
