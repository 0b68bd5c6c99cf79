//! Writes `libs/api/src/schema/table.rs` from three sources: `k8s-pb` (tags, types and the markers in its comments: list types, list keys, merge
//! keys), `k8s-openapi` (JSON names, required fields, kinds) and `data/go_fields.txt` (zero-value rules).
//!
//! Run it in the repository: `cargo run -p api --example generate_schema`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Kinds that have no resource of their own but travel over the API.
const EXTRA_ROOTS: &[&str] = &[
    "k8s.io.api.admission.v1.AdmissionReview",
    "k8s.io.api.apidiscovery.v2.APIGroupDiscoveryList",
    "k8s.io.api.apidiscovery.v2beta1.APIGroupDiscoveryList",
    "k8s.io.api.core.v1.PodAttachOptions",
    "k8s.io.api.core.v1.PodExecOptions",
    "k8s.io.api.core.v1.PodLogOptions",
    "k8s.io.api.core.v1.PodPortForwardOptions",
    "k8s.io.api.core.v1.PodProxyOptions",
    "k8s.io.api.core.v1.PodStatusResult",
    "k8s.io.api.core.v1.NodeProxyOptions",
    "k8s.io.api.core.v1.RangeAllocation",
    "k8s.io.api.core.v1.ServiceProxyOptions",
    "k8s.io.apimachinery.pkg.apis.meta.v1.CreateOptions",
    "k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "k8s.io.apimachinery.pkg.apis.meta.v1.GetOptions",
    "k8s.io.apimachinery.pkg.apis.meta.v1.ListOptions",
    "k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
    "k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList",
    "k8s.io.apimachinery.pkg.apis.meta.v1.PatchOptions",
    "k8s.io.apimachinery.pkg.apis.meta.v1.TableOptions",
    "k8s.io.apimachinery.pkg.apis.meta.v1.UpdateOptions",
    "k8s.io.apimachinery.pkg.apis.meta.v1.WatchEvent",
];

fn main() -> Fallible<()> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR"));
    let structs = openapi_structs(&source_of("k8s-openapi")?.join("v1_35"))?;
    let messages = with_upstream_names(protobuf_messages(&source_of("k8s-pb")?)?, &structs);
    let go = go_fields(&target.join("data/go_fields.txt"))?;
    let table = Table::build(&messages, &structs, &go)?;
    fs::write(target.join("src/schema/table.rs"), table.to_source()?)?;
    Ok(())
}

/// The `src` folder of a dependency.
fn source_of(package: &str) -> Fallible<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata has no packages")?;
    let found = packages.iter().find(|candidate| candidate["name"] == package);
    let manifest = found
        .and_then(|found| found["manifest_path"].as_str())
        .ok_or_else(|| format!("no {package}"))?;
    Ok(Path::new(manifest).with_file_name("src"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Fallible<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

/// `api/core/v1` as `k8s.io.api.core.v1`.
fn package_name(root: &Path, folder: &Path) -> Fallible<String> {
    let parts: Vec<_> = folder
        .strip_prefix(root)?
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    Ok(format!("k8s.io.{}", parts.join(".")))
}

/// The value of `name = "value"` in an attribute.
fn quoted<'a>(attribute: &'a str, name: &str) -> Option<&'a str> {
    let rest = attribute.split_once(&format!("{name} = \""))?.1;
    Some(rest.split_once('"')?.0)
}

// ---- k8s-pb ----

/// A message as k8s-pb declares it.
struct ProtoMessage {
    docs: Vec<String>,
    fields: Vec<ProtoField>,
}

struct ProtoField {
    ident: String,
    docs: Vec<String>,
    /// What stands in `#[prost(..)]`.
    attribute: String,
    /// The full name of the message in the field's type, if it has one.
    message: Option<String>,
}

fn protobuf_messages(root: &Path) -> Fallible<BTreeMap<String, ProtoMessage>> {
    let mut files = Vec::new();
    rust_files(root, &mut files)?;
    let mut messages = BTreeMap::new();
    for file in files {
        let package = package_name(root, file.parent().ok_or("a file without a folder")?)?;
        parse_messages(&package, &fs::read_to_string(&file)?, &mut messages)?;
    }
    Ok(messages)
}

