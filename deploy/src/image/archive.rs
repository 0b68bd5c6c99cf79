//! An image as an OCI archive: a tar file of content-addressed blobs, the same bytes for the same image every time.

use std::io::{self, Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image of one layer.
pub struct Image {
    /// Its name with tag, as in `keelson.dev/web:1`.
    pub name: String,
    /// What it holds, parents before children.
    pub entries: Vec<Entry>,
    /// What runs in a container that says nothing else.
    pub entrypoint: Vec<String>,
    /// Environment variables, as in `PATH=/bin`.
    pub environment: Vec<String>,
}

/// A file of an image.
pub enum Entry {
    /// A folder and its mode.
    Folder(&'static str, u32),
    /// A file, its mode and its content.
    File(&'static str, u32, Vec<u8>),
    /// A symbolic link and its target.
    Link(String, &'static str),
}

/// Writes the archive.
pub fn write(image: &Image, output: impl Write) -> io::Result<()> {
    let layer = layer(&image.entries)?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": image.entrypoint, "Env": image.environment },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        "history": [{ "created_by": "keelson" }],
    });
    let config = serde_json::to_vec(&config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let mut reference = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    reference["annotations"] =
        json!({ "io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name });
    let index =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [reference] });

    let mut archive = tar::Builder::new(output);
    append(
        &mut archive,
        "oci-layout",
        0o644,
        &serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?,
    )?;
    append(&mut archive, "index.json", 0o644, &serde_json::to_vec(&index)?)?;
    for blob in [&config, &manifest, &layer] {
        append(
            &mut archive,
            &format!("blobs/{}", digest(blob).replace(':', "/")),
            0o644,
            blob,
        )?;
    }
    archive.into_inner()?.flush()
}

fn layer(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for entry in entries {
        match entry {
            Entry::Folder(path, mode) => {
                let mut header = header(*mode, 0);
                header.set_entry_type(tar::EntryType::Directory);
                layer.append_data(&mut header, path, io::empty())?;
            }
            Entry::File(path, mode, content) => append(&mut layer, path, *mode, content)?,
            Entry::Link(path, target) => {
                let mut header = header(0o777, 0);
                header.set_entry_type(tar::EntryType::Symlink);
                layer.append_link(&mut header, path, target)?;
            }
        }
    }
    layer.into_inner()
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(mode, content.len() as u64), path, content)
}

/// Owned by root and made at the epoch: an archive depends on nothing but its content.
fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    let hex: String = Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// This machine's architecture, in Go's words, which images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn read(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().expect("entries") {
            let mut entry = entry.expect("entry");
            let path = entry.path().expect("path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            files.insert(path, content);
        }
        files
    }

    #[test]
    fn every_digest_leads_to_its_blob() {
        let image = Image {
            name: "keelson.dev/x:1".into(),
            entries: vec![
                Entry::Folder("bin", 0o755),
                Entry::File("bin/x", 0o755, b"x".to_vec()),
                Entry::Link("bin/y".into(), "x"),
            ],
            entrypoint: vec!["/bin/x".into()],
            environment: vec![],
        };
        let mut bytes = Vec::new();
        write(&image, &mut bytes).expect("written");
        let mut again = Vec::new();
        write(&image, &mut again).expect("written");
        assert_eq!(bytes, again, "the same image is the same bytes");

        let files = read(&bytes);
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
        let blob = |descriptor: &Value| {
            let path = format!(
                "blobs/{}",
                descriptor["digest"].as_str().expect("digest").replace(':', "/")
            );
            let blob = files.get(&path).unwrap_or_else(|| panic!("{path} is missing"));
            assert_eq!(descriptor["size"], blob.len());
            assert_eq!(descriptor["digest"], digest(blob));
            blob.clone()
        };
        let index = parse(&files["index.json"]);
        assert_eq!(
            index["manifests"][0]["annotations"]["io.containerd.image.name"],
            "keelson.dev/x:1"
        );
        let manifest = parse(&blob(&index["manifests"][0]));
        let config = parse(&blob(&manifest["config"]));
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/x"]));
        assert_eq!(read(&layer).keys().collect::<Vec<_>>(), ["bin", "bin/x", "bin/y"]);
    }
}
