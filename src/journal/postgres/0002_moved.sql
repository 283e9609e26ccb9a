-- A journal that was moved here from another place. Of keys that were forgotten there only a hash of caller and key is
-- left; those that are forgotten here keep their row in payops.operations.
CREATE TABLE payops.tombstones (
    key   bytea NOT NULL PRIMARY KEY,
    state text  COLLATE "C" NOT NULL
);
-- And of those that tell their age not even that.
ALTER TABLE payops.meta ADD COLUMN forgotten_before bigint;
-- Each file that was imported, so that it is known when it comes again.
CREATE TABLE payops.imports (
    sha256      text   COLLATE "C" NOT NULL PRIMARY KEY,
    entries     bigint NOT NULL,
    tombstones  bigint NOT NULL,
    imported_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
