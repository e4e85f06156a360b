//! The wire: types and services generated from the .proto files, and nothing else.

/// Version 1 of the messages and services of the package `guildhall.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
pub mod v1 {
    tonic::include_proto!("guildhall.v1");
}

/// The generate service that gateways of the field speak.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
pub mod vllm {
    tonic::include_proto!("vllm.grpc.engine");
}

/// The encoded `FileDescriptorSet` of all .proto files, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The version of the expert protocol; both sides of a stream must have the same.
pub const EXPERT_PROTOCOL_VERSION: u32 = 4;
