//! `hourglass capacity`: what pools had, what was wanted of them, and what comes next.

mod change;
mod show;

use hourglass_capacity::pool::PoolName;
use hourglass_consumers::planning::advice::{AdviceDraft, AdviceQuestion, AdviceReport, advise};
use hourglass_consumers::planning::forecast::{
    Demand, ForecastDraft, ForecastQuestion, ForecastReport, HORIZON_DAYS_DEFAULT, HORIZON_DAYS_MAX, forecast,
};
use hourglass_consumers::planning::series::{SeriesReport, take};
use hourglass_consumers::planning::unmet::{UnmetQuestion, UnmetReport, unmet};
use hourglass_consumers::planning::what_if::{WhatIf, WhatIfDraft, WhatIfReport, what_if};
use hourglass_consumers::planning::{PlanError, Pools, Range, Step};
use hourglass_ledger::core::State;
use hourglass_ledger::store::Reader;
use hourglass_units::{INSTANT_MAX, Instant, Interval, Platform, Price};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::change::Changes;
use crate::client::{Client, Server, not_understood};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, progress, raw};
use crate::wire;

/// Plan capacity: what pools had, what was wanted and not served, forecasts, what-if, advice about reservations.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Times are RFC 3339, or dates that mean their midnight in UTC. Without --server it reads the data directory, beside a \
running cell or not. docs/capacity-planning.md says how each figure is computed.")]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// Answer with CSV; it goes before --json
    #[arg(long, global = true)]
    csv: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Where the GPU-time of pools went, step by step
    Series {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        when: When,
        /// How long a step is: 5m, 15m, 1h, 6h or 1d
        #[arg(long, default_value = "1h")]
        step: Step,
    },
    /// What bids wanted and did not get, by price and reason
    Unmet {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        when: When,
        /// How long a step is: 5m, 15m, 1h, 6h or 1d [default: all of the time is one]
        #[arg(long)]
        step: Option<Step>,
        /// How wide a price level is [default: 0.10]
        #[arg(long, value_name = "PRICE", value_parser = price)]
        level: Option<Price>,
    },
    /// What will be wanted, with intervals, and when pools are full
    Forecast {
        #[command(flatten)]
        which: Which,
        /// Days ahead
        #[arg(long, default_value_t = HORIZON_DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(HORIZON_DAYS_MAX)))]
        days: u32,
        /// 1h or 1d [default: whichever fits the days and the history]
        #[arg(long)]
        step: Option<Step>,
        /// all, or what is firm: reserved and on demand
        #[arg(long, default_value = "all")]
        of: Demand,
    },
    /// The clearings of a time again, with other GPUs, another reserve price, or a reservation sold
    WhatIf {
        #[command(flatten)]
        when: When,
        #[command(flatten)]
        changes: Changes,
    },
    /// Whether a reservation should be sold, and at which price
    Advise {
        /// Where, as REGION/PLATFORM/FABRIC
        pool: PoolName,
        /// How many GPUs
        #[arg(long)]
        gpus: u64,
        /// From then on
        #[arg(long, value_name = "TIME", value_parser = super::instant)]
        from: Instant,
        /// Until then
        #[arg(long, value_name = "TIME", value_parser = super::instant)]
        until: Instant,
        /// What is offered per reserved GPU-hour
        #[arg(long, value_parser = price)]
        price: Option<Price>,
    },
}

fn price(text: &str) -> Result<Price, String> {
    Price::parse(text).map_err(|error| error.to_string())
}

/// Which pools.
#[derive(Debug, clap::Args)]
struct Which {
    /// One pool, as REGION/PLATFORM/FABRIC [default: all together]
    #[arg(long, conflicts_with = "platform")]
    pool: Option<PoolName>,
    /// The pools of a platform, together
    #[arg(long)]
    platform: Option<Platform>,
}

/// Of which time.
#[derive(Debug, clap::Args)]
struct When {
    /// From then on
    #[arg(long, value_name = "TIME", value_parser = super::instant)]
    from: Instant,
    /// Until then [default: now]
    #[arg(long, value_name = "TIME", value_parser = super::instant)]
    until: Option<Instant>,
}

impl When {
    fn end(&self) -> Instant {
        // What has not passed is left out.
        self.until.unwrap_or(INSTANT_MAX)
    }
}

impl Which {
    fn pools(self) -> Pools {
        match (self.pool, self.platform) {
            (Some(pool), _) => Pools::One(pool),
            (None, Some(platform)) => Pools::Of(platform),
            (None, None) => Pools::All,
        }
    }

    /// The path of a report, with its query begun.
    fn path(&self, report: &str) -> String {
        match (&self.pool, &self.platform) {
            (Some(pool), _) => format!("/v1/capacity/{}/{}/{report}?", pool.platform, pool.fabric),
            (None, Some(platform)) => format!("/v1/capacity/{report}?platform={platform}&"),
            (None, None) => format!("/v1/capacity/{report}?"),
        }
    }
}

