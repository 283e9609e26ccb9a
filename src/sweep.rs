//! Compares the journal with the PSP's list, once a day: what reading back
//! cannot see, because nobody asks for it. It sends nothing that moves money.
//!
//! It finds transactions by the PSP's list of what was captured and refunded,
//! and by the journal's entries that succeeded, and reads each of them. The PSP
//! has no list of what was voided [D 6.2]: a void that the journal does not know
//! is found only where money moved too.

pub mod compare;
mod mark;

use std::{collections::HashSet, path::PathBuf, time::Duration};

use futures::{StreamExt as _, stream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::clock::Timestamp;
use crate::conclude::Conclude;
use crate::journal::{
    self, Filter, Journal,
    entry::{Entry, Event},
};
use crate::payment::id::{AccountId, OperationId, TransactionId};
use crate::psp::{Moved, NotSent, Page, Psp, ReadError, transaction::Transaction};
use crate::sweep::compare::{Incident, Times, compare, count_ours};

/// Most transactions on a page [D 6.2].
const PAGE: u8 = 100;
/// Most transactions that one sweep looks at: what it remembers of them is
/// bounded.
const TRANSACTIONS_MAX: usize = 500_000;
/// Transactions that are read at the same time: far below live traffic.
const READS_MAX: usize = 2;
/// Transactions that cannot be read, before it must be for another reason.
const UNREADABLE_MAX: usize = 20;
/// Most entries that are read from the journal at once.
const ENTRIES: usize = 256;
/// Before the same request is made again.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_mins(2)];
/// An incomplete sweep is begun again after such a part of the time between two.
const SOONER: u32 = 8;
/// After a start, such a part of that time passes first.
const STARTING: u32 = 288;

/// When, how far back, and of whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose transactions are listed.
    pub accounts: Vec<AccountId>,
    /// From the end of one sweep to the next.
    pub every: Duration,
    /// How far back it looks at least.
    pub look_back: Duration,
    /// How far back the first one after a loss of the journal looks, at most:
    /// from the loss.
    pub look_back_after_loss: Duration,
    /// How long an effect may take to show (A4, A5).
    pub settles: Duration,
    /// How long an operation may be open before it succeeds.
    pub open_max: Duration,
    /// The file that keeps since when everything has been compared, if any.
    pub mark: Option<PathBuf>,
}

/// The comparison.
pub struct Sweep<J, P> {
    conclude: Conclude<J, P>,
    settings: Settings,
    /// What is asked of the journal. A stop does not cut it off: whoever opens
    /// the journal next would find it in use.
    asking: TaskTracker,
}

/// What a sweep saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Transactions that were compared.
    pub transactions: usize,
    /// Events on them of this boundary's making.
    pub events: usize,
    /// Differences.
    pub incidents: usize,
    /// Transactions that could not be compared.
    pub unreadable: usize,
}

/// Why a sweep did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Incomplete(String);

impl<J: Journal, P: Psp> Sweep<J, P> {
    /// A sweep of what `conclude` writes and reads.
    pub fn new(conclude: Conclude<J, P>, settings: Settings) -> Self {
        Self { conclude, settings, asking: TaskTracker::new() }
    }

