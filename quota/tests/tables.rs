//! Numbers worked out by hand, and texts.

use hourglass_quota::cap::{
    BILLING_INTERVAL_MS, Cap, CapDraft, CapError, CapPeriod, Enforcement, Figures, NOTICE_MS_MAX,
    NOTICE_MS_MIN,
};
use hourglass_quota::hold::{Ended, Hold, HoldError, HoldState, Holds};
use hourglass_quota::holder::Holder;
use hourglass_quota::lease::{LEASE_MS, Leases, NewLease};
use hourglass_quota::request::{Facts, Headroom, Rules};
use hourglass_quota::tree::{Counter, Fit, KeyIx, NodeIx, Tree};
use hourglass_quota::{AMOUNT_MAX, Bound, Class, HoldId, LeaseId, Limits, NodeName};
use hourglass_units::{Amount, Instant, Percent, ResourceName};

const H100: &str = "compute.instance.gpu.h100";

fn at(ms: i64) -> Instant {
    Instant::from_unix_ms(1_800_000_000_000 + ms).unwrap()
}

fn h100() -> ResourceName {
    H100.parse().unwrap()
}

/// Tenant `acme` with teams `a`, `b` and `c` as projects.
struct Teams {
    tree: Tree,
    holds: Holds,
    position: u64,
}

/// What a take came to.
#[derive(Debug, PartialEq, Eq)]
enum Is {
    Held,
    Waiting,
    /// Denied, and so much would fit.
    Denied(u64),
}

impl Teams {
    /// By team: nominal on demand, nominal preemptible, borrowing, lending of both.
    fn new(teams: &[(&str, u64, u64, Bound, Bound)]) -> Self {
        let mut it = Self { tree: Tree::default(), holds: Holds::default(), position: 0 };
        it.tree.ensure(&"tenants/acme".parse().unwrap(), None).unwrap();
        for (team, on_demand, preemptible, borrowing, lending) in teams {
            let node = it.tree.ensure(&project(team), None).unwrap();
            let limits = Limits { lending: *lending, ..Limits::nominal(Bound::AtMost(*on_demand)) };
            let key = it.key(Class::OnDemand);
            it.tree.set_limits(node, key, Some(limits)).unwrap();
            let nominal = Bound::AtMost(*preemptible);
            let limits = Limits { borrowing: *borrowing, nominal, ..limits };
            let key = it.key(Class::Preemptible);
            it.tree.set_limits(node, key, Some(limits)).unwrap();
        }
        it
    }

    fn key(&mut self, class: Class) -> KeyIx {
        self.tree.intern(&h100(), class).unwrap()
    }

    fn node(&self, name: &NodeName) -> NodeIx {
        self.tree.find(name).unwrap()
    }

    fn take(&mut self, team: &str, class: Class, amount: u64) -> (Is, HoldId) {
        let (node, key) = (self.node(&project(team)), self.key(class));
        self.position += 1;
        let id = HoldId(self.position);
        let state = match self.tree.fit(node, &[(key, amount)]) {
            Err(misfit) => return (Is::Denied(misfit.fits), id),
            Ok(Fit::Now) => HoldState::Held,
            Ok(Fit::AfterReclaim) => HoldState::Pending,
        };
        let items = [(key, amount)].into_iter().collect();
        let hold = Hold { node, items, state, expires_at: at(1_000), burn: Amount::ZERO, changed: 0 };
        self.holds.take(&mut self.tree, id, hold).unwrap();
        (if state == HoldState::Held { Is::Held } else { Is::Waiting }, id)
    }

    fn release(&mut self, id: HoldId) {
        let ended = Ended { state: HoldState::Released, at: at(0), position: 0, node: 0 };
        self.holds.end(&mut self.tree, id, ended).unwrap();
        self.holds.promote(&mut self.tree, 0).unwrap();
    }

    fn overdrawn(&self) -> u64 {
        self.tree.overdrawn().map(|(_, _, excess)| excess).sum()
    }

