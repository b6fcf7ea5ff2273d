//! Usage and balances, exactly as of one log position.
//!
//! A usage report is the sum of two parts that are taken at the same position: charges that stand in
//! rows, added up by the store, and what no row holds yet (the open hour, and late differences until
//! the next `Tick`), taken from the state. U-1: each part is price × quantity and nothing is rounded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hourglass_ledger::core::{Account, LineView, State};
use hourglass_ledger::store::{self, ChargeFilter, Reader, StoreError, UsageSum};
use hourglass_units::{Amount, Currency, HOUR_MILLISECONDS, Hour, Instant, Month, Price, Quantity, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Milliseconds in a UTC day.
const DAY_MILLISECONDS: i64 = 24 * HOUR_MILLISECONDS;

/// What a usage report keeps apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
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
}

/// The text names nothing by which usage can be grouped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "cannot group by {0:?}: use tenant, project, instance, platform, region, model (or mode), price, hour, day or month"
)]
pub struct UnknownGroupBy(pub String);

impl GroupBy {
    /// Every choice.
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

    /// The name in requests and reports.
    pub const fn as_str(self) -> &'static str {
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
        }
    }
}

impl fmt::Display for GroupBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for GroupBy {
    type Err = UnknownGroupBy;

    /// `mode` is another word for `model`; reports say `model`.
    fn from_str(text: &str) -> Result<Self, UnknownGroupBy> {
        let name = if text == "mode" { "model" } else { text };
        let unknown = || UnknownGroupBy(text.chars().take(48).collect());
        Self::ALL.into_iter().find(|choice| choice.as_str() == name).ok_or_else(unknown)
    }
}

/// Which usage to report, and what to keep apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UsageQuery {
    /// Which charges.
    pub filter: ChargeFilter,
    /// What to keep apart; nothing for one row a currency.
    pub group_by: Vec<GroupBy>,
}

/// The log position that an answer holds for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AsOf {
    /// The log position.
    pub position: u64,
    /// The time of the event there, RFC 3339.
    #[schema(format = DateTime)]
    pub time: String,
}

impl AsOf {
    /// Where the state stands.
    pub fn of(state: &State) -> Self {
        Self { position: state.position().number(), time: state.now().to_string() }
    }
}

/// Usage, added up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct UsageReport {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// One row a group and currency, in order.
    pub rows: Vec<UsageRow>,
}

/// The usage of one group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct UsageRow {
    /// What was kept apart, by the names asked for.
    #[schema(value_type = BTreeMap<String, String>)]
    pub group: BTreeMap<&'static str, String>,
    /// Of the amount, ISO 4217.
    pub currency: String,
    /// GPU-milliseconds billed.
    pub gpu_ms: i64,
    /// GPU-hours billed, an exact decimal.
    pub gpu_hours: String,
    /// What they cost, an exact decimal.
    pub amount: String,
}

/// What no row holds yet, already filtered and grouped.
#[derive(Clone, Debug)]
pub struct Unwritten {
    position: hourglass_ledger::core::Position,
    as_of: AsOf,
    sums: BTreeMap<Group, Option<Sums>>,
}

/// The values in the order of `group_by`, then the currency.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Group {
    values: Vec<String>,
    currency: &'static str,
}

/// `None` in its place means that it left the range of its types.
#[derive(Clone, Copy, Default, Debug)]
struct Sums {
    gpu_ms: i64,
    quantity: Quantity,
    amount: Amount,
}

impl Sums {
    /// What so much of one price adds. The product is exact (U-1).
    fn of(price: Price, gpu_ms: i64, quantity: Quantity) -> Self {
        Self { gpu_ms, quantity, amount: price.times(quantity) }
    }

