//! What is looked at again and again while the boundary serves: whether it is
//! ready, and what only a look can show.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::app::{Client, Transport};
use crate::clock::Clock;
use crate::health::Health;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::psp::{NotSent, dintero::Dintero};

/// How often readiness is looked at.
const READINESS_EVERY: Duration = Duration::from_millis(500);
/// How often writing is proven while nothing else shows it.
const JOURNAL_CHECK_EVERY: u32 = 10;
/// How often what is open is counted, and everything else is shown that only a
/// look can show.
const SHOWN_EVERY: Duration = Duration::from_secs(5);

/// What is looked at.
#[derive(Clone)]
pub(super) struct Watched<J> {
    pub(super) journal: J,
    pub(super) dintero: Dintero<Transport>,
    pub(super) guarded: Client,
    pub(super) clock: Clock,
    /// What is worked on, waited for or not.
    pub(super) tasks: TaskTracker,
}

impl<J: Journal> Watched<J> {
    /// Shows what is open, and how the accounts are, until `stop`.
    pub(super) async fn show(self, metrics: Metrics, stop: CancellationToken) {
        let mut tick = tokio::time::interval(SHOWN_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut head = None;
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            match self.journal.open_states().await {
                Ok(states) => metrics.open(&states, self.clock.now()),
                Err(error) => tracing::debug!(%error, "what is open could not be counted"),
            }
            metrics.under_way(self.tasks.len());
            metrics.waiting(self.journal.waiting());
            for (account, states) in self.guarded.circuits() {
                metrics.circuits(&account, states);
            }
            for (account, life) in self.dintero.credentials().await {
                metrics.token_life(&account, life.unwrap_or_default());
            }
            let now = self.journal.head();
            let before = head.filter(|before: &crate::journal::audit::Head| {
                now.is_some_and(|now| now.chain == before.chain)
            });
            let batches =
                now.map_or(0, |now| now.batch.saturating_sub(before.map_or(0, |before| before.batch)));
            metrics.audited(batches);
            head = now;
        }
    }

    /// Ready while the journal can be written and every account has credentials
    /// that the PSP takes. A PSP that is merely out of reach does not make an
    /// unready boundary once it has been ready: it still answers for what it knows.
    pub(super) async fn readiness(self, health: Health, metrics: Metrics, stop: CancellationToken) {
        let mut tick = tokio::time::interval(READINESS_EVERY);
        let mut ticks = 0_u32;
        let mut journal_works = true;
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if ticks.is_multiple_of(JOURNAL_CHECK_EVERY) || !journal_works {
                journal_works = self.journal.check().await.is_ok();
            }
            ticks = ticks.wrapping_add(1);
            let was_ready = health.is_ready();
            let credentials = self.dintero.credentials().await;
            let unusable = credentials.iter().find(|(_, state)| match state {
                Ok(_) => false,
                Err(NotSent::CredentialsRejected(_)) => true,
                Err(_) => !was_ready,
            });
            let ready = journal_works && unusable.is_none() && !stop.is_cancelled();
            if ready != was_ready {
                match unusable {
                    Some((account, _)) => {
                        tracing::warn!(%account, ready, "readiness changed: no usable credentials");
                    }
                    None => tracing::info!(journal_works, ready, "readiness changed"),
                }
            }
            health.set_ready(ready);
            metrics.ready(ready);
        }
        health.set_ready(false);
        metrics.ready(false);
    }
}
