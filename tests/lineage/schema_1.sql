-- The lineage, schema version 1. One transaction, and harmless when it runs twice: two processes may create the file.
-- Facts only: whatever can be computed from them (scores, the incumbent, counts) is a query of view.py.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS run (
    id          INTEGER PRIMARY KEY,
    kernel      TEXT NOT NULL,              -- relative to the rootdir, forward slashes
    target      TEXT NOT NULL,
    operator    TEXT NOT NULL,
    seed        INTEGER NOT NULL,
    shapes      TEXT NOT NULL,              -- JSON array of shape ids
    fingerprint TEXT NOT NULL,              -- JSON
    started     TEXT NOT NULL,              -- ISO 8601, UTC
    settings    TEXT NOT NULL               -- JSON object of strings
);
CREATE INDEX IF NOT EXISTS run_by_kernel ON run (kernel, id);

CREATE TABLE IF NOT EXISTS source (
    digest TEXT PRIMARY KEY,
    text   TEXT NOT NULL                    -- less the provenance lines, as the digest is
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS attempt (
    id         INTEGER PRIMARY KEY,
    run        INTEGER NOT NULL REFERENCES run (id),
    generation INTEGER NOT NULL,
    member     INTEGER NOT NULL,
    parent     INTEGER REFERENCES attempt (id) CHECK (parent < id),
    digest     TEXT NOT NULL REFERENCES source (digest),
    operator   TEXT NOT NULL,
    hypothesis TEXT NOT NULL,
    predicted  TEXT NOT NULL,               -- JSON object: shape id or "geomean" -> ratio
    created    TEXT NOT NULL                -- ISO 8601, UTC
);
CREATE INDEX IF NOT EXISTS attempt_by_run ON attempt (run, id);
CREATE INDEX IF NOT EXISTS attempt_by_digest ON attempt (run, digest, id);

CREATE TABLE IF NOT EXISTS evaluation (
    id      INTEGER PRIMARY KEY,
    attempt INTEGER NOT NULL REFERENCES attempt (id),
    purpose TEXT NOT NULL CHECK (purpose IN ('screen', 'confirm', 'draft')),
    digest  TEXT NOT NULL REFERENCES source (digest),
    shape   TEXT NOT NULL,
    body    TEXT NOT NULL                   -- JSON of pytest_avo.core.evaluation.Evaluation
);
-- An attempt is screened and confirmed once per shape; an agent may try as many drafts as it likes, as often as it likes.
CREATE UNIQUE INDEX IF NOT EXISTS evaluation_once ON evaluation (attempt, purpose, shape) WHERE purpose != 'draft';
CREATE INDEX IF NOT EXISTS evaluation_by_attempt ON evaluation (attempt, purpose, digest, id);

CREATE TABLE IF NOT EXISTS outcome (
    id             INTEGER PRIMARY KEY,
    attempt        INTEGER NOT NULL UNIQUE REFERENCES attempt (id),
    run            INTEGER NOT NULL REFERENCES run (id),
    status         TEXT NOT NULL CHECK (status IN (
        'seed', 'promoted', 'same', 'slower', 'ambiguous', 'incorrect', 'crashed', 'timeout', 'rejected',
        'unsupported', 'duplicate', 'failed')),
    reason         TEXT NOT NULL,
    gain           REAL,                    -- log-ratios against the parent: estimate, then the interval's ends
    gain_low       REAL,
    gain_high      REAL,
    confirmed      REAL,
    confirmed_low  REAL,
    confirmed_high REAL,
    lesson         TEXT NOT NULL,
    tokens_in      INTEGER NOT NULL,
    tokens_out     INTEGER NOT NULL,
    cost           REAL NOT NULL,
    seconds        REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS outcome_by_status ON outcome (run, status, id);

CREATE TABLE IF NOT EXISTS event (
    id   INTEGER PRIMARY KEY,
    run  INTEGER NOT NULL REFERENCES run (id),
    time TEXT NOT NULL,                     -- ISO 8601, UTC
    kind TEXT NOT NULL,
    data TEXT NOT NULL                      -- JSON object
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

PRAGMA user_version = 1;
COMMIT;
