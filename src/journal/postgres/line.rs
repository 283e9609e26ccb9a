//! The connection that writes: a statement at a time, each its own transaction,
//! repeated on a new connection where the old one was lost.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_postgres::{Client, Row};

use crate::journal::{
    Error,
    postgres::{
        connection::{Connected, Purpose, Trouble, within},
        counted::Fates,
        inner::Inner,
        rows::Parameter,
    },
};

/// How often a write starts over because others were in its way.
pub(super) const ROUNDS_MAX: usize = 8;
/// Before a lost connection is made anew.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Line {
    pub(super) inner: Arc<Inner>,
    pub(super) connection: Option<Connected>,
}

/// What is written by one transaction.
pub(super) trait Work {
    type Done;

    /// Writes it, or leaves nothing of it open.
    fn run(&self, client: &Client) -> impl Future<Output = Result<Self::Done, Broke>> + Send;
}

/// One statement, which is its own transaction.
struct Statement<'a>(&'a str, &'a [Parameter<'a>]);

/// Why a transaction did not come to its end.
pub(super) enum Broke {
    Database(tokio_postgres::Error),
    Ours(Error),
}

/// What came of it.
pub(super) struct Ran<T> {
    pub(super) done: T,
    /// It may have been committed by an earlier try, too.
    pub(super) repeated: bool,
}

impl Ran<Vec<Row>> {
    /// With what its rows say was written.
    pub(super) fn map(self, written: impl FnOnce(Vec<Row>) -> HashSet<usize>) -> Ran<Fates> {
        let done = Fates { written: written(self.done), ..Fates::default() };
        Ran { done, repeated: self.repeated }
    }
}

pub(super) enum Failed {
    Taken,
    Error(Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Taken => Self::Unavailable("others were in the way".to_owned()),
            Failed::Error(error) => error,
        }
    }
}

impl Work for Statement<'_> {
    type Done = Vec<Row>;

    async fn run(&self, client: &Client) -> Result<Vec<Row>, Broke> {
        Ok(client.query_typed(self.0, self.1).await?)
    }
}

impl From<tokio_postgres::Error> for Broke {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl Line {
    /// Reads on the connection that writes.
    pub(super) async fn look(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
        until: Instant,
    ) -> Result<Vec<Row>, Error> {
        Ok(self.statement(sql, parameters, until).await?.done)
    }

    /// Runs one statement, which is its own transaction.
    pub(super) async fn statement(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
        until: Instant,
    ) -> Result<Ran<Vec<Row>>, Failed> {
        self.run(&Statement(sql, parameters), until).await
    }

    /// Runs one transaction until it is known what came of it or nobody waits
    /// any longer.
    pub(super) async fn run<W: Work + Sync>(
        &mut self,
        work: &W,
        until: Instant,
    ) -> Result<Ran<W::Done>, Failed> {
        let mut repeated = false;
        let mut rounds = 0;
        let unknown = |why: String| Failed::Error(Error::Unconfirmed(why));
        loop {
            if self.inner.is_broken() {
                return Err(Failed::Error(Error::Unavailable("the journal was lost".to_owned())));
            }
            let connection = match self.connection(until).await {
                Ok(connection) => connection,
                Err(error) if repeated => {
                    if Instant::now() + PAUSE < until {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    return Err(unknown(error.to_string()));
                }
                Err(error) => return Err(Failed::Error(error)),
            };
            let warnings = connection.warnings();
            let Some(ran) = within(until, work.run(&connection.client)).await else {
                // It may yet be committed; this connection is of no more use.
                self.connection = None;
                return Err(unknown("the database did not acknowledge it in time".to_owned()));
            };
            match ran {
                Ok(_) if connection.warnings() != warnings => {
                    self.connection = None;
                    return Err(unknown("the database did not wait for its standby".to_owned()));
                }
                Ok(done) => return Ok(Ran { done, repeated }),
                Err(Broke::Ours(error)) => return Err(Failed::Error(error)),
                Err(Broke::Database(error)) => match Trouble::of(&error) {
                    Trouble::Taken => return Err(Failed::Taken),
                    Trouble::InTheWay(_) if rounds < ROUNDS_MAX => rounds += 1,
                    Trouble::InTheWay(why) | Trouble::Refused(why) => {
                        return Err(if repeated {
                            unknown(why)
                        } else {
                            Failed::Error(Error::Unavailable(why))
                        });
                    }
                    Trouble::Lost(why) => {
                        tracing::warn!(why, "the connection was lost during a write: it is repeated");
                        self.connection = None;
                        repeated = true;
                    }
                },
            }
        }
    }

    async fn connection(&mut self, until: Instant) -> Result<&Connected, Error> {
        if self.connection.as_ref().is_none_or(Connected::is_closed) {
            self.connection = None;
            let connecting = self.inner.connect(Purpose::Write, None);
            let late = || Error::Unavailable("the database cannot be reached in time".to_owned());
            self.connection = Some(within(until, connecting).await.ok_or_else(late)??);
        }
        self.connection.as_ref().ok_or_else(|| Error::Unavailable("there is no connection".to_owned()))
    }
}
