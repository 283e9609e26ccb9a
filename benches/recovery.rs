//! How fast a backlog drains after a crash: `cargo bench --bench recovery`. 10,000 operations are in doubt at the kill,
//! all of which happened; each takes one read of 50 ms, of which 32 are allowed at once. `PAYOPS_IN_DOUBT` says how many
//! others.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and prints what it measured"
)]

#[path = "../tests/it/recovery/backlog.rs"]
mod backlog;
#[path = "../tests/it/place.rs"]
mod place;
#[path = "../tests/it/started.rs"]
mod started;
#[path = "../tests/it/support.rs"]
mod support;
#[path = "../tests/it/sandbox"]
mod sandbox {
    pub mod world;
}

use std::time::{Duration, Instant};

use crate::backlog::Backlog;

const READ: Duration = Duration::from_millis(50);
const AT_ONCE: usize = 32;

#[tokio::main]
async fn main() {
    let in_doubt = std::env::var("PAYOPS_IN_DOUBT").map_or(10_000, |text| text.parse().unwrap());
    let began = Instant::now();
    let backlog = Backlog::build(in_doubt).await;
    println!("{in_doubt} operations in doubt after {:.1?}", began.elapsed());

    let began = Instant::now();
    let (_life, ready) = backlog.restart(READ, AT_ONCE).await;
    let ideal = ready + READ * u32::try_from(in_doubt.div_ceil(AT_ONCE)).unwrap();
    let first = async {
        while !backlog.is_settled(0).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        began.elapsed()
    };
    // Those that would be read last ask again, one after the other, over the first half of the time.
    let retries = async {
        let mut took = Vec::new();
        for n in (0..in_doubt).rev().step_by(2) {
            if began.elapsed() > ideal / 2 {
                break;
            }
            took.push(backlog.retry(n).await);
            tokio::time::sleep(READ).await;
        }
        took.sort();
        took
    };
    let settled = async {
        while backlog.is_open().await {
            tokio::time::sleep(READ).await;
        }
        began.elapsed()
    };
    let (first, retries, settled) = tokio::join!(first, retries, settled);
    let reads = backlog.reads().await.len();
    assert_eq!(
        (reads, backlog.effects().await),
        (in_doubt, in_doubt),
        "one read each, and nothing moved again"
    );

    let ratio = settled.as_secs_f64() / ideal.as_secs_f64();
    println!("ready after {ready:.2?}; the first settled after {first:.2?}");
    println!(
        "all settled after {settled:.2?}, {ratio:.3} of the least possible ({ideal:.2?}), by {reads} reads"
    );
    println!(
        "{} retries meanwhile: {:.1?} (median), {:.1?} (longest)",
        retries.len(),
        retries[retries.len() / 2],
        retries[retries.len() - 1]
    );
    assert!(ratio <= 1.15, "the backlog drains too slowly");
    assert!(retries[retries.len() / 2] <= READ * 2, "a retry waits behind the backlog");
}
