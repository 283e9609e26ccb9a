//! An entry and each of its changes, for whoever watches.

use futures::Stream;
use tokio_util::sync::CancellationToken;

use crate::journal::{Error, Journal, entry::Entry};
use crate::payment::id::OperationId;

/// The entry now, and again whenever what `shown` makes of it is another: none
/// where it is not there any more. Ends when nothing more will come by itself,
/// after an error, or with `stopping`.
pub fn follow<J: Journal, S: PartialEq + Send>(
    journal: J,
    id: OperationId,
    stopping: CancellationToken,
    shown: fn(&Entry) -> S,
) -> impl Stream<Item = Result<Option<Entry>, Error>> + Send + use<J, S> {
    // Before the first look: a change in between is not missed.
    let changes = journal.changes(id);
    let start = Some((changes, None));
    futures::stream::unfold(start, move |state| {
        let (journal, stopping) = (journal.clone(), stopping.clone());
        async move {
            let (mut changes, last): (_, Option<S>) = state?;
            let mut look_first = last.is_none();
            loop {
                if !look_first
                    && !matches!(stopping.run_until_cancelled(changes.changed()).await, Some(Ok(())))
                {
                    return None;
                }
                look_first = false;
                let entry = match journal.get(id).await {
                    Ok(Some(entry)) => entry,
                    gone => return Some((gone, None)),
                };
                let now = Some(shown(&entry));
                if now != last {
                    let next = entry.state.is_open().then_some((changes, now));
                    return Some((Ok(Some(entry)), next));
                }
            }
        }
    })
}
