//! What came out, beside what had to.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::cast::Cast;
use super::client::Client;
use super::schedule::{Schedule, tenants};

/// GPU-milliseconds by instance.
type ByInstance = BTreeMap<String, i64>;

/// The counts, and everything that is not as it must be.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// GPU-milliseconds of the schedule.
    pub(crate) scheduled: i64,
    /// Scheduled, and not billed.
    pub(crate) lost: i64,
    /// Known to the cell, and not scheduled.
    pub(crate) duplicated: i64,
    /// Billed beyond what was scheduled.
    pub(crate) double_billed: i64,
    pub(crate) usage_records: i64,
    pub(crate) wrong: Vec<String>,
}

impl Verdict {
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    /// Looks at the running cell: where every millisecond is, by its own account and by its rows.
    pub(crate) fn look(&mut self, schedule: &Schedule, cast: &Cast, client: &Client) {
        let rows = cast.sql("SELECT instance, sum(milliseconds * gpus) FROM charges GROUP BY instance");
        let billed: ByInstance =
            rows.into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect();
        for it in &schedule.instances {
            let gpus = i64::from(it.gpus);
            let scheduled = Schedule::milliseconds(it) * gpus;
            let billed = billed.get(&it.id).copied().unwrap_or(0);
            let known = client.get(&format!("/v1/tenants/{}/instances/{}", it.tenant, it.id));
            let reported = spans(&known["reported"]);
            let length: i64 = reported.iter().map(|(start, end)| end - start).sum();
            let within: i64 = it
                .runs
                .iter()
                .flat_map(|run| reported.iter().map(|(start, end)| run.end.min(*end) - run.start.max(*start)))
                .filter(|common| *common > 0)
                .sum();
            self.scheduled += scheduled;
            self.lost += (scheduled - billed).max(scheduled - within * gpus).max(0);
            self.duplicated += (length - within) * gpus;
            self.double_billed += (billed - scheduled).max(0);
        }
        let (lost, duplicated, double) = (self.lost, self.duplicated, self.double_billed);
        self.expect(lost == 0, || format!("{lost} GPU-ms are lost"));
        self.expect(duplicated == 0, || format!("{duplicated} GPU-ms are duplicated"));
        self.expect(double == 0, || format!("{double} GPU-ms are billed twice"));
        for tenant in tenants() {
            let metering = client.get(&format!("/v1/tenants/{tenant}/metering"));
            let of_tenant = schedule.instances.iter().filter(|it| it.tenant == tenant);
            let scheduled: i64 = of_tenant.map(Schedule::milliseconds).sum();
            let is_all = metering["billed_ms"] == scheduled && metering["measured_ms"] == scheduled;
            let nothing_else = metering["suspense_ms"] == 0 && metering["unreported_ms"] == 0;
            self.expect(is_all && nothing_else && metering["balances"] == true, || {
                format!("{tenant} has {scheduled} ms scheduled and {metering}")
            });
        }
    }

    /// Looks at the ledger after everyone has ended.
    pub(crate) fn look_at_ledger(
        &mut self,
        cast: &Cast,
        calm: Option<&str>,
        poison: &BTreeMap<&'static str, i64>,
    ) {
        let digest = cast.hourglass(&["--json", "ledger", "digest"]).json();
        if let Some(calm) = calm {
            self.expect(digest["digest"] == calm, || format!("the digest is {digest}; calmly it is {calm}"));
        }
        let report = cast.hourglass(&["--json", "verify"]);
        let report: Value = serde_json::from_str(&report.stdout).unwrap_or(Value::String(report.stderr));
        self.usage_records = report["usage_records"].as_i64().unwrap_or(0);
        self.expect(report["finding_count"] == 0, || format!("verify: {report}"));
        let back = cast.sql(
            "SELECT position FROM (SELECT position, epoch, lag(epoch) OVER (ORDER BY position) AS before FROM events) e \
             WHERE epoch < before",
        );
        self.expect(back.is_empty(), || format!("a deposed writer wrote at {back:?}"));
        let rows = cast.sql("SELECT reason, count(*) FROM quarantine GROUP BY reason");
        let found: BTreeMap<&str, i64> =
            rows.iter().map(|row| (row[0].as_str(), row[1].parse().unwrap())).collect();
        self.expect(found == *poison, || format!("in quarantine is {found:?}, sent was {poison:?}"));
        let panicked = cast.gather_logs();
        self.expect(panicked.is_empty(), || format!("panicked: {}", panicked.join(", ")));
    }
}

fn spans(intervals: &Value) -> Vec<(i64, i64)> {
    let ms = |at: &Value| at.as_str().and_then(|text| text.parse::<hourglass_units::Instant>().ok());
    let span = |it: &Value| Some((ms(&it["start"])?.unix_ms(), ms(&it["end"])?.unix_ms()));
    intervals.as_array().into_iter().flatten().filter_map(span).collect()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |count: i64, what: &str| writeln!(f, "{count:>16}  {what}");
        row(self.usage_records, "usage records in the log, repeats included")?;
        row(self.scheduled, "GPU-milliseconds scheduled")?;
        row(self.lost, "lost")?;
        row(self.duplicated, "duplicated")?;
        row(self.double_billed, "billed twice")?;
        for wrong in &self.wrong {
            writeln!(f, "           WRONG  {wrong}")?;
        }
        Ok(())
    }
}
