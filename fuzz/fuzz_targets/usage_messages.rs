//! See `hourglass_fuzz::usage_messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hourglass_fuzz::usage_messages(data));
