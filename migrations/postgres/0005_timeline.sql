-- Steps in the lives of instances, with the reason of each that nobody asked for.
CREATE TABLE timeline (
    position bigint NOT NULL CHECK (position > 0),
    line     bigint NOT NULL CHECK (line >= 0),
    tenant   text   COLLATE "C" NOT NULL,
    instance text   COLLATE "C" NOT NULL,
    step     text   COLLATE "C" NOT NULL,
    at       bigint NOT NULL,                       -- when it was so
    cause    text   COLLATE "C",                    -- a stable code; NULL where none is needed
    detail   text   COLLATE "C",                    -- for people
    deadline bigint,                                -- of an order to stop; of voided usage its end
    PRIMARY KEY (position, line)
);

CREATE INDEX timeline_by_instance ON timeline (tenant, instance, position, line);

CREATE TRIGGER timeline_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON timeline
    FOR EACH STATEMENT EXECUTE FUNCTION hourglass_refuses();
GRANT SELECT, INSERT ON timeline TO hourglass_writer;
GRANT SELECT ON timeline TO hourglass_reader, hourglass_tenant;
ALTER TABLE timeline ENABLE ROW LEVEL SECURITY;
CREATE POLICY every_row_is_written ON timeline TO hourglass_writer USING (true) WITH CHECK (true);
CREATE POLICY every_row_is_read ON timeline FOR SELECT TO hourglass_reader USING (true);
CREATE POLICY own_rows_are_read ON timeline FOR SELECT TO hourglass_tenant
    USING (tenant = current_setting('hourglass.tenant', true));