    /// Sweeps until stopped. What was under way is begun again another time.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.again_and_again()).await;
        self.asking.close();
        self.asking.wait().await;
    }

    async fn again_and_again(&self) {
        let mark = self.settings.mark.as_deref();
        let mut done = mark.and_then(mark::read);
        let mut wait = self.settings.every / STARTING;
        loop {
            let now = self.conclude.clock.now();
            let due = done.map(|done| (done + self.settings.every).since(now)).unwrap_or_default();
            // A mark from the future is a clock that was set back.
            tokio::time::sleep(wait.max(due.min(self.settings.every))).await;
            let begun = self.conclude.clock.now();
            match self.sweep(done).await {
                Ok(seen) => {
                    tracing::info!(
                        transactions = seen.transactions,
                        events = seen.events,
                        incidents = seen.incidents,
                        unreadable = seen.unreadable,
                        "the journal was compared with the PSP"
                    );
                    // If it cannot be kept, the next start looks further back.
                    if let Some(Err(error)) = mark.map(|file| mark::write(file, begun)) {
                        tracing::warn!(%error, "that a comparison was made could not be kept");
                    }
                    (done, wait) = (Some(begun), Duration::ZERO);
                }
                Err(why) => {
                    tracing::error!(%why, "the comparison with the PSP is incomplete; it is made again later");
                    wait = self.settings.every / SOONER;
                }
            }
        }
    }

    /// One sweep, from where the last complete one began.
    pub async fn sweep(&self, done: Option<Timestamp>) -> Result<Seen, Incomplete> {
        let since = self.since(done).await?;
        let mut course = Course { sweep: self, looked_at: HashSet::new(), seen: Seen::default() };
        for account in &self.settings.accounts {
            for moved in [Moved::Captured, Moved::Refunded] {
                course.listed(account, moved, since).await?;
            }
        }
        course.known(since).await?;
        Ok(course.seen)
    }

    /// How far back everything has to be compared.
    async fn since(&self, done: Option<Timestamp>) -> Result<Timestamp, Incomplete> {
        let Settings { look_back, look_back_after_loss, settles, .. } = self.settings;
        let mut since = self.conclude.clock.now() - look_back;
        if let Some(done) = done {
            // What was on its way then, and what a read did not show.
            since = since.min(done - settles);
        }
        let journal = &self.conclude.journal;
        if let Some(loss) = journal.loss().filter(|loss| done.is_none_or(|done| done < loss.at)) {
            // Everything since the last that is known from before.
            let before = Filter { until: Some(loss.at), ..Filter::default() };
            let last = self.ask(&before, None, 1).await?;
            let known = last.first().map_or(loss.at - look_back_after_loss, |entry| {
                (entry.created_at - settles).max(loss.at - look_back_after_loss)
            });
            since = since.min(known);
        }
        // What is older is forgotten, and nothing can be said of it.
        Ok(since.max(journal.remembers_since()))
    }

    /// Reads a transaction and compares it with its entries.
    async fn compare(&self, id: &TransactionId) -> Result<(usize, usize), Unread> {
        let issued_at = self.conclude.clock.now();
        let on = self.read(id).await?;
        let filter = Filter { transaction: Some(id.clone()), ..Filter::default() };
        let entries = self.entries(&filter).await.map_err(|error| Unread::This(error.to_string()))?;
        let times = Times {
            // Clocks differ by less than an effect takes (A4).
            known_since: self.conclude.journal.remembers_since() + self.settings.settles,
            settled_until: issued_at - self.settings.settles,
        };
        let incidents = compare(&on, &entries, times);
        let count = incidents.len();
        for incident in incidents {
            self.tell(id, incident, &entries).await;
        }
        Ok((count_ours(&on), count))
    }

    async fn tell(&self, transaction: &TransactionId, incident: Incident, entries: &[Entry]) {
        match incident {
            Incident::Unowned { why } => {
                tracing::error!(
                    transaction_id = %transaction, why,
                    "the PSP shows what the journal does not know: a person has to look"
                );
            }
            Incident::Differs { operation, why } => {
                tracing::error!(
                    operation_id = %operation, transaction_id = %transaction, why,
                    "the PSP does not show what the journal says: a person has to look"
                );
            }
            Incident::Late { operation, proof } => {
                let Some(entry) = entries.iter().find(|entry| entry.id == operation) else { return };
                // It is logged where it is written, or cannot be.
                let (conclude, entry) = (self.conclude.clone(), entry.clone());
                let write = async move { conclude.write(entry, &Event::Proven(proof)).await };
                drop(self.asking.spawn(write).await);
            }
        }
    }

    async fn read(&self, id: &TransactionId) -> Result<Transaction, Unread> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let error = match self.conclude.psp.read(id).await {
                Ok(transaction) => return Ok(transaction),
                Err(error @ (ReadError::NotFound | ReadError::Forbidden)) => {
                    return Err(Unread::This(error.to_string()));
                }
                Err(error) => error,
            };
            match (pauses.next(), &error) {
                (Some(pause), _) => pause_for(pause, &error).await,
                (None, ReadError::NotSent(why)) => return Err(Unread::Any(why.to_string())),
                (None, _) => return Err(Unread::This(error.to_string())),
            }
        }
    }

    /// A page of the list. One that does not come is asked for again, half as
    /// long: it may be too long to be read.
    async fn page(&self, page: &mut Page) -> Result<Vec<TransactionId>, Incomplete> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let error = match self.conclude.psp.list(page).await {
                Ok(ids) => return Ok(ids),
                Err(error) => error,
            };
            let Some(pause) = pauses.next() else {
                return Err(Incomplete(format!("the list of {} was not read: {error}", page.account)));
            };
            tracing::debug!(account = %page.account, %error, "a page of the list was not read");
            page.most = (page.most / 2).max(1);
            pause_for(pause, &error).await;
        }
    }

    async fn entries(&self, filter: &Filter) -> Result<Vec<Entry>, journal::Error> {
        let (mut entries, mut before): (Vec<Entry>, Option<OperationId>) = (Vec::new(), None);
        loop {
            let some = self.ask(filter, before, ENTRIES).await?;
            before = some.last().map(|entry| entry.id);
            let is_last = some.len() < ENTRIES;
            entries.extend(some);
            if is_last || entries.len() >= TRANSACTIONS_MAX {
                return Ok(entries);
            }
        }
    }

    async fn ask(
        &self,
        filter: &Filter,
        before: Option<OperationId>,
        most: usize,
    ) -> Result<Vec<Entry>, journal::Error> {
        let (journal, filter) = (self.conclude.journal.clone(), filter.clone());
        let asked = self.asking.spawn(async move { journal.list(&filter, before, most).await });
        asked.await.unwrap_or_else(|_| Err(journal::Error::Unavailable("a read of it failed".to_owned())))
    }
}

