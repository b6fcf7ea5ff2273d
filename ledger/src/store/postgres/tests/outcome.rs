//! What becomes of a commit when the network, the server or the writer itself fails.

use hourglass_test_servers::{Fault, PostgresOptions as ServerOptions};

use super::*;

/// A store behind a network that can fail, and a way around it.
struct Behind {
    proxy: Proxy,
    store: PostgresStore,
    direct: Arc<dyn Reader>,
    url: String,
    head: Head,
}

impl Behind {
    fn new() -> Self {
        Self::with(|options| options)
    }

    fn with(change: impl FnOnce(PostgresOptions) -> PostgresOptions) -> Self {
        let (url, proxy) = (Postgres::shared().database(), Proxy::start(Postgres::shared().port()));
        let mut store = PostgresStore::open(&change(options(&through(&proxy, &url)))).unwrap();
        let head = acquire(&mut store, "first");
        let direct = Arc::new(PostgresReader::open(&PostgresOptions::new(url.as_str())).unwrap());
        Self { proxy, store, direct, url, head }
    }

    fn commit(&mut self, rows: EventRows) -> Result<(), CommitError> {
        let commit = commit_after(&self.head, rows);
        let stored = self.store.commit(&commit);
        if stored.is_ok() {
            self.head = head_after(&self.head, &commit);
        }
        stored
    }

    /// Everything that was told to be stored is there, once, and nothing else.
    fn check(&self) {
        assert_eq!(self.direct.head().unwrap(), self.head);
        let events = self.direct.events(Position::ZERO, 1_000).unwrap();
        let (mut after, mut chain) = (Position::ZERO, crate::log::genesis());
        for event in &events {
            event.open(after, &chain).unwrap();
            (after, chain) = (event.position, event.hash);
        }
        assert_eq!((after, chain), (self.head.position, self.head.hash));
    }
}

/// What the deciding statement holds: the hash of a lone statement's event, or the word itself.
fn deciding(behind: &Behind, with_rows: bool) -> Vec<u8> {
    if with_rows {
        return b"COMMIT".to_vec();
    }
    commit_after(&behind.head, EventRows::default()).events[0].hash.as_bytes().to_vec()
}

fn rows(with_rows: bool) -> EventRows {
    if with_rows { tenant_rows("t", 1) } else { EventRows::default() }
}

#[test]
fn a_commit_whose_answer_is_lost_is_stored_once() {
    for fault in [Fault::LoseAnswer, Fault::CutAnswer, Fault::CutBefore] {
        for with_rows in [false, true] {
            let mut behind = Behind::new();
            behind.proxy.when(&deciding(&behind, with_rows), fault);
            assert_eq!(behind.commit(rows(with_rows)), Ok(()), "{fault:?}, rows {with_rows}");
            assert_eq!(behind.proxy.happened(), 1, "{fault:?}, rows {with_rows}");
            behind.check();
            let transfers = behind.direct.transfers(&crate::store::TransferFilter::default(), all()).unwrap();
            assert_eq!(transfers.len(), usize::from(with_rows));
            assert_eq!(behind.commit(EventRows::default()), Ok(()), "and the next one follows");
            behind.check();
        }
    }
}

#[test]
fn a_renewal_whose_answer_is_lost_is_done() {
    let mut behind = Behind::new();
    let renewal = |lease: i64, head: &Head| Commit {
        events: Vec::new(),
        rows: Vec::new(),
        lease_until: at(lease),
        ..commit_after(head, EventRows::default())
    };
    for (lease, fault) in [(7_000, Fault::LoseAnswer), (8_000, Fault::CutBefore)] {
        behind.proxy.when(behind.head.hash.as_bytes(), fault);
        behind.store.commit(&renewal(lease, &behind.head)).unwrap();
        behind.head.lease_until = at(lease);
        behind.check();
    }
    assert_eq!(behind.proxy.happened(), 2);
}

/// Who asks on finds the truth, also where another writer came in between.
#[test]
fn another_writer_takes_over_while_an_answer_is_lost() {
    for (fault, stored) in [(Fault::LoseAnswer, true), (Fault::CutBefore, false)] {
        let mut behind = Behind::new();
        let mut other = open(&behind.url);
        behind.proxy.when(&deciding(&behind, false), fault);
        let head = behind.head.clone();
        let taken = std::thread::scope(|scope| {
            let Behind { proxy, store, direct, .. } = &mut behind;
            let commit = commit_after(&head, EventRows::default());
            let committing = scope.spawn(move || store.commit(&commit));
            while proxy.happened() == 0 || (stored && direct.head().unwrap().position == head.position) {
                std::thread::yield_now();
            }
            proxy.refuse(true);
            let taken = acquire(&mut other, "second");
            proxy.refuse(false);
            let outcome = committing.join().unwrap();
            if stored {
                assert_eq!(outcome, Ok(()), "it was stored before the other came");
            } else {
                let (position, epoch) = (Position::ZERO, taken.epoch);
                assert_eq!(outcome, Err(CommitError::Deposed { position, epoch }));
            }
            taken
        });
        assert_eq!(taken.position.number(), u64::from(stored));
        let late = commit_after(&head, EventRows::default());
        assert!(matches!(behind.store.commit(&late), Err(CommitError::Deposed { .. })));
        other.commit(&commit_after(&taken, EventRows::default())).unwrap();
    }
}

