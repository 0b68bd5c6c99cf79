//! Hostile expressions and data: whatever is thrown at the crate, it neither panics nor overflows a stack, and stops within its budget.

use cel::{Env, Fuel, PER_CALL_LIMIT, Type, Value, to_json};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// Smaller than the stacks of any thread of ours.
const STACK: usize = 1 << 20;

fn env() -> Env {
    Env::new()
        .with("object", Type::Dyn)
        .with("self", Type::map(Type::STRING, Type::Dyn))
        .with_patches()
}

fn data() -> Json {
    json!({"list": [1, 2, 3], "map": {"a": "x", "b": [true, null]}, "text": "some text", "n": -5, "f": 1.5})
}

/// Compiles and runs; the cost never passes the limit by more than one step.
fn attempt(expression: &str) {
    let Ok(program) = env().compile(expression) else { return };
    let _ = program.estimate();
    let data = data();
    let mut fuel = Fuel::new(PER_CALL_LIMIT);
    if let Ok(value) = program.run(&[Value::from_json(&data), Value::from_json(&data)], &mut fuel) {
        let _ = to_json(&value, &mut fuel);
    }
}

fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(run)
        .expect("a thread")
        .join()
        .expect("no overflow");
}

#[test]
fn nesting_is_bounded() {
    on_a_small_stack(|| {
        for depth in [10, 100, 200, 240, 255, 300, 5_000, 45_000] {
            for (open, leaf, close) in [
                ("(", "1", ")"),
                ("[", "1", "]"),
                ("{'a': ", "1", "}"),
                ("!", "true", ""),
                ("-", "1", ""),
                ("[1].map(x, ", "x", ")"),
                ("cel.bind(a, 1, ", "a", ")"),
                ("optional.of(", "1", ")"),
                ("true ? ", "1", " : 1"),
                ("true ? 1 : ", "1", ""),
                ("1 + (", "1", ")"),
                ("dyn(", "1", ")"),
                ("object.list.map(x, [x] + ", "[1]", ")"),
                ("Object{a: ", "1", "}"),
                ("type(", "1", ")"),
            ] {
                attempt(&format!("{}{leaf}{}", open.repeat(depth), close.repeat(depth)));
            }
            for (start, link) in [
                ("1", " + 1"),
                ("true", " && true"),
                ("object", ".a"),
                ("object", "[0]"),
                ("'a'", ".trim()"),
                ("1", " == 1"),
            ] {
                attempt(&format!("{start}{}", link.repeat(depth)));
            }
        }
    });
}

#[test]
fn growth_is_bounded() {
    on_a_small_stack(|| {
        let twice = |seed: &str| {
            let mut text = String::from(seed);
            for n in 0..200 {
                text = format!("cel.bind(v{n}, {text}, v{n} + v{n})");
            }
            text
        };
        attempt(&twice("'0123456789'"));
        attempt(&twice("[1, 2, 3]"));
        attempt(&twice("b'0123456789'"));
        let mut nested = String::from("[1]");
        for n in 0..120 {
            nested = format!("cel.bind(v{n}, {nested}, [v{n}, v{n}])");
        }
        attempt(&format!("{nested} == {nested}"));
        attempt(&nested);
        attempt(&format!("'%s'.format([{nested}])"));
        attempt(
            "'a'.replace('', 'bbbbbbbbbb').replace('', 'bbbbbbbbbb').replace('', 'cccccccccccc').replace('', 'cccccccccccccc').replace('', 'ddddddd')",
        );
        attempt("'x'.matches('(((a{1,100}){1,100}){1,100}){1,100}')");
        attempt("object.text.matches('a'.replace('a', '(x+x+)+y') + 'b')");
        attempt("'%.1000f'.format([1.0e300])");
        attempt("'%.99999999f'.format([1.0])");
    });
}

#[test]
fn many_nodes_compile_quickly() {
    let wide = vec!["1 + 1 + object.n"; 5_000].join(", ");
    attempt(&format!("[{wide}]"));
    let calls = vec!["'a'.startsWith(object.text)"; 3_000].join(" || ");
    attempt(&calls);
}

/// Expressions that are often well-formed.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("object".to_owned()),
        Just("self".to_owned()),
        Just("object.list".to_owned()),
        Just("object.map".to_owned()),
        Just("x".to_owned()),
        Just("null".to_owned()),
        Just("9223372036854775807".to_owned()),
        Just("1.5e300".to_owned()),
        Just("'a%sb'".to_owned()),
        Just("b'\\xff'".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        "[a-z]{0,3}".prop_map(|s| format!("'{s}'")),
    ];
    leaf.prop_recursive(6, 60, 3, |inner| {
        let ops = prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "!=", "<", "<=", "in", "&&", "||"]);
        let methods = prop::sample::select(vec![
            "size",
            "trim",
            "split",
            "join",
            "max",
            "min",
            "sum",
            "isSorted",
            "orValue",
            "value",
            "hasValue",
            "getHours",
            "reverse",
            "first",
            "indexOf",
            "matches",
            "find",
            "findAll",
            "replace",
            "substring",
            "charAt",
            "format",
            "contains",
            "add",
            "isLessThan",
            "containsIP",
        ]);
        let functions = prop::sample::select(vec![
            "dyn",
            "int",
            "uint",
            "double",
            "string",
            "bytes",
            "bool",
            "type",
            "size",
            "duration",
            "timestamp",
            "quantity",
            "url",
            "ip",
            "cidr",
            "semver",
            "optional.of",
            "sets.contains",
            "math.greatest",
            "base64.encode",
            "strings.quote",
        ]);
        let macros = prop::sample::select(vec!["all", "exists", "exists_one", "map", "filter"]);
        prop_oneof![
            (inner.clone(), ops, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), methods, prop::collection::vec(inner.clone(), 0..3))
                .prop_map(|(a, m, args)| format!("dyn({a}).{m}({})", args.join(", "))),
            (functions, prop::collection::vec(inner.clone(), 1..3))
                .prop_map(|(f, args)| format!("{f}({})", args.join(", "))),
            (inner.clone(), macros, inner.clone()).prop_map(|(a, m, b)| format!("dyn({a}).{m}(x, {b})")),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!(
                "[{}]",
                items.iter().map(|i| format!("dyn({i})")).collect::<Vec<_>>().join(", ")
            )),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{'k': dyn({a}), 'l': dyn({b})}}")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("(dyn({a}) ? dyn({b}) : dyn({c}))")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("cel.bind(x, {a}, {b})")),
            inner.prop_map(|a| format!("{a}.?b")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn generated_expressions_end(expression in expressions()) {
        attempt(&expression);
        // With `x` declared more of them run.
        attempt(&format!("cel.bind(x, object.n, {expression})"));
    }

    #[test]
    fn random_text_ends(text in "\\PC{0,200}") {
        attempt(&text);
    }

    #[test]
    fn random_tokens_end(tokens in prop::collection::vec(prop::sample::select(vec![
        "(", ")", "[", "]", "{", "}", "?", ":", ",", ".", "!", "-", "+", "*", "&&", "||", "==", "in", "object", "x", "1", "1u", "0x", "'a'", "b'", "\"\"\"",
        "\\", "has", "map", "optional", ".?", "[?", "r'", "1.", "e5", " ", "\n", "//", "Object",
    ]), 0..60)) {
        attempt(&tokens.concat());
    }
}