    fn borrowed(&mut self, team: &str) -> u64 {
        let (node, key) = (self.node(&project(team)), self.key(Class::Preemptible));
        self.tree.standing(node, key).borrowed
    }
}

fn project(team: &str) -> NodeName {
    format!("tenants/acme/projects/{team}").parse().unwrap()
}

const ALL: Bound = Bound::Unlimited;

fn most(most: u64) -> Bound {
    Bound::AtMost(most)
}

/// Kueue's example: team a has 9, team b 12, and b may borrow up to 25 with its own.
#[test]
fn q1_a_team_borrows_what_its_siblings_leave_idle() {
    let mut teams = Teams::new(&[("a", 9, 0, ALL, ALL), ("b", 0, 12, ALL, ALL)]);
    // 12 of its own and all 9 of a: 21 and no more.
    assert_eq!(teams.take("b", Class::Preemptible, 22).0, Is::Denied(21));
    let (is, lent) = teams.take("b", Class::Preemptible, 21);
    assert_eq!((is, teams.borrowed("b")), (Is::Held, 9));
    // a claims 4 of its own: nobody is asked for more than that.
    let (is, claim) = teams.take("a", Class::OnDemand, 4);
    assert_eq!((is, teams.overdrawn()), (Is::Waiting, 4));
    // Nobody borrows meanwhile, and a second claim waits as well.
    assert_eq!(teams.take("b", Class::Preemptible, 1).0, Is::Denied(0));
    let (is, second) = teams.take("a", Class::OnDemand, 5);
    assert_eq!((is, teams.overdrawn()), (Is::Waiting, 9));
    assert_eq!(teams.take("a", Class::OnDemand, 1).0, Is::Denied(0));
    teams.release(lent);
    let state = |teams: &Teams, id| teams.holds.get(id).unwrap().state;
    assert_eq!((state(&teams, claim), state(&teams, second)), (HoldState::Held, HoldState::Held));
    assert_eq!(teams.overdrawn(), 0);
    // Its own 12 are b's whatever a does.
    assert_eq!(teams.take("b", Class::Preemptible, 13).0, Is::Denied(12));
    assert_eq!(teams.take("b", Class::Preemptible, 12).0, Is::Held);
}

#[test]
fn q1_borrowing_and_lending_limits_bound_what_moves() {
    let teams = [("a", 10, 0, most(0), most(4)), ("b", 0, 2, most(3), ALL), ("c", 0, 2, ALL, most(0))];
    let mut teams = Teams::new(&teams);
    // b: 2 of its own, 3 at most of others; a lends 4, c nothing.
    assert_eq!(teams.take("b", Class::Preemptible, 6).0, Is::Denied(5));
    assert_eq!(teams.take("b", Class::Preemptible, 5).0, Is::Held);
    // c: 2 of its own and the last of a's 4.
    assert_eq!(teams.take("c", Class::Preemptible, 4).0, Is::Denied(3));
    assert_eq!(teams.take("c", Class::Preemptible, 3).0, Is::Held);
    assert_eq!((teams.borrowed("b"), teams.borrowed("c")), (3, 1));
    // Of a's 10 never more than 4 were lent, so 6 are there at once.
    let (node, key) = (teams.node(&project("a")), teams.key(Class::OnDemand));
    assert_eq!(teams.tree.fit(node, &[(key, 6)]), Ok(Fit::Now));
    assert_eq!(teams.tree.fit(node, &[(key, 7)]), Ok(Fit::AfterReclaim));
    let misfit = teams.tree.waits(node, &[(key, 7)]).unwrap();
    assert_eq!((misfit.node, misfit.asked, misfit.fits), (node, 7, 6));
    // On demand never borrows, whatever its limits say.
    let limits = Limits { borrowing: ALL, lending: most(4), ..Limits::nominal(most(10)) };
    teams.tree.set_limits(node, key, Some(limits)).unwrap();
    assert_eq!(teams.take("a", Class::OnDemand, 11).0, Is::Denied(10));
}

