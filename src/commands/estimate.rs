//! `hourglass estimate`: what GPUs would cost, by the function that rates usage.

use hourglass_consumers::billing::report::AsOf;
use hourglass_ledger::cell::Clock;
use hourglass_ledger::core::estimate::{Estimate, Plan, PlanMode, earliest_start, estimate};
use hourglass_pricing::PurchaseModel;
use hourglass_pricing::reservation::Payment;
use hourglass_units::{Amount, Currency, HOUR_MILLISECONDS, Instant, Platform, Price, ProjectId, TenantId};
use serde::Serialize;

use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{Format, answer, log_progress, table};
use crate::wire;

/// What GPUs would cost: at list prices, or by a tenant's contract with what it has used already.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// On which GPU platform
    #[arg(long)]
    platform: Platform,
    /// How they are sold: on_demand, reserved or spot
    #[arg(long)]
    model: PurchaseModel,
    /// How many
    #[arg(long)]
    gpus: u32,
    #[command(flatten)]
    end: EndArgs,
    /// From when [default: now; a reservation with the next full hour]
    #[arg(long, value_name = "TIME", value_parser = super::instant)]
    from: Option<Instant>,
    #[command(flatten)]
    terms: TermsArgs,
    /// For which project, where rules of the contract name any
    #[arg(long)]
    project: Option<ProjectId>,
    /// Of spot: never more than this per GPU-hour
    #[arg(long, value_name = "PRICE", value_parser = price)]
    limit: Option<Price>,
    #[command(flatten)]
    payment: PaymentArgs,
}

/// Until when.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct EndArgs {
    /// For so many hours
    #[arg(long)]
    hours: Option<u32>,
    /// Until when
    #[arg(long, value_name = "TIME", value_parser = super::instant)]
    until: Option<Instant>,
}

/// By whose prices.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct TermsArgs {
    /// By this tenant's contract, usage and credit
    #[arg(long)]
    tenant: Option<TenantId>,
    /// At the list prices of this currency
    #[arg(long)]
    currency: Option<Currency>,
}

/// How a reservation would be paid for: one of them.
#[derive(Debug, clap::Args)]
struct PaymentArgs {
    /// Of reserved: all when it is bought, so much per GPU-hour
    #[arg(long, value_name = "PRICE", value_parser = price, group = "payment")]
    upfront: Option<Price>,
    /// Of reserved: all when it is bought, so much in total
    #[arg(long, value_name = "AMOUNT", value_parser = amount, group = "payment")]
    upfront_total: Option<Amount>,
    /// Of reserved: each month its hours, so much per GPU-hour
    #[arg(long, value_name = "PRICE", value_parser = price, group = "payment")]
    monthly: Option<Price>,
    /// Of reserved: each month its hours at this price, and used hours at that of --usage
    #[arg(long, value_name = "PRICE", value_parser = price, group = "payment", requires = "usage")]
    holding: Option<Price>,
    /// Of reserved: what a used hour costs beside --holding
    #[arg(long, value_name = "PRICE", value_parser = price, requires = "holding")]
    usage: Option<Price>,
}

fn price(text: &str) -> Result<Price, String> {
    Price::parse(text).map_err(|error| error.to_string())
}

fn amount(text: &str) -> Result<Amount, String> {
    Amount::parse(text).map_err(|error| error.to_string())
}

impl PaymentArgs {
    fn payment(&self) -> Option<Payment> {
        let Self { upfront, upfront_total, monthly, holding, usage } = *self;
        let upfront = upfront.map(|price| Payment::Upfront { price });
        let total = upfront_total.map(|total| Payment::UpfrontTotal { total });
        let monthly = monthly.map(|price| Payment::Monthly { price });
        let flex = holding.zip(usage).map(|(holding, usage)| Payment::Flex { holding, usage });
        upfront.or(total).or(monthly).or(flex)
    }
}

/// An estimate, as of a log position: what HTTP answers too.
#[derive(Debug, Serialize)]
struct Answer {
    as_of: AsOf,
    #[serde(flatten)]
    estimate: Estimate,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let mode = mode(&args)?;
    let (_reader, loaded) = wire::read_ledger(settings, log_progress("reading the ledger"))?;
    let state = &loaded.state;
    let now = wire::WallClock.now().max(state.now());
    let from = args.from.unwrap_or_else(|| earliest_start(&mode, now));
    let hours = i64::from(args.end.hours.unwrap_or_default());
    let until =
        args.end.until.unwrap_or_else(|| from.saturating_add_ms(hours.saturating_mul(HOUR_MILLISECONDS)));
    let Args { platform, gpus, terms: TermsArgs { tenant, currency }, project, .. } = args;
    let plan = Plan { tenant, currency, project, platform, mode, gpus, from: Some(from), until };
    let estimate = estimate(state, &plan).map_err(|rejection| Failure::Rejected(rejection.to_string()))?;
    answer(format, &Answer { as_of: AsOf::of(state), estimate }, text)
}

fn mode(args: &Args) -> Result<PlanMode, Failure> {
    match (args.model, args.limit, args.payment.payment()) {
        (PurchaseModel::OnDemand, None, None) => Ok(PlanMode::OnDemand),
        (PurchaseModel::Spot, limit, None) => Ok(PlanMode::Spot { limit }),
        (PurchaseModel::Reserved, None, Some(payment)) => Ok(PlanMode::Reserved { payment }),
        _ => Err(Failure::Usage(
            "--model reserved needs one of --upfront, --upfront-total, --monthly and --holding with --usage; \
             --model spot can have --limit; --model on_demand has none of them"
                .to_owned(),
        )),
    }
}

fn text(answer: &Answer) -> String {
    let Estimate { currency, from, until, quantity, parts, at_unit_prices, fees, total, credit } =
        &answer.estimate;
    let rows = parts.iter().map(|part| {
        let texts = [part.quantity.to_string(), part.price.to_string(), part.amount.to_string()];
        std::iter::once(part.period.to_string()).chain(texts).collect()
    });
    let parts = table(&["period", "GPU-hours", "price", "amount"], &[1, 2, 3], rows);
    let sums = [
        ("at these prices", at_unit_prices),
        ("fees of the reservation", fees),
        ("total, by all rules", total),
        ("of which credit pays", credit),
    ];
    let sums = sums.map(|(what, amount)| vec![what.to_owned(), amount.to_string(), currency.to_string()]);
    format!(
        "{quantity} GPU-hours from {from} until {until}\n{parts}\n{}\nas of {} (position {})",
        table(&["", "amount", "currency"], &[1], sums),
        answer.as_of.time,
        answer.as_of.position
    )
}
