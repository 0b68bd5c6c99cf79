//! The language from outside: values, errors, types, costs, as tables of expressions.

use cel::{
    Answer, CompileError, Decisions, Env, Error, Fuel, ObjectType, PER_CALL_LIMIT, Type, Value, message_type, to_json,
};
use serde_json::{Value as Json, json};

/// A fuel that no test here exhausts.
fn fuel() -> Fuel<'static> {
    Fuel::new(PER_CALL_LIMIT)
}

/// The value of an expression over a dynamic `object`, as JSON, or the error's text.
fn eval(expression: &str, object: &Json) -> Result<Json, String> {
    let program = Env::new()
        .with("object", Type::Dyn)
        .compile(expression)
        .map_err(|error| error.to_string())?;
    let mut fuel = fuel();
    let value = program
        .run(&[Value::from_json(object)], &mut fuel)
        .map_err(|error| error.to_string())?;
    to_json(&value, &mut fuel).map_err(|error| error.to_string())
}

fn all_true(table: &[&str]) {
    let object = json!({"spec": {"replicas": 3, "name": "web", "ports": [80, 443], "ratio": 0.5, "labels": {"a": "1", "b": "2"}}, "none": null});
    for expression in table {
        assert_eq!(eval(expression, &object), Ok(json!(true)), "{expression}");
    }
}

#[test]
fn operators_and_literals() {
    all_true(&[
        "1 + 2 * 3 == 7",
        "(1 + 2) * 3 == 9",
        "-7 / 2 == -3 && -7 % 2 == -1",
        "10 - 2 - 3 == 5",
        "0x1F == 31 && 0x1Fu == 31u",
        "1.5e3 == 1500.0 && .5 == 0.5",
        "-9223372036854775808 < 0",
        "'a' + \"b\" == r'ab'",
        r#"'\x41\u0042\101\n'.size() == 4"#,
        "'''a\nb''' == 'a\\nb'",
        "b'\\xff'.size() == 1 && b'abc' == bytes('abc')",
        "!false && !!true",
        "true ? true : false",
        "1 < 2u && 2.0 >= 2 && 1u < 1.5",
        "dyn(1) == 1u && dyn(1) == 1.0 && dyn(1) != '1'",
        "'a' < 'b' && b'a' < b'b' && false < true",
        "1 in [1, 2] && !(3 in [1, 2]) && 'a' in {'a': 1}",
        "[1, 2] + [3] == [1, 2, 3]",
        "{'a': [1], 'b': [2]} == {'b': [2], 'a': [1]}",
        "[1, 2][1] == 2 && {'a': 5}['a'] == 5 && {'a': 5}.a == 5",
        "null == null",
        "type(1) == int && type('a') == string && type([]) == list && type(null) == null_type && type(type(1)) == type",
        "// a comment\n true",
    ]);
}

#[test]
fn data() {
    all_true(&[
        "object.spec.replicas == 3 && object['spec']['replicas'] == 3",
        "has(object.spec.replicas) && !has(object.spec.absent) && has(object.none)",
        "object.spec.ports[0] == 80 && size(object.spec.ports) == 2 && object.spec.name.size() == 3",
        "object.spec.ratio < 1.0 && object.spec.replicas > 2.5",
        "object.spec.labels.all(k, object.spec.labels[k] != '')",
        "object.spec.ports.exists(p, p == 443)",
        "object.spec.?absent.orValue('x') == 'x' && object.?spec.?replicas.value() == 3",
        "object.spec.labels[?'z'].hasValue() == false",
    ]);
}

