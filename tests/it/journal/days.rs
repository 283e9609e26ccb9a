//! What is counted of a day stays so: over restarts, over a move to another backend, over writes that are repeated, and
//! between processes.

use std::time::Duration;

use futures::future::join_all;
use payops::clock::{Clock, Timestamp};
use payops::journal::embedded::{self, Embedded, Settings};
use payops::journal::entry::Entry;
use payops::journal::postgres::{self, Postgres};
use payops::journal::{Error, Journal, Terms, Written};
use payops::payment::permit::DayMax;

use super::{DAY, NOW, Place, change, insert, not_sent, once_free, proven, schedule, started};
use crate::database::{Cluster, shared};
use crate::support::eventually;

/// The amount of every operation here.
const EACH: i64 = 29_990;

fn limited(key: &str, max: i64, now: Timestamp) -> Entry {
    let day_max = DayMax { currency: "NOK".parse().unwrap(), amount: max };
    started(key, now).under(Some(&day_max), now)
}

async fn spent(journal: &impl Journal, now: Timestamp) -> i64 {
    journal.spent(&limited("any", 1, now).tally().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_restart_adds_up_what_there_is() {
    let place = Place::new();
    let journal = place.open();
    let entries = ["done", "doubted", "released"].map(|key| limited(key, 3 * EACH, NOW));
    for entry in &entries {
        insert(&journal, entry).await;
    }
    change(&journal, &entries[0], &proven(), NOW).await;
    change(&journal, &entries[2], &not_sent(), NOW).await;
    // Of another day, and one without a limit.
    insert(&journal, &limited("yesterday", EACH, NOW - DAY)).await;
    insert(&journal, &started("unlimited", NOW)).await;
    drop(journal);
    let journal = place.open();
    assert_eq!((spent(&journal, NOW).await, spent(&journal, NOW - DAY).await), (2 * EACH, EACH));
    let full = journal.insert(limited("full", 3 * EACH - 1, NOW)).await.unwrap();
    assert_eq!(full, Written::Beyond { spent: 2 * EACH });
    insert(&journal, &limited("fits", 3 * EACH, NOW)).await;
    drop(journal);
    // A new day begins with nothing, and the old one is not forgotten at midnight.
    place.clock.advance(DAY);
    let journal = place.open();
    assert_eq!((spent(&journal, NOW).await, spent(&journal, NOW + DAY).await), (3 * EACH, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_a_database_takes_the_sums_along() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, file) = (Clock::system(), folder.path().join("journal.jsonl"));
    let settings = Settings::beginning(folder.path().join("journal"));
    let embedded = once_free(|| Embedded::open(&settings, &clock, &schedule())).unwrap();
    let now = clock.now();
    for key in ["one", "two"] {
        insert(&embedded, &limited(key, 9 * EACH, now)).await;
    }
    let released = limited("three", 9 * EACH, now);
    insert(&embedded, &released).await;
    change(&embedded, &released, &not_sent(), now).await;
    insert(&embedded, &limited("of-long-ago", 9 * EACH, now - 9 * DAY)).await;
    drop(embedded);
    once_free(|| embedded::export(&settings.directory, &file)).unwrap();
    let database = shared().database();
    postgres::import(&database, &payops::journal::audit::Key::none(), &file).await.unwrap();
    let terms = Terms { new: false, ..Terms::beginning() };
    let (journal, clock) = Postgres::open(&postgres::Settings {
        postgres: database,
        terms,
        audit: payops::journal::audit::Key::none(),
    })
    .await
    .unwrap();
    assert_eq!(spent(&journal, now).await, 2 * EACH);
    assert_eq!(spent(&journal, now - 9 * DAY).await, 0, "it serves nobody");
    let full = journal.insert(limited("full", 3 * EACH - 1, clock.now())).await.unwrap();
    assert_eq!(full, Written::Beyond { spent: 2 * EACH });
}

/// Several processes at one sum: none takes what another one took.
#[tokio::test(flavor = "multi_thread")]
async fn several_writers_share_one_sum() {
    let settings =
        postgres::Settings { terms: Terms::beginning(), ..super::postgres::settings(shared().database()) };
    let mut journals = Vec::new();
    for _ in 0..4 {
        journals.push(Postgres::open(&settings).await.unwrap());
    }
    let now = journals[0].1.now();
    let writes = (0..200).map(|nth| {
        let journal = &journals[nth % 4].0;
        let entry = limited(&format!("key-{nth}"), 20 * EACH + 1, now);
        async move { (entry.clone(), journal.insert(entry).await.unwrap()) }
    });
    let written = join_all(writes).await;
    let (done, beyond): (Vec<_>, Vec<_>) = written.iter().partition(|(_, written)| *written == Written::Done);
    assert!(beyond.iter().all(|(_, written)| matches!(written, Written::Beyond { .. })), "{beyond:?}");
    assert_eq!((done.len(), spent(&journals[1].0, now).await), (20, 20 * EACH));
    // Given back by one, taken by another.
    for (entry, _) in &done[..5] {
        let next = super::after(entry, &not_sent(), now);
        assert_eq!(journals[2].0.update(next).await.unwrap(), Written::Done);
    }
    let more = (0..40).map(|nth| {
        let journal = &journals[nth % 4].0;
        journal.insert(limited(&format!("more-{nth}"), 20 * EACH, now))
    });
    let more = join_all(more).await;
    assert_eq!(more.iter().filter(|written| **written == Ok(Written::Done)).count(), 5);
    assert_eq!(spent(&journals[3].0, now).await, 20 * EACH);
}

/// The connection is lost while the commit waits for the standby: it may stand, and is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_repeated_is_counted_once() {
    let mut cluster = Cluster::start();
    let mut settings =
        postgres::Settings { terms: Terms::beginning(), ..super::postgres::settings(cluster.database()) };
    settings.postgres.commit_wait = Duration::from_secs(20);
    let (journal, clock) = Postgres::open(&settings).await.unwrap();
    let now = clock.now();
    let first = limited("first", 2 * EACH, now);
    assert_eq!(journal.insert(first.clone()).await.unwrap(), Written::Done);
    let second = limited("second", 2 * EACH, now);
    lost_and_repeated(&mut cluster, &journal, async |journal| journal.insert(second.clone()).await).await;
    assert_eq!(spent(&journal, now).await, 2 * EACH);
    let over = super::after(&first, &not_sent(), now);
    lost_and_repeated(&mut cluster, &journal, async |journal| journal.update(over.clone()).await).await;
    assert_eq!(spent(&journal, now).await, EACH);
}

/// Writes, and loses the connection in the middle of the commit.
async fn lost_and_repeated(
    cluster: &mut Cluster,
    journal: &Postgres,
    write: impl AsyncFn(&Postgres) -> Result<Written, Error>,
) {
    let lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
    loop {
        // The audit's chain, too: after a write whose outcome was unknown it begins anew.
        eventually("it is fit", async || journal.note(Vec::new()).await.is_ok()).await;
        cluster.standby.as_mut().unwrap().stop();
        let mut writing = Box::pin(write(journal));
        let waits = eventually("it waits", async || !cluster.primary.sql("postgres", lost).is_empty());
        // That the standby is gone may be noticed before the write comes to it: then nothing is begun.
        let early = tokio::select! {
            written = &mut writing => Some(written),
            () = waits => None,
        };
        cluster.standby.as_mut().unwrap().start();
        match early {
            None => return assert_eq!(writing.await, Ok(Written::Done)),
            Some(early) => assert!(matches!(early, Err(Error::Unavailable(_))), "{early:?}"),
        }
    }
}
