//! What must hold after each step.

use super::*;

/// What must be of quota, from what was asked and answered alone.
#[derive(Default)]
pub(super) struct QuotaOracle {
    pub(super) watch: Watch,
    /// Who holds quota: accepted and not seen stopped since.
    pub(super) running: BTreeSet<InstanceId>,
}

impl QuotaOracle {
    pub(super) fn follow(&mut self, state: &State, before: Before, recorded: &crate::core::Recorded) {
        let wrong = self.watch.after(before, state, recorded);
        assert_eq!(wrong, [], "{:?}", recorded.event);
        let wrong = self.watch.at_end(state);
        assert_eq!(wrong, [], "{:?}", recorded.event);
        match &recorded.event {
            crate::core::Event::InstanceRegistered(it) => {
                self.running.insert(it.instance.clone());
            }
            crate::core::Event::InstanceStarted { instance, .. } => {
                self.running.insert(instance.clone());
            }
            crate::core::Event::InstanceStopped { instance, .. } => {
                self.running.remove(instance);
            }
            _ => {}
        }
        let tree = state.quotas().tree();
        let mut inside: BTreeMap<ReservationId, u32> = BTreeMap::new();
        for (ix, instance) in state.instances.iter() {
            assert_eq!(instance.holding.is_some(), self.running.contains(&instance.id), "{}", instance.id);
            let unheld = instance.holding.is_some_and(|it| it.unheld);
            assert_eq!(state.quotas().unheld.contains(&ix), unheld, "{}", instance.id);
            let Some(holding) = instance.holding else { continue };
            let view = state.instance(instance.id.as_str()).unwrap();
            assert_eq!(tree.project(view.tenant(), view.project()), Some(holding.node));
            match (&view.modes().pop().unwrap().1, holding.key.class()) {
                (Mode::OnDemand, Class::OnDemand) | (Mode::Spot { .. }, Class::Preemptible) => {}
                (Mode::Reserved { .. }, Class::OnDemand) => {}
                (Mode::Reserved { reservation }, Class::Reserved) => {
                    *inside.entry(reservation.clone()).or_default() += instance.gpus;
                }
                other => panic!("{other:?}"),
            }
        }
        for (reservation, gpus) in inside {
            let (_, held) = state.reservations.find(&reservation).unwrap();
            assert!(gpus <= held.reservation.draft().gpus, "{reservation} is overbooked");
        }
        if matches!(recorded.event, crate::core::Event::Ticked) {
            check_ticked(state);
        }
        // Whoever waits really has to: what is lent is not back, or a limit was lowered.
        let (mut holds, mut tree) = (state.quotas().holds().clone(), tree.clone());
        holds.promote(&mut tree, 0).unwrap();
        assert!(holds == *state.quotas().holds(), "it waits for nothing: {:?}", recorded.event);
    }
}

/// Nobody is inside a reservation that is over, nor runs unheld where there is room.
pub(super) fn check_ticked(state: &State) {
    for (_, instance) in state.instances.iter() {
        let Some(holding) = instance.holding else { continue };
        if let (Class::Reserved, Some(Mode::Reserved { reservation })) =
            (holding.key.class(), instance.modes.assigned_last())
        {
            let (_, held) = state.reservations.find(reservation).unwrap();
            assert!(held.reservation.interval().end() > state.now(), "{} is inside no more", instance.id);
        }
        if holding.unheld {
            let (items, mut tree) =
                ([(holding.key, u64::from(instance.gpus))], state.quotas().tree().clone());
            tree.remove(holding.node, Counter::Unheld, &items).unwrap();
            assert_ne!(tree.fit(holding.node, &items), Ok(Fit::Now), "{} could have a hold", instance.id);
        }
    }
}

