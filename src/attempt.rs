//! One attempt: check, record, send once, record what the answer proves.
//!
//! # Correctness
//!
//! The order is the guarantee. The request is complete, token included, before
//! the first record; the record is durable before the first byte; the sending
//! begins within the send window or never, and always with the token whose end
//! is the fence in the record, so that a process that slept in between cannot
//! send past its fence; a definite answer is durable before it is given.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use opentelemetry::{KeyValue, trace::FutureExt as _};
use tokio::sync::oneshot;
use tower::{BoxError, Service, ServiceExt as _};
use tracing::Instrument as _;

use crate::clock::Timestamp;
use crate::conclude::Conclude;
use crate::failure::{Beyond, Failure};
use crate::journal::{
    Journal, Written,
    entry::{Beginning, Entry, Event, State},
};
use crate::payment::{Command, Kind, fresh, outcome::Decline, permit::DayMax};
use crate::psp::{NotSent, Prepared as _, Psp, Received, judge, rules};
use crate::trace;

/// How long a caller waits whose key could not be looked up.
pub const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A command to be carried out, with the entry that a release left behind.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What to do.
    pub command: Command,
    /// The released entry of the same key, where there is one.
    pub prior: Option<Entry>,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub enum Attempted {
    /// The entry after it, in whatever state.
    Entry(Box<Entry>),
    /// Somebody else wrote the key first, and this, where it was seen; nothing
    /// was sent.
    Overtaken(Option<Box<Entry>>),
}

/// Carries out attempts. `F` sends and waits, within bounds.
#[derive(Clone)]
pub struct Attempts<J, P, F> {
    conclude: Conclude<J, P>,
    window: Window,
    sender: F,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// From before the first record to the first byte.
    pub send: Duration,
    /// How long a sender may be alive after the first record.
    pub lease: Duration,
}

/// A complete request and the entry that was recorded for it.
pub struct Flight<Q> {
    prepared: Q,
    entry: Entry,
}

/// Sends on a task of its own: an answer that comes after our patience ended
/// is still heard and still recorded.
#[derive(Clone)]
pub struct Sender<J, P> {
    conclude: Conclude<J, P>,
}

/// What a look at the transaction allows.
enum Checked {
    /// Under a limit of its day, perhaps.
    Send(Option<DayMax>),
    /// What is asked for is there already: the key's own effect or what came of
    /// it, or the state that a void asks for.
    Found(Box<Event>),
}

impl<J: Journal, P: Psp, F> Attempts<J, P, F> {
    /// Attempts that are sent by `sender`.
    pub fn new(conclude: Conclude<J, P>, window: Window, sender: F) -> Self {
        Self { conclude, window, sender }
    }
}

