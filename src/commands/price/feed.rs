//! `hourglass price watch`, `history`, `ohlc`, `depth` and `interruptions`: prices of spot pools, now and before.

use std::io::BufRead;
use std::time::Duration;

use hourglass_capacity::pool::PoolName;
use hourglass_consumers::billing::market::{
    CandleRow, DepthRow, InterruptionLevelRow, InterruptionsRow, PriceRow, candle_rows, depth_row,
    interruptions_row, pool_name, prices, step_rows, with_sold,
};
use hourglass_consumers::prices::{History, Step};
use hourglass_ledger::cell::Clock;
use hourglass_ledger::core::market::MarketRejection;
use hourglass_ledger::core::{Rejection, State};
use hourglass_ledger::load::Loaded;
use hourglass_ledger::store::Reader;
use hourglass_units::{Fabric, INSTANT_MAX, INSTANT_MIN, Instant, Interval, Platform};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Server, not_understood};
use crate::commands::{instant, rows_of};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, line, log_progress, table};
use crate::wire;

use super::events::{Event, Events};

/// How long a client waits before it comes back, where the server does not say.
const RETRY: Duration = Duration::from_secs(2);
/// The longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// On which platform
    platform: Platform,
    /// On which fabric
    fabric: Fabric,
}

#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// On which platform [default: every pool]
    #[arg(requires = "fabric")]
    platform: Option<Platform>,
    /// On which fabric
    fabric: Option<Fabric>,
    /// Goes on behind this id instead of with a snapshot
    #[arg(long, value_name = "EPOCH.POSITION")]
    after: Option<String>,
    /// Ends after so many ticks [default: never]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Past {
    #[command(flatten)]
    which: Which,
    /// From then on [default: the first price]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<Instant>,
    /// Until then [default: now]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<Instant>,
    /// A row for each step of time, such as 5m, 1h or 1d
    #[arg(long, value_parser = step)]
    step: Option<String>,
}

fn step(text: &str) -> Result<String, String> {
    let invalid = "give a length of time that divides a UTC day, from 1m to 1d";
    Step::parse(text).map(|_| text.to_owned()).ok_or_else(|| invalid.to_owned())
}

/// Which ledger, and how to answer.
#[derive(Clone, Copy)]
pub(super) struct Where<'a> {
    pub(super) server: &'a Server,
    pub(super) settings: &'a Resolved,
    pub(super) format: Format,
}

impl Where<'_> {
    /// Something about a pool of the data directory.
    fn read<T>(
        self,
        which: Which,
        read: impl FnOnce(&dyn Reader, &State, &PoolName) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (reader, Loaded { state, .. }) =
            wire::read_ledger(self.settings, log_progress("reading the ledger"))?;
        let name = pool_name(&state, which.platform, which.fabric);
        let name = name.ok_or_else(|| Failure::Rejected(Rejection::CellNotOpen.to_string()))?;
        if state.market().pool(&name).is_none() {
            return Err(Failure::Rejected(MarketRejection::PoolUnknown { pool: name }.to_string()));
        }
        read(reader.as_ref(), &state, &name)
    }

    /// An answer of the API, without the position that it is of.
    fn ask<T: DeserializeOwned>(self, path: &str) -> Result<Option<T>, Failure> {
        let Some(client) = self.server.client()? else { return Ok(None) };
        let mut said = client.get(path)?;
        if let Some(fields) = said.as_object_mut() {
            fields.remove("as_of");
        }
        serde_json::from_value(said).map(Some).map_err(|error| not_understood(&error))
    }

    /// All rows of a list of the API.
    fn rows<T: DeserializeOwned>(self, path: &str) -> Result<Option<Vec<T>>, Failure> {
        let client = self.server.client()?;
        client.map(|client| rows_of(&client, path)).transpose()
    }
}

impl Which {
    fn path(&self, what: &str) -> String {
        format!("/v1/pools/{}/{}/{what}", self.platform, self.fabric)
    }
}

impl Past {
    fn query(&self, what: &str) -> String {
        let given = [
            self.from.map(|it| format!("start={it}")),
            self.until.map(|it| format!("end={it}")),
            self.step.as_ref().map(|it| format!("step={it}")),
        ];
        format!("{}?{}", self.which.path(what), given.into_iter().flatten().collect::<Vec<_>>().join("&"))
    }

    /// Of steps nothing is told of the future.
    fn within(
        from: Option<Instant>,
        until: Option<Instant>,
        now: Option<Instant>,
    ) -> Result<Interval, Failure> {
        let end = until.unwrap_or(INSTANT_MAX);
        let within = Interval::between(from.unwrap_or(INSTANT_MIN), now.map_or(end, |now| end.min(now)));
        within.ok_or_else(|| {
            Failure::Usage("--until must be after --from, which must be in the past".to_owned())
        })
    }
}

