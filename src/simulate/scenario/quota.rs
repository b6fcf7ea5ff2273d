//! The verbs of quota: limits, groups, holds, leases, caps, requests, reviews.
//!
//! A hold, a lease or a request is named by the log position of its event, which nobody knows when a file is
//! written. So the file names it, and the name stands for whatever the cell answers when the step is done.

use std::collections::BTreeMap;

use hourglass_ledger::core::Command;
use hourglass_ledger::core::quotas::{Ask, Listed, QuotaCommand};
use hourglass_quota::cap::{CapDraft, CapPeriod, Enforcement, NOTICE_MS_MIN};
use hourglass_quota::{Bound, Class, HoldId, LeaseId, Limits, NodeName, RequestId};
use hourglass_units::{Instant, Percent, ProjectId, TenantId};
use serde::Deserialize;

use super::lex::{Word, Words};
use super::parse::{Block, Parser};
use super::verbs::{place, toml};
use super::{Act, Fault};
use crate::commands::item;

/// How long a hold is held where the file does not say, in milliseconds.
const TTL_MS: i64 = 600_000;
/// Who asks and decides where a file is played straight into the cell: who it would be over HTTP.
const PERSON: &str = "operator";

/// What the file's names stand for.
pub type Names = BTreeMap<String, u64>;

/// A command about something that the file names.
#[derive(Debug, Clone)]
pub struct Named {
    /// What it makes gets this name.
    pub makes: Option<String>,
    /// What it is about has this name.
    pub uses: Option<String>,
    /// With nothing in the place of what it is about.
    pub command: Command,
}

impl Named {
    /// The command with what the name stands for. What was never made is unknown to the cell too.
    pub fn resolved(&self, names: &Names) -> Command {
        let mut command = self.command.clone();
        let Some(name) = &self.uses else { return command };
        let number = names.get(name).copied().unwrap_or(0);
        match &mut command {
            Command::RegisterInstance(registration) => registration.hold = Some(HoldId(number)),
            Command::Quota(quota) => match quota.as_mut() {
                QuotaCommand::Commit { hold }
                | QuotaCommand::Release { hold }
                | QuotaCommand::Renew { hold, .. }
                | QuotaCommand::Resize { hold, .. } => *hold = HoldId(number),
                QuotaCommand::RefreshLease { lease, .. } | QuotaCommand::ReturnLease { lease } => {
                    *lease = LeaseId(number);
                }
                QuotaCommand::DecideRequest { request, .. } => *request = RequestId(number),
                _ => {}
            },
            _ => {}
        }
        command
    }
}

/// Each verb and how its step is written.
pub(super) const FORMS: [(&str, &str); 17] = [
    ("group", "group TENANT/GROUP [in=GROUP]"),
    ("place", "place TENANT/PROJECT [GROUP]"),
    (
        "limit",
        "limit NODE RESOURCE CLASS NOMINAL [borrowing=LIMIT] [lending=LIMIT] [drain], or limit NODE RESOURCE CLASS none",
    ),
    (
        "cap",
        "cap TENANT[/PROJECT] monthly|total|prepaid [AMOUNT] hard|soft [thresholds=50,80] [notice=2m], or cap TENANT[/PROJECT] PERIOD none",
    ),
    ("hold", "hold NAME TENANT/PROJECT RESOURCE=AMOUNT[@CLASS] … [ttl=10m]"),
    ("commit", "commit NAME"),
    ("release", "release NAME"),
    ("renew", "renew NAME [ttl=10m]"),
    ("resize", "resize NAME RESOURCE=AMOUNT[@CLASS] …"),
    ("lease", "lease NAME NODE RESOURCE CLASS WANTED [safe=0] [holder=TEXT]"),
    ("refresh", "refresh NAME WANTED [known=VERSION] [in_use=AMOUNT]"),
    ("return", "return NAME"),
    ("request", "request NAME NODE RESOURCE CLASS WANTED [why=TEXT]"),
    ("decide", "decide NAME LIMIT|denied [why=TEXT]"),
    ("rules", "rules <<TOML, or rules none"),
    ("review", "review"),
    ("reconcile", "reconcile [at=TIME] <<TOML"),
];

