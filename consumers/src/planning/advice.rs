//! Whether a reservation should be sold: does it fit, what does it displace, and at which price does it pay?
//!
//! Whether it fits is what the ledger itself would say (C-1), now. What it displaces is what it would have displaced
//! in the past of the same length, [`LOOK_BACK_DAYS`] at most: the clearings are run again with as many GPUs fewer
//! ([`super::what_if`]), and on-demand that would have had no room counts at its list price. Both together, by
//! reserved GPU-hour, are the price at which the reservation brings as much as it takes. How sure it is that
//! on-demand has room beside it in its time is forecast.

use hourglass_capacity::calendar::{SEARCH_MS_MAX, Shortage};
use hourglass_capacity::pool::PoolName;
use hourglass_ledger::core::State;
use hourglass_ledger::store::Reader;
use hourglass_pricing::{PurchaseModel, Sku};
use hourglass_units::{Currency, Instant, Interval, Price};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::forecast::{Demand, ForecastDraft, ForecastQuestion, HORIZON_DAYS_MAX, compute};
use super::series::{Taken, take};
use super::what_if::{CHANGE_GPUS_MAX, Change, WhatIf, WhatIfDraft, amount, loss};
use super::{PlanError, Pools, Range, Step, hours};
use crate::billing::report::AsOf;

/// Farthest that is looked back, in days.
pub const LOOK_BACK_DAYS: i64 = 28;

/// A reservation that could be sold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdviceQuestion, example = json!({"pool": "eu-north1/gpu-h100-sxm/fabric-2", "gpus": 16,
    "from": "2026-12-01T00:00:00Z", "until": "2026-12-08T00:00:00Z", "price": "1.80"}))]
pub struct AdviceDraft {
    /// Where.
    #[schema(value_type = String)]
    pub pool: PoolName,
    /// How many GPUs.
    pub gpus: u64,
    /// From then on, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub from: Instant,
    /// Until then, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub until: Instant,
    /// What is offered per reserved GPU-hour, a decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub price: Option<Price>,
}

/// A checked question, with what the state knows.
#[derive(Debug, Clone)]
pub struct AdviceQuestion {
    as_of: AsOf,
    draft: AdviceDraft,
    currency: Currency,
    list_price: Option<Price>,
    shortage: Option<Shortage>,
    fits_until: Option<Instant>,
    past: Option<(WhatIf, Taken)>,
    forecast: Result<ForecastQuestion, String>,
    within: Interval,
}

impl AdviceQuestion {
    /// Checks a question and copies out of the state what it needs.
    pub fn new(state: &State, draft: AdviceDraft) -> Result<Self, PlanError> {
        let invalid = |what: &str| PlanError::Invalid(what.to_owned());
        let pool = state.market().pool(&draft.pool);
        let pool = pool.ok_or_else(|| PlanError::PoolUnknown { pool: draft.pool.clone() })?;
        let within = Interval::between(draft.from, draft.until);
        let within = within.ok_or_else(|| invalid("a reservation ends after its start"))?;
        let now = state.now();
        if within.start() < now {
            return Err(invalid("a reservation that is sold starts now or later"));
        }
        if !(1..=CHANGE_GPUS_MAX).contains(&draft.gpus) {
            let what = format!("{} GPUs: a reservation has 1 to {CHANGE_GPUS_MAX}", draft.gpus);
            return Err(PlanError::Invalid(what));
        }
        if draft.price.is_some_and(|price| price.nanos() < 0) {
            return Err(invalid("a price is not below 0"));
        }
        let (capacity, calendar) = (pool.for_reservations(now), pool.stock().calendar());
        let shortage = calendar.shortage(&capacity, within, draft.gpus);
        let farthest = Interval::between(within.start(), within.start().saturating_add_ms(SEARCH_MS_MAX));
        let fits_until = farthest.and_then(|it| calendar.fits_until(&capacity, it, draft.gpus));
        let (platform, region) = (draft.pool.platform.clone(), draft.pool.region.clone());
        let sku = Sku { platform, region, model: PurchaseModel::OnDemand };
        let currency = pool.terms.currency;
        let list_price = state.prices().list_price(currency, &sku, now);
        let look_back = within.milliseconds().min(LOOK_BACK_DAYS.saturating_mul(Step::Day.milliseconds()));
        let begun = pool.stock().owned().next_change(hourglass_units::INSTANT_MIN);
        let start = now.saturating_add_ms(look_back.saturating_neg()).max(begun.unwrap_or(now));
        let past =
            Interval::between(start, now).map(|past| Self::in_the_past(state, &draft, past)).transpose()?;
        let forecast = Self::forecast(state, &draft, within);
        let as_of = AsOf::of(state);
        Ok(Self { as_of, draft, currency, list_price, shortage, fits_until, past, forecast, within })
    }

