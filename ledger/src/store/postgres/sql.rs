//! Every statement of the PostgreSQL store.

use crate::store::Table;

pub(super) const HEAD: &str = "SELECT position, hash, epoch, holder, lease_until FROM head WHERE one = 1";

/// Compares the epoch and sets the next one: of two that ask at once, one gets it.
/// `$3` and `$4` are the epoch and the lease that ended. A writer whose long commit was waited for has
/// renewed its lease with it, and is not to be deposed.
pub(super) const ACQUIRE: &str = "UPDATE head SET epoch = epoch + 1, holder = $1, lease_until = $2 \
     WHERE one = 1 AND epoch = $3 AND lease_until = $4 RETURNING position, hash, epoch, holder, lease_until";

pub(super) const RELEASE: &str = "UPDATE head SET lease_until = $1 WHERE one = 1 AND epoch = $2";

/// The whole of a commit of events: the head is compared and set, and events and cursors are written
/// where that succeeded and only there. One statement is one transaction and one round trip, and
/// run late or twice it does nothing. `$1` to `$6` are the new and the old head, `$7` to `$12` the
/// events by column, `$13` and `$14` the cursors. Answers with 1 where the head was advanced.
pub(super) const APPEND: &str = "WITH advanced AS (\
         UPDATE head SET position = $1, hash = $2, lease_until = $3 \
         WHERE one = 1 AND position = $4 AND hash = $5 AND epoch = $6 RETURNING one), \
     appended AS (\
         INSERT INTO events (position, epoch, kind, at, payload, hash) \
         SELECT * FROM unnest($7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bytea[], $12::bytea[]) \
         WHERE EXISTS (SELECT 1 FROM advanced)), \
     moved AS (\
         INSERT INTO cursors (consumer, position) SELECT * FROM unnest($13::text[], $14::bigint[]) \
         WHERE EXISTS (SELECT 1 FROM advanced) \
         ON CONFLICT (consumer) DO UPDATE SET position = excluded.position) \
     SELECT count(*) FROM advanced";

/// Whether a commit whose answer was lost had been stored: the head is where it ends. It is asked by
/// a write, so that the answer is as durable as the commit itself. `$1` lease, then the head.
pub(super) const CONFIRM: &str =
    "UPDATE head SET lease_until = $1 WHERE one = 1 AND position = $2 AND hash = $3 AND epoch = $4";

/// The chain at a position, for a commit that was stored before another writer took over.
pub(super) const EVENT_HASH: &str = "SELECT hash FROM events WHERE position = $1";

pub(super) const INSERT_CHARGES: &str = "INSERT INTO charges (position, line, tenant, project, instance, platform, \
     region, model, price_nanos, hour, gpus, milliseconds, quantity_nanos, amount, currency, reservation, \
     effective_price_nanos) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
     $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[], $15::text[], \
     $16::text[], $17::bigint[])";

pub(super) const INSERT_UNUSED: &str = "INSERT INTO unused (position, line, tenant, project, reservation, platform, \
     region, hour, quantity_nanos, effective_price_nanos, effective_cost, currency) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
     $8::bigint[], $9::bigint[], $10::bigint[], $11::text[], $12::text[])";

pub(super) const INSERT_TRANSFERS: &str = "INSERT INTO transfers (position, line, tenant, debit, credit, amount, \
     currency, code, at, reverses) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], \
     $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[])";

pub(super) const INSERT_INVOICES: &str = "INSERT INTO invoices (position, line, tenant, number, period, document) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::bytea[])";

pub(super) const INSERT_QUARANTINE: &str = "INSERT INTO quarantine (position, line, record, reason) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])";

pub(super) const INSERT_TIMELINE: &str = "INSERT INTO timeline (position, line, tenant, instance, step, at, cause, \
     detail, deadline) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], \
     $6::bigint[], $7::text[], $8::text[], $9::bigint[])";