/// What is posted is what settling everything anew gives, and each credit is what was drawn from it.
pub(super) fn check_settled(state: &State) {
    let accounting = state.accounting(|_| true, true);
    assert!(accounting.balances(), "M-3: {accounting:?}");
    let lines: i64 = state.lines().map(|line| line.unwrap().line.milliseconds).sum();
    assert_eq!(lines, accounting.billed_ms, "M-3");
    for (id, tenant) in state.tenants() {
        let mut left = BTreeMap::new();
        for grant in &tenant.credits {
            let rest = grant.remaining().unwrap();
            assert!(!grant.closed || rest.is_zero(), "a closed credit has nothing left");
            assert!(rest >= Amount::ZERO, "B-4");
            let sum = left.entry(grant.kind.account(id)).or_insert(Amount::ZERO);
            *sum = sum.checked_sub(rest).unwrap();
        }
        for (account, left) in left {
            assert_eq!(state.book().balance(&account, tenant.currency), left, "B-4: {account}");
        }
        let mut invoiced: BTreeMap<ItemKey, (i64, i128)> = BTreeMap::new();
        for invoice in tenant.invoices.values().filter(|it| it.status != crate::core::InvoiceStatus::Void) {
            for (key, item) in &invoice.held {
                let sum = invoiced.entry(*key).or_default();
                *sum = (sum.0 + item.quantity.nanos(), sum.1 + item.amount.attos());
            }
        }
        invoiced.retain(|_, sum| *sum != (0, 0));
        assert_eq!(tenant.items.invoiced(), invoiced, "what invoices hold of {id}");
        let reach = Reach::all(&state.calendars, id, state.now());
        let anew = items(state.ground(), id, tenant, reach, &[]).unwrap();
        let posted: BTreeMap<ItemKey, Item> = tenant.items.accrued();
        assert_eq!(posted, anew, "{id} at {}", state.now());
    }
}

/// Who has room in a reservation follows from life cycles and assignments alone, and never more GPUs have
/// room than there are.
pub(super) fn check_room(state: &State) {
    for held in state.reservations() {
        let draft = held.reservation.draft();
        assert_eq!(held.room, held.fill(&draft.reservation, &state.instances), "{}", draft.reservation);
        let edges = held.room.values().flat_map(|room| room.intervals()).map(|part| part.start());
        for edge in edges {
            let inside =
                held.room.iter().filter(|(_, room)| room.intervals().iter().any(|it| it.contains(edge)));
            let taken: u32 = inside.map(|(ix, _)| state.instances.get(*ix).unwrap().gpus).sum();
            assert!(taken <= draft.gpus, "{} at {edge}: {taken} of {}", draft.reservation, draft.gpus);
        }
        for (ix, room) in &held.room {
            let instance = state.instances.get(*ix).unwrap();
            for part in room.intervals() {
                let reserved = instance
                    .modes
                    .within(*part)
                    .all(|(_, step)| state.groups.get(step.group).unwrap().reservation.is_some());
                assert!(reserved, "{} has room over {part} and is billed otherwise", instance.id);
            }
        }
    }
}

/// Buckets are the sums of the lines.
pub(super) fn check_buckets(state: &State) {
    let mut sums: BTreeMap<(u32, Interval, Price), Quantity> = BTreeMap::new();
    for ix in 0..state.instances.len() {
        let instance = state.instances.get(ix).unwrap();
        for (key, line) in instance.lines(state.rates()).unwrap() {
            assert_eq!(line.quantity, quantity(line.milliseconds, instance.gpus).unwrap());
            let tenant = &state.groups.get(key.group).unwrap().tenant;
            let (_, segment) = state.calendars.segment(tenant, key.hour.start());
            let sum = sums.entry((key.group, segment, key.price)).or_default();
            *sum = sum.checked_add(line.quantity).unwrap();
        }
    }
    let buckets = state.groups.iter().flat_map(|(ix, group)| group.buckets().iter().map(move |it| (ix, it)));
    let buckets: BTreeMap<_, _> = buckets
        .filter(|(_, bucket)| !bucket.charged.is_zero())
        .map(|(ix, bucket)| ((ix, bucket.segment, bucket.price), bucket.charged))
        .collect();
    sums.retain(|_, quantity| !quantity.is_zero());
    assert_eq!(buckets, sums);
}

/// B-5: nothing is booked into a month after it is closed, and its rows until then are those that it was closed with.
pub(super) fn check_closed(state: &State, written: &[(Position, EventRows)]) {
    let periods = state.periods();
    for month in periods.months() {
        let Some(closed) = periods.closed(month) else { continue };
        let of_month = |at: Instant| month.interval().contains(at);
        let mut rows = super::super::periods::MonthRows::default();
        for (position, written) in written {
            for row in written.transfers.iter().filter(|row| of_month(row.at)) {
                assert!(*position < closed.position, "B-5: a transfer at {position} in {month}");
                rows.transfers.add_transfer(*position, row);
            }
            if *position < closed.position {
                let charges = written.charges.iter().filter(|row| of_month(row.hour.start()));
                charges.for_each(|row| rows.charges.add_charge(*position, row));
                let unused = written.unused.iter().filter(|row| of_month(row.hour.start()));
                unused.for_each(|row| rows.unused.add_unused(*position, row));
            }
        }
        assert_eq!(rows.digest(month), closed.digest, "B-5: {month}");
    }
}
