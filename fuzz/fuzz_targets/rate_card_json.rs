//! See `hourglass_fuzz::rate_card_json`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hourglass_fuzz::rate_card_json(data));
