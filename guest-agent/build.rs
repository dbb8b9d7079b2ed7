//! Compiles the agent protocol with a compiler written in Rust, so that no `protoc` is needed.

/// Generates the service and its messages into `OUT_DIR`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../proto";
    let file = "caisson/agent/v1/agent.proto";
    println!("cargo:rerun-if-changed={root}/{file}");
    let descriptors = protox::compile([file], [root])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