/// prost writes `PodIp` for upstream's `PodIP`; k8s-openapi keeps the name.
fn with_upstream_names(
    messages: BTreeMap<String, ProtoMessage>,
    structs: &BTreeMap<String, OpenApiStruct>,
) -> BTreeMap<String, ProtoMessage> {
    let names: BTreeMap<String, &String> = structs.keys().map(|name| (name.to_lowercase(), name)).collect();
    let upstream = |name: String| names.get(&name.to_lowercase()).map_or(name, |name| name.to_string());
    let rename = |(name, mut message): (String, ProtoMessage)| {
        for field in &mut message.fields {
            field.message = field.message.take().map(upstream);
        }
        (upstream(name), message)
    };
    messages.into_iter().map(rename).collect()
}

fn parse_messages(package: &str, source: &str, messages: &mut BTreeMap<String, ProtoMessage>) -> Fallible<()> {
    let (mut docs, mut attribute) = (Vec::new(), String::new());
    let mut current: Option<String> = None;
    let mut lines = source.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(doc) = line.strip_prefix("///") {
            docs.push(doc.trim().to_string());
        } else if line.starts_with("#[prost(") {
            attribute = joined(line, &mut lines, |text| text.ends_with(")]"));
        } else if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = format!("{package}.{}", rest.split([' ', '{']).next().unwrap_or_default());
            messages.insert(
                name.clone(),
                ProtoMessage {
                    docs: std::mem::take(&mut docs),
                    fields: Vec::new(),
                },
            );
            current = (!rest.ends_with("{}")).then_some(name);
        } else if line == "}" {
            current = None;
            docs.clear();
        } else if let (Some(name), Some(_)) = (&current, line.strip_prefix("pub ")) {
            let declaration = joined(line, &mut lines, |text| {
                text.ends_with(',') && text.matches('<').count() == text.matches('>').count()
            });
            let (ident, ty) = declaration["pub ".len()..]
                .split_once(':')
                .ok_or("a field without a type")?;
            let field = ProtoField {
                ident: ident.trim_start_matches("r#").to_string(),
                docs: std::mem::take(&mut docs),
                attribute: std::mem::take(&mut attribute),
                message: message_in(package, ty),
            };
            messages
                .get_mut(name)
                .ok_or("a field outside a struct")?
                .fields
                .push(field);
        } else if !line.starts_with("#[") {
            docs.clear();
        }
    }
    Ok(())
}

fn joined<'a>(first: &str, rest: &mut impl Iterator<Item = &'a str>, complete: impl Fn(&str) -> bool) -> String {
    let mut text = first.to_string();
    while !complete(&text) {
        let Some(line) = rest.next() else { break };
        text.push_str(line);
    }
    text
}

/// Resolves the message in `Option<super::super::v1::Name>`, `Vec<Name>`, `BTreeMap<String, Name>`, ...
fn message_in(package: &str, ty: &str) -> Option<String> {
    let ty = ty
        .trim()
        .trim_end_matches(',')
        .trim_end_matches('>')
        .trim_end_matches(',')
        .trim();
    let path = ty.rsplit(['<', ',']).next()?.trim().trim_start_matches("::");
    let primitive = ["i32", "i64", "f64", "bool", "u8"].contains(&path);
    if primitive || path.starts_with("prost::") || path.starts_with("core::") {
        return None;
    }
    let mut base: Vec<&str> = package.split('.').collect();
    let mut parts = path.split("::").peekable();
    while parts.next_if_eq(&"super").is_some() {
        base.pop();
    }
    base.extend(parts);
    Some(base.join("."))
}

// ---- k8s-openapi ----

/// A struct as k8s-openapi declares it.
#[derive(Default)]
struct OpenApiStruct {
    /// Normalised name -> (JSON name, required).
    fields: BTreeMap<String, (String, bool)>,
    /// Group, version, kind.
    kind: Option<(String, String, String)>,
}

