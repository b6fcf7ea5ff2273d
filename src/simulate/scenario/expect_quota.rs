//! What a file expects of quota.

use hourglass_consumers::billing::quotas;
use hourglass_ledger::core::State;
use hourglass_ledger::core::quotas::Target;
use hourglass_quota::cap::CapPeriod;
use hourglass_quota::{Class, HoldId, LeaseId, NodeName, RequestId};
use hourglass_units::{InstanceId, ProjectId, ResourceName, TenantId};

use super::Fault;
use super::check::{Facts, Subject, count, facts, scalars};
use super::lex::{Word, Words};
use super::market;
use super::parse::Parser;
use super::quota::{Names, owner, period, slot};

/// What an expectation of quota can be about.
pub(super) const SUBJECTS: [&str; 11] = [
    "quota",
    "cap",
    "hold",
    "holds",
    "lease",
    "request",
    "preemption",
    "preemptions",
    "drift",
    "drifts",
    "unheld",
];

/// Fields of a node, resource and class.
const QUOTA: [&str; 13] = [
    "parent",
    "nominal",
    "borrowing",
    "lending",
    "drain",
    "held",
    "committed",
    "leased",
    "pending",
    "unheld",
    "borrowed",
    "state",
    "fits",
];
/// Fields of a spend cap.
const CAP: [&str; 8] =
    ["limit", "spent", "held", "crossed", "exhausted", "enforcement", "notice_seconds", "reviewed_at"];
/// Fields of a hold.
const HOLD: [&str; 6] = ["state", "expires_at", "ended_at", "amount", "cause", "deadline"];
/// Fields of a lease.
const LEASE: [&str; 7] = ["state", "version", "capacity", "safe_capacity", "in_use", "counted", "expires_at"];
/// Fields of a request.
const REQUEST: [&str; 6] = ["status", "wanted", "before", "granted", "approver", "reason"];
/// Fields of an order to stop.
const PREEMPTION: [&str; 4] = ["cause", "reason", "ordered_at", "deadline"];
/// Fields of a difference.
const DRIFT: [&str; 3] = ["kind", "counted", "listed"];

/// What an expectation of quota is about.
#[derive(Debug, Clone)]
pub(super) enum QuotaSubject {
    Quota { node: NodeName, resource: ResourceName, class: Class },
    Cap { tenant: TenantId, project: Option<ProjectId>, period: CapPeriod },
    Hold { name: String },
    Holds { tenant: TenantId },
    Lease { name: String },
    Request { name: String },
    Preemption { of: String },
    Preemptions,
    Drift { instance: InstanceId },
    Drifts,
    Unheld { instance: InstanceId },
}

/// Reads the subject of an expectation, with the fields that it can have.
pub(super) fn subject(
    parser: &Parser,
    words: &mut Words,
    what: &str,
    place: &mut impl FnMut(&str, Word),
) -> Result<(Subject, &'static [&'static str]), Fault> {
    let known = |words: &mut Words| -> Result<String, Fault> {
        let name = words.next("the name")?;
        parser.knows(&name)?;
        Ok(name.text)
    };
    let (subject, fields): (QuotaSubject, &'static [&'static str]) = match what {
        "quota" => {
            let (node, resource, class) = slot(words)?;
            (QuotaSubject::Quota { node, resource, class }, &QUOTA)
        }
        "cap" => {
            let ((tenant, project), period) = (owner(words)?, period(words)?);
            (QuotaSubject::Cap { tenant, project, period }, &CAP)
        }
        "hold" => {
            let name = known(words)?;
            if let Some(state) = words.more() {
                place("state", state);
            }
            (QuotaSubject::Hold { name }, &HOLD)
        }
        "holds" => {
            let tenant = words.value("the tenant")?;
            place("holds", words.next("the number of holds")?);
            (QuotaSubject::Holds { tenant }, &[])
        }
        "lease" => (QuotaSubject::Lease { name: known(words)? }, &LEASE),
        "request" => {
            let name = known(words)?;
            if let Some(status) = words.more() {
                place("status", status);
            }
            (QuotaSubject::Request { name }, &REQUEST)
        }
        "preemption" => {
            (QuotaSubject::Preemption { of: words.next("the instance or hold")?.text }, &PREEMPTION)
        }
        "preemptions" => {
            place("preemptions", words.next("the number of orders")?);
            (QuotaSubject::Preemptions, &[])
        }
        "drift" => (QuotaSubject::Drift { instance: words.value("the instance")? }, &DRIFT),
        "drifts" => {
            place("drifts", words.next("the number of differences")?);
            (QuotaSubject::Drifts, &[])
        }
        _ => {
            let instance = words.value("the instance")?;
            place("unheld", words.next("true or false")?);
            (QuotaSubject::Unheld { instance }, &[])
        }
    };
    Ok((Subject::Quota(subject), fields))
}

