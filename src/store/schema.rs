//! The tables, version by version, for both databases. A database that is newer than this program is refused.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Any, AssertSqlSafe, Pool, SqlSafeStr as _};

use super::{Dialect, LedgerError};

/// Versions in order, with their numbers; one that was released is never changed.
const VERSIONS: [(i64, &str, &str); 5] = [
    (1, "ledger", include_str!("schema/0001_ledger.sql")),
    (2, "timings", include_str!("schema/0002_timings.sql")),
    (3, "rounds", include_str!("schema/0003_rounds.sql")),
    (4, "canary", include_str!("schema/0004_canary.sql")),
    (5, "jobs", include_str!("schema/0005_jobs.sql")),
];

/// Brings the tables up to date.
///
/// # Errors
/// When the database is newer than this program, or was changed by another hand.
pub(super) async fn migrate(pool: &Pool<Any>, dialect: Dialect) -> Result<(), LedgerError> {
    let migration = |(number, name, sql): &(i64, &'static str, &str)| {
        let sql = AssertSqlSafe(sql.replace("{bytes}", dialect.bytes())).into_sql_str();
        Migration::new(*number, Cow::Borrowed(*name), MigrationType::Simple, sql, false)
    };
    let migrator = Migrator::with_migrations(VERSIONS.iter().map(migration).collect());
    migrator.run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => LedgerError::Open(format!(
            "the database is of a later version ({version}) than this program knows ({}); use the program that wrote it",
            VERSIONS.last().map_or(0, |(number, ..)| *number)
        )),
        MigrateError::VersionMismatch(version) => LedgerError::Open(format!(
            "the tables of version {version} in the database are not those of this program; it was written by another build, \
             so use that one, or another database"
        )),
        other => LedgerError::Open(format!("the tables cannot be made: {other}")),
    })
}
