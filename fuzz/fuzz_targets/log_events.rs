//! See `hourglass_fuzz::log_events`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hourglass_fuzz::log_events(data));