/// Who comes later and wants less does not get ahead of who waits for its own.
#[test]
fn q1_a_large_claim_is_not_starved_by_small_ones() {
    let mut teams = Teams::new(&[("a", 9, 0, ALL, ALL), ("b", 0, 0, ALL, ALL)]);
    let (_, first) = teams.take("b", Class::Preemptible, 5);
    let (_, second) = teams.take("b", Class::Preemptible, 4);
    let claims = [6, 1, 2].map(|amount| teams.take("a", Class::OnDemand, amount));
    assert!(claims.iter().all(|(is, _)| *is == Is::Waiting));
    let states = |teams: &Teams| claims.each_ref().map(|(_, id)| teams.holds.get(*id).unwrap().state);
    teams.release(first);
    // Five are back, and the first claim is for six.
    assert_eq!(states(&teams), [HoldState::Pending; 3]);
    teams.release(second);
    assert_eq!(states(&teams), [HoldState::Held; 3]);
}

/// A limit that is lowered while something waits: it waits on, since it would be above it.
#[test]
fn q1_what_waits_is_not_granted_above_a_limit_that_was_lowered() {
    let mut teams = Teams::new(&[("a", 9, 0, ALL, ALL), ("b", 0, 0, ALL, ALL)]);
    let (_, lent) = teams.take("b", Class::Preemptible, 9);
    let (is, claim) = teams.take("a", Class::OnDemand, 8);
    assert_eq!(is, Is::Waiting);
    let (node, key) = (teams.node(&project("a")), teams.key(Class::OnDemand));
    teams.tree.set_limits(node, key, Some(Limits::nominal(most(7)))).unwrap();
    teams.release(lent);
    assert_eq!(teams.holds.get(claim).unwrap().state, HoldState::Pending);
    teams.tree.set_limits(node, key, Some(Limits::nominal(most(8)))).unwrap();
    teams.holds.promote(&mut teams.tree, 0).unwrap();
    assert_eq!(teams.holds.get(claim).unwrap().state, HoldState::Held);
}

/// Group g has 2 preemptible of its own and may borrow 3 of its sibling h, which has 3 on demand.
#[test]
fn q1_what_waits_below_counts_as_borrowing_above() {
    let mut teams = Teams::new(&[]);
    let mut plant = |name: &str, group: Option<&str>, class: Class, limits: Limits| {
        let node =
            teams.tree.ensure(&name.parse().unwrap(), group.map(|it| it.parse().unwrap()).as_ref()).unwrap();
        let key = teams.tree.intern(&h100(), class).unwrap();
        teams.tree.set_limits(node, key, Some(limits)).unwrap();
    };
    let limits = |nominal, borrowing| Limits { borrowing, ..Limits::nominal(most(nominal)) };
    plant("tenants/acme/groups/g", None, Class::Preemptible, limits(2, ALL));
    plant("tenants/acme/groups/h", None, Class::OnDemand, limits(3, most(0)));
    plant("tenants/acme/projects/p", Some("g"), Class::Preemptible, limits(3, most(0)));
    plant("tenants/acme/projects/q", Some("g"), Class::Preemptible, limits(0, ALL));
    plant("tenants/acme/projects/r", None, Class::Preemptible, limits(0, ALL));
    // q borrows 2 of p; p claims its 3, of which two have to come back; g would borrow 3.
    let (is, lent) = teams.take("q", Class::Preemptible, 2);
    assert_eq!(is, Is::Held);
    let (is, claim) = teams.take("p", Class::Preemptible, 3);
    assert_eq!(is, Is::Waiting);
    // So r cannot have these 3.
    assert_eq!(teams.take("r", Class::Preemptible, 1).0, Is::Denied(0));
    teams.release(lent);
    assert_eq!(teams.holds.get(claim).unwrap().state, HoldState::Held);
    // Of h's 3, one is borrowed by g, two by r.
    assert_eq!(teams.take("r", Class::Preemptible, 3).0, Is::Denied(2));
    assert_eq!(teams.take("r", Class::Preemptible, 2).0, Is::Held);
}

