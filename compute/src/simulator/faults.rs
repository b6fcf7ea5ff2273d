//! What can go wrong, and how often it does.
//!
//! | fault | what happens | what the caller sees |
//! |---|---|---|
//! | `unavailable` | nothing | `UNAVAILABLE`, from the service itself |
//! | `too-many-requests` | nothing | `RESOURCE_EXHAUSTED`, to be tried again |
//! | `unauthenticated` | nothing | `UNAUTHENTICATED` |
//! | `never-answer` | nothing | no answer |
//! | `lose-answer by error`, `by silence`, `by cut` | all of it | `UNAVAILABLE` from a gateway; no answer; a cut connection |
//! | `late-answer by D` | all of it | the answer, `D` later |
//! | `delay by D` | nothing yet; all of it `D` later | no answer |
//! | `duplicate after D` | all of it, and `D` later once more | the first answer |
//! | `garbage wrong-id`, `no-metadata`, `unknown-state`, `same-page` | all of it | an answer that makes no sense |
//! | `not-enough-resources after D` | it is taken, then stops | an operation that fails after `D` |
//! | `quota-failure after D` | the same | the same, for want of quota |
//! | `abort after D` | it is taken, then ended | an operation that is aborted after `D` |
//! | `fail after D` | it is taken, then breaks | an operation that fails after `D`, and an instance in error |
//! | `slow by D` | all of it, `D` later | an operation that takes longer |
//! | `vanish after D` | all of it | an operation that is unknown after `D`, ended or not |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::draw::Draws;

use super::call::CallKind;
use super::duration::{Shown, milliseconds};

/// Millionths of a rate.
const MILLION: u64 = 1_000_000;
/// Longest that a fault by rate takes or lasts.
const DRAWN_MS_MAX: u64 = 180_000;

/// How an answer gets lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Loss {
    /// Something between says that it lost the connection to the cloud.
    Error,
    /// Nobody says anything.
    Silence,
    /// The caller's connection ends.
    Cut,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "the gateway lost the connection to the service",
            Self::Silence => "there was no answer in time",
            Self::Cut => "the connection was cut",
        })
    }
}

/// How an answer stops making sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Garble {
    /// It is about something else than what was asked for.
    WrongId,
    /// What everything has is missing.
    NoMetadata,
    /// A value that no enumeration has.
    UnknownState,
    /// The next page is this page.
    SamePage,
}

