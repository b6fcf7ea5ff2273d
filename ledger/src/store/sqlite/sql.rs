//! Every statement of the SQLite store.

use crate::store::Table;

pub(super) const HEAD: &str = "SELECT position, hash, epoch, holder, lease_until FROM head WHERE one = 1";

pub(super) const HEAD_FIRST: &str = "INSERT INTO head (one, position, hash, epoch, holder, lease_until) VALUES (1, 0, ?, 0, '', 0) \
     ON CONFLICT (one) DO NOTHING";

pub(super) const ACQUIRE: &str = "UPDATE head SET epoch = epoch + 1, holder = ?, lease_until = ? \
     WHERE one = 1 AND epoch = ? AND lease_until = ?";

pub(super) const ADVANCE: &str = "UPDATE head SET position = ?, hash = ?, lease_until = ? \
     WHERE one = 1 AND position = ? AND hash = ? AND epoch = ?";

pub(super) const RELEASE: &str = "UPDATE head SET lease_until = ? WHERE one = 1 AND epoch = ?";

pub(super) const INSERT_EVENTS: &str = "INSERT INTO events (position, epoch, kind, at, payload, hash) ";

pub(super) const INSERT_CHARGES: &str = "INSERT INTO charges (position, line, tenant, project, instance, platform, \
     region, model, price_nanos, hour, gpus, milliseconds, quantity_nanos, amount, currency, reservation, \
     effective_price_nanos) ";

pub(super) const INSERT_UNUSED: &str = "INSERT INTO unused (position, line, tenant, project, reservation, platform, \
     region, hour, quantity_nanos, effective_price_nanos, effective_cost, currency) ";

pub(super) const INSERT_TRANSFERS: &str = "INSERT INTO transfers (position, line, tenant, debit, credit, amount, \
     currency, code, at, reverses) ";

pub(super) const INSERT_INVOICES: &str =
    "INSERT INTO invoices (position, line, tenant, number, period, document) ";

pub(super) const INSERT_QUARANTINE: &str = "INSERT INTO quarantine (position, line, record, reason) ";

pub(super) const INSERT_TIMELINE: &str =
    "INSERT INTO timeline (position, line, tenant, instance, step, at, cause, detail, deadline) ";

pub(super) const CURSOR: &str = "SELECT position FROM cursors WHERE consumer = ?";

pub(super) const CURSOR_MOVE: &str = "INSERT INTO cursors (consumer, position) VALUES (?, ?) \
     ON CONFLICT (consumer) DO UPDATE SET position = excluded.position";

pub(super) const EVENTS: &str = "SELECT position, epoch, kind, at, payload, hash FROM events WHERE position > ? ORDER BY position LIMIT ?";

/// The kind is written out, so that the index of clearings serves.
pub(super) const CLEARINGS: &str = "SELECT position, epoch, kind, at, payload, hash FROM events \
     WHERE kind = 55 AND position > ? ORDER BY position LIMIT ?";

pub(super) const CLEARINGS_BEFORE: &str = "SELECT position, epoch, kind, at, payload, hash FROM events \
     WHERE kind = 55 AND position < ? ORDER BY position DESC LIMIT ?";

pub(super) const SNAPSHOT_NEWEST: &str = "SELECT position, part, parts, format, payload FROM snapshots \
     WHERE position = (SELECT max(position) FROM snapshots) ORDER BY part";

pub(super) const SNAPSHOT_PART: &str =
    "INSERT INTO snapshots (position, part, parts, format, payload) VALUES (?, ?, ?, ?, ?)";

pub(super) const SNAPSHOTS_DROP: &str = "DELETE FROM snapshots";

/// `?1` to `?5` filter (NULL means any), then the page: position, line, until, limit.
pub(super) const CHARGES: &str = "SELECT position, line, tenant, project, instance, platform, region, model, \
     price_nanos, hour, gpus, milliseconds, quantity_nanos, amount, currency, \
     reservation, effective_price_nanos FROM charges \
     WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR project = ?2) AND (?3 IS NULL OR instance = ?3) \
     AND (?4 IS NULL OR hour >= ?4) AND (?5 IS NULL OR hour < ?5) \
     AND (position, line) > (?6, ?7) AND position <= ?8 ORDER BY position, line LIMIT ?9";

/// `?1` tenant (NULL means any), then the page: position, line, until, limit.
pub(super) const UNUSED: &str = "SELECT position, line, tenant, project, reservation, platform, region, hour, \
     quantity_nanos, effective_price_nanos, effective_cost, currency FROM unused \
     WHERE (?1 IS NULL OR tenant = ?1) AND (position, line) > (?2, ?3) AND position <= ?4 \
     ORDER BY position, line LIMIT ?5";

