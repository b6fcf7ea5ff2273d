//! Many requests over one stream.

use super::*;

/// A session, with the end that asks.
pub(super) async fn session(
    quota: &mut Quota,
    key: Option<&str>,
) -> (mpsc::Sender<v1::SessionRequest>, tonic::Streaming<v1::SessionResponse>) {
    let (sender, receiver) = mpsc::channel(REQUESTS_UNDER_WAY_MAX);
    let stream = ReceiverStream::new(receiver);
    let request = match key {
        Some(key) => with(key, stream),
        None => Request::new(stream),
    };
    (sender, quota.session(request).await.unwrap().into_inner())
}

pub(super) fn ask(tag: u64, request: Asked) -> v1::SessionRequest {
    v1::SessionRequest { tag, request: Some(request) }
}

pub(super) async fn answers(
    answers: &mut tonic::Streaming<v1::SessionResponse>,
    count: usize,
) -> BTreeMap<u64, Told> {
    let mut told = BTreeMap::new();
    for _ in 0..count {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        assert!(told.insert(answer.tag, answer.response.unwrap()).is_none(), "{} answered twice", answer.tag);
    }
    told
}

#[test]
pub(super) fn a_session_has_many_requests_under_way() {
    with_server(async |server| {
        server.with_customers().await;
        limit(&server, "tenants/beta", 90).await;
        let served = serve(&server, None).await;
        let mut quota = client(&served).await;
        let (asks, mut told) = session(&mut quota, None).await;
        for tag in 0..100 {
            asks.send(ask(tag, Asked::Reserve(reserve(&format!("r-{tag}"), 1)))).await.unwrap();
        }
        let first = answers(&mut told, 100).await;
        // They are decided in the order in which they were sent.
        let mut holds = Vec::new();
        for (tag, answer) in &first {
            match answer {
                Told::Hold(v1::HoldResponse { hold: Some(hold), already_applied: false }) if *tag < 90 => {
                    assert_eq!(hold.state(), v1::HoldState::Held);
                    holds.push(hold.id);
                }
                Told::Denial(denial) if *tag >= 90 => {
                    assert_eq!((denial.limit, denial.held, denial.fits), (90, 90, 0));
                    assert_eq!((denial.region.as_str(), denial.node.as_str()), ("eu", "tenants/beta"));
                }
                other => panic!("{tag}: {other:?}"),
            }
        }
        assert!(holds.is_sorted());

        // A key is the same one in a single call.
        assert!(quota.reserve(reserve("r-7", 1)).await.unwrap().into_inner().already_applied);
        let (first, second, third) = (holds[0], holds[1], holds[2]);
        let renew = v1::RenewRequest { idempotency_key: String::new(), hold: second, ttl_seconds: 120 };
        let resize = v1::ResizeRequest { idempotency_key: String::new(), hold: third, items: vec![item(50)] };
        let requests = [
            Some(Asked::Commit(commit(first))),
            Some(Asked::Release(release(first))),
            Some(Asked::Renew(renew)),
            Some(Asked::Resize(resize)),
            Some(Asked::Check(check("beta", 1))),
            Some(Asked::Commit(commit(999_999))),
            Some(Asked::Reserve(reserve("", 1))),
            None,
        ];
        for (tag, request) in (200..).zip(requests) {
            asks.send(v1::SessionRequest { tag, request }).await.unwrap();
        }
        let mut told_now = answers(&mut told, 8).await;
        let mut take = |tag| told_now.remove(&tag).unwrap();
        let hold = |told: Told| match told {
            Told::Hold(v1::HoldResponse { hold: Some(hold), .. }) => (hold.state(), hold.expires_unix_ms),
            other => panic!("{other:?}"),
        };
        let error = |told: Told| match told {
            Told::Error(error) => (error.grpc_code, error.code, error.retryable),
            other => panic!("{other:?}"),
        };
        assert_eq!(hold(take(200)), (v1::HoldState::Committed, 0));
        assert_eq!(hold(take(201)), (v1::HoldState::Released, 0));
        assert_eq!(hold(take(202)), (v1::HoldState::Held, server.cell.now().unix_ms() + 120_000));
        let Told::Denial(denial) = take(203) else { panic!("it fits") };
        assert_eq!((denial.asked, denial.fits), (49, 1));
        let Told::Check(checked) = take(204) else { panic!("no check") };
        assert!(checked.fits);
        assert_eq!(error(take(205)), (Code::NotFound as i32, "hold_unknown".to_owned(), false));
        let invalid = (Code::InvalidArgument as i32, "request_invalid".to_owned(), false);
        assert_eq!((error(take(206)), error(take(207))), (invalid.clone(), invalid));

        // What was asked before the stream ended is answered.
        for tag in 300..310 {
            asks.send(ask(tag, Asked::Check(check("beta", 1)))).await.unwrap();
        }
        drop(asks);
        assert_eq!(answers(&mut told, 10).await.len(), 10);
        assert!(told.message().await.unwrap().is_none());
    });
}

#[test]
pub(super) fn a_session_ends_with_its_credential_and_with_the_server() {
    with_server(async |server| {
        server.with_customers().await;
        let served = serve(&server, Some(OPERATOR_TOKEN)).await;
        let mut quota = client(&served).await;
        let agent = server.key(key_of(Role::Agent, "node-1", &[])).await;
        let stream = || tokio_stream::iter([ask(1, Asked::Check(check("beta", 1)))]);
        assert_eq!(quota.session(stream()).await.unwrap_err().code(), Code::Unauthenticated);
        refused(quota.session(with(&agent, stream())).await, Code::PermissionDenied, "forbidden");

        // A customer may look at its own, and hold nothing.
        let beta = server.key(key_of(Role::Customer, "beta", &[])).await;
        let (asks, mut told) = session(&mut quota, Some(&beta)).await;
        asks.send(ask(1, Asked::Check(check("beta", 1)))).await.unwrap();
        asks.send(ask(2, Asked::Check(check("acme", 1)))).await.unwrap();
        asks.send(ask(3, Asked::Reserve(reserve("r-1", 1)))).await.unwrap();
        let mut all = answers(&mut told, 3).await;
        assert!(matches!(all.remove(&1), Some(Told::Check(checked)) if checked.fits));
        for (tag, code) in [(2, Code::NotFound), (3, Code::PermissionDenied)] {
            let Some(Told::Error(error)) = all.remove(&tag) else { panic!("{tag} is no error") };
            assert_eq!(error.grpc_code, code as i32);
        }

        let compute = server.key(key_of(Role::Compute, "", &[])).await;
        let (asks_more, mut told_more) = session(&mut quota, Some(&compute)).await;
        asks_more.send(ask(1, Asked::Reserve(reserve("r-1", 1)))).await.unwrap();
        assert!(matches!(answers(&mut told_more, 1).await.remove(&1), Some(Told::Hold(_))));
        let id = compute.split('_').nth(1).unwrap().parse().unwrap();
        let _revoked = server.cell.submit(Command::RevokeKey { id }).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, told_more.message()).await.unwrap();
        assert_eq!(ended.unwrap_err().code(), Code::Unauthenticated);

        served.stop.send(()).unwrap();
        let ended = tokio::time::timeout(PATIENCE, told.message()).await.unwrap();
        assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
    });
}
