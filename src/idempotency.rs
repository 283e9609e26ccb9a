//! At most once per key: replay what is known, join what is running, run what
//! is free. A layer over typed commands, not over frames: whether a call is a
//! repeat is a question of meaning.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
};

use tokio_util::sync::CancellationToken;
use tower::{BoxError, Layer, Service, ServiceExt as _};

use crate::attempt::{Attempt, Attempted, LOOK_AGAIN_AFTER, records_first};
use crate::failure::Failure;
use crate::journal::{
    Journal, Loss,
    entry::{Entry, State},
};
use crate::payment::{
    Command, Fingerprint,
    id::{CallerName, IdempotencyKey},
};
use crate::psp::Psp;
use crate::reconcile::ReadBack;

/// How often a call starts over because somebody else was faster.
const ROUNDS_MAX: u32 = 3;

/// What is known of a command once its call is over.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The entry, in whatever state.
    pub entry: Entry,
    /// Whether the answer was there already, or somebody else's call brought
    /// it about.
    pub replayed: bool,
    /// Whether that other call was still running.
    pub joined: bool,
}

/// Makes [`Idempotent`] services.
#[derive(Clone)]
pub struct IdempotencyLayer<J, P> {
    journal: J,
    read_back: ReadBack<J, P>,
}

/// Runs each key at most once.
#[derive(Clone)]
pub struct Idempotent<J, P, S> {
    journal: J,
    read_back: ReadBack<J, P>,
    running: Running,
    inner: S,
}

type Key = (CallerName, IdempotencyKey);

/// A call that runs, as others see it.
#[derive(Clone)]
struct Call {
    fingerprint: Fingerprint,
    ended: Arc<OnceLock<Result<Answered, Failure>>>,
    /// Cancelled when the call is over, however it ended.
    over: CancellationToken,
}

/// The calls that run in this process now.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<HashMap<Key, Call>>>);

/// One running call; when it is dropped, the key is no longer running.
struct Lead {
    running: Running,
    key: Key,
    call: Call,
}

enum Place {
    Lead(Lead),
    Join(Call),
    /// The running call has the same key and another meaning.
    Behind(Call),
}

impl<J, P> IdempotencyLayer<J, P> {
    /// A layer over `journal`; entries in doubt are looked at by `read_back`.
    pub fn new(journal: J, read_back: ReadBack<J, P>) -> Self {
        Self { journal, read_back }
    }
}

impl<J: Clone, P: Clone, S> Layer<S> for IdempotencyLayer<J, P> {
    type Service = Idempotent<J, P, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Idempotent {
            journal: self.journal.clone(),
            read_back: self.read_back.clone(),
            running: Running::default(),
            inner,
        }
    }
}

