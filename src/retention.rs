//! Forgets what is over and old, a little at a time, so that the journal does
//! not grow for ever.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::journal::Journal;

/// Most entries that are forgotten in one write: writes of callers wait no
/// longer for it than for a commit.
const BATCH: usize = 64;
/// Between two such writes, as long as there is more to forget: as long as the
/// last one took, within these bounds. At most half of the time goes to it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// Between two looks: a thousandth of the time that entries are kept, within
/// these bounds.
const EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(1));

/// Forgets until it is stopped.
pub async fn run<J: Journal>(journal: J, retention: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval((retention / 1_000).clamp(EVERY.0, EVERY.1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let mut forgotten = 0;
        loop {
            let began = Instant::now();
            match journal.forget(BATCH).await {
                Ok(count) => {
                    forgotten += count;
                    if count < BATCH {
                        break;
                    }
                }
                Err(error) => {
                    // Nothing is lost by trying again later.
                    tracing::warn!(%error, "old operations could not be forgotten");
                    break;
                }
            }
            let pause = tokio::time::sleep(began.elapsed().clamp(PAUSE.0, PAUSE.1));
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
        if forgotten > 0 {
            tracing::info!(operations = forgotten, "old operations were forgotten");
        }
    }
}
