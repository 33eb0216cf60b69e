-- Files that clients sent to learn from. The bytes are a file by content, which this row holds.
CREATE TABLE files (
    id         TEXT PRIMARY KEY,
    created_ms BIGINT NOT NULL,
    key_id     TEXT NOT NULL,
    name       TEXT NOT NULL,
    purpose    TEXT NOT NULL,
    blob       TEXT NOT NULL,
    bytes      BIGINT NOT NULL,
    expires_ms BIGINT
);
CREATE INDEX files_by_time ON files (expires_ms);

-- What a round was opened with when it was asked for as a job, JSON; and what a repeated request is known by.
CREATE TABLE jobs (
    round_id   TEXT PRIMARY KEY REFERENCES rounds (id) ON DELETE CASCADE,
    asked      TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    digest     TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX jobs_by_digest ON jobs (digest, key_id);

-- The client's own notes on a job, which it may search by.
CREATE TABLE job_metadata (
    round_id TEXT NOT NULL REFERENCES jobs (round_id) ON DELETE CASCADE,
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (round_id, name)
);
CREATE INDEX job_metadata_by_value ON job_metadata (name, value, round_id);

-- What happened in a round. A step is told of once, also when it is taken again after a crash.
CREATE TABLE round_events (
    id       TEXT PRIMARY KEY,
    round_id TEXT NOT NULL REFERENCES rounds (id) ON DELETE CASCADE,
    at_ms    BIGINT NOT NULL,
    level    TEXT NOT NULL,
    message  TEXT NOT NULL,
    step     BIGINT,
    data     TEXT,
    UNIQUE (round_id, step)
);
CREATE INDEX round_events_by_round ON round_events (round_id, id);

-- A paused round is nobody's to work on.
ALTER TABLE rounds ADD COLUMN paused BIGINT NOT NULL DEFAULT 0;