/// What JSON names and protobuf names have in common.
fn normalised(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

fn openapi_structs(root: &Path) -> Fallible<BTreeMap<String, OpenApiStruct>> {
    let mut files = Vec::new();
    rust_files(root, &mut files)?;
    let mut structs = BTreeMap::new();
    for file in files {
        let package = package_name(root, file.parent().ok_or("a file without a folder")?)?;
        let source = fs::read_to_string(&file)?;
        if let Some((name, parsed)) = parse_struct(&source) {
            structs.insert(format!("{package}.{name}"), parsed);
        }
    }
    Ok(structs)
}

fn parse_struct(source: &str) -> Option<(String, OpenApiStruct)> {
    let (_, after) = source
        .split_once("\npub struct ")
        .or_else(|| source.split_once("\npub enum "))?;
    let name: String = after.chars().take_while(char::is_ascii_alphanumeric).collect();
    let body = after.split_once("\n}").map_or("", |(body, _)| body);
    let required: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "))
        .filter(|(_, ty)| !ty.starts_with("Option<"))
        .map(|(ident, _)| ident.trim_start_matches("r#"))
        .collect();
    let mut parsed = OpenApiStruct::default();
    for line in source.lines().map(str::trim) {
        let Some((json, ident)) = line
            .strip_prefix('"')
            .and_then(|rest| rest.split_once("\" => Field::Key_"))
        else {
            continue;
        };
        let ident = ident.trim_end_matches(',');
        parsed
            .fields
            .insert(normalised(json), (json.to_string(), required.contains(ident)));
    }
    let constant = |name: &str| quoted(source, &format!("const {name}: &'static str")).map(str::to_string);
    if let (Some(group), Some(version), Some(kind)) = (constant("GROUP"), constant("VERSION"), constant("KIND")) {
        parsed.kind = Some((group, version, kind));
    }
    Some((name, parsed))
}

// ---- data/go_fields.txt ----

fn go_fields(path: &Path) -> Fallible<BTreeMap<(String, String), String>> {
    let mut classes = BTreeMap::new();
    for line in fs::read_to_string(path)?.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let message = words.next().unwrap_or_default();
        for word in words {
            let (class, names) = word
                .split_once('=')
                .ok_or_else(|| format!("{}: {line}", path.display()))?;
            for name in names.split(',') {
                classes.insert((message.to_string(), name.to_string()), class.to_string());
            }
        }
    }
    Ok(classes)
}

// ---- the table ----

struct Table<'a> {
    messages: &'a BTreeMap<String, ProtoMessage>,
    structs: &'a BTreeMap<String, OpenApiStruct>,
    go: &'a BTreeMap<(String, String), String>,
    /// Message -> rows of Rust source.
    rows: BTreeMap<String, Vec<String>>,
    /// (group, version, kind) -> message.
    kinds: BTreeMap<(String, String, String), String>,
    /// Distinct `Merge` values -> their constants.
    merges: BTreeMap<String, usize>,
}

/// A message and the struct whose JSON names its fields have: its own, or that of the parent it is inlined into.
struct Work {
    message: String,
    names_from: String,
}

impl<'a> Table<'a> {
    fn build(
        messages: &'a BTreeMap<String, ProtoMessage>,
        structs: &'a BTreeMap<String, OpenApiStruct>,
        go: &'a BTreeMap<(String, String), String>,
    ) -> Fallible<Self> {
        let (rows, kinds, merges) = Default::default();
        let mut table = Table {
            messages,
            structs,
            go,
            rows,
            kinds,
            merges,
        };
        let mut queue = table.roots();
        while let Some(work) = queue.pop() {
            if !table.rows.contains_key(&work.message) {
                let rows = table.message_rows(&work, &mut queue)?;
                table.rows.insert(work.message, rows);
            }
        }
        Ok(table)
    }

