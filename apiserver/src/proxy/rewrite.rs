//! Links of a proxied target, in `Location` and in HTML, so that they lead through the proxy again. Pure, save for the body's stream.

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::BodyExt;

use crate::http::body::{Body, BodyError, stream};

/// The longest tag that is looked into, bytes; longer ones pass as they are.
const TAG: usize = 64 << 10;
/// Attributes that hold a link, by tag. Source: `apimachinery/pkg/util/proxy/transport.go`.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Puts the proxy's path before links that lead to the target itself.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// `/api/v1/namespaces/a/services/b/proxy`.
    pub prefix: String,
}

impl Rewrite {
    /// The path at which the client sees a path of the target.
    pub fn forwarded(&self, path: &str) -> String {
        join(&self.prefix, path)
    }

    /// A link as it leads through the proxy; links elsewhere and relative ones stay. `target` and `request` are the hosts under which the
    /// proxy and the client reach it.
    pub fn link(&self, link: &str, target: &str, request: &str) -> String {
        let (host, rest) = match link.split_once("//") {
            Some((scheme, rest)) if scheme.is_empty() || is_scheme(scheme) => {
                rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
            }
            _ => ("", link),
        };
        let elsewhere = !host.is_empty() && host != target && host != request;
        if elsewhere || !rest.starts_with('/') {
            return link.to_owned();
        }
        let (path, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        if path.starts_with(&self.prefix) {
            return rest.to_owned();
        }
        format!("{}{tail}", join(&self.prefix, path))
    }

    /// A page with its links changed, as it streams by.
    pub fn html(&self, body: Body, target: &str, request: &str) -> Body {
        let mut page = Page {
            rewrite: self.clone(),
            target: target.to_owned(),
            request: request.to_owned(),
            pending: Vec::new(),
            raw: None,
        };
        let chunks = body
            .into_data_stream()
            .map(Some)
            .chain(futures_util::stream::iter([None]));
        stream(chunks.map(move |chunk| -> Result<Bytes, BodyError> {
            match chunk {
                Some(chunk) => Ok(page.push(&chunk?).into()),
                None => Ok(std::mem::take(&mut page.pending).into()),
            }
        }))
    }
}

fn is_scheme(text: &str) -> bool {
    text.strip_suffix(':')
        .is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Joins paths, without empty, `.` and `..` segments, keeping a slash at the end.
fn join(prefix: &str, path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for segment in prefix.split('/').chain(path.split('/')) {
        match segment {
            "" | "." => {}
            ".." => drop(out.pop()),
            segment => out.push(segment),
        }
    }
    let slash = if path.ends_with('/') { "/" } else { "" };
    format!("/{}{slash}", out.join("/"))
}

/// A page that is being read.
struct Page {
    rewrite: Rewrite,
    target: String,
    request: String,
    /// Read, not yet passed on: an incomplete tag.
    pending: Vec<u8>,
    /// Inside of something that has no tags, until this.
    raw: Option<&'static [u8]>,
}

impl Page {
    /// Takes a piece of the page, gives what can be passed on.
    fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(piece);
        let input = std::mem::take(&mut self.pending);
        let mut out = Vec::with_capacity(input.len() + 64);
        let mut rest = input.as_slice();
        while !rest.is_empty() {
            let step = match self.raw {
                Some(end) => self.skip_to(end, rest, &mut out),
                None => self.tag(rest, &mut out),
            };
            match step {
                Some(left) => rest = left,
                None if rest.len() > TAG => {
                    out.extend_from_slice(rest);
                    return out;
                }
                None => {
                    self.pending = rest.to_vec();
                    return out;
                }
            }
        }
        out
    }

    /// Passes on raw text up to its end, all but the last few bytes if the end is not there yet.
    fn skip_to<'a>(&mut self, end: &[u8], rest: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
        let found = rest
            .windows(end.len())
            .position(|window| window.eq_ignore_ascii_case(end));
        let Some(at) = found else {
            let keep = rest.len().min(end.len() - 1);
            let (done, left) = rest.split_at(rest.len() - keep);
            out.extend_from_slice(done);
            self.pending = left.to_vec();
            return Some(&[]);
        };
        self.raw = None;
        // The end tag itself is a tag again, or a comment's last characters.
        let (done, left) = rest.split_at(at);
        out.extend_from_slice(done);
        Some(left)
    }

