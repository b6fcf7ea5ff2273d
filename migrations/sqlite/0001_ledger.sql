-- The log, the head that fences it, and the rows that derive from it.

-- What was written: append-only, chained by hash, numbered by the writer without a gap.
CREATE TABLE events (
    position INTEGER NOT NULL PRIMARY KEY CHECK (position > 0),
    epoch    INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    at       INTEGER NOT NULL,                      -- milliseconds since the epoch, UTC
    payload  BLOB    NOT NULL,                      -- protobuf hourglass.ledger.v1.Event
    hash     BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- One row: every commit compares and sets it, so that a deposed writer cannot append.
CREATE TABLE head (
    one         INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    position    INTEGER NOT NULL,
    hash        BLOB    NOT NULL,
    epoch       INTEGER NOT NULL,
    holder      TEXT    NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT;

-- Differences to lines (instance, model, price, hour). price × quantity = amount, exactly.
CREATE TABLE charges (
    position       INTEGER NOT NULL CHECK (position > 0),
    line           INTEGER NOT NULL CHECK (line >= 0),
    tenant         TEXT    NOT NULL,
    project        TEXT    NOT NULL,
    instance       TEXT    NOT NULL,
    platform       TEXT    NOT NULL,
    region         TEXT    NOT NULL,
    model          TEXT    NOT NULL,
    price_nanos    INTEGER NOT NULL,
    hour           INTEGER NOT NULL,                -- its first millisecond
    gpus           INTEGER NOT NULL,
    milliseconds   INTEGER NOT NULL,
    quantity_nanos INTEGER NOT NULL,
    amount         TEXT    NOT NULL,                -- exact decimal
    currency       TEXT    NOT NULL,
    PRIMARY KEY (position, line)
) STRICT, WITHOUT ROWID;

CREATE INDEX charges_by_tenant ON charges (tenant, hour);

-- Movements between accounts: one row, two sides, always more than zero.
CREATE TABLE transfers (
    position INTEGER NOT NULL CHECK (position > 0),
    line     INTEGER NOT NULL CHECK (line >= 0),
    tenant   TEXT    NOT NULL,
    debit    TEXT    NOT NULL,
    credit   TEXT    NOT NULL CHECK (credit <> debit),
    amount   TEXT    NOT NULL CHECK (amount NOT LIKE '-%' AND amount <> '0'),
    currency TEXT    NOT NULL,
    code     TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    reverses INTEGER,
    PRIMARY KEY (position, line)
) STRICT, WITHOUT ROWID;

CREATE INDEX transfers_by_tenant ON transfers (tenant, position, line);

CREATE TABLE invoices (
    position INTEGER NOT NULL CHECK (position > 0),
    line     INTEGER NOT NULL CHECK (line >= 0),
    tenant   TEXT    NOT NULL,
    number   INTEGER NOT NULL,
    period   TEXT    NOT NULL,
    document BLOB    NOT NULL,
    PRIMARY KEY (position, line),
    UNIQUE (tenant, number),
    UNIQUE (tenant, period)
) STRICT;

-- What came as usage and could not be used; the bytes stand in the event.
CREATE TABLE quarantine (
    position INTEGER NOT NULL CHECK (position > 0),
    line     INTEGER NOT NULL CHECK (line >= 0),
    record   INTEGER,                               -- place in the batch, NULL for the whole message
    reason   TEXT    NOT NULL,
    PRIMARY KEY (position, line)
) STRICT, WITHOUT ROWID;

-- A cache of the state. Deleting it loses nothing but time.
CREATE TABLE snapshots (
    position INTEGER NOT NULL,
    part     INTEGER NOT NULL,
    parts    INTEGER NOT NULL,
    format   TEXT    NOT NULL,
    payload  BLOB    NOT NULL,
    PRIMARY KEY (position, part)
) STRICT;

-- Append-only, held by the database too.
CREATE TRIGGER events_are_kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER charges_are_kept BEFORE DELETE ON charges BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
CREATE TRIGGER charges_stay BEFORE UPDATE ON charges BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
CREATE TRIGGER transfers_are_kept BEFORE DELETE ON transfers BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END;
CREATE TRIGGER transfers_stay BEFORE UPDATE ON transfers BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END;
CREATE TRIGGER invoices_are_kept BEFORE DELETE ON invoices BEGIN SELECT RAISE(ABORT, 'invoices are append-only'); END;
CREATE TRIGGER invoices_stay BEFORE UPDATE ON invoices BEGIN SELECT RAISE(ABORT, 'invoices are append-only'); END;
CREATE TRIGGER quarantine_is_kept BEFORE DELETE ON quarantine BEGIN SELECT RAISE(ABORT, 'quarantine is append-only'); END;
CREATE TRIGGER quarantine_stays BEFORE UPDATE ON quarantine BEGIN SELECT RAISE(ABORT, 'quarantine is append-only'); END;
CREATE TRIGGER head_is_kept BEFORE DELETE ON head BEGIN SELECT RAISE(ABORT, 'the head is kept'); END;

-- INSERT OR REPLACE deletes what is in its way without firing a trigger for it.
CREATE TRIGGER events_are_new BEFORE INSERT ON events
    WHEN EXISTS (SELECT 1 FROM events WHERE position = NEW.position)
    BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER charges_are_new BEFORE INSERT ON charges
    WHEN EXISTS (SELECT 1 FROM charges WHERE position = NEW.position AND line = NEW.line)
    BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
CREATE TRIGGER transfers_are_new BEFORE INSERT ON transfers
    WHEN EXISTS (SELECT 1 FROM transfers WHERE position = NEW.position AND line = NEW.line)
    BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END;
CREATE TRIGGER invoices_are_new BEFORE INSERT ON invoices
    WHEN EXISTS (SELECT 1 FROM invoices WHERE (position = NEW.position AND line = NEW.line)
        OR (tenant = NEW.tenant AND (number = NEW.number OR period = NEW.period)))
    BEGIN SELECT RAISE(ABORT, 'invoices are append-only'); END;
CREATE TRIGGER quarantine_is_new BEFORE INSERT ON quarantine
    WHEN EXISTS (SELECT 1 FROM quarantine WHERE position = NEW.position AND line = NEW.line)
    BEGIN SELECT RAISE(ABORT, 'quarantine is append-only'); END;
