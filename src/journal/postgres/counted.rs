//! Writes that change what callers have begun in a day: in one transaction with
//! the sums, which are locked first, in one order everywhere. Whether there is
//! room is decided between the two, so that no two writers, here or in another
//! process, both take the last of it.
//!
//! # Correctness
//!
//! Only what was written is counted, and where nothing was nothing is
//! committed. A repeat after a lost connection finds its own rows there and
//! counts nothing. No call to the PSP, and no wait for anything but the
//! database, comes between the beginning and the end.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio_postgres::{Client, types::Type};

use crate::journal::{
    audit::Chain,
    entry::{Entry, spent::Tally},
    postgres::{
        audit::Told,
        line::{Broke, Work},
        rows::{self, Columns, Parameter},
    },
};

/// Makes the sums where they are not there yet, and keeps all others from them
/// until the end.
const LOCK: &str = "
INSERT INTO payops.tallies AS t (day, caller, account, kind, currency, spent)
SELECT u.day, u.caller, u.account, u.kind, u.currency, 0
FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY
    AS u (day, caller, account, kind, currency, n)
ORDER BY u.n
ON CONFLICT (day, caller, account, kind, currency) DO UPDATE SET spent = t.spent
RETURNING day, caller, account, kind, currency, spent";

const ADD: &str = "
UPDATE payops.tallies t SET spent = t.spent + u.more
FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int8[])
    AS u (day, caller, account, kind, currency, more)
WHERE t.day = u.day AND t.caller = u.caller AND t.account = u.account AND t.kind = u.kind
  AND t.currency = u.currency";

pub(super) const SPENT: &str = "SELECT spent FROM payops.tallies
    WHERE day = $1 AND caller = $2 AND account = $3 AND kind = $4 AND currency = $5";

/// Of days that are over.
pub(super) const FORGET: &str = "DELETE FROM payops.tallies
    WHERE ctid = ANY(ARRAY(SELECT ctid FROM payops.tallies WHERE day < $1 LIMIT 1000))";

/// Others are not kept waiting by a process that stands still.
const BEGIN: &str =
    "BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL idle_in_transaction_session_timeout = '2s'";

/// Entries that are written together, and counted.
pub(super) struct Counted<'a> {
    pub(super) entries: Vec<&'a Entry>,
    pub(super) epoch: i64,
    /// What they are told in.
    pub(super) chain: Chain,
    /// Changes of entries that are there, or new ones.
    pub(super) changes: bool,
}

/// What became of them, by their places.
#[derive(Debug, Default)]
pub(super) struct Fates {
    pub(super) written: HashSet<usize>,
    /// There was no room; with what was spent.
    pub(super) beyond: HashMap<usize, i64>,
}

/// Sums as columns.
#[derive(Default)]
pub(super) struct Sums {
    day: Vec<i64>,
    caller: Vec<String>,
    account: Vec<String>,
    kind: Vec<&'static str>,
    currency: Vec<String>,
    more: Vec<i64>,
}

impl Sums {
    pub(super) fn of<'a>(tallies: impl IntoIterator<Item = (&'a Tally, i64)>) -> Self {
        let mut sums = Self::default();
        for (Tally { day, caller, account, kind, currency }, more) in tallies {
            sums.day.push(*day);
            sums.caller.push(caller.as_str().to_owned());
            sums.account.push(account.as_str().to_owned());
            sums.kind.push(kind.as_str());
            sums.currency.push(currency.as_str().to_owned());
            sums.more.push(more);
        }
        sums
    }

    fn names(&self) -> [Parameter<'_>; 5] {
        [
            (&self.day, Type::INT8_ARRAY),
            (&self.caller, Type::TEXT_ARRAY),
            (&self.account, Type::TEXT_ARRAY),
            (&self.kind, Type::TEXT_ARRAY),
            (&self.currency, Type::TEXT_ARRAY),
        ]
    }

    fn all(&self) -> Vec<Parameter<'_>> {
        let mut all = self.names().to_vec();
        all.push((&self.more, Type::INT8_ARRAY));
        all
    }
}

/// Adds to sums whatever they are, inside the caller's transaction.
pub(super) async fn add(client: &Client, more: &BTreeMap<Tally, i64>) -> Result<(), tokio_postgres::Error> {
    let sums = Sums::of(more.iter().map(|(tally, more)| (tally, *more)));
    client.query_typed(ADD, &sums.all()).await.map(drop)
}

