//! What is true after a crash: requests with their samples, feedback, and the files they hold. SQLite in a file, or Postgres;
//! one set of statements serves both. A write that was acknowledged is durable.
//!
//! Writes go through one task that commits them in groups (`writer`); reads have connections of their own. It knows nothing
//! of HTTP and of the engine.

mod batch;
mod blobs;
mod calls;
mod feedback;
mod files;
mod jobs;
mod purge;
mod rated;
mod rounds;
mod rows;
mod schema;
mod settings;
mod trials;
mod versions;
mod writer;

use std::path::Path;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{Any, AnyConnection, Connection as _, Executor as _, Pool};

pub use self::blobs::{Blobs, Fresh, digest};
pub use self::calls::{CallFilter, Kept, Order, Task};
pub use self::feedback::{Rated, Rating, Said, Target};
pub use self::files::FileFilter;
pub use self::jobs::Opened;
pub use self::purge::{Purged, Stats};
pub use self::rated::{RatedCall, Remark};
pub use self::rounds::Move;
pub use self::trials::{Beginning, Begun, Ending, Settled};
pub use self::versions::Promoted;
use self::writer::Writer;

/// Why the ledger did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be used at all.
    #[error("{0}")]
    Open(String),
    /// It is away, full or busy for now.
    #[error("the ledger is not available: {0}")]
    Unavailable(String),
    /// It holds what this program did not write, or a statement is wrong.
    #[error("the ledger is damaged: {0}")]
    Corrupt(String),
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        let text = error.to_string();
        let away = match &error {
            E::Io(_)
            | E::Tls(_)
            | E::Protocol(_)
            | E::PoolTimedOut
            | E::PoolClosed
            | E::WorkerCrashed
            | E::BeginFailed => true,
            E::Database(e) => e.code().is_some_and(|code| is_away(&code)),
            _ => false,
        };
        if away { Self::Unavailable(text) } else { Self::Corrupt(text) }
    }
}

/// Codes of databases that are busy, full, read-only or going down. SQLite's are numbers whose lowest byte is the kind.
fn is_away(code: &str) -> bool {
    if code.len() == 5 {
        return ["08", "53", "57", "58", "40", "25006"].iter().any(|class| code.starts_with(class));
    }
    const BUSY: [u32; 8] = [5, 6, 7, 8, 10, 13, 14, 15];
    code.parse::<u32>().is_ok_and(|code| BUSY.contains(&(code & 0xff)))
}

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The type for bytes.
    fn bytes(self) -> &'static str {
        match self {
            Self::Sqlite => "BLOB",
            Self::Postgres => "BYTEA",
        }
    }

    /// Begins a transaction that writes.
    fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }
}

/// How long a connection may take to come.
const CONNECT: Duration = Duration::from_secs(2);
/// Connections that read.
const READERS: u32 = 4;

/// The ledger; clones share it.
#[derive(Clone)]
pub struct Ledger {
    reads: Pool<Any>,
    writer: Writer,
    blobs: Blobs,
}

impl Ledger {
    /// SQLite in `file`, which is made.
    ///
    /// # Errors
    /// When the file cannot be opened, or is of a later version.
    pub async fn sqlite(file: &Path, blobs: Blobs) -> Result<Self, LedgerError> {
        let path = file.to_str().ok_or_else(|| LedgerError::Open(format!("{} is no path in UTF-8", file.display())))?;
        // The characters that a URL would take for its own.
        let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        Self::open(&format!("sqlite://{path}?mode=rwc"), Dialect::Sqlite, blobs)
            .await
            .map_err(|e| LedgerError::Open(format!("{}: {e}", file.display())))
    }

    /// The Postgres at `url`.
    ///
    /// # Errors
    /// When it cannot be reached, or its tables are of a later version.
    pub async fn postgres(url: &str, blobs: Blobs) -> Result<Self, LedgerError> {
        Self::open(url, Dialect::Postgres, blobs).await
    }

    async fn open(url: &str, dialect: Dialect, blobs: Blobs) -> Result<Self, LedgerError> {
        sqlx::any::install_default_drivers();
        let open = |e: sqlx::Error| LedgerError::Open(format!("the database cannot be opened: {e}"));
        let options = || {
            // A file does not go away as a server does, and asking it costs as much as reading from it.
            let ask = dialect == Dialect::Postgres;
            AnyPoolOptions::new().acquire_timeout(CONNECT).test_before_acquire(ask).after_connect(
                move |connection, _| {
                    Box::pin(async move {
                        if dialect == Dialect::Sqlite {
                            prepare(connection).await?;
                        }
                        Ok(())
                    })
                },
            )
        };
        // A pool would only say that it waited too long.
        let mut probe = AnyConnection::connect(url).await.map_err(open)?;
        if dialect == Dialect::Sqlite {
            prepare(&mut probe).await.map_err(open)?;
        }
        probe.close().await.map_err(open)?;
        let writes = options().max_connections(1).connect(url).await.map_err(open)?;
        schema::migrate(&writes, dialect).await?;
        let reads = options().max_connections(READERS).connect(url).await.map_err(open)?;
        Ok(Self { reads, writer: Writer::start(writes, dialect.begin()), blobs })
    }

    /// Whether the last write reached the database.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.writer.is_up()
    }

    /// The files.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }
}

/// SQLite as a ledger wants it: readers beside the writer, every commit on the disk, patience with other processes.
async fn prepare(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let pragmas =
        "PRAGMA busy_timeout = 1000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";
    connection.execute(pragmas).await.map(|_| ())
}
