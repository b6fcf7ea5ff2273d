//! The same files in other ways: through HTTP, where each step goes to its route; with another clock;
//! with other reports of the same usage. The end is the same.

use std::path::PathBuf;
use std::sync::Arc;

use hourglass_capacity::calendar::Allowance;
use hourglass_capacity::nodes::{Node, NodeState};
use hourglass_capacity::supply::Offer;
use hourglass_consumers::api::{ApiConfig, serve_http};
use hourglass_consumers::billing::{market, quotas};
use hourglass_ledger::cell::{Cell, CellHandle};
use hourglass_ledger::core::market::{MarketCommand, SupplyCommand};
use hourglass_ledger::core::quotas::QuotaCommand;
use hourglass_ledger::core::{Command, State};
use hourglass_quota::cap::{CapDraft, CapPeriod};
use hourglass_quota::{Class, HoldId, LeaseId, NodeName, RequestId};
use hourglass_units::{InstanceId, Instant, Interval, ProjectId, ReservationId, ResourceName, TenantId};
use serde_json::{Value, json};

use super::Scenario;
use super::parse::parse;
use super::run::{Direct, Door, Played, Refusal, RunError, VirtualClock, play};
use crate::wire;

/// A request that stands for a command.
struct Asked {
    method: &'static str,
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
}

/// The request of a command. `None` where it needs none: the server opens the cell itself, and its own
/// clock ticks.
fn request(
    command: &Command,
    tenant_of: impl Fn(&InstanceId) -> String,
    owner_of: impl Fn(Numbered) -> String,
) -> Option<Asked> {
    let instance_path = |instance: &InstanceId, action: &str| {
        format!("/v1/tenants/{}/instances/{instance}:{action}", tenant_of(instance))
    };
    let (path, body) = match command {
        Command::AcceptUsage(batch) => {
            let (path, content_type) = ("/v1/usage:ingest".to_owned(), "application/x-protobuf");
            return Some(Asked { method: "POST", path, content_type, body: batch.raw().to_vec() });
        }
        Command::RegisterInstance(registration) => {
            let mut body = json!(registration);
            body.as_object_mut()?.remove("tenant");
            (format!("/v1/tenants/{}/instances", registration.tenant), body)
        }
        Command::StartInstance { instance, at } => (instance_path(instance, "start"), json!({"at": at})),
        Command::StopInstance { instance, at, cause } => {
            (instance_path(instance, "stop"), json!({"at": at, "cause": cause}))
        }
        Command::ChangeMode { instance, mode, at } => {
            let mut body = json!(mode);
            body.as_object_mut()?.insert("at".to_owned(), json!(at));
            (instance_path(instance, "change-mode"), body)
        }
        Command::VoidUsage { instance, from, until, reason } => {
            let body = json!({"from": from, "until": until, "reason": reason});
            (instance_path(instance, "void-usage"), body)
        }
        Command::OpenCell { .. }
        | Command::Tick
        | Command::QuarantineUsage { .. }
        | Command::CreateKey(_)
        | Command::RevokeKey { .. }
        | Command::Webhook(_) => return None,
        Command::Quota(command) => return of_quota(command, owner_of),
        Command::Market(command) => return of_market(command),
        command => of_tenant_or_list(command)?,
    };
    Some(in_json("POST", path, &body))
}

fn in_json(method: &'static str, path: String, body: &Value) -> Asked {
    Asked { method, path, content_type: "application/json", body: body.to_string().into_bytes() }
}

/// What a number names, whose it is to be found out.
enum Numbered {
    Hold(HoldId),
    Lease(LeaseId),
    Request(RequestId),
}

