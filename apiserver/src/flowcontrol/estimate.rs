//! How many seats a request needs.

use crate::http::request_info::RequestInfo;

/// Objects that one seat answers.
const OBJECTS: u64 = 100;
/// The most that one request gets.
const MOST: u32 = 10;

/// One seat, and more for lists of many objects: `count` is how many the resource has, `nominal` how many seats the level has. A list never
/// takes more than a seventh of its level.
pub fn width(info: &RequestInfo, count: u64, nominal: u32) -> u32 {
    let a = &info.attributes;
    let query = |name: &str| info.query.get(name);
    let lists = match a.verb.as_str() {
        "list" => true,
        "watch" => info.query.flag("sendInitialEvents") == Some(true),
        _ => false,
    };
    if !lists || !a.name.is_empty() {
        return 1;
    }
    let selects = !query("labelSelector").is_empty() || !query("fieldSelector").is_empty();
    let limit = query("limit")
        .parse::<u64>()
        .ok()
        .filter(|limit| *limit > 0 && !selects);
    let objects = limit.map_or(count, |limit| limit.min(count));
    let seats = u32::try_from(objects.div_ceil(OBJECTS)).unwrap_or(MOST);
    seats.clamp(1, MOST.min(nominal.div_ceil(7)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_lists_need_more_seats() {
        for (path, query, count, nominal, expected) in [
            ("/api/v1/pods", "", 0, 100, 1),
            ("/api/v1/pods", "", 250, 100, 3),
            ("/api/v1/pods", "", 1_000_000, 100, 10),
            ("/api/v1/pods", "", 1_000_000, 20, 3),
            ("/api/v1/pods", "limit=150", 1_000_000, 100, 2),
            ("/api/v1/pods", "limit=150&labelSelector=a", 1_000_000, 100, 10),
            ("/api/v1/pods", "fieldSelector=metadata.name%3Dx", 1_000_000, 100, 1),
            ("/api/v1/pods", "watch=true", 1_000_000, 100, 1),
            ("/api/v1/pods", "watch=true&sendInitialEvents=true", 1_000_000, 100, 10),
            ("/api/v1/namespaces/a/pods/x", "", 1_000_000, 100, 1),
        ] {
            let info = RequestInfo::parse(&http::Method::GET, path, query);
            assert_eq!(width(&info, count, nominal), expected, "{path}?{query} of {count}");
        }
    }
}
