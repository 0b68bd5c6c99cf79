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

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// The content of a continue token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
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
        let entry = self.store.get(&access.key(), at).await.map_err(store_error)?;
        let entry = entry.ok_or_else(|| access.not_found())?;
        self.present_one(&access.kind, entry).await
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
            for entry in self.present(&access.kind, answer.entries).await? {
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
                page.continue_ = encode_continue(i64::try_from(answer.revision).unwrap_or(-1), start);
                page.remaining = unfiltered.then_some(answer.remaining);
                return Ok(page);
            }
        }
    }

    /// A token that goes on at the latest state, for a list that failed because the snapshot of its token is gone.
    pub fn inconsistent_token(error: &Error, options: &ListOptions) -> Option<String> {
        let token = decode_continue(&options.continue_).ok()?;
        (error.code == 410).then(|| encode_continue(-1, &token.start))
    }

    /// Freshness of the read, and the key (without the kind's prefix) after which it starts.
    fn start(&self, options: &ListOptions) -> Result<(ReadAt, Option<String>), Error> {
        if !options.continue_.is_empty() {
            let token = decode_continue(&options.continue_)?;
            if !matches!(&*options.resource_version, "" | "0") {
                return Err(Error::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let at = u64::try_from(token.rv).map_or(ReadAt::Latest, ReadAt::Exact);
            return Ok((at, Some(token.start)));
        }
        let revision = parse_revision(&options.resource_version)?;
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
            "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

/// Combinations of options that mean nothing.
fn check_match(options: &ListOptions) -> Result<(), Error> {
    const FIELD: &str = "resourceVersionMatch";
    let matched = options.resource_version_match.as_str();
    let mut faults = Vec::new();
    if !matched.is_empty() {
        let mut forbid = |is: bool, why: &str| {
            if is {
                faults.push(FieldError::forbidden(FIELD, why));
            }
        };
        forbid(
            options.resource_version.is_empty(),
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        );
        forbid(
            !options.continue_.is_empty(),
            "resourceVersionMatch is forbidden when continue is provided",
        );
        if !matches!(matched, "Exact" | "NotOlderThan") {
            faults.push(FieldError::not_supported(
                FIELD,
                matched,
                &["Exact", "NotOlderThan", ""],
            ));
        }
        if matched == "Exact" && options.resource_version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            faults.push(FieldError::forbidden(FIELD, why));
        }
    }
    if options.send_initial_events.is_some() {
        let why = "sendInitialEvents is forbidden for list";
        faults.push(FieldError::forbidden("sendInitialEvents", why));
    }
    bad_options(faults)
}

/// 422 for faults of the options of a list or watch.
pub(super) fn bad_options(faults: Vec<FieldError>) -> Result<(), Error> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(
        &GroupKind::new("meta.k8s.io", "ListOptions"),
        "",
        faults,
    ))
}

fn list_error(error: StoreError, continued: bool) -> Error {
    match error {
        // The answer carries the token, see `inconsistent_token`.
        StoreError::Compacted { .. } if continued => Error::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        ),
        StoreError::Compacted { .. } => Error::expired("The resourceVersion for the provided list is too old."),
        other => store_error(other),
    }
}

fn encode_continue(revision: i64, start: &str) -> String {
    let token = Continue {
        v: TOKEN_VERSION.into(),
        rv: revision,
        start: start.to_owned(),
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode_continue(token: &str) -> Result<Continue, Error> {
    let bad = |why: String| Error::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD
        .decode(token.trim_end_matches('='))
        .map_err(|error| bad(error.to_string()))?;
    let token: Continue = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if token.v != TOKEN_VERSION {
        return Err(bad(format!(
            "server does not recognize this encoded version {}",
            token.v
        )));
    }
    if token.rv == 0 {
        return Err(bad(format!(
            "incorrect encoded start resourceVersion (version {TOKEN_VERSION})"
        )));
    }
    if token.start.is_empty() {
        return Err(bad(format!("encoded start key empty (version {TOKEN_VERSION})")));
    }
    // Whoever makes up a token does not leave the collection.
    if token.start.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(bad(token.start));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went() {
        let token = decode_continue(&encode_continue(7, "default/web")).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "default/web"));
        for (text, why) in [
            ("x!".to_owned(), ""),
            (URL_SAFE_NO_PAD.encode("[]"), ""),
            (
                URL_SAFE_NO_PAD.encode(r#"{"v":"v9","rv":1,"start":"a"}"#),
                "server does not recognize this encoded version v9",
            ),
            (
                encode_continue(0, "a"),
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                encode_continue(1, ""),
                "encoded start key empty (version meta.k8s.io/v1)",
            ),
            (encode_continue(1, "../secrets/a"), "../secrets/a"),
        ] {
            let error = decode_continue(&text).unwrap_err();
            assert_eq!(error.code, 400, "{text}");
            assert!(error.message.contains(why), "{error}");
        }
    }

    #[test]
    fn an_expired_token_has_a_successor() {
        let options = ListOptions {
            continue_: encode_continue(7, "a/b"),
            ..ListOptions::default()
        };
        let next = Registry::inconsistent_token(&Error::expired("x"), &options).unwrap();
        assert_eq!(decode_continue(&next).unwrap().rv, -1);
        assert_eq!(Registry::inconsistent_token(&Error::bad_request("x"), &options), None);
    }

    #[test]
    fn options_that_contradict_each_other_are_all_named() {
        let faults = |version: &str, matched: &str, token: &str| {
            let options = ListOptions {
                resource_version: version.into(),
                resource_version_match: matched.into(),
                continue_: token.into(),
                ..ListOptions::default()
            };
            check_match(&options).err().map(|e| (e.code, e.message))
        };
        assert_eq!(faults("5", "Exact", ""), None);
        assert_eq!(faults("0", "NotOlderThan", ""), None);
        assert_eq!(
            faults("", "Exact", ""),
            Some((422, "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided".into()))
        );
        assert_eq!(
            faults("0", "Exact", "x"),
            Some((422, "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided, resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"]".into()))
        );
        assert_eq!(
            faults("1", "Nearly", ""),
            Some((422, "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \"Nearly\": supported values: \"Exact\", \"NotOlderThan\", \"\"".into()))
        );
    }
}