/// Requests about quota.
fn of_quota(command: &QuotaCommand, owner_of: impl Fn(Numbered) -> String) -> Option<Asked> {
    let slot = |node: &NodeName, resource: &ResourceName, class: Class, more: Value| {
        let mut body = json!({"node": node, "resource": resource, "class": class});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let hold = |hold: &HoldId, action: &str| {
        format!("/v1/tenants/{}/holds/{hold}:{action}", owner_of(Numbered::Hold(*hold)))
    };
    let lease = |lease: &LeaseId, action: &str| {
        format!("/v1/tenants/{}/leases/{lease}:{action}", owner_of(Numbered::Lease(*lease)))
    };
    let nothing = json!({});
    let (path, body) = match command {
        QuotaCommand::CreateGroup { tenant, group, parent } => {
            (format!("/v1/tenants/{tenant}/groups"), json!({"group": group, "parent": parent}))
        }
        QuotaCommand::PlaceProject { tenant, project, group } => {
            (format!("/v1/tenants/{tenant}/projects/{project}:place"), json!({"group": group}))
        }
        QuotaCommand::SetLimits { node, resource, class, limits } => {
            let path = format!("/v1/tenants/{}/quotas:set", node.tenant());
            (path, slot(node, resource, *class, json!({"limits": limits})))
        }
        QuotaCommand::SetCap { tenant, project, period, cap } => {
            return Some(of_cap(tenant, project.as_ref(), *period, cap.as_ref()));
        }
        QuotaCommand::Reserve { tenant, project, items, ttl_ms } => {
            let body = json!({"project": project, "items": items, "ttl_seconds": ttl_ms / 1_000});
            (format!("/v1/tenants/{tenant}/holds"), body)
        }
        QuotaCommand::Commit { hold: id } => (hold(id, "commit"), nothing),
        QuotaCommand::Release { hold: id } => (hold(id, "release"), nothing),
        QuotaCommand::Renew { hold: id, ttl_ms } => {
            (hold(id, "renew"), json!({"ttl_seconds": ttl_ms / 1_000}))
        }
        QuotaCommand::Resize { hold: id, items } => (hold(id, "resize"), json!({"items": items})),
        QuotaCommand::AcquireLease { node, resource, class, holder, wants, safe_capacity } => {
            let more = json!({"holder": holder, "wants": wants, "safe_capacity": safe_capacity});
            (format!("/v1/tenants/{}/leases", node.tenant()), slot(node, resource, *class, more))
        }
        QuotaCommand::RefreshLease { lease: id, wants, known_version, in_use } => {
            let body = json!({"wants": wants, "known_version": known_version, "in_use": in_use});
            (lease(id, "refresh"), body)
        }
        QuotaCommand::ReturnLease { lease: id } => (lease(id, "return"), nothing),
        QuotaCommand::RequestIncrease { node, resource, class, wanted, justification, .. } => {
            let more = json!({"wanted": wanted, "justification": justification});
            (format!("/v1/tenants/{}/quota-requests", node.tenant()), slot(node, resource, *class, more))
        }
        QuotaCommand::DecideRequest { request, granted, reason, .. } => {
            let tenant = owner_of(Numbered::Request(*request));
            let path = format!("/v1/tenants/{tenant}/quota-requests/{request}:decide");
            (path, json!({"granted": granted, "reason": reason}))
        }
        QuotaCommand::SetRules { rules } => {
            return Some(in_json("PUT", "/v1/quotas/rules".to_owned(), &json!({"rules": rules})));
        }
        QuotaCommand::Reconcile { listed_at, instances } => {
            let body = json!({"listed_at": listed_at, "instances": instances});
            ("/v1/quotas:reconcile".to_owned(), body)
        }
        // The server's own clock reviews, and no step of a scenario sets a budget.
        QuotaCommand::Review | QuotaCommand::SetBudget { .. } => return None,
    };
    Some(in_json("POST", path, &body))
}

/// Requests about the market.
fn of_market(command: &MarketCommand) -> Option<Asked> {
    let (path, body) = match command {
        MarketCommand::SetPool { pool, terms } => {
            let path = format!("/v1/pools/{}/{}", pool.platform, pool.fabric);
            return Some(in_json("PUT", path, &json!(market::PoolTermsRow::from(terms.clone()))));
        }
        MarketCommand::SetMargin { margin } => {
            return Some(in_json("PUT", "/v1/market/margin".to_owned(), &json!({"margin": margin})));
        }
        MarketCommand::PlaceBid { tenant, bid } => {
            let mut body = json!(bid);
            let fields = body.as_object_mut()?;
            fields.remove("notice_ms");
            fields.insert("notice_seconds".to_owned(), json!(bid.notice_ms.map(|ms| ms / 1_000)));
            (format!("/v1/tenants/{tenant}/bids"), body)
        }
        MarketCommand::UpdateBid { tenant, bid, change } => {
            (format!("/v1/tenants/{tenant}/bids/{bid}:update"), json!(change))
        }
        MarketCommand::CancelBid { tenant, bid } => {
            (format!("/v1/tenants/{tenant}/bids/{bid}:cancel"), json!({}))
        }
        MarketCommand::Supply(command) => return of_supply(command),
        MarketCommand::Suspend { tenant, reason } => {
            (format!("/v1/tenants/{tenant}:suspend"), json!({ "reason": reason }))
        }
        MarketCommand::Resume { tenant } => (format!("/v1/tenants/{tenant}:resume"), json!({})),
        MarketCommand::Clear { .. } => ("/v1/market:clear".to_owned(), json!({})),
        MarketCommand::Report { .. } | MarketCommand::List { .. } => return None,
    };
    Some(in_json("POST", path, &body))
}

/// Requests about nodes, and about what is lent and assigned of reservations.
fn of_supply(command: &SupplyCommand) -> Option<Asked> {
    let of = |tenant: &TenantId, reservation: &ReservationId, action: &str, body: Value| {
        let path = format!("/v1/tenants/{tenant}/reservations/{reservation}:{action}");
        Some(in_json("POST", path, &body))
    };
    let times = |interval: Interval| (interval.start(), interval.end());
    match command {
        // What the driver reads is no request.
        SupplyCommand::ReadCapacity { .. } => None,
        SupplyCommand::SetNode { pool, node, to } => {
            let path = format!("/v1/pools/{}/{}/nodes/{node}", pool.platform, pool.fabric);
            let Node { gpus, state } = (*to)?;
            let (state, window) = match state {
                NodeState::Healthy => ("healthy", None),
                NodeState::Cordoned => ("cordoned", None),
                NodeState::Failed => ("failed", None),
                NodeState::Maintenance(window) => ("maintenance", Some(times(window))),
            };
            let (from, until) = window.unzip();
            let body = json!({"gpus": gpus, "state": state, "from": from, "until": until});
            Some(in_json("PUT", path, &body))
        }
        SupplyCommand::Lend { tenant, reservation, offer: None } => {
            of(tenant, reservation, "withdraw", json!({}))
        }
        SupplyCommand::Lend { tenant, reservation, offer: Some(offer) } => {
            let at_most = match offer {
                Offer::Automatic => None,
                Offer::AtMost(gpus) => Some(gpus),
            };
            of(tenant, reservation, "lend", json!({ "at_most": at_most }))
        }
        SupplyCommand::Claim { tenant, reservation, claim } => {
            let (from, until) = times(claim.interval);
            of(tenant, reservation, "claim", json!({"gpus": claim.gpus, "from": from, "until": until}))
        }
        SupplyCommand::Assign { tenant, reservation, allowances } => {
            let row = |it: &Allowance| {
                let (from, until) = times(it.interval);
                json!({"project": it.project, "gpus": it.gpus, "from": from, "until": until})
            };
            let rows: Vec<Value> = allowances.iter().map(row).collect();
            of(tenant, reservation, "assign", json!({ "allowances": rows }))
        }
    }
}

fn of_cap(
    tenant: &TenantId,
    project: Option<&ProjectId>,
    period: CapPeriod,
    cap: Option<&CapDraft>,
) -> Asked {
    let path = format!("/v1/tenants/{tenant}/spend-caps");
    let Some(cap) = cap else {
        let of = project.map(|project| format!("&project={project}")).unwrap_or_default();
        let path = format!("{path}?period={}{of}", period.as_str());
        return Asked { method: "DELETE", path, content_type: "application/json", body: Vec::new() };
    };
    let currency = cap.amount.map(|_| "USD");
    let body = json!({"project": project, "period": period, "amount": cap.amount, "currency": currency,
        "enforcement": cap.enforcement, "thresholds": cap.thresholds, "notice_seconds": cap.notice_ms / 1_000});
    in_json("PUT", path, &body)
}

/// Requests about prices, and about what a tenant has.
fn of_tenant_or_list(command: &Command) -> Option<(String, Value)> {
    let (tenant, collection, body) = match command {
        Command::OpenTenant { tenant, currency, display_name } => {
            let body = json!({"tenant": tenant, "currency": currency, "display_name": display_name});
            return Some(("/v1/tenants".to_owned(), body));
        }
        Command::ClosePeriod { month } => {
            return Some((format!("/v1/periods/{month}:close"), json!({})));
        }
        Command::PublishRateCard(card) => return Some(("/v1/rate-cards".to_owned(), json!(card))),
        Command::Rerate(draft) => return Some(("/v1/rerates".to_owned(), json!(draft))),
        Command::SetSpotPrice { platform, currency, price, fabric, from } => {
            let body = json!({
                "platform": platform, "currency": currency, "price": price, "fabric": fabric, "from": from,
            });
            return Some(("/v1/spot-prices".to_owned(), body));
        }
        Command::SignContract { tenant, contract } => (tenant, "contracts".to_owned(), json!(contract)),
        Command::Reserve { tenant, reservation } => (tenant, "reservations".to_owned(), json!(reservation)),
        Command::AmendReservation { tenant, reservation, until } => {
            (tenant, format!("reservations/{reservation}:amend"), json!({"until": until}))
        }
        Command::GrantCredit { tenant, credit } => (tenant, "credits".to_owned(), json!(credit)),
        Command::SetTax { tenant, tax } => (tenant, "tax".to_owned(), json!({"tax": tax})),
        Command::FinaliseInvoice { tenant, period } => {
            (tenant, "invoices".to_owned(), json!({"period": period}))
        }
        Command::RecordPayment { tenant, number, amount, reference } => {
            let body = json!({"amount": amount, "reference": reference});
            (tenant, format!("invoices/{number}:pay"), body)
        }
        Command::VoidInvoice { tenant, number, reason } => {
            (tenant, format!("invoices/{number}:void"), json!({"reason": reason}))
        }
        Command::IssueCreditNote { tenant } => (tenant, "credit-notes".to_owned(), json!({})),
        _ => return None,
    };
    Some((format!("/v1/tenants/{tenant}/{collection}"), body))
}

/// Whose a hold, a lease or a request is.
fn owner(state: &State, numbered: &Numbered) -> Option<String> {
    let mut tenants = state.tenants().map(|(tenant, _)| tenant);
    let found = tenants.find(|tenant| match numbered {
        Numbered::Hold(id) => quotas::hold(state, *id, tenant).is_some(),
        Numbered::Lease(id) => quotas::lease(state, *id, tenant).is_some(),
        Numbered::Request(id) => quotas::request(state, *id, tenant).is_some(),
    });
    found.map(ToString::to_string)
}

/// What is nobody's is asked for at anybody's path: it is unknown there too.
fn anybody(cell: &CellHandle) -> String {
    let first = cell.read_blocking(|state| state.tenants().next().map(|(tenant, _)| tenant.to_string()));
    first.unwrap().unwrap_or_else(|| "nobody".to_owned())
}

/// Through a server.
struct Http {
    cell: CellHandle,
    direct: Direct,
    agent: ureq::Agent,
    url: String,
}

impl Door for Http {
    fn submit(&mut self, at: Instant, command: Command) -> Result<Result<Option<u64>, Refusal>, RunError> {
        let tenant_of = |instance: &InstanceId| {
            let id = instance.clone();
            let tenant = self
                .cell
                .read_blocking(move |state| state.instance(id.as_str()).map(|it| it.tenant().to_string()));
            tenant.unwrap().unwrap_or_else(|| "nobody".to_owned())
        };
        let owner_of = |numbered: Numbered| {
            let owner = self.cell.read_blocking(move |state| owner(state, &numbered)).unwrap();
            owner.unwrap_or_else(|| anybody(&self.cell))
        };
        let Some(Asked { method, path, content_type, body }) = request(&command, tenant_of, owner_of) else {
            let review = Command::from(QuotaCommand::Review);
            let needs_none = matches!(command, Command::OpenCell { .. } | Command::Tick) || command == review;
            assert!(needs_none, "there is no request for {command:?}");
            return self.direct.submit(at, command);
        };
        let wrong = |error: ureq::Error| RunError::Door(format!("{path}: {error}"));
        let url = format!("{}{path}", self.url);
        let request = match method {
            "PUT" => self.agent.put(url),
            "DELETE" => self.agent.delete(url).force_send_body(),
            _ => self.agent.post(url),
        };
        let mut answer = request.header("content-type", content_type).send(&body).map_err(wrong)?;
        if answer.status().is_success() {
            let answer: Value = answer.body_mut().read_json().unwrap_or_default();
            let number =
                ["hold", "lease", "request", "number"].into_iter().find_map(|name| answer[name].as_u64());
            return Ok(Ok(number));
        }
        let problem: Value = answer.body_mut().read_json().map_err(wrong)?;
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        Ok(Err(Refusal { code: text("code"), message: text("detail") }))
    }
}

/// Plays a scenario, by HTTP or straight, and answers with the digest of the end, and of all quota.
fn end_of(scenario: &Scenario, by_http: bool) -> (Played, String, Value) {
    let ledger = tempfile::tempdir().unwrap();
    let clock = Arc::new(VirtualClock::default());
    let cell: Cell = wire::start_scratch_cell(ledger.path(), clock.clone()).unwrap();
    let handle = cell.handle();
    let played = if by_http {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = serve_http(listener, handle.clone(), ApiConfig::default(), std::future::pending());
        runtime.spawn(served);
        // A connection a request: one that the server closes meanwhile would fail the next on it.
        let agent = ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0);
        let agent = agent.build().new_agent();
        let mut door = Http { cell: handle.clone(), direct: Direct(handle.clone()), agent, url };
        let played = play(scenario, &handle, &clock, &mut door);
        runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        played
    } else {
        play(scenario, &handle, &clock, &mut Direct(handle.clone()))
    };
    let digest = handle.read_blocking(|state| hourglass_ledger::core::digest(state).unwrap()).unwrap();
    let quota = handle.read_blocking(quota_of).unwrap();
    cell.close();
    (played.unwrap(), digest.to_hex().to_string(), quota)
}

