//! See `hourglass_fuzz::invoice_document`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hourglass_fuzz::invoice_document(data));
