//! Small markets, worked out by hand.

use hourglass_backtest::engine::{Causes, JobState, Outcome};
use hourglass_backtest::{Policy, Report, Supply, Trace, backtest};

/// Ticks of a minute, notice of 30 s, boot of 10 s, checkpoints each 100 s of running time.
const POLICY: &str = r#"
    margin = "10"
    tick_seconds = 60
    notice_seconds = 30
    boot_seconds = 10
    checkpoint_seconds = 100
    reserve = { shape = "steps", points = [{ utilisation = "0", price = "0.50" }] }
    jobs = { limit = { distribution = "fixed", price = "1.00" } }
"#;

fn supply(gpus: u64, changes: &str) -> Supply {
    let text = format!("[[pools]]\nname = \"r/h100/f\"\ngpus = {gpus}\nchanges = [{changes}]\n");
    Supply::parse(&text).unwrap()
}

fn run(trace: &str, supply: &Supply, policy: &str) -> Outcome {
    let policy = Policy::parse(policy).unwrap();
    backtest(&Trace::parse(trace).unwrap(), supply, &policy, &mut |_, _| {}).unwrap()
}

/// One GPU. A (limit 1) bids at 0 for 300 s of work; it has the GPU at 0 and works from 10 on. B (limit 2)
/// bids at 120 for 60 s. At 120 A is told to stop; it stops at 150, after 140 s of work, and loses the
/// 40 s since its checkpoint at 110. B has the GPU at 150, works from 160 until 220. At 240, the next
/// tick, A wins again, works from 250 on for the 200 s that are left, and is done at 450.
///
/// The price is 0.50 until 120; then 1.00, A's limit, until 240; then 0.50 again.
#[test]
fn one_gpu_changes_hands_twice() {
    let trace = "timestamp,duration,num_gpus,limit\n0,300,1,1.00\n120,60,1,2.00\n";
    let supply = supply(1, "");
    let outcome = run(trace, &supply, POLICY);
    let report = Report::of(&outcome, &supply);

    let [a, b] = outcome.jobs.as_slice() else { panic!("two jobs") };
    assert_eq!(
        (a.state, a.first_start, a.worked, a.lost),
        (JobState::Completed { at: 450 }, Some(10), 340, 40)
    );
    assert_eq!(
        (b.state, b.first_start, b.worked, b.lost),
        (JobState::Completed { at: 220 }, Some(160), 60, 0)
    );
    assert_eq!(outcome.starts, 3);
    assert_eq!(outcome.stops.preempted, Causes { outbid: 1, ..Causes::default() });
    assert_eq!((outcome.opens, outcome.closes), (0, 450));
    // At 0, 120 and 240.
    assert_eq!(outcome.clearings, 3);

    let [pool] = outcome.pools.as_slice() else { panic!("one pool") };
    // Booting: 0-10, 150-160, 240-250. Idle: 220-240.
    assert_eq!((pool.supply, pool.worked, pool.booting, pool.idle), (450, 400, 30, 20));
    let prices: Vec<String> = pool.prices.iter().map(|(at, price)| format!("{at} {price}")).collect();
    assert_eq!(prices, ["0 0.5", "120 1", "240 0.5"]);
    // A pays 0.50 for 140 s (its notice at the price from before) and for 200 s, B pays 1.00 for 60 s.
    let nanos = 1_000_000_000_u128;
    assert_eq!(pool.revenue, (140 + 200) * nanos / 2 + 60 * nanos);
    // Won by limit: A 0-120, B 120-240, A 240-450; no clearing could have had more.
    assert_eq!((outcome.welfare, outcome.welfare_bound), (570 * nanos, 570 * nanos));

    assert_eq!(report.revenue.to_string(), "0.063888888");
    assert_eq!(report.utilisation.to_string(), "88.8888");
    assert_eq!(report.goodput.to_string(), "80");
    assert_eq!(report.lost.to_string(), "10");
    assert_eq!(report.preemptions.per_100_starts.outbid.to_string(), "33.33");
    let price = report.pools[0].price;
    assert_eq!((price.mean.to_string(), price.p50.to_string()), ("0.633333333".to_owned(), "0.5".to_owned()));
    assert_eq!((price.p90.to_string(), price.max.to_string()), ("1".to_owned(), "1".to_owned()));
    let waits: Vec<_> = report.waiting.iter().map(|decile| (decile.jobs, decile.p50_seconds)).collect();
    assert_eq!(waits, [(1, Some(10)), (1, Some(40))]);
}