impl<J, P, F> Attempts<J, P, F>
where
    J: Journal,
    P: Psp,
    F: Service<Flight<P::Prepared>, Response = Received, Error = BoxError> + Clone + Send + 'static,
    F::Future: Send,
{
    async fn run(self, attempt: Attempt) -> Result<Attempted, Failure> {
        let Attempt { command, prior } = attempt;
        let once = match self.once(&command, prior).await? {
            Once::Received(entry, Received::Unauthorized) => self.again(&command, *entry).await?,
            Once::Received(entry, Received::Unknown(_)) if wrong!(ResendOnTimeout) => {
                self.again(&command, *entry).await?
            }
            other => other,
        };
        match once {
            Once::Done(attempted) => Ok(attempted),
            Once::Received(entry, received) => self.settle(*entry, received).await,
        }
    }

    async fn settle(&self, entry: Entry, received: Received) -> Result<Attempted, Failure> {
        let why = match &received {
            Received::NotSent(why) => NotSent::Unreachable(why.clone()),
            Received::Unauthorized => NotSent::CredentialsRejected("a fresh token is refused".to_owned()),
            _ => return Ok(Attempted::Entry(Box::new(self.conclude.record(entry, received).await?))),
        };
        not_sent(self.conclude.record(entry, received).await?, why)
    }

    async fn once(&self, command: &Command, prior: Option<Entry>) -> Result<Once, Failure> {
        let Conclude { journal, psp, clock, schedule } = &self.conclude;
        let loss = journal.loss();
        let (checked, prepared) = match self.ready(command, prior.as_ref()).await {
            Ok(ready) => ready,
            Err(failure) if prior.is_some() => return Err(failure),
            // "Nothing was sent" would be false of a key that is forgotten.
            Err(failure) => {
                let forgotten = journal.tombstone(&command.caller, &command.key).await;
                return Err(match forgotten.map_err(Failure::Journal)? {
                    Some(tombstone) => Failure::KeyExpired(Some(tombstone.state)),
                    None => failure,
                });
            }
        };

        if wrong!(SendBeforeRecord) {
            drop(psp.send(psp.prepare(command).await?).await);
        }
        let before = clock.boot();
        let now = clock.now();
        let (fence_at, lease_until) = self.until(prepared.life_left());
        let day_max = match &checked {
            Checked::Send(day_max) => day_max.as_ref(),
            // It is there already: nothing begins.
            Checked::Found(_) => None,
        };
        let recording = clock.boot();
        let (mut entry, written) = match prior {
            None => {
                let entry = Entry::start(command, now, fence_at, lease_until).under(day_max, now);
                let written = journal.insert(entry.clone()).await.map_err(Failure::Journal)?;
                (entry, written)
            }
            Some(released) => {
                let event = Event::Retried(Beginning { nonce: fresh::uuid_v4(), fence_at, lease_until });
                let Ok(Some(entry)) = released.after(&event, now, schedule) else {
                    return Ok(Once::Done(Attempted::Overtaken(None)));
                };
                let mut entry = entry.under(day_max, now);
                entry.traced.clone_from(&command.traced);
                entry.made.trace_id = None;
                let written = journal.update(entry.clone()).await.map_err(Failure::Journal)?;
                (entry, written)
            }
        };
        match written {
            Written::Done => {}
            Written::Stale if wrong!(RetryWithoutCompare) => {}
            Written::KeyTaken(rival) => return Ok(Once::Done(Attempted::Overtaken(Some(rival)))),
            Written::Stale => return Ok(Once::Done(Attempted::Overtaken(None))),
            Written::Busy(other) => return Err(Failure::Busy(other)),
            Written::Forgotten(tombstone) => return Err(Failure::KeyExpired(Some(tombstone.state))),
            Written::Expired => return Err(Failure::KeyExpired(None)),
            Written::Beyond { spent } => return Err(Beyond::of(&entry, spent)),
        }
        entry.made.took.record = Some(clock.boot().saturating_sub(recording));
        // In the lines of the log that follow, and in the trace.
        tracing::Span::current().record("operation_id", tracing::field::display(entry.id));
        trace::describe(|| [KeyValue::new("payops.operation.id", entry.id.to_string())]);
        if let Checked::Found(event) = checked {
            let entry = self.conclude.write(entry, &event).await?;
            return Ok(Once::Done(Attempted::Entry(Box::new(entry))));
        }
        if journal.loss() != loss {
            // What was checked is not what there is now: the key may have been
            // sent in what was lost. Reads decide.
            let event = Event::doubted("the journal was lost before the sending");
            let entry = self.conclude.write(entry, &event).await?;
            return Ok(Once::Done(Attempted::Entry(Box::new(entry))));
        }
        self.launch(entry, prepared, before).await
    }

    /// When the token is dead, and when its sender surely is, by the clock of
    /// whoever judges that.
    fn until(&self, life_left: Duration) -> (Timestamp, Timestamp) {
        let now = self.conclude.clock.latest();
        (now + life_left, now + self.window.lease)
    }

    /// Everything short of the first record.
    async fn ready(
        &self,
        command: &Command,
        prior: Option<&Entry>,
    ) -> Result<(Checked, P::Prepared), Failure> {
        let checked = self.check(command, prior).await?;
        Ok((checked, self.conclude.psp.prepare(command).await?))
    }

    /// After a 401, which means that nothing was executed (A3, [D 2.2]): one
    /// more attempt, with a new token and a record of its own.
    async fn again(&self, command: &Command, entry: Entry) -> Result<Once, Failure> {
        let prepared = match self.conclude.psp.prepare(command).await {
            Ok(prepared) => prepared,
            Err(why) => {
                let entry = self.conclude.record(entry, Received::Unauthorized).await?;
                return not_sent(entry, why).map(Once::Done);
            }
        };
        self.begin_again(entry, prepared, Event::TokenRefused).await
    }

    /// Once more, although the entry's attempt is in doubt (T12). The caller of
    /// this has seen that twice would be harmless.
    pub async fn resend(&self, entry: Entry) -> Result<Entry, Failure> {
        let prepared = self.conclude.psp.prepare(&entry.command()).await?;
        match self.begin_again(entry, prepared, Event::Resent).await? {
            Once::Done(Attempted::Entry(entry)) => Ok(*entry),
            Once::Done(Attempted::Overtaken(_)) => Err(Failure::Internal),
            Once::Received(entry, received) => self.conclude.record(*entry, received).await,
        }
    }

    /// Records the entry's next attempt, and sends it.
    async fn begin_again(
        &self,
        entry: Entry,
        prepared: P::Prepared,
        event: fn(Beginning) -> Event,
    ) -> Result<Once, Failure> {
        let clock = &self.conclude.clock;
        let before = clock.boot();
        let nonce = fresh::uuid_v4();
        let (fence_at, lease_until) = self.until(prepared.life_left());
        let event = event(Beginning { nonce, fence_at, lease_until });
        let entry = self.conclude.write(entry, &event).await?;
        if entry.nonce != nonce {
            // Others were faster, or the lease ended meanwhile: they read back.
            return Ok(Once::Done(Attempted::Entry(Box::new(entry))));
        }
        self.launch(entry, prepared, before).await
    }

    /// Everything that can be known before sending. A plain capture or refund
    /// costs no read; a guard does, and so does a void, which has no mark of its
    /// own and must not be sent when there is nothing to void. And so does a key
    /// that a lost journal may have known.
    async fn check(&self, command: &Command, prior: Option<&Entry>) -> Result<Checked, Failure> {
        let Conclude { journal, psp, clock, .. } = &self.conclude;
        let now = clock.now();
        let minted_at = command.key.minted_at();
        if prior.is_none()
            && minted_at.is_some_and(|at| at < journal.remembers_since().0)
            && !wrong!(ForgottenEarly)
        {
            return Err(Failure::KeyExpired(None));
        }
        let loss = if wrong!(LossUnnoticed) { None } else { journal.loss() };
        let forgotten = loss.filter(|loss| match prior {
            None => !loss.is_before(&command.key, now),
            // It may have run again in what was lost.
            Some(released) => loss.may_hide_more(released.updated_at),
        });
        if let Some(loss) = forgotten.filter(|loss| now < loss.quiet_until) {
            return Err(Failure::JournalLost { retry_after: loss.quiet_until.since(now) });
        }
        if forgotten.is_none() && is_plain(command) {
            return Ok(Checked::Send(None));
        }
        look_before(psp, command, forgotten.is_some()).await.map_err(|failure| match failure {
            // What cannot be looked up may have happened: no new key is safe.
            Failure::NotSent(..) if forgotten.is_some() => {
                Failure::JournalLost { retry_after: LOOK_AGAIN_AFTER }
            }
            other => other,
        })
    }

    /// Sends what is recorded, if it is not too late for that.
    async fn launch(
        &self,
        mut entry: Entry,
        prepared: P::Prepared,
        before: Duration,
    ) -> Result<Once, Failure> {
        if self.conclude.clock.boot().saturating_sub(before) >= self.window.send {
            let why = "too much time passed between the record and the sending".to_owned();
            let entry = self.conclude.write(entry, &Event::NotSent { why }).await?;
            return not_sent(entry, NotSent::WindowMissed).map(Once::Done);
        }
        let flight = Flight { prepared, entry: entry.clone() };
        let sending = self.conclude.clock.boot();
        let received = match self.sender.clone().oneshot(flight).await {
            Ok(received) => received,
            Err(elapsed) => Received::Unknown(elapsed.to_string()),
        };
        entry.made.took.psp = Some(self.conclude.clock.boot().saturating_sub(sending));
        Ok(Once::Received(Box::new(entry), received))
    }
}

