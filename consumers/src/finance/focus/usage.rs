//! Rows of usage: one for each charge row, and for each row of unused hours.

use std::sync::mpsc::{SyncSender, sync_channel};

use hourglass_ledger::core::rows::{ChargeRow, UnusedRow};
use hourglass_ledger::core::{LineView, Position};
use hourglass_ledger::store::{ChargeFilter, Keyed, PAGE_ROWS_MAX, Page, Reader, RowKey, StoreError};
use hourglass_pricing::PurchaseModel;
use hourglass_units::{Amount, Hour, Labels, Month, Price, Quantity};

use super::columns::{ChargeKind, Col, Row};
use super::documents::{DocIx, Document};
use super::export::{Common, Costs, Export, FocusError, Progress, Sink, fill};
use super::groups::{Group, GroupIx, Key};

const GPU_HOURS: &str = "GPU-Hours";
/// How tags begin that are not the customer's.
const OUR_TAGS: &str = "hourglass/";
/// Pages of rows that may wait to be written.
const PAGES_AHEAD: usize = 8;

/// Where a row belongs.
struct Place {
    group: GroupIx,
    document: DocIx,
    charged_period: Month,
    written: Option<Position>,
}

/// A row of usage before it has its document: how much, and at which prices.
struct Usage<'r> {
    kind: ChargeKind,
    hour: Hour,
    instance: Option<(&'r str, u32)>,
    quantity: Quantity,
    list: Price,
    contracted: Price,
    billed: Amount,
    effective: Amount,
}

