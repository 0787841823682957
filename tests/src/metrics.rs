//! A strict reader of Prometheus' text format: what it lets through, a scraper and promtool take.

use std::collections::{BTreeMap, BTreeSet};

/// Samples by name and labels, the labels in their written form.
#[derive(Debug)]
pub struct Metrics {
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
    /// Kinds by family.
    pub kinds: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads a whole answer; panics, with the line, at whatever is not as it must be.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.contains('\r'), "lines end in a newline");
        let (mut helped, mut done) = (BTreeSet::new(), BTreeSet::new());
        let mut metrics = Self { samples: BTreeMap::new(), kinds: BTreeMap::new() };
        let mut family = String::new();
        for line in text.lines() {
            assert_eq!(line.trim(), line, "no space around a line");
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(help.ends_with('.') && helped.insert(name.to_owned()), "{line}");
                assert!(done.insert(std::mem::replace(&mut family, name.to_owned())), "a family's lines stand together: {line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert_eq!(name, family, "TYPE follows HELP: {line}");
                check_name(name, kind);
                assert!(metrics.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                let (name, labels, value) = sample(line);
                let kind = metrics.kinds.get(&family).unwrap_or_else(|| panic!("a sample without a family: {line}"));
                let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("not of family {family}: {line}"));
                let right = if kind == "histogram" { ["_bucket", "_sum", "_count"].contains(&suffix) } else { suffix.is_empty() };
                assert!(right && value.is_finite() && value >= 0.0, "{line}");
                assert_eq!(labels.contains_key("le"), suffix == "_bucket", "{line}");
                assert!(metrics.samples.insert((name, labels), value).is_none(), "twice: {line}");
            }
        }
        metrics.check_histograms();
        metrics
    }

    /// Buckets go up, and the last one holds all.
    fn check_histograms(&self) {
        for ((name, labels), count) in &self.samples {
            let Some(family) =
                name.strip_suffix("_count").filter(|family| self.kinds.get(*family).is_some_and(|k| k == "histogram"))
            else {
                continue;
            };
            let bucket = format!("{family}_bucket");
            let mut buckets: Vec<(f64, f64)> = Vec::new();
            for ((other, with), value) in
                self.samples.range((bucket.clone(), BTreeMap::new())..).take_while(|((n, _), _)| *n == bucket)
            {
                assert_eq!(*other, bucket);
                let mut without = with.clone();
                let bound = without.remove("le").unwrap_or_else(|| panic!("a bucket without a bound: {with:?}"));
                if without == *labels {
                    let bound = if bound == "+Inf" { f64::INFINITY } else { number(&bound) };
                    buckets.push((bound, *value));
                }
            }
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(
                buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
                "{name} {labels:?}: {buckets:?}"
            );
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{name} {labels:?}");
            assert!(self.samples.contains_key(&(format!("{family}_sum"), labels.clone())), "{name} {labels:?}");
        }
    }

    /// A sample's value, if it is there.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// A sample's value, which must be there.
    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no sample {name}{labels:?}"))
    }

    /// All values that a label has.
    pub fn values_of(&self, label: &str) -> BTreeSet<&str> {
        self.samples.keys().filter_map(|(_, labels)| labels.get(label)).map(String::as_str).collect()
    }

    /// All names of samples.
    pub fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|(name, _)| name.as_str()).collect()
    }
}

/// Prometheus' conventions: <https://prometheus.io/docs/practices/naming/>.
fn check_name(name: &str, kind: &str) {
    assert!(name.starts_with("outcrop_"), "{name}");
    assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
    assert!(["counter", "gauge", "histogram"].contains(&kind), "{name}: {kind}");
    assert_eq!(name.ends_with("_total"), kind == "counter", "{name}: only counters end in _total");
    for unit in ["milli", "micro", "nano", "kilo", "mega", "kib", "mib", "_ms", "_ns", "_us", "percent"] {
        assert!(!name.contains(unit), "{name}: base units only");
    }
    for suffix in ["_sum", "_count", "_bucket"] {
        assert!(!name.ends_with(suffix), "{name}: that is for histograms' samples");
    }
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("labels: {line}"));
            assert!(!key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "label {key}: {line}");
            let (value, after) = quoted(after).unwrap_or_else(|| panic!("a label's end: {line}"));
            assert!(labels.insert(key.to_owned(), value).is_none(), "label {key} twice: {line}");
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = after.strip_prefix('}').unwrap_or_else(|| panic!("labels: {line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line}"));
    (name.to_owned(), labels, number(value))
}

/// Up to the quote that ends it, and what is behind that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other @ ('\\' | '"') => other,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
    None
}

#[track_caller]
fn number(text: &str) -> f64 {
    assert!(text.bytes().all(|b| b.is_ascii_digit() || b == b'.'), "not a plain number: {text}");
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