/// Which ledger, and how to answer.
struct Where<'a> {
    server: &'a Server,
    settings: &'a Resolved,
    format: Format,
    csv: bool,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let at = Where { server: &args.server, settings, format, csv: args.csv };
    match args.action {
        Action::Series { which, when, step } => {
            let query = format!("start={}&end={}&step={}", when.from, when.end(), step.as_str());
            let path = which.path("series") + &query;
            let report = at.ask(&path, |state, _| {
                let range = Range::new(when.from, when.end(), step, state.now())?;
                Ok(take(state, &which.pools(), range)?.report())
            })?;
            at.answer(&report, show::series, SeriesReport::to_csv)
        }
        Action::Unmet { which, when, step, level } => {
            let mut path = which.path("unmet") + &format!("start={}&end={}", when.from, when.end());
            step.iter().for_each(|step| path.push_str(&format!("&step={}", step.as_str())));
            level.iter().for_each(|level| path.push_str(&format!("&level={level}")));
            let report = at.ask(&path, |state, reader| {
                let range = UnmetQuestion::range(when.from, when.end(), step, state.now())?;
                unmet(reader, UnmetQuestion::new(state, which.pools(), range, step.is_some(), level)?)
            })?;
            at.answer(&report, show::unmet, UnmetReport::to_csv)
        }
        Action::Forecast { which, days, step, of } => {
            let mut path = which.path("forecast") + &format!("days={days}");
            step.iter().for_each(|step| path.push_str(&format!("&step={}", step.as_str())));
            if of == Demand::Firm {
                path.push_str("&of=firm");
            }
            let draft = ForecastDraft { days, step, of };
            let report = at.ask(&path, |state, reader| {
                forecast(reader, &ForecastQuestion::new(state, which.pools(), draft)?)
            })?;
            at.answer(&report, show::forecast, ForecastReport::to_csv)
        }
        Action::WhatIf { when, changes } => {
            let draft = WhatIfDraft { start: when.from, end: when.end(), changes: changes.all() };
            let report = at.ask_with("/v1/capacity:what-if", &draft, |state, reader| {
                let question = WhatIf::new(state, draft.clone())?;
                let moved = bar("running the clearings again", question.within());
                what_if(reader, &question, moved)
            })?;
            at.answer(&report, show::what_if, WhatIfReport::to_csv)
        }
        Action::Advise { pool, gpus, from, until, price } => {
            let draft = AdviceDraft { pool, gpus, from, until, price };
            let report = at.ask_with("/v1/capacity:advise", &draft, |state, reader| {
                let question = AdviceQuestion::new(state, draft.clone())?;
                let moved = question.past().map(|past| bar("asking the past", past));
                let mut moved = moved;
                advise(reader, &question, |at| moved.as_mut().is_none_or(|moved| moved(at)))
            })?;
            at.answer(&report, show::advice, AdviceReport::to_csv)
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let says = error.to_string();
        match error {
            PlanError::Store(_) | PlanError::Clear(_) => Self::Unavailable(says),
            _ => Self::Rejected(says),
        }
    }
}

/// A progress bar over the time that is gone through.
fn bar(what: &'static str, within: Interval) -> impl FnMut(Instant) -> bool {
    let bar = progress(what);
    let length = |milliseconds: i64| u64::try_from(milliseconds).unwrap_or(0);
    bar.set_length(length(within.milliseconds()));
    let last = bar.clone();
    let ends = scopes::at_end(move || last.finish_and_clear());
    move |at| {
        let _ends = &ends;
        bar.set_position(length(at.ms_since(within.start())));
        true
    }
}

/// What is done when something is dropped.
mod scopes {
    pub(super) struct AtEnd<F: FnMut()>(F);

    pub(super) fn at_end<F: FnMut()>(end: F) -> AtEnd<F> {
        AtEnd(end)
    }

    impl<F: FnMut()> Drop for AtEnd<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
}

impl Where<'_> {
    /// Asks a running cell, or the data directory.
    fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        own: impl FnOnce(&State, &dyn Reader) -> Result<T, PlanError>,
    ) -> Result<T, Failure> {
        self.either(|client| client.get(path), own)
    }

    /// The same with a question that has a body.
    fn ask_with<T: DeserializeOwned>(
        &self,
        path: &str,
        draft: &impl Serialize,
        own: impl FnOnce(&State, &dyn Reader) -> Result<T, PlanError>,
    ) -> Result<T, Failure> {
        let body = super::body(draft)?;
        self.either(|client| client.post(path, &body), own)
    }

    fn either<T: DeserializeOwned>(
        &self,
        ask: impl FnOnce(&Client) -> Result<serde_json::Value, Failure>,
        own: impl FnOnce(&State, &dyn Reader) -> Result<T, PlanError>,
    ) -> Result<T, Failure> {
        match self.server.client()? {
            Some(client) => serde_json::from_value(ask(&client)?).map_err(|error| not_understood(&error)),
            None => {
                let (reader, loaded) = wire::read_ledger(self.settings, log_progress("reading the ledger"))?;
                Ok(own(&loaded.state, reader.as_ref())?)
            }
        }
    }

    fn answer<T: Serialize>(
        &self,
        report: &T,
        people: impl FnOnce(&T) -> String,
        csv: impl FnOnce(&T) -> Vec<u8>,
    ) -> Result<(), Failure> {
        match self.csv {
            true => raw(&csv(report)),
            false => answer(self.format, report, people),
        }
    }
}
