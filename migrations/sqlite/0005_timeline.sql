-- Steps in the lives of instances, with the reason of each that nobody asked for.
CREATE TABLE timeline (
    position INTEGER NOT NULL CHECK (position > 0),
    line     INTEGER NOT NULL CHECK (line >= 0),
    tenant   TEXT    NOT NULL,
    instance TEXT    NOT NULL,
    step     TEXT    NOT NULL,
    at       INTEGER NOT NULL,                      -- when it was so
    cause    TEXT,                                  -- a stable code; NULL where none is needed
    detail   TEXT,                                  -- for people
    deadline INTEGER,                               -- of an order to stop; of voided usage its end
    PRIMARY KEY (position, line)
) STRICT, WITHOUT ROWID;

CREATE INDEX timeline_by_instance ON timeline (tenant, instance, position, line);

CREATE TRIGGER timeline_is_kept BEFORE DELETE ON timeline BEGIN SELECT RAISE(ABORT, 'timeline is append-only'); END;
CREATE TRIGGER timeline_stays BEFORE UPDATE ON timeline BEGIN SELECT RAISE(ABORT, 'timeline is append-only'); END;
CREATE TRIGGER timeline_is_new BEFORE INSERT ON timeline
    WHEN EXISTS (SELECT 1 FROM timeline WHERE position = NEW.position AND line = NEW.line)
    BEGIN SELECT RAISE(ABORT, 'timeline is append-only'); END;
