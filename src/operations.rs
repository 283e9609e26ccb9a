//! Everything that a caller can ask, behind one handle: the typed stack for
//! what moves money, and the journal and the PSP for what only looks.
//!
//! ```text
//! Detached              a caller who hangs up stops nothing
//!   Idempotent          replay, join, or run
//!     LoadShed          a full house is an answer, not a wait
//!     ConcurrencyLimit  bounds what is under way at the PSP
//!       Attempts        check, record (W1), send once, record (W2)
//!         Timeout       bounds the wait; expiry leaves the outcome in doubt
//!           Sender      one request, once
//! ```
//!
//! Order is meaning. Detach is outermost, or a hang-up between the two records
//! would leave a key unsettled. Limits are inside detach, or a hang-up would
//! give a permit back while the call runs on; and outside the first record, so
//! that shedding never follows it. Idempotency is always ready, so that a
//! replay needs no permit.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{ServiceBuilder, ServiceExt as _, timeout::Timeout, util::BoxCloneSyncService};

use crate::attempt::{self, Attempts, Sender, Window};
use crate::conclude::Conclude;
use crate::detach::DetachLayer;
use crate::failure::Failure;
use crate::idempotency::{Answered, IdempotencyLayer};
use crate::journal::{
    Journal,
    entry::{Entry, State},
    follow::follow,
};
use crate::payment::{
    Command,
    id::{CallerName, IdempotencyKey, OperationId, TransactionId},
};
use crate::psp::{Psp, transaction::Transaction};
use crate::reconcile::{ReadBack, Resend};

/// The handle.
#[derive(Clone)]
pub struct Operations<J, P> {
    money: BoxCloneSyncService<Command, Answered, Failure>,
    read_back: ReadBack<J, P>,
    conclude: Conclude<J, P>,
    stopping: CancellationToken,
}

/// The bounds of one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Attempts under way at once; more are shed.
    pub in_flight_max: usize,
    /// How long an answer is waited for.
    pub attempt_timeout: Duration,
    /// From before the first record to the first byte.
    pub send_window: Duration,
    /// How long after the end of that wait a sender may still be alive and not
    /// have been heard of.
    pub lease_grace: Duration,
}

/// How long a caller waits, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// When the caller is answered at the latest.
    pub until: Instant,
    /// Whether "accepted, not finished" is answer enough.
    pub pending_suffices: bool,
}

/// By which of its names an operation is asked for.
#[derive(Clone, Debug)]
pub enum Name {
    /// The id that payops gave it.
    Id(OperationId),
    /// The key that its caller gave it.
    Key(IdempotencyKey),
}

/// Attempts within bounds.
pub type BoundedAttempts<J, P> = Attempts<J, P, Timeout<Sender<J, P>>>;

impl Limits {
    /// Attempts that wait for their answers within these limits.
    pub fn attempts<J: Journal, P: Psp>(&self, conclude: &Conclude<J, P>) -> BoundedAttempts<J, P> {
        let sender =
            ServiceBuilder::new().timeout(self.attempt_timeout).service(Sender::new(conclude.clone()));
        let window =
            Window { send: self.send_window, lease: self.attempt_timeout.saturating_add(self.lease_grace) };
        Attempts::new(conclude.clone(), window, sender)
    }

    /// How reading back sends an operation in doubt once more.
    pub fn resend<J: Journal, P: Psp>(&self, conclude: &Conclude<J, P>) -> Resend {
        let attempts = self.attempts(conclude);
        Arc::new(move |entry| {
            let attempts = attempts.clone();
            Box::pin(async move {
                let id = entry.id;
                let resent = attempts.resend(entry).await;
                resent.inspect_err(|why| tracing::warn!(operation_id = %id, %why, "not sent again")).ok()
            })
        })
    }
}

impl<J: Journal, P: Psp> Operations<J, P> {
    /// Builds the stack. Its calls run on `tasks`; once `stopping` is cancelled
    /// none begins.
    pub fn new(
        conclude: Conclude<J, P>,
        read_back: ReadBack<J, P>,
        limits: &Limits,
        tasks: TaskTracker,
        stopping: CancellationToken,
    ) -> Self {
        let money = ServiceBuilder::new()
            .layer(DetachLayer::new(tasks))
            .layer(IdempotencyLayer::new(conclude.journal.clone(), read_back.clone()))
            .load_shed()
            .concurrency_limit(limits.in_flight_max)
            .service(limits.attempts(&conclude));
        Self { money: BoxCloneSyncService::new(money), read_back, conclude, stopping }
    }

    /// Carries out the command, or finds out what became of it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the waiting; the operation goes on.
    pub async fn carry_out(&self, command: Command, patience: Patience) -> Result<Answered, Failure> {
        if self.stopping.is_cancelled() {
            return Err(Failure::Draining);
        }
        let name = Name::Key(command.key.clone());
        let caller = command.caller.clone();
        let fingerprint = command.operation.fingerprint();
        let call = self.run_or_join(command);
        let Ok(answered) = tokio::time::timeout_at(patience.until, call).await else {
            // It goes on, and may have been sent: no answer of the journal's
            // makes that unsent.
            return match self.find(&caller, &name).await.unwrap_or_default() {
                // The call had no time to find that out.
                Some(entry) if entry.fingerprint != fingerprint && !wrong!(NoFingerprint) => {
                    Err(Failure::KeyReused(Some(entry.id)))
                }
                // What is known is the answer, whatever else could be found out.
                Some(entry) if entry.state.is_final() || matches!(entry.state, State::Accepted) => {
                    Ok(Answered { entry, replayed: true, joined: false })
                }
                found => Err(Failure::InProgress(found.map(Box::new))),
            };
        };
        let answered = answered?;
        if patience.pending_suffices || !matches!(answered.entry.state, State::Accepted) {
            return Ok(answered);
        }
        let finished = self.finished(answered.entry.id);
        match tokio::time::timeout_at(patience.until, finished).await {
            Ok(Some(entry)) => Ok(Answered { entry, ..answered }),
            // It was accepted; what has become of it since cannot be looked up.
            Ok(None) => Err(Failure::InProgress(Some(Box::new(answered.entry)))),
            Err(_) => Ok(answered),
        }
    }