#[test]
fn the_deadline_says_what_is_known() {
    let mut behind = Behind::with(|it| PostgresOptions { retry_for: Duration::from_millis(300), ..it });
    behind.proxy.refuse(true);
    // It never came to the statement that decides.
    let nothing_sent = behind.commit(rows(true));
    assert!(matches!(nothing_sent, Err(CommitError::NotStored(_))), "{nothing_sent:?}");
    behind.proxy.refuse(false);
    behind.check();

    // The server is away from the moment that it has the commit.
    behind.commit(EventRows::default()).unwrap();
    behind.proxy.when(&deciding(&behind, false), Fault::LoseAnswer);
    let commit = commit_after(&behind.head, EventRows::default());
    let unknown = std::thread::scope(|scope| {
        let Behind { proxy, store, .. } = &mut behind;
        let committing = scope.spawn(move || store.commit(&commit));
        while proxy.happened() == 0 {
            std::thread::yield_now();
        }
        proxy.refuse(true);
        committing.join().unwrap()
    });
    assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
}

/// A writer that is stopped in mid-transaction holds the head's row: not for long.
#[test]
fn a_frozen_writer_keeps_nobody_out() {
    let url = Postgres::shared().database();
    let (mut frozen, mut next) = (open(&url), open(&url));
    let head = acquire(&mut frozen, "first");
    let commit = commit_after(&head, tenant_rows("t", 1));
    let Retrying { connection, blocking, .. } = &mut frozen.session;
    let connection = connection.as_mut().unwrap();
    blocking.wait(connection.execute(sql::BEGIN)).unwrap();
    let hold = "UPDATE head SET lease_until = lease_until + 1";
    blocking.wait(connection.execute(hold)).unwrap();

    let taken = acquire(&mut next, "second");
    assert_eq!((taken.epoch, taken.position), (head.epoch + 1, Position::ZERO));
    assert!(matches!(frozen.commit(&commit), Err(CommitError::Deposed { .. })));
    next.commit(&commit_after(&taken, tenant_rows("t", 1))).unwrap();
}

/// Whatever the server was doing when it was killed: each commit is stored, and stored once.
#[test]
fn a_server_that_is_killed_loses_and_doubles_nothing() {
    let mut server = Postgres::start(ServerOptions::default());
    let url = server.database();
    let (mut store, commits) = (open(&url), 150_u32);
    let mut head = acquire(&mut store, "first");
    let done = std::sync::atomic::AtomicU32::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        let committing = scope.spawn(|| {
            for number in 0..commits {
                let rows = if number % 3 == 0 { tenant_rows(&format!("t-{number}"), 1) } else { rows(false) };
                let commit = commit_after(&head, rows);
                store.commit(&commit).unwrap();
                head = head_after(&head, &commit);
                done.store(number, order);
            }
        });
        for at in [20, 60, 100] {
            while done.load(order) < at && !committing.is_finished() {
                std::thread::yield_now();
            }
            if at == 60 {
                server.stop()
            } else {
                server.kill()
            }
            server.start_again();
        }
        committing.join().unwrap();
    });
    let reader = store.reader();
    assert_eq!(reader.head().unwrap(), head);
    assert_eq!(reader.events(Position::ZERO, 1_000).unwrap().len(), 150);
    assert_eq!(reader.invoices(None, all()).unwrap().len(), 50);
    assert_eq!(reader.cursor("outward").unwrap(), Some(head.position));
}

#[test]
fn a_reader_outlives_its_sessions() {
    let behind = Behind::new();
    let reader = behind.store.reader();
    assert_eq!(reader.head().unwrap(), behind.head);
    behind.proxy.cut();
    assert_eq!(reader.head().unwrap(), behind.head);
    behind.proxy.refuse(true);
    assert!(reader.head().is_err());
    behind.proxy.refuse(false);
    assert_eq!(reader.head().unwrap(), behind.head);
}

#[test]
fn readers_share_a_bounded_number_of_sessions() {
    let url = Postgres::shared().database();
    let store = open(&url);
    let reader =
        PostgresReader::open(&PostgresOptions { readers_max: 2, ..PostgresOptions::new(url) }).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| assert_eq!(reader.head().unwrap().epoch, 0)));
        }
    });
    let mut store = store;
    let Retrying { connection, blocking, .. } = &mut store.session;
    let count = "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'hourglass-reader'";
    let count = sqlx::query_scalar::<_, i64>(count).fetch_one(connection.as_mut().unwrap());
    assert!((1..=2).contains(&blocking.wait(count).unwrap()));
}
