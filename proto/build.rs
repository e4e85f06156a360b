//! Compiles the .proto files without a protoc binary and keeps their descriptors for reflection.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 5] = [
    "guildhall/v1/generation.proto",
    "guildhall/v1/admin.proto",
    "guildhall/v1/expert.proto",
    "guildhall/v1/cluster.proto",
    "vllm/vllm_engine.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