impl Garble {
    const NAMED: [(&'static str, Self); 4] = [
        ("wrong-id", Self::WrongId),
        ("no-metadata", Self::NoMetadata),
        ("unknown-state", Self::UnknownState),
        ("same-page", Self::SamePage),
    ];
}

impl fmt::Display for Garble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMED.iter().find(|(_, garble)| garble == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// What goes wrong with one call, or with the operation that it begins. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fault {
    /// The service will not. Nothing happens.
    Unavailable,
    /// The caller asks too often. Nothing happens.
    TooManyRequests,
    /// The token is not accepted. Nothing happens.
    Unauthenticated,
    /// Nothing happens, and nobody answers.
    NeverAnswer,
    /// It happens; the answer gets lost.
    LoseAnswer(Loss),
    /// It happens; the answer comes so much later.
    LateAnswer(i64),
    /// Nobody answers, and it happens so much later.
    Delay(i64),
    /// It happens, and so much later the same call comes in once more, as from a proxy that tries again.
    Duplicate(i64),
    /// It happens; the answer makes no sense.
    Garbage(Garble),
    /// There turns out to be no machine, so much later.
    NotEnoughResources(i64),
    /// The quota turns out to be used up, so much later.
    QuotaFailure(i64),
    /// The operation is aborted, so much later.
    Abort(i64),
    /// The operation fails, so much later.
    Fail(i64),
    /// The operation takes so much longer.
    Slow(i64),
    /// The operation is forgotten, so much later; its work goes on.
    Vanish(i64),
}

/// A text that is no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// There is no such fault.
    #[error(
        "there is no fault {0:?}: there are unavailable, too-many-requests, unauthenticated, never-answer, lose-answer, \
         late-answer, delay, duplicate, garbage, not-enough-resources, quota-failure, abort, fail, slow and vanish"
    )]
    Unknown(String),
    /// It is not written as it should be.
    #[error("write {name} {form}")]
    Form {
        /// The fault.
        name: &'static str,
        /// How what follows its name is written.
        form: &'static str,
    },
    /// A rate is none.
    #[error("{0:?} is no rate: write it like 2%, or like stop:slow=2% or power-off=1%")]
    Rate(String),
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let form = |name, form| FaultError::Form { name, form };
        let plain =
            |name, fault| if rest.is_empty() { Ok(fault) } else { Err(form(name, "and nothing more")) };
        let timed = |name, word: &str, shown: &'static str, fault: fn(i64) -> Self| match rest.as_slice() {
            [given, time] if *given == word => milliseconds(time).map(fault).ok_or_else(|| form(name, shown)),
            _ => Err(form(name, shown)),
        };
        const AFTER: &str = "after a time, like: after 90s";
        const BY: &str = "by a time, like: by 90s";
        match name {
            "unavailable" => plain("unavailable", Self::Unavailable),
            "too-many-requests" => plain("too-many-requests", Self::TooManyRequests),
            "unauthenticated" => plain("unauthenticated", Self::Unauthenticated),
            "never-answer" => plain("never-answer", Self::NeverAnswer),
            "lose-answer" => match rest.as_slice() {
                ["by", "error"] => Ok(Self::LoseAnswer(Loss::Error)),
                ["by", "silence"] => Ok(Self::LoseAnswer(Loss::Silence)),
                ["by", "cut"] => Ok(Self::LoseAnswer(Loss::Cut)),
                _ => Err(form("lose-answer", "by error, by silence or by cut")),
            },
            "late-answer" => timed("late-answer", "by", BY, Self::LateAnswer),
            "delay" => timed("delay", "by", BY, Self::Delay),
            "duplicate" => timed("duplicate", "after", AFTER, Self::Duplicate),
            "garbage" => {
                let found = Garble::NAMED.iter().find(|(name, _)| rest.as_slice() == [*name]);
                let wrong = || form("garbage", "wrong-id, no-metadata, unknown-state or same-page");
                found.map(|(_, garble)| Self::Garbage(*garble)).ok_or_else(wrong)
            }
            "not-enough-resources" => timed("not-enough-resources", "after", AFTER, Self::NotEnoughResources),
            "quota-failure" => timed("quota-failure", "after", AFTER, Self::QuotaFailure),
            "abort" => timed("abort", "after", AFTER, Self::Abort),
            "fail" => timed("fail", "after", AFTER, Self::Fail),
            "slow" => timed("slow", "by", BY, Self::Slow),
            "vanish" => timed("vanish", "after", AFTER, Self::Vanish),
            other => Err(FaultError::Unknown(other.chars().take(48).collect())),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unavailable => f.write_str("unavailable"),
            Self::TooManyRequests => f.write_str("too-many-requests"),
            Self::Unauthenticated => f.write_str("unauthenticated"),
            Self::NeverAnswer => f.write_str("never-answer"),
            Self::LoseAnswer(Loss::Error) => f.write_str("lose-answer by error"),
            Self::LoseAnswer(Loss::Silence) => f.write_str("lose-answer by silence"),
            Self::LoseAnswer(Loss::Cut) => f.write_str("lose-answer by cut"),
            Self::LateAnswer(ms) => write!(f, "late-answer by {}", Shown(ms)),
            Self::Delay(ms) => write!(f, "delay by {}", Shown(ms)),
            Self::Duplicate(ms) => write!(f, "duplicate after {}", Shown(ms)),
            Self::Garbage(garble) => write!(f, "garbage {garble}"),
            Self::NotEnoughResources(ms) => write!(f, "not-enough-resources after {}", Shown(ms)),
            Self::QuotaFailure(ms) => write!(f, "quota-failure after {}", Shown(ms)),
            Self::Abort(ms) => write!(f, "abort after {}", Shown(ms)),
            Self::Fail(ms) => write!(f, "fail after {}", Shown(ms)),
            Self::Slow(ms) => write!(f, "slow by {}", Shown(ms)),
            Self::Vanish(ms) => write!(f, "vanish after {}", Shown(ms)),
        }
    }
}