/// What happens in a step of quota.
pub(super) fn act(
    parser: &mut Parser,
    words: &mut Words,
    at: Instant,
    block: &mut Option<Block>,
) -> Result<Act, Fault> {
    let plain = |command: QuotaCommand| Ok(Act::from(Command::from(command)));
    match words.verb() {
        "group" => {
            let (tenant, group) = place(words)?;
            // Groups and projects have ids of one form.
            let group = group.as_str().parse().map_err(|error| words.fault(error))?;
            plain(QuotaCommand::CreateGroup { tenant, group, parent: words.named_value("in")? })
        }
        "place" => {
            let (tenant, project) = place(words)?;
            let group = words.more().map(|word| word.value()).transpose()?;
            plain(QuotaCommand::PlaceProject { tenant, project, group })
        }
        "limit" => plain(limit(words)?),
        "cap" => plain(cap(words)?),
        "rules" => match words.more() {
            Some(word) if word.text == "none" => plain(QuotaCommand::SetRules { rules: None }),
            Some(word) => Err(word.fault("write `rules none`, or `rules <<TOML`")),
            None => plain(QuotaCommand::SetRules { rules: Some(toml(words, block.take())?) }),
        },
        "review" => Ok(Act::Review),
        "reconcile" => {
            let listing: Listing = toml(words, block.take())?;
            let listed_at = words.named_time("at", at)?.unwrap_or(at);
            plain(QuotaCommand::Reconcile { listed_at, instances: listing.instances })
        }
        _ => named(parser, words).map(|named| Act::Named(Box::new(named))),
    }
}

/// What the compute API runs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    #[serde(default)]
    instances: Vec<Listed>,
}

/// The steps about what the file names.
fn named(parser: &mut Parser, words: &mut Words) -> Result<Named, Fault> {
    let verb = words.verb().to_owned();
    let name = words.next("the name")?;
    let (hold, lease) = (HoldId(0), LeaseId(0));
    let (command, makes) = match verb.as_str() {
        "hold" => {
            let (tenant, project) = place(words)?;
            let (items, ttl_ms) = (items(words)?, ttl(words)?);
            (QuotaCommand::Reserve { tenant, project, items, ttl_ms }, true)
        }
        "lease" => {
            let (node, resource, class) = slot(words)?;
            let wants = words.value("how much is wanted")?;
            let safe_capacity = words.named_value("safe")?.unwrap_or(0);
            let holder = words.named("holder").map_or_else(|| name.text.clone(), |word| word.text);
            (QuotaCommand::AcquireLease { node, resource, class, holder, wants, safe_capacity }, true)
        }
        "request" => {
            let (node, resource, class) = slot(words)?;
            let wanted = words.value("the limit that is wanted")?;
            let (justification, requested_by) = (why(words), PERSON.to_owned());
            let request =
                QuotaCommand::RequestIncrease { node, resource, class, wanted, justification, requested_by };
            (request, true)
        }
        "commit" => (QuotaCommand::Commit { hold }, false),
        "release" => (QuotaCommand::Release { hold }, false),
        "renew" => (QuotaCommand::Renew { hold, ttl_ms: ttl(words)? }, false),
        "resize" => (QuotaCommand::Resize { hold, items: items(words)? }, false),
        "refresh" => {
            let wants = words.value("how much is wanted")?;
            let known_version = words.named_value("known")?.unwrap_or(0);
            let in_use = words.named_value("in_use")?.unwrap_or(0);
            (QuotaCommand::RefreshLease { lease, wants, known_version, in_use }, false)
        }
        "return" => (QuotaCommand::ReturnLease { lease }, false),
        "decide" => {
            let granted = words.next("the limit, or denied")?;
            let granted = if granted.text == "denied" { None } else { Some(granted.value()?) };
            let (reason, approver) = (why(words), PERSON.to_owned());
            (QuotaCommand::DecideRequest { request: RequestId(0), granted, approver, reason }, false)
        }
        _ => return Err(words.fault(format!("there is no step {verb:?}"))),
    };
    let command = Command::from(command);
    if makes {
        parser.name(&name)?;
        return Ok(Named { makes: Some(name.text), uses: None, command });
    }
    parser.knows(&name)?;
    Ok(Named { makes: None, uses: Some(name.text), command })
}

