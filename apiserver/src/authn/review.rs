//! TokenReview and SelfSubjectReview.

use serde_json::{Value, json};

use super::service_account::Tokens;
use super::static_tokens::StaticTokens;
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

/// Answers a TokenReview. The token is not repeated in the answer.
///
/// # Errors
/// 400 when there is no token.
pub async fn token(tokens: &Tokens, static_tokens: &StaticTokens, mut review: Value) -> Result<Value, api::Error> {
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
    let outcome = match static_tokens.find(&given) {
        Some(user) => Ok((user, wanted)),
        None => tokens
            .authenticate(&given, &wanted)
            .await
            .map(|a| (a.user, a.audiences)),
    };
    review["status"] = match outcome {
        Ok((user, audiences)) => {
            let mut status = json!({"authenticated": true, "user": user_value(&user)});
            if !audiences.is_empty() {
                status["audiences"] = json!(audiences);
            }
            status
        }
        Err(why) => json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}),
    };
    if let Some(spec) = review["spec"].as_object_mut() {
        spec.remove("token");
    }
    Ok(review)
}
