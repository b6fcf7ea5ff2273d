//! Holds from their reservation to their end, denials, and who may ask.

use super::*;

#[test]
pub(super) fn a_hold_lives_from_its_reservation_to_its_release() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 16).await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;

        let held = quota.reserve(reserve("r-1", 8)).await.unwrap().into_inner();
        let hold = held.hold.clone().unwrap();
        assert_eq!((hold.scope.clone(), hold.items.clone()), (scope("beta", "train"), vec![item(8)]));
        assert_eq!((hold.state(), held.already_applied), (v1::HoldState::Held, false));
        let now = server.cell.now().unix_ms();
        assert_eq!((hold.expires_unix_ms, hold.position), (now + 60_000, hold.id));
        let again = quota.reserve(reserve("r-1", 8)).await.unwrap().into_inner();
        assert_eq!(again, v1::HoldResponse { already_applied: true, ..held });
        refused(quota.reserve(reserve("r-1", 9)).await, Code::FailedPrecondition, "idempotency_key_reused");

        let get = |hold| v1::GetHoldRequest { hold };
        assert_eq!(quota.get_hold(get(hold.id)).await.unwrap().into_inner(), hold);
        let renew = v1::RenewRequest { idempotency_key: String::new(), hold: hold.id, ttl_seconds: 86_400 };
        let renewed = quota.renew(renew.clone()).await.unwrap().into_inner().hold.unwrap();
        assert_eq!((renewed.state(), renewed.expires_unix_ms), (v1::HoldState::Held, now + 86_400_000));
        let resize =
            v1::ResizeRequest { idempotency_key: "s-1".to_owned(), hold: hold.id, items: vec![item(12)] };
        let resized = quota.resize(resize.clone()).await.unwrap().into_inner();
        assert_eq!(resized.hold.unwrap().items, [item(12)]);
        assert!(quota.resize(resize.clone()).await.unwrap().into_inner().already_applied);
        let too_much = v1::ResizeRequest { idempotency_key: String::new(), items: vec![item(17)], ..resize };
        assert_eq!(quota.resize(too_much).await.unwrap_err().code(), Code::ResourceExhausted);

        let committed = quota.commit(commit(hold.id)).await.unwrap().into_inner();
        assert_eq!((state_of(&committed), committed.already_applied), (v1::HoldState::Committed, false));
        assert_eq!(committed.hold.as_ref().unwrap().expires_unix_ms, 0);
        let again = quota.commit(commit(hold.id)).await.unwrap().into_inner();
        assert_eq!(again, v1::HoldResponse { already_applied: true, ..committed });
        refused(quota.renew(renew).await, Code::FailedPrecondition, "hold_committed");
        let told = quota.get_hold(get(hold.id)).await.unwrap().into_inner();
        assert_eq!((told.state(), told.items), (v1::HoldState::Committed, vec![item(12)]));

        let released = quota.release(release(hold.id)).await.unwrap().into_inner();
        assert_eq!(state_of(&released), v1::HoldState::Released);
        assert!(quota.release(release(hold.id)).await.unwrap().into_inner().already_applied);
        refused(quota.commit(commit(hold.id)).await, Code::FailedPrecondition, "hold_released");
        let told = quota.get_hold(get(hold.id)).await.unwrap().into_inner();
        assert_eq!((told.state(), told.scope), (v1::HoldState::Released, scope("beta", "train")));
        assert_eq!((told.items, told.expires_unix_ms), (Vec::new(), 0));
        let error = refused(quota.get_hold(get(1)).await, Code::NotFound, "hold_unknown");
        assert_eq!(error.retry_type(), RetryType::Nothing);
        refused(quota.release(release(999)).await, Code::NotFound, "hold_unknown");
    });
}

#[test]
pub(super) fn a_hold_that_is_not_committed_expires() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let held = quota.reserve(reserve("r-1", 8)).await.unwrap().into_inner().hold.unwrap();
        server.clock.set("2026-01-01T02:02:00Z");
        let get = v1::GetHoldRequest { hold: held.id };
        // Before the event that says so, and after it.
        for _ in 0..2 {
            let told = quota.get_hold(get).await.unwrap().into_inner();
            assert_eq!((told.state(), told.items), (v1::HoldState::Expired, Vec::new()));
            assert_eq!(told.scope, scope("beta", "train"));
            refused(quota.commit(commit(held.id)).await, Code::FailedPrecondition, "hold_expired");
            let _reviewed = server.cell.submit(Command::from(QuotaCommand::Review)).await;
        }
    });
}