    /// Carries the command out here; where another process sends it, waits for
    /// what comes of that, and looks only when that process is taken for dead.
    async fn run_or_join(&self, command: Command) -> Result<Answered, Failure> {
        let loss = self.conclude.journal.loss();
        loop {
            let sending = match self.money.clone().oneshot(command.clone()).await {
                Err(Failure::InProgress(Some(entry))) if !self.read_back.may_look(&entry) => entry,
                ended => return ended,
            };
            let heard = self.read_back.heard_of(sending.id);
            match self.stopping.run_until_cancelled(heard).await.flatten() {
                // An older record that came back knows nothing of what was sent since.
                Some(entry)
                    if matches!(entry.state, State::Released { .. })
                        && self.conclude.journal.loss() != loss =>
                {
                    return Err(Failure::InProgress(Some(sending)));
                }
                // That one's answer, whatever it is: a second run begins with a
                // call of its own.
                Some(entry) if !entry.state.is_sending() => {
                    return Ok(Answered { entry, replayed: true, joined: true });
                }
                Some(_) => {}
                // What it came to cannot be waited for here, or not be read.
                None => return Err(Failure::InProgress(Some(sending))),
            }
        }
    }

    /// What the command came to, if that is final and known without asking much.
    pub async fn recall(&self, command: &Command) -> Option<Answered> {
        let known = self.conclude.journal.recall(&command.caller, &command.key).await.ok()??;
        let is_it = known.fingerprint == command.operation.fingerprint() && known.state.is_final();
        is_it.then_some(Answered { entry: known, replayed: true, joined: false })
    }

    /// Checks everything, sends nothing, records nothing. Where the key has run
    /// already, what came of it is the answer: a check of what would happen now
    /// would call a new key safe that is not.
    pub async fn validate(&self, command: &Command) -> Result<Option<Answered>, Failure> {
        let found =
            self.conclude.journal.find(&command.caller, &command.key).await.map_err(Failure::Journal)?;
        let released = match found {
            None => None,
            Some(entry) if entry.fingerprint != command.operation.fingerprint() => {
                return Err(Failure::KeyReused(Some(entry.id)));
            }
            Some(entry) if matches!(entry.state, State::Released { .. }) => Some(entry.id),
            Some(entry) => return Ok(Some(Answered { entry, replayed: true, joined: false })),
        };
        if let Some(denied) = command.permit.denied() {
            return Err(Failure::Denied(denied.clone(), released));
        }
        let transaction = &command.operation.transaction;
        if let Some(open) = self.conclude.journal.open_on(transaction).await.map_err(Failure::Journal)? {
            return Err(Failure::Busy(Box::new(open)));
        }
        attempt::validate(&self.conclude, command).await.map_err(|failure| failure.of(released))?;
        Ok(None)
    }

    /// Reads the PSP's transaction.
    pub async fn transaction(&self, id: &TransactionId) -> Result<Transaction, Failure> {
        self.conclude.psp.look(id).await.map_err(Failure::from_read)
    }

    /// The caller's operation of that name.
    pub async fn operation(&self, caller: &CallerName, name: &Name) -> Result<Entry, Failure> {
        self.find(caller, name).await?.ok_or(Failure::UnknownOperation)
    }

    /// The caller's operation now and after each change of its state. Ends when
    /// nothing more will come by itself, or when the boundary stops.
    pub async fn watch(
        &self,
        caller: &CallerName,
        name: &Name,
    ) -> Result<impl Stream<Item = Result<Entry, Failure>> + Send + use<J, P>, Failure> {
        let found = self.operation(caller, name).await?;
        let changes = follow(self.conclude.journal.clone(), found.id, self.stopping.clone(), |entry| {
            (entry.state.as_str(), entry.attempt)
        });
        Ok(changes.map(|entry| entry.map_err(Failure::Journal)?.ok_or(Failure::UnknownOperation)))
    }

    /// Whether this boundary serves the transaction's account.
    pub fn serves(&self, transaction: &TransactionId) -> bool {
        self.conclude.psp.serves(transaction)
    }

    /// Waits until the operation is no longer merely accepted. None where the
    /// journal does not say: it is out of reach, or was lost meanwhile.
    async fn finished(&self, id: OperationId) -> Option<Entry> {
        let mut changes = self.conclude.journal.changes(id);
        loop {
            let entry = self.conclude.journal.get(id).await.ok()??;
            match entry.state {
                State::Accepted => {}
                // What was accepted cannot be: it is an older one that came back.
                State::Released { .. } => return None,
                _ => return Some(entry),
            }
            if !matches!(self.stopping.run_until_cancelled(changes.changed()).await, Some(Ok(()))) {
                return Some(entry);
            }
        }
    }

    async fn find(&self, caller: &CallerName, name: &Name) -> Result<Option<Entry>, Failure> {
        let found = match name {
            Name::Id(id) => self.conclude.journal.get(*id).await,
            Name::Key(key) => self.conclude.journal.find(caller, key).await,
        };
        // Another caller's operation does not exist for this one.
        Ok(found.map_err(Failure::Journal)?.filter(|entry| entry.caller == *caller))
    }
}
