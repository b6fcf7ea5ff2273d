//! What happens in the world, as the seed draws it: who rents what, when it runs, and which agent sees
//! it. All of it lies in the two calendar months before this one, so that both can be invoiced.

use hourglass_units::{Instant, Month};
use serde_json::{Value, json};

use crate::http::{recent, rfc3339};

/// The region of the cell under test.
pub(crate) const REGION: &str = "chaos";
/// Agents cut their reports at multiples of this, so a second of running is a record.
pub(crate) const INTERVAL_MS: i64 = 1_000;

const TENANTS: [(&str, &str); 5] =
    [("acme", "USD"), ("globex", "USD"), ("initech", "EUR"), ("umbrella", "USD"), ("wonka", "EUR")];
const PROJECTS: [&str; 3] = ["training", "inference", "research"];
const PLATFORMS: [&str; 3] = ["gpu-h100-sxm", "gpu-h200-sxm", "gpu-b200"];
const MODELS: [&str; 2] = ["on_demand", "spot"];
const GPUS: [u32; 4] = [1, 2, 4, 8];
/// Every so manieth instance is made known only after its usage arrived.
const LATE_EVERY: usize = 7;
/// Most runs of an instance.
const RUNS_MAX: i64 = 4;
/// How long after its first usage a late instance is made known at most, in thousandths of the run.
const LATE_BY_MAX: u64 = 150;
/// When the last usage appears, in thousandths of the run: the rest is for catching up under faults.
const WAVES_END: u64 = 950;

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) agents: usize,
    pub(crate) instances: usize,
    /// Usage records in all, nearly.
    pub(crate) records: i64,
    /// Times at which new usage appears.
    pub(crate) waves: u64,
    /// How long it takes, in milliseconds.
    pub(crate) duration_ms: u64,
}

/// The schedule.
pub(crate) struct Schedule {
    pub(crate) instances: Vec<Instance>,
    /// In the order in which they are told.
    pub(crate) facts: Vec<Fact>,
    /// The two months, the earlier one first.
    pub(crate) months: [Month; 2],
}

/// An instance and its runs.
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) tenant: &'static str,
    project: &'static str,
    sku: (&'static str, &'static str),
    pub(crate) gpus: u32,
    pub(crate) agent: usize,
    /// Whether only this agent's reports count.
    bound: bool,
    late: bool,
    pub(crate) runs: Vec<Run>,
}

/// One run: `[start, end)`.
pub(crate) struct Run {
    pub(crate) session: u32,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// When the hypervisor tells the agent, in milliseconds since the start of the test.
    pub(crate) seen_at: u64,
}

/// Something that another service tells the cell.
#[derive(Debug)]
pub(crate) struct Fact {
    /// In milliseconds since the start of the test.
    pub(crate) due: u64,
    /// Facts about one instance are told in order; prices and tenants come before everything.
    pub(crate) instance: Option<usize>,
    pub(crate) key: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// The name of an agent.
pub(crate) fn agent_name(number: usize) -> String {
    format!("agent-{number:02}")
}

/// All tenants.
pub(crate) fn tenants() -> impl Iterator<Item = &'static str> {
    TENANTS.into_iter().map(|(tenant, _)| tenant)
}

impl Schedule {
    /// Draws one.
    pub(crate) fn draw(seed: u64, size: &Size) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let this_month = Month::containing(Instant::from_unix_ms(recent()).unwrap());
        let last = before(this_month);
        let months = [before(last), last];
        let mut instances: Vec<Instance> =
            (0..size.instances).map(|number| instance(&mut rng, number, size)).collect();
        for instance in &mut instances {
            instance.runs = runs(&mut rng, months, size);
        }
        let facts = facts(&mut rng, &instances, months, size);
        Self { instances, facts, months }
    }

    /// GPU-milliseconds of an instance, by the plainest arithmetic.
    pub(crate) fn milliseconds(instance: &Instance) -> i64 {
        instance.runs.iter().map(|run| run.end - run.start).sum()
    }
}

fn before(month: Month) -> Month {
    Month::containing(month.start().saturating_add_ms(-1))
}

fn instance(rng: &mut fastrand::Rng, number: usize, size: &Size) -> Instance {
    Instance {
        id: format!("i-{number:04}"),
        tenant: TENANTS[rng.usize(..TENANTS.len())].0,
        project: PROJECTS[rng.usize(..PROJECTS.len())],
        sku: (PLATFORMS[rng.usize(..PLATFORMS.len())], MODELS[rng.usize(..MODELS.len())]),
        gpus: GPUS[rng.usize(..GPUS.len())],
        agent: number % size.agents,
        bound: rng.bool(),
        late: number % LATE_EVERY == LATE_EVERY - 1,
        runs: Vec::new(),
    }
}