/// All that is shown of quota and of the market.
fn quota_of(state: &State) -> Value {
    let filter = quotas::QuotaFilter::default();
    let of = |tenant: &TenantId| {
        let rows: Vec<_> = quotas::quotas(state, tenant, &filter, None).map(|(_, row)| row).collect();
        let holds: Vec<_> = quotas::holds(state, tenant, HoldId(0)).collect();
        let leases: Vec<_> = quotas::leases(state, tenant, LeaseId(0)).collect();
        let (groups, caps) = (quotas::groups(state, tenant), quotas::caps(state, tenant));
        let bids: Vec<_> = market::bids(state, tenant).collect();
        json!({"bids": bids, "rows": rows, "holds": holds, "leases": leases, "groups": groups, "caps": caps})
    };
    let requests: Vec<_> = quotas::requests(state, None, None, RequestId(0)).collect();
    let preemptions: Vec<_> = quotas::preemptions(state, None).collect();
    json!({
        "tenants": state.tenants().map(|(tenant, _)| of(tenant)).collect::<Vec<_>>(), "requests": requests,
        "pools": market::pools(state).collect::<Vec<_>>(), "margin": state.market().margin(),
        "preemptions": preemptions, "drift": quotas::drift(state), "rules": state.quotas().rules(),
    })
}