impl<S: Sink> Export<'_, S> {
    /// Usage that stands in rows. One thread reads pages ahead while another writes them.
    pub(super) fn charges(&mut self, progress: Progress<'_>) -> Result<(), FocusError> {
        let (reader, until) = (self.reader, self.state.position());
        std::thread::scope(|scope| {
            let (send, pages) = sync_channel(PAGES_AHEAD);
            let reading = scope.spawn(move || read_charges(reader, until, &send));
            for page in pages {
                for Keyed { key, row } in &page {
                    self.charge(row, Some(key.position))?;
                }
                if let Some(last) = page.last() {
                    progress(last.key.position);
                }
            }
            let died = || StoreError("the thread that reads rows died".to_owned());
            Ok(reading.join().map_err(|_| died())??)
        })
    }

    /// Usage that no row holds yet: the open hour, and late differences until the next tick.
    pub(super) fn unwritten(&mut self) -> Result<(), FocusError> {
        let state = self.state;
        for view in state.unwritten_lines() {
            if view.line.milliseconds != 0 || !view.line.quantity.is_zero() {
                self.charge(&as_charge(state, &view)?, None)?;
            }
        }
        Ok(())
    }

    /// Reserved hours that nobody used.
    pub(super) fn unused(&mut self, progress: Progress<'_>) -> Result<(), FocusError> {
        let until = self.state.position();
        let mut after = RowKey::default();
        loop {
            let rows = self.reader.unused(None, Page { after, until, limit: PAGE_ROWS_MAX })?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.key;
            for Keyed { key, row } in &rows {
                self.unused_row(row, key.position)?;
            }
            progress(after.position);
        }
    }

    fn place(&mut self, key: Key<'_>, hour: Hour, written: Option<Position>) -> Result<Place, FocusError> {
        let lost = || FocusError::Inconsistent(format!("usage of {}", key.tenant));
        let tenant = self.state.tenant(key.tenant).ok_or_else(lost)?;
        let group = self.groups.of(self.state, key, tenant.currency).ok_or(FocusError::TooLarge)?;
        let charged_period = self.groups.get_mut(group).ok_or_else(lost)?.period(self.state, hour.start());
        let document = self.documents.holding(self.state, key.tenant, charged_period, written);
        Ok(Place { group, document: document.ok_or_else(lost)?, charged_period, written })
    }

    fn charge(&mut self, row: &ChargeRow, written: Option<Position>) -> Result<(), FocusError> {
        let place = self.place(Key::of_charge(row), row.hour, written)?;
        let document = self.documents.get(place.document);
        if !document.is_some_and(|document| self.wanted.has(document.period)) {
            return Ok(());
        }
        let sum = self.charged.entry((place.document, place.group, place.charged_period)).or_default();
        *sum = sum.checked_add(row.amount).ok_or(FocusError::TooLarge)?;
        let group = self.groups.get(place.group).ok_or(FocusError::TooLarge)?;
        let instance = Some((row.instance.as_str(), row.gpus));
        let (hour, quantity) = (row.hour, row.quantity);
        if row.model != PurchaseModel::Reserved {
            let kind = if row.model == PurchaseModel::Spot { ChargeKind::Spot } else { ChargeKind::OnDemand };
            let (list, contracted) = (group.list_price(hour, row.price), row.price);
            let (billed, effective) = (row.amount, row.effective_price.times(quantity));
            return self.usage(
                &place,
                &Usage { kind, hour, instance, quantity, list, contracted, billed, effective },
            );
        }
        // What a flex reservation costs for being used stands on a row of its own: so what is used and
        // what is not of a reservation is exactly what was bought.
        let amortised = row.effective_price.nanos().saturating_sub(row.price.nanos());
        let amortised = Price::from_nanos(amortised).map_err(|_| FocusError::TooLarge)?;
        let (list, contracted) = group.on_demand_prices(hour, amortised);
        let used = Usage {
            kind: ChargeKind::ReservedUsed,
            hour,
            instance,
            quantity,
            list,
            contracted,
            billed: Amount::ZERO,
            effective: amortised.times(quantity),
        };
        self.usage(&place, &used)?;
        if row.price == Price::ZERO {
            return Ok(());
        }
        let flex = Usage {
            kind: ChargeKind::FlexUsage,
            list: row.price,
            contracted: row.price,
            billed: row.amount,
            effective: row.amount,
            ..used
        };
        self.usage(&place, &flex)
    }

    fn unused_row(&mut self, row: &UnusedRow, written: Position) -> Result<(), FocusError> {
        let place = self.place(Key::of_unused(row), row.hour, Some(written))?;
        let document = self.documents.get(place.document);
        if !document.is_some_and(|document| self.wanted.has(document.period)) {
            return Ok(());
        }
        let group = self.groups.get(place.group).ok_or(FocusError::TooLarge)?;
        let (list, contracted) = group.on_demand_prices(row.hour, row.effective_price);
        let unused = Usage {
            kind: ChargeKind::ReservedUnused,
            hour: row.hour,
            instance: None,
            quantity: row.quantity,
            list,
            contracted,
            billed: Amount::ZERO,
            effective: row.effective_cost,
        };
        self.usage(&place, &unused)
    }

    fn usage(&mut self, place: &Place, usage: &Usage<'_>) -> Result<(), FocusError> {
        let lost = || FocusError::Inconsistent("usage of nobody".to_owned());
        let group = self.groups.get(place.group).ok_or_else(lost)?;
        let document = self.documents.get(place.document).ok_or_else(lost)?;
        let tenant = self.state.tenant(&document.tenant).ok_or_else(lost)?;
        let costs = Costs {
            billed: usage.billed,
            effective: usage.effective,
            contracted: usage.contracted.times(usage.quantity),
            list: usage.list.times(usage.quantity),
        };
        let labels = usage.instance.and_then(|(id, _)| self.state.instance(id)?.labels());
        let tags = labels.map(|labels| tagged(&group.tags, labels));
        let mut row = Row::new();
        let charged_period = group.period_text(place.charged_period);
        let common = Common {
            account_name: account_name(&tenant.display_name, document),
            provider: self.provider,
            charged_period: &charged_period,
            kind: usage.kind,
            frequency: "Usage-Based",
            time: usage.hour.interval(),
            correction: document.corrects(place.charged_period),
            description: &group.description,
            position: place.written,
        };
        fill(&mut row, document, &common, costs);
        sku(&mut row, group, usage.kind);
        if let Some(tags) = &tags {
            row.set(Col::Tags, tags.as_str());
        }
        row.set(Col::PricingQuantity, usage.quantity);
        row.set(Col::PricingUnit, GPU_HOURS);
        unit_prices(&mut row, usage.list.into(), usage.contracted.into());
        if let Some((instance, gpus)) = usage.instance {
            row.set(Col::ResourceId, instance);
            row.set(Col::ResourceType, "GPU instance");
            row.set(Col::GpuCount, i64::from(gpus));
            row.set(Col::ConsumedQuantity, usage.quantity);
            row.set(Col::ConsumedUnit, GPU_HOURS);
        }
        match usage.kind {
            ChargeKind::ReservedUsed => reserved(&mut row, group, Some("Used"), Some(usage.quantity)),
            ChargeKind::ReservedUnused => {
                reserved(&mut row, group, Some("Unused"), Some(usage.quantity));
                row.set(Col::ResourceId, group.reservation.as_ref().map(|it| it.as_str()));
                row.set(Col::ResourceType, "GPU reservation");
            }
            _ => {}
        }
        Self::emit(&mut self.sink, &mut self.totals, document, &row, usage.kind, costs)
    }
}

/// Reads charges page by page, until their end or until nobody wants more.
fn read_charges(
    reader: &dyn Reader,
    until: Position,
    pages: &SyncSender<Vec<Keyed<ChargeRow>>>,
) -> Result<(), StoreError> {
    let mut after = RowKey::default();
    loop {
        let page = reader.charges(&ChargeFilter::default(), Page { after, until, limit: PAGE_ROWS_MAX })?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.key;
        if pages.send(page).is_err() {
            return Ok(());
        }
    }
}

