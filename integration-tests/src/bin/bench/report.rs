//! What is printed.

use std::io::Write;

/// One line of figures.
pub struct Figure<'a> {
    pub name: &'a str,
    pub method: String,
    pub values: Vec<Value>,
}

/// A number, and upstream's for the same.
pub struct Value {
    name: String,
    ours: f64,
    upstream: Option<f64>,
}

impl Value {
    /// `name` says what is counted, and the unit.
    pub fn new(name: impl Into<String>, ours: f64, upstream: Option<f64>) -> Self {
        Self {
            name: name.into(),
            ours,
            upstream,
        }
    }
}

/// What the columns are.
pub fn heading() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    line(&format!(
        "{cores} cores, load average {load} at the start. Upstream: kube-apiserver with etcd on 2 cores, the client on the same machine.\n"
    ));
    line(&format!("{:<34}{:>12}{:>12}{:>10}", "", "ours", "upstream", "ratio"));
}

/// A figure: name, method, and a line a value.
pub fn print(figure: &Figure<'_>) {
    line(&format!("{}\n  {}", figure.name, figure.method));
    for value in &figure.values {
        let (upstream, ratio) = match value.upstream {
            Some(upstream) => (number(upstream), format!("{:.3}", value.ours / upstream)),
            None => ("".into(), "".into()),
        };
        let text = format!(
            "    {:<30}{:>12}{upstream:>12}{ratio:>10}",
            value.name,
            number(value.ours)
        );
        line(text.trim_end());
    }
}

/// A remark.
pub fn remark(text: &str) {
    line(text);
}

/// A reader of the output who has left does not end the measurement.
fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Three digits that mean something, thousands apart.
fn number(value: f64) -> String {
    if value < 100.0 {
        return if value < 10.0 {
            format!("{value:.3}")
        } else {
            format!("{value:.1}")
        };
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_readable() {
        for (value, text) in [
            (0.0594, "0.059"),
            (18.04, "18.0"),
            (387.4, "387"),
            (111_000.0, "111,000"),
            (1e6, "1,000,000"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
