//! What each role may do: one table.
//!
//! A permission reaches over `All` the cell, or over what is `Own`: a customer's tenant, an agent's
//! reports. Everything that is not in the table is refused.

use std::collections::BTreeSet;
use std::fmt;

use hourglass_ledger::core::{Role, Scope};

use Reach::{All, None as No, Own};

/// How far a permission reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nowhere.
    None,
    /// Over the customer's own tenant, the agent's own reports.
    Own,
    /// Over the whole cell.
    All,
}

/// One thing that can be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Who the tenants are.
    ReadTenants,
    /// Opening accounts.
    WriteTenants,
    /// What everybody pays who has no contract.
    ReadRateCards,
    /// A tenant's own prices.
    ReadContracts,
    /// Rate cards, contracts and spot prices.
    WritePrices,
    /// Prices of the past, with corrections of what they charged.
    RerateOpen,
    /// The same where it corrects periods that have an invoice.
    RerateClosed,
    /// Instances and when they ran.
    ReadInstances,
    /// Registering, starting and stopping them, and changing how they are sold.
    WriteInstances,
    /// Labelling them.
    WriteLabels,
    /// Reservations, and what they cost.
    ReadReservations,
    /// Selling GPUs for a time.
    WriteReservations,
    /// GPU-hours and what they cost.
    ReadUsage,
    /// Sending reports.
    IngestUsage,
    /// Excluding what was reported.
    VoidUsage,
    /// What came as usage and could not be used.
    ReadQuarantine,
    /// Taking it in again.
    WriteQuarantine,
    /// Balances, transfers, charges, credit, invoices; what a re-rating would change.
    ReadBooks,
    /// Granting credit.
    WriteCredits,
    /// How a tenant is taxed.
    WriteTax,
    /// Finalising invoices, their payments, taking them back, credit notes.
    WriteInvoices,
    /// Closing months of the book for good.
    ClosePeriods,
    /// Limits, use, spend caps, budgets and requests for more.
    ReadQuotas,
    /// Setting limits, groups and rules, and deciding about requests.
    WriteQuotas,
    /// Asking for more.
    RequestQuotas,
    /// Setting spend caps and budgets.
    WriteCaps,
    /// Holds and leases, and the comparison with what the compute API runs.
    WriteHolds,
    /// Pools, their prices, and the receipts of clearings.
    ReadMarket,
    /// What pools have promised and to whom it went, in sum.
    ReadSupply,
    /// What pools had over time, unmet demand, forecasts, what-if and advice.
    PlanCapacity,
    /// Pools, their nodes, the margin, and clearing.
    WriteMarket,
    /// Bids.
    ReadBids,
    /// Placing, changing and taking back bids.
    WriteBids,
    /// Lending what is reserved, and giving projects their parts of it.
    WriteLoans,
    /// The log's head and digest.
    ReadLedger,
    /// Webhooks, and what became of their messages.
    ReadWebhooks,
    /// Making and changing them, rotating their secrets, sending messages again.
    WriteWebhooks,
    /// API keys: list, create, revoke.
    ManageKeys,
    /// The keys of a customer: list, create, revoke.
    ManageOwnKeys,
    /// What Prometheus scrapes.
    ReadMetrics,
}

