-- The record is the entry as JSON with its checksum; the other columns only serve to find it and to keep two rules: a
-- key is there once, a transaction has one open entry. Times are milliseconds since 1970 by the database's clock.
-- Texts compare byte by byte: no change of a locale can hide a key.
CREATE TABLE payops.operations (
    id             uuid     NOT NULL PRIMARY KEY,
    caller         text     COLLATE "C" NOT NULL,
    key            text     COLLATE "C" NOT NULL,
    transaction_id text     COLLATE "C" NOT NULL,
    state          text     COLLATE "C" NOT NULL,
    open           boolean  NOT NULL,
    -- Only the key is left, so that it is never run again.
    forgotten      boolean  NOT NULL DEFAULT false,
    attempt        bigint   NOT NULL,
    revision       bigint   NOT NULL,
    nonce          uuid     NOT NULL,
    lease_until    bigint   NOT NULL,
    created_at     bigint   NOT NULL,
    updated_at     bigint   NOT NULL,
    next_read_at   bigint,
    record         text     NOT NULL,
    checksum       bytea    NOT NULL
);
CREATE UNIQUE INDEX operations_key  ON payops.operations (caller, key);
CREATE UNIQUE INDEX operations_slot ON payops.operations (transaction_id) WHERE open;
CREATE INDEX operations_transaction ON payops.operations (transaction_id);
CREATE INDEX operations_due         ON payops.operations (next_read_at) WHERE next_read_at IS NOT NULL;
CREATE INDEX operations_age         ON payops.operations (updated_at) WHERE NOT open AND NOT forgotten;

-- What the journal knows of itself: one row.
CREATE TABLE payops.meta (
    id                integer PRIMARY KEY CHECK (id = 1),
    -- How often a journal was lost, from 1; the configuration says it too.
    generation        integer NOT NULL,
    -- Rises with each loss: what was begun before it is not written after it.
    epoch             bigint  NOT NULL,
    lost_at           bigint,
    -- The cluster and its timeline, as they were.
    system_identifier text    NOT NULL,
    timeline          bigint  NOT NULL
);

-- One row for each process that writes, so that writing can be tried without an operation.
CREATE TABLE payops.replicas (
    id      uuid        NOT NULL PRIMARY KEY,
    beat_at timestamptz NOT NULL
);
