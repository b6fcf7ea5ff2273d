//! Every decoder against bytes of every kind: the usage decoder against the generated one, field by
//! field, and all others for panics and for one text or encoding a value. `fuzz/` runs the same for
//! hours; this is the short form that every build runs.

use hourglass_ledger::core::invoicing::Invoice;
use hourglass_ledger::core::usage::{BATCH_RECORDS_MAX, BatchError, REPORT_MILLISECONDS_MAX, UsageBatch};
use hourglass_ledger::core::{Account, Position, Recorded};
use hourglass_ledger::log;
use hourglass_ledger::snapshot::Snapshot;
use hourglass_pricing::{Contract, ContractDraft, RateCard, RateCardDraft};
use hourglass_proto::v1;
use hourglass_test_chance::Chance;
use hourglass_units::{AgentId, Amount, Currency, INSTANT_MAX, InstanceId, Instant, Month, Price};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use prost::Message;
use prost::bytes::Bytes;

use super::support::{card, contract};
use super::tamper::story;

/// Numbers on either side of every limit.
fn number() -> impl Strategy<Value = i64> {
    let edges = [0, 1, -1, i64::MIN, i64::MAX, INSTANT_MAX.unix_ms(), INSTANT_MAX.unix_ms() + 1];
    prop_oneof![
        proptest::sample::select(edges.to_vec()),
        1_700_000_000_000..1_700_200_000_000_i64,
        any::<i64>()
    ]
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof![6 => "[a-z0-9][a-zA-Z0-9._-]{0,12}", 1 => "\\PC{0,6}", 1 => Just("x".repeat(65)), 1 => Just(String::new())]
}

fn record() -> impl Strategy<Value = v1::UsageRecord> {
    let evidence = (any::<u32>(), any::<u64>(), any::<u32>(), vec(any::<u32>(), 0..4)).prop_map(
        |(gpu_util_percent, fb_used_mib, power_usage_milliwatts, xid_errors)| v1::Evidence {
            gpu_util_percent,
            fb_used_mib,
            power_usage_milliwatts,
            xid_errors,
        },
    );
    let gpus = prop_oneof![1..1_030_u32, any::<u32>()];
    let span = prop_oneof![1..REPORT_MILLISECONDS_MAX + 2, number()];
    (id(), any::<u32>(), number(), span, gpus, proptest::option::of(evidence)).prop_map(
        |(instance_id, session, start_unix_ms, span, gpus, evidence)| v1::UsageRecord {
            instance_id,
            session,
            start_unix_ms,
            end_unix_ms: start_unix_ms.wrapping_add(span),
            gpus,
            evidence,
        },
    )
}