#[test]
fn macros() {
    all_true(&[
        "[1, 2, 3].all(x, x > 0) && [].all(x, x > 0) && ![].exists(x, true)",
        "[1, 2, 3].exists_one(x, x == 2) && [1, 2, 3].existsOne(x, x == 2)",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6] && [1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "[1, 2, 3].filter(x, x != 2) == [1, 3] && {'a': 1, 'b': 2}.filter(k, k == 'a') == ['a']",
        "[1, 2].map(x, [3, 4].map(y, x * y)) == [[3, 4], [6, 8]]",
        "[5, 6].all(i, v, v == i + 5) && {'a': 1}.exists(k, v, k == 'a' && v == 1) && [1, 1].existsOne(i, v, i == 1)",
        "[1, 2].transformList(i, v, i + v) == [1, 3] && [1, 2].transformList(i, v, i > 0, v) == [2]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && {'a': 1}.transformMapEntry(k, v, {v: k}) == {1: 'a'}",
        "cel.bind(x, 5, x + x) == 10",
        "[1, 0].exists(x, 1 / x == 1) && ![0, 1].all(x, 1 / x == 2)",
        "true || 1 / 0 == 1 && 1 / 0 == 1 || true",
    ]);
}

#[test]
fn optionals() {
    all_true(&[
        "optional.of(1).value() == 1 && !optional.none().hasValue() && optional.none().orValue(7) == 7",
        "optional.ofNonZeroValue('').hasValue() == false && optional.ofNonZeroValue('a').hasValue()",
        "optional.none().or(optional.of(2)).value() == 2",
        "optional.of(2).optMap(x, x * 2).value() == 4 && optional.of(2).optFlatMap(x, optional.of(x)) == optional.of(2)",
        "[?optional.of(1), ?optional.none(), 3] == [1, 3] && {?'a': optional.none(), 'b': 1} == {'b': 1}",
        "[1, 2].first().value() == 1 && [].last() == optional.none()",
    ]);
}

#[test]
fn strings_lists_sets() {
    all_true(&[
        "'hello'.contains('ell') && 'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'hello'.matches('^h.*o$')",
        "'héllo'.size() == 5 && 'héllo'.charAt(1) == 'é' && 'héllo'.substring(1, 3) == 'él' && 'hello'.substring(4) == 'o'",
        "'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'hello'.indexOf('x') == -1 && 'hello'.indexOf('l', 3) == 3",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'abc'.split('') == ['a', 'b', 'c']",
        "['a', 'b'].join('-') == 'a-b' && ['a', 'b'].join() == 'ab'",
        "'aXbX'.replace('X', '_') == 'a_b_' && 'aXbX'.replace('X', '_', 1) == 'a_bX' && 'ab'.replace('', '-') == '-a-b-'",
        "' a '.trim() == 'a' && 'aB'.lowerAscii() == 'ab' && 'aB'.upperAscii() == 'AB'",
        "'%s has %d of %.2f %x %b %o'.format(['a', 3, 1.5, 255, 5, 8]) == 'a has 3 of 1.50 ff 101 10'",
        "'%s %s %s'.format([[1, 2], {'k': true}, null]) == '[1, 2] {k: true} null'",
        r#"strings.quote('a"b') == '"a\\"b"'"#,
        "[1, 2, 3].sum() == 6 && [1, 3, 2].max() == 3 && ['b', 'a'].min() == 'a' && [1, 2].isSorted() && ![2, 1].isSorted()",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 1, 2], [2, 1]) && sets.intersects([1], [1, 2]) && !sets.intersects([1], [2])",
        "'abc 123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2'] && 'a1b2'.findAll('[0-9]', 1) == ['1']",
        "base64.encode(b'hi') == 'aGk=' && base64.decode('aGk=') == b'hi'",
        "math.greatest(1, 3) == 3 && math.least([4, 2]) == 2 && math.abs(-1) == 1 && math.ceil(1.2) == 2.0",
    ]);
}