    fn roots(&mut self) -> Vec<Work> {
        let mut roots: Vec<String> = Vec::new();
        for (name, parsed) in self.structs {
            let (Some((group, version, kind)), true) = (&parsed.kind, self.messages.contains_key(name)) else {
                continue;
            };
            for suffix in ["", "List"] {
                let message = format!("{name}{suffix}");
                if self.messages.contains_key(&message) {
                    let kind = format!("{kind}{suffix}");
                    self.kinds
                        .insert((group.clone(), version.clone(), kind), message.clone());
                    roots.push(message);
                }
            }
        }
        for name in EXTRA_ROOTS {
            let mut parts = name.rsplit('.');
            let (kind, version, group) = (parts.next(), parts.next(), parts.next());
            let group = match group.unwrap_or_default() {
                "core" | "meta" => "",
                "admission" => "admission.k8s.io",
                _ => "apidiscovery.k8s.io",
            };
            let gvk = (
                group.to_string(),
                version.unwrap_or_default().to_string(),
                kind.unwrap_or_default().to_string(),
            );
            self.kinds.insert(gvk, name.to_string());
            roots.push(name.to_string());
        }
        roots
            .into_iter()
            .map(|message| Work {
                names_from: message.clone(),
                message,
            })
            .collect()
    }

    fn message_rows(&mut self, work: &Work, queue: &mut Vec<Work>) -> Fallible<Vec<String>> {
        let proto = self
            .messages
            .get(&work.message)
            .ok_or_else(|| format!("no message {}", work.message))?;
        let is_root = self.kinds.values().any(|message| *message == work.message);
        let mut rows = Vec::new();
        for field in &proto.fields {
            rows.push(self.field_row(work, is_root, field, queue)?);
        }
        if rows.len() > 64 {
            return Err(format!("{} has more fields than the readers keep slots for", work.message).into());
        }
        Ok(rows)
    }

    fn field_row(&mut self, work: &Work, is_root: bool, field: &ProtoField, queue: &mut Vec<Work>) -> Fallible<String> {
        let known = self
            .structs
            .get(&work.names_from)
            .or_else(|| self.structs.get(&work.message));
        let named = known
            .and_then(|known| known.fields.get(&normalised(&field.ident)))
            .cloned();
        let tag = quoted(&field.attribute, "tag").ok_or("a field without a tag")?;
        let ty = field_type(field)?;
        if let (None, Some(_), Some(inner)) = (&named, known, &field.message)
            && !self.is_new_field(work, field)
        {
            queue.push(Work {
                message: inner.clone(),
                names_from: self.inlined_names(work, inner),
            });
            return Ok(format!("f(\"\", {tag}, {ty}).inline()"));
        }
        if let Some(message) = field.message.as_ref().filter(|name| special_type(name).is_none()) {
            queue.push(Work {
                message: message.clone(),
                names_from: message.clone(),
            });
        }
        for props in field.message.iter().filter(|name| name.contains(".JSONSchemaPropsOr")) {
            let props = props.split_once("Or").map_or("", |(props, _)| props).to_string();
            queue.push(Work {
                message: props.clone(),
                names_from: props,
            });
        }
        let (json, required) = named.unwrap_or_else(|| {
            (
                camel_case(&field.ident),
                !field.docs.iter().any(|doc| doc == "+optional"),
            )
        });
        let mut row = format!("f({json:?}, {tag}, {ty})");
        let repeated = field.attribute.contains("repeated") && !ty.starts_with("Map");
        if repeated {
            row.push_str(".list()");
        }
        if required {
            row.push_str(".required()");
        }
        row.push_str(self.zero_rule(work, is_root, &json, required, repeated, &ty));
        if let Some(merge) = self.merge(field, repeated) {
            write!(row, ".merge(&S{merge})")?;
        }
        Ok(row)
    }

    /// The struct that names the fields of a message inlined at `work`: the outermost one that has JSON names.
    fn inlined_names(&self, work: &Work, inner: &str) -> String {
        let parent = if self.structs.contains_key(&work.names_from) {
            &work.names_from
        } else {
            &work.message
        };
        if self.structs.contains_key(inner) {
            inner.to_string()
        } else {
            parent.clone()
        }
    }