impl QuotaSubject {
    /// What there is.
    pub(super) fn candidates(&self, state: &State, names: &Names) -> Vec<Facts> {
        let number = |name: &String| names.get(name).copied().unwrap_or(0);
        match self {
            Self::Quota { node, resource, class } => {
                quotas::quota(state, node, resource, *class).iter().map(scalars).collect()
            }
            Self::Cap { tenant, project, period } => caps(state, tenant, project.as_ref(), *period),
            Self::Hold { name } => holds(state, HoldId(number(name))),
            Self::Holds { tenant } => {
                vec![count("holds", quotas::holds(state, tenant, HoldId(0)).count())]
            }
            Self::Lease { name } => {
                let found = state.tenants().filter_map(|(tenant, _)| {
                    quotas::lease(state, LeaseId(number(name)), tenant).map(|row| scalars(&row))
                });
                found.collect()
            }
            Self::Request { name } => requests(state, RequestId(number(name))),
            Self::Preemption { of } => preemptions(state, of, names),
            Self::Preemptions => vec![count("preemptions", quotas::preemptions(state, None).count())],
            Self::Drift { instance } => {
                let all = state.quotas().reconciled().into_iter().flat_map(|last| &last.drift);
                all.filter(|it| it.instance == *instance).map(scalars).collect()
            }
            Self::Drifts => {
                vec![count("drifts", state.quotas().reconciled().map_or(0, |last| last.drift.len()))]
            }
            Self::Unheld { instance } => {
                let view = state.instance(instance.as_str());
                let unheld = view.and_then(hourglass_ledger::core::InstanceView::unheld);
                // An instance that takes no quota is neither.
                unheld.iter().map(|unheld| facts([("unheld", unheld.to_string())])).collect()
            }
        }
    }
}

fn caps(state: &State, tenant: &TenantId, project: Option<&ProjectId>, period: CapPeriod) -> Vec<Facts> {
    let rows = quotas::caps(state, tenant).into_iter().filter(|row| {
        row.project.as_deref() == project.map(ProjectId::as_str) && row.period == period.as_str()
    });
    rows.map(|row| {
        let mut found = scalars(&row);
        found.insert("crossed".to_owned(), row.crossed.len().to_string());
        found
    })
    .collect()
}

fn holds(state: &State, id: HoldId) -> Vec<Facts> {
    let rows = state.tenants().filter_map(|(tenant, _)| quotas::hold(state, id, tenant));
    rows.map(|row| {
        let mut found = scalars(&row);
        let sum = row.items.iter().fold(0_u64, |sum, item| sum.saturating_add(item.amount));
        found.insert("amount".to_owned(), sum.to_string());
        if let Some(order) = row.preemption {
            found.insert("cause".to_owned(), order.cause);
            found.insert("deadline".to_owned(), order.deadline);
        }
        found
    })
    .collect()
}

fn requests(state: &State, id: RequestId) -> Vec<Facts> {
    let rows = state.tenants().filter_map(|(tenant, _)| quotas::request(state, id, tenant));
    rows.map(|row| {
        let mut found = scalars(&row);
        if let Some(decision) = &row.decision {
            found.extend(scalars(decision));
        }
        found
    })
    .collect()
}

/// The order to stop a hold of that name, or an instance of that id.
fn preemptions(state: &State, of: &str, names: &Names) -> Vec<Facts> {
    let instance = of.parse().ok().map(|id| Target::Instance(market::resolved_id(&id, names)));
    let target = names.get(of).map(|number| Target::Hold(HoldId(*number))).or(instance);
    let order = target.and_then(|target| quotas::preemption_of(state, &target));
    order.iter().map(scalars).collect()
}