enum Once {
    Done(Attempted),
    Received(Box<Entry>, Received),
}

impl<J, P, F> Service<Attempt> for Attempts<J, P, F>
where
    J: Journal,
    P: Psp,
    F: Service<Flight<P::Prepared>, Response = Received, Error = BoxError> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    type Response = Attempted;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Attempted, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        Box::pin(self.clone().run(attempt))
    }
}

impl<J: Journal, P: Psp> Sender<J, P> {
    /// Sends, and concludes what comes too late.
    pub fn new(conclude: Conclude<J, P>) -> Self {
        Self { conclude }
    }
}

impl<J: Journal, P: Psp> Service<Flight<P::Prepared>> for Sender<J, P> {
    type Response = Received;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Received, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, flight: Flight<P::Prepared>) -> Self::Future {
        let conclude = self.conclude.clone();
        let (answer, received) = oneshot::channel();
        let sending = async move {
            let mut prepared = flight.prepared;
            if wrong!(TokenAtSend) {
                let command = flight.entry.command();
                prepared = conclude.psp.prepare(&command).await.unwrap_or(prepared);
            }
            let received = conclude.psp.send(prepared).await;
            if let Err(late) = answer.send(received) {
                conclude.late(flight.entry, late).await;
            }
        };
        tokio::spawn(sending.in_current_span().with_current_context());
        // Lost only if the task itself was lost: it may have sent.
        Box::pin(async move {
            Ok(received.await.unwrap_or_else(|_| Received::Unknown("the sender ended".into())))
        })
    }
}

