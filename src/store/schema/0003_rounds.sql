-- Weights that may be served. Those that came from outside have no file here.
CREATE TABLE versions (
    id         TEXT PRIMARY KEY,
    parent     TEXT,
    round      TEXT,
    created_ms BIGINT NOT NULL,
    weights    TEXT,
    bytes      BIGINT NOT NULL,
    scores     TEXT NOT NULL,
    pinned     BIGINT NOT NULL
);

-- Which version became live when; the last is live. Numbered without a gap, so that of two promotions at once one fails. The token
-- is the promotion's own, by which it knows itself when it is written twice.
CREATE TABLE promotions (
    number  BIGINT PRIMARY KEY,
    token   TEXT NOT NULL,
    version TEXT NOT NULL REFERENCES versions (id),
    at_ms   BIGINT NOT NULL,
    author  TEXT NOT NULL,
    why     TEXT NOT NULL
);

-- Training rounds. Whoever works on one holds it until a time and holds it again before that; after it another may.
CREATE TABLE rounds (
    id         TEXT PRIMARY KEY,
    state      TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL,
    author     TEXT NOT NULL,
    plan       TEXT NOT NULL,
    since_ms   BIGINT NOT NULL,
    until_ms   BIGINT NOT NULL,
    base       TEXT,
    candidate  TEXT,
    report     TEXT,
    owner      TEXT,
    held_ms    BIGINT NOT NULL
);
CREATE INDEX rounds_by_state ON rounds (state, id);

-- Feedback by time: a round learns from what came since the one before.
CREATE INDEX feedback_by_time ON feedback (created_ms);
