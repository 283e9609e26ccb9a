//! What is left, in PostgreSQL, of a key that was forgotten: nothing, once every insert refuses it by its age.

use std::time::{Duration, Instant};

use futures::future::join_all;
use payops::journal::postgres::Postgres;
use payops::journal::{Journal as _, Tombstone, Written};

use super::{DAY, after, minted, postgres::settings, proven, started};
use crate::database::{name, shared};

/// Longer than the retention, and than the hour in whose steps the refusal moves.
const LONG_AGO: Duration = Duration::from_hours(91 * 24);

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_tells_its_age_leaves_nothing_and_is_refused_by_it() {
    let settings = settings(shared().database());
    let (journal, clock) = Postgres::open(&settings).await.unwrap();
    let sql = |query: &str| shared().primary.sql(name(&settings.postgres), query);
    let old = clock.now() - LONG_AGO;
    let began = Instant::now();
    let dated: Vec<_> = (0..500).map(|_| minted(old)).collect();
    let ageless: Vec<_> = (0..20).map(|nth| format!("order-{nth}")).collect();
    join_all(dated.iter().chain(&ageless).map(async |key| {
        let entry = started(key, old);
        assert_eq!(journal.insert(entry.clone()).await.unwrap(), Written::Done);
        assert_eq!(journal.update(after(&entry, &proven(), old)).await.unwrap(), Written::Done);
    }))
    .await;
    // Old enough to be refused, and open: a person has not decided yet.
    let open = started(&minted(old), old);
    assert_eq!(journal.insert(open.clone()).await.unwrap(), Written::Done);
    let lived = began.elapsed();
    let rows = || sql("SELECT count(*) FROM payops.operations");

    let began = Instant::now();
    while journal.forget(64).await.unwrap() > 0 {}
    assert_eq!(rows(), "521", "what an insert that is under way could pass stays");
    let younger = started(&minted(clock.now() - 89 * DAY), old);
    assert_eq!(journal.insert(younger).await.unwrap(), Written::Done, "whatever is younger is not refused");
    let late = minted(old);
    assert_eq!(journal.insert(started(&late, clock.now())).await.unwrap(), Written::Expired);

    sql("UPDATE payops.meta SET gone_since = gone_since - 600001");
    assert_eq!(journal.forget(10).await.unwrap(), 10, "not more than is asked for");
    while journal.forget(64).await.unwrap() > 0 {}
    let went = began.elapsed();
    println!("of 520 operations: {lived:?} to carry out, {went:?} to forget and to take away");
    assert_eq!(rows(), "22", "those that tell no age, one that is open and one that is young");
    assert!(journal.get(open.id).await.unwrap().is_some());
    for key in &dated[..20] {
        assert_eq!(journal.insert(started(key, clock.now())).await.unwrap(), Written::Expired);
        assert_eq!(journal.find(&open.caller, &key.parse().unwrap()).await.unwrap(), None);
    }
    let tombstone = Tombstone { state: "succeeded".to_owned() };
    for key in &ageless {
        let again = journal.insert(started(key, clock.now())).await.unwrap();
        assert_eq!(again, Written::Forgotten(tombstone.clone()));
    }
    // What is open ends as ever; and once it is forgotten, it goes at once.
    assert_eq!(journal.update(after(&open, &proven(), old)).await.unwrap(), Written::Done);
    while journal.forget(64).await.unwrap() > 0 {}
    assert_eq!(rows(), "21");
}
