//! Scripts: what goes wrong and when, a line each.
//!
//! ```text
//! # When room is short, the second machine is refused late.
//! at 30s next create: not-enough-resources after 90s
//! at 1m next 3 stop: slow by 40s
//! at 2m every call for 30s: unavailable
//! at 5m instance trainer-3: power-off
//! at 6m capacity gpu-h100-sxm/fabric-1: 256
//! ```
//!
//! Times count from when the cloud began. A call is `create`, `update`, `delete`, `start`, `stop`, `get`,
//! `list`, `operation` or `capacity`; `change` is any of the first five, `read` any of the others, `call`
//! any at all. The faults are those of [`super::faults`]. An instance is named by its name or its id, and
//! is powered off (`power-off`), taken away by the provider (`take-away`) or marked for maintenance
//! (`maintenance`). `#` begins a comment. Of several lines that match a call the first one counts.

use serde::{Deserialize, Serialize};

use crate::model::Place;

use super::call::CallKind;
use super::duration::milliseconds;
use super::faults::Fault;

/// Longest script, in bytes.
pub const SCRIPT_BYTES_MAX: usize = 1 << 20;
/// Most lines of a script that say something.
pub const SCRIPT_RULES_MAX: usize = 10_000;

/// What goes wrong and when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// In the order of the lines.
    pub(crate) rules: Vec<Rule>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// From when, in milliseconds since the cloud began.
    pub(crate) at_ms: i64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// So many calls are struck.
    Next(u32, Calls, Fault),
    /// All calls are struck, for so many milliseconds.
    Every(i64, Calls, Fault),
    /// Something happens to an instance, by name or id.
    Instance(String, Mishap),
    /// A place has so many GPUs from now on.
    Capacity(Place, u64),
}

/// What happens to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mishap {
    PowerOff,
    TakeAway,
    Maintenance,
}

/// Which calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Calls {
    Any,
    Changes,
    Reads,
    Only(CallKind),
}

impl Calls {
    pub(crate) fn mean(self, kind: CallKind) -> bool {
        match self {
            Self::Any => true,
            Self::Changes => kind.is_change(),
            Self::Reads => !kind.is_change(),
            Self::Only(only) => only == kind,
        }
    }

    fn read(word: &str) -> Option<Self> {
        match word {
            "call" => Some(Self::Any),
            "change" => Some(Self::Changes),
            "read" => Some(Self::Reads),
            _ => CallKind::NAMED.iter().find(|(name, _)| *name == word).map(|(_, kind)| Self::Only(*kind)),
        }
    }
}

/// A script that cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ScriptError {
    /// Which line, from 1 on.
    pub line: usize,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

impl Script {
    /// Reads a script; or tells of each line that is wrong.
    pub fn parse(text: &str) -> Result<Self, Vec<ScriptError>> {
        let whole = |message: String| vec![ScriptError { line: 1, message }];
        if text.len() > SCRIPT_BYTES_MAX {
            return Err(whole(format!("the script has more than {SCRIPT_BYTES_MAX} bytes: shorten it")));
        }
        let mut script = Self::default();
        let mut errors = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            match rule(text) {
                Ok(rule) => script.rules.push(rule),
                Err(message) => errors.push(ScriptError { line, message }),
            }
        }
        if script.rules.len() > SCRIPT_RULES_MAX {
            return Err(whole(format!("the script says more than {SCRIPT_RULES_MAX} things: shorten it")));
        }
        if errors.is_empty() { Ok(script) } else { Err(errors) }
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    const FORM: &str = "write it like `at 30s next create: not-enough-resources after 90s`, with a time, what it is \
                        about, a colon and what happens";
    let (when, happens) = text.split_once(':').ok_or(FORM)?;
    let mut words = when.split_whitespace();
    let (Some("at"), Some(time)) = (words.next(), words.next()) else { return Err(FORM.to_owned()) };
    let at_ms = time_of(time)?;
    let about: Vec<&str> = words.collect();
    let happens = happens.trim();
    let what = match about.as_slice() {
        ["next", calls] => struck(calls, happens).map(|(calls, fault)| What::Next(1, calls, fault))?,
        ["next", count, calls] => {
            let count: u32 = count.parse().map_err(|_| format!("{count:?} is no number of calls"))?;
            struck(calls, happens).map(|(calls, fault)| What::Next(count, calls, fault))?
        }
        ["every", calls, "for", time] => {
            let ms = time_of(time)?;
            struck(calls, happens).map(|(calls, fault)| What::Every(ms, calls, fault))?
        }
        ["instance", name] => {
            let mishap = match happens {
                "power-off" => Mishap::PowerOff,
                "take-away" => Mishap::TakeAway,
                "maintenance" => Mishap::Maintenance,
                other => {
                    return Err(format!(
                        "to an instance happens power-off, take-away or maintenance, not {other:?}"
                    ));
                }
            };
            What::Instance((*name).to_owned(), mishap)
        }
        ["capacity", place] => {
            let place = place.parse().map_err(|error| format!("{place:?} is no place: {error}"))?;
            What::Capacity(place, happens.parse().map_err(|_| format!("{happens:?} is no number of GPUs"))?)
        }
        _ => {
            let what = about.join(" ");
            return Err(format!(
                "{what:?} is not understood: write next CALL, next N CALL, every CALL for TIME, instance NAME or \
                 capacity PLACE"
            ));
        }
    };
    Ok(Rule { at_ms, what })
}