    /// Passes on text and one tag; `None` when the tag is incomplete.
    fn tag<'a>(&mut self, rest: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
        let Some(start) = rest.iter().position(|byte| *byte == b'<') else {
            out.extend_from_slice(rest);
            return Some(&[]);
        };
        let (text, tag) = rest.split_at(start);
        if b"<!--".starts_with(tag) && tag.len() < 4 {
            return None;
        }
        if tag.starts_with(b"<!--") {
            out.extend_from_slice(text);
            self.raw = Some(b"-->");
            out.extend_from_slice(b"<!--");
            return Some(&tag[4..]);
        }
        let end = tag_end(tag)?;
        out.extend_from_slice(text);
        let (tag, left) = tag.split_at(end + 1);
        match std::str::from_utf8(tag) {
            Ok(text) => out.extend_from_slice(self.links(text).as_bytes()),
            Err(_) => out.extend_from_slice(tag),
        }
        let name = name_of(tag);
        for (element, end) in [("script", &b"</script"[..]), ("style", b"</style")] {
            if name.eq_ignore_ascii_case(element.as_bytes()) {
                self.raw = Some(end);
            }
        }
        Some(left)
    }

    /// A tag with its links changed.
    fn links(&self, tag: &str) -> String {
        let name = String::from_utf8_lossy(name_of(tag.as_bytes())).to_ascii_lowercase();
        let Some((_, attributes)) = LINKS.iter().find(|(element, _)| *element == name) else {
            return tag.to_owned();
        };
        let mut out = String::with_capacity(tag.len() + 64);
        let mut rest = tag;
        while let Some(equals) = value_start(rest) {
            let (before, value) = rest.split_at(equals);
            let attribute = before.trim_end_matches(['=', ' ', '\t', '\n', '\r']);
            let attribute = attribute
                .rsplit(|c: char| c.is_ascii_whitespace() || c == '/' || c == '"' || c == '\'')
                .next();
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
            let inner = if quote.is_some() { &value[1..] } else { value };
            let length = match quote {
                Some(quote) => inner.find(quote),
                None => inner.find(|c: char| c.is_ascii_whitespace() || c == '>'),
            };
            let Some(length) = length else { break };
            let wanted = attribute.is_some_and(|a| attributes.iter().any(|wanted| wanted.eq_ignore_ascii_case(a)));
            out.push_str(before);
            out.extend(quote);
            match wanted {
                true => out.push_str(&self.rewrite.link(&inner[..length], &self.target, &self.request)),
                false => out.push_str(&inner[..length]),
            }
            out.extend(quote);
            rest = &inner[length + quote.map_or(0, char::len_utf8)..];
        }
        out.push_str(rest);
        out
    }
}

/// Where the next attribute's value begins, its quote included.
fn value_start(text: &str) -> Option<usize> {
    let equals = text.find('=')?;
    let blank = text[equals + 1..].find(|c: char| !c.is_ascii_whitespace())?;
    Some(equals + 1 + blank)
}

fn name_of(tag: &[u8]) -> &[u8] {
    let name = &tag[1..];
    &name[..name
        .iter()
        .position(|b| !b.is_ascii_alphanumeric())
        .unwrap_or(name.len())]
}

/// The place of the `>` that ends a tag; those in quoted values do not.
fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/a/services/b/proxy";

    fn rewrite() -> Rewrite {
        Rewrite { prefix: PREFIX.into() }
    }

    #[test]
    fn links_to_the_target_lead_through_the_proxy() {
        for (link, expected) in [
            ("/x", format!("{PREFIX}/x")),
            ("/x/", format!("{PREFIX}/x/")),
            ("/x?y=/z#w", format!("{PREFIX}/x?y=/z#w")),
            ("x", "x".into()),
            ("", String::new()),
            ("http://10.0.0.1:80/x", format!("{PREFIX}/x")),
            ("//10.0.0.1:80/x", format!("{PREFIX}/x")),
            ("https://server:6443/x", format!("{PREFIX}/x")),
            ("https://elsewhere/x", "https://elsewhere/x".into()),
            ("mailto:a@b", "mailto:a@b".into()),
            (&format!("{PREFIX}/x"), format!("{PREFIX}/x")),
        ] {
            assert_eq!(rewrite().link(link, "10.0.0.1:80", "server:6443"), expected, "{link}");
        }
    }

    fn page(pieces: &[&str]) -> String {
        let mut page = Page {
            rewrite: Rewrite { prefix: "/p".into() },
            target: "t".into(),
            request: "r".into(),
            pending: Vec::new(),
            raw: None,
        };
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(page.push(piece.as_bytes()));
        }
        out.extend(page.pending);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn pages_are_changed_in_their_links_only() {
        for (from, to) in [
            ("<a href=\"/x\">/x</a>", "<a href=\"/p/x\">/x</a>"),
            ("<A class='/c' HREF='/x' >", "<A class='/c' HREF='/p/x' >"),
            ("<a href=/x>", "<a href=/p/x>"),
            (
                "<img alt=\"a>b\" src = \"/i.png\"/>",
                "<img alt=\"a>b\" src = \"/p/i.png\"/>",
            ),
            (
                "<!-- <a href=\"/x\"> --><p title=\"/x\">1 < 2",
                "<!-- <a href=\"/x\"> --><p title=\"/x\">1 < 2",
            ),
            (
                "<script src=\"/s.js\">x = '<a href=\"/x\">'</script>",
                "<script src=\"/p/s.js\">x = '<a href=\"/x\">'</script>",
            ),
        ] {
            assert_eq!(page(&[from]), to);
            let letters: Vec<String> = from.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            assert_eq!(page(&letters), to, "in pieces");
        }
    }
}
