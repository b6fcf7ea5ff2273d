//! Whatever happens in a ledger, its FOCUS export comes to what the book and the invoices hold, to the last
//! digit: on the ledger of each file and on ledgers drawn at random, at their end and on the way there.

use std::fmt::Write;
use std::sync::Arc;

use fastrand::Rng;
use hourglass_consumers::finance::columnar::Format;
use hourglass_consumers::finance::focus::{Order, Wanted, audit, verify_runs, write_runs};
use hourglass_consumers::finance::run::{Archive, Sealed};
use hourglass_ledger::core::Position;
use hourglass_ledger::load::{From, Loaded, load, load_until};
use hourglass_ledger::store::Reader;
use hourglass_ledger::store::sqlite::SqliteReader;

use super::parse::parse;
use super::run::{Direct, VirtualClock, play};
use super::same_end::files;
use crate::wire;

/// Ledgers drawn at random.
const LEDGERS: u64 = 16;
/// Places on the way at which each is exported, too.
const PLACES: u64 = 5;

/// The ledger that a file makes, in a directory that lives as long as it is kept.
fn ledger_of(text: &str) -> (tempfile::TempDir, Arc<dyn Reader>) {
    let scenario = parse(text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(VirtualClock::default());
    let cell = wire::start_scratch_cell(directory.path(), clock.clone()).unwrap();
    let handle = cell.handle();
    play(&scenario, &handle, &clock, &mut Direct(handle.clone())).unwrap();
    cell.close();
    let reader: Arc<dyn Reader> = Arc::new(SqliteReader::open(directory.path()).unwrap());
    (directory, reader)
}

fn hold(name: &str, reader: &dyn Reader, loaded: &Loaded) {
    let findings = audit(reader, &loaded.state).unwrap();
    let at = loaded.state.position();
    assert!(findings.first.is_empty(), "{name} at {at}: {:#?}", findings.first);
}

#[test]
fn the_export_of_each_file_comes_to_its_ledger() {
    for (name, text) in files() {
        let (_directory, reader) = ledger_of(&text);
        let end = load(reader.as_ref(), From::Start, |_, _| {}).unwrap();
        hold(&name, reader.as_ref(), &end);
        let half = Position::new(end.state.position().number() / 2);
        hold(&name, reader.as_ref(), &load_until(reader.as_ref(), half).unwrap());
    }
}

#[test]
fn the_export_of_any_ledger_comes_to_it_at_any_place() {
    for seed in 0..LEDGERS {
        let mut rng = Rng::with_seed(seed);
        let text = draw(&mut rng);
        let (_directory, reader) = ledger_of(&text);
        let end = load(reader.as_ref(), From::Start, |_, _| {}).unwrap();
        hold(&format!("seed {seed}"), reader.as_ref(), &end);
        for _ in 0..PLACES {
            let place = Position::new(rng.u64(1..=end.state.position().number()));
            let then = load_until(reader.as_ref(), place).unwrap();
            hold(&format!("seed {seed}"), reader.as_ref(), &then);
        }
    }
}

/// The same log gives the same bytes and the same names; what did not change is not written again; and
/// what was written holds, by itself and beside the ledger, in both formats.
#[test]
fn runs_are_written_once_and_hold() {
    let text = include_str!("../../../tests/scenarios/export_of_everything.txt");
    let (_directory, reader) = ledger_of(text);
    let end = load(reader.as_ref(), From::Start, |_, _| {}).unwrap();
    let out = tempfile::tempdir().unwrap();
    let again = tempfile::tempdir().unwrap();
    for format in [Format::Csv, Format::Parquet] {
        let order = Order { format, wanted: Wanted::All, provider: "Nimbus".to_owned() };
        let write = |root: &std::path::Path, loaded: &Loaded| {
            let archive = Archive::open(root).unwrap();
            write_runs(&archive, reader.as_ref(), loaded, &order, &mut |_| {}).unwrap()
        };
        // January before it was invoiced, then everything.
        let early = (1..=end.state.position().number()).rev().map(Position::new);
        let mut early = early.step_by(100).map(|place| load_until(reader.as_ref(), place).unwrap());
        let early = early.find(|it| it.state.now() < "2026-01-25T00:00:00Z".parse().unwrap()).unwrap();
        let first = write(out.path(), &early);
        assert!(first.iter().all(|it| matches!(it, Sealed::Written(run) if !run.is_final)));
        let second = write(out.path(), &end);
        assert!(second.iter().all(|it| matches!(it, Sealed::Written(_))));
        assert!(second.first().unwrap().manifest().is_final);
        assert!(write(out.path(), &end).iter().all(|it| matches!(it, Sealed::Unchanged(_))));
        let elsewhere = write(again.path(), &end);
        assert_eq!(elsewhere, second);
    }
    let bytes = |root: &std::path::Path| {
        let runs = Archive::read(root).newest_of_all().unwrap();
        let files = runs.iter().flat_map(|(path, run)| run.files.iter().map(|it| path.join(&it.name)));
        files.map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(out.path()), bytes(again.path()));
    let verified = verify_runs(out.path(), Some(&end.state)).unwrap();
    assert_eq!(verified.findings.first, []);
    assert_eq!((verified.runs, verified.invoices), (6, 12));
    // A byte that differs is found.
    let runs = Archive::read(again.path()).newest_of_all().unwrap();
    let (path, run) = runs.first().unwrap();
    let path = path.join(&run.files.first().unwrap().name);
    let changed = std::fs::read_to_string(&path).unwrap().replacen("2.95", "2.96", 1);
    std::fs::write(&path, changed).unwrap();
    let verified = verify_runs(again.path(), None).unwrap();
    assert_eq!(verified.findings.first.first().map(|it| it.code), Some("R-1"));
}

/// A file in which anything may happen, in order of time.
fn draw(rng: &mut Rng) -> String {
    let mut text = String::from("cell region=eu grace=1d\n");
    let contracts = [
        "[[terms.discounts]]\npercent_off = \"7.77\"\n",
        "[[terms.allowances]]\ngpu_hours = \"5.5\"\n[[terms.tiers]]\ntiers = [{ above = \"0\", percent_off = \"0\" }, \
         { above = \"20\", percent_off = \"12.5\" }]\n",
        "[terms]\nminimum = \"90\"\n[terms.commitment]\namount = \"60\"\noverage_percent = \"125\"\n",
    ];
    for tenant in ["acme", "bolt"] {
        let currency = if rng.bool() { "USD" } else { "JPY" };
        writeln!(text, "tenant {tenant} {currency}").unwrap();
        if rng.bool() {
            let kind = if rng.bool() { "exclusive total" } else { "inclusive line" };
            writeln!(text, "tax {tenant} VAT 19 {kind}").unwrap();
        }
        if rng.u8(0..4) > 0 {
            let terms = contracts[rng.usize(..contracts.len())];
            let from =
                "effective_from = \"2026-01-01T00:00:00Z\"\neffective_until = \"2026-03-01T00:00:00Z\"";
            writeln!(
                text,
                "contract {tenant} <<TOML\nname = \"c-{tenant}\"\nversion = 1\n{from}\n{terms}TOML"
            )
            .unwrap();
        }
    }
    for currency in ["USD", "JPY"] {
        writeln!(text, "price h100 on_demand 2.953 {currency}\nprice h100 spot 1.251 {currency}").unwrap();
    }
    let mut names = Vec::new();
    for number in 0..5 {
        let tenant = if rng.bool() { "acme" } else { "bolt" };
        let gpus = rng.u8(1..9);
        let mode = match rng.u8(0..4) {
            0 => " spot limit=1.50".to_owned(),
            1 => {
                let payment = ["upfront=2.00", "total=100", "monthly=1.75", "flex=0.50+1.50"];
                let payment = payment[rng.usize(..payment.len())];
                let (day, hours) = (rng.u8(3..29), rng.u16(2..200));
                writeln!(
                    text,
                    "reserve r-{number} {tenant}/p h100 x{gpus} 2026-01-{day:02}..+{hours}h {payment}"
                )
                .unwrap();
                format!(" reserved=r-{number}")
            }
            _ => String::new(),
        };
        writeln!(text, "instance i-{number} {tenant}/p h100 x{gpus}{mode}").unwrap();
        names.push((number, tenant));
    }
    for (number, _) in &names {
        writeln!(text, "2026-01-02T00:{number:02}:00Z start i-{number}").unwrap();
    }
    let mut running = [true; 5];
    let mut hour = 30_u32;
    while hour < 24 * 66 {
        let (month, day) = match hour / 24 {
            days @ 0..31 => (1, days + 1),
            days @ 31..59 => (2, days - 30),
            days => (3, days - 58),
        };
        let at = format!("2026-{month:02}-{day:02}T{:02}:{:02}:00Z", hour % 24, rng.u8(0..60));
        let (number, tenant) = names[rng.usize(..names.len())];
        let back = rng.u32(1..60).min(hour);
        let from = hour - back;
        let before = |hour: u32| {
            let (month, day) = match hour / 24 {
                days @ 0..31 => (1, days + 1),
                days @ 31..59 => (2, days - 30),
                days => (3, days - 58),
            };
            format!("2026-{month:02}-{day:02}T{:02}:00:00Z", hour % 24)
        };
        let step = match rng.u8(0..14) {
            0..6 if !running[number] => {
                running[number] = true;
                format!("start i-{number}")
            }
            0 => {
                running[number] = false;
                format!("stop i-{number} at={}", before(from.max(1)))
            }
            1..8 => format!("use i-{number} {}..+{}m every=3h", before(from), rng.u16(30..3000)),
            8 => format!("void-usage i-{number} {}..+{}h reason=x", before(from), rng.u8(1..9)),
            9 => format!("spot h100 {} USD", ["1.1", "1.4", "1.333333333"][rng.usize(..3)]),
            10 => {
                let kind = if rng.bool() { "prepaid" } else { "promotional" };
                format!("credit k-{hour} {tenant} {kind} {} priority={hour}", rng.u16(1..80))
            }
            11 => format!(
                "rerate {}..{} tenant={tenant} into_closed <<TOML\nname = \"re-{hour}\"\nversion = 1\n\
                 currency = \"USD\"\neffective_from = \"2026-01-01T00:00:00Z\"\nprices = [{{ platform = \"h100\", \
                 region = \"eu\", model = \"on_demand\", price = \"{}\" }}]\nTOML",
                before(from),
                before(hour),
                ["1.5", "2.777777777", "4"][rng.usize(..3)]
            ),
            12 => format!("void-invoice {tenant} {} reason=x", rng.u8(1..4)),
            _ => format!("credit-note {tenant}"),
        };
        writeln!(text, "{at} {step}").unwrap();
        hour += rng.u32(1..30);
    }
    text
}
