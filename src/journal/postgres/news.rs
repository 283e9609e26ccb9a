//! What processes tell each other: who waits for which operation, and what
//! has become of it. Nothing depends on it: who hears nothing looks for itself.
//!
//! A change is told only where somebody elsewhere has said that it waits for
//! the operation. `NOTIFY` holds a lock on the whole cluster's queue until its
//! commit is durable: one for each operation would have the commits of all
//! processes wait for each other.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::journal::{
    hub::Hub,
    postgres::{
        connection::{Connected, NOTIFICATIONS_MAX, Purpose},
        inner::Inner,
        rows::Parameter,
    },
};
use crate::payment::id::OperationId;

/// Most that waits to be told.
const TOLD_MAX: usize = 4096;
/// Most operations that others wait for, and most changes that are remembered
/// for those who say so a moment too late.
const WANTED_MAX: usize = 4096;
const RECENT_MAX: usize = 4096;
/// Who waits for longer may be forgotten when there are too many.
const WANTED_FOR: Duration = Duration::from_mins(1);
/// Before a connection that was lost is made anew.
const PAUSE: Duration = Duration::from_millis(500);
/// Most operations that one notification names: 8,000 bytes are its limit.
const NAMES_MAX: usize = 128;
/// The name under which news is told. No secret is in it.
const CHANNEL: &str = "payops_changes";
/// Begins a message of who waits; a process and operations follow.
const WANTED: &str = "wanted";

/// What this process has to tell, and what it was told.
pub(super) struct News {
    /// Names this process.
    process: Uuid,
    told: mpsc::Sender<Told>,
    known: Mutex<Known>,
}

/// What is told.
pub(super) enum Told {
    /// The operation has this revision.
    Changed(OperationId, u64),
    /// Somebody here waits for the operation.
    Wanted(OperationId),
}

#[derive(Default)]
struct Known {
    /// What others wait for, and since when.
    wanted: HashMap<OperationId, Instant>,
    /// What changed here, the latest last.
    recent: VecDeque<(OperationId, u64)>,
}

impl News {
    /// No news yet. What is to be told comes out at the other end.
    pub(super) fn new(process: Uuid) -> (Self, mpsc::Receiver<Told>) {
        let (told, telling) = mpsc::channel(TOLD_MAX);
        (Self { process, told, known: Mutex::default() }, telling)
    }

    /// Somebody here waits for the operation, which may change anywhere.
    pub(super) fn want(&self, id: OperationId) {
        self.told.try_send(Told::Wanted(id)).ok();
    }

    /// The operation was changed here.
    pub(super) fn changed(&self, id: OperationId, revision: u64) {
        if self.known().change(id, revision) {
            self.told.try_send(Told::Changed(id, revision)).ok();
        }
    }

    /// Takes what another process told.
    fn hear(&self, message: &str, hub: &Hub) {
        if let Some(wanted) = message.strip_prefix(WANTED) {
            let mut words = wanted.split_whitespace();
            if words.next().is_none_or(|process| process == self.process.to_string()) {
                return;
            }
            for id in words.filter_map(|word| word.parse().ok()) {
                // It may have changed before we heard that somebody waits.
                if let Some(revision) = self.known().want(id, Instant::now()) {
                    self.told.try_send(Told::Changed(id, revision)).ok();
                }
            }
            return;
        }
        for name in message.split_whitespace() {
            if let Some((id, revision)) = name.split_once(':')
                && let (Ok(id), Ok(revision)) = (id.parse(), revision.parse())
            {
                hub.changed(id, revision);
            }
        }
    }

