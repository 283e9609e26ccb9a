//! The places for connections, and which of them could be spared: those on
//! which no call is under way, the longest idle first.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// So many connections, and no more.
pub(super) struct Places {
    free: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// A connection has become idle.
    turned_idle: Notify,
}

/// The idle ones, by when they became so.
#[derive(Default)]
struct Idle {
    next: u64,
    since: BTreeMap<u64, CancellationToken>,
}

/// The place of one connection. It is given back when it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    calls: Mutex<Calls>,
    /// Cancelled when somebody else needs the place.
    wanted: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

struct Calls {
    under_way: usize,
    any: bool,
    /// Its number among the idle ones; none while a call is under way.
    idle: Option<u64>,
    since: Instant,
}

/// A call that is under way.
pub(super) struct Call(Arc<Place>);

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(most));
        Arc::new(Self { free, idle: Mutex::default(), turned_idle: Notify::new() })
    }

    /// A place. Where none is free, the connection that has been idle for the
    /// longest loses its own; where all are busy, one is waited for.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Arc<Place>> {
        loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                return Some(self.given(permit));
            }
            let freed = Arc::clone(&self.free).acquire_owned();
            let longest_idle = self.idle().since.pop_first();
            if let Some((_, wanted)) = longest_idle {
                wanted.cancel();
                return Some(self.given(freed.await.ok()?));
            }
            tokio::select! {
                permit = freed => return Some(self.given(permit.ok()?)),
                () = self.turned_idle.notified() => {}
            }
        }
    }

    /// A connection makes no call at first.
    fn given(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Arc<Place> {
        let wanted = CancellationToken::new();
        let idle = Some(self.insert(&wanted));
        let calls = Mutex::new(Calls { under_way: 0, any: false, idle, since: Instant::now() });
        Arc::new(Place { places: Arc::clone(self), calls, wanted, _permit: permit })
    }

    fn insert(&self, wanted: &CancellationToken) -> u64 {
        let mut idle = self.idle();
        let number = idle.next;
        idle.next = idle.next.wrapping_add(1);
        idle.since.insert(number, wanted.clone());
        drop(idle);
        self.turned_idle.notify_one();
        number
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Begins a call, which ends when what is returned is dropped.
    pub(super) fn call(self: &Arc<Self>) -> Call {
        let mut calls = self.calls();
        calls.under_way = calls.under_way.saturating_add(1);
        calls.any = true;
        if let Some(number) = calls.idle.take() {
            self.places.idle().since.remove(&number);
        }
        Call(Arc::clone(self))
    }

    /// Since when no call is under way, and whether there ever was one.
    pub(super) fn idle_since(&self) -> Option<(Instant, bool)> {
        let calls = self.calls();
        (calls.under_way == 0).then_some((calls.since, calls.any))
    }

    /// Ends when somebody else needs the place.
    pub(super) async fn wanted(&self) {
        self.wanted.cancelled().await;
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Place { places, wanted, .. } = &*self.0;
        let mut calls = self.0.calls();
        calls.under_way = calls.under_way.saturating_sub(1);
        if calls.under_way == 0 {
            calls.since = Instant::now();
            calls.idle = Some(places.insert(wanted));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(number) = self.calls().idle.take() {
            self.places.idle().since.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(places: &Arc<Places>) -> Arc<Place> {
        places.take().await.unwrap()
    }

    fn is_wanted(place: &Place) -> bool {
        place.wanted.is_cancelled()
    }

    #[tokio::test]
    async fn the_longest_idle_connection_is_the_one_that_goes() {
        let places = Places::new(3);
        let (first, second, third) = (take(&places).await, take(&places).await, take(&places).await);
        // The first has been idle for a shorter time than the others now.
        drop(first.call());
        let fourth = tokio::spawn({
            let places = Arc::clone(&places);
            async move { take(&places).await }
        });
        second.wanted().await;
        assert!(!is_wanted(&first) && !is_wanted(&third));
        drop(second);
        fourth.await.unwrap();
    }

    #[tokio::test]
    async fn a_busy_connection_keeps_its_place_until_its_call_is_over() {
        let places = Places::new(1);
        let only = take(&places).await;
        let (one, other) = (only.call(), only.call());
        let mut next = std::pin::pin!(places.take());
        assert!(futures::poll!(&mut next).is_pending() && !is_wanted(&only));
        drop(one);
        assert!(futures::poll!(&mut next).is_pending() && !is_wanted(&only));
        drop(other);
        assert!(futures::poll!(&mut next).is_pending() && is_wanted(&only));
        drop(only);
        assert!(next.await.is_some());
    }

    #[tokio::test]
    async fn what_is_gone_is_not_asked_to_go() {
        let places = Places::new(2);
        let gone = take(&places).await;
        let stays = take(&places).await;
        drop(gone);
        let _third = take(&places).await;
        assert!(!is_wanted(&stays));
        assert_eq!(places.idle().since.len(), 2);
    }
}
