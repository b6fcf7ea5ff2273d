//! A session: many requests under way on one stream.
//!
//! This is the hot path of admission. A session is one task; a request costs no further one: it gets its
//! place in the cell's queue as it is read, and joins the line of those that wait. The cell answers in the
//! order of its queue, so only the first of the line is waited for, and whatever of the line is answered
//! by then leaves with it: one wake-up for each commit, not for each request.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use hourglass_ledger::cell::{CellError, Pending};
use hourglass_ledger::core::Outcome;
use hourglass_proto::v1;
use hourglass_proto::v1::session_request::Request;
use hourglass_proto::v1::session_response::Response;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::HeaderMap;
use tonic::{Status, Streaming};

use super::service::{Caller, Checked, QuotaService};
use super::wire::{Echo, HoldRequest, hold_response};
use crate::refusal::Refusal;

/// Most requests of one session that wait for their answers; then the stream is not read on, and HTTP/2
/// flow control holds the caller back.
pub const REQUESTS_UNDER_WAY_MAX: usize = 256;

type Answer = Result<v1::SessionResponse, Status>;

/// One of the line.
struct Waiting {
    tag: u64,
    what: What,
}

enum What {
    /// Answered without the cell.
    Nothing(Option<Box<Response>>),
    Check(Pending<Checked>),
    Hold(Pending, Echo),
}

impl What {
    fn answered(refusal: Refusal) -> Self {
        Self::Nothing(Some(Box::new(refusal.into_response())))
    }
}

/// What became of one of the line.
enum Became {
    Answered(Response),
    Checked(Checked),
    Held(Outcome, Echo),
    Failed(CellError),
}

/// A session that somebody opened.
struct Session {
    service: QuotaService,
    caller: Caller,
    headers: HeaderMap,
    line: VecDeque<Waiting>,
    answers: mpsc::Sender<Answer>,
}

/// Runs a session until either side ends it.
pub(super) fn open(
    service: QuotaService,
    caller: Caller,
    headers: HeaderMap,
    requests: Streaming<v1::SessionRequest>,
) -> ReceiverStream<Answer> {
    let (answers, receiver) = mpsc::channel(REQUESTS_UNDER_WAY_MAX);
    let session = Session { service, caller, headers, line: VecDeque::new(), answers };
    drop(tokio::spawn(session.run(requests)));
    ReceiverStream::new(receiver)
}

impl Session {
    async fn run(mut self, mut requests: Streaming<v1::SessionRequest>) {
        let gate = self.service.gate();
        let (mut stopped, mut checks) = (gate.stopped(), gate.checks());
        // Why the stream is read no more: it ends with this once all of the line is answered.
        let mut last = None;
        let mut reading = true;
        loop {
            tokio::select! {
                biased;
                (tag, became) = first(&mut self.line), if !self.line.is_empty() => {
                    if self.answer(tag, became).await.is_err() {
                        // Whoever asked is gone. What is under way happens all the same.
                        return;
                    }
                }
                () = stopped.wait(), if reading => {
                    reading = false;
                    last = Some(Status::unavailable("the server shuts down: send what has no answer again"));
                }
                // A key that was revoked must not live on in the sessions that it opened.
                _ = checks.tick(), if reading => {
                    if let Err(denied) = self.is_still_the_same().await {
                        reading = false;
                        last = Some(denied);
                    }
                }
                read = requests.message(), if reading && self.line.len() < REQUESTS_UNDER_WAY_MAX => {
                    let ended = match read {
                        Ok(Some(request)) => self.take(request, &mut requests).await,
                        Ok(None) => Some(None),
                        Err(status) => Some(Some(status)),
                    };
                    if let Some(why) = ended {
                        reading = false;
                        last = why;
                    }
                }
                else => break,
            }
        }
        if let Some(status) = last {
            let _gone = self.answers.send(Err(status)).await;
        }
    }

    async fn is_still_the_same(&self) -> Result<(), Status> {
        match Caller::new(self.service.gate().principal(&self.headers).await?) == self.caller {
            true => Ok(()),
            false => Err(Status::unauthenticated("the credential became another's: begin again")),
        }
    }

