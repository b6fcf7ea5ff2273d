//! See `hourglass_fuzz::event_payload`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hourglass_fuzz::event_payload(data));
