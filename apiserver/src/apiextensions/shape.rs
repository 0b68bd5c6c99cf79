//! A structural schema as server-side apply sees it: what is one value, what has fields, how the items of lists are told apart.

use std::collections::BTreeMap;

use api::apply::Shape;

use super::schema::{Additional, ListType, META_FIELDS, Schema, Type};

/// Of a whole object, whose type and metadata are given.
pub fn of_object(schema: &Schema) -> Shape {
    let mut fields = fields(schema);
    for field in META_FIELDS {
        let meta = api::schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        let shape = match (*field, meta) {
            ("metadata", Some(message)) => Shape::Message(message),
            ("metadata", None) => Shape::Deduced,
            _ => Shape::Atomic,
        };
        fields.insert((*field).to_owned(), shape);
    }
    Shape::Fields {
        fields,
        open: schema.preserve_unknown,
    }
}

fn fields(schema: &Schema) -> BTreeMap<String, Shape> {
    let properties = schema.properties.iter();
    properties.map(|(name, schema)| (name.clone(), of(schema))).collect()
}

fn of(schema: &Schema) -> Shape {
    if schema.atomic {
        return Shape::Atomic;
    }
    match schema.ty {
        Some(Type::Array) => of_list(schema),
        Some(Type::Object) if schema.embedded => of_object(schema),
        Some(Type::Object) => match &schema.additional {
            Additional::Schema(inner) => Shape::Entries(Box::new(of(inner))),
            Additional::Any(true) if schema.properties.is_empty() => Shape::Entries(Box::new(Shape::Deduced)),
            _ if schema.properties.is_empty() && schema.preserve_unknown => Shape::Deduced,
            _ => Shape::Fields {
                fields: fields(schema),
                open: schema.preserve_unknown,
            },
        },
        None if schema.preserve_unknown => Shape::Deduced,
        _ => Shape::Atomic,
    }
}

fn of_list(schema: &Schema) -> Shape {
    match (&schema.list_type, &schema.items) {
        (ListType::Set, _) => Shape::Set,
        (ListType::Map(keys), Some(item)) => Shape::Keyed {
            keys: keys
                .iter()
                .map(|key| {
                    (
                        key.clone(),
                        item.properties.get(key).and_then(|key| key.default.clone()),
                    )
                })
                .collect(),
            item: Box::new(of(item)),
        },
        _ => Shape::Atomic,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn extensions_say_what_is_one_value() {
        let schema = Schema::parse(&json!({"type": "object", "properties": {
            "plain": {"type": "array", "items": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string", "default": "d"}}}},
            "atomic": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "any": {"x-kubernetes-preserve-unknown-fields": true}}}));
        let Shape::Fields { fields, open: false } = of_object(&schema) else {
            panic!("an object has fields")
        };
        assert_eq!(
            (&fields["plain"], &fields["set"], &fields["atomic"], &fields["any"]),
            (&Shape::Atomic, &Shape::Set, &Shape::Atomic, &Shape::Deduced)
        );
        assert_eq!(fields["labels"], Shape::Entries(Box::new(Shape::Atomic)));
        assert!(matches!(&fields["map"], Shape::Keyed { keys, .. } if *keys == [("k".to_owned(), Some(json!("d")))]));
        assert!(matches!(fields["metadata"], Shape::Message(_)));
    }
}
