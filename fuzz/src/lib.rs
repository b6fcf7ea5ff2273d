//! The bodies of the fuzz targets: one function for each decoder, which must not panic and must write
//! what it took as the same value again.
//!
//! `cargo xtask fuzz usage_batch --seconds 600` runs one of them. They are plain functions, so that an
//! input that was found can become a test.

use hourglass_consumers::usage::{Format, ReadBatch, read};
use hourglass_ledger::core::invoicing::Invoice;
use hourglass_ledger::core::rows::NoRows;
use hourglass_ledger::core::usage::{BATCH_RECORDS_MAX, BatchError, UsageBatch};
use hourglass_ledger::core::{Account, Position, Recorded, State, apply, digest};
use hourglass_ledger::log::{self, StoredEvent};
use hourglass_ledger::snapshot::{SNAPSHOT_FORMAT, Snapshot};
use hourglass_pricing::{Contract, ContractDraft, RateCard, RateCardDraft};
use hourglass_proto::v1;
use hourglass_units::{Amount, Currency, InstanceId, Instant, Interval, Month, Price, Quantity};
use prost::Message;
use prost::bytes::Bytes;

/// What the generated decoder takes, ours takes alike, but for limits and for groups.
pub fn usage_batch(data: &[u8]) {
    let ours = UsageBatch::parse(Bytes::copy_from_slice(data));
    let Ok(theirs) = v1::UsageBatch::decode(data) else { return };
    let ours = match ours {
        Ok(ours) => ours,
        Err(BatchError::Undecodable { what, .. }) => {
            return assert_eq!(what, "a wire type that batches do not have", "{theirs:?}");
        }
        Err(BatchError::TooManyRecords) => return assert!(theirs.records.len() > BATCH_RECORDS_MAX),
        Err(BatchError::Agent(_) | BatchError::TooLarge { .. } | BatchError::SequenceOverflow) => return,
    };
    assert_eq!(ours.raw(), data);
    assert_eq!(ours.agent().as_str(), theirs.agent_id);
    assert_eq!((ours.epoch(), ours.first_seq()), (theirs.epoch, theirs.first_seq));
    assert_eq!(ours.record_count() as usize, theirs.records.len());
    let broken: Vec<usize> = ours.quarantined().iter().map(|(index, _)| *index as usize).collect();
    let mut good = ours.records();
    for (index, theirs) in theirs.records.iter().enumerate() {
        if broken.contains(&index) {
            continue;
        }
        let ours = good.next().expect("a record that is not in quarantine");
        assert_eq!((ours.instance, ours.gpus), (theirs.instance_id.as_str(), theirs.gpus));
        assert!(InstanceId::new(ours.instance).is_ok());
        let ends = (ours.interval.start().unix_ms(), ours.interval.end().unix_ms());
        assert_eq!(ends, (theirs.start_unix_ms, theirs.end_unix_ms));
    }
    assert!(good.next().is_none());
}

/// Messages of every format that usage comes in: each record is in a batch, once, or named as
/// unreadable, and what was read is a batch that the log can hold.
pub fn usage_messages(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    for format in Format::ALL {
        let Ok(reading) = read(format, &message) else { continue };
        let mut placed: Vec<u32> = reading.unreadable.iter().map(|it| it.index).collect();
        for ReadBatch { batch, places } in reading.batches {
            assert_eq!(UsageBatch::parse(batch.raw().clone()).expect("a batch"), batch);
            match places {
                Some(places) => {
                    assert_eq!(places.len(), batch.record_count() as usize);
                    placed.extend(places);
                }
                None => assert!(placed.iter().all(|index| *index < batch.record_count())),
            }
        }
        placed.sort_unstable();
        let count = placed.len();
        placed.dedup();
        assert_eq!(placed.len(), count, "a record stands in two places");
    }
}

/// An event of the log reads back from what it is written as.
pub fn event_payload(data: &[u8]) {
    if let Ok(recorded) = Recorded::decode(data) {
        assert_eq!(Recorded::decode(&recorded.encode()).expect("it was written by us"), recorded);
    }
}

/// A log of any events, chained rightly: folding it may fail, never panic; what it makes lives through
/// a snapshot, and its books sum to zero.
pub fn log_events(data: &[u8]) {
    let (mut state, mut chain) = (State::empty(), log::genesis());
    let mut rest = data;
    // Each event: two bytes of length, one of time that passes, and the payload.
    while let Some(([low, high, hours], payloads)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(payloads.len());
        let (payload, behind) = payloads.split_at(length);
        rest = behind;
        let Ok(recorded) = Recorded::decode(payload) else { continue };
        let at = state.now().saturating_add_ms(i64::from(*hours) * 3_600_000);
        let event = StoredEvent::chain(&chain, state.position().next(), 1, at, &recorded);
        let opened = event.open(state.position(), &chain).expect("it was chained by us");
        assert_eq!(opened, recorded);
        let mut wrong = event.clone();
        wrong.epoch = 2;
        assert!(wrong.open(state.position(), &chain).is_err());
        chain = event.hash;
        if apply(&mut state, at, &recorded, &mut NoRows).is_err() {
            return;
        }
        assert!(state.book().sums().all(|(_, sum)| sum == Some(Amount::ZERO)));
    }
    let _digest = digest(&state);
    assert!(state.accounting(|_| true, true).balances());
    let snapshot = Snapshot::of(&state, &chain).expect("every state can be written");
    assert_eq!(snapshot.open().expect("and read"), (state, chain));
}

