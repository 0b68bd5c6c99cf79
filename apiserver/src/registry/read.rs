//! Get and list.

use std::sync::Arc;

use api::{Error, FieldError, GroupKind};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::options::ListOptions;
use super::select::Filter;
use super::{Access, Registry, store_error};
use crate::store::{Entry, ListQuery, ReadAt, Revision, StoreError};

/// How many entries are read at a time when a selector may drop any number of them.
const CHUNK: usize = 500;

/// Part of a collection.
pub struct Page {
    /// In key order.
    pub entries: Vec<Arc<Entry>>,
    /// The revision all of them are of.
    pub revision: Revision,
    /// Token for the next page, empty at the end.
    pub continue_: String,
    /// How many are left, where that is known.
    pub remaining: Option<usize>,
}

/// The content of a continue token.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: i64,
    start: String,
}

impl Registry {
    /// One object.
    ///
    /// # Errors
    /// 404; 400 for a bad resourceVersion; what the store says.
    pub async fn get(&self, access: &Access, resource_version: &str) -> Result<Arc<Entry>, Error> {
        let at = match parse_revision(resource_version)? {
            None => ReadAt::Latest,
            Some(0) => ReadAt::Any,
            Some(revision) => ReadAt::AtLeast(revision),
        };
        self.store
            .get(&access.key(), at)
            .await
            .map_err(store_error)?
            .ok_or_else(|| access.not_found())
    }

    /// A collection, or a page of it.
    ///
    /// # Errors
    /// 400 and 422 for bad options, 410 for a snapshot that is gone; what the store says.
    pub async fn list(&self, access: &Access, options: &ListOptions) -> Result<Page, Error> {
        let filter = Filter::parse(&access.kind, &options.label_selector, &options.field_selector)?;
        check_match(options)?;
        let prefix = filter.prefix(access);
        let (at, start) = self.start(options)?;
        let start = start.map(|start| format!("{}{start}", access.kind.prefix));
        let unfiltered = filter.is_empty();
        let wanted = options.limit;
        let mut page = Page {
            entries: Vec::new(),
            revision: 0,
            continue_: String::new(),
            remaining: None,
        };
        let mut query_at = at;
        let mut after = start;
        loop {
            let limit = match (wanted, unfiltered) {
                (0, _) => 0,
                (n, true) => n,
                (n, false) => n.max(CHUNK),
            };
            let query = ListQuery {
                prefix: &prefix,
                start_after: after.as_deref(),
                limit,
                at: query_at,
            };
            let answer = self
                .store
                .list(query)
                .await
                .map_err(|error| list_error(error, !options.continue_.is_empty()))?;
            page.revision = answer.revision;
            // Later chunks must be of the same snapshot.
            query_at = ReadAt::Exact(answer.revision);
            let total = answer.entries.len();
            let mut taken = 0;
            for entry in answer.entries {
                if wanted > 0 && page.entries.len() == wanted {
                    break;
                }
                taken += 1;
                after = Some(entry.key.to_string());
                if unfiltered || filter.matches(&entry.value) {
                    page.entries.push(entry);
                }
            }
            let more = answer.more || taken < total;
            if !more {
                return Ok(page);
            }
            if wanted > 0 && page.entries.len() == wanted {
                let start = after
                    .as_deref()
                    .and_then(|key| key.strip_prefix(access.kind.prefix.as_str()))
                    .unwrap_or_default();
                page.continue_ = encode_continue(answer.revision, start);
                page.remaining = unfiltered.then_some(answer.remaining);
                return Ok(page);
            }
        }
    }

    /// Freshness of the read, and the key (without the kind's prefix) after which it starts.
    fn start(&self, options: &ListOptions) -> Result<(ReadAt, Option<String>), Error> {
        let revision = parse_revision(&options.resource_version)?;
        if !options.continue_.is_empty() {
            if revision.is_some_and(|r| r != 0) {
                return Err(Error::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = decode_continue(&options.continue_)?;
            return Ok((
                u64::try_from(token.rv).map_or(ReadAt::Latest, ReadAt::Exact),
                Some(token.start),
            ));
        }
        let at = match (revision, options.resource_version_match.as_str()) {
            (None, _) => ReadAt::Latest,
            (Some(0), _) => ReadAt::Any,
            (Some(revision), "Exact") => ReadAt::Exact(revision),
            // As in the API before resourceVersionMatch existed.
            (Some(revision), "") if options.limit > 0 => ReadAt::Exact(revision),
            (Some(revision), _) => ReadAt::AtLeast(revision),
        };
        Ok((at, None))
    }
}

/// `None` for the empty text.
///
/// # Errors
/// 400 for anything that is no revision.
pub fn parse_revision(text: &str) -> Result<Option<Revision>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Error::bad_request(format!(
            "invalid resource version {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

fn check_match(options: &ListOptions) -> Result<(), Error> {
    const FIELD: &str = "resourceVersionMatch";
    let fault = match options.resource_version_match.as_str() {
        "" => return Ok(()),
        _ if options.resource_version.is_empty() => FieldError::forbidden(
            FIELD,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        _ if !options.continue_.is_empty() => {
            FieldError::forbidden(FIELD, "resourceVersionMatch is forbidden when continue is provided")
        }
        "Exact" if options.resource_version == "0" => FieldError::forbidden(
            FIELD,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        "Exact" | "NotOlderThan" => return Ok(()),
        other => FieldError::not_supported(FIELD, other, &["Exact", "NotOlderThan", ""]),
    };
    Err(Error::invalid(
        &GroupKind::new("meta.k8s.io", "ListOptions"),
        "",
        vec![fault],
    ))
}

fn list_error(error: StoreError, continued: bool) -> Error {
    match error {
        StoreError::Compacted { .. } if continued => Error::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        ),
        StoreError::Compacted { .. } => Error::expired("The resourceVersion for the provided list is too old."),
        other => store_error(other),
    }
}

fn encode_continue(revision: Revision, start: &str) -> String {
    let token = Continue {
        v: "meta.k8s.io/v1".into(),
        rv: revision as i64,
        start: start.to_owned(),
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode_continue(token: &str) -> Result<Continue, Error> {
    let bad = |why: &str| Error::bad_request(format!("continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD
        .decode(token.trim_end_matches('='))
        .map_err(|error| bad(&error.to_string()))?;
    let token: Continue = serde_json::from_slice(&bytes).map_err(|_| bad("cannot be decoded"))?;
    match token.v.as_str() {
        "meta.k8s.io/v1" if token.rv == 0 || token.start.is_empty() => {
            Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"))
        }
        "meta.k8s.io/v1" => Ok(token),
        other => Err(bad(&format!(
            "server does not recognize this encoded version {other:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went() {
        let token = decode_continue(&encode_continue(7, "default/web")).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "default/web"));
        assert_eq!(decode_continue("x!").unwrap_err().code, 400);
    }
}