/// The last event may be a while ago, and its price holds on.
fn now(state: &State) -> Instant {
    wire::WallClock.now().max(state.now())
}

/// What a pool cost, as it was logged or by steps.
pub(super) fn history(past: Past, at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<PriceRow> = match at.rows(&past.query("prices"))? {
        Some(rows) => rows,
        None => {
            let Past { which, from, until, step } = past;
            at.read(which, |_, state, name| match step.as_deref().and_then(Step::parse) {
                None => {
                    let within = Past::within(from, until, None)?;
                    Ok(prices(state, name, within).into_iter().map(|(_, row)| row).collect())
                }
                Some(step) => {
                    let within = Past::within(from, until, Some(now(state)))?;
                    Ok(step_rows(state, name, within, step).map(|(_, row)| row).collect())
                }
            })?
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            vec![it.from.clone(), text(&it.until), it.price.clone(), text(&it.mean)]
        });
        table(&["from", "until", "price", "mean"], &[2, 3], cells)
    })
}

/// What a pool cost by steps: first, highest, lowest, last, mean, and what was sold.
pub(super) fn ohlc(past: Past, at: Where<'_>) -> Result<(), Failure> {
    let rows: Vec<CandleRow> = match at.rows(&past.query("prices/ohlc"))? {
        Some(rows) => rows,
        None => {
            let Past { which, from, until, step } = past;
            let step = step.as_deref().and_then(Step::parse).unwrap_or(Step::HOUR);
            at.read(which, |reader, state, name| {
                let history = past_of(reader)?;
                let within = Past::within(from, until, Some(now(state)))?;
                Ok(with_sold(candle_rows(state, name, within, step).collect(), name, &history))
            })?
        }
    };
    answer(at.format, &rows, |rows| {
        let cells = rows.iter().map(|it| {
            let CandleRow { from, until, open, high, low, close, mean, sold_gpu_hours } = it.clone();
            vec![from, until, open, high, low, close, mean, sold_gpu_hours.unwrap_or_default()]
        });
        let head = ["from", "until", "open", "high", "low", "close", "mean", "sold GPU-hours"];
        table(&head, &[2, 3, 4, 5, 6, 7], cells)
    })
}

/// What is wanted of a pool, by what is offered for it.
pub(super) fn depth(which: Which, at: Where<'_>) -> Result<(), Failure> {
    let row: DepthRow = match at.ask(&which.path("depth"))? {
        Some(row) => row,
        None => at.read(which, |reader, _, name| {
            let none = || Failure::Rejected("this pool was not cleared yet".to_owned());
            depth_row(reader, name, u64::MAX).map_err(|error| unreadable(&error))?.ok_or_else(none)
        })?,
    };
    answer(at.format, &row, |row| {
        let cells = row.levels.iter().map(|it| {
            let numbers = [it.bids, it.gpus_wanted, it.gpus_sold, it.gpus_wanted_from_here];
            [it.limit.clone()].into_iter().chain(numbers.map(|it| it.to_string())).collect()
        });
        let head = ["limit", "bids", "GPUs wanted", "GPUs sold", "wanted from here up"];
        let DepthRow { clear, at, supply, price, reserve_price, .. } = row;
        let says = format!(
            "{supply} GPUs for spot at {price}, reserve price {reserve_price} (clearing {clear}, {at})"
        );
        format!("{}\n{says}", table(&head, &[0, 1, 2, 3, 4], cells))
    })
}

/// How likely a unit of a pool is interrupted, by its limit.
pub(super) fn interruptions(which: Which, at: Where<'_>) -> Result<(), Failure> {
    let row: InterruptionsRow = match at.ask(&which.path("interruptions"))? {
        Some(row) => row,
        None => {
            at.read(which, |reader, state, name| Ok(interruptions_row(&past_of(reader)?, name, now(state))))?
        }
    };
    answer(at.format, &row, interruptions_text)
}