/// Runs with time between them. Each lies in a part of the two months of its own; one that lies in the
/// middle often runs over the end of a month.
fn runs(rng: &mut fastrand::Rng, months: [Month; 2], size: &Size) -> Vec<Run> {
    let (start, end) = (months[0].start().unix_ms(), months[1].end().unix_ms());
    let count = rng.i64(1..=RUNS_MAX);
    let part = (end - start) / count;
    let mean = 2 * size.records * INTERVAL_MS / (i64::try_from(size.instances).unwrap() * (RUNS_MAX + 1));
    (0..count)
        .map(|number| {
            let from = start + number * part;
            let length = rng.i64(mean / 2..=mean * 3 / 2).min(part - 2);
            let boundary = months[0].end().unix_ms();
            let begin = if (from + length..from + part - length).contains(&boundary) && rng.bool() {
                boundary - rng.i64(1..length)
            } else {
                from + rng.i64(1..part - length)
            };
            let wave = rng.u64(..size.waves);
            let seen_at = size.duration_ms * WAVES_END / 1_000 * wave / size.waves;
            let session = u32::try_from(number + 1).unwrap();
            Run { session, start: begin, end: begin + length, seen_at }
        })
        .collect()
}

fn facts(rng: &mut fastrand::Rng, instances: &[Instance], months: [Month; 2], size: &Size) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut tell = |due: u64, instance: Option<usize>, key: String, path: String, body: Value| {
        facts.push(Fact { due, instance, key, path, body });
    };
    for currency in ["USD", "EUR"] {
        let body = card(currency, instances, months);
        tell(0, None, format!("card {currency}").replace(' ', "-"), "/v1/rate-cards".to_owned(), body);
    }
    for (tenant, currency) in TENANTS {
        let body = json!({"tenant": tenant, "currency": currency, "display_name": tenant});
        tell(0, None, format!("open-{tenant}"), "/v1/tenants".to_owned(), body);
    }
    if let Some((tenant, body)) = contract(instances) {
        tell(0, None, "contract".to_owned(), format!("/v1/tenants/{tenant}/contracts"), body);
    }
    for (number, it) in instances.iter().enumerate() {
        let first_seen = it.runs.iter().map(|run| run.seen_at).min().unwrap_or(0);
        let late_by = size.duration_ms * rng.u64(LATE_BY_MAX / 3..LATE_BY_MAX) / 1_000;
        let mut due = if it.late { first_seen + late_by } else { first_seen / 2 };
        let path = format!("/v1/tenants/{}/instances", it.tenant);
        let mut body = json!({
            "instance": it.id, "project": it.project, "platform": it.sku.0, "model": it.sku.1, "gpus": it.gpus,
        });
        if it.bound {
            body["agent"] = json!(agent_name(it.agent));
        }
        tell(due, Some(number), format!("register-{}", it.id), path.clone(), body);
        for run in &it.runs {
            // A start may be learnt before its usage or after it, and so may a stop.
            due = due.max(rng.u64(run.seen_at / 2..=run.seen_at + late_by));
            let name = |what: &str| format!("{what}-{}-{}", it.id, run.session);
            tell(
                due,
                Some(number),
                name("start"),
                format!("{path}/{}:start", it.id),
                json!({"at": rfc3339(run.start)}),
            );
            due += rng.u64(..=late_by);
            let stop = json!({"at": rfc3339(run.end), "cause": "as drawn"});
            tell(due, Some(number), name("stop"), format!("{path}/{}:stop", it.id), stop);
        }
    }
    facts.sort_by_key(|fact| fact.due);
    facts
}

/// A card that prices every SKU; each price changes in the middle of somebody's run.
fn card(currency: &str, instances: &[Instance], months: [Month; 2]) -> Value {
    let mut prices = Vec::new();
    for (number, platform) in PLATFORMS.into_iter().enumerate() {
        for (second, model) in MODELS.into_iter().enumerate() {
            let cents = 200 + 100 * number - 80 * second;
            let price = |step: usize| {
                json!({"platform": platform, "region": REGION, "model": model,
                    "price": format!("{}.{:02}3", (cents + step) / 100, (cents + step) % 100)})
            };
            let (mut first, mut then) = (price(0), price(37));
            let ran = instances.iter().filter(|it| it.sku == (platform, model));
            let Some(run) = ran.flat_map(|it| &it.runs).next() else {
                prices.push(first);
                continue;
            };
            let change = rfc3339(i64::midpoint(run.start, run.end));
            first["until"] = json!(change);
            then["from"] = json!(change);
            prices.extend([first, then]);
        }
    }
    json!({
        "name": format!("list-{}", currency.to_lowercase()), "version": 1, "currency": currency,
        "effective_from": rfc3339(months[0].start().unix_ms()), "prices": prices,
    })
}

/// One tenant has its own price from the middle of one of its runs on.
fn contract(instances: &[Instance]) -> Option<(&'static str, Value)> {
    let it = instances.iter().find(|it| it.tenant == "acme")?;
    let run = it.runs.first()?;
    let prices = json!([{"platform": it.sku.0, "region": REGION, "model": it.sku.1, "price": "1.111111111"}]);
    let from = rfc3339(i64::midpoint(run.start, run.end) + 1);
    Some((it.tenant, json!({"name": "acme-own", "version": 1, "effective_from": from, "prices": prices})))
}