/// Two GPUs, of which one goes at 200. From 170, a notice before, it is not for sale. A and B work from 10
/// on; at 170 B, the later one, is told to stop, works until 200 and loses the 90 s since 110. A is done at
/// 410; B wins at 420, works from 430 on, and has 200 s left: done at 630.
#[test]
fn what_shrinks_is_known_a_notice_before() {
    let trace = "timestamp,duration,num_gpus\n0,400,1\n0,300,1\n";
    let outcome = run(trace, &supply(2, "{ at = 200, gpus = 1 }"), POLICY);
    let ends: Vec<_> = outcome.jobs.iter().map(|job| (job.state, job.lost)).collect();
    assert_eq!(ends, [(JobState::Completed { at: 410 }, 0), (JobState::Completed { at: 630 }, 90)]);
    assert_eq!(outcome.stops.preempted, Causes { supply_reclaimed: 1, ..Causes::default() });
    // Two GPUs for 200 s, one for 430 s.
    assert_eq!(outcome.pools[0].supply, 830);
    // At 0, at once at 170, and at 420 for what ended at 410.
    assert_eq!(outcome.clearings, 3);
}

/// An elastic job of 1 to 4 units has 4 GPUs from 10 on. A gang of 2 with a higher limit comes at 60: two units
/// drain until 90. They did 160 GPU-seconds in 80 s, none of them saved: half of the 320. The gang works
/// from 100 until 150. At 180 the elastic job wins both back, and they work from 190 on.
#[test]
fn an_elastic_job_shrinks_and_grows() {
    let trace = "timestamp,duration,num_gpus,gpus_per_unit,min_units,max_units,limit\n\
                 0,300,4,1,1,4,1.00\n60,50,2,1,2,2,2.00\n";
    let outcome = run(trace, &supply(4, ""), POLICY);
    let [elastic, gang] = outcome.jobs.as_slice() else { panic!("two jobs") };
    assert_eq!(elastic.lost, 160);
    assert_eq!(outcome.stops.shrunk, Causes { outbid: 1, ..Causes::default() });
    assert_eq!(gang.state, JobState::Completed { at: 150 });
    // 160 done at 90; two units until 190 make 360; 840 are left for four: 210 s.
    assert_eq!(elastic.state, JobState::Completed { at: 400 });
    assert_eq!(outcome.starts, 2);
}

/// A works in pool f from 10 on. At 120 B takes it, and A moves to g, which is vacant: it has a GPU there at
/// once and has booted at 130, but does not work twice. It stops in f at 150, loses the 40 s since 110, and
/// works in g from 150 until 350.
#[test]
fn who_moves_stops_before_it_starts() {
    let pools = ["f", "g"].map(|fabric| format!("[[pools]]\nname = \"r/h100/{fabric}\"\ngpus = 1\n"));
    let supply = Supply::parse(&pools.concat()).unwrap();
    let trace = "timestamp,duration,num_gpus,limit,pools\n0,300,1,1,r/h100/f;r/h100/g\n120,60,1,2,r/h100/f\n";
    let outcome = run(trace, &supply, POLICY);
    let [a, b] = outcome.jobs.as_slice() else { panic!("two jobs") };
    assert_eq!((a.state, a.worked, a.lost), (JobState::Completed { at: 350 }, 340, 40));
    assert_eq!((b.state, b.first_start), (JobState::Completed { at: 220 }, Some(160)));
    assert_eq!((outcome.pools[1].booting, outcome.pools[1].worked), (30, 200));
    assert_eq!(outcome.starts, 3);
}

/// A limit below the reserve price never wins; the market closes when nothing can happen any more.
#[test]
fn who_can_never_win_waits() {
    let trace = "timestamp,duration,num_gpus,limit\n70,30,1,0.49\n70,30,1,0.50\n";
    let outcome = run(trace, &supply(1, ""), POLICY);
    let states: Vec<_> = outcome.jobs.iter().map(|job| job.state).collect();
    // The market opens at 60, clears at 120; the job works from 130 to 160; the last clearing is at 180.
    assert_eq!(states, [JobState::Waiting, JobState::Completed { at: 160 }]);
    assert_eq!((outcome.opens, outcome.closes), (60, 180));
}

/// The market closes at a given second, whatever goes on.
#[test]
fn the_market_closes() {
    let trace = "timestamp,duration,num_gpus\n0,30,1\n0,300,1\n200,30,1\n";
    let outcome = run(trace, &supply(1, ""), &format!("until = 150\n{POLICY}"));
    let states: Vec<_> = outcome.jobs.iter().map(|job| (job.state, job.worked)).collect();
    // The first is done at 40, the second has the GPU from 60 on and works from 70 on.
    assert_eq!(
        states,
        [(JobState::Completed { at: 40 }, 30), (JobState::Running, 80), (JobState::Unborn, 0)]
    );
    assert_eq!(outcome.closes, 150);
}