    /// A message field that OpenAPI does not know although its fields are not the parent's either.
    fn is_new_field(&self, work: &Work, field: &ProtoField) -> bool {
        let (Some(inner), Some(parent)) = (&field.message, self.structs.get(&work.names_from)) else {
            return true;
        };
        let Some(inner) = self.messages.get(inner) else {
            return true;
        };
        let names = |message: &ProtoMessage| {
            message
                .fields
                .iter()
                .any(|field| parent.fields.contains_key(&normalised(&field.ident)))
        };
        let nested = inner
            .fields
            .iter()
            .filter_map(|field| self.messages.get(field.message.as_ref()?));
        !names(inner) && !nested.into_iter().any(names)
    }

    fn zero_rule(
        &self,
        work: &Work,
        is_root: bool,
        json: &str,
        required: bool,
        repeated: bool,
        ty: &str,
    ) -> &'static str {
        let scalar = matches!(ty, "Bool" | "Int32" | "Int64" | "Double" | "String") && !repeated;
        let list = repeated || ty.starts_with("Map") || ty == "Bytes" || ty == "StringList";
        let key = (work.message.clone(), json.to_string());
        match self.go.get(&key).map(String::as_str) {
            Some("zero") => ".drops_zero()",
            Some("always" | "struct") => ".always()",
            Some("null") if json == "items" && work.message.ends_with("List") => ".empty()",
            Some("null") => ".null()",
            _ if json == "items" && work.message.ends_with("List") => ".empty()",
            _ if json == "metadata" => ".always()",
            _ if is_root && !repeated && (json == "spec" || json == "status") && ty.starts_with("Message") => {
                ".always()"
            }
            _ if required && scalar => ".always()",
            _ if required && (list || ty.ends_with("Time") || ty == "RawJson") => ".null()",
            _ if required => ".always()",
            _ => "",
        }
    }

    /// The number of the `Merge` constant for the markers of a field; none if they say nothing.
    fn merge(&mut self, field: &ProtoField, repeated: bool) -> Option<usize> {
        let marks: Vec<&str> = field.docs.iter().filter_map(|doc| doc.strip_prefix('+')).collect();
        let mark = |name: &str| marks.iter().find_map(|mark| mark.strip_prefix(name)?.strip_prefix('='));
        let strategies: Vec<&str> = marks
            .iter()
            .filter_map(|mark| mark.strip_prefix("patchStrategy="))
            .flat_map(|value| value.split(','))
            .collect();
        let patch_merge = strategies.contains(&"merge");
        let retain_keys = strategies.contains(&"retainKeys");
        let merge_key = mark("patchMergeKey");
        let mut keys: Vec<&str> = marks
            .iter()
            .filter_map(|mark| mark.strip_prefix("listMapKey="))
            .collect();
        let list_type = match (mark("listType"), merge_key) {
            _ if !repeated => "ListType::Atomic".to_string(),
            (Some("set"), _) => "ListType::Set".to_string(),
            (Some("map"), key) => {
                if keys.is_empty() {
                    keys.extend(key);
                }
                format!("ListType::Map {{ keys: &{keys:?} }}")
            }
            // What upstream falls back to where only the strategic-merge markers are given.
            (None, Some(key)) if patch_merge => format!("ListType::Map {{ keys: &{:?} }}", [key]),
            (None, None) if patch_merge => "ListType::Set".to_string(),
            _ => "ListType::Atomic".to_string(),
        };
        let of_message = field.message.as_ref().and_then(|name| self.messages.get(name));
        let type_atomic = of_message.is_some_and(|message| message.docs.iter().any(|doc| doc == "+structType=atomic"));
        let granular = mark("structType") == Some("granular") || mark("mapType") == Some("granular");
        let atomic = !repeated
            && !granular
            && (type_atomic || mark("structType") == Some("atomic") || mark("mapType") == Some("atomic"));
        let default = mark("default").filter(|default| !default.starts_with("ref("));
        let constant = format!(
            "Merge {{ list_type: {list_type}, atomic: {atomic}, patch_merge: {patch_merge}, patch_retain_keys: {retain_keys}, \
             patch_merge_key: {merge_key:?}, default: {default:?} }}"
        );
        let plain = "Merge { list_type: ListType::Atomic, atomic: false, patch_merge: false, patch_retain_keys: false, \
                     patch_merge_key: None, default: None }";
        if constant == plain {
            return None;
        }
        let next = self.merges.len();
        Some(*self.merges.entry(constant).or_insert(next))
    }

    fn to_source(&self) -> Fallible<String> {
        let index = |name: &str| self.rows.keys().position(|key| key == name).unwrap_or_default();
        let mut out = String::from(
            "// Generated by `cargo run -p api --example generate_schema`. Do not edit.\n\nuse super::FieldType::*;\nuse super::{f, ListType, Merge};\n\n",
        );
        let mut merges: Vec<_> = self.merges.iter().collect();
        merges.sort_by_key(|(_, number)| **number);
        for (constant, number) in merges {
            writeln!(out, "static S{number}: Merge = {constant};")?;
        }
        writeln!(out)?;
        for (name, rows) in &self.rows {
            let atomic = self.messages[name].docs.iter().any(|doc| doc == "+structType=atomic");
            writeln!(
                out,
                "static M{}: super::Message = super::Message {{ name: {name:?}, atomic: {atomic}, fields: &[",
                index(name)
            )?;
            for row in rows {
                writeln!(out, "    {},", with_indexes(row, &index))?;
            }
            writeln!(out, "] }};")?;
        }
        writeln!(out, "\npub(super) static MESSAGES: &[&super::Message] = &[")?;
        for number in 0..self.rows.len() {
            writeln!(out, "    &M{number},")?;
        }
        writeln!(
            out,
            "];\n\npub(super) static KINDS: &[(&str, &str, &str, &super::Message)] = &["
        )?;
        for ((group, version, kind), message) in &self.kinds {
            writeln!(out, "    ({group:?}, {version:?}, {kind:?}, &M{}),", index(message))?;
        }
        out.push_str("];\n");
        Ok(out)
    }
}