    /// As messages, one of each kind at most.
    fn messages(&self, batch: &mut Vec<Told>) -> Vec<String> {
        let (mut changed, mut wanted) = (Vec::new(), Vec::new());
        for told in batch.drain(..) {
            match told {
                Told::Changed(id, revision) => changed.push(format!("{id}:{revision}")),
                Told::Wanted(id) => wanted.push(id.to_string()),
            }
        }
        let mut messages = Vec::new();
        if !changed.is_empty() {
            messages.push(changed.join(" "));
        }
        if !wanted.is_empty() {
            messages.push(format!("{WANTED} {} {}", self.process, wanted.join(" ")));
        }
        messages
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Says whether somebody elsewhere waits for it.
    fn change(&mut self, id: OperationId, revision: u64) -> bool {
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((id, revision));
        self.wanted.contains_key(&id)
    }

    /// Gives the revision that it was changed to here a moment ago.
    fn want(&mut self, id: OperationId, now: Instant) -> Option<u64> {
        if self.wanted.len() >= WANTED_MAX {
            self.wanted.retain(|_, since| now.duration_since(*since) < WANTED_FOR);
        }
        if self.wanted.len() < WANTED_MAX {
            self.wanted.insert(id, now);
        }
        self.recent.iter().rev().find(|(changed, _)| *changed == id).map(|(_, revision)| *revision)
    }
}

/// Hears what other processes tell, and tells them what they want to know.
pub(super) async fn exchange(inner: Arc<Inner>, mut telling: mpsc::Receiver<Told>) {
    loop {
        let (heard, mut hear) = mpsc::channel(NOTIFICATIONS_MAX);
        match inner.connect(Purpose::Notify, Some(heard)).await {
            Ok(connected) => match connected.client.batch_execute(&format!("LISTEN {CHANNEL}")).await {
                Ok(()) => talk(&inner, &connected, &mut hear, &mut telling).await,
                Err(error) => tracing::debug!(%error, "news of other processes cannot be heard"),
            },
            Err(error) => tracing::debug!(%error, "news of other processes cannot be heard"),
        }
        // Whoever waits looks for itself meanwhile.
        while telling.try_recv().is_ok() {}
        tokio::time::sleep(PAUSE).await;
    }
}

async fn talk(
    inner: &Inner,
    connected: &Connected,
    hear: &mut mpsc::Receiver<String>,
    telling: &mut mpsc::Receiver<Told>,
) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            heard = hear.recv() => match heard {
                Some(heard) => inner.news.hear(&heard, &inner.hub),
                None => return,
            },
            count = telling.recv_many(&mut batch, NAMES_MAX) => {
                if count == 0 {
                    return;
                }
                let messages = inner.news.messages(&mut batch);
                let parameters: &[Parameter<'_>] = &[(&CHANNEL, Type::TEXT), (&messages, Type::TEXT_ARRAY)];
                let sql = "SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message";
                if connected.client.query_typed(sql, parameters).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> (News, mpsc::Receiver<Told>, Hub) {
        let (news, telling) = News::new(Uuid::new_v4());
        (news, telling, Hub::default())
    }

    /// What a process tells next, as messages.
    fn told(news: &News, telling: &mut mpsc::Receiver<Told>) -> Vec<String> {
        let mut batch = Vec::new();
        while let Ok(told) = telling.try_recv() {
            batch.push(told);
        }
        news.messages(&mut batch)
    }

    #[test]
    fn a_change_is_told_where_somebody_else_waits_and_nowhere_else() {
        let (one, mut from_one, hub_of_one) = process();
        let (other, mut from_other, hub_of_other) = process();
        let (waited_for, not) = (OperationId::new(), OperationId::new());
        let waiter = hub_of_other.subscribe(waited_for);
        other.want(waited_for);
        for message in told(&other, &mut from_other) {
            one.hear(&message, &hub_of_one);
            // A process hears itself, too.
            other.hear(&message, &hub_of_other);
        }
        one.changed(not, 2);
        assert_eq!(told(&one, &mut from_one), [""; 0]);
        other.changed(waited_for, 2);
        assert_eq!(told(&other, &mut from_other), [""; 0], "who waits here is woken here");
        one.changed(waited_for, 3);
        for message in told(&one, &mut from_one) {
            other.hear(&message, &hub_of_other);
        }
        assert_eq!(*waiter.borrow(), 3);
    }

    #[test]
    fn a_change_that_was_faster_than_the_wish_is_told() {
        let (one, mut from_one, hub_of_one) = process();
        let (other, mut from_other, _) = process();
        let id = OperationId::new();
        one.changed(id, 2);
        one.changed(id, 3);
        one.changed(OperationId::new(), 2);
        other.want(id);
        for message in told(&other, &mut from_other) {
            one.hear(&message, &hub_of_one);
        }
        assert_eq!(told(&one, &mut from_one), [format!("{id}:3")]);
    }

    #[test]
    fn what_is_kept_has_a_bound_and_a_message_fits() {
        let (one, mut from_one, hub) = process();
        let others: Vec<_> = (0..WANTED_MAX + 10).map(|_| OperationId::new()).collect();
        for some in others.chunks(NAMES_MAX) {
            let mut batch: Vec<_> = some.iter().map(|id| Told::Wanted(*id)).collect();
            let (other, ..) = process();
            let messages = other.messages(&mut batch);
            assert!(messages.iter().all(|message| message.len() < 8_000), "a notification's limit");
            for message in messages {
                one.hear(&message, &hub);
            }
        }
        for id in &others {
            one.changed(*id, u64::MAX);
        }
        let known = one.known();
        assert_eq!((known.wanted.len(), known.recent.len()), (WANTED_MAX, RECENT_MAX));
        drop(known);
        let mut batch = Vec::new();
        while batch.len() < NAMES_MAX {
            batch.push(from_one.try_recv().unwrap());
        }
        assert!(one.messages(&mut batch).iter().all(|message| message.len() < 8_000));
        one.hear("wanted", &hub);
        one.hear("wanted nobody what:ever", &hub);
        one.hear("x:1 :: 7", &hub);
    }
}
