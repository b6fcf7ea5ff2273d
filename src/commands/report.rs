//! `hourglass report`: statements of the book.

use hourglass_consumers::billing::report::AsOf;
use hourglass_consumers::finance::reports::ageing::{
    OpenInvoices, ReceivablesAgeing, TERMS_DAYS, receivables_ageing,
};
use hourglass_consumers::finance::reports::deferred::{
    DeferredRevenue, DeferredTotal, PaidAhead, deferred_revenue,
};
use hourglass_consumers::finance::reports::reconcile::{Claims, Reconciliation, reconcile};
use hourglass_consumers::finance::reports::revenue::{Revenue, RevenueBy, RevenueQuery, revenue};
use hourglass_consumers::finance::reports::trial::{TrialBalance, When, trial_balance};
use hourglass_consumers::finance::reports::{Book, ReportError, Tabular};
use hourglass_consumers::finance::span::last_before;
use hourglass_ledger::core::{Position, State};
use hourglass_ledger::load::load_until;
use hourglass_ledger::store::Reader;
use hourglass_units::{Instant, Month};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::instant;
use crate::client::{Client, Server, not_understood};
use crate::config::Resolved;
use crate::failure::Failure;
use crate::output::{self, Format, answer, log_progress, table};
use crate::wire;

/// Statements of the book: trial balance, deferred revenue, receivables, revenue, reconciliation.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --server these read the data directory; with it they ask that cell, with the credential in HOURGLASS_TOKEN, or \
the operator's token in HOURGLASS_OPERATOR_TOKEN.")]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What stands on each account, debits equal to credits
    TrialBalance(Trial),
    /// What was paid ahead for reservations, and month by month what is earned of it
    DeferredRevenue(Deferred),
    /// What customers owe on invoices, by how long it is overdue
    ReceivablesAgeing(Ageing),
    /// What was earned, by month, tenant, platform and how it was sold
    Revenue(RevenueArgs),
    /// Compare journal, balances and invoices to the last digit: exit code 1 where they differ
    Reconcile(Reconcile),
}

/// How to print it.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Print {
    /// For people
    Table,
    /// For spreadsheets
    Csv,
}

#[derive(Debug, clap::Args)]
struct Trial {
    /// What was booked before this time [default: all of it]
    #[arg(long, value_name = "TIME", value_parser = instant, conflicts_with = "position")]
    at: Option<Instant>,
    /// What was booked up to this log position
    #[arg(long)]
    position: Option<u64>,
    /// Show what was booked from this time on apart
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<Instant>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Print::Table)]
    format: Print,
}

#[derive(Debug, clap::Args)]
struct Deferred {
    /// As it was then [default: now]; on a data directory only
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<Instant>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Print::Table)]
    format: Print,
}

#[derive(Debug, clap::Args)]
struct Ageing {
    /// As it was then [default: now]; on a data directory only
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<Instant>,
    /// Days in which an invoice is to be paid after it was issued
    #[arg(long, default_value_t = TERMS_DAYS)]
    terms_days: u16,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Print::Table)]
    format: Print,
}

#[derive(Debug, clap::Args)]
struct RevenueArgs {
    /// What to keep apart, with commas: month, tenant, platform, model
    #[arg(long, value_delimiter = ',', default_value = "month,tenant,platform,model")]
    by: Vec<RevenueBy>,
    /// Only what was booked in this UTC month
    #[arg(long, value_name = "YYYY-MM", conflicts_with_all = ["from", "until"])]
    period: Option<Month>,
    /// Only what was booked from this time on
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<Instant>,
    /// Only what was booked before this time
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<Instant>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Print::Table)]
    format: Print,
}

#[derive(Debug, clap::Args)]
struct Reconcile {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Print::Table)]
    format: Print,
}

/// Runs the command.
pub fn run(args: Args, settings: &Resolved, format: Format) -> Result<(), Failure> {
    let client = args.server.client()?;
    let source = Source { client: client.as_ref(), settings };
    match args.what {
        What::TrialBalance(args) => trial(&args, &source, format),
        What::DeferredRevenue(Deferred { at, format: print }) => {
            let report: DeferredRevenue = match source.client {
                Some(client) => ask(client, at, "deferred-revenue")?,
                None => {
                    source.read(at, |reader, state| deferred_revenue(reader, &PaidAhead::of(state, None)))?
                }
            };
            let notes = report.totals.iter().map(|it| {
                let DeferredTotal { tenant, currency, remaining, not_posted, book, difference } = it;
                format!(
                    "{tenant}: {remaining} {currency} left, {not_posted} of it not posted yet, {book} in the book, \
                     difference {difference}"
                )
            });
            show(&report, print, format, &notes.chain([as_of(&report.as_of)]).collect::<Vec<_>>())
        }
        What::ReceivablesAgeing(Ageing { at, terms_days, format: print }) => {
            let report: ReceivablesAgeing = match source.client {
                Some(client) => ask(client, at, &format!("receivables-ageing?terms_days={terms_days}"))?,
                None => source.read(at, |reader, state| {
                    receivables_ageing(reader, &OpenInvoices::of(state), terms_days, at)
                })?,
            };
            let terms = format!("to be paid {terms_days} days after they were issued, aged at {}", report.at);
            show(&report, print, format, &[terms, as_of(&report.as_of)])
        }
        What::Revenue(args) => earned(&args, &source, format),
        What::Reconcile(Reconcile { format: print }) => {
            let report: Reconciliation = match source.client {
                Some(client) => ask(client, None, "reconciliation")?,
                None => source.read(None, |reader, state| reconcile(reader, &Claims::of(state)?))?,
            };
            let says = |agrees| if agrees { "journal, balances and invoices agree" } else { "they differ" };
            let mut notes: Vec<String> = report
                .differences
                .iter()
                .map(|it| {
                    format!("{}: {} is {} and {} {}", it.check, it.account, it.left, it.right, it.currency)
                })
                .collect();
            notes.extend([says(report.agrees).to_owned(), as_of(&report.as_of)]);
            show(&report, print, format, &notes)?;
            if report.agrees {
                Ok(())
            } else {
                Err(Failure::Unsound("the books do not reconcile".to_owned()))
            }
        }
    }
}

