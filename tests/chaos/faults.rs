//! Which faults there are, and when the seed lets them happen.

use std::fmt;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    KillWriter,
    KillStandby,
    KillPostgres,
    KillNats,
    KillAgent,
    /// SIGSTOP past the lease, then SIGCONT.
    PauseWriter,
    FillAgentDisk,
    /// The usage stream takes no more.
    FillStream,
    DeleteStream,
    DelayNats,
    CutNats,
    /// What agents publish is published twice.
    RepeatMessages,
    DelayPostgres,
    CutPostgres,
    /// The answers to what was committed are lost.
    LoseAnswers,
    /// Messages that are no usage, or another agent's.
    Poison,
}

impl Kind {
    pub(crate) const ALL: [Self; 16] = [
        Self::KillWriter,
        Self::KillStandby,
        Self::KillPostgres,
        Self::KillNats,
        Self::KillAgent,
        Self::PauseWriter,
        Self::FillAgentDisk,
        Self::FillStream,
        Self::DeleteStream,
        Self::DelayNats,
        Self::CutNats,
        Self::RepeatMessages,
        Self::DelayPostgres,
        Self::CutPostgres,
        Self::LoseAnswers,
        Self::Poison,
    ];

    /// What is asserted of it needs that nothing else is amiss at the same time.
    pub(crate) fn is_alone(self) -> bool {
        self == Self::PauseWriter
    }

    /// Happens once at most: the stream is deleted with all that is in it.
    fn is_rare(self) -> bool {
        self == Self::DeleteStream
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::KillWriter => "kill -9 of the writer",
            Self::KillStandby => "kill -9 of the standby",
            Self::KillPostgres => "kill -9 of PostgreSQL",
            Self::KillNats => "kill -9 of nats-server",
            Self::KillAgent => "kill -9 of an agent",
            Self::PauseWriter => "writer stopped past its lease",
            Self::FillAgentDisk => "disk of an agent full",
            Self::FillStream => "usage stream full",
            Self::DeleteStream => "usage stream deleted",
            Self::DelayNats => "slow way to nats-server",
            Self::CutNats => "cut off from nats-server",
            Self::RepeatMessages => "messages sent twice",
            Self::DelayPostgres => "slow way to PostgreSQL",
            Self::CutPostgres => "cut off from PostgreSQL",
            Self::LoseAnswers => "answers of PostgreSQL lost",
            Self::Poison => "poison messages",
        };
        f.pad(text)
    }
}

/// One fault. Times are milliseconds since the start of the test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    /// After so long it is healed.
    pub(crate) lasts: u64,
    /// Which agent, or which of the two servers, where it hits one.
    pub(crate) target: usize,
}

/// Which faults there are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Every kind, one after the other in an order that the seed draws, then again.
    All,
    /// Nothing but kills of the writer.
    Writer,
}

/// Faults begin after this: the cast takes its places.
const FIRST_AT: u64 = 2_000;
/// The pause of the writer, in leases and tenths of one.
const PAUSE_TENTHS_OF_LEASE: u64 = 25;
/// Before what must happen alone, everything else is healed for so long.
pub(crate) const SETTLE_MS: u64 = 2_500;

/// Draws the faults of a run.
pub(crate) fn draw(seed: u64, mix: Mix, duration_ms: u64, agents: usize, lease_ms: u64) -> Vec<Fault> {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0xfa17);
    let mut faults: Vec<Fault> = Vec::new();
    let mut deck: Vec<Kind> = Vec::new();
    let (mut at, mut healed_at, mut rounds) = (FIRST_AT, FIRST_AT, 0);
    while at < duration_ms {
        if deck.is_empty() {
            deck = match mix {
                Mix::All => Kind::ALL.into_iter().filter(|kind| rounds == 0 || !kind.is_rare()).collect(),
                Mix::Writer => vec![Kind::KillWriter],
            };
            rng.shuffle(&mut deck);
            rounds += 1;
        }
        let Some(kind) = deck.pop() else { break };
        let lasts = match kind {
            Kind::PauseWriter => lease_ms * PAUSE_TENTHS_OF_LEASE / 10,
            Kind::KillWriter => rng.u64(100..lease_ms),
            Kind::DeleteStream | Kind::Poison => 0,
            _ => rng.u64(300..2_500),
        };
        if kind.is_alone() {
            at = at.max(healed_at + SETTLE_MS);
        }
        faults.push(Fault { at, kind, lasts, target: rng.usize(..agents) });
        healed_at = healed_at.max(at + lasts);
        at = match mix {
            Mix::All if kind.is_alone() => healed_at + rng.u64(500..1_500),
            Mix::All => at + rng.u64(200..1_800),
            Mix::Writer => healed_at + rng.u64(1_000..2_000),
        };
    }
    faults
}
