//! Messages of the generate service.
#![no_main]

use prost::Message as _;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = guildhall_proto::v1::GenerateRequest::decode(bytes) {
        guildhall_router::fuzzing::grpc_request(request);
    }
});
