use std::collections::BTreeMap;

use hourglass_ledger::core::Account;
use hourglass_pricing::PurchaseModel;
use hourglass_units::TenantId;
use proptest::prelude::{prop_assert_eq, proptest};

use super::beancount::{name, part};
use super::hledger::CLASSES;

fn accounts() -> Vec<Account> {
    let tenant = || "acme".parse::<TenantId>().unwrap();
    vec![
        Account::Unbilled(tenant()),
        Account::Receivable(tenant()),
        Account::PrepaidCredit(tenant()),
        Account::PromotionalCredit(tenant()),
        Account::Deferred(tenant()),
        Account::Revenue("h100".parse().unwrap(), PurchaseModel::Spot),
        Account::Revenue("h100".parse().unwrap(), PurchaseModel::OnDemand),
        Account::Shortfall,
        Account::Breakage,
        Account::Rounding,
        Account::IncludedTax,
        Account::Promotions,
        Account::SlaCredits,
        Account::OwnerYield,
        Account::Tax,
        Account::Cash,
    ]
}

#[test]
fn every_account_has_a_class_that_hledger_knows() {
    for account in accounts() {
        let class = account.class();
        assert!(CLASSES.iter().any(|(known, _)| *known == class), "{account}");
        assert!(account.to_string().starts_with(&format!("{class}:")), "{account}");
    }
}

/// A name of beancount's: its parts begin with a capital letter or a digit and hold letters, digits and dashes.
fn is_beancounts(name: &str) -> bool {
    name.split(':').all(|part| {
        part.starts_with(|first: char| first.is_ascii_uppercase() || first.is_ascii_digit())
            && part.chars().all(|it| it.is_ascii_alphanumeric() || it == '-')
    })
}

#[test]
fn every_account_has_a_name_that_beancount_takes() {
    for account in accounts() {
        assert!(is_beancounts(&name(&account)), "{}", name(&account));
    }
    for (ours, theirs) in [
        ("acme", "Acme"),
        ("7up", "7up"),
        ("acme-labs", "Acme-labs"),
        ("a.b_c", "A--db--uc"),
        ("a--b", "A--h-b"),
        ("a-.b", "A--h--db"),
        ("Acme", "X--cAcme"),
        ("on_demand", "On--udemand"),
    ] {
        assert_eq!(part(ours), theirs);
    }
}

/// What a name was before, read by other rules than those it was written by.
fn unwritten(name: &str) -> String {
    let (name, kept) = match name.strip_prefix("X--c") {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let escapes = BTreeMap::from([("--d", "."), ("--u", "_"), ("--h", "-")]);
    let mut text = String::new();
    let mut rest = name;
    while let Some(next) = rest.chars().next() {
        let escape = rest.get(..3).and_then(|start| escapes.get(start));
        match escape {
            Some(meant) => {
                text.push_str(meant);
                rest = &rest[3..];
            }
            None => {
                let first = text.is_empty() && !kept;
                text.push(if first { next.to_ascii_lowercase() } else { next });
                rest = &rest[1..];
            }
        }
    }
    text
}

proptest! {
    #[test]
    fn no_two_ids_have_the_same_name(id in "[a-zA-Z0-9xX][a-cA-C0-9chdu._-]{0,12}") {
        proptest::prop_assert!(is_beancounts(&part(&id)));
        prop_assert_eq!(unwritten(&part(&id)), id);
    }
}
