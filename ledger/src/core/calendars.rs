//! Billing calendars of tenants, and where credits cut their periods into segments.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_pricing::calendar::Calendar;
use hourglass_units::{Instant, Interval, Month, TenantId};
use serde::{Deserialize, Serialize};

/// The calendars of all tenants. Those that are not in it are billed by UTC months and have no cuts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Calendars {
    own: BTreeMap<TenantId, TenantCalendar>,
    utc: Calendar,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct TenantCalendar {
    calendar: Calendar,
    /// Where a credit begins or ends: full UTC hours.
    cuts: BTreeSet<Instant>,
}

impl Calendars {
    /// The billing calendar of a tenant.
    pub(crate) fn of(&self, tenant: &TenantId) -> &Calendar {
        self.own.get(tenant).map_or(&self.utc, |own| &own.calendar)
    }

    /// The period that holds the instant, and the segment of it.
    pub(crate) fn segment(&self, tenant: &TenantId, at: Instant) -> (Month, Interval) {
        let own = self.own.get(tenant);
        let calendar = own.map_or(&self.utc, |own| &own.calendar);
        let period = calendar.containing(at);
        let whole = calendar.interval(period);
        let Some(own) = own else { return (period, whole) };
        let start = own.cuts.range(..=at).next_back().copied().unwrap_or(whole.start()).max(whole.start());
        let behind = (std::ops::Bound::Excluded(at), std::ops::Bound::Unbounded);
        let end = own.cuts.range(behind).next().copied().unwrap_or(whole.end()).min(whole.end());
        (period, Interval::between(start, end).unwrap_or(whole))
    }

    /// Gives a tenant its calendar.
    pub(crate) fn set(&mut self, tenant: &TenantId, calendar: Calendar) {
        self.own.entry(tenant.clone()).or_default().calendar = calendar;
    }

    /// Cuts a tenant's periods. `false` where they were cut there already.
    pub(crate) fn cut(&mut self, tenant: &TenantId, at: Instant) -> bool {
        self.own.entry(tenant.clone()).or_default().cuts.insert(at)
    }
}