/// A snapshot's parts, with and without a checksum that fits them.
pub fn snapshot(data: &[u8]) {
    let position = Position::new(data.first().copied().map_or(0, u64::from));
    let open = |parts: Vec<Bytes>| Snapshot { position, format: SNAPSHOT_FORMAT.to_owned(), parts }.open();
    let raw = Bytes::copy_from_slice(data);
    let checksum = |bytes: &[u8]| Bytes::copy_from_slice(blake3::hash(bytes).as_bytes());
    open(vec![raw.clone()]);
    open(vec![raw.clone(), raw]);
    let packed = Bytes::from(lz4_flex::compress_prepend_size(data));
    if let Some((state, chain)) = open(vec![packed, checksum(data)]) {
        let again = Snapshot::of(&state, &chain).and_then(|snapshot| snapshot.open());
        assert_eq!(again.expect("what was read can be written"), (state, chain));
    }
}

/// A rate card as people write it.
pub fn rate_card_toml(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(draft) = toml::from_str::<RateCardDraft>(text) else { return };
    let again = toml::to_string(&draft).expect("a draft can be written");
    assert_eq!(toml::from_str::<RateCardDraft>(&again).expect("and read"), draft);
    check_card(draft);
}

/// A rate card as programs write it.
pub fn rate_card_json(data: &[u8]) {
    let Ok(draft) = serde_json::from_slice::<RateCardDraft>(data) else { return };
    let again = serde_json::to_vec(&draft).expect("a draft can be written");
    assert_eq!(serde_json::from_slice::<RateCardDraft>(&again).expect("and read"), draft);
    check_card(draft);
}

/// P-1: a card that is taken has one price at each instant from its start on.
fn check_card(draft: RateCardDraft) {
    let Ok(card) = RateCard::check(draft) else { return };
    for timeline in card.prices().values() {
        assert_eq!(timeline.priced_from(), Some(card.effective_from()));
        assert!(timeline.steps().windows(2).all(|pair| pair[0].interval.end() == pair[1].interval.start()));
    }
}

/// A contract.
pub fn contract_json(data: &[u8]) {
    let Ok(draft) = serde_json::from_slice::<ContractDraft>(data) else { return };
    let again = serde_json::to_vec(&draft).expect("a draft can be written");
    assert_eq!(serde_json::from_slice::<ContractDraft>(&again).expect("and read"), draft);
    let Ok(contract) = Contract::check("acme".parse().expect("an id"), draft) else { return };
    for timeline in contract.prices().values() {
        let milliseconds: i64 = timeline.steps().iter().map(|step| step.interval.milliseconds()).sum();
        assert_eq!(milliseconds, contract.effective().milliseconds());
    }
}

/// Every value that is read from a text: what is written is read as the same.
pub fn texts(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(amount) = Amount::parse(text) {
        assert_eq!(Amount::parse(&amount.to_string()).expect("an amount"), amount);
        for currency in [Currency::USD, Currency::JPY, Currency::KWD] {
            let (floor, rest) = amount.floor_to_minor(currency);
            assert!(rest >= 0 && rest < currency.attos_per_minor_unit());
            assert!(amount.round_half_even_to_minor(currency) >= floor);
            assert_eq!(Amount::parse(&amount.to_minor_string(currency)).expect("an amount"), amount);
        }
    }
    if let Ok(price) = Price::parse(text) {
        assert_eq!(Price::parse(&price.to_string()).expect("a price"), price);
        assert_eq!(price.times(Quantity::from_nanos(1)).attos(), i128::from(price.nanos()));
    }
    if let Ok(instant) = text.parse::<Instant>() {
        assert_eq!(instant.to_string().parse::<Instant>().expect("an instant"), instant);
        let month = Month::containing(instant);
        assert!(instant == hourglass_units::INSTANT_MAX || month.interval().contains(instant));
        if let Some(interval) = Interval::between(instant, instant.saturating_add_ms(90 * 60_000)) {
            let hours: i64 = interval.by_hour().map(|(_, part)| part.milliseconds()).sum();
            assert_eq!(hours, interval.milliseconds());
        }
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
    if let Ok(instance) = text.parse::<InstanceId>() {
        assert_eq!(instance.as_str(), text);
    }
}

/// An invoice has one text.
pub fn invoice_document(data: &[u8]) {
    if let Ok(invoice) = Invoice::from_document(data) {
        assert_eq!(invoice.to_document(), data);
        let again = serde_json::to_vec(&invoice).expect("an invoice can be written");
        assert_eq!(Invoice::from_document(&again).expect("and read"), invoice);
    }
}
