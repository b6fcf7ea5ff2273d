//! `hourglass`: the commerce plane of a GPU cloud in one binary.
//!
//! This file is the command line; `commands/` has one file a command, [`wire`] builds the parts.

#![expect(unreachable_pub, reason = "in a binary, pub says what a module offers to those beside it")]

mod client;
mod clockwork;
mod commands;
mod config;
mod driving;
mod failure;
mod hooking;
mod output;
mod serving;
mod simulate;
mod telemetry;
mod transport;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    agent, backtest, balance, budget, capacity, compute_sim, credit, demo, doctor, estimate, explain, export,
    instance, invoice, key, ledger, market, metering, nats, period, price, quarantine, quota, replay, report,
    reserve, scenario, serve, spend, tax, up, usage, verify, webhook,
};
use crate::config::Settings;
use crate::output::Format;

/// Meter, price, book and invoice GPU-hours.
#[derive(Debug, Parser)]
#[command(
    name = "hourglass",
    version,
    about,
    max_term_width = 110,
    after_help = "\
Answers go to stdout, everything else to stderr. Exit codes: 0 done, 1 checked and something is wrong, \
2 the command line or a file cannot be used, 3 the ledger refused, 4 the ledger cannot be used now.
Settings: flag, then environment (HOURGLASS_…), then the file named by --config, then the default."
)]
struct CommandLine {
    #[command(flatten)]
    settings: Settings,
    /// Answer with one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a simulated region: a month of agents, prices and invoices, then a spot market that goes on
    Demo(demo::Args),
    /// Run the embedded cell: no server but this one
    Up(up::Args),
    /// Run a production cell: the ledger in PostgreSQL, usage by NATS
    Serve(serve::Args),
    /// Meter a GPU node, and report to its cell over NATS
    Agent(agent::Args),
    /// Simulate the compute API of a GPU cloud, with every way in which it fails
    ComputeSim(compute_sim::Args),
    /// Users of the NATS server for agents and cells
    Nats(nats::Args),
    /// Play a real trace into an empty ledger
    Replay(replay::Args),
    /// Play a text file of what happens into an empty cell: to test a rule, or try a contract
    Scenario(scenario::Args),
    /// Run a trace of jobs against pools and a market policy, in virtual time
    Backtest(backtest::Args),
    /// GPU-hours and what they cost, by time and group
    Usage(usage::Args),
    /// Where every reported millisecond is: billed, excluded, in suspense
    Metering(metering::Args),
    /// Balances of the book
    Balance(balance::Args),
    /// What GPUs would cost, before they are used
    Estimate(estimate::Args),
    /// How a charge or an invoice line was computed, down to the reports that it rests on
    Explain(explain::Args),
    /// Invoices: list, show, draft, finalise, pay, void, credit, recompute
    Invoice(invoice::Args),
    /// Where a tenant's billing period stands and ends, and how far its commitments are
    Spend(spend::Args),
    /// Credit of tenants: grant, list
    Credit(credit::Args),
    /// GPUs sold for a time: create, amend, list
    Reserve(reserve::Args),
    /// How a tenant is taxed: set, clear
    Tax(tax::Args),
    /// Instances: list, change how one is sold, void usage
    Instance(instance::Args),
    /// The log and the book behind it: head, events, transfers, charges, digest
    Ledger(ledger::Args),
    /// Prices: list, check, publish, sign, spot, re-rate
    Price(price::Args),
    /// What came as usage and could not be used: list, show, replay
    Quarantine(quarantine::Args),
    /// Limits and use, groups, spend caps, holds, requests for more, what has to stop
    Quota(quota::Args),
    /// Pools of GPUs that are sold as spot: set, list, show, prices
    Pool(market::pools::Args),
    /// Bids for spot GPUs: place, list, show, update, cancel
    Bid(market::bids::Args),
    /// The spot market: clear it, read and replay receipts, ask why
    Market(market::clears::Args),
    /// Plan capacity: series, unmet demand, forecasts, what-if, advice about reservations
    Capacity(capacity::Args),
    /// Budgets: set, list, remove
    Budget(budget::Args),
    /// Who is told what, by webhook: create, list, test, deliveries, redeliver
    Webhook(webhook::Args),
    /// API keys: create, list, revoke
    Key(key::Args),
    /// Statements of the book: trial balance, deferred revenue, receivables, revenue, reconciliation
    Report(report::Args),
    /// The months of the book: list, close
    Period(period::Args),
    /// Write the books for other systems
    Export(export::Args),
    /// Fold the whole log, check every invariant, rebuild the derived rows and compare
    Verify(verify::Args),
    /// Say what is wrong with this set-up, and how to mend it
    Doctor(doctor::Args),
    /// Print the completion script of a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let _telemetry = telemetry::start();
    let format = if line.json { Format::Json } else { Format::People };
    let done = line.settings.resolve().and_then(|settings| match line.command {
        Command::Demo(args) => demo::run(args, &settings, format),
        Command::Up(args) => up::run(args, &settings),
        Command::Serve(args) => serve::run(args, settings),
        Command::Agent(args) => agent::run(args, format),
        Command::ComputeSim(args) => compute_sim::run(args),
        Command::Nats(args) => nats::run(args, format),
        Command::Replay(args) => replay::run(args, &settings, format),
        Command::Backtest(args) => backtest::run(&args, format),
        Command::Scenario(args) => scenario::run(args, format),
        Command::Usage(args) => usage::run(args, &settings, format),
        Command::Metering(args) => metering::run(args, &settings, format),
        Command::Balance(args) => balance::run(args, &settings, format),
        Command::Estimate(args) => estimate::run(args, &settings, format),
        Command::Explain(args) => explain::run(args, &settings, format),
        Command::Invoice(args) => invoice::run(args, &settings, format),
        Command::Spend(args) => spend::run(args, &settings, format),
        Command::Credit(args) => credit::run(args, &settings, format),
        Command::Reserve(args) => reserve::run(args, &settings, format),
        Command::Tax(args) => tax::run(args, &settings, format),
        Command::Instance(args) => instance::run(args, &settings, format),
        Command::Ledger(args) => ledger::run(args, &settings, format),
        Command::Price(args) => price::run(args, &settings, format),
        Command::Quarantine(args) => quarantine::run(args, &settings, format),
        Command::Quota(args) => quota::run(args, &settings, format),
        Command::Pool(args) => market::pools::run(args, &settings, format),
        Command::Bid(args) => market::bids::run(args, &settings, format),
        Command::Market(args) => market::clears::run(args, &settings, format),
        Command::Capacity(args) => capacity::run(args, &settings, format),
        Command::Budget(args) => budget::run(args, &settings, format),
        Command::Webhook(args) => webhook::run(args, &settings, format),
        Command::Key(args) => key::run(args, &settings, format),
        Command::Export(args) => export::run(args, &settings, format),
        Command::Report(args) => report::run(args, &settings, format),
        Command::Period(args) => period::run(args, &settings, format),
        Command::Verify(args) => verify::run(args, &settings, format),
        Command::Doctor(args) => doctor::run(args, &settings, format),
        Command::Completion { shell } => {
            let mut command = <CommandLine as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "hourglass", &mut std::io::stdout());
            Ok(())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hourglass: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
