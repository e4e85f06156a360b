//! Bodies of the completion routes.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    guildhall_router::fuzzing::http_body(body);
});