pub(super) const CURSOR: &str = "SELECT position FROM cursors WHERE consumer = $1";

pub(super) const EVENTS: &str = "SELECT position, epoch, kind, at, payload, hash FROM events \
     WHERE position > $1 ORDER BY position LIMIT $2";

/// The kind is written out, so that the index of clearings serves.
pub(super) const CLEARINGS: &str = "SELECT position, epoch, kind, at, payload, hash FROM events \
     WHERE kind = 55 AND position > $1 ORDER BY position LIMIT $2";

pub(super) const CLEARINGS_BEFORE: &str = "SELECT position, epoch, kind, at, payload, hash FROM events \
     WHERE kind = 55 AND position < $1 ORDER BY position DESC LIMIT $2";

pub(super) const SNAPSHOT_NEWEST: &str = "SELECT position, part, parts, format, payload FROM snapshots \
     WHERE position = (SELECT max(position) FROM snapshots) ORDER BY part";

pub(super) const SNAPSHOT_PART: &str =
    "INSERT INTO snapshots (position, part, parts, format, payload) VALUES ($1, $2, $3, $4, $5)";

pub(super) const SNAPSHOTS_DROP: &str = "DELETE FROM snapshots";

/// `$1` to `$5` filter (NULL means any), then the page: position, line, until, limit.
pub(super) const CHARGES: &str = "SELECT position, line, tenant, project, instance, platform, region, model, \
     price_nanos, hour, gpus, milliseconds, quantity_nanos, amount, currency, \
     reservation, effective_price_nanos FROM charges \
     WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR project = $2) \
     AND ($3::text IS NULL OR instance = $3) AND ($4::bigint IS NULL OR hour >= $4) \
     AND ($5::bigint IS NULL OR hour < $5) \
     AND (position, line) > ($6::bigint, $7::bigint) AND position <= $8 ORDER BY position, line LIMIT $9";

/// `$1` tenant (NULL means any), then the page: position, line, until, limit.
pub(super) const UNUSED: &str = "SELECT position, line, tenant, project, reservation, platform, region, hour, \
     quantity_nanos, effective_price_nanos, effective_cost, currency FROM unused \
     WHERE ($1::text IS NULL OR tenant = $1) AND (position, line) > ($2::bigint, $3::bigint) AND position <= $4 \
     ORDER BY position, line LIMIT $5";

/// `$1` to `$5` filter, `$6` until, `$7` whether instances are kept apart, `$8` the span.
pub(super) const USAGE: &str = "SELECT tenant, project, CASE WHEN $7::boolean THEN instance END AS instance_kept, \
     platform, region, model, price_nanos, currency, \
     CASE WHEN $8::bigint > 0 THEN hour - hour % nullif($8, 0) END AS span, \
     sum(milliseconds * gpus)::bigint AS gpu_ms, sum(quantity_nanos)::bigint AS quantity_nanos FROM charges \
     WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR project = $2) \
     AND ($3::text IS NULL OR instance = $3) AND ($4::bigint IS NULL OR hour >= $4) \
     AND ($5::bigint IS NULL OR hour < $5) AND position <= $6 \
     GROUP BY tenant, project, instance_kept, platform, region, model, price_nanos, currency, span \
     ORDER BY tenant, project, instance_kept, platform, region, model, price_nanos, currency, span";

/// `$1` tenant and `$2` account filter, then the page.
pub(super) const TRANSFERS: &str = "SELECT position, line, tenant, debit, credit, amount, currency, code, at, \
     reverses FROM transfers WHERE ($1::text IS NULL OR tenant = $1) \
     AND ($2::text IS NULL OR debit = $2 OR credit = $2) \
     AND (position, line) > ($3::bigint, $4::bigint) AND position <= $5 ORDER BY position, line LIMIT $6";

pub(super) const INVOICES: &str = "SELECT position, line, tenant, number, period, document FROM invoices \
     WHERE ($1::text IS NULL OR tenant = $1) AND (position, line) > ($2::bigint, $3::bigint) AND position <= $4 \
     ORDER BY position, line LIMIT $5";

