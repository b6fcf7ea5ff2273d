//! Files: the examples of the documentation, OpenB's, and those that are wrong.

use std::path::{Path, PathBuf};

use hourglass_backtest::job::{Job, jobs};
use hourglass_backtest::{BacktestError, Policy, Report, Supply, Trace, backtest, plot};

fn example(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples").join(name);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn example_policy() -> Policy {
    Policy::parse(&example("backtest-policy.toml")).unwrap()
}

#[test]
fn the_examples_run() {
    let (trace, supply) = (example("backtest-trace.csv"), example("backtest-supply.toml"));
    let (trace, supply) = (Trace::parse(&trace).unwrap(), Supply::parse(&supply).unwrap());
    let outcome = backtest(&trace, &supply, &example_policy(), &mut |_, _| {}).unwrap();
    let report = Report::of(&outcome, &supply);
    assert_eq!(report.jobs.all, trace.jobs.len() as u64);
    let stops = report.preemptions.stops.preempted;
    assert!(stops.outbid > 0 && stops.supply_reclaimed > 0, "the example shows both: {stops:?}");

    let svg = plot::plot(&outcome, &supply).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{}", &svg[..200.min(svg.len())]);
    for shown in
        ["eu-north1/gpu-h100-sxm/fabric-1", "eu-north1/gpu-h100-sxm/fabric-2", "GPUs at work", "12 h"]
    {
        assert!(svg.contains(shown), "{shown} is not in the picture");
    }
}

/// What the trace does not say is drawn, and another seed draws otherwise.
#[test]
fn a_seed_fixes_what_is_drawn() {
    let supply = Supply::parse(&example("backtest-supply.toml")).unwrap();
    let trace = "timestamp,duration,num_gpus,limit,class\n0,9,1,,\n0,9,1,4,\n0,9,1,,batch\n0,9,1,,inference\n0,9,1,,\n";
    let of_seed = |seed: u64, trace: &str| {
        jobs(&Trace::parse(trace).unwrap(), &supply, &Policy { seed, ..example_policy() }).unwrap()
    };
    let limits = |jobs: &[Job]| jobs.iter().map(|job| job.limit.to_string()).collect::<Vec<_>>();
    let drawn = limits(&of_seed(7, trace));
    assert_eq!(drawn, limits(&of_seed(7, trace)));
    assert_ne!(drawn, limits(&of_seed(8, trace)));
    assert_eq!((drawn[1].as_str(), drawn[2].as_str()), ("4", "1.1"));
    // A limit in the file changes no other draw.
    let said = limits(&of_seed(7, &trace.replacen("1,,\n", "1,2,\n", 1)));
    assert_eq!((said[0].as_str(), &said[1..]), ("2", &drawn[1..]));
    // All over the span, in cents, both ends included.
    let many = format!("timestamp,duration,num_gpus\n{}", "0,9,1\n".repeat(4_000));
    let mut nanos: Vec<i64> = of_seed(1, &many).iter().map(|job| job.limit.nanos()).collect();
    assert!(nanos.iter().all(|nanos| nanos % 10_000_000 == 0));
    nanos.sort_unstable();
    nanos.dedup();
    assert_eq!((nanos.len(), nanos[0], nanos[200]), (201, 1_000_000_000, 3_000_000_000));
}

/// Units of a job that does not say them: the largest that fit a node, all at once.
#[test]
fn units_are_filled_in() {
    let supply = Supply::parse(&example("backtest-supply.toml")).unwrap();
    let check = |row: &str, expected: (u32, u32, u32)| {
        let text = format!("timestamp,duration,num_gpus,gpus_per_unit,min_units,max_units\n0,1,{row}\n");
        let jobs = jobs(&Trace::parse(&text).unwrap(), &supply, &example_policy()).unwrap();
        assert_eq!((jobs[0].gpus_per_unit, jobs[0].min_units, jobs[0].max_units), expected, "{row}");
    };
    check("1,,,", (1, 1, 1));
    check("8,,,", (8, 1, 1));
    check("12,,,", (6, 2, 2));
    check("32,,,", (8, 4, 4));
    check("11,,,", (1, 11, 11));
    check("32,,2,", (8, 2, 4));
    check("32,4,,", (4, 8, 8));
    check("32,,1,2", (16, 1, 2));
    check("32,16,1,2", (16, 1, 2));
}

