//! Requests for more, and the rules that answer them.

use std::path::PathBuf;

use hourglass_consumers::billing::quotas::{RequestRow, request, requests};
use hourglass_ledger::core::State;
use hourglass_ledger::core::quotas::{QuotaCommand, QuotaRejection};
use hourglass_quota::request::RequestStatus;
use hourglass_quota::{Bound, Class, NodeName, RequestId};
use hourglass_units::{ResourceName, TenantId};
use serde_json::{Value, json};

use super::Where;
use super::act::{Act, Method, number, text};
use crate::commands::{read_draft, rows_of, tenant_of};
use crate::failure::Failure;
use crate::output::{answer, log_progress, table};
use crate::wire;

/// Who asks and decides on the data directory: whoever can write there.
const PERSON: &str = "command line";

#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    /// tenants/T, tenants/T/groups/G or tenants/T/projects/P
    node: NodeName,
    /// What is counted, such as compute.instance.gpu.h100
    resource: ResourceName,
    /// The nominal limit that is wanted: a whole number, or unlimited
    wanted: Bound,
    /// How it is sold: on_demand, preemptible or reserved
    #[arg(long, default_value_t = Class::OnDemand)]
    class: Class,
    /// What for
    #[arg(long, value_name = "TEXT")]
    why: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Whose [default: of all tenants]
    tenant: Option<TenantId>,
    /// Those that wait for a decision alone
    #[arg(long)]
    open: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Decide {
    /// Whose
    tenant: TenantId,
    /// Its number
    request: RequestId,
    /// Grant this nominal limit: a whole number, or unlimited
    #[arg(long, value_name = "LIMIT", required_unless_present = "deny", conflicts_with = "deny")]
    grant: Option<Bound>,
    /// Deny it
    #[arg(long)]
    deny: bool,
    /// Why, for whoever asked
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Rules {
    /// The rules that hold
    Show,
    /// Set the rules, from a file in TOML or JSON
    Set {
        /// The file
        file: PathBuf,
    },
    /// Let every request wait for a person
    Clear,
}

pub(super) fn ask(args: Ask, at: Where<'_>) -> Result<(), Failure> {
    let Ask { node, resource, wanted, class, why } = args;
    let tenant = node.tenant().clone();
    let path = format!("/v1/tenants/{tenant}/quota-requests");
    let body = json!({"node": node, "resource": resource, "class": class, "wanted": wanted,
        "justification": why});
    let requested_by = PERSON.to_owned();
    let command =
        QuotaCommand::RequestIncrease { node, resource, class, wanted, justification: why, requested_by };
    let act = Act { command, method: Method::Post, resource: path.clone(), path, body, tenant: Some(tenant) };
    act.run(at.server, at.settings, at.format, |done| {
        let request = number(done, "request");
        match text(done, "status") {
            "approved" => {
                format!("request {request} is approved by rules: {wanted} is the limit from now on")
            }
            _ => format!("request {request} waits for a person"),
        }
    })
}

pub(super) fn list(args: &List, at: Where<'_>) -> Result<(), Failure> {
    let status = args.open.then_some(RequestStatus::Pending);
    let rows: Vec<RequestRow> = match at.server.client()? {
        Some(client) => {
            let path = match &args.tenant {
                Some(tenant) => format!("/v1/tenants/{tenant}/quota-requests"),
                None => "/v1/quota-requests".to_owned(),
            };
            let filter = status.map(|status| format!("?status={}", status.as_str())).unwrap_or_default();
            rows_of(&client, &format!("{path}{filter}"))?
        }
        None => {
            let (_reader, loaded) = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
            args.tenant.iter().try_for_each(|tenant| tenant_of(&loaded.state, tenant).map(|_| ()))?;
            requests(&loaded.state, args.tenant.as_ref(), status, RequestId(0)).collect()
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let before = it.before.map_or_else(|| "-".to_owned(), |bound| bound.to_string());
            let decision = it.decision.as_ref();
            let granted = decision.and_then(|it| it.granted).map(|it| it.to_string()).unwrap_or_default();
            let by = decision.map(|it| it.approver.clone()).unwrap_or_default();
            let names = [it.request.to_string(), it.node.clone(), it.resource.clone(), it.class.clone()];
            let limits = [before, it.wanted.to_string(), granted];
            let rest = [it.status.clone(), it.requested_by.clone(), by, it.justification.clone()];
            names.into_iter().chain(limits).chain(rest).collect()
        });
        let head = [
            "request",
            "node",
            "resource",
            "class",
            "before",
            "wanted",
            "granted",
            "status",
            "by",
            "decided by",
            "why",
        ];
        table(&head, &[0, 4, 5, 6], cells)
    })
}

pub(super) fn decide(args: Decide, at: Where<'_>) -> Result<(), Failure> {
    let Decide { tenant, request: id, grant, deny: _, reason } = args;
    let says = match grant {
        Some(limit) => format!("request {id} is approved: {limit} is the limit from now on"),
        None => format!("request {id} is denied"),
    };
    let resource = format!("/v1/tenants/{tenant}/quota-requests/{id}");
    let of = tenant.clone();
    let act = Act {
        method: Method::Post,
        path: format!("{resource}:decide"),
        body: json!({"granted": grant, "reason": reason}),
        tenant: Some(tenant),
        resource,
        command: QuotaCommand::DecideRequest {
            request: id,
            granted: grant,
            approver: PERSON.to_owned(),
            reason,
        },
    };
    let its_own = move |state: &State| {
        tenant_of(state, &of)?;
        let unknown = || Failure::Rejected(QuotaRejection::RequestUnknown { request: id }.to_string());
        request(state, id, &of).map(|_| ()).ok_or_else(unknown)
    };
    act.run_on(at.server, at.settings, at.format, its_own, |_| says)
}

pub(super) fn rules(action: Rules, at: Where<'_>) -> Result<(), Failure> {
    const PATH: &str = "/v1/quotas/rules";
    let rules = match action {
        Rules::Show => {
            let rules = match at.server.client()? {
                Some(client) => client.get(PATH)?.get("rules").cloned().unwrap_or(Value::Null),
                None => {
                    let read = wire::read_ledger(at.settings, log_progress("reading the ledger"))?;
                    json!(read.1.state.quotas().rules())
                }
            };
            return answer(at.format, &rules, |rules| match rules {
                Value::Null => "every request waits for a person".to_owned(),
                // What was read from JSON has no value that JSON lacks.
                rules => serde_json::to_string_pretty(rules).unwrap_or_default(),
            });
        }
        Rules::Set { file } => Some(read_draft(&file)?),
        Rules::Clear => None,
    };
    let says = match &rules {
        Some(_) => "requests are answered by these rules from now on",
        None => "every request waits for a person",
    };
    let act = Act {
        body: json!({"rules": rules}),
        command: QuotaCommand::SetRules { rules },
        method: Method::Put,
        path: PATH.to_owned(),
        tenant: None,
        resource: PATH.to_owned(),
    };
    act.run(at.server, at.settings, at.format, |_| says.to_owned())
}