#[test]
pub(super) fn a_denial_says_all_that_there_is_to_say() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 16).await;
        limit(&server, "tenants/beta/projects/train", 32).await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let used = quota.reserve(reserve("r-1", 4)).await.unwrap().into_inner().hold.unwrap();
        quota.commit(commit(used.id)).await.unwrap();
        quota.reserve(reserve("r-2", 6)).await.unwrap();

        let expected = v1::QuotaDenial {
            node: "tenants/beta".to_owned(),
            resource: H100.to_owned(),
            class: v1::QuotaClass::OnDemand.into(),
            region: "eu".to_owned(),
            limit: 16,
            used: 4,
            held: 6,
            asked: 8,
            fits: 6,
            ..v1::QuotaDenial::default()
        };
        let status = quota.reserve(reserve("r-3", 8)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let (denial, error) = details(&status);
        assert_eq!(denial, Some(expected.clone()));
        assert_eq!((error.code.as_str(), error.retry_type()), ("quota_exceeded", RetryType::UnitOfWork));
        let Some(Details::QuotaFailure(failure)) = error.details else { panic!("no quota failure") };
        let violation = &failure.violations[0];
        assert_eq!((violation.quota.as_str(), violation.limit.as_str()), (H100, "16"));
        assert_eq!(violation.requested, "18");

        // A check says the same, and holds nothing.
        let position = server.cell.read(|state| state.position().number()).await.unwrap();
        let checked = quota.check(check("beta", 8)).await.unwrap().into_inner();
        assert_eq!((checked.fits, checked.denial), (false, Some(expected)));
        let as_of = checked.as_of.unwrap();
        assert_eq!((as_of.position, as_of.unix_ms), (position, server.cell.now().unix_ms()));
        let fits = quota.check(check("beta", 6)).await.unwrap().into_inner();
        assert_eq!((fits.fits, fits.denial, fits.as_of), (true, None, Some(as_of)));
        refused(quota.check(check("nobody", 1)).await, Code::NotFound, "tenant_unknown");
    });
}

#[test]
pub(super) fn what_is_lent_out_is_waited_for() {
    with_server(async |server| {
        server.with_customers().await;
        let lender = Limits::nominal(Bound::AtMost(8));
        let borrower = Limits { borrowing: Bound::AtMost(8), ..Limits::nominal(Bound::AtMost(0)) };
        for (project, class, limits) in
            [("train", Class::OnDemand, lender), ("spot", Class::Preemptible, borrower)]
        {
            let command = QuotaCommand::SetLimits {
                node: format!("tenants/beta/projects/{project}").parse().unwrap(),
                resource: H100.parse().unwrap(),
                class,
                limits: Some(limits),
            };
            let _set = server.cell.submit(Command::from(command)).await.unwrap();
        }
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let spot = v1::QuotaItem { class: v1::QuotaClass::Preemptible.into(), ..item(8) };
        let lent =
            v1::ReserveRequest { scope: scope("beta", "spot"), items: vec![spot], ..reserve("r-1", 8) };
        let lent = quota.reserve(lent).await.unwrap().into_inner().hold.unwrap();
        assert_eq!(lent.state(), v1::HoldState::Held);

        let checked = quota.check(check("beta", 6)).await.unwrap().into_inner();
        assert_eq!((checked.fits, checked.after_reclaim), (true, true));
        let claim = quota.reserve(reserve("r-2", 6)).await.unwrap().into_inner().hold.unwrap();
        assert_eq!(claim.state(), v1::HoldState::Pending);
        let pending = refused(quota.commit(commit(claim.id)).await, Code::FailedPrecondition, "hold_pending");
        assert_eq!(pending.retry_type(), RetryType::Call);
        quota.release(release(lent.id)).await.unwrap();
        let told = quota.get_hold(v1::GetHoldRequest { hold: claim.id }).await.unwrap().into_inner();
        assert_eq!(told.state(), v1::HoldState::Held);
        quota.commit(commit(claim.id)).await.unwrap();
    });
}

