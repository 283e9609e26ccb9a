//! What runs beside the journal: news between processes, and a look at the
//! database every few seconds.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_postgres::types::Type;

use crate::journal::{
    Error,
    postgres::{
        connection::{Connected, NOTIFICATIONS_MAX, Purpose},
        inner::Inner,
        rows::Parameter,
    },
};
use crate::payment::id::OperationId;

/// How often what is waited for is looked at, whatever was heard of it.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How often the database is asked about itself: its clock, its standby,
/// whether it is still the same.
const EXAMINE_EVERY: Duration = Duration::from_secs(2);
/// Before a connection that was lost is made anew.
const PAUSE: Duration = Duration::from_millis(500);
/// Most operations that one notification names: 8,000 bytes are its limit.
const NAMES_MAX: usize = 128;
/// The name under which news is told. No secret is in it.
const CHANNEL: &str = "payops_changes";

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

/// Hears what other processes wrote, and tells them what this one did.
pub(super) async fn exchange(inner: Arc<Inner>, mut news: mpsc::Receiver<(OperationId, u64)>) {
    loop {
        let (heard, mut hear) = mpsc::channel(NOTIFICATIONS_MAX);
        match inner.connect(Purpose::Notify, Some(heard)).await {
            Ok(connected) => match connected.client.batch_execute(&format!("LISTEN {CHANNEL}")).await {
                Ok(()) => talk(&inner, &connected, &mut hear, &mut news).await,
                Err(error) => tracing::debug!(%error, "news of other processes cannot be heard"),
            },
            Err(error) => tracing::debug!(%error, "news of other processes cannot be heard"),
        }
        // Whoever waits looks for itself meanwhile.
        while news.try_recv().is_ok() {}
        tokio::time::sleep(PAUSE).await;
    }
}

async fn talk(
    inner: &Inner,
    connected: &Connected,
    hear: &mut mpsc::Receiver<String>,
    news: &mut mpsc::Receiver<(OperationId, u64)>,
) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            heard = hear.recv() => match heard {
                Some(heard) => understand(inner, &heard),
                None => return,
            },
            count = news.recv_many(&mut batch, NAMES_MAX) => {
                if count == 0 {
                    return;
                }
                let names: Vec<_> = batch.drain(..).map(|(id, revision)| format!("{id}:{revision}")).collect();
                let names = names.join(",");
                let parameters: &[Parameter<'_>] = &[(&names, Type::TEXT)];
                let told = connected
                    .client
                    .query_typed("SELECT pg_notify('payops_changes', $1)", parameters)
                    .await;
                if told.is_err() {
                    return;
                }
            }
        }
    }
}

fn understand(inner: &Inner, heard: &str) {
    for name in heard.split(',') {
        if let Some((id, revision)) = name.split_once(':')
            && let (Ok(id), Ok(revision)) = (id.parse::<OperationId>(), revision.parse())
        {
            inner.hub.changed(id, revision);
        }
    }
}
