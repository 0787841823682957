//! Prometheus' text format, version 0.0.4.
//!
//! Written here and not by `prometheus-client`: that crate's histograms take a lock for each observation, so what counts on
//! the way of a request (`outcrop_fs::meter`) is our own anyway; what would be left of it is its text, which is OpenMetrics
//! only, where a counter's HELP and TYPE stand under another name than its samples.

use std::fmt::Write as _;

/// What the whole is called in HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family of samples is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up, from the daemon's start on. Its name ends in `_total`.
    Counter,
    /// A value at this moment.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// The text, as it grows.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        debug_assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { text: &mut self.0, name }
    }

    /// A gauge of one sample.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// A counter of one sample.
    pub fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// All of it.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

/// A family that samples are added to.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// A sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.line("", labels, value);
    }

    /// A sample that is a number of seconds, given in nanoseconds.
    pub fn seconds(&mut self, labels: &[(&str, &str)], ns: u128) {
        self.line("", labels, seconds(ns));
    }

    /// A histogram of durations: `buckets` are counts below each of `bounds_ns` and not below the one before, and of the rest.
    pub fn durations(&mut self, labels: &[(&str, &str)], bounds_ns: &[u64], buckets: &[u64], sum_ns: u64) {
        let mut count = 0;
        let bounds = bounds_ns.iter().map(|ns| seconds(u128::from(*ns))).chain(std::iter::once("+Inf".to_owned()));
        for (bound, bucket) in bounds.zip(buckets) {
            count += bucket;
            self.line("_bucket", &[labels, &[("le", &bound)]].concat(), count);
        }
        self.line("_sum", labels, seconds(u128::from(sum_ns)));
        self.line("_count", labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (number, (key, text)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{key}=\"{}\"", if number == 0 { '{' } else { ',' }, escaped(text));
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// A label's value: three characters would end it or its line.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Nanoseconds as seconds, exactly and without zeros at the end.
fn seconds(ns: u128) -> String {
    let (whole, rest) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let text = format!("{whole}.{rest:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_as_the_format_has_them() {
        let mut text = Text::default();
        text.counter("a_total", "Back\\slash\nand line.", 3);
        text.family("b", Kind::Gauge, "B.").sample(&[("volume", "q\"b\\n\n"), ("x", "")], 7);
        text.family("d_seconds", Kind::Histogram, "D.").durations(
            &[("op", "read")],
            &[25_000, 1_000_000_000],
            &[2, 0, 1],
            2_000_000_001,
        );
        let expected = "\
# HELP a_total Back\\\\slash\\nand line.
# TYPE a_total counter
a_total 3
# HELP b B.
# TYPE b gauge
b{volume=\"q\\\"b\\\\n\\n\",x=\"\"} 7
# HELP d_seconds D.
# TYPE d_seconds histogram
d_seconds_bucket{op=\"read\",le=\"0.000025\"} 2
d_seconds_bucket{op=\"read\",le=\"1\"} 2
d_seconds_bucket{op=\"read\",le=\"+Inf\"} 3
d_seconds_sum{op=\"read\"} 2.000000001
d_seconds_count{op=\"read\"} 3
";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn seconds_are_exact() {
        assert_eq!([0, 1, 10, 1_500_000_000, 1_000_000_000_000].map(seconds), ["0", "0.000000001", "0.00000001", "1.5", "1000"]);
    }
}