/// Whether the PSP is asked for nothing before the first record.
pub fn records_first<J: Journal>(journal: &J, command: &Command) -> bool {
    journal.loss().is_none() && is_plain(command)
}

/// Neither a guard, nor a question of policy, nor a void, which has no mark of
/// its own.
fn is_plain(command: &Command) -> bool {
    let Command { guards, permit, .. } = command;
    command.operation.kind() != Kind::Void
        && *guards == crate::payment::Guards::default()
        && *permit == crate::payment::permit::Permit::default()
}

/// What is told of an attempt that was not sent, once that is recorded: the
/// entry itself, if others doubt it already, because the record came late.
fn not_sent(entry: Entry, why: NotSent) -> Result<Attempted, Failure> {
    match entry.state {
        State::Released { .. } => Err(Failure::NotSent(why, Some(entry.id))),
        _ => Ok(Attempted::Entry(Box::new(entry))),
    }
}

/// `forgotten`: the journal may have known the key once, and lost it.
async fn look_before<P: Psp>(psp: &P, command: &Command, forgotten: bool) -> Result<Checked, Failure> {
    let refused = |decline: Box<Decline>| Failure::from(*decline);
    let transaction = psp.look(&command.operation.transaction).await.map_err(Failure::from_read)?;
    let tag = command.tag();
    let is_void = command.operation.kind() == Kind::Void;
    let nothing_to_void = is_void && transaction.sums().capturable == 0;
    let found = found(judge::judge(&judge::Sought::of(command, &tag), &transaction), nothing_to_void);
    // The key's own effect, of which a journal that was lost knows nothing.
    if (forgotten || !is_void)
        && let Some(event) = found
    {
        return Ok(Checked::Found(Box::new(event)));
    }
    rules::check_guards(&command.operation, &command.guards, &transaction).map_err(refused)?;
    let ruling = command.permit.ruling(&transaction.currency);
    let allowed = ruling.map_err(|denied| Failure::Denied(denied, None))?;
    if transaction.status == "AUTHORIZATION_VOIDED"
        && let Some(event @ Event::Proven(_)) = found
    {
        return Ok(Checked::Found(Box::new(event)));
    }
    rules::check(&command.operation, &transaction).map_err(refused)?;
    // A rule with a limit names currencies, by their form.
    let day_max = |amount| Some(DayMax { currency: transaction.currency.parse().ok()?, amount });
    Ok(Checked::Send(allowed.day_max.and_then(day_max)))
}

/// What became of an earlier sending of the key, if there is a trace of one.
fn found(verdict: judge::Verdict, nothing_to_void: bool) -> Option<Event> {
    use judge::Verdict;
    Some(match verdict {
        Verdict::Proven(proof) => Event::Proven(proof),
        Verdict::Accepted { request_id, .. } => Event::Accepted { request_id },
        Verdict::Contradicted(why) => Event::Contradicted { why },
        // That nothing is left to void is no trace of ours. A failure of ours is:
        // sent again, its end could not be told from that of the first.
        Verdict::Declined(_) if nothing_to_void => return None,
        Verdict::Declined(decline) => Event::Refused(decline),
        Verdict::FailedUnclearly { .. } => {
            Event::doubted("the PSP recorded a failure of this key that may not be one")
        }
        Verdict::Absent { .. } => return None,
    })
}

/// Everything short of sending: `validate_only`. Whether there is room in its
/// day, too; nothing of that is taken.
pub async fn validate<J: Journal, P: Psp>(
    conclude: &Conclude<J, P>,
    command: &Command,
) -> Result<(), Failure> {
    let Conclude { journal, psp, clock, .. } = conclude;
    let checked = look_before(psp, command, false).await?;
    psp.prepare(command).await?;
    if let Checked::Send(day_max @ Some(_)) = checked {
        let now = clock.now();
        let entry = Entry::start(command, now, now, now).under(day_max.as_ref(), now);
        if let Some(tally) = entry.tally() {
            let spent = journal.spent(&tally).await.map_err(Failure::Journal)?;
            if entry.is_beyond(spent) {
                return Err(Beyond::of(&entry, spent));
            }
        }
    }
    Ok(())
}
