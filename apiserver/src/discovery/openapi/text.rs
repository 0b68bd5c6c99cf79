//! The descriptions that the build script took from k8s-openapi. They are unpacked for the making of documents and dropped afterwards.

use std::borrow::Cow;
use std::collections::HashMap;

use flate2::read::ZlibDecoder;

/// A kind whose `apiVersion` and `kind` say what they say of every kind.
pub const MODEL: &str = "io.k8s.api.coordination.v1.Lease";

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.json.z"));

/// Description of every definition and property, by name (`io.k8s.api.core.v1.Pod`).
#[derive(Default)]
pub struct Descriptions(HashMap<String, (String, HashMap<String, String>)>);

impl Descriptions {
    /// Unpacks them.
    pub fn unpack() -> Self {
        // The build wrote it; a test reads it. Without it documents are still right, only silent.
        serde_json::from_reader(std::io::BufReader::new(ZlibDecoder::new(PACKED)))
            .map(Self)
            .unwrap_or_default()
    }

    /// Of a definition.
    pub fn of(&self, definition: &str) -> Option<Cow<'_, str>> {
        if let Some((text, _)) = self.0.get(definition).filter(|(text, _)| !text.is_empty()) {
            return Some(text.into());
        }
        // k8s-openapi has one generic list.
        let name = definition.rsplit('.').next()?;
        let items = name.strip_suffix("List")?;
        Some(format!("{name} is a list of {items} objects.").into())
    }

    /// Of a property of a definition.
    pub fn of_property(&self, definition: &str, property: &str) -> Option<&str> {
        let own = self
            .0
            .get(definition)
            .and_then(|(_, properties)| properties.get(property));
        own.map(String::as_str)
            .filter(|text| !text.is_empty())
            .or_else(|| self.of_list(definition, property))
    }

    fn of_list(&self, definition: &str, property: &str) -> Option<&str> {
        match property {
            _ if !definition.ends_with("List") => None,
            "items" => Some("The objects of the list."),
            "metadata" => Some("Standard metadata of lists."),
            other => self.of_property(MODEL, other),
        }
    }
}
