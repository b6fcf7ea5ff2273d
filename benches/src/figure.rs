//! A figure beside its ceiling.

use std::time::Duration;

use serde_json::json;

/// A median, and what it is to be compared with.
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: &'static str,
    /// The median.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: &'static str,
    /// The median of the ceiling, in the same unit.
    pub(crate) ceiling: Option<f64>,
    /// What the design asks for.
    pub(crate) target: &'static str,
}

impl Figure {
    fn ratio(&self) -> Option<f64> {
        self.ceiling.map(|ceiling| self.value / ceiling)
    }

    /// One object a line.
    pub(crate) fn to_json(&self) -> String {
        json!({
            "name": self.name, "value": self.value, "unit": self.unit,
            "ceiling": self.ceiling, "ratio": self.ratio(), "target": self.target,
        })
        .to_string()
    }
}

/// All figures, for people.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<34} {:>14} {:<16} {:>14} {:>7}  {}\n",
        "figure", "median", "unit", "ceiling", "ratio", "target"
    );
    for figure in figures {
        let number = |value: f64| if value >= 1_000.0 { grouped(value) } else { format!("{value:.3}") };
        let ceiling = figure.ceiling.map(number).unwrap_or_else(|| "–".to_owned());
        let ratio = figure.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        let value = number(figure.value);
        text += &format!(
            "{:<34} {value:>14} {:<16} {ceiling:>14} {ratio:>7}  {}\n",
            figure.name, figure.unit, figure.target
        );
    }
    text
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// The middle value.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The latency that so many of a hundred do not exceed, in milliseconds. Sorts them.
pub(crate) fn percentile(latencies: &mut [Duration], of_hundred: usize) -> f64 {
    latencies.sort_unstable();
    let place = (latencies.len() * of_hundred / 100).min(latencies.len().saturating_sub(1));
    latencies.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1_000.0)
}

/// Seconds that something took.
pub(crate) fn seconds<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let started = std::time::Instant::now();
    let value = run();
    (started.elapsed().as_secs_f64(), value)
}
