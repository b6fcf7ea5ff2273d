//! A client of the quota service, on a connection of its own: by a session, or by single calls.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hourglass_proto::v1;
use hourglass_proto::v1::quota_service_client::QuotaServiceClient;
use hourglass_proto::v1::session_request::Request as Asked;
use hourglass_proto::v1::session_response::Response as Told;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::work::{Answer, Ask, Seen, Task, UNDER_WAY_MAX, Window, Work};
use crate::quota::{Shape, resource};

/// Holds are committed long before.
const TTL_SECONDS: u32 = 60;
/// A timer is as exact as this: what it is late by less is its own fault, not the server's.
const TIMER: Duration = Duration::from_millis(1);

/// How a client asks.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) task: Task,
    pub(super) pace: Pace,
}

/// When it asks.
#[derive(Clone, Copy)]
pub(super) enum Pace {
    /// As soon as less than so many requests are under way.
    UnderWay(usize),
    /// Something new is due so often, for the first time after a while, whatever became of what was
    /// before. What follows from an answer is sent at once.
    Every { period: Duration, after: Duration },
}

/// A client and its connection.
pub(super) struct Client {
    name: String,
    shape: Arc<Shape>,
    authorization: String,
    service: QuotaServiceClient<Channel>,
    pub(super) work: Work,
    /// Requests that got a key.
    keys: u64,
}

impl Client {
    pub(super) async fn connect(address: &str, key: &str, name: String, parts: (Arc<Shape>, Work)) -> Self {
        let service = QuotaServiceClient::connect(address.to_owned()).await.expect("a connection");
        let (shape, work) = parts;
        Self { name, shape, authorization: format!("Bearer {key}"), service, work, keys: 0 }
    }

    fn with_credential<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let value = self.authorization.parse().expect("a header");
        let _none = request.metadata_mut().insert("authorization", value);
        request
    }

    fn asked(&mut self, ask: Ask) -> Asked {
        match ask {
            Ask::Reserve { project, amount } => {
                self.keys += 1;
                Asked::Reserve(v1::ReserveRequest {
                    idempotency_key: format!("{}-{}", self.name, self.keys),
                    scope: Some(self.scope(project)),
                    items: vec![item(amount)],
                    ttl_seconds: TTL_SECONDS,
                })
            }
            Ask::Check { project, amount } => {
                Asked::Check(v1::CheckRequest { scope: Some(self.scope(project)), items: vec![item(amount)] })
            }
            Ask::Commit(held) => {
                Asked::Commit(v1::CommitRequest { idempotency_key: String::new(), hold: held.hold })
            }
            Ask::Release(held) => {
                Asked::Release(v1::ReleaseRequest { idempotency_key: String::new(), hold: held.hold })
            }
        }
    }

    fn scope(&self, project: usize) -> v1::QuotaScope {
        let path = self.shape.path(project);
        v1::QuotaScope { tenant: path.tenant.to_string(), project: path.project.to_string() }
    }

    /// Asks by single calls, one after another.
    pub(super) async fn call(&mut self, window: Window) -> Seen {
        let mut seen = Seen::default();
        loop {
            let next = match self.work.follows() {
                Some(ask) => ask,
                None if Instant::now() >= window.until => return seen,
                None => self.work.begins(Task::Pairs),
            };
            let due = Instant::now();
            let answer = match self.asked(next) {
                Asked::Reserve(request) => {
                    held(self.service.clone().reserve(self.with_credential(request)).await)
                }
                Asked::Commit(request) => {
                    held(self.service.clone().commit(self.with_credential(request)).await)
                }
                Asked::Release(request) => {
                    held(self.service.clone().release(self.with_credential(request)).await)
                }
                other => unreachable!("{other:?} is no part of a pair"),
            };
            seen.count(next, due, window);
            self.work.hears(next, answer);
        }
    }

    /// Asks on a session.
    pub(super) async fn session(&mut self, load: Load, window: Window) -> Seen {
        let (send, mut requests) = mpsc::channel(UNDER_WAY_MAX);
        let requests = futures_util::stream::poll_fn(move |context| requests.poll_recv(context));
        let opened = self.service.clone().session(self.with_credential(requests)).await;
        let answers = opened.expect("a session").into_inner();
        let under_way = match load.pace {
            Pace::UnderWay(most) => most,
            Pace::Every { .. } => UNDER_WAY_MAX,
        };
        let line = Line { send, answers, slots: Vec::new(), free: (0..under_way).rev().collect() };
        line.run(self, load, window).await
    }
}