const HEAD: &str = "timestamp,duration,num_gpus,min_units,max_units,limit,pools\n";

#[test]
fn a_wrong_trace_is_told_by_line_and_column() {
    let supply = Supply::parse(&example("backtest-supply.toml")).unwrap();
    let check = |text: &str, expected: &str| {
        let error = Trace::parse(text).and_then(|trace| jobs(&trace, &supply, &example_policy()));
        let error = error.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("timestamp,num_gpus\n", "there is no column duration");
    check(HEAD, "no job with GPUs");
    check(&format!("{HEAD}0,60,1,,,,\n0,-5,1,,,,\n"), "line 3, column duration: \"-5\" is no whole number");
    check(&format!("{HEAD}0,60\n"), "line 2: 2 values, and the first line names 7 columns");
    check(&format!("{HEAD},60,1,,,,\n"), "line 2, column timestamp: it is empty");
    check(&format!("{HEAD}0,60,99999999,,,,\n"), "line 2, column num_gpus: \"99999999\"");
    check(&format!("{HEAD}0,60,8,3,2,,\n"), "line 2, column min_units: 3 units at least, and 2 at most");
    check(&format!("{HEAD}0,60,8,1,3,,\n"), "line 2, column num_gpus: 8 GPUs are not 3 units of 2 GPUs");
    check(&format!("{HEAD}0,60,1,,,-1,\n"), "line 2, column limit");
    check(&format!("{HEAD}0,60,1,,,,h100\n"), "line 2, column pools: a pool is REGION/PLATFORM/FABRIC");
    check(
        &format!("{HEAD}0,60,1,,,,a/b/c\n"),
        "line 2, column pools: pool a/b/c is twice here, or not in the",
    );
}

#[test]
fn rows_that_bid_for_nothing_are_left_out_and_counted() {
    let trace = Trace::parse("timestamp,duration,num_gpus,why\n0,0,1,x\n0,60,0,y\n5,60,1,z\n").unwrap();
    assert_eq!((trace.jobs.len(), trace.left_out, trace.jobs[0].line), (1, 2, 4));
}

#[test]
fn a_wrong_policy_says_what_would_do() {
    let policy = example("backtest-policy.toml");
    let check = |from: &str, to: &str, expected: &str| {
        assert!(policy.contains(from), "{from}");
        let error = Policy::parse(&policy.replacen(from, to, 1)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(
        "margin = \"10\"",
        "margin = -1",
        "\"-1\" is no percentage: write it like 12.5, between 0 and 1000",
    );
    check("margin = \"10\"", "margin = \"2000\"", "no percentage");
    check("margin = \"10\"", "margin = true", "expected a decimal");
    check("tick_seconds = 60", "tick_seconds = 0", "tick_seconds is 0: give 1 to 86400");
    check("notice_seconds = 60", "notice_seconds = 1000000", "notice_seconds is 1000000: give 0 to 86400");
    check("tick_seconds", "ticks", "unknown field `ticks`");
    check("mode = \"greedy\"", "mode = \"best\"", "unknown variant `best`");
    check("{ utilisation = \"0\", price = \"0.80\" },", "", "begin at 0");
    check("from = \"1.00\"", "from = \"4.00\"", "limits are drawn from 4 to 3");
    check("price = \"1.10\"", "price = -1", "line ");
    check("weight = 3", "weight = -3", "invalid value");
    let mut strange = example_policy();
    strange.pools.insert("no/such/pool".parse().unwrap(), hourglass_backtest::policy::PoolPolicy::default());
    let trace = Trace::parse("timestamp,duration,num_gpus\n0,1,1\n").unwrap();
    let supply = Supply::parse(&example("backtest-supply.toml")).unwrap();
    let error = jobs(&trace, &supply, &strange).unwrap_err();
    assert_eq!(error, BacktestError::UnknownPool { pool: "no/such/pool".parse().unwrap() });
}

#[test]
fn a_wrong_supply_says_what_would_do() {
    let check = |text: &str, expected: &str| {
        let error = Supply::parse(text).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let pool = |rest: &str| format!("[[pools]]\nname = \"r/h100/f\"\n{rest}\n");
    check("pools = []", "the number of pools is 0");
    check(&pool("gpus = -3"), "-3");
    check(&pool("gpus = 99999999999"), "gpus of pool r/h100/f is 99999999999: give 0 to 4294967296");
    check(&pool("gpus = 8\ncapacity = 4"), "capacity of pool r/h100/f is 4: give 8");
    check(&(pool("gpus = 8") + &pool("gpus = 8")), "pool r/h100/f is there twice");
    check(
        &pool("gpus = 8\nchanges = [{ at = 5, gpus = 1 }, { at = 5, gpus = 2 }]"),
        "pool r/h100/f changes at 5 after 5",
    );
    check("[[pools]]\nname = \"h100\"\ngpus = 1\n", "REGION/PLATFORM/FABRIC");
}

#[test]
fn openb_is_read_by_its_columns() {
    let nodes = "sn,cpu_milli,memory_mib,gpu,model\nn-0,1,1,8,T4\nn-1,1,1,4,V100M16\nn-2,1,1,8,T4\n";
    let supply = Supply::parse_nodes(nodes).unwrap();
    let pools: Vec<_> = supply.pools().iter().map(|pool| (pool.name.to_string(), pool.gpus)).collect();
    assert_eq!(pools, [("openb/T4/all".to_owned(), 16), ("openb/V100M16/all".to_owned(), 4)]);
    let pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n\
                p-0,1,1,1,460,V100M16|V100M32,BE,Running,100,300,120\n\
                p-1,1,1,1,1000,,LS,Pending,100,300,\n\
                p-2,1,1,0,0,,LS,Running,100,300,120\n";
    let trace = Trace::parse(pods).unwrap();
    assert_eq!((trace.jobs.len(), trace.left_out), (1, 2));
    let jobs = jobs(&trace, &supply, &Policy { pools: [].into(), ..example_policy() }).unwrap();
    assert_eq!((jobs[0].arrives, jobs[0].work, jobs[0].max_units), (100, 180, 1));
    assert_eq!(jobs[0].pools, [hourglass_capacity::auction::PoolIx(1)]);
}

/// The public trace, where the environment or a folder beside the repository has it.
fn public(name: &str) -> Option<String> {
    let folder = match std::env::var_os("HOURGLASS_TRACES") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces"),
    };
    std::fs::read_to_string(folder.join(name)).ok()
}

#[test]
fn the_public_trace_runs() {
    let files = public("openb_pod_list_default.csv").zip(public("openb_node_list_gpu_node.csv"));
    let Some((pods, nodes)) = files else {
        eprintln!("skipped: the OpenB trace is not there; HOURGLASS_TRACES names its folder");
        return;
    };
    let (trace, supply) = (Trace::parse(&pods).unwrap(), Supply::parse_nodes(&nodes).unwrap());
    assert_eq!(supply.pools().iter().map(|pool| pool.gpus).sum::<u64>(), 6_212);
    assert_eq!(trace.jobs.len() as u64 + trace.left_out, 8_152);
    let policy = Policy::parse(&example("backtest-openb-policy.toml")).unwrap();
    let outcome = backtest(&trace, &supply, &policy, &mut |_, _| {}).unwrap();
    let report = Report::of(&outcome, &supply);
    // The whole cluster has room for all of them.
    assert_eq!(report.jobs.completed, report.jobs.all);
}
