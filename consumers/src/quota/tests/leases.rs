//! Slices of limits for remote checkers.

use super::*;

#[test]
pub(super) fn a_lease_is_acquired_refreshed_and_returned() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 16).await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let acquire = v1::AcquireLeaseRequest {
            idempotency_key: "l-1".to_owned(),
            scope: scope("beta", ""),
            holder: "edge-1".to_owned(),
            resource: H100.to_owned(),
            class: v1::QuotaClass::OnDemand.into(),
            wants: 20,
            safe_capacity: 4,
        };
        let first = quota.acquire_lease(acquire.clone()).await.unwrap().into_inner();
        let lease = first.lease.clone().unwrap();
        let now = server.cell.now().unix_ms();
        let expected = v1::Lease {
            id: lease.id,
            holder: "edge-1".to_owned(),
            scope: scope("beta", ""),
            resource: H100.to_owned(),
            class: v1::QuotaClass::OnDemand.into(),
            capacity: 16,
            safe_capacity: 4,
            granted_unix_ms: now,
            expires_unix_ms: now + LEASE_MS,
            refresh_interval_seconds: (REFRESH_MS / 1_000) as u32,
            version: 1,
            state: v1::LeaseState::Active.into(),
        };
        assert_eq!(lease, expected);
        let again = quota.acquire_lease(acquire.clone()).await.unwrap().into_inner();
        assert_eq!(again, v1::LeaseResponse { already_applied: true, ..first });
        let more = v1::AcquireLeaseRequest { idempotency_key: "l-2".to_owned(), ..acquire.clone() };
        let status = quota.acquire_lease(more).await.unwrap_err();
        assert_eq!((status.code(), details(&status).0.unwrap().used), (Code::ResourceExhausted, 16));
        let keyless = v1::AcquireLeaseRequest { idempotency_key: String::new(), ..acquire };
        refused(quota.acquire_lease(keyless).await, Code::InvalidArgument, "request_invalid");

        // What a smaller version takes away is free once the holder knows that version.
        server.clock.set("2026-01-01T02:01:15Z");
        let refresh =
            |known_version| v1::RefreshLeaseRequest { lease: lease.id, wants: 6, known_version, in_use: 5 };
        let smaller = quota.refresh_lease(refresh(1)).await.unwrap().into_inner().lease.unwrap();
        let expected = v1::Lease {
            capacity: 6,
            version: 2,
            granted_unix_ms: now + 15_000,
            expires_unix_ms: now + 15_000 + LEASE_MS,
            ..expected
        };
        assert_eq!(smaller, expected);
        assert!(!quota.check(check("beta", 1)).await.unwrap().into_inner().fits);
        quota.refresh_lease(refresh(2)).await.unwrap();
        assert!(quota.check(check("beta", 10)).await.unwrap().into_inner().fits);
        refused(quota.refresh_lease(refresh(9)).await, Code::FailedPrecondition, "lease_inconsistent");

        let give_back = v1::ReturnLeaseRequest { lease: lease.id };
        let returned = quota.return_lease(give_back).await.unwrap().into_inner();
        assert_eq!(returned.lease.as_ref().unwrap().state(), v1::LeaseState::Returned);
        assert_eq!(returned.lease.as_ref().unwrap().holder, "edge-1");
        let again = quota.return_lease(give_back).await.unwrap().into_inner();
        assert_eq!(again, v1::LeaseResponse { already_applied: true, ..returned });
        refused(quota.refresh_lease(refresh(2)).await, Code::NotFound, "lease_unknown");
        for never in [0, 1, 999] {
            let never = v1::ReturnLeaseRequest { lease: never };
            refused(quota.return_lease(never).await, Code::NotFound, "lease_unknown");
        }
    });
}
