//! One hash over what matters in the end: final lines, balances and invoices.
//!
//! Two logs of the same usage have the same digest whatever the order, the number and the cut of the
//! reports (M-1), although single postings differ. Positions and times of booking are left out.

use super::Inconsistent;
use super::state::State;

/// Digest of the state: lines by instance, hour and price with quantity and amount; balances by
/// currency and account; invoices by tenant and number with their content.
pub fn digest(state: &State) -> Result<blake3::Hash, Inconsistent> {
    let mut hasher = blake3::Hasher::new_derive_key("hourglass 2026 ledger digest 2");
    let mut add = |text: String| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    let mut instances: Vec<_> = state.instances().collect();
    instances.sort_by_key(|instance| instance.id());
    for instance in instances {
        for view in state.lines_of(instance)? {
            let (sku, line) = (view.sku(), view.line);
            let reservation = view.reservation().map(ToString::to_string).unwrap_or_default();
            add(format!(
                "line {} {} {} {} {} {} {reservation} {} {} {} {} {} {}",
                instance.tenant(),
                view.project(),
                instance.id(),
                sku.platform,
                sku.region,
                sku.model,
                line.price,
                line.hour,
                line.milliseconds,
                line.quantity,
                line.price.times(line.quantity),
                instance.currency(),
            ));
        }
    }
    for (account, currency, balance) in state.book().balances().filter(|(_, _, balance)| !balance.is_zero()) {
        add(format!("balance {account} {currency} {balance}"));
    }
    for (tenant, account) in state.tenants() {
        for (number, invoice) in &account.invoices {
            let content = blake3::Hash::from_bytes(invoice.content);
            add(format!(
                "invoice {tenant} {number} {} {} {} {}",
                invoice.period,
                invoice.status.as_str(),
                invoice.total,
                content.to_hex()
            ));
        }
    }
    Ok(hasher.finalize())
}
