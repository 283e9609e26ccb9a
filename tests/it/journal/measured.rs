//! The figures of docs/journal.md, in a release build:
//! `PAYOPS_ENTRIES=1000000 cargo test --release --test it measured -- --nocapture`

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use payops::journal::{Journal as _, embedded};

use super::{NOW, Place, change, insert, minted, proven, started};

/// Most writers at once.
const WRITERS: usize = 512;

#[tokio::test(flavor = "multi_thread")]
async fn many_operations() {
    let place = Place::new();
    let journal = place.open();
    let asked = std::env::var("PAYOPS_ENTRIES").ok().and_then(|count| count.parse().ok());
    let (entries, over) = (asked.unwrap_or(1_000_u32), proven());
    let began = Instant::now();
    stream::iter(0..entries)
        .for_each_concurrent(WRITERS, async |number| {
            let entry = started(&minted(NOW + Duration::from_millis(number.into())), NOW);
            insert(&journal, &entry).await;
            change(&journal, &entry, &over, NOW).await;
        })
        .await;
    let rate = f64::from(2 * entries) / began.elapsed().as_secs_f64();
    println!("{rate:.0} durable writes a second, {WRITERS} at once");
    let began = Instant::now();
    for number in 0..200 {
        insert(&journal, &started(&format!("one-{number}"), NOW)).await;
    }
    println!("one after the other: {:?} each", began.elapsed() / 200);
    drop(journal);
    let stats = embedded::stats(place.directory()).unwrap();
    println!("{} bytes for an operation", stats.file_bytes / u64::from(entries));
    let began = Instant::now();
    let journal = place.open();
    println!("checked and opened in {:?}", began.elapsed());
    let began = Instant::now();
    embedded::backup(place.directory(), &place.folder.path().join("backup")).unwrap();
    println!("backup, with its check, in {:?}", began.elapsed());
    place.clock.advance(place.settings.terms.retention + Duration::from_secs(1));
    let mut batches = 0_u32;
    let began = Instant::now();
    while batches < 1_000 && journal.forget(64).await.unwrap() > 0 {
        batches += 1;
    }
    println!("64 forgotten in {:?} on average", began.elapsed() / batches);
}