/// Where the figures come from.
struct Source<'a> {
    client: Option<&'a Client>,
    settings: &'a Resolved,
}

impl Source<'_> {
    /// Draws a report from the ledger as it is, or was.
    fn read<T>(
        &self,
        at: Option<Instant>,
        draw: impl FnOnce(&dyn Reader, &State) -> Result<T, ReportError>,
    ) -> Result<T, Failure> {
        let (reader, state) = match at {
            None => {
                let (reader, loaded) = wire::read_ledger(self.settings, log_progress("reading the ledger"))?;
                (reader, loaded.state)
            }
            Some(at) => {
                let reader = wire::open_reader(self.settings)?;
                let position = last_before(reader.as_ref(), reader.head()?.position, at)?;
                let state = load_until(reader.as_ref(), position)?.state;
                (reader, state)
            }
        };
        draw(reader.as_ref(), &state).map_err(failed)
    }
}

fn failed(error: ReportError) -> Failure {
    match error {
        ReportError::Store(error) => error.into(),
        ReportError::TooManyRows => Failure::Usage(error.to_string()),
        ReportError::Overflow => Failure::Unavailable(error.to_string()),
    }
}

fn ask<T: DeserializeOwned>(client: &Client, at: Option<Instant>, path: &str) -> Result<T, Failure> {
    if at.is_some() {
        let how = "--at folds the log up to a time, so it needs the data directory: leave --server out";
        return Err(Failure::Usage(how.to_owned()));
    }
    let value = client.get(&format!("/v1/reports/{path}"))?;
    serde_json::from_value(value).map_err(|error| not_understood(&error))
}

fn as_of(as_of: &AsOf) -> String {
    format!("as of {} (position {})", as_of.time, as_of.position)
}

/// Prints a report: CSV where it is asked for, else as all answers.
fn show<T: Tabular + Serialize>(
    report: &T,
    print: Print,
    format: Format,
    notes: &[String],
) -> Result<(), Failure> {
    match (print, format) {
        (Print::Csv, Format::People) => {
            let csv = report.table().to_csv().map_err(|error| Failure::Unavailable(error.to_string()))?;
            output::raw(&csv)
        }
        _ => answer(format, report, |report| {
            let it = report.table();
            format!("{}\n{}", table(it.head, it.numbers, it.rows), notes.join("\n"))
        }),
    }
}

fn trial(args: &Trial, source: &Source<'_>, format: Format) -> Result<(), Failure> {
    let Trial { at, position, from, format: print } = *args;
    if from.zip(at).is_some_and(|(from, at)| at <= from) {
        return Err(Failure::Usage("--at must be after --from".to_owned()));
    }
    let report: TrialBalance = match source.client {
        Some(client) => {
            let query = [
                at.map(|at| format!("end={at}")),
                position.map(|position| format!("position={position}")),
                from.map(|from| format!("start={from}")),
            ];
            let query = query.into_iter().flatten().collect::<Vec<_>>().join("&");
            ask(client, None, &format!("trial-balance?{query}"))?
        }
        None => {
            let when = When { end: at, position: position.map(Position::new), start: from };
            source.read(None, |reader, state| trial_balance(reader, &Book::of(state), when))?
        }
    };
    let totals = report
        .totals
        .iter()
        .map(|it| format!("{} {} = {} {}", it.debit, it.currency, it.credit, it.currency));
    show(&report, print, format, &totals.chain([as_of(&report.as_of)]).collect::<Vec<_>>())
}

fn earned(args: &RevenueArgs, source: &Source<'_>, format: Format) -> Result<(), Failure> {
    let RevenueArgs { by, period, from, until, format: print } = args;
    let (start, end) = match period {
        Some(month) => (Some(month.start()), Some(month.end())),
        None => (*from, *until),
    };
    if start.zip(end).is_some_and(|(start, end)| end <= start) {
        return Err(Failure::Usage("--until must be after --from".to_owned()));
    }
    let report: Revenue = match source.client {
        Some(client) => {
            let names: Vec<&str> = by.iter().map(|by| by.as_str()).collect();
            let mut query = format!("revenue?group_by={}", names.join(","));
            query.extend(start.map(|start| format!("&start={start}")));
            query.extend(end.map(|end| format!("&end={end}")));
            ask(client, None, &query)?
        }
        None => {
            let query = RevenueQuery { by: by.clone(), start, end };
            source.read(None, |reader, state| revenue(reader, state.position(), &query))?
        }
    };
    show(&report, *print, format, &[as_of(&report.as_of)])
}