    /// The past that is asked.
    pub fn past(&self) -> Option<Interval> {
        self.past.as_ref().map(|(what_if, _)| what_if.within())
    }

    /// The same reservation in the past.
    fn in_the_past(state: &State, draft: &AdviceDraft, past: Interval) -> Result<(WhatIf, Taken), PlanError> {
        let (start, end) = (past.start(), past.end());
        let (pool, gpus) = (draft.pool.clone(), draft.gpus);
        let sold = Change::SellReservation { pool: pool.clone(), gpus, from: start, until: end, price: None };
        let what_if = WhatIf::new(state, WhatIfDraft { start, end, changes: vec![sold] })?;
        let range = Range::new(start, end, Step::Hour, end)?;
        Ok((what_if, take(state, &Pools::One(pool), range)?))
    }

    /// The forecast that reaches to its end; else why there is none.
    fn forecast(state: &State, draft: &AdviceDraft, within: Interval) -> Result<ForecastQuestion, String> {
        let ahead = within.end().ms_since(state.now());
        let days = ahead.saturating_add(Step::Day.milliseconds()).checked_div(Step::Day.milliseconds());
        let days = days.and_then(|days| u32::try_from(days).ok()).filter(|days| *days <= HORIZON_DAYS_MAX);
        let far = || format!("it ends in more than {HORIZON_DAYS_MAX} days, and no forecast goes so far");
        let how = ForecastDraft { days: days.ok_or_else(far)?.max(1), step: None, of: Demand::Firm };
        let question = ForecastQuestion::new(state, Pools::One(draft.pool.clone()), how);
        question.map_err(|error| error.to_string())
    }
}

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AdviceAnswer)]
pub enum Verdict {
    /// It fits, and what is offered is no less than what it displaces.
    Yes,
    /// It fits, and pays from `break_even_price` on: more than is offered, or nothing is offered.
    AtPrice,
    /// It does not fit: fewer GPUs, an earlier end or a later start do.
    Otherwise,
    /// It fits in no way.
    No,
}

impl Verdict {
    /// The name in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::AtPrice => "at_price",
            Self::Otherwise => "otherwise",
            Self::No => "no",
        }
    }
}

/// Whether a reservation should be sold, as of a log position. Money is in the currency of the pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Advice)]
pub struct AdviceReport {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// What was asked.
    pub question: AdviceDraft,
    /// What to answer.
    pub answer: Verdict,
    /// In one sentence.
    pub says: String,
    /// Of the prices, ISO 4217.
    pub currency: String,
    /// Whether the ledger would take it now.
    pub fits: bool,
    /// The largest size that fits for its time.
    pub largest_gpus: u64,
    /// The latest end with which it fits, RFC 3339; absent where it does not fit at its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub fits_until: Option<String>,
    /// The first start at or after its own at which all of it fits for as long, RFC 3339; absent where none is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub earliest_start: Option<String>,
    /// The price per reserved GPU-hour at which it brings as much as it displaces, rounded up to a nano; a decimal.
    /// Absent where there is no past to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_even_price: Option<String>,
    /// Of that, the spot revenue that is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot_lost_per_gpu_hour: Option<String>,
    /// Of that, on-demand that has no room, at its list price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand_lost_per_gpu_hour: Option<String>,
    /// On-demand GPU-hours that would have had no room in the past that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand_without_room: Option<String>,
    /// The past that was asked, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub past_start: Option<String>,
    /// How probable it is that reserved and on-demand need more than there is within its time, once it is sold; a
    /// decimal of three places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stock_out_risk: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_risk_because: Option<String>,
}

