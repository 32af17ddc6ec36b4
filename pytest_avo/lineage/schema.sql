-- The lineage, schema version 2. One transaction, and harmless when it runs twice: two processes may create the file.
-- Facts only: whatever can be computed from them (scores, the incumbent, counts) is a query of view.py.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS run (
    id          INTEGER PRIMARY KEY,        -- its number
    kernel      TEXT NOT NULL,              -- relative to the rootdir, forward slashes
    target      TEXT NOT NULL,              -- what the kernel is written for: cpu, sm90, ...
    operator    TEXT NOT NULL,              -- what the run began with; each attempt has its own
    seed        INTEGER NOT NULL,           -- of all that the run draws at random
    shapes      TEXT NOT NULL,              -- JSON array of shape ids
    fingerprint TEXT NOT NULL,              -- JSON object: device, driver, versions
    started     TEXT NOT NULL,              -- ISO 8601, UTC
    settings    TEXT NOT NULL               -- JSON object of strings: sizes, model, budgets, rounds, prices, switches
);
CREATE INDEX IF NOT EXISTS run_by_kernel ON run (kernel, id);

CREATE TABLE IF NOT EXISTS source (
    digest TEXT PRIMARY KEY,                -- first 16 hex digits of the text's SHA-256
    text   TEXT NOT NULL                    -- a kernel's file, less the provenance lines, as the digest is
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS attempt (
    id         INTEGER PRIMARY KEY,         -- its number, over all runs
    run        INTEGER NOT NULL REFERENCES run (id), -- that made it
    generation INTEGER NOT NULL,            -- 0 is the seed's
    member     INTEGER NOT NULL,            -- of the population, from 0
    island     INTEGER NOT NULL DEFAULT 0,  -- that the member lives on
    parent     INTEGER REFERENCES attempt (id) CHECK (parent < id), -- that it varies; NULL for the seed
    digest     TEXT NOT NULL REFERENCES source (digest), -- of its source
    operator   TEXT NOT NULL,               -- what proposed it
    hypothesis TEXT NOT NULL,               -- why it should be faster
    predicted  TEXT NOT NULL,               -- JSON object: shape id or "geomean" -> ratio
    created    TEXT NOT NULL                -- ISO 8601, UTC
);
CREATE INDEX IF NOT EXISTS attempt_by_run ON attempt (run, id);
CREATE INDEX IF NOT EXISTS attempt_by_digest ON attempt (run, digest, id);

CREATE TABLE IF NOT EXISTS evaluation (
    id      INTEGER PRIMARY KEY,            -- its number
    attempt INTEGER NOT NULL REFERENCES attempt (id), -- that was evaluated; of a draft the one that it varies
    purpose TEXT NOT NULL CHECK (purpose IN ('screen', 'confirm', 'land', 'draft')), -- to land is to be compared with what is in the file
    digest  TEXT NOT NULL REFERENCES source (digest), -- of what was evaluated
    shape   TEXT NOT NULL,                  -- id of the shape
    body    TEXT NOT NULL                   -- JSON of pytest_avo.core.evaluation.Evaluation
);
-- An attempt is screened and confirmed once per shape; an agent may try as many drafts as it likes, as often as it likes.
CREATE UNIQUE INDEX IF NOT EXISTS evaluation_once ON evaluation (attempt, purpose, shape) WHERE purpose != 'draft';
CREATE INDEX IF NOT EXISTS evaluation_by_attempt ON evaluation (attempt, purpose, digest, id);

CREATE TABLE IF NOT EXISTS outcome (
    id             INTEGER PRIMARY KEY,     -- its number
    attempt        INTEGER NOT NULL UNIQUE REFERENCES attempt (id), -- that ended
    run            INTEGER NOT NULL REFERENCES run (id), -- of the attempt
    status         TEXT NOT NULL CHECK (status IN (
        'seed', 'promoted', 'same', 'slower', 'ambiguous', 'incorrect', 'crashed', 'timeout', 'rejected',
        'unsupported', 'duplicate', 'failed', 'kept')), -- how it ended
    reason         TEXT NOT NULL,           -- why, in words
    gain           REAL,                    -- screening: log-ratio to the parent over all shapes, NULL if not timed
    gain_low       REAL,                    -- lower end of its interval
    gain_high      REAL,                    -- upper end
    confirmed      REAL,                    -- the same of the confirmation in fresh processes
    confirmed_low  REAL,                    -- lower end
    confirmed_high REAL,                    -- upper end
    over           INTEGER REFERENCES attempt (id), -- what was in the file when it was promoted, where that was not its parent
    landing        REAL,                    -- log-ratio to that attempt
    landing_low    REAL,                    -- lower end
    landing_high   REAL,                    -- upper end
    lesson         TEXT NOT NULL,           -- what the operator wants later attempts to know, or ''
    tokens_in      INTEGER NOT NULL,        -- that its proposal took
    tokens_out     INTEGER NOT NULL,        -- that its proposal took
    cost           REAL NOT NULL,           -- in the currency of the prices
    seconds        REAL NOT NULL            -- from its proposal to its end
);
CREATE INDEX IF NOT EXISTS outcome_by_status ON outcome (run, status, id);

CREATE TABLE IF NOT EXISTS event (
    id   INTEGER PRIMARY KEY,               -- its number
    run  INTEGER NOT NULL REFERENCES run (id), -- that it belongs to
    time TEXT NOT NULL,                     -- ISO 8601, UTC
    kind TEXT NOT NULL,                     -- what was recorded, see below
    data TEXT NOT NULL                      -- JSON object: the fields of that kind
);
CREATE INDEX IF NOT EXISTS event_by_run ON event (run, id);
CREATE INDEX IF NOT EXISTS event_by_kind ON event (run, kind, id);

CREATE TRIGGER IF NOT EXISTS run_kept BEFORE UPDATE ON run BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS run_whole BEFORE DELETE ON run BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS source_kept BEFORE UPDATE ON source BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS source_whole BEFORE DELETE ON source BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS attempt_kept BEFORE UPDATE ON attempt BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS attempt_whole BEFORE DELETE ON attempt BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS evaluation_kept BEFORE UPDATE ON evaluation BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS evaluation_whole BEFORE DELETE ON evaluation BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS outcome_kept BEFORE UPDATE ON outcome BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS outcome_whole BEFORE DELETE ON outcome BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS event_kept BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;
CREATE TRIGGER IF NOT EXISTS event_whole BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'the lineage is append-only'); END;

PRAGMA user_version = 2;
COMMIT;
