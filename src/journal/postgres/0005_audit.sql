-- Who has to answer for what: a line of JSON for each write of an operation, in the same transaction, and for what else
-- there is to tell. Each process writes a chain of its own (docs/audit.md). The role of payops may add to it and read it;
-- that nobody else changes anything by mistake, a trigger sees to.
CREATE TABLE payops.audit (
    chain uuid    NOT NULL,
    batch bigint  NOT NULL,
    place integer NOT NULL,
    body  text    NOT NULL,
    link  bytea   NOT NULL,
    PRIMARY KEY (chain, batch, place)
);
CREATE FUNCTION payops.audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'payops.audit is added to, and never changed';
END
$$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON payops.audit
    FOR EACH STATEMENT EXECUTE FUNCTION payops.audit_stays();
