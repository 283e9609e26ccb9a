//! What the writer, the readers and the tasks beside them share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::mpsc;
use tokio_postgres::{Row, types::Type};

use crate::clock::Clock;
use crate::journal::{
    Error,
    audit::Head,
    hub::Hub,
    postgres::{
        Settings,
        connection::{Connected, Connector, Purpose, READ_MAX, unavailable},
        news::News,
        opening::{self, Identity, Meta, Status, get},
        rows::{self, Parameter},
        settled::{self, Settled},
    },
    record::signed,
};
use crate::payment::id::OperationId;

pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) connector: Connector,
    pub(super) clock: Clock,
    pub(super) hub: Hub,
    pub(super) settled: Settled,
    /// As it was at the start: a process knows one epoch.
    pub(super) meta: Meta,
    /// The server's, as it was seen last.
    identity: Mutex<Identity>,
    /// The last write that was acknowledged. Commits are kept in order: where
    /// it is, all before it are.
    acknowledged: Mutex<Option<(OperationId, u64)>>,
    /// Why nothing may begin.
    unfit: Mutex<Option<String>>,
    broken: AtomicBool,
    readers: Vec<tokio::sync::Mutex<Option<Arc<Connected>>>>,
    next: AtomicUsize,
    pub(super) news: News,
    /// How far this process has written the audit.
    head: Mutex<Option<Head>>,
}

impl Inner {
    pub(super) fn new(
        settings: Settings,
        connector: Connector,
        clock: Clock,
        meta: Meta,
        news: News,
    ) -> Self {
        // One writes, one hears what others wrote.
        let readers = settings.postgres.connections_max.saturating_sub(2).max(1);
        Self {
            identity: Mutex::new(meta.identity.clone()),
            settings,
            connector,
            clock,
            hub: Hub::default(),
            settled: Settled::new(settled::BYTES_MAX),
            meta,
            acknowledged: Mutex::default(),
            unfit: Mutex::default(),
            broken: AtomicBool::new(false),
            readers: (0..readers).map(|_| tokio::sync::Mutex::default()).collect(),
            next: AtomicUsize::new(0),
            news,
            head: Mutex::default(),
        }
    }

    pub(super) fn epoch(&self) -> i64 {
        self.meta.epoch
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn told(&self, head: Head) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
    }

