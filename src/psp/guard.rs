//! Spares a PSP that is in trouble, and us its trouble, account by account:
//! nothing is begun while most requests fail (a circuit breaker), no account
//! takes more than its part of what may be under way (a bulkhead), and where
//! the PSP says that it is too much, there is less of it.
//!
//! # Correctness
//!
//! All of this happens in [`Psp::prepare`] and [`Psp::look`], before the first
//! record: what is turned away was never begun, and "nothing was sent" is true.
//! What has a record is sent, and [`Psp::read`], on which every definite answer
//! rests, is turned away only while the PSP itself asks to be left alone. No
//! answer is changed.

pub mod circuit;
pub mod limit;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::clock::Clock;
use crate::payment::{
    Command,
    id::{AccountId, TransactionId},
};
use crate::psp::guard::circuit::{Change, Circuit};
use crate::psp::guard::limit::Limit;
use crate::psp::{NotSent, Page, Psp, ReadError, Received, transaction::Transaction};

/// A PSP behind the guard.
#[derive(Clone)]
pub struct Guarded<P> {
    inner: P,
    clock: Clock,
    settings: Settings,
    accounts: Arc<HashMap<AccountId, Arc<Account>>>,
}

/// What bounds each account.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The attempts under way at once, and as many reads of callers.
    pub in_flight_max: usize,
    /// When its circuits open.
    pub circuit: circuit::Settings,
    /// An attempt that has no answer by then is a failure, and gives its place
    /// back; its answer is still heard.
    pub attempt_timeout: Duration,
}

/// A request with its place.
pub struct Prepared<Q> {
    inner: Q,
    place: Place,
}

struct Account {
    id: AccountId,
    state: Mutex<State>,
}

/// Commands and reads have circuits of their own: reads that work say nothing
/// of commands that do not.
struct State {
    sending: Circuit,
    reading: Circuit,
    limit: Limit,
    under_way: [usize; 2],
    /// The PSP asked to be left alone until then, by the boot clock.
    paused_until: Duration,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Sending,
    Reading,
}

/// What an answer says of the PSP, whatever it says of the payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Works,
    Fails,
    TooMuch { retry_after: Option<Duration> },
}

/// The right to one request. Given back when it is dropped.
struct Place {
    account: Arc<Account>,
    clock: Clock,
    doing: Doing,
    /// This request is to show whether it is over; none once it has.
    probe: bool,
}

impl<P> Guarded<P> {
    /// Guards these accounts.
    pub fn new(
        inner: P,
        accounts: impl IntoIterator<Item = AccountId>,
        settings: Settings,
        clock: Clock,
    ) -> Self {
        let account = |id: AccountId| {
            let state = State {
                sending: Circuit::new(settings.circuit),
                reading: Circuit::new(settings.circuit),
                limit: Limit::new(settings.in_flight_max),
                under_way: [0; 2],
                paused_until: Duration::ZERO,
            };
            (id.clone(), Arc::new(Account { id, state: Mutex::new(state) }))
        };
        let accounts = Arc::new(accounts.into_iter().map(account).collect());
        Self { inner, clock, settings, accounts }
    }

    /// What each account's circuits are: that for commands, and that for reads.
    pub fn circuits(&self) -> Vec<(AccountId, [circuit::State; 2])> {
        let states = self.accounts.iter().map(|(id, account)| {
            let state = account.state();
            (id.clone(), [state.sending.state(), state.reading.state()])
        });
        states.collect()
    }

    /// None for an account that is not served.
    fn enter(&self, id: &AccountId, doing: Doing) -> Result<Option<Place>, NotSent> {
        let Some(account) = self.accounts.get(id) else { return Ok(None) };
        let now = self.clock.boot();
        let mut state = account.state();
        state.not_paused(now)?;
        if state.under_way(doing) >= state.limit.get() {
            return Err(NotSent::Overloaded);
        }
        let probe =
            state.circuit(doing).admit(now).map_err(|retry_after| NotSent::CircuitOpen { retry_after })?;
        state.enters(doing);
        drop(state);
        Ok(Some(Place { account: Arc::clone(account), clock: self.clock.clone(), doing, probe }))
    }
}

impl<P: Psp> Guarded<P> {
    /// Reads, and notes what that says of the PSP. Where the circuit is open, a
    /// success is as good a test as any.
    async fn noted<T>(
        &self,
        account: &AccountId,
        read: impl Future<Output = Result<T, ReadError>> + Send,
    ) -> Result<T, ReadError> {
        let Some(account) = self.accounts.get(account) else { return read.await };
        account.state().not_paused(self.clock.boot()).map_err(ReadError::NotSent)?;
        let read = read.await;
        let health = health_of_read(&read);
        account.report(Doing::Reading, health, health == Health::Works, self.clock.boot());
        read
    }
}

impl<P: Psp> Psp for Guarded<P> {
    type Prepared = Prepared<P::Prepared>;

    async fn prepare(&self, command: &Command) -> Result<Self::Prepared, NotSent> {
        let account = command.operation.transaction.account();
        let place = self.enter(&account, Doing::Sending)?.ok_or(NotSent::UnknownAccount)?;
        Ok(Prepared { inner: self.inner.prepare(command).await?, place })
    }

