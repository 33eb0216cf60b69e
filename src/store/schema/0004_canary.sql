-- Versions that answer a share of the people before they answer all. A trial runs while its state says so and no promotion follows the
-- one it began behind. The tokens are those by which its beginning and its end know themselves when they are written twice.
CREATE TABLE trials (
    number   BIGINT PRIMARY KEY,
    token    TEXT NOT NULL,
    version  TEXT NOT NULL REFERENCES versions (id),
    after    BIGINT NOT NULL,
    -- In millionths.
    share    BIGINT NOT NULL,
    votes    BIGINT NOT NULL,
    began_ms BIGINT NOT NULL,
    time_ms  BIGINT NOT NULL,
    author   TEXT NOT NULL,
    why      TEXT NOT NULL,
    round    TEXT,
    state    TEXT NOT NULL,
    ended_ms BIGINT,
    ender    TEXT,
    said     TEXT
);
CREATE INDEX trials_by_state ON trials (state, number);
CREATE INDEX trials_by_round ON trials (round);
