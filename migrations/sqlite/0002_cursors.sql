-- How far each consumer of the log has come. Moved in the transaction of a commit, so that a deposed
-- writer moves none.
CREATE TABLE cursors (
    consumer TEXT    NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL CHECK (position >= 0)
) STRICT;
