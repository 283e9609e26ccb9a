-- What callers have begun in a day under a limit of that day, in minor units: days since 1970 by the database's clock,
-- UTC. A sum is changed in the transaction that writes the operation. A payops that does not know of sums begins nothing
-- under such a limit, since it refuses a callers file that has one; what it ends as declined stays counted that day.
CREATE TABLE payops.tallies (
    day      bigint NOT NULL,
    caller   text   COLLATE "C" NOT NULL,
    account  text   COLLATE "C" NOT NULL,
    kind     text   COLLATE "C" NOT NULL,
    currency text   COLLATE "C" NOT NULL,
    spent    bigint NOT NULL,
    PRIMARY KEY (day, caller, account, kind, currency)
);