/// A line of the table: the permission, its name, the scope that a key needs for it, and how far it
/// reaches for each role, in the order of [`Role::ALL`].
type Line = (Permission, &'static str, Scope, [Reach; 7]);

#[rustfmt::skip]
const TABLE: [Line; 40] = {
    use Permission as P;
    use Scope::{Ingest, Keys, Metrics, Read, Write};
    [
    //                                               customer finance trader planner compute operator agent
    (P::ReadTenants,       "tenants.read",        Read,    [Own, All, No,  All, All, All, No ]),
    (P::WriteTenants,      "tenants.write",       Write,   [No,  No,  No,  No,  No,  All, No ]),
    (P::ReadRateCards,     "rate_cards.read",     Read,    [All, All, All, All, All, All, No ]),
    (P::ReadContracts,     "contracts.read",      Read,    [Own, All, No,  No,  No,  All, No ]),
    (P::WritePrices,       "prices.write",        Write,   [No,  No,  No,  No,  No,  All, No ]),
    (P::RerateOpen,        "rerates.write",       Write,   [No,  All, No,  No,  No,  All, No ]),
    (P::RerateClosed,      "rerates.closed",      Write,   [No,  All, No,  No,  No,  All, No ]),
    (P::ReadInstances,     "instances.read",      Read,    [Own, No,  No,  All, All, All, No ]),
    (P::WriteInstances,    "instances.write",     Write,   [No,  No,  No,  No,  All, All, No ]),
    (P::WriteLabels,       "labels.write",        Write,   [Own, No,  No,  No,  All, All, No ]),
    (P::ReadReservations,  "reservations.read",   Read,    [Own, All, No,  All, All, All, No ]),
    (P::WriteReservations, "reservations.write",  Write,   [No,  No,  No,  No,  No,  All, No ]),
    (P::ReadUsage,         "usage.read",          Read,    [Own, All, No,  All, No,  All, No ]),
    (P::IngestUsage,       "usage.ingest",        Ingest,  [No,  No,  No,  No,  No,  All, Own]),
    (P::VoidUsage,         "usage.void",          Write,   [No,  No,  No,  No,  No,  All, No ]),
    (P::ReadQuarantine,    "quarantine.read",     Read,    [No,  No,  No,  No,  No,  All, No ]),
    (P::WriteQuarantine,   "quarantine.write",    Write,   [No,  No,  No,  No,  No,  All, No ]),
    (P::ReadBooks,         "books.read",          Read,    [Own, All, No,  No,  No,  All, No ]),
    (P::WriteCredits,      "credits.write",       Write,   [No,  All, No,  No,  No,  All, No ]),
    (P::WriteTax,          "tax.write",           Write,   [No,  All, No,  No,  No,  All, No ]),
    (P::WriteInvoices,     "invoices.write",      Write,   [No,  All, No,  No,  No,  All, No ]),
    (P::ClosePeriods,      "periods.close",       Write,   [No,  All, No,  No,  No,  All, No ]),
    (P::ReadQuotas,        "quotas.read",         Read,    [Own, All, All, All, All, All, No ]),
    (P::WriteQuotas,       "quotas.write",        Write,   [No,  No,  No,  No,  No,  All, No ]),
    (P::RequestQuotas,     "quotas.request",      Write,   [Own, No,  No,  No,  No,  All, No ]),
    (P::WriteCaps,         "caps.write",          Write,   [Own, All, No,  No,  No,  All, No ]),
    (P::WriteHolds,        "holds.write",         Write,   [No,  No,  No,  No,  All, All, No ]),
    (P::ReadMarket,        "market.read",         Read,    [All, All, All, All, All, All, No ]),
    (P::ReadSupply,        "supply.read",         Read,    [No,  All, All, All, All, All, No ]),
    (P::PlanCapacity,      "capacity.plan",       Read,    [No,  All, All, All, No,  All, No ]),
    (P::WriteMarket,       "market.write",        Write,   [No,  No,  No,  No,  No,  All, No ]),
    (P::ReadBids,          "bids.read",           Read,    [Own, No,  All, All, No,  All, No ]),
    (P::WriteBids,         "bids.write",          Write,   [Own, No,  All, No,  No,  All, No ]),
    (P::WriteLoans,        "loans.write",         Write,   [Own, No,  No,  No,  No,  All, No ]),
    (P::ReadLedger,        "ledger.read",         Read,    [No,  All, No,  No,  No,  All, No ]),
    (P::ReadWebhooks,      "webhooks.read",       Read,    [Own, No,  No,  No,  No,  All, No ]),
    (P::WriteWebhooks,     "webhooks.write",      Write,   [Own, No,  No,  No,  No,  All, No ]),
    (P::ManageKeys,        "keys.manage",         Keys,    [No,  No,  No,  No,  No,  All, No ]),
    (P::ManageOwnKeys,     "tenant_keys.manage",  Keys,    [Own, No,  No,  No,  No,  All, No ]),
    (P::ReadMetrics,       "metrics.read",        Metrics, [No,  No,  No,  No,  No,  All, No ]),
    ]
};

fn line(permission: Permission) -> Option<&'static Line> {
    TABLE.iter().find(|line| line.0 == permission)
}

