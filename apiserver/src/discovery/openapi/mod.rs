//! OpenAPI documents: one in Swagger 2.0 for everything, one in OpenAPI 3.0 for each group and version. They are made when somebody asks,
//! kept compressed, and made again when the kinds that they tell of have changed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

mod custom;
mod document;
mod gnostic;
mod operations;
mod schemas;
mod text;

pub use document::Document;
pub use schemas::Dialect;

use super::root;
use crate::registry::Kind;
use document::Source;
use text::Descriptions;

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// JSON.
    Json,
    /// gnostic's protobuf.
    Protobuf,
}

/// A document by dialect, root (`apis/apps/v1`, empty for Swagger 2.0) and encoding.
type Key = (Dialect, String, Encoding);

/// A document and the kinds that it was made of.
struct Made {
    document: Document,
    of: Vec<Arc<Kind>>,
}

/// The documents made so far.
#[derive(Default)]
pub struct Documents {
    kept: Mutex<HashMap<Key, Made>>,
    /// Held while documents are made: everybody else who wants one waits for it instead of making it too.
    making: Mutex<()>,
}

impl Documents {
    /// The document of all kinds, in Swagger 2.0. It takes some tenths of a second to make: not for a thread that serves.
    ///
    /// # Errors
    /// When it cannot be compressed, which takes a lack of memory.
    pub fn swagger(&self, kinds: &[Arc<Kind>], encoding: Encoding) -> io::Result<Document> {
        self.get((Dialect::V2, String::new(), encoding), kinds)
    }

    /// The document of a group and version (`apis/apps/v1`), in OpenAPI 3.0; `None` if it is not served.
    ///
    /// # Errors
    /// See [`Documents::swagger`].
    pub fn version(&self, kinds: &[Arc<Kind>], path: &str, encoding: Encoding) -> io::Result<Option<Document>> {
        let of: Vec<Arc<Kind>> = kinds.iter().filter(|kind| root(&kind.info) == path).cloned().collect();
        if of.is_empty() {
            return Ok(None);
        }
        self.get((Dialect::V3, path.to_owned(), encoding), &of).map(Some)
    }

    /// `/openapi/v3`: where the documents are, with their hashes.
    ///
    /// # Errors
    /// See [`Documents::swagger`].
    pub fn index(&self, kinds: &[Arc<Kind>]) -> io::Result<Value> {
        let mut roots: Vec<String> = kinds.iter().map(|kind| root(&kind.info)).collect();
        roots.sort_unstable();
        roots.dedup();
        // Groups that are not served any more.
        self.kept
            .lock()
            .retain(|(dialect, root, _), _| *dialect == Dialect::V2 || roots.contains(root));
        let mut paths = Map::new();
        for root in roots {
            if let Some(document) = self.version(kinds, &root, Encoding::Json)? {
                let url = format!("/openapi/v3/{root}?hash={}", document.etag);
                paths.insert(root, json!({"serverRelativeURL": url}));
            }
        }
        Ok(json!({"paths": paths}))
    }

    fn kept(&self, key: &Key, of: &[Arc<Kind>]) -> Option<Document> {
        let kept = self.kept.lock();
        let made = kept.get(key)?;
        let same = made.of.len() == of.len() && made.of.iter().zip(of).all(|(a, b)| Arc::ptr_eq(a, b));
        same.then(|| made.document.clone())
    }

    fn keep(&self, key: Key, of: &[Arc<Kind>], document: &Document) {
        let made = Made {
            document: document.clone(),
            of: of.to_vec(),
        };
        self.kept.lock().insert(key, made);
    }

    fn get(&self, key: Key, of: &[Arc<Kind>]) -> io::Result<Document> {
        if let Some(document) = self.kept(&key, of) {
            return Ok(document);
        }
        let _making = self.making.lock();
        if let Some(document) = self.kept(&key, of) {
            return Ok(document);
        }
        let texts = Descriptions::unpack();
        let source = Source {
            dialect: key.0,
            kinds: of,
            texts: &texts,
        };
        let of_json = (key.0, key.1.clone(), Encoding::Json);
        let json = match self.kept(&of_json, of) {
            Some(document) => document,
            None => {
                let document = source.json()?;
                self.keep(of_json, of, &document);
                document
            }
        };
        if key.2 == Encoding::Json {
            return Ok(json);
        }
        let document = source.protobuf(&json.etag)?;
        self.keep(key, of, &document);
        Ok(document)
    }
}

#[cfg(test)]
mod tests;
