//! The committed description is the one that the code makes.

#[test]
fn the_committed_description_is_what_the_code_makes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.yaml");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let made = ulm::api::openapi::yaml().unwrap();
    assert!(committed == made, "openapi/openapi.yaml is old; run `cargo run -- openapi > openapi/openapi.yaml`");
}
