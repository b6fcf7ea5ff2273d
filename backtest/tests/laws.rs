//! Laws that hold for any trace. The engine checks its own rules at each clearing and at the close (supply,
//! prices, every GPU-second once, one end for each job), so that each run here tries them too.

use hourglass_backtest::engine::{JobState, Outcome};
use hourglass_backtest::{Policy, Report, Supply, Trace, backtest};
use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

use hourglass_test_chance::Chance;

/// A small market, made up from a seed so that jobs get in each other's way.
#[derive(Debug, Clone)]
struct Case {
    trace: String,
    supply: String,
    policy: String,
    until: Option<u64>,
}

const POOLS: [&str; 3] = ["r/h100/a", "r/h100/b", "r/h200/a"];

fn cases() -> impl Strategy<Value = Case> {
    proptest::num::u64::ANY.prop_map(|seed| {
        let chance = &mut Chance(seed);
        let trace = trace(chance);
        let supply = supply(chance);
        let until = (chance.below(4) == 0).then(|| chance.below(2_000));
        let policy = policy(chance, chance_of(seed), until);
        Case { trace, supply, policy, until }
    })
}

fn chance_of(seed: u64) -> u64 {
    Chance(seed).below(1_000)
}

fn trace(chance: &mut Chance) -> String {
    let mut text = String::from(
        "timestamp,duration,num_gpus,gpus_per_unit,min_units,max_units,limit,pools,checkpoint_s\n",
    );
    for _ in 0..1 + chance.below(30) {
        let (unit, most) = (1 + chance.below(2), 1 + chance.below(4));
        let least = 1 + chance.below(most);
        let limit = if chance.below(4) == 0 { String::new() } else { format!("{}.5", 1 + chance.below(5)) };
        let pool = |chance: &mut Chance| POOLS[usize::try_from(chance.below(3)).unwrap()];
        let pools = match (chance.below(3), pool(chance), pool(chance)) {
            (0, ..) => String::new(),
            (1, one, other) if one != other => format!("{one};{other}"),
            (_, one, _) => one.to_owned(),
        };
        let checkpoint = if chance.below(3) == 0 { String::new() } else { chance.below(90).to_string() };
        let (at, duration) = (chance.below(1_200), 1 + chance.below(400));
        let gpus = unit * most;
        text += &format!("{at},{duration},{gpus},{unit},{least},{most},{limit},{pools},{checkpoint}\n");
    }
    text
}

fn supply(chance: &mut Chance) -> String {
    let mut text = String::new();
    for name in POOLS {
        text +=
            &format!("[[pools]]\nname = \"{name}\"\ngpus = {}\ncapacity = 16\nchanges = [", chance.below(9));
        let mut at = 0;
        for _ in 0..chance.below(6) {
            at += 1 + chance.below(400);
            text += &format!("{{ at = {at}, gpus = {} }},", chance.below(12));
        }
        text += "]\n";
    }
    text
}

fn policy(chance: &mut Chance, seed: u64, until: Option<u64>) -> String {
    let until = until.map(|until| format!("until = {until}\n")).unwrap_or_default();
    let (margin, tick) = (chance.below(30), 1 + chance.below(60));
    let (notice, boot, checkpoint) = (chance.below(90), chance.below(30), chance.below(90));
    let mode = ["greedy", "exact"][usize::try_from(chance.below(2)).unwrap()];
    format!(
        "{until}seed = {seed}\nmargin = {margin}\ntick_seconds = {tick}\nnotice_seconds = {notice}\n\
         boot_seconds = {boot}\ncheckpoint_seconds = {checkpoint}\ngang_max = 75\n\
         reserve = {{ shape = \"steps\", points = [{{ utilisation = \"0\", price = \"0.50\" }}, \
         {{ utilisation = \"80\", price = \"2.00\" }}] }}\n\
         pools.\"r/h200/a\".mode = \"{mode}\"\n\
         jobs.pools_per_job = 2\n\
         jobs.limit = {{ distribution = \"uniform\", from = \"0.30\", to = 5 }}\n"
    )
}

fn run(case: &Case) -> Outcome {
    let policy = Policy::parse(&case.policy).unwrap();
    let (trace, supply) = (Trace::parse(&case.trace).unwrap(), Supply::parse(&case.supply).unwrap());
    backtest(&trace, &supply, &policy, &mut |_, _| {}).unwrap_or_else(|error| panic!("{error}\n{case:?}"))
}

