-- How far each consumer of the log has come. Moved in the transaction of a commit, so that a deposed
-- writer moves none.
CREATE TABLE cursors (
    consumer text   COLLATE "C" NOT NULL PRIMARY KEY,
    position bigint NOT NULL CHECK (position >= 0)
);

GRANT SELECT, INSERT ON cursors TO hourglass_writer;
GRANT UPDATE (position) ON cursors TO hourglass_writer;
GRANT SELECT ON cursors TO hourglass_reader;