    fn checked_add(self, other: Self) -> Option<Self> {
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

/// Adds to a sum that overflows once and for all.
fn add<K: Ord>(sums: &mut BTreeMap<K, Option<Sums>>, key: K, more: Option<Sums>) {
    let sum = sums.entry(key).or_insert_with(|| Some(Sums::default()));
    *sum = sum.zip(more).and_then(|(sum, more)| sum.checked_add(more));
}

/// Takes from the state what no row holds yet. The rows that go with it are those up to the state's
/// position.
pub fn unwritten(state: &State, query: &UsageQuery) -> Unwritten {
    // Ids are borrowed while lines are added up: there can be one for each instance.
    let mut sums: BTreeMap<(Vec<Cow<'_, str>>, &'static str), Option<Sums>> = BTreeMap::new();
    for view in state.unwritten_lines().filter(|view| is_wanted(&query.filter, view)) {
        let LineView { instance, line, .. } = view;
        let (project, sku) = (view.project(), view.sku());
        let values = query.group_by.iter().map(|key| match key {
            GroupBy::Tenant => Cow::Borrowed(instance.tenant().as_str()),
            GroupBy::Project => Cow::Borrowed(project.as_str()),
            GroupBy::Instance => Cow::Borrowed(instance.id().as_str()),
            GroupBy::Platform => Cow::Borrowed(sku.platform.as_str()),
            GroupBy::Region => Cow::Borrowed(sku.region.as_str()),
            GroupBy::Model => Cow::Borrowed(sku.model.as_str()),
            GroupBy::Price => Cow::Owned(line.price.to_string()),
            GroupBy::Hour | GroupBy::Day | GroupBy::Month => Cow::Owned(span(*key, line.hour.start())),
        });
        let gpu_ms = line.milliseconds.checked_mul(i64::from(instance.gpus()));
        let more = gpu_ms.map(|gpu_ms| Sums::of(line.price, gpu_ms, line.quantity));
        add(&mut sums, (values.collect(), instance.currency().code()), more);
    }
    let owned = sums.into_iter().map(|((values, currency), sum)| {
        (Group { values: values.into_iter().map(Cow::into_owned).collect(), currency }, sum)
    });
    Unwritten { position: state.position(), as_of: AsOf::of(state), sums: owned.collect() }
}

fn is_wanted(filter: &ChargeFilter, view: &LineView<'_>) -> bool {
    let ChargeFilter { tenant, project, instance, from, until } = filter;
    let LineView { instance: of, line, .. } = view;
    tenant.as_ref().is_none_or(|tenant| tenant == of.tenant())
        && project.as_ref().is_none_or(|project| project == of.project())
        && instance.as_ref().is_none_or(|instance| instance == of.id())
        && from.is_none_or(|from| from <= line.hour)
        && until.is_none_or(|until| line.hour < until)
}

/// Adds up the rows up to the position of `unwritten`, and `unwritten` itself. Blocks on the store.
///
/// Groups whose corrections took everything back are left out, so that the report depends on what
/// was used and not on how the reports of it came (M-1).
pub fn usage_report(
    reader: &dyn Reader,
    unwritten: Unwritten,
    query: &UsageQuery,
) -> Result<UsageReport, StoreError> {
    let Unwritten { position, as_of, mut sums } = unwritten;
    let written = reader.usage(&store::UsageQuery {
        filter: query.filter.clone(),
        until: position,
        by_instance: query.group_by.contains(&GroupBy::Instance),
        span_ms: span_milliseconds(&query.group_by),
    })?;
    for sum in written {
        let values = query.group_by.iter().map(|key| value_of(*key, &sum));
        let group = Group { values: values.collect(), currency: sum.currency.code() };
        let quantity = Quantity::from_nanos(sum.quantity_nanos);
        add(&mut sums, group, Some(Sums::of(sum.price, sum.gpu_ms, quantity)));
    }
    let mut rows = Vec::with_capacity(sums.len());
    for (Group { values, currency }, sum) in sums {
        let sum = sum.ok_or_else(|| StoreError("the usage is too large to add up".to_owned()))?;
        if sum.is_zero() {
            continue;
        }
        let group = query.group_by.iter().map(|key| key.as_str()).zip(values);
        rows.push(UsageRow {
            group: group.collect(),
            currency: currency.to_owned(),
            gpu_ms: sum.gpu_ms,
            gpu_hours: sum.quantity.to_string(),
            amount: sum.amount.to_string(),
        });
    }
    Ok(UsageReport { as_of, rows })
}

/// The finest span that the store must keep apart; months are folded from days.
fn span_milliseconds(group_by: &[GroupBy]) -> i64 {
    if group_by.contains(&GroupBy::Hour) {
        HOUR_MILLISECONDS
    } else if group_by.contains(&GroupBy::Day) || group_by.contains(&GroupBy::Month) {
        DAY_MILLISECONDS
    } else {
        0
    }
}

fn value_of(key: GroupBy, sum: &UsageSum) -> String {
    match key {
        GroupBy::Tenant => sum.tenant.to_string(),
        GroupBy::Project => sum.project.to_string(),
        GroupBy::Instance => sum.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
        GroupBy::Platform => sum.platform.to_string(),
        GroupBy::Region => sum.region.to_string(),
        GroupBy::Model => sum.model.to_string(),
        GroupBy::Price => sum.price.to_string(),
        GroupBy::Hour | GroupBy::Day | GroupBy::Month => {
            sum.span.map(|start| span(key, start)).unwrap_or_default()
        }
    }
}

/// How the span of a grouping that holds the instant is written.
fn span(key: GroupBy, at: Instant) -> String {
    match key {
        GroupBy::Month => Month::containing(at).to_string(),
        // RFC 3339 begins with the day.
        GroupBy::Day => at.to_string().chars().take("YYYY-MM-DD".len()).collect(),
        _ => Hour::containing(at).to_string(),
    }
}

/// What stands on the accounts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct BalanceReport {
    /// The log position that it holds for.
    pub as_of: AsOf,
    /// One row an account and currency, in order.
    pub rows: Vec<BalanceRow>,
}

/// What stands on one account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct BalanceRow {
    /// Its name, such as `assets:unbilled:acme`.
    pub account: String,
    /// Its class in the chart of accounts.
    pub class: &'static str,
    /// Whose it is; the cell's own accounts have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Of the balance, ISO 4217.
    pub currency: String,
    /// Debits less credits of all transfers, an exact decimal.
    pub balance: String,
    /// What is priced already and the next tick will post, an exact decimal. With the balance it is
    /// what stands on the account now. Absent where it is too large to add up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unposted: Option<String>,
}

