//! Lines into words, and words into values.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use hourglass_units::{Amount, HOUR_MILLISECONDS, Instant, Interval, Price};

use super::Fault;
use crate::commands;

const DAY_MILLISECONDS: i64 = 24 * HOUR_MILLISECONDS;

/// A word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) line: usize,
    /// From 1, in characters.
    pub(super) column: usize,
    pub(super) text: String,
}

impl Word {
    pub(super) fn fault(&self, message: impl Display) -> Fault {
        Fault::new(self.line, self.column, message.to_string())
    }

    /// The value, or what is wrong with it and how it looks.
    pub(super) fn value<T: FromStr<Err: Display>>(&self) -> Result<T, Fault> {
        self.text.parse().map_err(|error| self.fault(error))
    }

    /// A price per GPU-hour.
    pub(super) fn price(&self) -> Result<Price, Fault> {
        Price::parse(&self.text).map_err(|error| self.fault(error))
    }

    /// An amount of money.
    pub(super) fn amount(&self) -> Result<Amount, Fault> {
        Amount::parse(&self.text).map_err(|error| self.fault(error))
    }

    /// A duration in milliseconds.
    pub(super) fn duration(&self) -> Result<i64, Fault> {
        let wrong = |error| self.fault(format!("{:?} is no duration: {error}; write it like 10m", self.text));
        commands::milliseconds(&self.text).map_err(wrong)
    }

    /// A time: RFC 3339, a date, a time on the day of `base`, or so long after `base`.
    pub(super) fn time(&self, base: Instant) -> Result<Instant, Fault> {
        if let Some(later) = self.text.strip_prefix('+') {
            let later = Self { text: later.to_owned(), ..self.clone() };
            return Ok(base.saturating_add_ms(later.duration()?));
        }
        let day = base.unix_ms().div_euclid(DAY_MILLISECONDS).saturating_mul(DAY_MILLISECONDS);
        let midnight = Instant::from_unix_ms(day).map_err(|error| self.fault(error))?;
        if let Some(after) = time_of_day(&self.text) {
            return Ok(midnight.saturating_add_ms(after));
        }
        commands::instant(&self.text).map_err(|_| {
            self.fault(format!(
                "{:?} is no time: write it like 2026-01-01T10:00:00Z, 2026-01-01, 10:30 or +30m",
                self.text
            ))
        })
    }

    /// An interval such as `10:00..11:30`; its end may count from its start.
    pub(super) fn interval(&self, base: Instant) -> Result<Interval, Fault> {
        let form = || self.fault(format!("{:?} is no interval: write it like 10:00..11:30", self.text));
        let (from, until) = self.text.split_once("..").ok_or_else(form)?;
        let part = |text: &str| Self { text: text.to_owned(), ..self.clone() };
        let from = part(from).time(base)?;
        let until = part(until).time(from)?;
        Interval::new(from, until).map_err(|error| self.fault(error))
    }
}

/// Milliseconds after midnight of `HH:MM`, `HH:MM:SS` or `HH:MM:SS.mmm`.
fn time_of_day(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str, at_most: usize| {
        let plain = !part.is_empty() && part.len() <= at_most && part.bytes().all(|it| it.is_ascii_digit());
        plain.then(|| part.parse::<i64>().ok()).flatten()
    };
    let mut parts = clock.split(':').map(|part| digits(part, 2));
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    if parts.next().is_some() || hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    let fraction = digits(&format!("{fraction:0<3}"), 3)?;
    Some(
        hours
            .saturating_mul(60)
            .saturating_add(minutes)
            .saturating_mul(60_000)
            .saturating_add(seconds.saturating_mul(1_000).saturating_add(fraction)),
    )
}