fn item(amount: u64) -> v1::QuotaItem {
    let resource = resource().to_string();
    v1::QuotaItem { resource, class: v1::QuotaClass::OnDemand.into(), amount }
}

fn held(answer: Result<tonic::Response<v1::HoldResponse>, Status>) -> Answer {
    match answer {
        Ok(response) => Answer::Fits(response.into_inner().hold.expect("a hold").id),
        Err(status) if status.code() == Code::ResourceExhausted => Answer::Denied,
        Err(status) => unreachable!("{status}"),
    }
}

/// A session's requests under way. A tag is the number of a slot.
struct Line {
    send: mpsc::Sender<v1::SessionRequest>,
    answers: Streaming<v1::SessionResponse>,
    slots: Vec<Option<(Ask, Instant)>>,
    free: Vec<usize>,
}

impl Line {
    async fn run(mut self, client: &mut Client, load: Load, window: Window) -> Seen {
        let mut seen = Seen::default();
        let mut beat = beat(load.pace);
        let mut due = VecDeque::new();
        self.slots.resize(self.free.len(), None);
        loop {
            let open = Instant::now() < window.until;
            while let Some(slot) = self.free.pop() {
                let begins = match load.pace {
                    _ if !open => None,
                    Pace::UnderWay(_) => Some(Instant::now()),
                    Pace::Every { .. } => due.front().copied(),
                };
                let (ask, since) = match (client.work.follows(), begins) {
                    (Some(ask), _) => (ask, Instant::now()),
                    (None, Some(since)) => {
                        let _begun = due.pop_front();
                        (client.work.begins(load.task), since)
                    }
                    (None, None) => {
                        self.free.push(slot);
                        break;
                    }
                };
                self.ask(slot, (ask, since), client.asked(ask)).await;
            }
            let idle = self.free.len() == self.slots.len();
            if idle && !open {
                return seen;
            }
            tokio::select! {
                biased;
                answer = self.answers.message(), if !idle => {
                    let answer = answer.expect("a session that lasts").expect("an answer");
                    let (ask, since) = self.answered(answer.tag);
                    seen.count(ask, since, window);
                    client.work.hears(ask, told(answer.response.expect("an answer")));
                }
                at = next_beat(&mut beat), if open => due.push_back(at),
            }
        }
    }

    async fn ask(&mut self, slot: usize, (ask, since): (Ask, Instant), request: Asked) {
        let tag = slot as u64;
        *self.slots.get_mut(slot).expect("a slot") = Some((ask, since));
        let sent = self.send.send(v1::SessionRequest { tag, request: Some(request) }).await;
        sent.expect("a session that is read");
    }

    fn answered(&mut self, tag: u64) -> (Ask, Instant) {
        let slot = usize::try_from(tag).expect("a tag");
        let asked = self.slots.get_mut(slot).and_then(Option::take).expect("an answer to what was asked");
        self.free.push(slot);
        asked
    }
}

fn told(told: Told) -> Answer {
    match told {
        Told::Hold(response) => Answer::Fits(response.hold.expect("a hold").id),
        Told::Check(v1::CheckResponse { fits: true, .. }) => Answer::Fits(0),
        Told::Check(_) | Told::Denial(_) => Answer::Denied,
        Told::Error(error) => unreachable!("{}", error.message),
    }
}

fn beat(pace: Pace) -> Option<Interval> {
    let Pace::Every { period, after } = pace else { return None };
    let mut beat = interval_at(tokio::time::Instant::now() + after, period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    Some(beat)
}

/// When the next request was due.
async fn next_beat(beat: &mut Option<Interval>) -> Instant {
    match beat {
        Some(beat) => {
            let due = beat.tick().await.into_std();
            Instant::now().min(due + TIMER)
        }
        None => std::future::pending().await,
    }
}