/// Replaces `{full.name}` with the message's static.
fn with_indexes(row: &str, index: &impl Fn(&str) -> usize) -> String {
    let Some((before, rest)) = row.split_once('{') else {
        return row.to_string();
    };
    let Some((name, after)) = rest.split_once('}') else {
        return row.to_string();
    };
    format!("{before}M{}{after}", index(name))
}

fn field_type(field: &ProtoField) -> Fallible<String> {
    let attribute = field.attribute.trim_start_matches("#[prost(");
    let scalar = |word: &str| match word {
        "bool" => Some("Bool"),
        "int32" => Some("Int32"),
        "int64" => Some("Int64"),
        "double" => Some("Double"),
        "string" => Some("String"),
        "bytes" => Some("Bytes"),
        _ => None,
    };
    let of_message = || {
        let name = field.message.as_ref().ok_or("a message field without a message")?;
        Ok::<_, &str>(special_type(name).unwrap_or_else(|| format!("Message(&{{{name}}})")))
    };
    if let Some(map) = quoted(attribute, "btree_map") {
        let value = map.rsplit(", ").next().unwrap_or_default();
        let value = scalar(value).map(str::to_string).map_or_else(of_message, Ok)?;
        return Ok(format!("Map(&{value})"));
    }
    let word: String = attribute.chars().take_while(char::is_ascii_alphanumeric).collect();
    Ok(scalar(&word).map(str::to_string).map_or_else(of_message, Ok)?)
}

/// Messages whose JSON is not an object of their fields.
fn special_type(name: &str) -> Option<String> {
    let props = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let short = match name.rsplit('.').next()? {
        "Quantity" => "Quantity",
        "IntOrString" => "IntOrString",
        "Time" => "Time",
        "MicroTime" => "MicroTime",
        "RawExtension" | "FieldsV1" | "JSON" => "RawJson",
        "ExtraValue" | "Verbs" => "StringList",
        "JSONSchemaPropsOrBool" => return Some(format!("SchemaOrBool(&{{{props}}})")),
        "JSONSchemaPropsOrArray" => return Some(format!("SchemaOrArray(&{{{props}}})")),
        "JSONSchemaPropsOrStringArray" => return Some(format!("SchemaOrStrings(&{{{props}}})")),
        _ => return None,
    };
    Some(short.to_string())
}

/// The JSON name of a field that OpenAPI does not describe.
fn camel_case(ident: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in ident.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}