    /// Takes a request, and whatever came with it. Answers with why the stream is at its end, where it is.
    async fn take(
        &mut self,
        first: v1::SessionRequest,
        requests: &mut Streaming<v1::SessionRequest>,
    ) -> Option<Option<Status>> {
        let mut next = first;
        loop {
            let v1::SessionRequest { tag, request } = next;
            let what = match self.begin(request).await {
                Ok(Ok(what)) => what,
                Ok(Err(error)) => What::answered(self.service.refused(error).await),
                Err(refusal) => What::answered(refusal),
            };
            self.line.push_back(Waiting { tag, what });
            if self.line.len() >= REQUESTS_UNDER_WAY_MAX {
                return None;
            }
            next = match requests.message().now_or_never()? {
                Ok(Some(request)) => request,
                Ok(None) => return Some(None),
                Err(status) => return Some(Some(status)),
            };
        }
    }

    /// Gives a request its place in the cell's queue.
    async fn begin(&self, request: Option<Request>) -> Result<Result<What, CellError>, Refusal> {
        let request = match request {
            None => return Err(Refusal::invalid("request", "ask for something")),
            Some(Request::Check(request)) => {
                return Ok(self.service.look(&self.caller, &request).await?.map(What::Check));
            }
            Some(Request::Reserve(request)) => HoldRequest::Reserve(request),
            Some(Request::Commit(request)) => HoldRequest::Commit(request),
            Some(Request::Release(request)) => HoldRequest::Release(request),
            Some(Request::Renew(request)) => HoldRequest::Renew(request),
            Some(Request::Resize(request)) => HoldRequest::Resize(request),
        };
        self.caller.may_hold()?;
        let asked = request.read(&self.caller.principal)?;
        Ok(self.service.ask(asked).await.map(|(pending, echo)| What::Hold(pending, echo)))
    }

    /// Answers the first of the line, and all behind it that can be answered by now.
    async fn answer(&mut self, tag: u64, became: Became) -> Result<(), mpsc::error::SendError<Answer>> {
        let mut next = Some((tag, became));
        while let Some((tag, became)) = next {
            let response = self.told(became).await;
            self.answers.send(Ok(v1::SessionResponse { tag, response: Some(response) })).await?;
            next = if self.line.is_empty() { None } else { first(&mut self.line).now_or_never() };
        }
        Ok(())
    }

    async fn told(&self, became: Became) -> Response {
        let refusal = match became {
            Became::Answered(response) => return response,
            Became::Held(outcome, echo) => return Response::Hold(hold_response(&outcome, echo)),
            Became::Failed(error) => self.service.refused(error).await,
            Became::Checked(checked) => match self.service.told(checked).await {
                Ok(response) => return Response::Check(response),
                Err(refusal) => refusal,
            },
        };
        refusal.into_response()
    }
}

/// Waits for the first of the line, and takes it out. Without one it waits for ever.
async fn first(line: &mut VecDeque<Waiting>) -> (u64, Became) {
    std::future::poll_fn(|context| poll_first(line, context)).await
}

fn poll_first(line: &mut VecDeque<Waiting>, context: &mut Context<'_>) -> Poll<(u64, Became)> {
    let Some(Waiting { tag, what }) = line.front_mut() else { return Poll::Pending };
    let became = match what {
        What::Nothing(response) => match response.take() {
            Some(response) => Became::Answered(*response),
            None => Became::Failed(CellError::Closed),
        },
        What::Check(pending) => match ready!(Pin::new(pending).poll(context)) {
            Ok(checked) => Became::Checked(checked),
            Err(error) => Became::Failed(error),
        },
        What::Hold(pending, echo) => match ready!(Pin::new(pending).poll(context)) {
            Ok(outcome) => Became::Held(outcome, std::mem::take(echo)),
            Err(error) => Became::Failed(error),
        },
    };
    let tag = *tag;
    line.pop_front();
    Poll::Ready((tag, became))
}
