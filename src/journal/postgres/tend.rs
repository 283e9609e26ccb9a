//! What runs beside the journal: a look at the database every few seconds, and
//! at what is waited for.

use std::{sync::Arc, time::Duration};

use crate::journal::{Error, postgres::inner::Inner};

/// How often what is waited for is looked at, whatever was heard of it.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How often the database is asked about itself: its clock, its standby,
/// whether it is still the same.
const EXAMINE_EVERY: Duration = Duration::from_secs(2);

/// Looks at the database until it is stopped.
pub(super) async fn examine(inner: Arc<Inner>) {
    again_and_again(EXAMINE_EVERY, "the database could not be looked at", || inner.look()).await;
}

/// Looks at what is waited for until it is stopped.
pub(super) async fn watch(inner: Arc<Inner>) {
    let failed = "what is waited for could not be looked at";
    again_and_again(WATCH_EVERY, failed, || inner.look_at_watched()).await;
}

async fn again_and_again<F>(every: Duration, failed: &'static str, look: impl Fn() -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = look().await {
            tracing::debug!(%error, "{failed}");
        }
    }
}
