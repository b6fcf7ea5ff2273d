//! The language, by table.

use super::parse::parse;
use super::{Act, FAULTS_MAX, FILE_BYTES_MAX, STEPS_MAX};

/// What makes most lines below make sense.
const KNOWN: &str = "instance i-1 acme/ml h100 x8\n";

fn faults(text: &str) -> String {
    let faults = parse(text).expect_err(text);
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn good_lines_are_read() {
    for line in [
        "cell",
        "cell region=us grace=1h skew=1s window=100days",
        "tenant acme USD",
        "tenant acme JPY \"Acme, Inc. # 1\"   # a comment",
        "price h100 on_demand 2.95",
        "price h100 spot 2.95 EUR from=2026-02-01 card=mine",
        "instance i-1 acme/ml h100 x8 on_demand agent=node-1",
        "instance i-1 acme/ml h100 x8 spot limit=1.5 bid=b-1",
        "instance i-1 acme/ml h100 x8 reserved=r-1",
        "start i-1 at=10:00",
        "stop i-1 cause=\"user asked\" at=+1h",
        "mode i-1 spot limit=0.000000001",
        "2026-01-02T03:04:05.678Z tick",
        "2026-01-02 tick",
        "23:59:59.999 tick",
        "+90m tick",
        "tick every 60s",
        "use i-1 10:00..11:00 gpus=8 every=10m xid=79 agent=node-1",
        "use i-1 2026-01-01T10:00:00.5Z..+1ms gpus=1",
        "void-usage i-1 10:00..11:00 reason=wrong",
        "spot h100 1.25 USD from=+1h",
        "reserve r-1 acme/ml h100 x8 10:00..+24h total=1000",
        "reserve r-1 acme/ml h100 x8 10:00..12:00 flex=0.50+1.50",
        "amend r-1 acme until=2026-02-01",
        "credit c-1 acme prepaid 500 priority=1 from=2026-01-01 until=2027-01-01 project=ml platform=h100 note=x",
        "tax acme VAT 19 exclusive line",
        "tax acme none",
        "finalise acme 2026-01",
        "finalise when_due",
        "finalise on_request",
        "pay acme 1 100.00 reference=\"bank 7\"",
        "void-invoice acme 1 reason=\"wrong address\"",
        "credit-note acme",
        "close 2026-01",
        "expect balance assets:unbilled:acme -1.5 EUR",
        "expect line i-1 10:00 on_demand 2.95 quantity=8",
        "expect invoice acme 1 total=1 status=paid",
        "expect invoice-line acme 1 kind=usage rule=\"tier 2 of deal@1\"",
        "expect metering i-1 billed=1h30m voided=0",
        "expect unused r-1 quantity=1",
        "\ttick\r",
        "group acme/labs in=research",
        "place acme/ml labs",
        "place acme/ml",
        "limit tenants/acme/groups/labs gpu on_demand unlimited",
        "limit tenants/acme memory.gib preemptible 0 borrowing=unlimited lending=4 drain",
        "limit tenants/acme gpu reserved none",
        "cap acme monthly 500.50 hard thresholds=50,80.5 notice=5m",
        "cap acme/ml prepaid soft",
        "cap acme total none",
        "hold h acme/ml compute.instance.gpu.h100=8@preemptible memory.gib=1 ttl=90s",
        "lease l tenants/acme gpu on_demand 8 safe=1 holder=\"the edge\"",
        "request q tenants/acme gpu on_demand unlimited why=\"more work\"",
        "rules none",
        "review",
        "reconcile at=2025-12-31 <<TOML\nTOML",
        "expect quota tenants/acme/projects/ml gpu on_demand held=1 fits=unlimited",
        "expect cap acme monthly spent=1.5 crossed=1",
        "expect holds acme 0",
        "expect preemption i-1 cause=quota",
        "expect preemptions 0",
        "expect drift i-1 kind=unknown",
        "expect drifts 0",
        "expect unheld i-1 true",
    ] {
        if let Err(faults) = parse(line) {
            panic!("{line}: {}", faults[0]);
        }
    }
}

#[test]
fn bad_lines_say_where_and_what_to_write() {
    let check = |line: &str, expected: &str| {
        let found = faults(&format!("{KNOWN}{line}"));
        assert!(found.contains(expected), "{line}:\n{found}\nshould say:\n{expected}");
    };
    check("begin", "2:1: there is no step \"begin\": use one of cell, tenant");
    check("tenant acme", "2:1: the currency is missing: write `tenant TENANT CURRENCY");
    check("tenant acme usd", "2:13: unknown currency \"usd\"");
    check("tenant -a USD", "2:8: tenant id has '-' at byte 0");
    check("tenant acme USD Acme Inc", "2:22: this has no place here: write `tenant");
    check("tenant acme USD \"Acme", "2:17: this quote has no end");
    check("price h100 on_demand 2,95", "2:22: \"2,95\" is no decimal number");
    check("price h100 gift 2.95", "2:12: unknown purchase model \"gift\"");
    check("price h100 on_demand -1", "2:22: price -1 is negative");
    check("instance i-2 acme h100 x8", "2:14: \"acme\" is no TENANT/PROJECT: write it like acme/ml");
    check("instance i-2 acme/ml h100 8", "2:27: \"8\" is no number of GPUs: write it like x8");
    check("instance i-2 acme/ml h100 x8 reserved", "write reserved=RESERVATION");
    check("instance i-2 acme/ml h100 x8 colour=red", "this has no place here");
    check("start i-1 at=yesterday", "\"yesterday\" is no time: write it like 2026-01-01T10:00:00Z");
    check("24:00 tick", "2:1: \"24:00\" is no time");
    check("2026-13-01 tick", "2:1: \"2026-13-01\" is no time");
    check("2026-01-01", "2:1: a step follows its time");
    check("tick\n2025-12-31 tick", "3:12: 2025-12-31T00:00:00Z is before the step above it");
    check("use i-1 10:00", "2:9: \"10:00\" is no interval: write it like 10:00..11:30");
    check("use i-1 11:00..10:00", "2:9: interval");
    check("use i-9 10:00..11:00", "2:1: no step above made i-9 known: give its GPUs with gpus=");
    check("use i-1 10:00..11:00 every=0s", "2:22: \"0s\" is no duration");
    check("use i-1 2026-01-01..2027-01-01 every=1s", "more than 100000 reports: give a longer every=");
    check("stop i-1 at=10:00 at=11:00", "2:19: at is given twice");
    check("reserve r-1 acme/ml h100 x8 10:00..12:00", "how it is paid is missing");
    check("reserve r-1 acme/ml h100 x8 10:00..12:00 flex=1", "write it like flex=0.50+1.50");
    check("amend r-1 acme", "until=TIME is missing");
    check("credit c-1 acme gift 5", "\"gift\" is no kind of credit");
    check("tax acme VAT -5 exclusive total", "2:14: ");
    check("tax acme VAT", "the percentage is missing");
    check("tax acme VAT 5 above total", "\"above\" is neither exclusive nor inclusive");
    check("finalise acme", "the period is missing");
    check("finalise acme January", "\"January\" is no month");
    check("card", "2:1: its text is missing: end the line with <<TOML");
    check("card <<TOML\nname = 1", "2:6: no line TOML follows that would end this text");
    check("card <<", "a word follows <<");
    check("card <<TOML\nname = \"list\"\nversion = one\nTOML", "4:11: ");
    check("tick <<TOML\nTOML", "no text belongs here");
    check(
        "limit acme gpu on_demand 8",
        "2:7: a node is tenants/T, tenants/T/groups/G or tenants/T/projects/P",
    );
    check("limit tenants/acme gpu sometimes 8", "use on_demand, preemptible or reserved");
    check(
        "limit tenants/acme gpu on_demand many",
        "use a whole number up to 9007199254740992, or \"unlimited\"",
    );
    check(
        "limit tenants/acme gpu on_demand",
        "the limit is missing: write `limit NODE RESOURCE CLASS NOMINAL",
    );
    check("cap acme weekly 5 hard", "2:10: \"weekly\" is no period: use monthly, total or prepaid");
    check("cap acme monthly 5 firm", "\"firm\" is neither hard nor soft");
    check("cap acme monthly 5 hard thresholds=half", "\"half\" is no percentage");
    check("hold h acme/ml eight", "write it like compute.instance.gpu.h100=8");
    check("hold h acme/ml memory.gib=8@gold", "use on_demand, preemptible or reserved");
    check("hold h acme/ml memory.gib=8 ttl=1500ms", "this is given in whole seconds");
    check("hold h acme/ml memory.gib=8\nhold h acme/ml memory.gib=8", "3:6: h is a name already");
    check("commit h", "2:8: no step above made h: name a hold, lease or request");
    check("instance i-2 acme/ml h100 x8 hold=h", "no step above made h");
    check("expect hold h held", "no step above made h");
    check("rules strict", "write `rules none`, or `rules <<TOML`");
    check("review\nexpect refused nothing_due", "no step stands right above it that could be refused");
    check(
        "expect quota tenants/acme gpu on_demand colour=red",
        "there is no colour here: use parent, nominal",
    );
    check("expect", "2:1: what is expected is missing");
    check("expect luck", "2:8: nothing is known of \"luck\": expect balance");
    check("expect invoice acme 1", "give one or more of kind, period");
    check("expect invoice acme 1 colour=red", "there is no colour here: use kind, period");
    check("expect balance assets:acme 1", "unknown account \"assets:acme\"");
    check("expect refused", "the code of the refusal is missing");
    check(
        "tick every 1h\nexpect refused cell_not_open",
        "no step stands right above it that could be refused",
    );
    check("tick\nexpect refused a\nexpect refused b", "4:16: no step stands right above it");
}

#[test]
fn what_cannot_be_read_can_be_what_the_file_expects() {
    let scenario = parse("tax acme VAT -5 exclusive total\nexpect refused body_invalid").unwrap();
    assert!(matches!(&scenario.steps[1].act, Act::Unreadable(_)));
    assert!(faults("tax acme VAT -5 exclusive total\nexpect refused tax_invalid").starts_with("1:14: "));
}

#[test]
fn times_follow_one_another() {
    let text = "2026-03-01 tick\n10:30 tick\n+45m tick\ntick\n2026-03-02T00:00:00Z tick";
    let scenario = parse(text).unwrap();
    let times: Vec<String> = scenario.steps.iter().map(|step| step.at.to_string()).collect();
    let expected = [
        "2026-03-01T00:00:00Z",
        "2026-03-01T00:00:00Z",
        "2026-03-01T10:30:00Z",
        "2026-03-01T11:15:00Z",
        "2026-03-01T11:15:00Z",
        "2026-03-02T00:00:00Z",
    ];
    assert_eq!(times, expected, "the cell opens first");
}

#[test]
fn prices_that_follow_one_another_are_one_card() {
    let text =
        "price h100 on_demand 2\nprice h100 spot 1\nprice h100 on_demand 3 EUR\ntick\nprice a100 spot 1";
    let cards: Vec<usize> = parse(text)
        .unwrap()
        .steps
        .iter()
        .filter_map(|step| match &step.act {
            Act::Prices(card) => Some(card.prices.len()),
            _ => None,
        })
        .collect();
    assert_eq!(cards, [2, 1, 1]);
}

#[test]
fn everything_has_a_limit() {
    assert!(faults("").contains("the file has no steps"));
    assert!(faults("# nothing\n\n").contains("the file has no steps"));
    assert!(faults(&"#\n".repeat(FILE_BYTES_MAX)).contains("split it"));
    assert!(faults(&"tick\n".repeat(STEPS_MAX)).contains("more than 10000 steps"));
    assert_eq!(parse(&"wrong\n".repeat(FAULTS_MAX + 1)).unwrap_err().len(), FAULTS_MAX);
}