/// Locks the sums. Gives what they are.
pub(super) async fn lock<'a>(
    client: &Client,
    tallies: impl IntoIterator<Item = &'a Tally> + Send,
) -> Result<Vec<i64>, tokio_postgres::Error> {
    let sums = Sums::of(tallies.into_iter().map(|tally| (tally, 0)));
    let rows = client.query_typed(LOCK, &sums.names()).await?;
    // One by one, in the order in which they were locked.
    rows.iter().map(|row| row.try_get(5)).collect()
}

impl Work for Counted<'_> {
    type Done = Fates;

    async fn run(&self, client: &Client) -> Result<Fates, Broke> {
        let written = self.write(client).await;
        if written.is_err() {
            // Where the connection is lost, the server does that itself.
            drop(client.batch_execute("ROLLBACK").await);
        }
        written
    }
}

impl Counted<'_> {
    async fn write(&self, client: &Client) -> Result<Fates, Broke> {
        let mut sums: BTreeMap<Tally, i64> = BTreeMap::new();
        for entry in &self.entries {
            sums.extend(entry.counted().map(|(tally, _)| (tally, 0)));
        }
        let (begun, locked) = tokio::join!(biased; client.batch_execute(BEGIN), lock(client, sums.keys()));
        begun?;
        sums.values_mut().zip(locked?).for_each(|(sum, locked)| *sum = locked);
        let mut added: BTreeMap<Tally, i64> = BTreeMap::new();
        let mut fates = Fates::default();
        let mut waiting: Vec<usize> = (0..self.entries.len()).collect();
        loop {
            let (fit, beyond) = self.fit(&waiting, &sums);
            let wrote = if fit.is_empty() { HashSet::new() } else { self.put(client, &fit).await? };
            for nth in &wrote {
                if let Some((tally, more)) = self.entries.get(*nth).and_then(|entry| entry.counted()) {
                    *added.entry(tally.clone()).or_default() += more;
                    *sums.entry(tally).or_default() += more;
                }
            }
            // What did not come to be written left room for others.
            let again = wrote.len() < fit.len() && !beyond.is_empty();
            fates.written.extend(wrote);
            if !again {
                for nth in beyond {
                    let tally = self.entries.get(nth).and_then(|entry| entry.tally());
                    let spent = tally.and_then(|tally| sums.get(&tally).copied()).unwrap_or_default();
                    fates.beyond.insert(nth, spent);
                }
                break;
            }
            waiting = beyond;
        }
        if fates.written.is_empty() {
            client.batch_execute("ROLLBACK").await?;
            return Ok(fates);
        }
        added.retain(|_, more| *more != 0);
        add(client, &added).await?;
        client.batch_execute("COMMIT").await?;
        Ok(fates)
    }

    /// Those for which there is room, each after those before it, and the rest.
    fn fit(&self, waiting: &[usize], sums: &BTreeMap<Tally, i64>) -> (Vec<usize>, Vec<usize>) {
        let mut sums = sums.clone();
        waiting.iter().partition(|nth| {
            let Some(entry) = self.entries.get(**nth) else { return false };
            let Some((tally, more)) = entry.counted() else { return true };
            let sum = sums.entry(tally).or_default();
            let fits = !entry.is_beyond(*sum);
            if fits {
                *sum = sum.saturating_add(more);
            }
            fits
        })
    }

    /// Which of those were written.
    async fn put(&self, client: &Client, some: &[usize]) -> Result<HashSet<usize>, Broke> {
        let entries: Vec<&Entry> = some.iter().filter_map(|nth| self.entries.get(*nth)).copied().collect();
        let columns = Columns::of(entries.iter().copied()).map_err(Broke::Ours)?;
        let placed = some.iter().copied().zip(entries.iter().copied());
        let told = Told::of_entries(&self.chain, placed, &columns.checksum);
        let places: HashSet<usize> = if self.changes {
            let rows = client.query_typed(rows::UPDATE, &columns.changes(&self.epoch, &told)).await?;
            rows::places(&rows).collect()
        } else {
            let rows = client.query_typed(rows::INSERT, &columns.inserted(&self.epoch, &told)).await?;
            rows::inserted(&rows, &entries)
        };
        Ok(places.into_iter().filter_map(|place| some.get(place).copied()).collect())
    }
}
