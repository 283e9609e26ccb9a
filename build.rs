//! Compiles the contract without `protoc`: `protox` reads the protos, tonic's
//! build crate writes the code. Comments travel into the generated docs and
//! into the descriptor set that reflection serves, so that `grpcurl describe`
//! shows them.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: &[&str] = &[
    "payops/v1/payment_operations_service.proto",
    "payops/v1/operation_review_service.proto",
    "grpc/health/v1/health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let described = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(PROTOS)?
        .file_descriptor_set();
    fs::write(out.join("payops.descriptors.bin"), described.encode_to_vec())?;

    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(described, prost_build::Config::new())?;
    Ok(())
}