/// A project that lends or borrows cannot leave those who depend on it, nor bring its debts along.
#[test]
fn q1_a_project_moves_with_what_it_shares() {
    let mut teams = Teams::new(&[("a", 9, 0, ALL, ALL), ("b", 0, 0, ALL, ALL)]);
    let group = teams.tree.ensure(&"tenants/acme/groups/g".parse().unwrap(), None).unwrap();
    let (a, b) = (teams.node(&project("a")), teams.node(&project("b")));
    assert_eq!(teams.tree.fits_under(a, group), Ok(()));
    let (_, lent) = teams.take("b", Class::Preemptible, 4);
    for node in [a, b] {
        let denial = teams.tree.fits_under(node, group).unwrap_err();
        assert_eq!((denial.node, denial.asked, denial.fits), (teams.tree.name(node).cloned(), 4, 0));
    }
    teams.release(lent);
    assert_eq!(teams.tree.fits_under(a, group), Ok(()));
    // On demand and preemptible together must fit: there are 10 of the group itself, and 9 of a.
    let (on_demand, preemptible) = (teams.key(Class::OnDemand), teams.key(Class::Preemptible));
    let borrows = Limits { borrowing: ALL, ..Limits::nominal(most(0)) };
    teams.tree.set_limits(group, on_demand, Some(Limits::nominal(most(10)))).unwrap();
    teams.tree.set_limits(group, preemptible, Some(borrows)).unwrap();
    let c = teams.tree.ensure(&project("c"), None).unwrap();
    teams.tree.add(c, Counter::Committed, &[(on_demand, 6), (preemptible, 14)]).unwrap();
    assert!(teams.tree.fits_under(c, group).is_err());
    teams.tree.remove(c, Counter::Committed, &[(on_demand, 1)]).unwrap();
    assert_eq!(teams.tree.fits_under(c, group), Ok(()));
}

#[test]
fn q1_no_limit_and_a_limit_of_zero_are_different_things() {
    let mut teams = Teams::new(&[]);
    let node = teams.tree.ensure(&project("a"), None).unwrap();
    let key = teams.key(Class::Reserved);
    assert_eq!((teams.tree.fit(node, &[(key, 7)]), teams.tree.fits(node, key)), (Ok(Fit::Now), None));
    teams.tree.set_limits(node, key, Some(Limits::nominal(Bound::Unlimited))).unwrap();
    assert_eq!((teams.tree.fit(node, &[(key, 7)]), teams.tree.fits(node, key)), (Ok(Fit::Now), None));
    teams.tree.set_limits(node, key, Some(Limits::nominal(most(0)))).unwrap();
    let denial = teams.tree.denial(&teams.tree.fit(node, &[(key, 1)]).unwrap_err());
    assert_eq!((denial.limit, denial.fits), (most(0), 0));
    assert_eq!(
        denial.to_string(),
        "tenants/acme/projects/a has a limit of 0 on compute.instance.gpu.h100 (reserved): 0 used and 0 held, \
         1 asked; nothing more fits: release some, or request an increase"
    );
    assert_eq!(teams.tree.fits(node, key), Some(0));
}

/// Where nothing limits it, what is taken still has to be counted: the last that fits is granted, and
/// nothing is ever counted that cannot be.
#[test]
fn q1_sums_without_a_limit_have_an_end() {
    let mut teams = Teams::new(&[]);
    let node = teams.tree.ensure(&project("a"), None).unwrap();
    let key = teams.key(Class::OnDemand);
    for _ in 0..4_096 {
        match teams.tree.fit(node, &[(key, AMOUNT_MAX)]) {
            Ok(_) => teams.tree.add(node, Counter::Committed, &[(key, AMOUNT_MAX)]).unwrap(),
            Err(misfit) => {
                assert!(misfit.fits < AMOUNT_MAX);
                return;
            }
        }
    }
    panic!("everything fits");
}