/// A sweep under way.
struct Course<'a, J, P> {
    sweep: &'a Sweep<J, P>,
    looked_at: HashSet<TransactionId>,
    seen: Seen,
}

impl<J: Journal, P: Psp> Course<'_, J, P> {
    /// Compares what the PSP lists.
    async fn listed(
        &mut self,
        account: &AccountId,
        moved: Moved,
        since: Timestamp,
    ) -> Result<(), Incomplete> {
        let mut page = Page { account: account.clone(), moved, since, after: None, most: PAGE };
        let mut first: Option<TransactionId> = None;
        let mut listed = 0_usize;
        loop {
            let ids = self.sweep.page(&mut page).await?;
            let Some(last) = ids.last().cloned() else { return Ok(()) };
            listed = listed.saturating_add(ids.len());
            if listed > TRANSACTIONS_MAX {
                return Err(Incomplete(format!("more than {TRANSACTIONS_MAX} transactions are listed")));
            }
            if first.is_some() && first.as_ref() == ids.first() {
                return Err(Incomplete("the list begins anew on each page".to_owned()));
            }
            first = ids.first().cloned();
            let is_end = page.after.as_ref() == Some(&last);
            self.compare(ids).await?;
            if is_end {
                return Ok(());
            }
            page.after = Some(last);
        }
    }

    /// Compares what succeeded and was not listed, such as every void.
    async fn known(&mut self, since: Timestamp) -> Result<(), Incomplete> {
        let open_max = self.sweep.settings.open_max;
        let succeeded =
            Filter { states: vec!["succeeded"], from: Some(since - open_max), ..Filter::default() };
        let mut before = None;
        loop {
            let entries = self.sweep.ask(&succeeded, before, ENTRIES).await?;
            let Some(last) = entries.last() else { return Ok(()) };
            before = Some(last.id);
            let recent = entries.into_iter().filter(|entry| entry.updated_at >= since);
            // An account that is no longer served cannot be read.
            let served = recent.map(|entry| entry.operation.transaction);
            let served = served.filter(|id| self.sweep.settings.accounts.contains(&id.account())).collect();
            self.compare(served).await?;
        }
    }

    /// Compares each of them, if that has not been done.
    async fn compare(&mut self, mut ids: Vec<TransactionId>) -> Result<(), Incomplete> {
        ids.retain(|id| self.looked_at.insert(id.clone()));
        if self.looked_at.len() > TRANSACTIONS_MAX {
            return Err(Incomplete(format!("more than {TRANSACTIONS_MAX} transactions are to be compared")));
        }
        let sweep = self.sweep;
        let compared = stream::iter(ids).map(|id| async move {
            let compared = sweep.compare(&id).await;
            (id, compared)
        });
        let mut compared = std::pin::pin!(compared.buffer_unordered(READS_MAX));
        while let Some((id, compared)) = compared.next().await {
            match compared {
                Ok((events, incidents)) => {
                    self.seen.transactions += 1;
                    self.seen.events += events;
                    self.seen.incidents += incidents;
                }
                Err(Unread::Any(why)) => {
                    return Err(Incomplete(format!("no transaction can be read: {why}")));
                }
                Err(Unread::This(why)) => {
                    self.seen.unreadable += 1;
                    if self.seen.unreadable > UNREADABLE_MAX {
                        return Err(Incomplete(format!("too many transactions cannot be read: {why}")));
                    }
                    tracing::error!(
                        transaction_id = %id, why,
                        "a transaction could not be compared with the journal: a person has to look"
                    );
                }
            }
        }
        Ok(())
    }
}

/// A transaction was not compared.
enum Unread {
    /// This one cannot be.
    This(String),
    /// None can be, now.
    Any(String),
}

impl From<journal::Error> for Incomplete {
    fn from(error: journal::Error) -> Self {
        Self(error.to_string())
    }
}

/// Waits so long, or as long as the PSP asks.
async fn pause_for(pause: Duration, error: &ReadError) {
    let asked = match error {
        ReadError::NotSent(NotSent::RateLimited { retry_after }) => *retry_after,
        _ => Duration::ZERO,
    };
    tokio::time::sleep(pause.max(asked)).await;
}

#[cfg(test)]
mod tests;