fn message() -> impl Strategy<Value = v1::UsageBatch> {
    let seq = prop_oneof![any::<u64>(), 0..9_u64, Just(u64::MAX)];
    (id(), any::<u64>(), seq, vec(record(), 0..6)).prop_map(|(agent_id, epoch, first_seq, records)| {
        v1::UsageBatch { agent_id, epoch, first_seq, records }
    })
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

/// A field that no contract has, or one of the contract's once more.
#[derive(Debug, Clone)]
enum Extra {
    Varint(u32, u64),
    Text(u32, Vec<u8>),
    Fixed32(u32),
    Fixed64(u32),
    /// A number with more bytes than it needs.
    Long(u32, u8),
    /// A number of ten bytes: beyond 64 bits where the last one is more than 1.
    Huge(u32, u8),
}

fn extra() -> impl Strategy<Value = Extra> {
    let field = prop_oneof![1..7_u32, 14..17_u32, Just((1 << 29) - 1)];
    prop_oneof![
        (field.clone(), any::<u64>()).prop_map(|(field, value)| Extra::Varint(field, value)),
        (field.clone(), any::<u32>(), 0..9_u64)
            .prop_map(|(field, high, low)| Extra::Varint(field, u64::from(high) << 32 | low)),
        (field.clone(), 0..4_u8).prop_map(|(field, last)| Extra::Huge(field, last)),
        (field.clone(), vec(any::<u8>(), 0..6)).prop_map(|(field, bytes)| Extra::Text(field, bytes)),
        field.clone().prop_map(Extra::Fixed32),
        field.clone().prop_map(Extra::Fixed64),
        (field, any::<u8>()).prop_map(|(field, value)| Extra::Long(field, value)),
    ]
}

impl Extra {
    fn write(&self, out: &mut Vec<u8>) {
        let mut key = |field: u32, kind: u64| varint(u64::from(field) << 3 | kind, out);
        match self {
            Self::Varint(field, value) => {
                key(*field, 0);
                varint(*value, out);
            }
            Self::Text(field, bytes) => {
                key(*field, 2);
                varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
            Self::Fixed32(field) => {
                key(*field, 5);
                out.extend_from_slice(&[7; 4]);
            }
            Self::Fixed64(field) => {
                key(*field, 1);
                out.extend_from_slice(&[7; 8]);
            }
            Self::Huge(field, last) => {
                key(*field, 0);
                out.extend_from_slice(&[0x81; 9]);
                out.push(*last);
            }
            Self::Long(field, value) => {
                key(*field, 0);
                out.extend_from_slice(&[value | 0x80, 0x80, 0x80, 0]);
            }
        }
    }
}

/// The contract without its evidence, which ours keeps unread.
#[derive(Clone, PartialEq, prost::Message)]
struct Bare {
    #[prost(string, tag = "1")]
    agent_id: String,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    first_seq: u64,
    #[prost(message, repeated, tag = "4")]
    records: Vec<BareRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BareRecord {
    #[prost(string, tag = "1")]
    instance_id: String,
    #[prost(uint32, tag = "2")]
    session: u32,
    #[prost(int64, tag = "3")]
    start_unix_ms: i64,
    #[prost(int64, tag = "4")]
    end_unix_ms: i64,
    #[prost(uint32, tag = "5")]
    gpus: u32,
}

/// What the generated decoder accepts, ours reads alike; what ours refuses beyond that, it refuses by
/// a limit that stands in the contract.
fn agree(raw: &[u8]) {
    let ours = UsageBatch::parse(Bytes::copy_from_slice(raw));
    if ours.is_ok() {
        assert!(Bare::decode(raw).is_ok(), "ours takes what is no batch: {:?}", Bare::decode(raw));
    }
    let Ok(theirs) = v1::UsageBatch::decode(raw) else { return };
    let ours = match ours {
        Ok(ours) => ours,
        Err(BatchError::Agent(_)) => return assert!(AgentId::check(&theirs.agent_id).is_err()),
        Err(BatchError::TooManyRecords) => return assert!(theirs.records.len() > BATCH_RECORDS_MAX),
        Err(BatchError::SequenceOverflow) => {
            return assert!(theirs.first_seq.checked_add(theirs.records.len() as u64).is_none());
        }
        // Groups were given up by protobuf itself; nobody sends them.
        Err(BatchError::Undecodable { what: "a wire type that batches do not have", .. }) => return,
        Err(error) => panic!("the generated decoder takes what ours does not: {error}: {theirs:?}"),
    };
    assert_eq!(ours.raw(), raw);
    assert_eq!(ours.agent().as_str(), theirs.agent_id);
    assert_eq!((ours.epoch(), ours.first_seq()), (theirs.epoch, theirs.first_seq));
    assert_eq!(ours.record_count() as usize, theirs.records.len());
    let mut good = ours.records();
    let mut bad = ours.quarantined().iter();
    for (index, record) in (0..).zip(&theirs.records) {
        match breach(record) {
            None => {
                let ours = good.next().unwrap();
                assert_eq!((ours.instance, ours.gpus), (record.instance_id.as_str(), record.gpus));
                let interval = (ours.interval.start().unix_ms(), ours.interval.end().unix_ms());
                assert_eq!(interval, (record.start_unix_ms, record.end_unix_ms));
            }
            Some(code) => {
                let (place, breach) = bad.next().unwrap();
                assert_eq!((*place, breach.code()), (index, code));
            }
        }
    }
    assert!(good.next().is_none() && bad.next().is_none());
}

/// The contract of a record, written once more.
fn breach(record: &v1::UsageRecord) -> Option<&'static str> {
    let valid = |ms: i64| (0..=32_503_680_000_000).contains(&ms);
    if InstanceId::new(&record.instance_id).is_err() {
        Some("instance_id_invalid")
    } else if !valid(record.start_unix_ms) || !valid(record.end_unix_ms) {
        Some("time_out_of_range")
    } else if record.end_unix_ms <= record.start_unix_ms {
        Some("interval_reversed")
    } else if record.end_unix_ms - record.start_unix_ms > 86_400_000 {
        Some("interval_too_long")
    } else if record.gpus == 0 || record.gpus > 1_024 {
        Some("gpus_out_of_range")
    } else {
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn usage_is_read_as_the_generated_decoder_reads_it(message in message()) {
        agree(&message.encode_to_vec());
    }

    /// Unknown fields, repeated scalars, overlong numbers and wrong wire types, in the batch and in a
    /// record.
    #[test]
    fn usage_with_fields_of_every_kind_is_read_alike(
        message in message(),
        before in vec(extra(), 0..3),
        behind in vec(extra(), 0..3),
        record in proptest::option::of((record(), vec(extra(), 0..4))),
    ) {
        let mut raw = Vec::new();
        before.iter().for_each(|extra| extra.write(&mut raw));
        raw.extend(message.encode_to_vec());
        if let Some((record, extras)) = record {
            let mut inner = record.encode_to_vec();
            extras.iter().for_each(|extra| extra.write(&mut inner));
            raw.push(4 << 3 | 2);
            varint(inner.len() as u64, &mut raw);
            raw.extend(inner);
        }
        behind.iter().for_each(|extra| extra.write(&mut raw));
        agree(&raw);
    }

    #[test]
    fn mutated_usage_is_read_alike_and_never_panics(
        message in message(),
        flips in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut raw = message.encode_to_vec();
        for (at, byte) in flips {
            if !raw.is_empty() {
                let at = at.index(raw.len());
                raw[at] ^= byte;
            }
        }
        agree(&raw);
        raw.truncate(cut.index(raw.len() + 1));
        agree(&raw);
    }

    #[test]
    fn bytes_that_mean_nothing_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        agree(&bytes);
        decode_all(&bytes);
    }

    #[test]
    fn texts_that_mean_nothing_never_panic(text in "\\PC{0,60}") {
        decode_all(text.as_bytes());
    }
}

/// Each decoder: no panic, and what it takes it writes again as the same value.
fn decode_all(bytes: &[u8]) {
    if let Ok(recorded) = Recorded::decode(bytes) {
        assert_eq!(Recorded::decode(&recorded.encode()).unwrap(), recorded);
    }
    if let Ok(invoice) = Invoice::from_document(bytes) {
        assert_eq!(invoice.to_document(), bytes);
    }
    let (position, format) = (Position::new(1), hourglass_ledger::snapshot::SNAPSHOT_FORMAT.to_owned());
    let checksum = Bytes::copy_from_slice(blake3::hash(bytes).as_bytes());
    let parts = vec![Bytes::from(lz4_flex::compress_prepend_size(bytes)), checksum];
    let _read = Snapshot { position, format: format.clone(), parts }.open().is_some();
    let _read = Snapshot { position, format, parts: vec![Bytes::copy_from_slice(bytes); 2] }.open().is_some();
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(draft) = serde_json::from_str::<RateCardDraft>(text)
        && let Ok(card) = RateCard::check(draft.clone())
    {
        assert_eq!(
            card.prices().values().map(|prices| prices.steps().len()).sum::<usize>(),
            draft.prices.len()
        );
    }
    if let Ok(draft) = serde_json::from_str::<ContractDraft>(text) {
        let _checked = Contract::check("acme".parse().unwrap(), draft).is_ok();
    }
    if let Ok(amount) = Amount::parse(text) {
        assert_eq!(Amount::parse(&amount.to_string()).unwrap(), amount);
    }
    if let Ok(price) = Price::parse(text) {
        assert_eq!(Price::parse(&price.to_string()).unwrap(), price);
    }
    if let Ok(instant) = text.parse::<Instant>() {
        assert_eq!(instant.to_string().parse::<Instant>().unwrap(), instant);
    }
    if let Ok(month) = text.parse::<Month>() {
        assert_eq!(month.to_string(), text);
    }
    if let Ok(account) = text.parse::<Account>() {
        assert_eq!(account.to_string(), text);
    }
    if let Ok(currency) = text.parse::<Currency>() {
        assert_eq!(currency.code(), text);
    }
}

/// Good bytes with a few changes reach deeper than chance does.
#[test]
fn mutated_good_bytes_never_panic() {
    let core = story();
    let snapshot = Snapshot::of(&core.state, &core.chain).unwrap();
    let state = lz4_flex::decompress_size_prepended(&snapshot.parts[0]).unwrap();
    let mut samples: Vec<Vec<u8>> = core.events.iter().map(|event| event.payload.to_vec()).collect();
    samples.extend(core.rows.iter().flat_map(|rows| &rows.invoices).map(|row| row.document.to_vec()));
    samples.push(serde_json::to_vec(&card(Currency::USD, 1, 0, 5)).unwrap());
    samples.push(serde_json::to_vec(&contract(1, 0, Some(9), 5)).unwrap());
    samples.push(state);
    for text in ["2.95", "-12.5", "2026-01-31T20:00:00.123Z", "2026-01", "assets:unbilled:acme", "USD"] {
        samples.push(text.as_bytes().to_vec());
    }
    let mut chance = Chance(3);
    for sample in &samples {
        decode_all(sample);
        for _ in 0..40 {
            let mut bytes = sample.clone();
            for _ in 0..=chance.below(3) {
                let at = usize::try_from(chance.below(bytes.len() as u64)).unwrap();
                match chance.below(4) {
                    0 => bytes[at] ^= 1 << chance.below(8),
                    1 => bytes[at] = *chance.pick(&[0, 0x7f, 0x80, 0xff, b'9', b'"', b'-']),
                    2 => bytes.insert(at, *chance.pick(&[0, 0x80, 0xff, b'0', b'.'])),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            decode_all(&bytes);
        }
    }
    // The log's own reader: nothing but the exact bytes opens.
    for (n, event) in core.events.iter().enumerate() {
        let previous = n.checked_sub(1).map_or(log::genesis(), |before| core.events[before].hash);
        let after = Position::new(n as u64);
        assert!(event.open(after, &previous).is_ok());
        for _ in 0..20 {
            let mut wrong = event.clone();
            let mut payload = wrong.payload.to_vec();
            let at = usize::try_from(chance.below(payload.len() as u64)).unwrap();
            payload[at] ^= 1 << chance.below(8);
            wrong.payload = payload.into();
            assert_eq!(wrong.open(after, &previous).unwrap_err().position, after.next());
        }
    }
}