/// How far a permission reaches for a role.
pub(crate) fn reach(role: Role, permission: Permission) -> Reach {
    let column = Role::ALL.iter().position(|it| *it == role);
    let found = line(permission).zip(column).and_then(|(line, column)| line.3.get(column));
    found.copied().unwrap_or(Reach::None)
}

/// The scopes in which a role may do something: what a key of it can have.
pub(crate) fn scopes_of(role: Role) -> BTreeSet<Scope> {
    let allowed = TABLE.iter().filter(|line| reach(role, line.0) != Reach::None);
    allowed.map(|line| line.2).collect()
}

/// The roles that have a permission, with how far it reaches.
pub(crate) fn holders(permission: Permission) -> impl Iterator<Item = (Role, Reach)> {
    let all = Role::ALL.iter().map(move |role| (*role, reach(*role, permission)));
    all.filter(|(_, reach)| *reach != Reach::None)
}

impl Permission {
    /// The scope that a key needs for it.
    pub(crate) fn scope(self) -> Scope {
        // Every permission has its line: a test holds it.
        line(self).map_or(Scope::Keys, |line| line.2)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(line(*self).map_or("none", |line| line.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as `docs/operating/access.md` shows it.
    fn documented() -> String {
        let mut text = String::from("| permission | scope |");
        Role::ALL.iter().for_each(|role| text.push_str(&format!(" {role} |")));
        text.push_str(&format!("\n|{}\n", "---|".repeat(Role::ALL.len() + 2)));
        for (permission, name, scope, _) in TABLE {
            text.push_str(&format!("| `{name}` | `{scope}` |"));
            for role in Role::ALL {
                text.push_str(match reach(*role, permission) {
                    Reach::None => " |",
                    Reach::Own => " own |",
                    Reach::All => " all |",
                });
            }
            text.push('\n');
        }
        text
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let root = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
        let page = std::fs::read_to_string(root.join("../docs/operating/access.md")).unwrap();
        assert!(page.contains(&documented()), "docs/operating/access.md should have:\n{}", documented());
    }

    #[test]
    fn each_permission_has_one_line_and_a_customer_reaches_nothing_of_others() {
        for (at, (permission, name, scope, _)) in TABLE.iter().enumerate() {
            assert_eq!(TABLE.iter().position(|line| line.0 == *permission), Some(at));
            assert_eq!(TABLE.iter().position(|line| line.1 == *name), Some(at));
            assert_eq!((permission.scope(), permission.to_string().as_str()), (*scope, *name));
            assert_eq!(reach(Role::Operator, *permission), Reach::All, "{name}");
            let public = matches!(permission, Permission::ReadRateCards | Permission::ReadMarket);
            assert_eq!(reach(Role::Customer, *permission) == Reach::All, public, "{name}");
            assert!(matches!(reach(Role::Agent, *permission), Reach::None | Reach::Own), "{name}");
        }
        assert_eq!(scopes_of(Role::Customer), [Scope::Read, Scope::Write, Scope::Keys].into());
        assert_eq!(scopes_of(Role::Agent), [Scope::Ingest].into());
        assert_eq!(scopes_of(Role::Operator).len(), Scope::ALL.len());
    }
}
