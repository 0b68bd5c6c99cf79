//! Makes one document: gathers definitions and paths one at a time, so that no whole document ever stands in memory as values.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use std::sync::Arc;

use api::resources::ResourceInfo;
use api::schema;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::gnostic::{self, nested};
use super::schemas::{self, Definition, Dialect, PATCH};
use super::text::Descriptions;
use super::{custom, operations};
use crate::discovery::root;
use crate::registry::Kind;

/// A finished document in one encoding, compressed.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// Upper-case hex of the SHA-512 of the JSON.
    pub etag: String,
    /// gzip.
    pub packed: Bytes,
}

/// What a document is made of.
pub struct Source<'a> {
    /// See there.
    pub dialect: Dialect,
    /// Of every group for Swagger 2.0, of one group and version for OpenAPI 3.0.
    pub kinds: &'a [Arc<Kind>],
    /// See there.
    pub texts: &'a Descriptions,
}

impl Source<'_> {
    /// The names and sources of all definitions of built-in types.
    fn definitions(&self) -> BTreeMap<String, Definition> {
        let mut all = BTreeMap::from([(PATCH.to_owned(), Definition::Leaf)]);
        let mut add = |group: &str, version: &str, kind: &str| {
            if let Some(message) = schema::for_kind(group, version, kind) {
                schemas::collect(message, &mut all);
            }
        };
        for kind in [
            "DeleteOptions",
            "Status",
            "WatchEvent",
            "APIResourceList",
            "APIGroup",
            "APIGroupList",
            "APIVersions",
        ] {
            let discovery = kind.starts_with("API");
            if !discovery || kind == "APIResourceList" || self.dialect == Dialect::V2 {
                add("", "v1", kind);
            }
        }
        for info in self.kinds.iter().map(|kind| &kind.info) {
            if info.is_custom() {
                // Their metadata.
                add("", "v1", "PartialObjectMetadataList");
            } else {
                add(&info.group, &info.version, &info.kind);
                add(&info.group, &info.version, &info.list_kind);
            }
            for sub in info.subresources.iter().filter(|sub| !sub.kind.ends_with("Options")) {
                add(&sub.group, &sub.version, &sub.kind);
            }
        }
        all.retain(|name, _| !name.contains("PartialObjectMetadata"));
        all
    }

    /// Calls back with every definition.
    fn each_definition(&self, mut take: impl FnMut(&str, &Value) -> io::Result<()>) -> io::Result<()> {
        for kind in self.kinds {
            for (name, value) in custom::definitions(self.dialect, kind, self.texts) {
                take(&name, &value)?;
            }
        }
        for (name, definition) in self.definitions() {
            take(&name, &schemas::schema(self.dialect, &name, definition, self.texts))?;
        }
        Ok(())
    }

    /// Calls back with every path.
    fn each_path(&self, mut take: impl FnMut(&str, &Value) -> io::Result<()>) -> io::Result<()> {
        let mut roots = BTreeSet::new();
        for info in self.kinds.iter().map(|kind| &kind.info) {
            for (path, item) in operations::paths(self.dialect, info) {
                take(&path, &item)?;
            }
            let root = format!("/{}/", root(info));
            if roots.insert(root.clone()) {
                take(&root, &self.resources_path(info))?;
            }
        }
        Ok(())
    }

    /// The path that lists a version's resources.
    fn resources_path(&self, served: &ResourceInfo) -> Value {
        let schema = self
            .dialect
            .reference("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList");
        let ok = match self.dialect {
            Dialect::V2 => json!({"description": "OK", "schema": schema}),
            Dialect::V3 => json!({"description": "OK", "content": {"application/json": {"schema": schema}}}),
        };
        let responses = json!({"200": ok, "401": {"description": "Unauthorized"}});
        json!({"get": {"description": "get available resources", "operationId": operations::resources_id(served), "tags": [operations::tag(&served.group, &served.version)], "responses": responses}})
    }

    /// What stands beside definitions and paths.
    fn frame(&self) -> Value {
        let info = json!({"title": "Kubernetes", "version": crate::discovery::GIT_VERSION});
        match self.dialect {
            Dialect::V2 => json!({
                "info": info, "swagger": "2.0", "security": [{"BearerToken": []}],
                "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}},
            }),
            Dialect::V3 => json!({"info": info, "openapi": "3.0.0"}),
        }
    }

    /// The document as JSON.
    pub fn json(&self) -> io::Result<Document> {
        let mut out = Hashing {
            hash: Sha512::new(),
            packed: GzEncoder::new(Vec::new(), Compression::new(6)),
        };
        let (open, close) = match self.dialect {
            Dialect::V2 => ("{\"definitions\":{", "},\"paths\":{"),
            Dialect::V3 => ("{\"components\":{\"schemas\":{", "}},\"paths\":{"),
        };
        out.write_all(open.as_bytes())?;
        let mut comma = "";
        let entry = |out: &mut Hashing, comma: &str, name: &str, value: &Value| {
            out.write_all(format!("{comma}{}:{value}", Value::from(name)).as_bytes())
        };
        self.each_definition(|name, value| entry(&mut out, std::mem::replace(&mut comma, ","), name, value))?;
        out.write_all(close.as_bytes())?;
        let mut comma = "";
        self.each_path(|name, value| entry(&mut out, std::mem::replace(&mut comma, ","), name, value))?;
        // The frame without its opening brace closes the document.
        out.write_all(format!("}},{}", &self.frame().to_string()[1..]).as_bytes())?;
        let etag = out.hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
        Ok(Document {
            etag,
            packed: out.packed.finish()?.into(),
        })
    }

    /// The document as gnostic's protobuf message, under the tag of the JSON.
    pub fn protobuf(&self, etag: &str) -> io::Result<Document> {
        let (schema, item, path_tag): (gnostic::Choice, gnostic::Choice, u32) = match self.dialect {
            Dialect::V2 => (gnostic::v2::schema, gnostic::v2::item, gnostic::v2::PATH),
            Dialect::V3 => (gnostic::v3::schema, gnostic::v3::item, gnostic::v3::PATH),
        };
        let (mut definitions, mut paths, mut out) = (Vec::new(), Vec::new(), Vec::new());
        self.each_definition(|name, value| {
            nested(1, &gnostic::pair(name, value, schema), &mut definitions);
            Ok(())
        })?;
        self.each_path(|name, value| {
            nested(path_tag, &gnostic::pair(name, value, item), &mut paths);
            Ok(())
        })?;
        match self.dialect {
            Dialect::V2 => {
                gnostic::v2::DOCUMENT.encode(&self.frame(), &mut out);
                nested(gnostic::v2::PATHS, &paths, &mut out);
                nested(gnostic::v2::DEFINITIONS, &definitions, &mut out);
            }
            Dialect::V3 => {
                gnostic::v3::DOCUMENT.encode(&self.frame(), &mut out);
                nested(gnostic::v3::PATHS, &paths, &mut out);
                let mut components = Vec::new();
                nested(gnostic::v3::SCHEMAS, &definitions, &mut components);
                nested(gnostic::v3::COMPONENTS, &components, &mut out);
            }
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::new(6));
        packed.write_all(&out)?;
        Ok(Document {
            etag: etag.to_owned(),
            packed: packed.finish()?.into(),
        })
    }
}

/// Hashes what it compresses.
struct Hashing {
    hash: Sha512,
    packed: GzEncoder<Vec<u8>>,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.packed.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.packed.flush()
    }
}
