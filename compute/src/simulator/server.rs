//! The simulated cloud as a gRPC server: the wire, wall-clock time, and the state file. All that happens is
//! decided in [`Cloud`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use hourglass_units::Instant;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};

use crate::error::ComputeError;
use crate::wire::error;

use super::call::{Answer, Call, Delivery, Response};
use super::cloud::{Cloud, ResumeError};
use super::connection::{Connection, Scissors};
use super::faults::{Garble, Loss};
use super::file::{StateFile, StateFileError};
use super::services::Services;
use super::settings::{Settings, SettingsError};

/// Fastest that time may pass: a day in a bit more than a second.
pub const SPEED_MAX: u32 = 100_000;
/// Most streams of one connection.
const STREAMS_MAX: u32 = 256;
/// Longest sleep between two looks at what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long callers have to take leave when the server shuts down.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);
/// Longest token file, in bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 64 << 10;

/// How a cloud is served.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// How it is.
    pub settings: Settings,
    /// Where it keeps what it must not forget; nowhere without one.
    pub state: Option<PathBuf>,
    /// File with the tokens that are accepted, one a line, read again at each call; without one all are.
    pub tokens: Option<PathBuf>,
    /// How many times faster than the wall's its time passes, 1 to [`SPEED_MAX`].
    pub speed: u32,
    /// The wall's time now.
    pub started: Instant,
}

/// Why a cloud is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The settings cannot be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The state does not go with the settings.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// The state file cannot be used.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
    /// Time cannot pass so fast.
    #[error("a speed of {0} is none: between 1 and {SPEED_MAX} is")]
    Speed(u32),
    /// The server failed.
    #[error("the server failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Serves a cloud until `shutdown`. Calls under way are answered; those that never would be end then.
pub async fn serve(
    listener: TcpListener,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (stop, stopped) = watch::channel(false);
    let desk = Desk(Arc::new(Shared::open(options, stopped.clone())?));
    let stopping = stopped.clone();
    let ticking = tokio::spawn(tick(desk.clone(), stopped));
    let shutdown = async move {
        shutdown.await;
        let _told = stop.send(true);
    };
    // Answers are small and waited for: none may lie in the kernel until there are more.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let incoming = incoming.map(|stream| stream.map(Connection::new));
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .serve_with_incoming_shutdown(Services::new(&desk), incoming, shutdown);
    let served = tokio::select! {
        served = serving => served,
        // A caller that does not take leave keeps nobody.
        () = long_after(stopping) => Ok(()),
    };
    ticking.abort();
    desk.0.advance();
    Ok(served?)
}

async fn long_after(mut stopped: watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await);
    tokio::time::sleep(SHUTDOWN_MAX).await;
}

