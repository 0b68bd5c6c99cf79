//! The static token file (`--token-auth-file`): CSV lines of `token,user,uid,"group1,group2"`. Tokens are kept as hashes.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::registry::access::UserInfo;

/// A line that cannot be used. The token is not in the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: expected token,user,uid[,\"group1,group2\"]")]
pub struct TokenFileError {
    /// Counted from 1.
    pub line: usize,
}

/// Users by the hash of their token. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StaticTokens(Arc<HashMap<[u8; 32], UserInfo>>);

impl StaticTokens {
    /// Reads the file's text.
    ///
    /// # Errors
    /// The first line that cannot be used.
    pub fn parse(text: &str) -> Result<StaticTokens, TokenFileError> {
        let mut out = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut parts = line.splitn(4, ',').map(str::trim);
            let (Some(token), Some(name), Some(uid)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(TokenFileError { line: i + 1 });
            };
            if token.is_empty() || name.is_empty() {
                return Err(TokenFileError { line: i + 1 });
            }
            let listed = parts.next().unwrap_or_default().trim_matches('"');
            let mut groups: Vec<String> = listed
                .split(',')
                .map(str::trim)
                .filter(|g| !g.is_empty())
                .map(str::to_owned)
                .collect();
            groups.push("system:authenticated".to_owned());
            let user = UserInfo {
                name: name.to_owned(),
                uid: uid.to_owned(),
                groups,
                ..UserInfo::default()
            };
            out.insert(Sha256::digest(token).into(), user);
        }
        Ok(StaticTokens(Arc::new(out)))
    }

    /// The user of a token. Looked up by hash, so that timing tells nothing of the tokens.
    pub fn find(&self, token: &str) -> Option<UserInfo> {
        let key: [u8; 32] = Sha256::digest(token).into();
        self.0.get(&key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let tokens = StaticTokens::parse("# comment\nabc,amy,1,\"dev,ops\"\n\nxyz,bob,2\n").unwrap_or_default();
        assert_eq!(
            tokens.find("abc").map(|u| u.groups),
            Some(vec!["dev".into(), "ops".into(), "system:authenticated".into()])
        );
        assert_eq!(tokens.find("xyz").map(|u| u.name).as_deref(), Some("bob"));
        assert!(tokens.find("nope").is_none());
        assert_eq!(StaticTokens::parse("a,b\n").err(), Some(TokenFileError { line: 1 }));
    }
}