#[test]
fn conversions() {
    all_true(&[
        "int('42') == 42 && int(4.9) == 4 && uint(3) == 3u && double('1.5') == 1.5 && string(12) == '12' && string(true) == 'true'",
        "string(1.0) == '1' && string(1.5) == '1.5' && string(1000000.0) == '1e+06' && string(b'ab') == 'ab' && bool('true')",
        "timestamp('2024-02-29T10:11:12.5Z').getFullYear() == 2024 && timestamp('2024-02-29T10:11:12Z').getMonth() == 1",
        "timestamp('2024-02-29T10:11:12Z').getDate() == 29 && timestamp('2024-02-29T10:11:12Z').getDayOfWeek() == 4",
        "timestamp('2024-02-29T23:30:00Z').getHours('+01:00') == 0 && timestamp('2024-02-29T00:00:00Z').getDayOfYear() == 59",
        "duration('1h30m') == duration('90m') && duration('1.5s').getMilliseconds() == 1500 && duration('90m').getHours() == 1",
        "timestamp('2024-01-01T00:00:00Z') + duration('24h') == timestamp('2024-01-02T00:00:00Z')",
        "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
        "string(duration('90.5s')) == '90.5s' && string(timestamp('2024-01-01T00:00:00Z')) == '2024-01-01T00:00:00Z'",
        "int(timestamp('1970-01-01T00:01:00Z')) == 60 && timestamp(60) == timestamp('1970-01-01T00:01:00Z')",
    ]);
}

#[test]
fn kubernetes_libraries() {
    all_true(&[
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('1.5').add(quantity('500m')) == quantity('2')",
        "quantity('50k').sub(1) == quantity('49999') && quantity('2').asInteger() == 2 && !quantity('1.5').isInteger()",
        "isQuantity('20M') && !isQuantity('20Mo') && quantity('-1').sign() == -1 && quantity('1').compareTo(quantity('2')) == -1",
        "url('https://user@example.com:80/a%20b?k=v&k=w').getHostname() == 'example.com'",
        "url('https://example.com:80/').getPort() == '80' && url('https://[::1]:80/').getHostname() == '::1'",
        "url('/a b?k=v&k=w').getEscapedPath() == '/a%20b' && url('/?k=v&k=w').getQuery() == {'k': ['v', 'w']}",
        "isURL('https://example.com') && !isURL('example') && url('https://example.com/').getScheme() == 'https'",
        "ip('192.168.0.1').family() == 4 && ip('::1').isLoopback() && !isIP('::ffff:1.2.3.4') && !isIP('1.2.3')",
        "ip.isCanonical('::1') && !ip.isCanonical('0:0::1') && string(ip('10.0.0.1')) == '10.0.0.1'",
        "cidr('192.168.0.0/24').containsIP('192.168.0.7') && !cidr('192.168.0.0/24').containsIP(ip('192.168.1.1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.1.0.0/16').containsCIDR(cidr('10.0.0.0/8'))",
        "cidr('10.1.2.3/16').masked() == cidr('10.1.0.0/16') && cidr('10.1.2.3/16').prefixLength() == 16 && cidr('10.1.2.3/16').ip() == ip('10.1.2.3')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2 && !isSemver('1.2')",
        "semver('1.0.0-alpha.1').isLessThan(semver('1.0.0')) && semver('1.0.0').compareTo(semver('1.0.0+b')) == 0",
        "!format.dns1123Label().validate('my-name').hasValue() && format.dns1123Label().validate('My_').hasValue()",
        "format.named('labelValue').hasValue() && !format.named('x').hasValue() && !format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
    ]);
}

