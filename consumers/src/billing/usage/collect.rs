//! Adding up by group.

use std::collections::BTreeMap;

use hourglass_ledger::core::rows::ChargeRow;
use hourglass_pricing::PurchaseModel;
use hourglass_units::{
    Amount, Currency, INSTANT_MIN, InstanceId, Instant, Labels, Platform, Price, ProjectId, Quantity, Region,
    TenantId,
};

use super::{GroupBy, UsageQuery, UsageRow};

/// What some usage is of. Without an instance or a price, nobody asked for them to be kept apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) project: &'a ProjectId,
    pub(super) instance: Option<&'a InstanceId>,
    pub(super) platform: &'a Platform,
    pub(super) region: &'a Region,
    pub(super) model: PurchaseModel,
    pub(super) price: Option<Price>,
    pub(super) currency: Currency,
}

impl<'a> Of<'a> {
    pub(super) fn of_row(row: &'a ChargeRow) -> Self {
        Self {
            tenant: &row.tenant,
            project: &row.project,
            instance: Some(&row.instance),
            platform: &row.platform,
            region: &row.region,
            model: row.model,
            price: Some(row.price),
            currency: row.currency,
        }
    }
}

/// `None` in its place means that it left the range of its types.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) gpu_ms: i64,
    pub(super) quantity: Quantity,
    pub(super) amount: Amount,
}

impl Sums {
    /// What so much of one price adds. The product is exact (U-1).
    pub(super) fn of(price: Price, gpu_ms: i64, quantity: Quantity) -> Self {
        Self { gpu_ms, quantity, amount: price.times(quantity) }
    }

    pub(super) fn of_row(row: &ChargeRow) -> Option<Self> {
        let gpu_ms = row.milliseconds.checked_mul(i64::from(row.gpus))?;
        Some(Self { gpu_ms, quantity: row.quantity, amount: row.amount })
    }

    pub(super) fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            gpu_ms: self.gpu_ms.checked_add(other.gpu_ms)?,
            quantity: self.quantity.checked_add(other.quantity)?,
            amount: self.amount.checked_add(other.amount)?,
        })
    }

    fn is_zero(self) -> bool {
        self.gpu_ms == 0 && self.quantity.is_zero() && self.amount.is_zero()
    }
}

/// The number of a group: what is not time is looked up once for a whole series of sums.
pub(super) type GroupIx = u32;

/// The values in the order of `group_by`, empty for spans of time, then the currency.
type Values = (Vec<String>, Currency);

/// Sums by group and span of time.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    query: UsageQuery,
    /// Of the instances that the query is about, where it asks for any.
    labels: BTreeMap<InstanceId, Labels>,
    /// The finest span that is kept apart.
    span: Option<GroupBy>,
    numbers: BTreeMap<Values, GroupIx>,
    sums: BTreeMap<(GroupIx, Instant), Option<Sums>>,
}

impl Collector {
    pub(super) fn new(query: UsageQuery, labels: BTreeMap<InstanceId, Labels>) -> Self {
        let finest = [GroupBy::Hour, GroupBy::Day, GroupBy::Month];
        let span = finest.into_iter().find(|span| query.group_by.contains(span));
        Self { query, labels, span, numbers: BTreeMap::new(), sums: BTreeMap::new() }
    }

    /// In which group it is; `None` where the query does not want it. What the store filters is not looked at
    /// again.
    pub(super) fn group(&mut self, of: &Of<'_>) -> Option<GroupIx> {
        let UsageQuery { platform, region, model, labels, group_by, .. } = &self.query;
        let own = of.instance.and_then(|instance| self.labels.get(instance));
        let label = |key: &str| own.and_then(|labels| labels.get(key));
        let wanted = platform.as_ref().is_none_or(|platform| platform == of.platform)
            && region.as_ref().is_none_or(|region| region == of.region)
            && model.is_none_or(|model| model == of.model)
            && labels.iter().all(|filter| label(&filter.key) == Some(&filter.value));
        if !wanted {
            return None;
        }
        let values = group_by.iter().map(|key| match key {
            GroupBy::Tenant => of.tenant.to_string(),
            GroupBy::Project => of.project.to_string(),
            GroupBy::Instance => of.instance.map(ToString::to_string).unwrap_or_default(),
            GroupBy::Platform => of.platform.to_string(),
            GroupBy::Region => of.region.to_string(),
            GroupBy::Model => of.model.to_string(),
            GroupBy::Price => of.price.map(|price| price.to_string()).unwrap_or_default(),
            GroupBy::Label(key) => label(key).unwrap_or_default().to_owned(),
            GroupBy::Hour | GroupBy::Day | GroupBy::Month => String::new(),
        });
        let values = (values.collect(), of.currency);
        let next = GroupIx::try_from(self.numbers.len()).ok()?;
        Some(*self.numbers.entry(values).or_insert(next))
    }

    /// Adds to the span of a group that holds the instant. A sum that overflowed stays so.
    pub(super) fn add(&mut self, group: GroupIx, at: Instant, more: Option<Sums>) {
        let span = self.span.as_ref().map_or(INSTANT_MIN, |span| span.start_of_span(at));
        let sum = self.sums.entry((group, span)).or_insert_with(|| Some(Sums::default()));
        *sum = sum.zip(more).and_then(|(sum, more)| sum.checked_add(more));
    }

    /// The report's rows, in order; `None` where one is too large.
    pub(super) fn rows(self) -> Option<Vec<UsageRow>> {
        let Self { query, numbers, sums, .. } = self;
        let mut names: Vec<Values> = vec![(Vec::new(), Currency::USD); numbers.len()];
        for (values, number) in numbers {
            if let Some(name) = usize::try_from(number).ok().and_then(|number| names.get_mut(number)) {
                *name = values;
            }
        }
        let mut rows = Vec::with_capacity(sums.len());
        for ((group, span), sum) in sums {
            let sum = sum?;
            let Some((values, currency)) = usize::try_from(group).ok().and_then(|group| names.get(group))
            else {
                continue;
            };
            if sum.is_zero() {
                continue;
            }
            let values = query.group_by.iter().zip(values).map(|(key, value)| match key.span_ms() {
                Some(_) => key.span(span),
                None => value.clone(),
            });
            rows.push((values.collect::<Vec<String>>(), currency.code(), sum));
        }
        rows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let keys: Vec<String> = query.group_by.iter().map(ToString::to_string).collect();
        let row = |(values, currency, sum): (Vec<String>, &str, Sums)| UsageRow {
            group: keys.iter().cloned().zip(values).collect(),
            currency: currency.to_owned(),
            gpu_ms: sum.gpu_ms,
            gpu_hours: sum.quantity.to_string(),
            amount: sum.amount.to_string(),
        };
        Some(rows.into_iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_that_overflowed_stays_so() {
        let most = Sums { gpu_ms: i64::MAX, ..Sums::default() };
        let mut collector = Collector::new(UsageQuery::default(), BTreeMap::new());
        for more in [most, most, Sums { gpu_ms: -1, ..Sums::default() }] {
            collector.add(0, INSTANT_MIN, Some(more));
        }
        assert_eq!(collector.rows(), None);
    }
}