impl AdviceReport {
    /// One row.
    pub fn to_csv(&self) -> Vec<u8> {
        let facts = [
            ("pool", Some(self.question.pool.to_string())),
            ("gpus", Some(self.question.gpus.to_string())),
            ("from", Some(self.question.from.to_string())),
            ("until", Some(self.question.until.to_string())),
            ("price", self.question.price.map(|price| price.to_string())),
            ("currency", Some(self.currency.clone())),
            ("answer", Some(self.answer.as_str().to_owned())),
            ("fits", Some(self.fits.to_string())),
            ("largest_gpus", Some(self.largest_gpus.to_string())),
            ("fits_until", self.fits_until.clone()),
            ("earliest_start", self.earliest_start.clone()),
            ("break_even_price", self.break_even_price.clone()),
            ("spot_lost_per_gpu_hour", self.spot_lost_per_gpu_hour.clone()),
            ("on_demand_lost_per_gpu_hour", self.on_demand_lost_per_gpu_hour.clone()),
            ("stock_out_risk", self.stock_out_risk.clone()),
        ];
        let (head, row) =
            facts.map(|(name, value)| (name.to_owned(), value.unwrap_or_default())).into_iter().unzip();
        super::csv(head, std::iter::once(row))
    }
}

/// What a reservation would have taken from others, by reserved GPU-hour.
struct Displaced {
    spot: Price,
    on_demand: Price,
    both: Price,
    without_room: u128,
    since: Instant,
}

/// Answers.
pub fn advise(
    reader: &dyn Reader,
    question: &AdviceQuestion,
    goes_on: impl FnMut(Instant) -> bool,
) -> Result<AdviceReport, PlanError> {
    let displaced =
        question.past.as_ref().map(|past| displaced(reader, question, past, goes_on)).transpose()?;
    let risk = match &question.forecast {
        Ok(forecast) => match compute(reader, forecast, Some((question.draft.gpus, question.within))) {
            Ok(computed) => Ok(computed.risk()),
            Err(error @ PlanError::HistoryTooShort { .. }) => Err(error.to_string()),
            Err(error) => return Err(error),
        },
        Err(why) => Err(why.clone()),
    };
    let AdviceQuestion { as_of, draft, currency, shortage, fits_until, .. } = question;
    let fits = shortage.is_none();
    let answer = verdict(draft, shortage.as_ref(), *fits_until, displaced.as_ref());
    let price = |of: fn(&Displaced) -> Price| displaced.as_ref().map(|it| of(it).to_string());
    let (stock_out_risk, no_risk_because) = match risk {
        Ok(risk) => (Some(risk), None),
        Err(why) => (None, Some(why)),
    };
    Ok(AdviceReport {
        as_of: as_of.clone(),
        question: draft.clone(),
        answer,
        says: sentence(question, answer, displaced.as_ref()),
        currency: currency.to_string(),
        fits,
        largest_gpus: shortage.map_or(draft.gpus, |shortage| shortage.fits),
        fits_until: fits_until.map(|at| at.to_string()),
        earliest_start: match shortage {
            None => Some(draft.from.to_string()),
            Some(shortage) => shortage.earliest_start.map(|at| at.to_string()),
        },
        break_even_price: price(|it| it.both),
        spot_lost_per_gpu_hour: price(|it| it.spot),
        on_demand_lost_per_gpu_hour: price(|it| it.on_demand),
        on_demand_without_room: displaced.as_ref().map(|it| hours(it.without_room)),
        past_start: displaced.as_ref().map(|it| it.since.to_string()),
        stock_out_risk,
        no_risk_because,
    })
}

fn verdict(
    draft: &AdviceDraft,
    shortage: Option<&Shortage>,
    fits_until: Option<Instant>,
    displaced: Option<&Displaced>,
) -> Verdict {
    match shortage {
        Some(it) if it.fits > 0 || it.earliest_start.is_some() || fits_until.is_some() => Verdict::Otherwise,
        Some(_) => Verdict::No,
        // Without a past nobody was displaced yet.
        None => match (draft.price, displaced) {
            (Some(offered), Some(displaced)) if offered >= displaced.both => Verdict::Yes,
            (Some(_), None) => Verdict::Yes,
            _ => Verdict::AtPrice,
        },
    }
}