pub(super) const INVOICE: &str =
    "SELECT position, line, tenant, number, period, document FROM invoices WHERE tenant = $1 AND number = $2";

/// `$1` tenant and `$2` instance (NULL means any), then the page: position, line, until, limit.
pub(super) const TIMELINE: &str = "SELECT position, line, tenant, instance, step, at, cause, detail, deadline \
     FROM timeline WHERE ($1::text IS NULL OR tenant = $1) AND ($2::text IS NULL OR instance = $2) \
     AND (position, line) > ($3::bigint, $4::bigint) AND position <= $5 ORDER BY position, line LIMIT $6";

pub(super) const QUARANTINE: &str = "SELECT position, line, record, reason FROM quarantine \
     WHERE (position, line) > ($1::bigint, $2::bigint) AND position <= $3 ORDER BY position, line LIMIT $4";

/// Every column as text, with a separator that no id holds; then the page. To the letter what SQLite
/// makes of the same row.
pub(super) const fn raw_rows(table: Table) -> &'static str {
    match table {
        Table::Charges => {
            "SELECT position, line, concat_ws(chr(31), tenant, project, instance, platform, region, model, \
             price_nanos, hour, gpus, milliseconds, quantity_nanos, amount, currency, coalesce(reservation, '-'), \
             coalesce(effective_price_nanos::text, '-')) AS row FROM charges \
             WHERE (position, line) > ($1::bigint, $2::bigint) AND position <= $3 ORDER BY position, line LIMIT $4"
        }
        Table::Unused => {
            "SELECT position, line, concat_ws(chr(31), tenant, project, reservation, platform, region, hour, \
             quantity_nanos, effective_price_nanos, effective_cost, currency) AS row FROM unused \
             WHERE (position, line) > ($1::bigint, $2::bigint) AND position <= $3 ORDER BY position, line LIMIT $4"
        }
        Table::Transfers => {
            "SELECT position, line, concat_ws(chr(31), tenant, debit, credit, amount, currency, code, at, \
             coalesce(reverses::text, '-')) AS row FROM transfers \
             WHERE (position, line) > ($1::bigint, $2::bigint) AND position <= $3 ORDER BY position, line LIMIT $4"
        }
        Table::Invoices => {
            "SELECT position, line, concat_ws(chr(31), tenant, number, period, upper(encode(document, 'hex'))) AS row \
             FROM invoices \
             WHERE (position, line) > ($1::bigint, $2::bigint) AND position <= $3 ORDER BY position, line LIMIT $4"
        }
        Table::Timeline => {
            "SELECT position, line, concat_ws(chr(31), tenant, instance, step, at, coalesce(cause, '-'), \
             coalesce(detail, '-'), coalesce(deadline::text, '-')) AS row FROM timeline \
             WHERE (position, line) > ($1::bigint, $2::bigint) AND position <= $3 ORDER BY position, line LIMIT $4"
        }
        Table::Quarantine => {
            "SELECT position, line, concat_ws(chr(31), coalesce(record::text, '-'), reason) AS row FROM quarantine \
             WHERE (position, line) > ($1::bigint, $2::bigint) AND position <= $3 ORDER BY position, line LIMIT $4"
        }
    }
}

/// Begins what a tenant's rows are read in; ends with [`COMMIT`].
pub(super) const BEGIN_AS_TENANT: &str = "BEGIN READ ONLY; SET LOCAL ROLE hourglass_tenant";

/// Names the tenant until the transaction ends.
pub(super) const NAME_TENANT: &str = "SELECT set_config('hourglass.tenant', $1, true)";

pub(super) const BEGIN: &str = "BEGIN";

pub(super) const COMMIT: &str = "COMMIT";

pub(super) const ROLLBACK: &str = "ROLLBACK";

