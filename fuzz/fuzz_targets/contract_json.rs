//! See `hourglass_fuzz::contract_json`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hourglass_fuzz::contract_json(data));
