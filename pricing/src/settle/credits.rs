//! Step 7: credits pay what is owed, in order of time.

use hourglass_units::{Amount, Interval};

use super::pieces::Piece;
use super::{Account, Credit, Fee, OutOfRange, Rated};

/// The credits in the order in which they are drawn, and what is left of each.
pub(super) struct Wallet<'a>(Vec<Left<'a>>);

struct Left<'a> {
    credit: &'a Credit,
    left: Amount,
    drawn: Amount,
}

/// Something that credit can pay for.
struct Payable<'a, 'r> {
    /// The time that a credit must be valid for.
    time: Interval,
    /// Whose usage it is; `None` for what is no usage.
    usage: Option<&'a Rated<'r>>,
    amount: Amount,
}

impl<'a> Wallet<'a> {
    pub(super) fn new(account: &Account<'a>) -> Result<Self, OutOfRange> {
        let mut wallet = Vec::with_capacity(account.credits.len());
        for credit in account.credits {
            let before = account.carried.credits_drawn.get(&credit.grant).copied().unwrap_or_default();
            let left = credit.available.checked_sub(before).ok_or(OutOfRange)?;
            if left > Amount::ZERO {
                wallet.push(Left { credit, left, drawn: Amount::ZERO });
            }
        }
        wallet.sort_unstable_by_key(|it| (it.credit.priority, it.credit.valid.end(), it.credit.grant));
        Ok(Self(wallet))
    }

    /// Pays what it can of a period and says what each grant paid.
    ///
    /// Pieces come in the order of the items that they make. What is due at the end of the period
    /// comes last.
    pub(super) fn pay<'r>(
        &mut self,
        period: Interval,
        usage: &[&Rated<'r>],
        pieces: &[Piece],
        fees: &[&Fee],
        due: impl Iterator<Item = Amount>,
    ) -> Result<Vec<(u32, Amount)>, OutOfRange> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let entry =
            |piece: &Piece| usize::try_from(piece.entry).ok().and_then(|entry| usage.get(entry)).copied();
        let mut pieces: Vec<&Piece> = pieces.iter().collect();
        pieces.sort_unstable_by_key(|it| (it.segment, it.source(), it.entry));
        let of_usage =
            pieces.iter().map(|it| Payable { time: it.segment, usage: entry(it), amount: it.amount() });
        let of_fees = fees.iter().map(|it| Payable { time: it.segment, usage: None, amount: it.amount });
        let mut payables: Vec<Payable<'_, 'r>> = of_usage.chain(of_fees).collect();
        // Stable: within a segment usage comes before fees, each in the order of its items.
        payables.sort_by_key(|it| it.time);
        let last = Interval::between(period.end().saturating_add_ms(-1), period.end()).unwrap_or(period);
        payables.extend(due.map(|amount| Payable { time: last, usage: None, amount }));
        for same_time in payables.chunk_by(|a, b| a.time == b.time) {
            self.pay_segment(same_time)?;
        }
        let drawn = self.0.iter_mut().map(|it| (it.credit.grant, std::mem::take(&mut it.drawn))).collect();
        self.0.retain(|it| it.left > Amount::ZERO);
        Ok(drawn)
    }

    /// Each credit in turn pays each item in turn: as if each item drew on each credit in turn.
    fn pay_segment(&mut self, payables: &[Payable<'_, '_>]) -> Result<(), OutOfRange> {
        let Some(time) = payables.first().map(|it| it.time) else { return Ok(()) };
        let mut unpaid: Vec<(&Payable<'_, '_>, Amount)> =
            payables.iter().filter(|it| it.amount > Amount::ZERO).map(|it| (it, it.amount)).collect();
        for purse in &mut self.0 {
            if purse.credit.valid.intersection(time) != Some(time) {
                continue;
            }
            for (payable, amount) in &mut unpaid {
                if purse.left <= Amount::ZERO {
                    break;
                }
                if purse.credit.pays(payable.usage) {
                    let paid = purse.left.min(*amount);
                    purse.left = purse.left.checked_sub(paid).ok_or(OutOfRange)?;
                    purse.drawn = purse.drawn.checked_add(paid).ok_or(OutOfRange)?;
                    *amount = amount.checked_sub(paid).ok_or(OutOfRange)?;
                }
            }
            unpaid.retain(|(_, amount)| *amount > Amount::ZERO);
            if unpaid.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

impl Credit {
    /// Whether it may pay for the usage, or for what is no usage.
    fn pays(&self, usage: Option<&Rated<'_>>) -> bool {
        match usage {
            None => self.project.is_none() && self.platform.is_none(),
            Some(usage) => {
                self.project.as_ref().is_none_or(|it| it == usage.project)
                    && self.platform.as_ref().is_none_or(|it| *it == usage.sku.platform)
            }
        }
    }
}
