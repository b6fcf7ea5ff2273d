-- Reservations on charges, unused hours of reservations, and several documents a period.

-- Out of which reservation a line was sold; NULL for none.
ALTER TABLE charges ADD COLUMN reservation text COLLATE "C";
-- What a GPU-hour costs with what was paid for it otherwise; NULL where that is the price.
ALTER TABLE charges ADD COLUMN effective_price_nanos bigint;

-- Differences to the unused hours of a reservation: used and unused are what is reserved.
CREATE TABLE unused (
    position              bigint NOT NULL CHECK (position > 0),
    line                  bigint NOT NULL CHECK (line >= 0),
    tenant                text   COLLATE "C" NOT NULL,
    project               text   COLLATE "C" NOT NULL,
    reservation           text   COLLATE "C" NOT NULL,
    platform              text   COLLATE "C" NOT NULL,
    region                text   COLLATE "C" NOT NULL,
    hour                  bigint NOT NULL,          -- its first millisecond
    quantity_nanos        bigint NOT NULL,
    effective_price_nanos bigint NOT NULL,
    effective_cost        text   COLLATE "C" NOT NULL, -- exact decimal
    currency              text   COLLATE "C" NOT NULL,
    PRIMARY KEY (position, line)
);

CREATE INDEX unused_by_tenant ON unused (tenant, hour);

CREATE TRIGGER unused_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON unused
    FOR EACH STATEMENT EXECUTE FUNCTION hourglass_refuses();
GRANT SELECT, INSERT ON unused TO hourglass_writer;
GRANT SELECT ON unused TO hourglass_reader, hourglass_tenant;
ALTER TABLE unused ENABLE ROW LEVEL SECURITY;
CREATE POLICY every_row_is_written ON unused TO hourglass_writer USING (true) WITH CHECK (true);
CREATE POLICY every_row_is_read ON unused FOR SELECT TO hourglass_reader USING (true);
CREATE POLICY own_rows_are_read ON unused FOR SELECT TO hourglass_tenant
    USING (tenant = current_setting('hourglass.tenant', true));

-- A period can have several documents: one that was voided and one in its place, and credit notes.
ALTER TABLE invoices DROP CONSTRAINT invoices_tenant_period_key;