fn time_of(text: &str) -> Result<i64, String> {
    milliseconds(text).ok_or_else(|| format!("{text:?} is no time: write it like 90s or 1m30s"))
}

fn struck(calls: &str, fault: &str) -> Result<(Calls, Fault), String> {
    let meant = Calls::read(calls).ok_or_else(|| {
        let known = CallKind::NAMED.map(|(name, _)| name).join(", ");
        format!("{calls:?} is no call: there are {known}, change, read and call")
    })?;
    let fault: Fault = fault.parse().map_err(|error: super::faults::FaultError| error.to_string())?;
    if !CallKind::NAMED.iter().any(|(_, kind)| meant.mean(*kind) && fault.strikes(*kind)) {
        return Err(format!("`{fault}` cannot happen to a {calls}"));
    }
    Ok((meant, fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_read() {
        let text = "
            # a comment
            at 30s next create: not-enough-resources after 90s
            at 1m next 3 stop: slow by 40s   # three of them
            at 2m every call for 30s: unavailable
            at 5m instance trainer-3: power-off
            at 6m capacity gpu-h100-sxm/fabric-1: 256
        ";
        let expected = [
            (30_000, What::Next(1, Calls::Only(CallKind::Create), Fault::NotEnoughResources(90_000))),
            (60_000, What::Next(3, Calls::Only(CallKind::Stop), Fault::Slow(40_000))),
            (120_000, What::Every(30_000, Calls::Any, Fault::Unavailable)),
            (300_000, What::Instance("trainer-3".to_owned(), Mishap::PowerOff)),
            (360_000, What::Capacity("gpu-h100-sxm/fabric-1".parse().unwrap(), 256)),
        ];
        let expected = expected.map(|(at_ms, what)| Rule { at_ms, what });
        assert_eq!(Script::parse(text).unwrap().rules, expected);
    }

    #[test]
    fn each_mistake_is_told_with_its_line() {
        let check = |line: &str, says: &str| {
            let errors = Script::parse(&format!("# first\n{line}\n")).unwrap_err();
            let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with("line 2: "), "{told:?}");
            assert!(told[0].contains(says), "{line:?}: {told:?}");
        };
        check("create fails", "write it like `at 30s next create");
        check("at soon next create: unavailable", "\"soon\" is no time");
        check("at 1s next launch: unavailable", "\"launch\" is no call");
        check("at 1s next many create: unavailable", "\"many\" is no number of calls");
        check("at 1s next create: explode", "there is no fault \"explode\"");
        check("at 1s next stop: not-enough-resources after 9s", "cannot happen to a stop");
        check("at 1s instance a: dance", "not \"dance\"");
        check("at 1s capacity gpu/x: much", "\"much\" is no number of GPUs");
        check("at 1s capacity /: 1", "is no place");
        check("at 1s whenever: unavailable", "\"whenever\" is not understood");
        let both = Script::parse("at x next create: unavailable\nat 1s next y: unavailable").unwrap_err();
        assert_eq!(both.iter().map(|error| error.line).collect::<Vec<_>>(), [1, 2]);
        assert!(Script::parse(&"#".repeat(SCRIPT_BYTES_MAX + 1)).is_err());
    }
}