/// Splits a line into words. Blanks part them, but not between double quotes; `#` at the start of a
/// word begins a comment.
pub(super) fn words(line: usize, text: &str) -> Result<Vec<Word>, Fault> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quoted = None;
    for (column, letter) in (1..).zip(text.chars()) {
        match letter {
            '"' => {
                quoted = if quoted.is_some() { None } else { Some(column) };
                word.get_or_insert_with(|| Word { line, column, text: String::new() });
            }
            _ if quoted.is_none() && letter.is_whitespace() => words.extend(word.take()),
            '#' if word.is_none() => break,
            _ => word.get_or_insert_with(|| Word { line, column, text: String::new() }).text.push(letter),
        }
    }
    if let Some(column) = quoted {
        return Err(Fault::new(line, column, "this quote has no end: close it with another \""));
    }
    words.extend(word);
    Ok(words)
}

/// The words of a step behind its verb: some by their place, some by name.
#[derive(Debug)]
pub(super) struct Words {
    verb: Word,
    /// How the step is written, for whoever got it wrong.
    form: &'static str,
    placed: std::collections::VecDeque<Word>,
    named: BTreeMap<String, Word>,
}

impl Words {
    pub(super) fn new(
        verb: Word,
        form: &'static str,
        words: impl Iterator<Item = Word>,
    ) -> Result<Self, Fault> {
        let (mut placed, mut named) = (std::collections::VecDeque::new(), BTreeMap::new());
        for word in words {
            match word.text.split_once('=') {
                Some((name, value)) if is_name(name) => {
                    let value = Word { text: value.to_owned(), ..word.clone() };
                    if named.insert(name.to_owned(), value).is_some() {
                        return Err(word.fault(format!("{name} is given twice")));
                    }
                }
                _ => placed.push_back(word),
            }
        }
        Ok(Self { verb, form, placed, named })
    }

    pub(super) fn fault(&self, message: impl Display) -> Fault {
        self.verb.fault(message)
    }

    pub(super) fn verb(&self) -> &str {
        &self.verb.text
    }

    pub(super) fn verb_word(&self) -> &Word {
        &self.verb
    }

    /// Whether this is `expect refused`, which is about the step above it.
    pub(super) fn is_refusal(&self) -> bool {
        self.verb.text == "expect" && self.placed.front().is_some_and(|word| word.text == "refused")
    }

    /// The next word by place.
    pub(super) fn next(&mut self, what: &str) -> Result<Word, Fault> {
        let missing = || format!("{what} is missing: write `{}`", self.form);
        self.placed.pop_front().ok_or_else(|| self.verb.fault(missing()))
    }

    /// The next word by place, where there is one.
    pub(super) fn more(&mut self) -> Option<Word> {
        self.placed.pop_front()
    }

    pub(super) fn value<T: FromStr<Err: Display>>(&mut self, what: &str) -> Result<T, Fault> {
        self.next(what)?.value()
    }

    /// The value of a name, where it is given.
    pub(super) fn named(&mut self, name: &str) -> Option<Word> {
        self.named.remove(name)
    }

    pub(super) fn named_value<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, Fault> {
        self.named(name).map(|word| word.value()).transpose()
    }

    /// A text for people; an empty one where it is not given.
    pub(super) fn named_text(&mut self, name: &str) -> String {
        self.named(name).map(|word| word.text).unwrap_or_default()
    }

    pub(super) fn named_time(&mut self, name: &str, base: Instant) -> Result<Option<Instant>, Fault> {
        self.named(name).map(|word| word.time(base)).transpose()
    }

    /// A name without a value, such as `into_closed`.
    pub(super) fn flag(&mut self, flag: &str) -> bool {
        match self.placed.iter().position(|word| word.text == flag) {
            Some(at) => self.placed.remove(at).is_some(),
            None => false,
        }
    }

    /// All names that are left, which must be among the known ones.
    pub(super) fn fields(&mut self, known: &[&str]) -> Result<Vec<(String, Word)>, Fault> {
        let fields = std::mem::take(&mut self.named);
        let unknown = fields.iter().find(|(name, _)| !known.contains(&name.as_str()));
        if let Some((name, word)) = unknown {
            return Err(word.fault(format!("there is no {name} here: use {}", known.join(", "))));
        }
        Ok(fields.into_iter().collect())
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Fault> {
        let left = self.placed.front().or_else(|| self.named.values().next());
        match left {
            None => Ok(()),
            Some(word) => Err(word.fault(format!("this has no place here: write `{}`", self.form))),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