    async fn send(&self, prepared: Self::Prepared) -> Received {
        let Prepared { inner, mut place } = prepared;
        let mut sending = std::pin::pin!(self.inner.send(inner));
        match tokio::time::timeout(self.settings.attempt_timeout, &mut sending).await {
            Ok(received) => {
                place.report(health_of(&received));
                received
            }
            Err(_) => {
                place.report(Health::Fails);
                drop(place);
                sending.await
            }
        }
    }

    async fn read(&self, transaction: &TransactionId) -> Result<Transaction, ReadError> {
        self.noted(&transaction.account(), self.inner.read(transaction)).await
    }

    async fn look(&self, transaction: &TransactionId) -> Result<Transaction, ReadError> {
        let place = self.enter(&transaction.account(), Doing::Reading).map_err(ReadError::NotSent)?;
        let read = self.inner.look(transaction).await;
        if let Some(mut place) = place {
            place.report(health_of_read(&read));
        }
        read
    }

    async fn list(&self, page: &Page) -> Result<Vec<TransactionId>, ReadError> {
        self.noted(&page.account, self.inner.list(page)).await
    }

    fn serves(&self, transaction: &TransactionId) -> bool {
        self.inner.serves(transaction)
    }
}

impl<Q: super::Prepared> super::Prepared for Prepared<Q> {
    fn life_left(&self) -> Duration {
        self.inner.life_left()
    }
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, doing: Doing, health: Health, probe: bool, now: Duration) {
        let mut state = self.state();
        match health {
            Health::TooMuch { retry_after } => {
                state.limit.too_much(now);
                let until = now.saturating_add(retry_after.unwrap_or_default());
                state.paused_until = state.paused_until.max(until);
                let limit = state.limit.get();
                tracing::warn!(account = %self.id, limit, ?retry_after, "the PSP says that it is too much");
            }
            Health::Works if doing == Doing::Sending => state.limit.taken(),
            Health::Works | Health::Fails => {}
        }
        let works = health != Health::Fails;
        let change = state.circuit(doing).report(works, probe, now);
        drop(state);
        match change {
            Some(Change::Opened) => {
                tracing::warn!(account = %self.id, ?doing, "most requests to the PSP fail: no more are begun for a while");
            }
            Some(Change::Closed) => {
                tracing::info!(account = %self.id, ?doing, "the PSP works again");
            }
            None => {}
        }
    }
}

impl State {
    fn circuit(&mut self, doing: Doing) -> &mut Circuit {
        match doing {
            Doing::Sending => &mut self.sending,
            Doing::Reading => &mut self.reading,
        }
    }

    fn not_paused(&self, now: Duration) -> Result<(), NotSent> {
        let left = self.paused_until.saturating_sub(now);
        if left.is_zero() { Ok(()) } else { Err(NotSent::RateLimited { retry_after: left }) }
    }

    fn under_way(&self, doing: Doing) -> usize {
        let [sending, reading] = self.under_way;
        if doing == Doing::Sending { sending } else { reading }
    }

    fn enters(&mut self, doing: Doing) {
        let [sending, reading] = &mut self.under_way;
        let count = if doing == Doing::Sending { sending } else { reading };
        *count = count.saturating_add(1);
    }

    fn leaves(&mut self, doing: Doing) {
        let [sending, reading] = &mut self.under_way;
        let count = if doing == Doing::Sending { sending } else { reading };
        *count = count.saturating_sub(1);
    }
}

impl Place {
    fn report(&mut self, health: Health) {
        self.account.report(self.doing, health, self.probe, self.clock.boot());
        self.probe = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.account.state();
        state.leaves(self.doing);
        if self.probe {
            state.circuit(self.doing).probe_lost(self.clock.boot());
        }
    }
}

/// A refusal is an answer: the PSP works.
fn health_of(received: &Received) -> Health {
    match received {
        Received::Answered { .. } | Received::Refused(_) | Received::Unauthorized => Health::Works,
        Received::Pushback { http_status: 429, retry_after } => Health::TooMuch { retry_after: *retry_after },
        Received::Pushback { .. } => Health::Works,
        Received::NotSent(_) | Received::Unknown(_) => Health::Fails,
    }
}

fn health_of_read<T>(read: &Result<T, ReadError>) -> Health {
    match read {
        Ok(_) | Err(ReadError::NotFound | ReadError::Forbidden) => Health::Works,
        Err(ReadError::NotSent(NotSent::RateLimited { retry_after })) => {
            Health::TooMuch { retry_after: Some(*retry_after) }
        }
        // Nothing went to the PSP, or it does not like us: no sign of trouble there.
        Err(ReadError::NotSent(
            NotSent::CredentialsRejected(_)
            | NotSent::Overloaded
            | NotSent::CircuitOpen { .. }
            | NotSent::WindowMissed
            | NotSent::UnknownAccount,
        )) => Health::Works,
        Err(ReadError::NotSent(NotSent::Unreachable(_)) | ReadError::Unreadable(_)) => Health::Fails,
    }
}

#[cfg(test)]
mod tests;
