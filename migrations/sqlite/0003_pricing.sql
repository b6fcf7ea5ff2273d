-- Reservations on charges, unused hours of reservations, and several documents a period.

-- Out of which reservation a line was sold; NULL for none.
ALTER TABLE charges ADD COLUMN reservation TEXT;
-- What a GPU-hour costs with what was paid for it otherwise; NULL where that is the price.
ALTER TABLE charges ADD COLUMN effective_price_nanos INTEGER;

-- Differences to the unused hours of a reservation: used and unused are what is reserved.
CREATE TABLE unused (
    position              INTEGER NOT NULL CHECK (position > 0),
    line                  INTEGER NOT NULL CHECK (line >= 0),
    tenant                TEXT    NOT NULL,
    project               TEXT    NOT NULL,
    reservation           TEXT    NOT NULL,
    platform              TEXT    NOT NULL,
    region                TEXT    NOT NULL,
    hour                  INTEGER NOT NULL,         -- its first millisecond
    quantity_nanos        INTEGER NOT NULL,
    effective_price_nanos INTEGER NOT NULL,
    effective_cost        TEXT    NOT NULL,         -- exact decimal
    currency              TEXT    NOT NULL,
    PRIMARY KEY (position, line)
) STRICT, WITHOUT ROWID;

CREATE INDEX unused_by_tenant ON unused (tenant, hour);

CREATE TRIGGER unused_are_kept BEFORE DELETE ON unused BEGIN SELECT RAISE(ABORT, 'unused is append-only'); END;
CREATE TRIGGER unused_stay BEFORE UPDATE ON unused BEGIN SELECT RAISE(ABORT, 'unused is append-only'); END;
CREATE TRIGGER unused_are_new BEFORE INSERT ON unused
    WHEN EXISTS (SELECT 1 FROM unused WHERE position = NEW.position AND line = NEW.line)
    BEGIN SELECT RAISE(ABORT, 'unused is append-only'); END;

-- A period can have several documents: one that was voided and one in its place, and credit notes.
CREATE TABLE invoices_next (
    position INTEGER NOT NULL CHECK (position > 0),
    line     INTEGER NOT NULL CHECK (line >= 0),
    tenant   TEXT    NOT NULL,
    number   INTEGER NOT NULL,
    period   TEXT    NOT NULL,
    document BLOB    NOT NULL,
    PRIMARY KEY (position, line),
    UNIQUE (tenant, number)
) STRICT;
INSERT INTO invoices_next SELECT position, line, tenant, number, period, document FROM invoices;
DROP TABLE invoices;
ALTER TABLE invoices_next RENAME TO invoices;

CREATE TRIGGER invoices_are_kept BEFORE DELETE ON invoices BEGIN SELECT RAISE(ABORT, 'invoices are append-only'); END;
CREATE TRIGGER invoices_stay BEFORE UPDATE ON invoices BEGIN SELECT RAISE(ABORT, 'invoices are append-only'); END;
CREATE TRIGGER invoices_are_new BEFORE INSERT ON invoices
    WHEN EXISTS (SELECT 1 FROM invoices WHERE (position = NEW.position AND line = NEW.line)
        OR (tenant = NEW.tenant AND number = NEW.number))
    BEGIN SELECT RAISE(ABORT, 'invoices are append-only'); END;