    pub(super) fn head(&self) -> Option<Head> {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing may begin, if so.
    pub(super) fn unfit(&self) -> Option<Error> {
        self.unfit.lock().unwrap_or_else(PoisonError::into_inner).clone().map(Error::Unavailable)
    }

    pub(super) fn acknowledge(&self, id: OperationId, revision: u64) {
        *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, revision));
    }

    /// Wakes whoever waits here, and those elsewhere.
    pub(super) fn changed(&self, changes: impl Iterator<Item = (OperationId, u64)>) {
        for (id, revision) in changes {
            self.hub.changed(id, revision);
            self.news.changed(id, revision);
        }
    }

    /// A connection to the journal that this process began with.
    pub(super) async fn connect(
        &self,
        purpose: Purpose,
        notifications: Option<mpsc::Sender<String>>,
    ) -> Result<Connected, Error> {
        let connected = self.connector.connect(purpose, notifications).await?;
        self.examine(&connected).await?;
        Ok(connected)
    }

    /// Whether the journal is the one that this process began with, and may be
    /// written: to be asked of each new connection, and again and again.
    pub(super) async fn examine(&self, connected: &Connected) -> Result<(), Error> {
        let status = opening::status(connected).await?;
        self.require_epoch(status.meta.as_ref().map(|meta| meta.epoch))?;
        self.require_identity(connected, &status).await?;
        let unfit =
            opening::require_standby(&status, &self.settings.postgres).err().map(|error| error.to_string());
        let leapt = self.clock.follow(status.shown).err();
        let unfit = unfit.or_else(|| {
            leapt.map(|away| {
                format!("the database's clock was set: it is {} s from where it was", away.as_secs())
            })
        });
        let mut known = self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != unfit {
            match &unfit {
                Some(why) => tracing::error!(why, "the database is not fit: nothing new is begun"),
                None => tracing::info!("the database is fit again"),
            }
            *known = unfit;
        }
        Ok(())
    }

    pub(super) fn require_epoch(&self, epoch: Option<i64>) -> Result<(), Error> {
        if epoch == Some(self.meta.epoch) {
            return Ok(());
        }
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::error!("the journal was lost, others say; this process must not write again");
        }
        Err(Error::Unavailable("the journal was lost since this process began".to_owned()))
    }

    /// Another server, or another state of it: is what was acknowledged there?
    async fn require_identity(&self, connected: &Connected, status: &Status) -> Result<(), Error> {
        let known = self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known == status.identity {
            return Ok(());
        }
        let why = if known.system != status.identity.system {
            Some("it is in another database cluster than it was")
        } else if self.settings.postgres.without_standby {
            Some("another server took over, and there is no synchronous standby")
        } else if !self.has_acknowledged(connected).await? {
            Some("a write that was acknowledged is not there")
        } else {
            None
        };
        if let Some(why) = why {
            // Until it is written down the next connection finds it again.
            opening::declare(connected, &self.settings, &self.meta, why).await?;
            self.broken.store(true, Ordering::Release);
            return Err(Error::Unavailable(format!("the journal was lost: {why}")));
        }
        tracing::warn!(
            timeline = status.identity.timeline,
            "another server took over, with all that was acknowledged"
        );
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = status.identity.clone();
        Ok(())
    }

    async fn has_acknowledged(&self, connected: &Connected) -> Result<bool, Error> {
        let acknowledged = *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((id, revision)) = acknowledged else { return Ok(true) };
        let (id, revision) = (rows::uuid(id), signed(revision));
        let parameters: &[Parameter<'_>] = &[(&id, Type::UUID), (&revision, Type::INT8)];
        let sql = "SELECT FROM payops.operations WHERE id = $1 AND revision >= $2";
        let found = connected.client.query_typed_opt(sql, parameters).await.map_err(unavailable)?;
        Ok(found.is_some())
    }

    /// Reads, once more where the connection was lost.
    pub(super) async fn read(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        let reading = async {
            let mut again = true;
            loop {
                let reader = self.reader().await?;
                match reader.client.query_typed(sql, parameters).await {
                    Err(_) if again && reader.is_closed() => again = false,
                    ran => return ran.map_err(unavailable),
                }
            }
        };
        let late = || Error::Unavailable("the database did not answer in time".to_owned());
        tokio::time::timeout(2 * READ_MAX, reading).await.map_err(|_| late())?
    }

    async fn reader(&self) -> Result<Arc<Connected>, Error> {
        if self.is_broken() {
            return Err(Error::Unavailable("the journal was lost since this process began".to_owned()));
        }
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.readers.len();
        let place =
            self.readers.get(next).ok_or_else(|| Error::Unavailable("there is no reader".to_owned()))?;
        let mut place = place.lock().await;
        match &*place {
            Some(reader) if !reader.is_closed() => Ok(Arc::clone(reader)),
            _ => {
                let reader = Arc::new(self.connect(Purpose::Read, None).await?);
                *place = Some(Arc::clone(&reader));
                Ok(reader)
            }
        }
    }

    /// Asks the database about itself once more.
    pub(super) async fn look(&self) -> Result<(), Error> {
        let reader = self.reader().await?;
        let late = || Error::Unavailable("the database did not answer in time".to_owned());
        tokio::time::timeout(READ_MAX, self.examine(&reader)).await.map_err(|_| late())?
    }

    /// How far the operations are that somebody here waits for.
    pub(super) async fn look_at_watched(&self) -> Result<(), Error> {
        let ids: Vec<_> = self.hub.watched().into_iter().collect();
        for some in ids.chunks(1024) {
            let names: Vec<_> = some.iter().map(|id| rows::uuid(*id)).collect();
            for row in self.read(rows::REVISIONS, &[(&names, Type::UUID_ARRAY)]).await? {
                let (name, revision): (uuid::Uuid, i64) = (get(&row, 0)?, get(&row, 1)?);
                if let Some(id) = some.iter().find(|id| rows::uuid(**id) == name) {
                    self.hub.changed(*id, u64::try_from(revision).unwrap_or_default());
                }
            }
        }
        Ok(())
    }
}
