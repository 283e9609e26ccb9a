-- When a key that tells its age (UUIDv7) was made. Nothing for any other key, and none where an older payops wrote the row.
ALTER TABLE payops.operations ADD COLUMN minted_at bigint;
CREATE INDEX operations_gone ON payops.operations (minted_at) WHERE forgotten AND minted_at IS NOT NULL;

-- Such a key that is older than this is refused whether or not it has a row, since the time beside it.
ALTER TABLE payops.meta ADD COLUMN gone_before bigint, ADD COLUMN gone_since bigint;
