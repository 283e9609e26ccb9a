//! How the writer finds out what stays. A commit whose wait for the standby was
//! ended can be seen, and a failover may yet undo it. Who sees it in a
//! transaction that writes something itself, and is acknowledged, knows better:
//! of one server the standby has every commit before that one.

use std::collections::HashMap;

use tokio::{sync::oneshot, time::Instant};
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::journal::{
    Error,
    entry::Entry,
    postgres::{
        opening::get,
        rows::{self, Parameter},
        writer::{Answer, Waiting, Writer, fail, part, tell},
    },
};

impl Writer {
    /// They are there; and they stay, if they still are after a commit.
    pub(super) async fn confirm(&mut self, ours: Vec<Waiting>, until: Instant) {
        if ours.is_empty() {
            return;
        }
        let ids = ours.iter().map(|(entry, _)| rows::uuid(entry.id)).collect();
        let found = match self.lasting(ids, until).await {
            Ok(found) => found,
            Err(error) => return fail(ours, &Error::Unconfirmed(error.to_string())),
        };
        let (stayed, undone) = part(ours, |(entry, _)| {
            found.get(&rows::uuid(entry.id)).is_some_and(|found| found.as_ref() == Ok(&**entry))
        });
        self.done(stayed);
        fail(undone, &Error::Unconfirmed("it was undone".to_owned()));
    }

    /// Tells entries as they will stay.
    pub(super) async fn show(
        &mut self,
        readers: Vec<(Uuid, oneshot::Sender<Result<Answer, Error>>)>,
        until: Instant,
    ) {
        if readers.is_empty() {
            return;
        }
        let found = self.lasting(readers.iter().map(|(id, _)| *id).collect(), until).await;
        for (id, answer) in readers {
            let shown = match &found {
                Ok(found) => found.get(&id).cloned().transpose(),
                Err(error) => Err(error.clone()),
            };
            tell(answer, shown.map(|entry| Answer::Lasting(entry.map(Box::new))));
        }
    }

    /// Those of the entries that are there, by their ids.
    async fn lasting(
        &mut self,
        ids: Vec<Uuid>,
        until: Instant,
    ) -> Result<HashMap<Uuid, Result<Entry, Error>>, Error> {
        let (id, epoch) = (self.id, self.inner.epoch());
        let parameters: &[Parameter<'_>] =
            &[(&id, Type::UUID), (&epoch, Type::INT8), (&ids, Type::UUID_ARRAY)];
        let found = self.line.look(rows::LASTING, parameters, until).await?;
        if found.is_empty() {
            self.current(until).await?;
        }
        found.iter().map(|row| Ok((get(row, 0)?, rows::entry(row, 1)))).collect()
    }
}