/// A line that no row holds yet, as the row that it will be.
fn as_charge(state: &hourglass_ledger::core::State, view: &LineView<'_>) -> Result<ChargeRow, FocusError> {
    let LineView { instance, line, .. } = view;
    let held = view.reservation().and_then(|id| state.reservation(id));
    let amortised = held.map_or(0, |held| held.reservation.committed_price().nanos());
    let effective_price = Price::from_nanos(line.price.nanos().saturating_add(amortised));
    Ok(ChargeRow {
        tenant: instance.tenant().clone(),
        project: view.project().clone(),
        instance: instance.id().clone(),
        platform: view.sku().platform.clone(),
        region: view.sku().region.clone(),
        model: view.sku().model,
        reservation: view.reservation().cloned(),
        price: line.price,
        effective_price: effective_price.map_err(|_| FocusError::TooLarge)?,
        hour: line.hour,
        gpus: instance.gpus(),
        milliseconds: line.milliseconds,
        quantity: line.quantity,
        amount: line.price.times(line.quantity),
        currency: instance.currency(),
    })
}

/// Our tags, and the labels that the customer gave its instance: those that begin like ours are ours alone.
fn tagged(ours: &str, labels: &Labels) -> String {
    let mut tags = ours.strip_suffix('}').unwrap_or(ours).to_owned();
    for (key, value) in labels.iter().filter(|(key, _)| !key.starts_with(OUR_TAGS)) {
        // Keys have no character that JSON would escape; a text always can be written.
        let value = serde_json::to_string(value).unwrap_or_default();
        tags.push_str(&format!(r#","{key}":{value}"#));
    }
    tags.push('}');
    tags
}

/// The name of the account, or its id where it has none.
pub(super) fn account_name<'a>(display_name: &'a str, document: &'a Document) -> &'a str {
    if display_name.is_empty() { document.tenant.as_str() } else { display_name }
}

/// What is sold, where, and for which project.
pub(super) fn sku<'a>(row: &mut Row<'a>, group: &'a Group, kind: ChargeKind) {
    row.set(Col::SkuId, group.sku.as_str());
    let meter = match kind {
        ChargeKind::FlexUsage => "GPU time used out of a flex reservation",
        ChargeKind::Purchase => "GPU reservation",
        _ => "GPU time",
    };
    row.set(Col::SkuMeter, meter);
    row.set(Col::SkuPriceId, group.sku_price.as_str());
    row.set(Col::SkuPriceDetails, group.details.as_str());
    row.set(Col::Tags, group.tags.as_str());
    place_of(row, group);
}

/// Where, and for which project.
pub(super) fn place_of<'a>(row: &mut Row<'a>, group: &'a Group) {
    row.set(Col::RegionId, group.region.as_str());
    row.set(Col::RegionName, group.region.as_str());
    row.set(Col::SubAccountId, group.project.as_str());
    row.set(Col::SubAccountName, group.project.as_str());
    row.set(Col::SubAccountType, "Project");
}

/// Both unit prices, in both currencies, which are one.
pub(super) fn unit_prices<'a>(
    row: &mut Row<'a>,
    list: super::super::columnar::Cell<'a>,
    contracted: super::super::columnar::Cell<'a>,
) {
    row.set(Col::ListUnitPrice, list);
    row.set(Col::PricingCurrencyListUnitPrice, list);
    row.set(Col::ContractedUnitPrice, contracted);
    row.set(Col::PricingCurrencyContractedUnitPrice, contracted);
}

/// That it is about a reservation, which is a commitment and holds capacity.
pub(super) fn reserved<'a>(
    row: &mut Row<'a>,
    group: &'a Group,
    status: Option<&'static str>,
    quantity: Option<Quantity>,
) {
    let id = group.reservation.as_ref().map(|it| it.as_str());
    row.set(Col::CommitmentDiscountId, id);
    row.set(Col::CommitmentDiscountName, id);
    row.set(Col::CommitmentDiscountCategory, "Usage");
    row.set(Col::CommitmentDiscountType, "Reservation");
    row.set(Col::CommitmentDiscountStatus, status);
    row.set(Col::CommitmentDiscountQuantity, quantity);
    row.set(Col::CommitmentDiscountUnit, quantity.map(|_| GPU_HOURS));
    row.set(Col::CapacityReservationId, id);
    row.set(Col::CapacityReservationStatus, status);
}

/// `YYYY-MM`.
pub(super) fn month_text(month: Month) -> String {
    month.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_customer_stand_behind_our_tags() {
        let ours = r#"{"hourglass/model":"spot"}"#;
        let check = |labels: &[(&str, &str)], expected: &str| {
            let labels = Labels::new(labels.iter().copied()).unwrap();
            assert_eq!(tagged(ours, &labels), expected);
        };
        check(&[("team", "a \"b\"")], r#"{"hourglass/model":"spot","team":"a \"b\""}"#);
        check(&[("hourglass/model", "mine")], ours);
        check(&[("x", ""), ("a", "1")], r#"{"hourglass/model":"spot","a":"1","x":""}"#);
    }
}
