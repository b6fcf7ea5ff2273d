//! Reports as tables for people.

use hourglass_consumers::billing::report::AsOf;
use hourglass_consumers::planning::advice::AdviceReport;
use hourglass_consumers::planning::forecast::ForecastReport;
use hourglass_consumers::planning::series::{SeriesReport, SeriesRow};
use hourglass_consumers::planning::unmet::UnmetReport;
use hourglass_consumers::planning::what_if::WhatIfReport;

use crate::output::table;

fn as_of(it: &AsOf) -> String {
    format!("as of {} (position {})", it.time, it.position)
}

pub(super) fn series(report: &SeriesReport) -> String {
    let head =
        ["from", "GPUs", "used %", "reserved", "idle", "lent", "on demand", "spot", "free", "down", "over"];
    let row = |from: String, row: &SeriesRow| {
        let it = &row.mean_gpus;
        let parts = [
            &it.reserved_used,
            &it.reserved_idle,
            &it.lent,
            &it.on_demand,
            &it.spot,
            &it.free,
            &it.down,
            &it.over,
        ];
        let first = [from, it.owned.clone(), row.utilisation.clone().unwrap_or_else(|| "-".to_owned())];
        first.into_iter().chain(parts.map(String::clone)).collect()
    };
    let rows = report.rows.iter().map(|it| row(it.start.clone(), it));
    let rows = rows.chain([row("all".to_owned(), &report.total)]);
    let numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    format!("{}\nGPUs on average over each step; {}", table(&head, &numbers, rows), as_of(&report.as_of))
}

pub(super) fn unmet(report: &UnmetReport) -> String {
    let head = [
        "from",
        "pool",
        "limit from",
        "wanted",
        "served",
        "unmet",
        "unmet GPUs",
        "capacity",
        "too large",
        "below reserve",
        "quota",
        "budget",
    ];
    let rows = report.rows.iter().map(|it| {
        let names = [it.start.clone(), it.pool.to_string(), it.limit_from.clone()];
        let sums = [&it.wanted, &it.served, &it.unmet, &it.unmet_mean_gpus].map(String::clone);
        let why = [&it.capacity, &it.too_large, &it.below_reserve, &it.quota, &it.budget].map(String::clone);
        names.into_iter().chain(sums).chain(why).collect()
    });
    let mut text = table(&head, &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11], rows);
    for it in &report.waiting {
        text.push_str(&format!("\n{} instances with {} GPUs wait in {}", it.instances, it.gpus, it.pool));
    }
    format!("{text}\nin GPU-hours, price levels of {}; {}", report.level, as_of(&report.as_of))
}

pub(super) fn forecast(report: &ForecastReport) -> String {
    let head = ["from", "demand", "80 % from", "to", "95 % from", "to", "reserved", "GPUs", "risk"];
    let rows = report.rows.iter().map(|it| {
        let intervals = [&it.low_80, &it.high_80, &it.low_95, &it.high_95].map(String::clone);
        let first = [it.start.clone(), it.demand.clone()].into_iter();
        let last = [it.reserved.to_string(), it.capacity.to_string(), it.risk.clone()];
        first.chain(intervals).chain(last).collect()
    });
    let text = table(&head, &[1, 2, 3, 4, 5, 6, 7, 8], rows);
    let full = match (&report.full_at, &report.full_at_the_earliest) {
        (Some(at), _) => {
            let days = report.days_until_full.unwrap_or(0);
            format!("expected to be full at {at}, in {days} days")
        }
        (None, Some(earliest)) => {
            format!("not expected to be full within this time; at the earliest at {earliest}")
        }
        (None, None) => "not expected to be full within this time".to_owned(),
    };
    let it = &report.backtest;
    let mase = it.mase.as_deref().unwrap_or("-");
    let (step, history, method) = (&report.step, report.history_steps, &report.method);
    format!(
        "{text}\n{full}; the risk of a stock-out is {}\nby {method} from {history} steps of {step}; {} cuts of the past: \
         error {} GPUs (one season before: {}), MASE {mase}, held by the intervals: {} and {}; {}",
        report.stock_out_risk,
        it.origins,
        it.mae,
        it.seasonal_naive_mae,
        it.coverage_80,
        it.coverage_95,
        as_of(&report.as_of)
    )
}

pub(super) fn what_if(report: &WhatIfReport) -> String {
    let head = ["pool", "", "revenue", "welfare", "for spot", "served", "unmet", "used %", "preempted GPUs"];
    let rows = report.pools.iter().flat_map(|it| {
        let runs = [("as it was", &it.as_it_was), ("changed", &it.changed)];
        let runs = runs.map(|(name, run)| {
            let money = [run.revenue.clone(), run.welfare.clone()];
            let hours = [run.supply.clone(), run.served.clone(), run.unmet.clone()];
            let last = [run.utilisation.clone().unwrap_or_default(), run.preempted_gpus.to_string()];
            [it.pool.to_string(), name.to_owned()].into_iter().chain(money).chain(hours).chain(last).collect()
        });
        let it = &it.difference;
        let of = [&it.revenue, &it.welfare].map(String::clone);
        let served = [String::new(), it.served.clone(), it.unmet.clone(), String::new()];
        let first = [String::new(), "difference".to_owned()].into_iter();
        let last: Vec<String> =
            first.chain(of).chain(served).chain([it.preempted_gpus.to_string()]).collect();
        runs.into_iter().chain([last])
    });
    let mut text = table(&head, &[2, 3, 4, 5, 6, 7, 8], rows);
    text.push_str(&format!(
        "\n{} of {} clearings came out again as they were logged; {}\nWhat this cannot know:",
        report.reproduced,
        report.clearings,
        as_of(&report.as_of)
    ));
    report.cannot_know.iter().for_each(|it| text.push_str(&format!("\n* {it}")));
    text
}

pub(super) fn advice(report: &AdviceReport) -> String {
    let facts = [
        ("answer", Some(report.answer.as_str().to_owned())),
        ("fits", Some(if report.fits { "yes" } else { "no" }.to_owned())),
        ("largest", Some(report.largest_gpus.to_string())),
        ("fits until", report.fits_until.clone()),
        ("earliest start", report.earliest_start.clone()),
        ("break-even price", report.break_even_price.clone()),
        ("  of that spot", report.spot_lost_per_gpu_hour.clone()),
        ("  of that on demand", report.on_demand_lost_per_gpu_hour.clone()),
        ("on-demand GPU-hours without room", report.on_demand_without_room.clone()),
        ("the past asked since", report.past_start.clone()),
        ("risk of a stock-out", report.stock_out_risk.clone()),
        ("no risk because", report.no_risk_because.clone()),
    ];
    let rows = facts.into_iter().filter_map(|(name, value)| Some(vec![name.to_owned(), value?]));
    format!(
        "{}\n{}\nprices per GPU-hour in {}; {}",
        report.says,
        table(&["", ""], &[], rows),
        report.currency,
        as_of(&report.as_of)
    )
}
