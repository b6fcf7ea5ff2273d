//! Benchmarks: `cargo xtask bench [NAME …] [--json] [--quick]`.
//!
//! Each figure is a median of several runs and stands beside a ceiling that was measured in the same
//! run, on the same data: what the machine gives when nothing but the unavoidable is done. The ratio
//! says more than the figure, because machines differ and are noisy.
//!
//! | name | what is measured | ceiling |
//! |---|---|---|
//! | `metering` | decode, union, rate, aggregate: one thread, in-order reports of 100,000 instances | decoding the same batches with prost |
//! | `pricing` | coverage cut by price and hour; an invoice of 1 M charge rows; the preview of a re-rating of 10 M lines from a ledger in PostgreSQL; what a line was computed from | of the cuts: the same days cut by hours alone |
//! | `quota` | decisions on a tree of depth 4 with 100,000 nodes: the tree and its holds; the whole core | four counters of a random node, read and written |
//! | `admission` (part of `quota`) | quota over gRPC, durable in PostgreSQL, 64 clients: reserve and commit, check | counters in rows of the same database, locked by whoever takes |
//! | `embedded` | decode, decide, commit with synchronous=FULL, accrual: batches of 1,000 | the same compressed batches written raw into SQLite: each in a commit of its own, and as many a commit as the cell had |
//! | `memory` | bytes of state a running instance, with 1,000,000 of them | – |
//! | `serve` | JetStream to priced, durable in PostgreSQL, posted, acknowledged: messages of 1,000 | a bare pipe that moves the same messages from JetStream into rows, as many a commit as the cell had; and, side by side, a hand-written ledger with a row a record |
//! | `latency` (part of `serve`) | publish to visible in a tenant's balance at 100,000 records/s, 1,000,000 instances; the close of an hour | the pace that was wanted |
//! | `restart` (part of `serve`) | from `kill -9` of `hourglass serve` to the first commit of the next one, 1,000,000 instances running | – |
//! | `market` | clearings of 10,000 bids and of 100,000 in 64 pools, a hundredth of them new; the bound of their welfare; listings of 10,000 units, taken in by the core: one thread | of the bound: the clearing; of a listing: the comparison alone |
//! | `welfare` | welfare beside the exact optimum, on random books: one thread | HiGHS, on the same books |
//! | `successor` | from the end of a victim's notice to its successor RUNNING in the log, less the cloud's own times: cell, driver and simulated cloud over gRPC | notice, stop and boot |
//! | `feed` | a price tick from the request to clear to 10,000 SSE clients of `hourglass up`; its memory a client | a bare loop of another process that writes the same bytes to as many sockets |
//! | `backtest` | a month of 100,000 jobs on 2,048 GPUs, in virtual time: one thread | – |
//! | `billing` | the customer billing API by HTTP, client and server on the same cores: usage of 90 days of 1,000 instances by day, and balances | the same sums by the store; an answer that reads nothing |
//! | `export` | the FOCUS export of a month of 1,400 instances from SQLite, to Parquet and to CSV; the most memory that it takes | the parquet and the csv crate alone, on the same values |
//! | `recovery` | folding a log of 10,000,000 records: cold, and from a snapshot | decoding the same batches with prost |

#![expect(clippy::float_arithmetic, reason = "figures are not money")]
#![expect(clippy::disallowed_methods, reason = "measuring time is what this program is for")]
#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot run has nothing better to do than to say so"
)]
#![expect(clippy::print_stdout, reason = "figures are the answer of this program")]

mod backtest;
mod billing;
mod embedded;
mod export;
mod feed;
mod figure;
mod market;
mod memory;
mod metering;
mod pricing;
mod production;
mod quota;
mod workload;

use figure::Figure;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The ceiling of `feed` is a process of its own, as the server is.
    if let [only] = args.as_slice()
        && only == feed::BROADCASTER
    {
        return feed::broadcast();
    }
    let json = args.iter().any(|arg| arg == "--json");
    let quick = args.iter().any(|arg| arg == "--quick");
    let names: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with("--")).collect();
    type Bench = (&'static str, fn(bool) -> Vec<Figure>);
    // Memory comes first: later, what the others have freed would be used again unseen.
    let benches: [Bench; 16] = [
        ("memory", memory::run),
        ("metering", metering::run),
        ("pricing", pricing::run),
        ("quota", quota::run),
        ("market", market::run),
        ("welfare", market::welfare),
        ("successor", market::successor),
        ("feed", feed::run),
        ("backtest", backtest::run),
        ("admission", production::admission),
        ("embedded", embedded::run),
        ("export", export::run),
        ("billing", billing::run),
        ("serve", production::serve),
        ("latency", production::latency),
        ("restart", production::restart),
    ];
    let known = |name: &&str| *name == "recovery" || benches.iter().any(|(bench, _)| bench == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        eprintln!(
            "no benchmark is called {unknown:?}: choose among metering, pricing, quota, market, welfare, successor, feed, backtest, admission, embedded, recovery, export, billing, memory, serve, latency and restart"
        );
        std::process::exit(2);
    }
    let mut figures = Vec::new();
    for (name, run) in benches {
        // Recovery needs the log that `embedded` writes, so they are one; `serve` is all of usage in
        // production, `quota` all of quota.
        let with = match name {
            "embedded" => "recovery",
            "admission" => "quota",
            "latency" | "restart" => "serve",
            alone => alone,
        };
        let wanted = names.is_empty() || names.contains(&name) || names.contains(&with);
        if wanted {
            eprintln!("{name} …");
            figures.extend(run(quick));
        }
    }
    if json {
        figures.iter().for_each(|figure| println!("{}", figure.to_json()));
    } else {
        println!("{}", figure::table(&figures));
    }
}