#[test]
fn q3_a_hold_ends_once_and_says_how() {
    let mut teams = Teams::new(&[("a", 9, 0, ALL, ALL)]);
    let (_, id) = teams.take("a", Class::OnDemand, 4);
    assert_eq!(teams.holds.usable(id, at(999)).map(|it| it.state), Ok(HoldState::Held));
    assert_eq!(teams.holds.usable(id, at(1_000)), Err(HoldError::Expired { hold: id, at: at(1_000) }));
    assert_eq!(teams.holds.expired(at(999)).count(), 0);
    assert_eq!(teams.holds.expired(at(1_000)).collect::<Vec<_>>(), [id]);
    let ended = |state| Ended { state, at: at(2_000), position: 9, node: 0 };
    teams.holds.end(&mut teams.tree, id, ended(HoldState::Expired)).unwrap();
    assert!(teams.holds.end(&mut teams.tree, id, ended(HoldState::Released)).is_err());
    assert!(teams.holds.commit(&mut teams.tree, id, 9).is_err());
    assert!(teams.holds.renew(id, at(9_000), 9).is_err());
    assert_eq!(teams.holds.usable(id, at(2_000)), Err(HoldError::Expired { hold: id, at: at(2_000) }));
    assert_eq!(teams.holds.usable(HoldId(77), at(0)), Err(HoldError::Unknown { hold: HoldId(77) }));
    // A committed one has no end, and cannot be renewed.
    let (_, id) = teams.take("a", Class::OnDemand, 9);
    teams.holds.commit(&mut teams.tree, id, 10).unwrap();
    assert_eq!(teams.holds.usable(id, at(1 << 40)).map(|it| it.state), Ok(HoldState::Committed));
    assert_eq!(teams.holds.expired(at(1 << 40)).count(), 0);
    assert!(teams.holds.renew(id, at(9_000), 11).is_err());
    assert!(teams.holds.commit(&mut teams.tree, id, 11).is_err());
    // How it ended is forgotten a day later.
    teams.holds.end(&mut teams.tree, id, Ended { at: at(90_000_000), ..ended(HoldState::Released) }).unwrap();
    assert_eq!(teams.holds.ended(HoldId(1)), None);
    assert_eq!(teams.holds.ended(id).map(|it| it.state), Some(HoldState::Released));
}

