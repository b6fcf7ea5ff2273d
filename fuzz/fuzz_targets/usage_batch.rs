//! See `hourglass_fuzz::usage_batch`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hourglass_fuzz::usage_batch(data));
