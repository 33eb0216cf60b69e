-- When things came of a sample, from its submission to the engine, in microseconds; 0 of samples that were kept before this was.
ALTER TABLE samples ADD COLUMN admitted_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE samples ADD COLUMN first_token_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE samples ADD COLUMN finished_us BIGINT NOT NULL DEFAULT 0;
