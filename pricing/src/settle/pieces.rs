//! Steps 2 to 4: each GPU-hour finds its rule and its final price.

use std::cmp::Reverse;

use hourglass_units::{Amount, Interval, Percent, Price, Quantity};

use super::{OutOfRange, Rated, Source, Step};
use crate::terms::{Commitment, Terms, Tier, TierTable};

/// Part of an entry of usage, at its final price.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Its entry, in the sorted usage of the period.
    pub(super) entry: u32,
    pub(super) group: u32,
    pub(super) segment: Interval,
    pub(super) price: Price,
    pub(super) step: Step,
    pub(super) quantity: Quantity,
}

impl Piece {
    /// U-1.
    pub(super) fn amount(&self) -> Amount {
        self.price.times(self.quantity)
    }

    pub(super) fn source(&self) -> Source {
        Source::Usage { group: self.group, price: self.price, step: self.step }
    }
}

/// Steps 2 and 3 for the usage of a period, which is sorted by unit price, the dearest first.
pub(super) fn cut(usage: &[&Rated<'_>], terms: Option<&Terms>) -> Result<Vec<Piece>, OutOfRange> {
    let none = Terms::default();
    let mut rules = Rules::new(terms.unwrap_or(&none));
    let mut pieces = Vec::with_capacity(usage.len());
    for (entry, rated) in (0_u32..).zip(usage) {
        rules.look_up(rated);
        let mut rest = rated.quantity.nanos();
        while rest > 0 {
            let (taken, price, step) = rules.take(rest, rated.price)?;
            rest = rest.checked_sub(taken).ok_or(OutOfRange)?;
            let (group, segment, quantity) = (rated.group, rated.segment, Quantity::from_nanos(taken));
            pieces.push(Piece { entry, group, segment, price, step, quantity });
        }
    }
    Ok(pieces)
}

/// The allowances and tiers of an agreement, and how far the usage of the period has come in them.
struct Rules<'a> {
    terms: &'a Terms,
    /// Nano-GPU-hours left of each allowance.
    allowances: Vec<i64>,
    tables: Vec<Table<'a>>,
    /// The group that was looked up last, and the rules about it: usage comes group by group.
    group: Option<u32>,
    allowance: Option<usize>,
    table: Option<usize>,
}

impl<'a> Rules<'a> {
    fn new(terms: &'a Terms) -> Self {
        let allowances = terms.allowances.iter().map(|it| it.gpu_hours.nanos()).collect();
        let tables = terms.tiers.iter().map(Table::new).collect();
        Self { terms, allowances, tables, group: None, allowance: None, table: None }
    }

    fn look_up(&mut self, rated: &Rated<'_>) {
        if self.group == Some(rated.group) {
            return;
        }
        let covers = |scope: &crate::scope::Scope| scope.covers(rated.project, rated.sku);
        self.group = Some(rated.group);
        self.allowance = self.terms.allowances.iter().position(|it| covers(&it.scope));
        self.table = self.terms.tiers.iter().position(|it| covers(&it.scope));
    }

    /// How much of the rest falls under one rule, at least one nano-GPU-hour of it, and what that costs.
    fn take(&mut self, rest: i64, unit_price: Price) -> Result<(i64, Price, Step), OutOfRange> {
        let number = |index: usize| u8::try_from(index.saturating_add(1)).map_err(|_| OutOfRange);
        if let Some(index) = self.allowance
            && let Some(left) = self.allowances.get_mut(index).filter(|left| **left > 0)
        {
            let taken = rest.min(*left);
            *left = left.saturating_sub(taken);
            let step = Step { allowance: number(index)?, ..Step::default() };
            return Ok((taken, Price::ZERO, step));
        }
        if let Some(table) = self.table.and_then(|index| self.tables.get_mut(index))
            && let Some((taken, tier)) = table.take(rest)
        {
            let step = Step { tier: number(table.tier)?, ..Step::default() };
            return Ok((taken, price_in(tier, unit_price)?, step));
        }
        Ok((rest, unit_price, Step::default()))
    }
}

