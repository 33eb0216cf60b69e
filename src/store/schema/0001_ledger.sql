-- {bytes} is the database's type for bytes. Times are Unix milliseconds. What is asked and said is JSON in texts: nothing searches in
-- it, and a text of the database may not hold every character.

-- A request.
CREATE TABLE calls (
    id            TEXT PRIMARY KEY,
    created_ms    BIGINT NOT NULL,
    task          TEXT NOT NULL,
    asked         TEXT NOT NULL,
    model         TEXT NOT NULL,
    version       TEXT NOT NULL,
    config        TEXT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    person        TEXT,
    key_id        TEXT NOT NULL
);
CREATE INDEX calls_by_task ON calls (task, id);
CREATE INDEX calls_by_person ON calls (person);

-- The client's own notes on a request, which it may search by.
CREATE TABLE call_metadata (
    call_id TEXT NOT NULL REFERENCES calls (id) ON DELETE CASCADE,
    name    TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (call_id, name)
);
CREATE INDEX call_metadata_by_value ON call_metadata (name, value, call_id);

-- One answer or picture of it, as it was drawn.
CREATE TABLE samples (
    id          TEXT PRIMARY KEY,
    call_id     TEXT NOT NULL REFERENCES calls (id) ON DELETE CASCADE,
    at          BIGINT NOT NULL,
    sampling    TEXT NOT NULL,
    version     TEXT NOT NULL,
    tokens      {bytes} NOT NULL,
    log_probs   {bytes} NOT NULL,
    conditional {bytes} NOT NULL,
    finish      TEXT NOT NULL,
    said        TEXT,
    picture     TEXT,
    millis      BIGINT NOT NULL,
    UNIQUE (call_id, at)
);

-- What was said of a sample; a withdrawn one is no longer shown or learned from.
CREATE TABLE feedback (
    id         TEXT PRIMARY KEY,
    key_id     TEXT NOT NULL,
    client_key TEXT,
    sample_id  TEXT NOT NULL REFERENCES samples (id) ON DELETE CASCADE,
    opinion    TEXT NOT NULL,
    rater      TEXT,
    metadata   TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    revised_ms BIGINT,
    withdrawn  BIGINT NOT NULL,
    UNIQUE (key_id, client_key)
);
CREATE INDEX feedback_by_rater ON feedback (rater);

-- Every sample that a feedback speaks of, the preferred one and those it was preferred to.
CREATE TABLE feedback_samples (
    feedback_id TEXT NOT NULL REFERENCES feedback (id) ON DELETE CASCADE,
    sample_id   TEXT NOT NULL REFERENCES samples (id) ON DELETE CASCADE,
    PRIMARY KEY (feedback_id, sample_id)
);
CREATE INDEX feedback_by_sample ON feedback_samples (sample_id);

-- What a feedback said before it was changed or withdrawn.
CREATE TABLE feedback_history (
    feedback_id TEXT NOT NULL REFERENCES feedback (id) ON DELETE CASCADE,
    revision    BIGINT NOT NULL,
    opinion     TEXT NOT NULL,
    until_ms    BIGINT NOT NULL,
    PRIMARY KEY (feedback_id, revision)
);

-- Who needs which file: a call or a feedback. A file that nobody needs is deleted.
CREATE TABLE holds (
    blob   TEXT NOT NULL,
    holder TEXT NOT NULL,
    bytes  BIGINT NOT NULL,
    PRIMARY KEY (blob, holder)
);
CREATE INDEX holds_by_holder ON holds (holder);

-- Samples that a version was trained with; kept when the samples are purged.
CREATE TABLE trained (
    version   TEXT NOT NULL,
    sample_id TEXT NOT NULL,
    PRIMARY KEY (version, sample_id)
);
CREATE INDEX trained_by_sample ON trained (sample_id);

-- What is counted of requests that are not kept.
CREATE TABLE counters (
    day   TEXT NOT NULL,
    name  TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (day, name)
);

-- What all servers of one ledger must agree on.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
