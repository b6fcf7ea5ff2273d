//! A slow rater that shares no code with the core: plain integers, one stretch of time after the
//! other, every report asked anew for each.
//!
//! It is told the facts as they were accepted and sweeps over every boundary there is. What it says
//! is the domain's description read literally, so where core and oracle differ one of them is wrong.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) const FOREVER: i64 = 32_503_680_000_000;
const HOUR: i64 = 3_600_000;

/// What an accepted schedule said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) skew: i64,
    pub(crate) window: i64,
    /// Currency of each tenant.
    pub(crate) tenants: BTreeMap<String, String>,
    /// Currency, start, on-demand price and spot price, in order of publication.
    pub(crate) cards: Vec<(String, i64, i64, i64)>,
    /// Tenant, start, end and on-demand price, in order of signature.
    pub(crate) contracts: Vec<(String, i64, i64, i64)>,
    pub(crate) instances: BTreeMap<String, Known>,
    pub(crate) reports: Vec<Report>,
}

#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) tenant: String,
    pub(crate) spot: bool,
    pub(crate) gpus: u32,
    pub(crate) agent: Option<String>,
    /// Runs that meet are one.
    pub(crate) runs: Vec<(i64, i64)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) agent: String,
    pub(crate) instance: String,
    pub(crate) gpus: u32,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// When it came.
    pub(crate) came: i64,
}

/// What must stand in the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    /// Instance, start of the hour and price; milliseconds and nano-GPU-hours.
    pub(crate) lines: BTreeMap<(String, i64, i64), (i64, i64)>,
    /// By tenant, in atto-currency: everything ever charged.
    pub(crate) charged: BTreeMap<String, i128>,
    /// By spot or not, and currency.
    pub(crate) revenue: BTreeMap<(bool, String), i128>,
    pub(crate) measured: i64,
    pub(crate) billed: i64,
    pub(crate) suspense: i64,
    pub(crate) excluded: BTreeMap<&'static str, i64>,
}

impl Facts {
    pub(crate) fn start(&mut self, instance: &str, at: i64) {
        let runs = &mut self.instances.get_mut(instance).unwrap().runs;
        match runs.last_mut() {
            Some(last) if last.1 == at => last.1 = FOREVER,
            _ => runs.push((at, FOREVER)),
        }
    }

    pub(crate) fn stop(&mut self, instance: &str, at: i64) {
        let runs = &mut self.instances.get_mut(instance).unwrap().runs;
        // One that was accepted and never ran ends too.
        let Some(last) = runs.last_mut() else { return };
        last.1 = at;
        if last.0 == at {
            runs.pop();
        }
    }

    fn price(&self, known: &Known, at: i64) -> i64 {
        let mine = self.contracts.iter().rev().filter(|deal| !known.spot && deal.0 == known.tenant);
        if let Some((.., nanos)) = mine.into_iter().find(|(_, from, until, _)| *from <= at && at < *until) {
            return *nanos;
        }
        let currency = &self.tenants[&known.tenant];
        let mut listed = self.cards.iter().rev().filter(|card| card.0 == *currency);
        let (.., on_demand, spot) = listed.find(|(_, from, ..)| *from <= at).expect("billed without a price");
        if known.spot { *spot } else { *on_demand }
    }

    /// What a report is for: `None` where it is in good order.
    fn reason(&self, known: &Known, report: &Report) -> Option<(u8, &'static str)> {
        if report.gpus != known.gpus {
            Some((1, "gpus_differ"))
        } else if known.agent.as_ref().is_some_and(|agent| *agent != report.agent) {
            Some((2, "foreign_agent"))
        } else if report.end > report.came + self.skew {
            Some((3, "in_the_future"))
        } else if report.end < report.came - self.window {
            Some((4, "too_old"))
        } else {
            None
        }
    }

    pub(crate) fn books(&self) -> Books {
        let mut books = Books::default();
        let mut by_instance: BTreeMap<&str, Vec<&Report>> = BTreeMap::new();
        for report in &self.reports {
            by_instance.entry(&report.instance).or_default().push(report);
        }
        for (instance, reports) in by_instance {
            let known = self.instances.get(instance);
            for (from, until) in self.stretches(known, &reports) {
                let here = reports.iter().filter(|report| report.start <= from && until <= report.end);
                let here: Vec<_> = here.collect();
                if here.is_empty() {
                    continue;
                }
                let length = until - from;
                books.measured += length;
                let Some(known) = known else {
                    books.suspense += length;
                    continue;
                };
                let good = here.iter().any(|report| self.reason(known, report).is_none());
                let ran = known.runs.iter().any(|run| run.0 <= from && until <= run.1);
                if good && ran {
                    books.billed += length;
                    let key = (instance.to_owned(), from - from % HOUR, self.price(known, from));
                    books.lines.entry(key).or_default().0 += length;
                } else if good {
                    *books.excluded.entry("not_running").or_default() += length;
                } else {
                    let reasons = here.iter().filter_map(|report| self.reason(known, report));
                    *books.excluded.entry(reasons.min().unwrap().1).or_default() += length;
                }
            }
        }
        self.charge(&mut books);
        books
    }

    /// Stretches in which nothing changes: no report, run, hour or price begins or ends within one.
    fn stretches(&self, known: Option<&Known>, reports: &[&Report]) -> Vec<(i64, i64)> {
        let (first, last) = (
            reports.iter().map(|it| it.start).min().unwrap(),
            reports.iter().map(|it| it.end).max().unwrap(),
        );
        let mut bounds: BTreeSet<i64> =
            reports.iter().flat_map(|report| [report.start, report.end]).collect();
        bounds.extend(known.iter().flat_map(|known| &known.runs).flat_map(|run| [run.0, run.1]));
        bounds.extend(self.cards.iter().map(|card| card.1));
        bounds.extend(self.contracts.iter().flat_map(|deal| [deal.1, deal.2]));
        bounds.extend((first / HOUR..=last / HOUR).map(|hour| hour * HOUR));
        let bounds: Vec<i64> = bounds.into_iter().filter(|bound| (first..=last).contains(bound)).collect();
        bounds.windows(2).map(|pair| (pair[0], pair[1])).collect()
    }

    /// Rounds each line once, on its total: a ninth is never a half.
    fn charge(&self, books: &mut Books) {
        let Books { lines, charged, revenue, .. } = books;
        for ((instance, _, price), (milliseconds, quantity)) in lines {
            let known = &self.instances[instance];
            let ninths = i128::from(*milliseconds) * i128::from(known.gpus) * 2_500;
            let whole = ninths / 9 + i128::from(ninths % 9 >= 5);
            *quantity = i64::try_from(whole).unwrap();
            let amount = whole * i128::from(*price);
            *charged.entry(known.tenant.clone()).or_default() += amount;
            let currency = self.tenants[&known.tenant].clone();
            *revenue.entry((known.spot, currency)).or_default() += amount;
        }
    }
}