#[test]
fn bounds_are_read_and_written() {
    let read = |text: &str| text.parse::<Bound>().ok();
    assert_eq!(read("unlimited"), Some(Bound::Unlimited));
    assert_eq!(read("0"), Some(most(0)));
    assert_eq!(read("9007199254740992"), Some(most(AMOUNT_MAX)));
    for text in [
        "",
        " 1",
        "1 ",
        "+1",
        "-1",
        "1.0",
        "1e3",
        "Unlimited",
        "9007199254740993",
        "99999999999999999999",
        "٣",
    ] {
        assert_eq!(read(text), None, "{text:?}");
    }
    for (bound, json) in [(Bound::Unlimited, r#""unlimited""#), (most(0), "0"), (most(8), "8")] {
        assert_eq!(serde_json::to_string(&bound).unwrap(), json);
        assert_eq!(serde_json::from_str::<Bound>(json).unwrap(), bound);
        let bytes = postcard::to_stdvec(&bound).unwrap();
        assert_eq!(postcard::from_bytes::<Bound>(&bytes).unwrap(), bound);
        assert_eq!(bound.to_string().parse::<Bound>().unwrap(), bound);
    }
    for json in ["-1", "1.5", "null", "true", "9007199254740993", r#""many""#, r#""-1""#, "[]"] {
        assert!(serde_json::from_str::<Bound>(json).is_err(), "{json}");
    }
    let too_much = postcard::to_stdvec(&Some(AMOUNT_MAX + 1)).unwrap();
    assert!(postcard::from_bytes::<Bound>(&too_much).is_err());
    let limits: Limits = serde_json::from_str(r#"{"nominal": 8}"#).unwrap();
    assert_eq!(limits, Limits::nominal(most(8)));
    assert!(serde_json::from_str::<Limits>(r#"{"nominal": 8, "lends": 1}"#).is_err());
    assert!(serde_json::from_str::<Limits>("{}").is_err(), "no limit is not unlimited by accident");
}

#[test]
fn bounds_compare() {
    // (bound, taken, less, admits, at least 5, at least unlimited)
    for (bound, taken, less, admits, five, all) in [
        (Bound::Unlimited, 7, None, true, true, true),
        (most(9), 7, Some(2), true, true, false),
        (most(7), 7, Some(0), true, true, false),
        (most(4), 7, Some(0), false, false, false),
        (most(0), 1, Some(0), false, false, false),
    ] {
        assert_eq!((bound.less(taken), bound.admits(taken)), (less, admits), "{bound}");
        assert_eq!((bound.is_at_least(most(5)), bound.is_at_least(Bound::Unlimited)), (five, all), "{bound}");
        assert_eq!(bound.cap(7), if admits { 7 } else { taken.min(bound.less(0).unwrap()) }, "{bound}");
    }
}

#[test]
fn nodes_are_named() {
    for text in ["tenants/acme", "tenants/acme/groups/g-1", "tenants/acme/projects/train"] {
        let name: NodeName = text.parse().unwrap();
        assert_eq!((name.to_string().as_str(), name.tenant().as_str()), (text, "acme"));
        assert_eq!(serde_json::to_string(&name).unwrap(), format!("{text:?}"));
        assert_eq!(serde_json::from_str::<NodeName>(&format!("{text:?}")).unwrap(), name);
    }
    for text in [
        "",
        "acme",
        "tenants",
        "tenants/",
        "tenants//groups/g",
        "tenants/acme/",
        "tenants/acme/groups",
        "tenants/acme/groups/",
        "tenants/acme/teams/g",
        "tenants/acme/groups/g/",
        "tenants/acme/groups/g/projects/p",
        "/tenants/acme",
        "Tenants/acme",
        "tenants/ac me",
    ] {
        assert!(text.parse::<NodeName>().is_err(), "{text:?}");
        assert!(serde_json::from_str::<NodeName>(&format!("{text:?}")).is_err());
    }
}

fn percent(text: &str) -> Percent {
    serde_json::from_str(&format!("{text:?}")).unwrap()
}

/// Each rule on its edge.
#[test]
fn rules_judge() {
    let headroom = vec![Headroom { resource: h100(), class: Class::OnDemand, total_max: 1_000 }];
    let rules = Rules {
        account_days_min: 30,
        paid_invoices_min: 1,
        utilisation_min: percent("80"),
        growth_max: percent("200"),
        headroom,
    };
    let sound = Facts {
        account_days: 30,
        paid_invoices: 1,
        open_invoices: 0,
        limit: Some(10),
        used: 8,
        wanted: 20,
        total: 990,
    };
    let judge = |facts: Facts| rules.judge(&h100(), Class::OnDemand, &facts).is_ok();
    assert!(judge(sound));
    for (what, facts) in [
        ("young", Facts { account_days: 29, ..sound }),
        ("unpaid", Facts { paid_invoices: 0, ..sound }),
        ("open", Facts { open_invoices: 1, ..sound }),
        ("idle", Facts { used: 7, ..sound }),
        ("large", Facts { wanted: 21, ..sound }),
        ("beyond the region", Facts { total: 991, ..sound }),
        ("beyond all sums", Facts { total: u64::MAX, ..sound }),
        ("no limit yet", Facts { limit: None, ..sound }),
        ("from zero", Facts { limit: Some(0), used: 0, wanted: 1, ..sound }),
    ] {
        assert!(!judge(facts), "{what}");
    }
    // Less than before needs no rule.
    assert!(judge(Facts { wanted: 10, account_days: 0, used: 0, open_invoices: 3, ..sound }));
    assert!(rules.judge(&h100(), Class::Preemptible, &sound).is_err(), "no headroom for that class");
    let generous = Rules { paid_invoices_min: 0, ..rules.clone() };
    let facts = Facts { open_invoices: 1, paid_invoices: 0, ..sound };
    assert!(generous.judge(&h100(), Class::OnDemand, &facts).is_ok(), "invoices do not matter");
}

fn draft() -> CapDraft {
    CapDraft {
        period: CapPeriod::Monthly,
        amount: Some(Amount::parse("100").unwrap()),
        enforcement: Enforcement::Hard,
        thresholds: vec![percent("50"), percent("100")],
        notice_ms: NOTICE_MS_MIN,
    }
}

#[test]
fn caps_are_checked() {
    let with = |change: fn(&mut CapDraft)| {
        let mut it = draft();
        change(&mut it);
        it.check()
    };
    assert_eq!(with(|_| {}), Ok(()));
    assert_eq!(with(|it| it.amount = Some(Amount::ZERO)), Ok(()));
    assert_eq!(with(|it| it.amount = None), Err(CapError::AmountMissing));
    assert_eq!(with(|it| it.amount = Some(Amount::parse("-1").unwrap())), Err(CapError::AmountMissing));
    assert_eq!(with(|it| it.period = CapPeriod::Prepaid), Err(CapError::AmountOfBalance));
    assert_eq!(with(|it| (it.period, it.amount) = (CapPeriod::Prepaid, None)), Ok(()));
    assert_eq!(with(|it| it.thresholds.clear()), Ok(()));
    assert_eq!(with(|it| it.thresholds.reverse()), Err(CapError::Thresholds));
    assert_eq!(with(|it| it.thresholds = vec![percent("50"); 2]), Err(CapError::Thresholds));
    assert_eq!(with(|it| it.thresholds = vec![percent("0")]), Err(CapError::Thresholds));
    let many = |it: &mut CapDraft, n: u32| it.thresholds = (1..=n).map(|n| percent(&n.to_string())).collect();
    let mut ten = draft();
    many(&mut ten, 10);
    assert_eq!(ten.check(), Ok(()));
    many(&mut ten, 11);
    assert_eq!(ten.check(), Err(CapError::Thresholds));
    assert_eq!(with(|it| it.notice_ms = NOTICE_MS_MIN - 1), Err(CapError::Notice));
    assert_eq!(with(|it| it.notice_ms = NOTICE_MS_MAX), Ok(()));
    assert_eq!(with(|it| it.notice_ms = NOTICE_MS_MAX + 1), Err(CapError::Notice));
    assert_eq!(draft().horizon(at(0)), at(BILLING_INTERVAL_MS + NOTICE_MS_MIN));
}

#[test]
fn caps_admit_up_to_the_last_cent() {
    let money = |text: &str| Amount::parse(text).unwrap();
    let figures = Figures {
        at: at(0),
        position: 1,
        period: "2026-01".parse().unwrap(),
        limit: money("100"),
        spent: money("60"),
        exposed: money("20"),
    };
    let cap = Cap { draft: draft(), figures, added: money("5"), crossed: 0, exhausted: false };
    let fresh = at(BILLING_INTERVAL_MS);
    assert!(cap.admits(money("15"), fresh).is_ok());
    let denial = cap.admits(money("15.01"), fresh).unwrap_err();
    assert_eq!((denial.limit, denial.spent), (money("100"), money("60")));
    assert_eq!((denial.held, denial.asked), (money("25"), money("15.01")));
    // Old figures say nothing about what runs; what costs nothing is let in all the same.
    assert!(cap.admits(money("0.01"), at(BILLING_INTERVAL_MS + 1)).is_err());
    assert!(cap.admits(Amount::ZERO, at(BILLING_INTERVAL_MS + 1)).is_ok());
    assert!(Cap { exhausted: true, ..cap.clone() }.admits(money("1"), fresh).is_ok());
    let soft = CapDraft { enforcement: Enforcement::Soft, ..draft() };
    assert!(Cap { draft: soft, exhausted: true, ..cap.clone() }.admits(money("1000"), fresh).is_ok());
    for (spent, crossed) in [("49.99", 0), ("50", 1), ("99.99", 1), ("100", 2), ("1000", 2)] {
        let figures = Figures { spent: money(spent), ..figures };
        assert_eq!(cap.thresholds_crossed(&figures), crossed, "{spent}");
    }
}

/// What a holder may use, when, and what it says that it knows.
#[test]
fn q1_a_holder_keeps_to_what_it_was_granted() {
    let mut holder = Holder::new(1, 5, 2, 1_000);
    let end = 1_000 + LEASE_MS;
    assert_eq!([end - 1, end, i64::MAX].map(|now| holder.allowed(now)), [5, 2, 2]);
    assert!(holder.admit(5, end - 1) && !holder.admit(1, end - 1) && !holder.admit(u64::MAX, end - 1));
    assert_eq!((holder.in_use(), holder.excess(end - 1), holder.excess(end)), (5, 0, 3));
    // An answer that was overtaken, and one that comes again.
    holder.refreshed(1, 9, 2_000);
    assert_eq!(holder.allowed(1_000), 5);
    // Two answers were lost: it knows the fourth version when it keeps to it, and the first until then.
    holder.refreshed(4, 3, 2_000);
    assert_eq!((holder.allowed(end), holder.excess(end), holder.known_version(end)), (3, 2, 1));
    holder.refreshed(5, 2, 3_000);
    assert_eq!(holder.known_version(end), 1);
    holder.stopped(3);
    assert_eq!((holder.in_use(), holder.excess(end), holder.known_version(end)), (2, 0, 5));
    holder.refreshed(6, 1, 3_000);
    assert_eq!(holder.known_version(end), 5);
    // What is safe is never more than what was granted.
    assert_eq!((holder.allowed(end), holder.allowed(i64::MAX)), (1, 1));
}

/// What a lease is offered follows every limit above it, and what it borrows is given back when claimed.
#[test]
fn q1_a_lease_shrinks_with_what_is_above_it() {
    let teams = [("a", 9, 0, ALL, ALL), ("b", 0, 10, most(5), ALL)];
    let mut teams = Teams::new(&teams);
    let (root, node) = (teams.node(&"tenants/acme".parse().unwrap()), teams.node(&project("b")));
    let key = teams.key(Class::Preemptible);
    let (mut leases, id) = (Leases::default(), LeaseId(1));
    let (holder, safe_capacity) = (String::new(), 2);
    let lease = NewLease { holder, node, key, capacity: 15, safe_capacity, at: at(0) };
    leases.grant(&mut teams.tree, id, lease).unwrap();
    let offer = |teams: &Teams, wants| leases.offer(&teams.tree, id, wants);
    // All that it may borrow, it keeps; it gets what it wants below, and never less than is safe.
    assert_eq!([20, 15, 7, 0].map(|wants| offer(&teams, wants)), [Some(15), Some(15), Some(7), Some(2)]);
    assert_eq!(leases.offer(&teams.tree, LeaseId(2), 1), None);
    // Four of the five are claimed back by who lent them: 9 - 8 = 1 is left.
    assert_eq!(teams.take("a", Class::OnDemand, 8).0, Is::Waiting);
    assert_eq!(offer(&teams, 20), Some(11));
    teams.release(HoldId(1));
    assert_eq!(offer(&teams, 20), Some(15));
    // The tenant's limit is lowered: the project has none as low, and the lease shrinks all the same.
    teams.tree.set_limits(root, key, Some(Limits::nominal(most(6)))).unwrap();
    assert_eq!(offer(&teams, 20), Some(6));
    teams.tree.set_limits(root, key, Some(Limits::nominal(most(0)))).unwrap();
    assert_eq!(offer(&teams, 20), Some(2));
}
