//! The generated code follows the `.proto` files, and released fields keep their number and type.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost_types::{DescriptorProto, FileDescriptorSet};

const FILES: [&str; 5] = [
    "keelson/cluster/v1/cluster.proto",
    "keelson/node/v1/node.proto",
    "keelson/raft/v1/raft.proto",
    "cri/v1/api.proto",
    "kms/v2/kms.proto",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn regenerate() -> bool {
    std::env::var_os("KEELSON_REGENERATE").is_some()
}

fn descriptors() -> FileDescriptorSet {
    protox::compile(FILES, [root().join("protos")]).expect("the .proto files compile")
}

#[test]
fn generated_code_is_current() {
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .bytes(".keelson")
        .compile_fds(descriptors())
        .unwrap();
    let target = root().join("src/generated");
    for file in std::fs::read_dir(out.path()).unwrap() {
        let file = file.unwrap();
        let fresh = std::fs::read_to_string(file.path()).unwrap();
        let kept = target.join(file.file_name());
        if regenerate() {
            std::fs::write(&kept, &fresh).unwrap();
            continue;
        }
        let current = std::fs::read_to_string(&kept).unwrap_or_default();
        assert!(
            current == fresh,
            "{} is stale: run KEELSON_REGENERATE=1 cargo test -p proto",
            kept.display()
        );
    }
}

#[test]
fn released_fields_keep_number_and_type() {
    let mut now = BTreeSet::new();
    for file in &descriptors().file {
        let package = file.package().to_string();
        for message in &file.message_type {
            collect(&package, message, &mut now);
        }
        for service in &file.service {
            for method in &service.method {
                now.insert(format!(
                    "{package}.{}/{} {}{} -> {}{}",
                    service.name(),
                    method.name(),
                    if method.client_streaming() { "stream " } else { "" },
                    method.input_type(),
                    if method.server_streaming() { "stream " } else { "" },
                    method.output_type()
                ));
            }
        }
    }
    let path = root().join("released.txt");
    if regenerate() {
        let mut all = read(&path);
        all.extend(now.iter().cloned());
        std::fs::write(&path, all.into_iter().collect::<Vec<_>>().join("\n") + "\n").unwrap();
        return;
    }
    let gone: Vec<_> = read(&path).difference(&now).cloned().collect();
    assert!(gone.is_empty(), "released fields changed or went: {gone:#?}");
}

fn read(path: &Path) -> BTreeSet<String> {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(String::from)
        .collect()
}

fn collect(scope: &str, message: &DescriptorProto, into: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    for field in &message.field {
        into.insert(format!(
            "{name} {} {} {} {:?} {:?}",
            field.number(),
            field.name(),
            field.type_name(),
            field.r#type(),
            field.label()
        ));
    }
    for nested in &message.nested_type {
        collect(&name, nested, into);
    }
}
