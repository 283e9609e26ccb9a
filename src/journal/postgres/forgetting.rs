//! What the writer takes away: the content of what is over, then rows of keys,
//! and the sums of days that are over.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::Type;

use crate::clock::Timestamp;
use crate::journal::{
    Error,
    audit::Record,
    entry::spent::day_of,
    postgres::{
        audit::Told,
        counted,
        line::{Failed, Ran},
        rows::{self, Parameter},
        writer::Writer,
    },
};

/// No statement takes so long: what began before keys were refused is over.
const PURGED_AFTER: Duration = Duration::from_mins(10);
/// How much older the refused keys may be than they could, so that this is
/// seldom written.
const REFUSED_IN_STEPS: Duration = Duration::from_hours(1);

impl Writer {
    pub(super) async fn forget(
        &mut self,
        before: Timestamp,
        most: usize,
        until: Instant,
    ) -> Result<usize, Error> {
        let chain = self.chain(until).await?;
        let told = Told::of(&chain, [&Record::Forgotten { at: self.inner.clock.now(), before }]);
        let (count, epoch) = (i64::try_from(most).unwrap_or(i64::MAX), self.inner.epoch());
        let mut parameters: Vec<Parameter<'_>> =
            vec![(&before.0, Type::INT8), (&count, Type::INT8), (&epoch, Type::INT8)];
        parameters.extend(told.parameters());
        let forgotten = self.line.statement(rows::FORGET, &parameters, until).await;
        match &forgotten {
            Ok(Ran { done, repeated: false }) if done.is_empty() => {}
            Ok(Ran { repeated: false, .. }) => self.told(told.links()),
            _ => self.log.doubt(),
        }
        Ok(forgotten?.done.len())
    }

    /// In two steps, a while apart: first such keys are refused whether or not
    /// they have a row, and then the rows go. No insert passes between the two.
    pub(super) async fn purge(
        &mut self,
        before: Timestamp,
        most: usize,
        until: Instant,
    ) -> Result<usize, Error> {
        self.forget_days(until).await;
        let now = self.inner.clock.now();
        let gone = self.take_away(rows::PURGE, now - PURGED_AFTER, most, until).await?;
        let (enough, epoch) = (before - REFUSED_IN_STEPS, self.inner.epoch());
        let parameters: &[Parameter<'_>] =
            &[(&before.0, Type::INT8), (&now.0, Type::INT8), (&epoch, Type::INT8), (&enough.0, Type::INT8)];
        self.line.look(rows::REFUSE, parameters, until).await?;
        Ok(gone)
    }

    async fn take_away(
        &mut self,
        sql: &str,
        before: Timestamp,
        most: usize,
        until: Instant,
    ) -> Result<usize, Error> {
        let (most, epoch) = (i64::try_from(most).unwrap_or(i64::MAX), self.inner.epoch());
        let parameters: &[Parameter<'_>] =
            &[(&before.0, Type::INT8), (&most, Type::INT8), (&epoch, Type::INT8)];
        Ok(self.line.look(sql, parameters, until).await?.len())
    }

    /// The sums of days that are over serve nobody; where they cannot be deleted
    /// they are in nobody's way.
    async fn forget_days(&mut self, until: Instant) {
        let today = day_of(self.inner.clock.now());
        let parameters: &[Parameter<'_>] = &[(&(today - 1), Type::INT8)];
        if let Err(Failed::Error(error)) = self.line.statement(counted::FORGET, parameters, until).await {
            tracing::warn!(%error, "sums of days that are over could not be deleted");
        }
    }
}