impl<J, P, S> Idempotent<J, P, S>
where
    J: Journal,
    P: Psp,
    S: Service<Attempt, Response = Attempted, Error = BoxError> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    async fn run(self, command: Command) -> Result<Answered, Failure> {
        let fingerprint = command.operation.fingerprint();
        let loss = self.journal.loss();
        let lead = loop {
            match self.running.enter(&command, fingerprint) {
                Place::Lead(lead) => break lead,
                // The running call has the same key and another meaning. Whose the
                // key is, the journal says when that call is over: it may come to
                // nothing.
                Place::Behind(call) => call.over.cancelled().await,
                Place::Join(call) => {
                    call.over.cancelled().await;
                    // Missing only by a defect.
                    let ended = call.ended.get().cloned().ok_or(Failure::Internal)?;
                    let joined = self.joined(&command, ended).await;
                    return self.unless_lost_since(loss, joined);
                }
            }
        };
        let answered = self.unless_lost_since(loss, self.alone(command, fingerprint).await);
        // The first and only value.
        drop(lead.call.ended.set(answered.clone()));
        answered
    }

    /// "Nothing was sent" and "no" are said of what the journal held when the
    /// call began. Where it was lost since, another call may have sent under the
    /// key meanwhile, and that be forgotten.
    fn unless_lost_since(
        &self,
        loss: Option<Loss>,
        answered: Result<Answered, Failure>,
    ) -> Result<Answered, Failure> {
        match answered {
            Err(Failure::NotSent(..) | Failure::Refused(..) | Failure::Denied(..) | Failure::Beyond(..))
                if self.journal.loss() != loss =>
            {
                Err(Failure::JournalLost { retry_after: LOOK_AGAIN_AFTER })
            }
            other => other,
        }
    }

    /// What a call that was joined came to may be old news, unless it is final:
    /// meanwhile another replica may have begun, or ended it. It is said only if
    /// it still holds.
    async fn joined(&self, command: &Command, ended: Result<Answered, Failure>) -> Result<Answered, Failure> {
        let is_final = ended.as_ref().is_ok_and(|answered| answered.entry.state.is_final());
        if !is_final {
            match self.find(command).await? {
                Some(entry) if entry.fingerprint != command.operation.fingerprint() => {
                    return Err(Failure::KeyReused(Some(entry.id)));
                }
                Some(entry) if entry.state.is_sending() => return Err(in_progress(entry)),
                Some(entry) if !matches!(entry.state, State::Released { .. }) => return Ok(replayed(entry)),
                _ => {}
            }
        }
        ended.map(|answered| Answered { replayed: true, joined: true, ..answered })
    }

    /// No other call of this process runs the key now.
    async fn alone(&self, command: Command, fingerprint: Fingerprint) -> Result<Answered, Failure> {
        // A first write tells what there is of the key as well as a look at it
        // would: where nothing is asked of the PSP before, there is no look.
        let mut looked = !records_first(&self.journal, &command);
        let mut found = if looked { self.find(&command).await? } else { self.recall(&command).await? };
        for _ in 0..ROUNDS_MAX {
            let prior = match found {
                None => None,
                Some(entry) if entry.fingerprint != fingerprint && !wrong!(NoFingerprint) => {
                    return Err(Failure::KeyReused(Some(entry.id)));
                }
                Some(entry) => match entry.state {
                    State::Succeeded(_) | State::Declined(_) => return Ok(replayed(entry)),
                    State::Released { .. } => Some(entry),
                    _ if !self.read_back.may_look(&entry) => return Err(in_progress(entry)),
                    State::Started
                    | State::Resent
                    | State::Accepted
                    | State::InDoubt { .. }
                    | State::Review { .. } => {
                        // A caller is waiting: look now, not when it is due.
                        let seen = self.read_back.look(entry).await;
                        match &seen.state {
                            State::Released { .. } => Some(seen),
                            state if state.is_sending() => return Err(in_progress(seen)),
                            _ => return Ok(replayed(seen)),
                        }
                    }
                },
            };
            let prior_id = prior.as_ref().map(|entry| entry.id);
            // What has begun is answered; whether it may begin is asked here.
            if let Some(denied) = command.permit.denied() {
                return Err(Failure::Denied(denied.clone(), prior_id));
            }
            let attempt = Attempt { command: command.clone(), prior };
            // Called only when there is something to send: a replay needs no
            // permit of the stack below.
            let attempted = self.inner.clone().oneshot(attempt).await;
            found = match attempted.map_err(|error| Failure::from_stack(error).of(prior_id)) {
                Ok(Attempted::Entry(entry)) => {
                    return Ok(Answered { entry: *entry, replayed: false, joined: false });
                }
                Ok(Attempted::Overtaken(Some(rival))) => Some(*rival),
                Ok(Attempted::Overtaken(None)) => self.find(&command).await?,
                // It did not come to the write, or that found out nothing.
                Err(failure) if !looked && prior_id.is_none() && failure.leaves_the_key_open() => {
                    Some(self.find(&command).await?.ok_or(failure)?)
                }
                Err(failure) => return Err(failure),
            };
            looked = true;
        }
        Err(Failure::InProgress(None))
    }

    async fn find(&self, command: &Command) -> Result<Option<Entry>, Failure> {
        self.journal.find(&command.caller, &command.key).await.map_err(Failure::Journal)
    }

    async fn recall(&self, command: &Command) -> Result<Option<Entry>, Failure> {
        self.journal.recall(&command.caller, &command.key).await.map_err(Failure::Journal)
    }
}

fn in_progress(entry: Entry) -> Failure {
    Failure::InProgress(Some(Box::new(entry)))
}

fn replayed(entry: Entry) -> Answered {
    Answered { entry, replayed: true, joined: false }
}

impl<J, P, S> Service<Command> for Idempotent<J, P, S>
where
    J: Journal,
    P: Psp,
    S: Service<Attempt, Response = Attempted, Error = BoxError> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Response = Answered;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Answered, Failure>> + Send>>;

    /// Always ready: a replay must not wait for a permit to send.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, command: Command) -> Self::Future {
        Box::pin(self.clone().run(command))
    }
}

impl Running {
    fn enter(&self, command: &Command, fingerprint: Fingerprint) -> Place {
        let key = (command.caller.clone(), command.key.clone());
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = running.get(&key) {
            let other = call.fingerprint != fingerprint && !wrong!(NoFingerprint);
            return if other { Place::Behind(call.clone()) } else { Place::Join(call.clone()) };
        }
        let call = Call { fingerprint, ended: Arc::default(), over: CancellationToken::new() };
        running.insert(key.clone(), call.clone());
        Place::Lead(Lead { running: self.clone(), key, call })
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.running.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.call.over.cancel();
    }
}