/// A tier table, and how far the usage of the period has come in it.
struct Table<'a> {
    tiers: &'a [Tier],
    /// The tier that the next nano-GPU-hour falls into, unless it is full.
    tier: usize,
    /// Nano-GPU-hours counted so far.
    counted: i64,
}

impl<'a> Table<'a> {
    fn new(table: &'a TierTable) -> Self {
        Self { tiers: &table.tiers, tier: 0, counted: 0 }
    }

    /// Counts as much of the rest as falls into one tier. `None` where there are no tiers.
    fn take(&mut self, rest: i64) -> Option<(i64, &'a Tier)> {
        loop {
            let tier = self.tiers.get(self.tier)?;
            let room = match self.tiers.get(self.tier.checked_add(1)?) {
                Some(next) => next.above.nanos().saturating_sub(self.counted),
                None => i64::MAX,
            };
            if room > 0 {
                let taken = rest.min(room);
                self.counted = self.counted.saturating_add(taken);
                return Some((taken, tier));
            }
            self.tier = self.tier.checked_add(1)?;
        }
    }
}

/// What a GPU-hour of a unit price costs in a tier.
pub(crate) fn price_in(tier: &Tier, unit_price: Price) -> Result<Price, OutOfRange> {
    let rest = tier.percent_off.unwrap_or(Percent::ZERO).complement();
    tier.price.or_else(|| rest?.of_price(unit_price)).ok_or(OutOfRange)
}

/// Step 4: draws down what is left of a commitment, the dearest pieces first, and puts what is beyond
/// at the overage rate. Returns what was drawn.
pub(super) fn draw(
    usage: &[&Rated<'_>],
    pieces: &mut Vec<Piece>,
    commitment: &Commitment,
    left: Amount,
) -> Result<Amount, OutOfRange> {
    pieces.sort_unstable_by_key(|it| (Reverse(it.price), it.group, it.step, it.segment, it.entry));
    let everything = commitment.scope.is_everything();
    let mut drawn = Amount::ZERO;
    let mut exhausted = false;
    let mut covered = (None, false);
    let mut split = None;
    for (index, piece) in pieces.iter_mut().enumerate() {
        if !everything && covered.0 != Some(piece.group) {
            let rated = usize::try_from(piece.entry).ok().and_then(|entry| usage.get(entry));
            covered =
                (Some(piece.group), rated.is_some_and(|it| commitment.scope.covers(it.project, it.sku)));
        }
        if piece.price == Price::ZERO || !(everything || covered.1) {
            continue;
        }
        let rest = left.checked_sub(drawn).ok_or(OutOfRange)?;
        let mut inside = Quantity::ZERO;
        if !exhausted {
            if piece.amount() <= rest {
                drawn = drawn.checked_add(piece.amount()).ok_or(OutOfRange)?;
                continue;
            }
            exhausted = true;
            inside = whole_nanos(rest, piece.price)?;
            drawn = drawn.checked_add(piece.price.times(inside)).ok_or(OutOfRange)?;
        }
        if !inside.is_zero() {
            split = Some((index, Piece { quantity: inside, ..*piece }));
            piece.quantity = piece.quantity.checked_sub(inside).ok_or(OutOfRange)?;
        }
        piece.price = commitment.overage_percent.of_price(piece.price).ok_or(OutOfRange)?;
        piece.step.overage = true;
    }
    if let Some((index, inside)) = split {
        pieces.insert(index, inside);
    }
    Ok(drawn)
}

/// How many whole nano-GPU-hours an amount buys.
fn whole_nanos(amount: Amount, price: Price) -> Result<Quantity, OutOfRange> {
    let nanos = amount.attos().checked_div(i128::from(price.nanos())).ok_or(OutOfRange)?;
    i64::try_from(nanos).map(Quantity::from_nanos).map_err(|_| OutOfRange)
}