#[test]
fn errors_have_the_words_that_clients_know() {
    let object = json!({"spec": {}});
    for (expression, message) in [
        ("object.spec.x == 1", "no such key: x"),
        ("object.spec['x'] == 1", "no such key: x"),
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("0u - 1u == 0u", "unsigned integer overflow"),
        ("[1][3] == 1", "index out of bounds: 3"),
        ("object.spec + 1 == 2", "no such overload"),
        (
            "object.spec.startsWith('a')",
            "no such overload: startsWith(map, string)",
        ),
        ("object.spec.a.b", "no such key: a"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("int('x') == 1", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("dyn('a') < dyn(1)", "no such overload"),
        ("dyn(1) ? true : false", "no such overload"),
    ] {
        assert_eq!(eval(expression, &object), Err(message.to_owned()), "{expression}");
    }
}

fn refusal(env: &Env, expression: &str) -> String {
    let error: CompileError = env.compile(expression).expect_err(expression);
    error.to_string()
}

#[test]
fn faults_are_shown_in_their_place() {
    let inner = Type::object(ObjectType::new("Inner", [("y".to_owned(), Type::Int)]));
    let fields = [("x".to_owned(), Type::STRING), ("in-ner".to_owned(), inner)];
    let env = Env::new().with("self", Type::object(ObjectType::new("Self", fields)));
    for (expression, message) in [
        (
            "self.z == 1",
            "ERROR: <input>:1:5: undefined field 'z'\n | self.z == 1\n | ....^",
        ),
        (
            "self.x == 1",
            "ERROR: <input>:1:8: found no matching overload for '_==_' applied to '(string, int)'\n | self.x == 1\n | .......^",
        ),
        (
            "foo",
            "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^",
        ),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', \
             'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
        (
            "self.x.startsWith(1)",
            "ERROR: <input>:1:18: found no matching overload for 'startsWith' applied to 'string.(int)'\n | \
             self.x.startsWith(1)\n | .................^",
        ),
        (
            "self.x.y",
            "ERROR: <input>:1:7: type 'string' does not support field selection\n | self.x.y\n | ......^",
        ),
        (
            "true &&\n self.q",
            "ERROR: <input>:2:6: undefined field 'q'\n |  self.q\n | .....^",
        ),
        (
            "[1, 'a']",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^",
        ),
        (
            "'a'.matches('(')",
            "ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^",
        ),
    ] {
        assert_eq!(refusal(&env, expression), message);
    }
    assert!(env.compile("self.in__dash__ner.y == 3").is_ok());
}

#[test]
fn built_in_kinds_have_types() {
    let pod = api::schema::for_kind("", "v1", "Pod").expect("pods");
    let env = Env::new().with("object", message_type(pod));
    assert!(
        env.compile("object.spec.containers.all(c, c.image.startsWith('r/')) && object.kind == 'Pod'")
            .is_ok()
    );
    assert!(
        env.compile("object.metadata.creationTimestamp < timestamp('2030-01-01T00:00:00Z')")
            .is_ok()
    );
    assert!(refusal(&env, "object.spec.replicas > 1").contains("undefined field 'replicas'"));
}

#[test]
fn typed_data_has_the_schema_s_types() {
    let ty = Type::object(ObjectType::new(
        "T",
        [
            ("when".to_owned(), Type::Timestamp),
            ("ratio".to_owned(), Type::Double),
            ("for".to_owned(), Type::Duration),
            ("raw".to_owned(), Type::BYTES),
            ("x-y".to_owned(), Type::Int),
        ],
    ));
    let env = Env::new().with("self", ty.clone());
    let data = json!({"when": "2024-01-01T00:00:00Z", "ratio": 2, "for": "1h", "raw": "aGk=", "x-y": 1});
    let program = env
        .compile(
            "self.when.getFullYear() == 2024 && self.ratio == 2.0 && self.__for__ == duration('60m') && self.raw == b'hi' && \
             self.x__dash__y == 1 && has(self.x__dash__y)",
        )
        .expect("a program");
    let value = Value::typed(&data, &ty).expect("typed");
    assert!(matches!(program.run(&[value], &mut fuel()), Ok(Value::Bool(true))));
}

#[test]
fn an_authorizer_is_asked_from_outside() {
    let env = Env::new().with("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"));
    let program = env
        .compile("authorizer.group('apps').resource('deployments').namespace('a').check('get').allowed() && !authorizer.path('/x').check('get').allowed()")
        .expect("a program");
    let mut decisions = Decisions::default();
    let mut asked = Vec::new();
    let result = loop {
        let outcome = program.run(
            &[Value::authorizer()],
            &mut Fuel::with_decisions(PER_CALL_LIMIT, &decisions),
        );
        match outcome {
            Err(Error::Undecided(check)) => {
                let allowed = check.path.is_none();
                asked.push(format!("{}/{}/{}", check.group, check.resource, check.verb));
                decisions.learn(
                    *check,
                    Answer {
                        allowed,
                        ..Answer::default()
                    },
                );
            }
            other => break matches!(other, Ok(Value::Bool(true))),
        }
    };
    assert!(result);
    assert_eq!(asked, ["apps/deployments/get", "//get"]);
}

#[test]
fn cost_is_upstream_s() {
    let cost = |expression: &str| {
        let object = json!({"list": ["a", "b", "c"], "text": "0123456789"});
        let program = Env::new()
            .with("object", Type::Dyn)
            .compile(expression)
            .expect(expression);
        let mut fuel = fuel();
        program.run(&[Value::from_json(&object)], &mut fuel).expect(expression);
        fuel.cost()
    };
    assert_eq!(cost("1"), 0);
    assert_eq!(cost("object"), 1);
    assert_eq!(cost("object.list"), 2);
    assert_eq!(cost("has(object.list)"), 1);
    assert_eq!(cost("object.text == 'x'"), 3);
    assert_eq!(cost("object.list.all(x, true)"), 2 + 3 * 3 + 1);
    assert_eq!(cost("object.list.exists(x, false)"), 2 + 3 * 4 + 1);
    assert_eq!(cost("object.list.map(x, x)"), 2 + 10 + 3 * 13 + 1);
    assert_eq!(cost("object.text.matches('aaaa')"), 2 + 2);
    assert_eq!(cost("'aaaaaaaaaa' + 'bbbbbbbbbb' == 'c'"), 2 + 1);
}

#[test]
fn a_budget_ends_an_evaluation() {
    let long: Vec<u32> = (0..2000).collect();
    let object = json!({ "l": long });
    let program = Env::new()
        .with("o", Type::Dyn)
        .compile("o.l.all(x, o.l.all(y, o.l.all(z, x + y + z >= 0)))")
        .expect("a program");
    let outcome = program.run(&[Value::from_json(&object)], &mut fuel());
    let error = outcome.expect_err("too expensive");
    assert!(error.is_limit());
    assert_eq!(error.to_string(), "operation cancelled: actual cost limit exceeded");
}

#[test]
fn estimates_follow_declared_sizes() {
    let list = |max| Type::List(std::sync::Arc::new(Type::String(10)), max, Default::default());
    let estimate = |max, expression: &str| {
        let ty = Type::object(ObjectType::new("T", [("l".to_owned(), list(max))]));
        let program = Env::new().with("self", ty).compile(expression).expect(expression);
        program.estimate()
    };
    assert_eq!(estimate(100, "self.l.all(x, true)").max, 2 + 100 * 3 + 1);
    assert_eq!(
        estimate(100, "self.l.all(x, self.l.all(y, x == y))").max,
        2 + 100 * (3 + 2 + 100 * (3 + 3) + 1) + 1
    );
    assert_eq!(estimate(u64::MAX, "self.l.all(x, true)").max, u64::MAX);
    assert_eq!(estimate(5, "self.l.exists_one(x, x == 'a')").min, 2 + 2);
}

#[test]
fn mutations_are_written_with_messages() {
    let env = Env::new().with("object", Type::Dyn).with_patches();
    let object = json!({"spec": {"replicas": 1}});
    let program = env
        .compile("Object{spec: Object.spec{replicas: object.spec.replicas + 1, ?x: optional.none()}}")
        .expect("an apply configuration");
    assert_eq!(program.output().to_string(), "Object");
    let mut fuel = fuel();
    let value = program.run(&[Value::from_json(&object)], &mut fuel).expect("a value");
    assert_eq!(to_json(&value, &mut fuel), Ok(json!({"spec": {"replicas": 2}})));
    let patches = env
        .compile("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'x'}]")
        .expect("patches");
    assert_eq!(patches.output().to_string(), "list(JSONPatch)");
    let value = patches.run(&[Value::from_json(&object)], &mut fuel).expect("a value");
    assert_eq!(
        to_json(&value, &mut fuel),
        Ok(json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": "x"}]))
    );
    assert!(refusal(&Env::new(), "Object{}").contains("undeclared reference to 'Object'"));
}
