//! Generates the protocol's types without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/vouchsafe.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Content of a resource is encoded once and shared by the streams of all sidecars that it concerns.
        .bytes(".vouchsafe.v1.Resource.content")
        .compile_fds(files)?;
    Ok(())
}
