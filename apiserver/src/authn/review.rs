//! TokenReview and SelfSubjectReview.

use serde_json::{Value, json};

use super::tokens::{Accepted, TokenChain};
use crate::kinds::field::{list, text};
use crate::registry::access::UserInfo;

/// A user as `authentication.k8s.io/v1 UserInfo`.
pub fn user_value(user: &UserInfo) -> Value {
    let mut out = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        out["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}

/// Answers a SelfSubjectReview.
pub fn self_subject(user: &UserInfo, mut review: Value) -> Value {
    review["status"] = json!({"userInfo": user_value(user)});
    review
}

/// The user of an `authentication.k8s.io UserInfo`.
pub fn user_of(value: &Value) -> UserInfo {
    let strings =
        |list: &[Value]| -> Vec<String> { list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect() };
    let extra = value["extra"].as_object().into_iter().flatten();
    UserInfo {
        name: text(value, "/username").to_owned(),
        uid: text(value, "/uid").to_owned(),
        groups: strings(list(value, "/groups")),
        extra: extra
            .map(|(key, values)| (key.clone(), strings(values.as_array().map_or(&[], Vec::as_slice))))
            .collect(),
    }
}

/// Answers a TokenReview.
///
/// # Errors
/// 400 when there is no token.
pub async fn token(tokens: &TokenChain, mut review: Value) -> Result<Value, api::Error> {
    let given = text(&review, "/spec/token").to_owned();
    if given.is_empty() {
        return Err(api::Error::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let wanted: Vec<String> = list(&review, "/spec/audiences")
        .iter()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    review["status"] = match tokens.authenticate(&given, &wanted).await {
        Ok(Accepted { user, audiences }) => {
            let mut status = json!({"authenticated": true, "user": user_value(&user)});
            if !audiences.is_empty() {
                status["audiences"] = json!(audiences);
            }
            status
        }
        Err(why) => json!({"user": {}, "error": why}),
    };
    Ok(review)
}
