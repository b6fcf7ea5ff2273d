//! What Hourglass is not: counters in rows, locked by whoever takes.
//!
//! It does less than we do: no holds by number, no idempotency keys, no history. It is as fast as we
//! know how to write it: a session a client, statements prepared once, one statement that locks the
//! whole path and one that counts on it, no index but the primary key, and room in each page for rows
//! to be changed in place. Rows are locked from the project up, as their numbers go: so the tenant's,
//! which most wait for, is locked last and shortest, and nobody can lock in another order.

use std::time::Instant;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};

use super::work::{AMOUNT, Answer, Ask, Seen, Task, Window, Work};
use crate::production::pipe::connect;
use crate::quota::{PROJECT_LIMIT, Shape};

const TABLE: &str = "\
    CREATE TABLE counters ( \
        id   bigint PRIMARY KEY, \
        most bigint NOT NULL, \
        held bigint NOT NULL DEFAULT 0, \
        used bigint NOT NULL DEFAULT 0 \
    ) WITH (fillfactor = 20)";
const LOCK: &str = "SELECT most - held - used FROM counters WHERE id = ANY($1) ORDER BY id FOR UPDATE";
const COUNT: &str = "UPDATE counters SET held = held + $2, used = used + $3 WHERE id = ANY($1)";

/// Above the limits of projects there is room for all.
const AMPLE: i64 = 1 << 20;

/// Makes the table, a row a node.
pub(super) async fn set_up(url: &str, shape: &Shape) {
    let mut session = connect(url).await;
    session.execute(TABLE).await.expect("a table");
    let projects = shape.tenants * shape.projects_of_tenant();
    let nodes = Rows::of(shape).tenants + shape.tenants as i64;
    sqlx::query(
        "INSERT INTO counters SELECT n, CASE WHEN n < $1 THEN $2 ELSE $3 END FROM generate_series(0, $4) n",
    )
    .bind(projects as i64)
    .bind(PROJECT_LIMIT as i64)
    .bind(AMPLE)
    .bind(nodes - 1)
    .execute(&mut session)
    .await
    .expect("rows");
    session.execute("VACUUM ANALYZE counters").await.expect("what the planner wants to know");
}

/// Where the rows of each level begin: those below come first.
#[derive(Clone, Copy)]
struct Rows {
    subgroups: i64,
    groups: i64,
    tenants: i64,
}

impl Rows {
    fn of(shape: &Shape) -> Self {
        let groups_of_all = shape.tenants * shape.groups;
        let subgroups = groups_of_all * shape.subgroups * shape.projects;
        let groups = subgroups + groups_of_all * shape.subgroups;
        let tenants = groups + groups_of_all;
        Self { subgroups: subgroups as i64, groups: groups as i64, tenants: tenants as i64 }
    }

    fn path(self, shape: &Shape, project: usize) -> [i64; 4] {
        let [subgroup, group, tenant] = shape.above(project).map(|number| number as i64);
        [project as i64, self.subgroups + subgroup, self.groups + group, self.tenants + tenant]
    }
}

/// A client on a session of its own.
pub(super) struct Peer {
    session: PgConnection,
    rows: Rows,
    pub(super) work: Work,
}

impl Peer {
    pub(super) async fn connect(url: &str, shape: &Shape, work: Work) -> Self {
        Self { session: connect(url).await, rows: Rows::of(shape), work }
    }

    /// Asks, one request after another.
    pub(super) async fn run(&mut self, shape: &Shape, window: Window) -> Seen {
        let mut seen = Seen::default();
        loop {
            let ask = match self.work.follows() {
                Some(ask) => ask,
                None if Instant::now() >= window.until => return seen,
                None => self.work.begins(Task::Pairs),
            };
            let due = Instant::now();
            let (project, held, used) = match ask {
                Ask::Reserve { project, amount } | Ask::Check { project, amount } => {
                    (project, amount as i64, 0)
                }
                Ask::Commit(of) => (of.project, -(AMOUNT as i64), AMOUNT as i64),
                Ask::Release(of) => (of.project, 0, -(AMOUNT as i64)),
            };
            let answer = self.take(&self.rows.path(shape, project), held, used).await;
            let answer = answer.expect("a transaction");
            seen.count(ask, due, window);
            self.work.hears(ask, answer);
        }
    }

    async fn take(&mut self, path: &[i64; 4], held: i64, used: i64) -> Result<Answer, sqlx::Error> {
        let mut transaction = self.session.begin().await?;
        let rows = sqlx::query(LOCK).bind(&path[..]).fetch_all(&mut *transaction).await?;
        let more = held + used;
        if rows.iter().any(|row| more > row.get::<i64, _>(0)) {
            transaction.rollback().await?;
            return Ok(Answer::Denied);
        }
        sqlx::query(COUNT).bind(&path[..]).bind(held).bind(used).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Answer::Fits(0))
    }
}

/// The rows say what the clients hold.
pub(super) async fn check_books(url: &str, holds: usize) {
    let sums = "SELECT sum(held)::bigint, sum(used)::bigint, bool_and(held + used <= most) FROM counters";
    let row = connect(url).await.fetch_one(sums).await.expect("sums");
    let sums: (i64, i64, bool) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(sums, (0, 4 * AMOUNT as i64 * holds as i64, true), "the peer's books do not agree");
}
