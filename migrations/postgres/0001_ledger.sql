-- The log, the head that fences it, and the rows that derive from it. Plain SQL: no sequences, no
-- advisory locks, no logic in triggers. Text sorts by its bytes, whatever the database's locale.

-- What was written: append-only, chained by hash, numbered by the writer without a gap.
CREATE TABLE events (
    position bigint NOT NULL PRIMARY KEY CHECK (position > 0),
    epoch    bigint NOT NULL,
    kind     bigint NOT NULL,
    at       bigint NOT NULL,                       -- milliseconds since the epoch, UTC
    payload  bytea  NOT NULL,                       -- protobuf hourglass.ledger.v1.Event
    hash     bytea  NOT NULL CHECK (octet_length(hash) = 32)
);

-- One row: every commit compares and sets it, so that a deposed writer cannot append.
CREATE TABLE head (
    one         bigint NOT NULL PRIMARY KEY CHECK (one = 1),
    position    bigint NOT NULL,
    hash        bytea  NOT NULL,
    epoch       bigint NOT NULL,
    holder      text   COLLATE "C" NOT NULL,
    lease_until bigint NOT NULL
);

-- Differences to lines (instance, model, price, hour). price × quantity = amount, exactly.
CREATE TABLE charges (
    position       bigint NOT NULL CHECK (position > 0),
    line           bigint NOT NULL CHECK (line >= 0),
    tenant         text   COLLATE "C" NOT NULL,
    project        text   COLLATE "C" NOT NULL,
    instance       text   COLLATE "C" NOT NULL,
    platform       text   COLLATE "C" NOT NULL,
    region         text   COLLATE "C" NOT NULL,
    model          text   COLLATE "C" NOT NULL,
    price_nanos    bigint NOT NULL,
    hour           bigint NOT NULL,                 -- its first millisecond
    gpus           bigint NOT NULL,
    milliseconds   bigint NOT NULL,
    quantity_nanos bigint NOT NULL,
    amount         text   COLLATE "C" NOT NULL,     -- exact decimal
    currency       text   COLLATE "C" NOT NULL,
    PRIMARY KEY (position, line)
);

CREATE INDEX charges_by_tenant ON charges (tenant, hour);

-- Movements between accounts: one row, two sides, always more than zero.
CREATE TABLE transfers (
    position bigint NOT NULL CHECK (position > 0),
    line     bigint NOT NULL CHECK (line >= 0),
    tenant   text   COLLATE "C" NOT NULL,
    debit    text   COLLATE "C" NOT NULL,
    credit   text   COLLATE "C" NOT NULL CHECK (credit <> debit),
    amount   text   COLLATE "C" NOT NULL CHECK (amount NOT LIKE '-%' AND amount <> '0'),
    currency text   COLLATE "C" NOT NULL,
    code     text   COLLATE "C" NOT NULL,
    at       bigint NOT NULL,
    reverses bigint,
    PRIMARY KEY (position, line)
);

CREATE INDEX transfers_by_tenant ON transfers (tenant, position, line);

CREATE TABLE invoices (
    position bigint NOT NULL CHECK (position > 0),
    line     bigint NOT NULL CHECK (line >= 0),
    tenant   text   COLLATE "C" NOT NULL,
    number   bigint NOT NULL,
    period   text   COLLATE "C" NOT NULL,
    document bytea  NOT NULL,
    PRIMARY KEY (position, line),
    UNIQUE (tenant, number),
    UNIQUE (tenant, period)
);

-- What came as usage and could not be used; the bytes stand in the event.
CREATE TABLE quarantine (
    position bigint NOT NULL CHECK (position > 0),
    line     bigint NOT NULL CHECK (line >= 0),
    record   bigint,                                -- place in the batch, NULL for the whole message
    reason   text   COLLATE "C" NOT NULL,
    PRIMARY KEY (position, line)
);

-- A cache of the state. Deleting it loses nothing but time.
CREATE TABLE snapshots (
    position bigint NOT NULL,
    part     bigint NOT NULL,
    parts    bigint NOT NULL,
    format   text   COLLATE "C" NOT NULL,
    payload  bytea  NOT NULL,
    PRIMARY KEY (position, part)
);

-- Payloads are compressed when they come. Where the engine knows no such setting, nothing is lost.
DO $$
BEGIN
    ALTER TABLE events ALTER COLUMN payload SET STORAGE EXTERNAL;
    ALTER TABLE snapshots ALTER COLUMN payload SET STORAGE EXTERNAL;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

-- Append-only by rule: these triggers refuse, and do nothing else.
CREATE FUNCTION hourglass_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER events_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION hourglass_refuses();
CREATE TRIGGER charges_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON charges
    FOR EACH STATEMENT EXECUTE FUNCTION hourglass_refuses();
CREATE TRIGGER transfers_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION hourglass_refuses();
CREATE TRIGGER invoices_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON invoices
    FOR EACH STATEMENT EXECUTE FUNCTION hourglass_refuses();
CREATE TRIGGER quarantine_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON quarantine
    FOR EACH STATEMENT EXECUTE FUNCTION hourglass_refuses();
CREATE TRIGGER head_is_kept BEFORE DELETE OR TRUNCATE ON head
    FOR EACH STATEMENT EXECUTE FUNCTION hourglass_refuses();

-- And by privilege: the writer may append and move the head, the reader may read, and the tenant's
-- role sees what row-level security lets it see.
GRANT SELECT, INSERT ON events, charges, transfers, invoices, quarantine TO hourglass_writer;
GRANT SELECT ON head TO hourglass_writer;
GRANT UPDATE (position, hash, epoch, holder, lease_until) ON head TO hourglass_writer;
GRANT SELECT, INSERT, DELETE ON snapshots TO hourglass_writer;
GRANT SELECT ON events, head, charges, transfers, invoices, quarantine, snapshots TO hourglass_reader;
GRANT SELECT ON charges, transfers, invoices TO hourglass_tenant;

-- A tenant's role sees the rows of the tenant that the session names; of none where it names none.
ALTER TABLE charges ENABLE ROW LEVEL SECURITY;
ALTER TABLE transfers ENABLE ROW LEVEL SECURITY;
ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
CREATE POLICY every_row_is_written ON charges TO hourglass_writer USING (true) WITH CHECK (true);
CREATE POLICY every_row_is_written ON transfers TO hourglass_writer USING (true) WITH CHECK (true);
CREATE POLICY every_row_is_written ON invoices TO hourglass_writer USING (true) WITH CHECK (true);
CREATE POLICY every_row_is_read ON charges FOR SELECT TO hourglass_reader USING (true);
CREATE POLICY every_row_is_read ON transfers FOR SELECT TO hourglass_reader USING (true);
CREATE POLICY every_row_is_read ON invoices FOR SELECT TO hourglass_reader USING (true);
CREATE POLICY own_rows_are_read ON charges FOR SELECT TO hourglass_tenant
    USING (tenant = current_setting('hourglass.tenant', true));
CREATE POLICY own_rows_are_read ON transfers FOR SELECT TO hourglass_tenant
    USING (tenant = current_setting('hourglass.tenant', true));
CREATE POLICY own_rows_are_read ON invoices FOR SELECT TO hourglass_tenant
    USING (tenant = current_setting('hourglass.tenant', true));
