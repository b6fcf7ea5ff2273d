//! What a report keeps apart.

use std::fmt;
use std::str::FromStr;

use hourglass_units::{HOUR_MILLISECONDS, Hour, Instant, Month, is_label_key};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Milliseconds in a UTC day.
pub(super) const DAY_MILLISECONDS: i64 = 24 * HOUR_MILLISECONDS;
/// How a label is named in requests and reports.
const LABEL_PREFIX: &str = "label:";

/// What a usage report keeps apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GroupBy {
    /// Who pays.
    Tenant,
    /// For which project.
    Project,
    /// Whose usage.
    Instance,
    /// On which platform.
    Platform,
    /// In which region.
    Region,
    /// How it was sold.
    Model,
    /// At which price per GPU-hour.
    Price,
    /// In which UTC hour.
    Hour,
    /// On which UTC day.
    Day,
    /// In which UTC month.
    Month,
    /// By the label with this key; what has none is in one group.
    Label(Box<str>),
}

/// The text names nothing by which usage can be grouped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "cannot group by {0:?}: use tenant, project, instance, platform, region, model (or mode), price, hour, day, month or \
     label:KEY"
)]
pub struct UnknownGroupBy(pub String);

impl GroupBy {
    /// Every choice but labels.
    pub const ALL: [Self; 10] = [
        Self::Tenant,
        Self::Project,
        Self::Instance,
        Self::Platform,
        Self::Region,
        Self::Model,
        Self::Price,
        Self::Hour,
        Self::Day,
        Self::Month,
    ];

    /// The name in requests and reports, but for the key of a label.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Project => "project",
            Self::Instance => "instance",
            Self::Platform => "platform",
            Self::Region => "region",
            Self::Model => "model",
            Self::Price => "price",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Label(_) => LABEL_PREFIX,
        }
    }

    /// Of a span of time: how fine the sums must be from which it is folded.
    pub(super) const fn span_ms(&self) -> Option<i64> {
        match self {
            Self::Hour => Some(HOUR_MILLISECONDS),
            Self::Day | Self::Month => Some(DAY_MILLISECONDS),
            _ => None,
        }
    }

    /// Where the span begins that holds the instant.
    pub(super) fn start_of_span(&self, at: Instant) -> Instant {
        match self {
            Self::Month => Month::containing(at).interval().start(),
            Self::Day => at.saturating_add_ms(at.unix_ms().rem_euclid(DAY_MILLISECONDS).saturating_neg()),
            _ => Hour::containing(at).start(),
        }
    }

    /// How the span that holds the instant is written.
    pub(super) fn span(&self, at: Instant) -> String {
        match self {
            Self::Month => Month::containing(at).to_string(),
            // RFC 3339 begins with the day.
            Self::Day => at.to_string().chars().take("YYYY-MM-DD".len()).collect(),
            _ => Hour::containing(at).to_string(),
        }
    }
}

impl fmt::Display for GroupBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(key) => f.pad(&format!("{LABEL_PREFIX}{key}")),
            other => f.pad(other.as_str()),
        }
    }
}

impl FromStr for GroupBy {
    type Err = UnknownGroupBy;

    /// `mode` is another word for `model`; reports say `model`.
    fn from_str(text: &str) -> Result<Self, UnknownGroupBy> {
        let unknown = || UnknownGroupBy(text.chars().take(48).collect());
        if let Some(key) = text.strip_prefix(LABEL_PREFIX) {
            return if is_label_key(key) { Ok(Self::Label(key.into())) } else { Err(unknown()) };
        }
        let name = if text == "mode" { "model" } else { text };
        Self::ALL.into_iter().find(|choice| choice.as_str() == name).ok_or_else(unknown)
    }
}

/// How finely a report cuts time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// By UTC hour.
    Hour,
    /// By UTC day.
    Day,
    /// By UTC month.
    Month,
    /// Not at all.
    Total,
}

/// The text is none of the granularities.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("use hour, day, month or total")]
pub struct UnknownGranularity;

impl FromStr for Granularity {
    type Err = UnknownGranularity;

    fn from_str(text: &str) -> Result<Self, UnknownGranularity> {
        match text {
            "hour" => Ok(Self::Hour),
            "day" => Ok(Self::Day),
            "month" => Ok(Self::Month),
            "total" => Ok(Self::Total),
            _ => Err(UnknownGranularity),
        }
    }
}

impl Granularity {
    /// As what to keep apart.
    pub const fn group_by(self) -> Option<GroupBy> {
        match self {
            Self::Hour => Some(GroupBy::Hour),
            Self::Day => Some(GroupBy::Day),
            Self::Month => Some(GroupBy::Month),
            Self::Total => None,
        }
    }
}

/// Only what has a label with this value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LabelFilter {
    /// The key of the label.
    pub key: Box<str>,
    /// Its value.
    pub value: Box<str>,
}

impl FromStr for LabelFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = text.split_once('=').filter(|(key, _)| is_label_key(key));
        let (key, value) = pair.ok_or("a label is given as KEY=VALUE, such as team=research")?;
        Ok(Self { key: key.into(), value: value.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groupings_have_one_name_each_and_model_two() {
        for choice in GroupBy::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("mode".parse(), Ok(GroupBy::Model));
        assert_eq!("label:team".parse(), Ok(GroupBy::Label("team".into())));
        assert_eq!(GroupBy::Label("team".into()).to_string(), "label:team");
        for wrong in ["colour", "label:", "label:Team", "label", "team"] {
            let error = wrong.parse::<GroupBy>().unwrap_err().to_string();
            assert!(GroupBy::ALL.iter().all(|choice| error.contains(choice.as_str())), "{error}");
        }
    }

    #[test]
    fn spans_are_those_of_utc() {
        let at: Instant = "2026-02-28T23:59:59.999Z".parse().unwrap();
        for (key, written, start) in [
            (GroupBy::Hour, "2026-02-28T23:00:00Z", "2026-02-28T23:00:00Z"),
            (GroupBy::Day, "2026-02-28", "2026-02-28T00:00:00Z"),
            (GroupBy::Month, "2026-02", "2026-02-01T00:00:00Z"),
        ] {
            assert_eq!(key.span(at), written);
            assert_eq!(key.start_of_span(at).to_string(), start);
        }
    }

    #[test]
    fn a_label_filter_is_a_key_and_a_value() {
        let filter: LabelFilter = "team=a=b".parse().unwrap();
        assert_eq!((&*filter.key, &*filter.value), ("team", "a=b"));
        for wrong in ["", "team", "=x", "Team=x"] {
            assert!(wrong.parse::<LabelFilter>().is_err(), "{wrong}");
        }
    }
}