pub(super) const BE_WRITER: &str = "SET ROLE hourglass_writer";

pub(super) const BE_READER: &str = "SET ROLE hourglass_reader";

pub(super) const BE_LOGIN: &str = "RESET ROLE";

/// Whether this database has our version table, and whether it has a table of ours without it.
pub(super) const WHAT_IS_HERE: &str = "SELECT to_regclass('hourglass_schema') IS NOT NULL AS ours, \
     to_regclass('events') IS NOT NULL OR to_regclass('head') IS NOT NULL AS theirs";

pub(super) const VERSION: &str = "SELECT application, version FROM hourglass_schema WHERE one = 1";

/// Locks the row, so that one process migrates at a time.
pub(super) const VERSION_LOCKED: &str = "SELECT version FROM hourglass_schema WHERE one = 1 FOR UPDATE";

pub(super) const VERSION_SET: &str = "UPDATE hourglass_schema SET version = $1 WHERE one = 1";

/// The version table, with no migration run yet.
pub(super) const VERSION_TABLE: &str = "BEGIN; \
     CREATE TABLE hourglass_schema (one bigint NOT NULL PRIMARY KEY CHECK (one = 1), application text NOT NULL, \
     version bigint NOT NULL); \
     INSERT INTO hourglass_schema (one, application, version) VALUES (1, 'hourglass', 0); \
     GRANT SELECT ON hourglass_schema TO hourglass_writer, hourglass_reader; \
     DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO hourglass_writer, hourglass_reader, hourglass_tenant', \
     current_schema()); END $$; \
     COMMIT";

pub(super) const HEAD_FIRST: &str = "INSERT INTO head (one, position, hash, epoch, holder, lease_until) \
     VALUES (1, 0, $1, 0, '', 0) ON CONFLICT (one) DO NOTHING";

/// What takes a role, what makes it, and what lets the login take it.
pub(super) struct Role {
    pub(super) take: &'static str,
    pub(super) make: &'static str,
    pub(super) grant: &'static str,
}

pub(super) const ROLES: [Role; 3] = [
    Role {
        take: BE_WRITER,
        make: "CREATE ROLE hourglass_writer NOLOGIN",
        grant: "GRANT hourglass_writer TO SESSION_USER",
    },
    Role {
        take: BE_READER,
        make: "CREATE ROLE hourglass_reader NOLOGIN",
        grant: "GRANT hourglass_reader TO SESSION_USER",
    },
    Role {
        take: "SET ROLE hourglass_tenant",
        make: "CREATE ROLE hourglass_tenant NOLOGIN",
        grant: "GRANT hourglass_tenant TO SESSION_USER",
    },
];

/// Every statement that can be prepared as it stands, for the test that prepares them all.
#[cfg(test)]
pub(super) const ALL: [&str; 39] = [
    HEAD,
    ACQUIRE,
    RELEASE,
    APPEND,
    CONFIRM,
    INSERT_CHARGES,
    INSERT_UNUSED,
    INSERT_TRANSFERS,
    INSERT_INVOICES,
    INSERT_QUARANTINE,
    INSERT_TIMELINE,
    CURSOR,
    EVENTS,
    CLEARINGS,
    CLEARINGS_BEFORE,
    SNAPSHOT_NEWEST,
    SNAPSHOT_PART,
    SNAPSHOTS_DROP,
    CHARGES,
    UNUSED,
    USAGE,
    TRANSFERS,
    INVOICES,
    INVOICE,
    TIMELINE,
    QUARANTINE,
    raw_rows(Table::Charges),
    raw_rows(Table::Unused),
    raw_rows(Table::Transfers),
    raw_rows(Table::Invoices),
    raw_rows(Table::Timeline),
    raw_rows(Table::Quarantine),
    NAME_TENANT,
    WHAT_IS_HERE,
    VERSION,
    VERSION_LOCKED,
    VERSION_SET,
    HEAD_FIRST,
    EVENT_HASH,
];