/// The balances of a tenant's accounts, or of all accounts, and what will be posted to them next.
pub fn balances(state: &State, tenant: Option<&TenantId>) -> BalanceReport {
    let is_wanted = |account: &Account| tenant.is_none() || account.tenant() == tenant;
    let mut sums: BTreeMap<(Account, Currency), (Amount, Option<Amount>)> = BTreeMap::new();
    for (account, currency, balance) in state.book().balances().filter(|(account, ..)| is_wanted(account)) {
        sums.insert((account.clone(), currency), (balance, Some(Amount::ZERO)));
    }
    for ((account, currency), unposted) in state.unposted(tenant) {
        if is_wanted(&account) {
            sums.entry((account, currency)).or_default().1 = unposted;
        }
    }
    let mut rows: Vec<BalanceRow> = sums
        .into_iter()
        .map(|((account, currency), (balance, unposted))| BalanceRow {
            account: account.to_string(),
            class: account.class(),
            tenant: account.tenant().map(ToString::to_string),
            currency: currency.to_string(),
            balance: balance.to_string(),
            unposted: unposted.map(|amount| amount.to_string()),
        })
        .collect();
    rows.sort_by(|a, b| (&a.account, &a.currency).cmp(&(&b.account, &b.currency)));
    BalanceReport { as_of: AsOf::of(state), rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groupings_have_one_name_each_and_model_two() {
        for choice in GroupBy::ALL {
            assert_eq!(choice.as_str().parse(), Ok(choice));
        }
        assert_eq!("mode".parse(), Ok(GroupBy::Model));
        let error = "colour".parse::<GroupBy>().unwrap_err().to_string();
        assert!(GroupBy::ALL.iter().all(|choice| error.contains(choice.as_str())), "{error}");
    }

    #[test]
    fn spans_are_those_of_utc() {
        let at: Instant = "2026-02-28T23:59:59.999Z".parse().unwrap();
        assert_eq!(span(GroupBy::Hour, at), "2026-02-28T23:00:00Z");
        assert_eq!(span(GroupBy::Day, at), "2026-02-28");
        assert_eq!(span(GroupBy::Month, at), "2026-02");
    }

    #[test]
    fn a_sum_that_overflowed_stays_so() {
        let most = Sums { gpu_ms: i64::MAX, ..Sums::default() };
        let mut sums = BTreeMap::new();
        for more in [most, most, Sums { gpu_ms: -1, ..Sums::default() }] {
            add(&mut sums, (), Some(more));
        }
        assert!(sums.values().all(Option::is_none));
    }
}