impl Fault {
    /// Whether it can strike such a call.
    pub const fn strikes(self, kind: CallKind) -> bool {
        match self {
            Self::Unavailable
            | Self::TooManyRequests
            | Self::Unauthenticated
            | Self::NeverAnswer
            | Self::LoseAnswer(_)
            | Self::LateAnswer(_) => true,
            Self::Garbage(Garble::SamePage) => matches!(kind, CallKind::List),
            Self::Garbage(Garble::NoMetadata | Garble::WrongId) => !matches!(kind, CallKind::Capacity),
            Self::Garbage(Garble::UnknownState) => matches!(kind, CallKind::Get | CallKind::List),
            Self::Delay(_)
            | Self::Duplicate(_)
            | Self::Abort(_)
            | Self::Fail(_)
            | Self::Slow(_)
            | Self::Vanish(_) => kind.is_change(),
            Self::NotEnoughResources(_) | Self::QuotaFailure(_) => {
                matches!(kind, CallKind::Create | CallKind::Start)
            }
        }
    }
}

/// How often something goes wrong, in millionths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Of all calls, those that some fault strikes; each that can strike is as likely as any other.
    pub any: u32,
    /// Of the calls that they can strike, those that these faults strike; and where one is named, of the calls
    /// of that kind alone.
    pub named: Vec<(Option<CallKind>, Fault, u32)>,
    /// Of all runs of instances, those that end by themselves within an hour.
    pub power_off: u32,
}

impl Rates {
    /// Adds what a text says: `2%`, `slow by 10s=2%`, `stop:slow by 10s=2%` or `power-off=1%`.
    pub fn add(&mut self, text: &str) -> Result<(), FaultError> {
        let wrong = || FaultError::Rate(text.chars().take(64).collect());
        let (what, rate) =
            text.rsplit_once('=').map_or((None, text), |(what, rate)| (Some(what.trim()), rate));
        let rate = parts_of_a_million(rate.trim()).ok_or_else(wrong)?;
        match what {
            None => self.any = rate,
            Some("power-off") => self.power_off = rate,
            Some(what) => {
                let (kind, fault) = match what.split_once(':') {
                    Some((kind, fault)) => {
                        let kind = CallKind::NAMED.iter().find(|(name, _)| *name == kind);
                        (Some(kind.ok_or_else(wrong)?.1), fault)
                    }
                    None => (None, what),
                };
                let fault: Fault = fault.parse()?;
                if kind.is_some_and(|kind| !fault.strikes(kind)) {
                    return Err(wrong());
                }
                self.named.push((kind, fault, rate));
            }
        }
        Ok(())
    }

    /// The fault that strikes a call, if one does. Draws no more often than there are rates.
    pub(crate) fn draw(&self, kind: CallKind, draws: &mut Draws) -> Option<Fault> {
        for (only, fault, rate) in &self.named {
            let meant = only.is_none_or(|only| only == kind) && fault.strikes(kind);
            if meant && draws.below(MILLION) < u64::from(*rate) {
                return Some(*fault);
            }
        }
        if self.any == 0 || draws.below(MILLION) >= u64::from(self.any) {
            return None;
        }
        let mut time = || i64::try_from(draws.below(DRAWN_MS_MAX).saturating_add(1)).unwrap_or(1);
        let all = [
            Fault::Unavailable,
            Fault::TooManyRequests,
            Fault::NeverAnswer,
            Fault::LoseAnswer(Loss::Error),
            Fault::LoseAnswer(Loss::Silence),
            Fault::LoseAnswer(Loss::Cut),
            Fault::Delay(time()),
            Fault::Duplicate(time()),
            Fault::Garbage(Garble::WrongId),
            Fault::Garbage(Garble::NoMetadata),
            Fault::Garbage(Garble::UnknownState),
            Fault::Garbage(Garble::SamePage),
            Fault::NotEnoughResources(time()),
            Fault::QuotaFailure(time()),
            Fault::Abort(time()),
            Fault::Fail(time()),
            Fault::Slow(time()),
            Fault::Vanish(time()),
        ];
        let can: Vec<Fault> = all.into_iter().filter(|fault| fault.strikes(kind)).collect();
        let chosen = draws.below(u64::try_from(can.len()).unwrap_or(0));
        can.get(usize::try_from(chosen).ok()?).copied()
    }

