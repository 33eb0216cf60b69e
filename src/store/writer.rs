//! Group commit: one task owns the writing connection, and whatever waits when a transaction begins shares it. A write is
//! acknowledged after the commit. When the database is away the writer tries again for a while, then refuses at once until
//! it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, Connection as _, Pool};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::LedgerError;

/// Writes that wait at most; one more is refused.
const WAITING: usize = 4096;
/// Writes of one transaction.
const GROUP: usize = 256;
/// How long a write is tried when the database is away.
const PATIENCE: Duration = Duration::from_secs(3);
/// While writes are refused, the time between looks whether the database is back.
const REST: Duration = Duration::from_millis(500);

/// The way in to the task.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
    up: Arc<AtomicBool>,
}

/// One write: run in a transaction, perhaps more than once, then told how it ended.
trait Job: Send {
    fn run<'c>(&'c mut self, connection: &'c mut AnyConnection) -> BoxFuture<'c, Result<(), LedgerError>>;
    fn done(self: Box<Self>, end: Result<(), LedgerError>);
}

struct Write<F, T> {
    work: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, LedgerError>>,
}

impl<F, T> Job for Write<F, T>
where
    F: for<'c> Fn(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, LedgerError>> + Send + Sync,
    T: Send,
{
    fn run<'c>(&'c mut self, connection: &'c mut AnyConnection) -> BoxFuture<'c, Result<(), LedgerError>> {
        Box::pin(async move {
            self.value = Some((self.work)(connection).await?);
            Ok(())
        })
    }

    fn done(self: Box<Self>, end: Result<(), LedgerError>) {
        let Self { value, reply, .. } = *self;
        let value = value.ok_or_else(|| LedgerError::Unavailable("a write was not run".into()));
        // Whoever asked may have left.
        let _ = reply.send(end.and(value));
    }
}

impl Writer {
    /// Starts the task on the current runtime; it ends when the last `Writer` is dropped and all is written.
    pub fn start(pool: Pool<Any>, begin: &'static str) -> Self {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let up = Arc::new(AtomicBool::new(true));
        tokio::spawn(Committer { pool, connection: None, begin, waiting, up: Arc::clone(&up), refused: None }.run());
        Self { jobs, up }
    }

    /// Whether the last write reached the database.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Runs `work` in a transaction shared with others and waits until it is durable. `work` may be run again, from a state
    /// where it has or has not taken effect, so it must come to the same.
    pub async fn write<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        F: for<'c> Fn(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, LedgerError>> + Send + Sync + 'static,
        T: Send + 'static,
    {
        let (reply, end) = oneshot::channel();
        let job = Box::new(Write { work, value: None, reply });
        self.jobs.try_send(job).map_err(|_| LedgerError::Unavailable("too many writes wait".into()))?;
        end.await.map_err(|_| LedgerError::Unavailable("the writer has stopped".into()))?
    }
}

struct Committer {
    pool: Pool<Any>,
    /// Kept from commit to commit, and given up when one fails.
    connection: Option<PoolConnection<Any>>,
    begin: &'static str,
    waiting: mpsc::Receiver<Box<dyn Job>>,
    up: Arc<AtomicBool>,
    /// Why writes are refused for now.
    refused: Option<LedgerError>,
}

impl Committer {
    async fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            if let Some(error) = self.refused.take()
                && !self.refuse_until_back(error).await
            {
                return;
            }
            if self.waiting.recv_many(&mut group, GROUP).await == 0 {
                return;
            }
            self.settle(std::mem::take(&mut group)).await;
        }
    }

    /// Refuses whatever comes until the database takes a write again. False when nobody is left to write.
    async fn refuse_until_back(&mut self, error: LedgerError) -> bool {
        self.up.store(false, Ordering::Relaxed);
        let (pool, begin) = (self.pool.clone(), self.begin);
        let back = async move {
            loop {
                tokio::time::sleep(REST).await;
                if probe(&pool, begin).await.is_ok() {
                    return;
                }
            }
        };
        tokio::pin!(back);
        let mut group = Vec::new();
        loop {
            tokio::select! {
                () = &mut back => break,
                some = self.waiting.recv_many(&mut group, GROUP) => {
                    if some == 0 {
                        return false;
                    }
                    group.drain(..).for_each(|job| job.done(Err(error.clone())));
                }
            }
        }
        self.up.store(true, Ordering::Relaxed);
        tracing::info!("the ledger is written again");
        true
    }

    /// Commits a group, or finds out which of it cannot be.
    async fn settle(&mut self, mut group: Vec<Box<dyn Job>>) {
        let error = match self.persist(&mut group).await {
            Ok(()) => return group.into_iter().for_each(|job| job.done(Ok(()))),
            Err(error) => error,
        };
        if let LedgerError::Unavailable(_) = error {
            return self.refuse(group, error);
        }
        if group.len() == 1 {
            return group.into_iter().for_each(|job| job.done(Err(error.clone())));
        }
        // One of them is at fault; each by itself the others succeed.
        let mut rest = group.into_iter();
        while let Some(job) = rest.next() {
            let mut alone = vec![job];
            match self.persist(&mut alone).await {
                Ok(()) => alone.into_iter().for_each(|job| job.done(Ok(()))),
                Err(error @ LedgerError::Unavailable(_)) => {
                    alone.extend(rest);
                    return self.refuse(alone, error);
                }
                Err(error) => alone.into_iter().for_each(|job| job.done(Err(error.clone()))),
            }
        }
    }

    fn refuse(&mut self, group: Vec<Box<dyn Job>>, error: LedgerError) {
        tracing::warn!(%error, writes = group.len(), "the ledger cannot be written");
        group.into_iter().for_each(|job| job.done(Err(error.clone())));
        self.refused = Some(error);
    }

    /// Tries until it is committed, or time is up, or trying again would not help.
    async fn persist(&mut self, group: &mut [Box<dyn Job>]) -> Result<(), LedgerError> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match self.commit(group).await {
                Err(LedgerError::Unavailable(cause)) if begun.elapsed() + pause < PATIENCE => {
                    tracing::debug!(cause, "the ledger is tried again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                end => return end,
            }
        }
    }

    async fn commit(&mut self, group: &mut [Box<dyn Job>]) -> Result<(), LedgerError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.acquire().await?,
        };
        let end = transact(&mut connection, self.begin, group).await;
        match end {
            Ok(()) => self.connection = Some(connection),
            // Whatever state it was left in (a full disk can end a transaction that its owner thinks is open), nobody gets it again.
            Err(_) => drop(connection.detach()),
        }
        end
    }
}

async fn transact(
    connection: &mut AnyConnection,
    begin: &'static str,
    group: &mut [Box<dyn Job>],
) -> Result<(), LedgerError> {
    let mut transaction = connection.begin_with(begin).await?;
    for job in group {
        job.run(&mut transaction).await?;
    }
    Ok(transaction.commit().await?)
}

/// Whether a write would be taken: one is made, for a disk may be full that still lets itself be locked.
async fn probe(pool: &Pool<Any>, begin: &'static str) -> Result<(), LedgerError> {
    // Not given back to the pool, as above.
    let mut connection = pool.acquire().await?.detach();
    let mut transaction = connection.begin_with(begin).await?;
    let sql = "INSERT INTO settings (name, value) VALUES ('probe', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    sqlx::query(sql).bind(Uuid::now_v7().to_string()).execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}