#[test]
pub(super) fn what_breaks_the_contract_is_named() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let unspecified = v1::QuotaItem { class: 0, ..item(1) };
        let fine = reserve("r-1", 1);
        let cases: [(&str, v1::ReserveRequest); 10] = [
            ("idempotency_key", v1::ReserveRequest { idempotency_key: String::new(), ..fine.clone() }),
            ("idempotency_key", v1::ReserveRequest { idempotency_key: "a b".to_owned(), ..fine.clone() }),
            ("scope", v1::ReserveRequest { scope: None, ..fine.clone() }),
            ("scope.tenant", v1::ReserveRequest { scope: scope("", "train"), ..fine.clone() }),
            ("scope.project", v1::ReserveRequest { scope: scope("beta", ""), ..fine.clone() }),
            ("items", v1::ReserveRequest { items: Vec::new(), ..fine.clone() }),
            ("items", v1::ReserveRequest { items: vec![item(1), item(1)], ..fine.clone() }),
            ("items", v1::ReserveRequest { items: vec![item(1); 17], ..fine.clone() }),
            ("class", v1::ReserveRequest { items: vec![unspecified], ..fine.clone() }),
            (
                "resource",
                v1::ReserveRequest {
                    items: vec![v1::QuotaItem { resource: "H".to_owned(), ..item(1) }],
                    ..fine.clone()
                },
            ),
        ];
        for (field, request) in cases {
            let error = refused(quota.reserve(request).await, Code::InvalidArgument, "request_invalid");
            let Some(Details::BadRequest(bad)) = error.details else { panic!("no violation of {field}") };
            assert_eq!(bad.violations[0].field, field);
        }
        let short = v1::ReserveRequest { ttl_seconds: 0, ..fine.clone() };
        refused(quota.reserve(short).await, Code::InvalidArgument, "ttl_out_of_range");
        let long = v1::ReserveRequest { ttl_seconds: 86_401, ..fine.clone() };
        refused(quota.reserve(long).await, Code::InvalidArgument, "ttl_out_of_range");
        let nothing = v1::ReserveRequest { items: vec![item(0)], ..fine.clone() };
        refused(quota.reserve(nothing).await, Code::InvalidArgument, "items_invalid");
        let nobody = v1::ReserveRequest { scope: scope("nobody", "train"), ..fine };
        refused(quota.reserve(nobody).await, Code::NotFound, "tenant_unknown");
    });
}

#[test]
pub(super) fn roles_and_tenants_are_kept_apart() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 16).await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let mut quota = client(&served).await;
        let compute = server.key(key_of(Role::Compute, "", &[])).await;
        let other = server.key(key_of(Role::Compute, "", &[])).await;
        let acme = server.key(key_of(Role::Customer, "acme", &[])).await;
        let beta = server.key(key_of(Role::Customer, "beta", &[])).await;
        let agent = server.key(key_of(Role::Agent, "node-1", &[])).await;

        let none = quota.reserve(reserve("r-1", 1)).await.unwrap_err();
        assert_eq!(none.code(), Code::Unauthenticated);
        let wrong = quota.reserve(with("wrong", reserve("r-1", 1))).await.unwrap_err();
        assert_eq!(wrong.code(), Code::Unauthenticated);
        for key in [&beta, &agent] {
            refused(quota.reserve(with(key, reserve("r-1", 1))).await, Code::PermissionDenied, "forbidden");
        }
        refused(quota.check(with(&agent, check("beta", 1))).await, Code::PermissionDenied, "forbidden");

        let hold = quota.reserve(with(&compute, reserve("r-1", 8))).await.unwrap().into_inner().hold.unwrap();
        // A key is its owner's own.
        let another = quota.reserve(with(&other, reserve("r-1", 1))).await.unwrap().into_inner();
        assert!(!another.already_applied);

        let get = |key: &str, hold| with(key, v1::GetHoldRequest { hold });
        assert!(quota.get_hold(get(&beta, hold.id)).await.is_ok());
        let foreign = quota.get_hold(get(&acme, hold.id)).await.unwrap_err();
        let absent = quota.get_hold(get(&acme, 999_999)).await.unwrap_err();
        assert_eq!(foreign.code(), Code::NotFound);
        assert_eq!(
            foreign.message().replace(&hold.id.to_string(), "N"),
            absent.message().replace("999999", "N")
        );
        assert!(quota.check(with(&beta, check("beta", 1))).await.unwrap().into_inner().fits);
        refused(quota.check(with(&acme, check("beta", 1))).await, Code::NotFound, "tenant_unknown");
        quota.release(with(&compute, release(hold.id))).await.unwrap();
        assert!(quota.get_hold(get(&beta, hold.id)).await.is_ok());
        refused(quota.get_hold(get(&acme, hold.id)).await, Code::NotFound, "hold_unknown");
        let lease = v1::ReturnLeaseRequest { lease: 1 };
        refused(quota.return_lease(with(&beta, lease)).await, Code::PermissionDenied, "forbidden");
    });
}