fn interruptions_text(row: &InterruptionsRow) -> String {
    let cells = row.levels.iter().chain([&row.all]).map(|it| {
        let InterruptionLevelRow { limit_percent_from, limit_percent_below, unit_hours, interrupted, .. } =
            it;
        let level = match (limit_percent_from, limit_percent_below) {
            (Some(from), Some(below)) => format!("{from} to {below} %"),
            (Some(from), None) => format!("from {from} %"),
            (None, _) => "all".to_owned(),
        };
        let chances = [it.within_1_hour, it.within_24_hours].map(|chance| format!("{chance:.4}"));
        [level, unit_hours.to_string(), interrupted.to_string()].into_iter().chain(chances).collect()
    });
    let head = ["limit / price", "unit-hours", "interrupted", "within 1 h", "within 24 h"];
    let mut text = table(&head, &[1, 2, 3, 4], cells);
    if row.scores.is_empty() {
        text.push_str("\ntoo few unit-hours to say how good such predictions are");
    }
    for score in &row.scores {
        text.push_str(&format!(
            "\nwithin {} h: Brier score {:.4}, {:.4} without levels, over {} predictions; predicted {:.4}, seen {:.4}",
            score.hours, score.brier, score.reference, score.trials, score.predicted, score.observed
        ));
    }
    text
}

fn unreadable(error: &dyn std::fmt::Display) -> Failure {
    Failure::Unavailable(error.to_string())
}

/// The past of all pools, from the log.
fn past_of(reader: &dyn Reader) -> Result<History, Failure> {
    let history = History::default();
    history.catch_up(reader, usize::MAX).map_err(|error| unreadable(&error))?;
    Ok(history)
}

/// Prices as they change, until it is interrupted.
pub(super) fn watch(watch: Watch, at: Where<'_>) -> Result<(), Failure> {
    let Watch { platform, fabric, after, count } = watch;
    let Some(client) = at.server.client()? else {
        return Err(Failure::Usage("prices change where a cell runs: name it with --server URL".to_owned()));
    };
    let path = match platform.zip(fabric) {
        Some((platform, fabric)) => Which { platform, fabric }.path("prices/stream"),
        None => "/v1/prices/stream".to_owned(),
    };
    let (mut last, mut left, mut connected, mut pause) = (after, count, false, RETRY);
    loop {
        let told = match client.stream(&path, last.as_deref()) {
            // Who was never let in will not be; who was, comes back to a server that starts again.
            Err(failure) if !connected || matches!(failure, Failure::Rejected(_)) => return Err(failure),
            Err(failure) => {
                eprintln!("{failure}");
                pause = pause.saturating_mul(2).min(RETRY_MAX);
                false
            }
            Ok(stream) => {
                (connected, pause) = (true, RETRY);
                follow(Events::new(stream), &mut last, &mut left, &mut pause, at.format)?
            }
        };
        if told {
            return Ok(());
        }
        let from = last.as_deref().unwrap_or("a snapshot");
        eprintln!("the stream ended: going on behind {from} in {} ms", pause.as_millis());
        wait(pause);
    }
}

#[expect(clippy::disallowed_methods, reason = "a command has nothing to do until it asks again")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// Tells events until the stream ends. Whether enough was told.
fn follow(
    events: Events<impl BufRead>,
    last: &mut Option<String>,
    left: &mut Option<u64>,
    pause: &mut Duration,
    format: Format,
) -> Result<bool, Failure> {
    for event in events {
        // A stream that breaks is one that ends.
        let Ok(event) = event else { return Ok(false) };
        if let Some(ms) = event.retry {
            *pause = Duration::from_millis(ms).min(RETRY_MAX);
        }
        let is_price = matches!(event.event.as_str(), "snapshot" | "tick");
        if is_price {
            tell(&event, format)?;
        } else if matches!(event.event.as_str(), "resync" | "bye") {
            let detail = event.data().get("detail").and_then(Value::as_str).unwrap_or_default().to_owned();
            eprintln!("{}: {detail}", event.event);
        }
        if let Some(id) = event.id {
            *last = Some(id);
        }
        if let Some(left) = left.as_mut().filter(|_| event.event == "tick") {
            *left = left.saturating_sub(1);
        }
        if *left == Some(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A line for each pool; under `--json` one document for each event.
fn tell(event: &Event, format: Format) -> Result<(), Failure> {
    let data = event.data();
    if format == Format::Json {
        let document = serde_json::json!({"event": event.event, "id": event.id, "data": data});
        return line(&document.to_string());
    }
    let text = |of: &Value, key: &str| match of.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let at = text(&data, "at");
    for pool in data.get("pools").and_then(Value::as_array).into_iter().flatten() {
        let [name, price, currency] = ["pool", "price", "currency"].map(|key| text(pool, key));
        let [sold, free, wanted] = ["sold", "free", "gpus_wanted"].map(|key| text(pool, key));
        line(&format!("{at}  {name}  {price} {currency}  sold {sold}  free {free}  wanted {wanted}"))?;
    }
    Ok(())
}