/// Single units of one GPU with one limit in one pool, whose supply never changes.
fn plain(gpus: u64, jobs: &[(u64, u64)], until: u64) -> Outcome {
    let rows: String = jobs.iter().map(|(at, duration)| format!("{at},{duration},1,2\n")).collect();
    run(&Case {
        trace: format!("timestamp,duration,num_gpus,limit\n{rows}"),
        supply: format!("[[pools]]\nname = \"r/h100/a\"\ngpus = {gpus}\n"),
        policy: format!(
            "until = {until}\ntick_seconds = 7\nnotice_seconds = 5\nboot_seconds = 3\n\
             reserve = {{ shape = \"steps\", points = [{{ utilisation = \"0\", price = \"1\" }}] }}\n\
             jobs.limit = {{ distribution = \"fixed\", price = \"2\" }}\n"
        ),
        until: Some(until),
    })
}

proptest! {
    /// Nothing is lost on the way: jobs, GPU-seconds, money.
    #[test]
    fn everything_is_accounted_for(case in cases()) {
        let outcome = run(&case);
        let rows = case.trace.lines().count() - 1;
        prop_assert_eq!(outcome.jobs.len(), rows);
        for pool in &outcome.pools {
            prop_assert_eq!(pool.supply, pool.worked + pool.booting + pool.idle);
        }
        prop_assert!(outcome.welfare <= outcome.welfare_bound);
        for job in &outcome.jobs {
            match job.state {
                // What a job has done beyond its work is less than a second of its GPUs (at most 8).
                JobState::Completed { at } => {
                    let kept = job.worked - job.lost;
                    prop_assert!(kept >= job.work && kept < job.work + 8);
                    prop_assert!(job.first_start.is_some_and(|start| start >= job.arrives && start < at));
                }
                JobState::Running => prop_assert!(case.until.is_some()),
                JobState::Waiting => prop_assert!(job.worked - job.lost < job.work),
                JobState::Unborn => prop_assert_eq!(job.worked, 0),
            }
        }
        if case.until.is_none() {
            prop_assert!(outcome.jobs.iter().all(|job| job.state != JobState::Unborn));
        }
        let report = Report::of(&outcome, &Supply::parse(&case.supply).unwrap());
        let it = report.jobs;
        prop_assert_eq!(it.all, it.completed + it.running + it.waiting + it.unborn);
        prop_assert_eq!(report.waiting.iter().map(|decile| decile.jobs).sum::<u64>(), it.all - it.unborn);
    }

    /// The same input gives the same outcome, in whatever order the file names jobs of different seconds.
    #[test]
    fn a_run_repeats(case in cases()) {
        let outcome = run(&case);
        prop_assert_eq!(&outcome, &run(&case));
        let mut lines = case.trace.lines();
        let head = lines.next().unwrap_or_default();
        let mut rows: Vec<&str> = lines.collect();
        rows.sort_by_key(|row| row.split(',').next().and_then(|at| at.parse::<u64>().ok()));
        let sorted = Case { trace: format!("{head}\n{}\n", rows.join("\n")), ..case.clone() };
        prop_assert_eq!(&outcome, &run(&sorted));
    }

    /// The shorter the time between checkpoints, the less there is to lose: with none, nothing.
    #[test]
    fn without_an_interval_nothing_is_lost(case in cases(), interval in 0_u64..40) {
        let rows = case.trace.lines().map(|row| {
            let (rest, _) = row.rsplit_once(',').unwrap_or_default();
            if row.ends_with("checkpoint_s") { row.to_owned() } else { format!("{rest},{interval}") }
        });
        let case = Case { trace: rows.collect::<Vec<_>>().join("\n"), ..case };
        let outcome = run(&case);
        let stops = outcome.stops.preempted.sum() + outcome.stops.shrunk.sum();
        let lost: u128 = outcome.jobs.iter().map(|job| job.lost).sum();
        // Each stop loses less than an interval of at most 8 GPUs.
        prop_assert!(lost <= u128::from(stops * interval * 8));
    }

    /// More GPUs of a pool never make a job of one unit start later, nor less work be done in time, if all
    /// limits are the same. (With gangs it may: what fits first may be in the way later.)
    #[test]
    fn more_supply_is_never_worse_for_single_units(
        jobs in proptest::collection::vec((0_u64..300, 1_u64..100), 1..40),
        gpus in 1_u64..8,
        until in 50_u64..900,
    ) {
        let (some, more) = (plain(gpus, &jobs, until), plain(gpus + 1, &jobs, until));
        let worked = |outcome: &Outcome| outcome.jobs.iter().map(|job| job.worked).sum::<u128>();
        prop_assert!(worked(&some) <= worked(&more));
        for (one, other) in some.jobs.iter().zip(&more.jobs) {
            let start = |start: Option<u64>| start.unwrap_or(u64::MAX);
            prop_assert!(start(other.first_start) <= start(one.first_start));
            prop_assert_eq!((one.lost, other.lost), (0, 0));
        }
    }
}
