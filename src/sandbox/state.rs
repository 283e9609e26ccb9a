//! Everything the sandbox remembers, behind one lock that is never held across an await.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::faults::{Fault, Faults, Hook};
use super::hooks::{self, Delivery, Hooks};
use super::ledger::{Completion, Lag, Ledger, Outcome};
use super::requests::Requests;
use super::token::Tokens;
use super::{Settings, demo};

/// How long products with asynchronous refunds take, unless told otherwise `[D 12 #11]`.
const LATER: Duration = Duration::from_secs(2);

/// How much may be put off at a time. What is beyond does not happen: a request is lost, an operation stays open.
const PUT_OFF_MAX: usize = 10_000;

/// What the sandbox remembers.
#[derive(Debug)]
pub struct Core {
    /// Transactions and effects.
    pub ledger: Ledger,
    /// Accounts and access tokens.
    pub tokens: Tokens,
    /// What is to go wrong.
    pub faults: Faults,
    /// Who is told of changes.
    pub hooks: Hooks,
    /// What was received.
    pub requests: Requests,
    /// How long products with asynchronous refunds take.
    pub later: Duration,
    /// Counts resets.
    generation: u64,
    /// What was put off before a reset does not happen after it.
    forget: CancellationToken,
}

/// The state, shared by all handlers.
#[derive(Debug)]
pub struct State {
    settings: Settings,
    core: Mutex<Core>,
    stop: CancellationToken,
    put_off: Arc<Semaphore>,
    /// Made when the first webhook is sent; absent if it cannot be made.
    client: OnceLock<Option<reqwest::Client>>,
}

/// One moment on both clocks: the calendar's for what is shown, the monotonic one for what expires.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The calendar's.
    pub wall: Timestamp,
    /// The monotonic one.
    pub instant: Instant,
}

impl Now {
    /// This moment.
    pub fn read() -> Self {
        Self { wall: Timestamp::now(), instant: Instant::now() }
    }
}

impl Core {
    fn new(settings: &Settings, generation: u64, stop: &CancellationToken) -> Self {
        let mut ledger = Ledger::new(settings.seed);
        if settings.demo_transactions {
            demo::open_all(&mut ledger, Timestamp::now());
        }
        ledger.take_changes(); // nobody could have subscribed
        // Tokens of an earlier generation must not become valid again.
        let token_seed = settings.seed.wrapping_add(generation);
        Self {
            ledger,
            tokens: Tokens::new(settings.accounts.clone(), settings.token_life, token_seed),
            faults: Faults::new(settings.seed),
            hooks: Hooks::new(token_seed),
            requests: Requests::default(),
            later: LATER,
            generation,
            forget: stop.child_token(),
        }
    }

    /// What is to be sent of all that has changed since this was asked last. A webhook that comes early is one whose
    /// change GET does not show yet.
    pub fn announce(&mut self, now: Now) -> Vec<Delivery> {
        let mut due = Vec::new();
        for change in self.ledger.take_changes() {
            let Ok(transaction) = self.ledger.get_mut(&change.transaction) else { continue };
            if !self.hooks.has_listeners(&transaction.opening.account) {
                continue;
            }
            let id = Some(change.transaction.as_str());
            let fault = self.faults.take(change.operation, id, |fault| match fault {
                Fault::Hook(hook) => Some(*hook),
                _ => None,
            });
            if let Some((Hook::Early(delay), _)) = fault {
                let shown = transaction.before_last_event();
                transaction.lag = Some(Lag { until: now.instant + delay, shown });
            }
            due.extend(self.hooks.changed(transaction, fault));
        }
        due
    }
}

impl State {
    /// The state at start. Work that was put off ends when `stop` is cancelled.
    pub fn new(settings: Settings, stop: CancellationToken) -> Self {
        let core = Mutex::new(Core::new(&settings, 0, &stop));
        Self { settings, core, stop, put_off: Arc::new(Semaphore::new(PUT_OFF_MAX)), client: OnceLock::new() }
    }

    /// The state. Never keep it across an await.
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Back to the start.
    pub fn reset(&self) {
        let mut core = self.lock();
        core.forget.cancel();
        *core = Core::new(&self.settings, core.generation + 1, &self.stop);
    }

    /// Runs `work` after `delay`, unless the sandbox was reset or stopped meanwhile.
    pub fn put_off(self: &Arc<Self>, delay: Duration, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let state = Arc::clone(self);
        self.run(async move {
            tokio::time::sleep(delay).await;
            work(&state);
        });
    }

    /// Runs `work` beside everything else, until the sandbox is reset or stopped.
    pub fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(permit) = Arc::clone(&self.put_off).try_acquire_owned() else {
            tracing::warn!(most = PUT_OFF_MAX, "too much is put off; what came last will not happen");
            return;
        };
        let forget = self.lock().forget.clone();
        tokio::spawn(async move {
            forget.run_until_cancelled(work).await;
            drop(permit);
        });
    }

    /// The client that webhooks are sent with.
    pub fn client(&self) -> Option<&reqwest::Client> {
        self.client.get_or_init(hooks::client).as_ref()
    }

    /// Sees to it that an accepted operation ends as it is to end.
    pub fn put_off_completion(
        self: &Arc<Self>,
        transaction: String,
        request_id: String,
        completion: Completion,
    ) {
        if completion.outcome == Outcome::Never {
            return;
        }
        self.put_off(completion.after, move |state| {
            let (outcome, now) = (&completion.outcome, Now::read());
            let (ended, webhooks) = {
                let mut core = state.lock();
                let ended = core.ledger.complete(&transaction, Some(&request_id), outcome, now.wall);
                (ended, core.announce(now))
            };
            hooks::send(state, webhooks);
            if let Err(refusal) = ended {
                tracing::warn!(transaction, message = refusal.message, "an accepted operation could not end");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Puts so much off, lets the time pass, and says how much of it happened.
    async fn happened(count: usize, reset: bool) -> usize {
        let state = Arc::new(State::new(Settings::default(), CancellationToken::new()));
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..count {
            let done = Arc::clone(&done);
            state.put_off(Duration::from_secs(1), move |_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        if reset {
            state.reset();
        }
        tokio::time::sleep(Duration::from_secs(2)).await; // the clock is paused: no time is lost
        done.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_off_has_a_bound() {
        assert_eq!(happened(3, false).await, 3);
        assert_eq!(happened(PUT_OFF_MAX + 5, false).await, PUT_OFF_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_forgets_what_was_put_off() {
        assert_eq!(happened(3, true).await, 0);
    }
}