/// Every file of `tests/scenarios`, with its name.
pub(super) fn files() -> Vec<(String, String)> {
    let folder = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/scenarios");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<(String, String)> = paths
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn each_file_comes_to_the_same_end_through_http() {
    for (name, text) in files() {
        let scenario = parse(&text).unwrap();
        let (straight, expected, expected_quota) = end_of(&scenario, false);
        let (played, digest, quota) = end_of(&scenario, true);
        let failed = |played: &Played| played.failed.iter().map(|it| it.line).collect::<Vec<_>>();
        assert_eq!(failed(&played), failed(&straight), "{name}");
        assert_eq!((played.met, digest), (straight.met, expected), "{name}");
        assert_eq!(quota, expected_quota, "{name}");
    }
}

/// M-1: the end does not depend on how often the clock ticks, nor on how the reports are cut and
/// repeated. What is expected on the way may.
#[test]
fn m1_ticks_and_cuts_of_reports_do_not_matter() {
    let often = |text: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        let first = lines.iter().position(|line| !line.starts_with('#')).unwrap();
        lines.insert(first + 1, "tick every 20m");
        lines.join("\n")
    };
    let finely = |text: &str| {
        let twice = |line: &str| match line.split_whitespace().any(|word| word == "use") {
            true if !line.contains("every=") && !line.starts_with('#') => {
                format!("{line} every=7m\n{}", untimed(line))
            }
            _ => line.to_owned(),
        };
        text.lines().map(twice).collect::<Vec<_>>().join("\n")
    };
    let mut different = Vec::new();
    for (name, text) in files() {
        let end = |text: &str| end_of(&parse(text).unwrap(), false).1;
        let expected = end(&text);
        for (how, changed) in [("ticks", often(&text)), ("cuts", finely(&text))] {
            if end(&changed) != expected {
                different.push(format!("{name} by {how}"));
            }
        }
    }
    assert_eq!(different, Vec::<String>::new());
}

/// The step without its time: it happens at the time of the step above it.
fn untimed(line: &str) -> &str {
    line.find("use ").and_then(|at| line.get(at..)).unwrap_or(line)
}