/// Lets things happen on time also when nobody calls.
async fn tick(desk: Desk, mut stopped: watch::Receiver<bool>) {
    loop {
        let wait = desk.0.advance();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// Where calls come in.
#[derive(Debug, Clone)]
pub(super) struct Desk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cloud: Mutex<Kept>,
    tokens: Option<PathBuf>,
    speed: u32,
    started: Instant,
    /// When the cloud's time was `began_at`.
    began: tokio::time::Instant,
    began_at: Instant,
    stopped: watch::Receiver<bool>,
}

/// A cloud, and how much of it is in the file.
#[derive(Debug)]
struct Kept {
    cloud: Cloud,
    file: Option<StateFile>,
    written: u64,
}

/// An answer, and what is done to it before it goes out.
pub(super) struct Told {
    pub(super) answer: Answer,
    pub(super) garble: Option<Garble>,
}

impl Shared {
    fn open(options: ServeOptions, stopped: watch::Receiver<bool>) -> Result<Self, ServeError> {
        let ServeOptions { settings, state, tokens, speed, started } = options;
        if !(1..=SPEED_MAX).contains(&speed) {
            return Err(ServeError::Speed(speed));
        }
        let file = state.map(StateFile::new);
        let contents = file.as_ref().map(StateFile::read).transpose()?.flatten();
        let cloud = match contents {
            None => Cloud::new(settings, started)?,
            Some(contents) => {
                let mut cloud = Cloud::resume(settings, contents.cloud)?;
                // The server was away; the cloud was not.
                let away_ms = started.ms_since(contents.written_at).max(0);
                cloud.advance(cloud.now().saturating_add_ms(away_ms.saturating_mul(i64::from(speed))));
                cloud
            }
        };
        let began_at = cloud.now();
        if let Some(file) = &file {
            file.write(&cloud, started)?;
        }
        let kept = Kept { written: cloud.changes(), cloud, file };
        Ok(Self {
            cloud: Mutex::new(kept),
            tokens,
            speed,
            started,
            began: tokio::time::Instant::now(),
            began_at,
            stopped,
        })
    }

    /// The cloud's time.
    fn now(&self) -> Instant {
        let ms = self.elapsed_ms().saturating_mul(i64::from(self.speed));
        self.began_at.saturating_add_ms(ms)
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn advance(&self) -> Duration {
        let mut kept = self.cloud.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        kept.cloud.advance(now);
        if let Err(error) = self.keep(&mut kept) {
            tracing::error!(%error, "the state is not written");
        }
        let next = kept.cloud.next_event().map_or(i64::MAX, |next| next.ms_since(now));
        let ms = next.max(0).checked_div(i64::from(self.speed)).unwrap_or(0).saturating_add(1);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0)).min(LOOK_EVERY)
    }

    /// Nothing is told before it is where a kill does not reach it.
    fn step(&self, call: &Call) -> Result<Response, StateFileError> {
        let mut kept = self.cloud.lock().unwrap_or_else(PoisonError::into_inner);
        let response = kept.cloud.step(self.now(), call);
        self.keep(&mut kept)?;
        Ok(response)
    }

    fn keep(&self, kept: &mut Kept) -> Result<(), StateFileError> {
        let changes = kept.cloud.changes();
        if let Some(file) = kept.file.as_ref().filter(|_| changes != kept.written) {
            file.write(&kept.cloud, self.started.saturating_add_ms(self.elapsed_ms()))?;
            kept.written = changes;
        }
        Ok(())
    }

    fn may(&self, token: Option<&str>) -> Result<(), String> {
        let Some(path) = &self.tokens else { return Ok(()) };
        let unreadable =
            |error: std::io::Error| format!("the simulator's token file cannot be read: {error}");
        if std::fs::metadata(path).map_err(unreadable)?.len() > TOKEN_FILE_BYTES_MAX {
            return Err(format!("the simulator's token file has more than {TOKEN_FILE_BYTES_MAX} bytes"));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let accepted = text.lines().map(str::trim).filter(|line| !line.is_empty());
        match token {
            None => Err("there is no bearer token".to_owned()),
            Some(token) if accepted.into_iter().any(|accepted| accepted == token) => Ok(()),
            Some(_) => Err("the token is not known".to_owned()),
        }
    }
}

impl Desk {
    pub(super) fn with_cloud<T>(&self, read: impl FnOnce(&Cloud) -> T) -> T {
        read(&self.0.cloud.lock().unwrap_or_else(PoisonError::into_inner).cloud)
    }

    /// Takes a call, and delivers its answer the way that it is to go.
    pub(super) async fn take<T>(&self, request: &Request<T>, call: Call) -> Result<Told, Status> {
        let headers = request.metadata();
        let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|value| value.strip_prefix("Bearer "));
        self.0.may(token).map_err(|message| status(&ComputeError::Unauthenticated { message }))?;
        let response = self.0.step(&call).map_err(|error| {
            tracing::error!(%error, "the state is not written");
            // It has happened, and may not be remembered.
            Status::unavailable("the state is not written; the simulator's log says more")
        })?;
        tracing::debug!(kind = ?call.kind(), delivery = ?response.delivery, done = response.answer.is_ok(), "call");
        let mut garble = None;
        match response.delivery {
            Delivery::Prompt => {}
            Delivery::Late(ms) => {
                let ms = ms.checked_div(i64::from(self.0.speed)).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(u64::try_from(ms).unwrap_or(0))).await;
            }
            Delivery::Lost(Loss::Error) => return Err(Status::unavailable(Loss::Error.to_string())),
            Delivery::Lost(loss) => {
                if let (Loss::Cut, Some(scissors)) = (loss, request.extensions().get::<Scissors>()) {
                    scissors.cut();
                }
                let mut stopped = self.0.stopped.clone();
                let _either = stopped.wait_for(|stopped| *stopped).await;
                return Err(Status::unavailable("the simulator shuts down"));
            }
            Delivery::Garbled(how) => garble = Some(how),
        }
        let answer = response.answer.map_err(|error| status(&error))?;
        Ok(Told { answer, garble })
    }
}

/// An error as the status of a call.
pub(super) fn status(error: &ComputeError) -> Status {
    let status = error::write(error, "");
    let details = prost::Message::encode_to_vec(&status);
    Status::with_details(tonic::Code::from_i32(status.code), status.message, details.into())
}
