//! The tables, version by version, for both databases. A database that is newer than this program is refused.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Any, AssertSqlSafe, Pool, SqlSafeStr as _};

use super::{Dialect, LedgerError};

/// Versions in order; one that was released is never changed.
const VERSIONS: [(&str, &str); 5] = [
    ("ledger", include_str!("schema/0001_ledger.sql")),
    ("timings", include_str!("schema/0002_timings.sql")),
    ("rounds", include_str!("schema/0003_rounds.sql")),
    ("canary", include_str!("schema/0004_canary.sql")),
    ("jobs", include_str!("schema/0005_jobs.sql")),
];

/// Brings the tables up to date.
///
/// # Errors
/// When the database is newer than this program, or was changed by another hand.
pub(super) async fn migrate(pool: &Pool<Any>, dialect: Dialect) -> Result<(), LedgerError> {
    let migration = |(at, (name, sql)): (usize, &(&'static str, &str))| {
        let sql = AssertSqlSafe(sql.replace("{bytes}", dialect.bytes())).into_sql_str();
        Migration::new(at as i64 + 1, Cow::Borrowed(name), MigrationType::Simple, sql, false)
    };
    let migrator = Migrator::with_migrations(VERSIONS.iter().enumerate().map(migration).collect());
    migrator.run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => LedgerError::Open(format!(
            "the database is of a later version ({version}) than this program knows ({}); use the program that wrote it",
            VERSIONS.len()
        )),
        MigrateError::VersionMismatch(version) => LedgerError::Open(format!(
            "the tables of version {version} in the database are not those of this program; it was written by another build, \
             so use that one, or another database"
        )),
        other => LedgerError::Open(format!("the tables cannot be made: {other}")),
    })
}