/// `?1` to `?5` filter, `?6` until, `?7` whether instances are kept apart, `?8` the span.
pub(super) const USAGE: &str = "SELECT tenant, project, CASE WHEN ?7 THEN instance END AS instance_kept, platform, \
     region, model, price_nanos, currency, CASE WHEN ?8 > 0 THEN hour - hour % ?8 END AS span, \
     sum(milliseconds * gpus) AS gpu_ms, sum(quantity_nanos) AS quantity_nanos FROM charges \
     WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR project = ?2) AND (?3 IS NULL OR instance = ?3) \
     AND (?4 IS NULL OR hour >= ?4) AND (?5 IS NULL OR hour < ?5) AND position <= ?6 \
     GROUP BY tenant, project, instance_kept, platform, region, model, price_nanos, currency, span \
     ORDER BY tenant, project, instance_kept, platform, region, model, price_nanos, currency, span";

/// `?1` tenant and `?2` account filter, then the page.
pub(super) const TRANSFERS: &str = "SELECT position, line, tenant, debit, credit, amount, currency, code, at, \
     reverses FROM transfers WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR debit = ?2 OR credit = ?2) \
     AND (position, line) > (?3, ?4) AND position <= ?5 ORDER BY position, line LIMIT ?6";

pub(super) const INVOICES: &str = "SELECT position, line, tenant, number, period, document FROM invoices \
     WHERE (?1 IS NULL OR tenant = ?1) AND (position, line) > (?2, ?3) AND position <= ?4 \
     ORDER BY position, line LIMIT ?5";

pub(super) const INVOICE: &str =
    "SELECT position, line, tenant, number, period, document FROM invoices WHERE tenant = ? AND number = ?";

/// `?1` tenant and `?2` instance (NULL means any), then the page: position, line, until, limit.
pub(super) const TIMELINE: &str = "SELECT position, line, tenant, instance, step, at, cause, detail, deadline \
     FROM timeline WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR instance = ?2) \
     AND (position, line) > (?3, ?4) AND position <= ?5 ORDER BY position, line LIMIT ?6";

pub(super) const QUARANTINE: &str = "SELECT position, line, record, reason FROM quarantine \
     WHERE (position, line) > (?1, ?2) AND position <= ?3 ORDER BY position, line LIMIT ?4";

/// Every column as text, with a separator that no id holds; then the page.
pub(super) const fn raw_rows(table: Table) -> &'static str {
    match table {
        Table::Charges => {
            "SELECT position, line, concat_ws(char(31), tenant, project, instance, platform, region, model, \
             price_nanos, hour, gpus, milliseconds, quantity_nanos, amount, currency, coalesce(reservation, '-'), \
             coalesce(effective_price_nanos, '-')) AS row FROM charges \
             WHERE (position, line) > (?1, ?2) AND position <= ?3 ORDER BY position, line LIMIT ?4"
        }
        Table::Unused => {
            "SELECT position, line, concat_ws(char(31), tenant, project, reservation, platform, region, hour, \
             quantity_nanos, effective_price_nanos, effective_cost, currency) AS row FROM unused \
             WHERE (position, line) > (?1, ?2) AND position <= ?3 ORDER BY position, line LIMIT ?4"
        }
        Table::Transfers => {
            "SELECT position, line, concat_ws(char(31), tenant, debit, credit, amount, currency, code, at, \
             coalesce(reverses, '-')) AS row FROM transfers \
             WHERE (position, line) > (?1, ?2) AND position <= ?3 ORDER BY position, line LIMIT ?4"
        }
        Table::Invoices => {
            "SELECT position, line, concat_ws(char(31), tenant, number, period, hex(document)) AS row FROM invoices \
             WHERE (position, line) > (?1, ?2) AND position <= ?3 ORDER BY position, line LIMIT ?4"
        }
        Table::Timeline => {
            "SELECT position, line, concat_ws(char(31), tenant, instance, step, at, coalesce(cause, '-'), \
             coalesce(detail, '-'), coalesce(deadline, '-')) AS row FROM timeline \
             WHERE (position, line) > (?1, ?2) AND position <= ?3 ORDER BY position, line LIMIT ?4"
        }
        Table::Quarantine => {
            "SELECT position, line, concat_ws(char(31), coalesce(record, '-'), reason) AS row FROM quarantine \
             WHERE (position, line) > (?1, ?2) AND position <= ?3 ORDER BY position, line LIMIT ?4"
        }
    }
}

/// Every statement that can be prepared as it stands, for the test that prepares them all.
#[cfg(test)]
pub(super) const ALL: [&str; 26] = [
    HEAD,
    HEAD_FIRST,
    ACQUIRE,
    ADVANCE,
    RELEASE,
    CURSOR,
    CURSOR_MOVE,
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
];