fn why(words: &mut Words) -> String {
    let text = words.named_text("why");
    if text.is_empty() { "because".to_owned() } else { text }
}

fn ttl(words: &mut Words) -> Result<i64, Fault> {
    words.named("ttl").map_or(Ok(TTL_MS), |word| whole_seconds(&word))
}

/// A duration of whole seconds, as the API takes them.
pub(super) fn whole_seconds(word: &Word) -> Result<i64, Fault> {
    let milliseconds = word.duration()?;
    if milliseconds.rem_euclid(1_000) == 0 {
        Ok(milliseconds)
    } else {
        Err(word.fault("this is given in whole seconds"))
    }
}

/// `NODE RESOURCE CLASS`.
pub(super) fn slot(words: &mut Words) -> Result<(NodeName, hourglass_units::ResourceName, Class), Fault> {
    Ok((words.value("the node")?, words.value("the resource")?, words.value("the class")?))
}

fn limit(words: &mut Words) -> Result<QuotaCommand, Fault> {
    let (node, resource, class) = slot(words)?;
    let nominal = words.next("the limit")?;
    let limits = if nominal.text == "none" {
        None
    } else {
        let usual = Limits::nominal(nominal.value()?);
        let borrowing = words.named_value("borrowing")?.unwrap_or(usual.borrowing);
        let lending: Bound = words.named_value("lending")?.unwrap_or(usual.lending);
        Some(Limits { borrowing, lending, drain: words.flag("drain"), ..usual })
    };
    Ok(QuotaCommand::SetLimits { node, resource, class, limits })
}

/// `TENANT`, or `TENANT/PROJECT`.
pub(super) fn owner(words: &mut Words) -> Result<(TenantId, Option<ProjectId>), Fault> {
    let word = words.next("TENANT or TENANT/PROJECT")?;
    let (tenant, project) = match word.text.split_once('/') {
        None => (word.text.as_str(), None),
        Some((tenant, project)) => (tenant, Some(project)),
    };
    let project = project.map(|project| project.parse().map_err(|error| word.fault(error))).transpose()?;
    Ok((tenant.parse().map_err(|error| word.fault(error))?, project))
}

/// The name of a period, as documents have it.
pub(super) fn period(words: &mut Words) -> Result<CapPeriod, Fault> {
    let word = words.next("the period")?;
    let known = [CapPeriod::Monthly, CapPeriod::Total, CapPeriod::Prepaid];
    let found = known.into_iter().find(|period| period.as_str() == word.text);
    found.ok_or_else(|| word.fault(format!("{:?} is no period: use monthly, total or prepaid", word.text)))
}

fn cap(words: &mut Words) -> Result<QuotaCommand, Fault> {
    let (tenant, project) = owner(words)?;
    let period = period(words)?;
    let mut word = words.next("the amount, or hard or soft, or none")?;
    if word.text == "none" {
        return Ok(QuotaCommand::SetCap { tenant, project, period, cap: None });
    }
    let mut amount = None;
    if !matches!(word.text.as_str(), "hard" | "soft") {
        amount = Some(word.amount()?);
        word = words.next("hard or soft")?;
    }
    let enforcement = match word.text.as_str() {
        "hard" => Enforcement::Hard,
        "soft" => Enforcement::Soft,
        other => return Err(word.fault(format!("{other:?} is neither hard nor soft"))),
    };
    let thresholds = match words.named("thresholds") {
        None => Vec::new(),
        Some(word) => {
            let each =
                word.text.split(',').map(|it| it.parse::<Percent>().map_err(|error| word.fault(error)));
            each.collect::<Result<_, _>>()?
        }
    };
    let notice_ms = words.named("notice").map_or(Ok(NOTICE_MS_MIN), |word| whole_seconds(&word))?;
    let cap = Some(CapDraft { period, amount, enforcement, thresholds, notice_ms });
    Ok(QuotaCommand::SetCap { tenant, project, period, cap })
}

/// All words that are left, as amounts of resources.
fn items(words: &mut Words) -> Result<Vec<Ask>, Fault> {
    let mut items = Vec::new();
    while let Some(word) = words.more() {
        items.push(item(&word.text).map_err(|why| word.fault(why))?);
    }
    Ok(items)
}