/// What as many GPUs fewer would have taken from spot and on-demand.
fn displaced(
    reader: &dyn Reader,
    question: &AdviceQuestion,
    (what_if, taken): &(WhatIf, Taken),
    goes_on: impl FnMut(Instant) -> bool,
) -> Result<Displaced, PlanError> {
    let past = what_if.within();
    let draft = &question.draft;
    let spot = loss(reader, what_if, &draft.pool, goes_on)?;
    let mut without_room: u128 = 0;
    for (step, usage) in taken.together() {
        let length = u128::try_from(step.milliseconds()).unwrap_or(0);
        let wanted = u128::from(draft.gpus).saturating_mul(length);
        let first = usage.reserved().saturating_add(usage.on_demand);
        let short = first.saturating_add(wanted).saturating_sub(usage.usable());
        without_room = without_room.saturating_add(short.min(usage.on_demand));
    }
    let list = question.list_price.map_or(0, |price| i128::from(price.nanos()));
    let on_demand = i128::try_from(without_room).ok().and_then(|gpu_ms| list.checked_mul(gpu_ms));
    let on_demand = on_demand.ok_or_else(out_of_range)?;
    let gpu_ms = i128::from(draft.gpus).saturating_mul(i128::from(past.milliseconds()));
    // Fewer GPUs can raise the price so far that spot brings more: then it displaces nothing that paid.
    let per_hour = |nano_ms: i128| per_gpu_hour(nano_ms.max(0), gpu_ms);
    let _in_range = amount(spot)?;
    Ok(Displaced {
        spot: per_hour(spot)?,
        on_demand: per_hour(on_demand)?,
        both: per_hour(spot.max(0).checked_add(on_demand).ok_or_else(out_of_range)?)?,
        without_room,
        since: past.start(),
    })
}

fn out_of_range() -> PlanError {
    PlanError::Invalid("the sums are out of range: ask for fewer GPUs or a shorter time".to_owned())
}

/// Nano-currency an hour times milliseconds by GPU-milliseconds: rounded up to a nano, so that it is no loss.
fn per_gpu_hour(nano_ms: i128, gpu_ms: i128) -> Result<Price, PlanError> {
    let up = nano_ms.checked_add(gpu_ms.saturating_sub(1)).and_then(|sum| sum.checked_div(gpu_ms));
    let nanos = up.and_then(|nanos| i64::try_from(nanos).ok());
    nanos.and_then(|nanos| Price::from_nanos(nanos).ok()).ok_or_else(out_of_range)
}

fn sentence(question: &AdviceQuestion, answer: Verdict, displaced: Option<&Displaced>) -> String {
    let AdviceQuestion { draft, currency, shortage, fits_until, .. } = question;
    let gpus = draft.gpus;
    match (answer, displaced) {
        (Verdict::Yes, Some(it)) => {
            let (spot, on_demand) = (it.spot, it.on_demand);
            format!(
                "yes: {gpus} GPUs fit, and displace {spot} of spot and {on_demand} of on-demand per GPU-hour, in {currency}"
            )
        }
        (Verdict::Yes, None) => {
            format!("yes: {gpus} GPUs fit, and there is no past in which they displaced anybody")
        }
        (Verdict::AtPrice, Some(it)) => {
            let from = it.both;
            format!("{gpus} GPUs fit, and pay from {from} {currency} per reserved GPU-hour on")
        }
        (Verdict::AtPrice, None) => {
            format!("{gpus} GPUs fit, and any price pays: there is no past in which they displaced anybody")
        }
        (Verdict::Otherwise | Verdict::No, _) => {
            let short = shortage.map(|shortage| shortage.to_string()).unwrap_or_default();
            let until = fits_until.map(|at| format!("; all of it fits until {at}")).unwrap_or_default();
            format!("no: {short}{until}")
        }
    }
}