    /// After how many milliseconds a run that begins now ends by itself, if it does.
    pub(crate) fn draw_power_off(&self, draws: &mut Draws) -> Option<i64> {
        const HOUR_MS: u64 = 3_600_000;
        if self.power_off == 0 || draws.below(MILLION) >= u64::from(self.power_off) {
            return None;
        }
        i64::try_from(draws.below(HOUR_MS).saturating_add(1)).ok()
    }
}

/// `2%` and `0.05%` in millionths, up to all of them.
fn parts_of_a_million(text: &str) -> Option<u32> {
    let percent: hourglass_units::Percent = text.strip_suffix('%')?.trim().parse().ok()?;
    Some(percent.ppm()).filter(|ppm| u64::from(*ppm) <= MILLION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_written_as_it_is_read() {
        for text in [
            "unavailable",
            "too-many-requests",
            "unauthenticated",
            "never-answer",
            "lose-answer by error",
            "lose-answer by silence",
            "lose-answer by cut",
            "late-answer by 1m30s",
            "delay by 2m",
            "duplicate after 500ms",
            "garbage wrong-id",
            "garbage no-metadata",
            "garbage unknown-state",
            "garbage same-page",
            "not-enough-resources after 2m",
            "quota-failure after 1s",
            "abort after 1h",
            "fail after 1s",
            "slow by 40s",
            "vanish after 0s",
        ] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_fault_that_is_none_is_told_how_to_be_one() {
        let check = |text: &str, says: &str| {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        };
        check("explode", "there is no fault \"explode\"");
        check("slow", "write slow by a time, like: by 90s");
        check("slow after 9s", "write slow by a time");
        check("slow by soon", "write slow by a time");
        check("lose-answer by luck", "by error, by silence or by cut");
        check("garbage", "wrong-id, no-metadata");
        check("unavailable for 9s", "write unavailable and nothing more");
    }

    #[test]
    fn rates_are_read() {
        let mut rates = Rates::default();
        for text in ["2.5%", "slow by 10s=100%", "stop:slow by 20s=1%", "power-off=0.0001%"] {
            rates.add(text).unwrap();
        }
        let slow = Fault::Slow(10_000);
        let named = vec![(None, slow, 1_000_000), (Some(CallKind::Stop), Fault::Slow(20_000), 10_000)];
        assert_eq!(rates, Rates { any: 25_000, named, power_off: 1 });
        for text in ["2", "101%", "-1%", "slow=2%", "moon:slow by 1s=2%", "get:slow by 1s=2%", "=2%"] {
            assert!(Rates::default().add(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_rate_is_met_and_strikes_only_what_it_can() {
        let rates = Rates { any: 100_000, ..Rates::default() };
        let mut draws = Draws::new(7);
        for (_, kind) in CallKind::NAMED {
            let struck: Vec<Fault> = (0..5_000).filter_map(|_| rates.draw(kind, &mut draws)).collect();
            assert!((400..600).contains(&struck.len()), "{kind:?}: {}", struck.len());
            assert!(struck.iter().all(|fault| fault.strikes(kind)), "{kind:?}");
        }
    }
}
