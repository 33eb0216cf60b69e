//! Forgetting: by request, by person, by age, by size; and what there is to forget. A file goes when nobody holds it.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde::Serialize;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::{Ledger, LedgerError, rows};
use crate::domain::id::{BlobId, CallId};

/// What was forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Purged {
    pub calls: u64,
    pub samples: u64,
    pub feedback: u64,
    pub files: u64,
    /// Versions that were trained with some of the samples; they are as they were.
    pub versions: Vec<String>,
}

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    pub calls: u64,
    pub samples: u64,
    pub pictures: u64,
    pub feedback: u64,
    pub withdrawn: u64,
    /// Of requests and feedback.
    pub files: u64,
    pub file_bytes: u64,
    /// Sent to learn from; they are not counted above, and no bound of requests deletes them.
    pub uploads: u64,
    pub upload_bytes: u64,
    /// Of versions whose weights are kept here.
    pub weight_bytes: u64,
    /// Unix milliseconds of the first and the last request.
    pub first_ms: Option<i64>,
    pub last_ms: Option<i64>,
    /// By version, its samples.
    pub versions: BTreeMap<String, u64>,
    /// Requests that were not kept, by kind.
    pub not_kept: BTreeMap<String, u64>,
}

impl Ledger {
    /// Deletes a request with its samples, their feedback, and files that nobody else holds.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn delete_call(&self, id: CallId) -> Result<Purged, LedgerError> {
        self.purge("id = $1", id.to_string()).await
    }

    /// Deletes what was asked on behalf of a person, and the feedback that the person gave.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn purge_person(&self, person: &str) -> Result<Purged, LedgerError> {
        let mut purged = self.purge("person = $1", person.to_owned()).await?;
        let rater = person.to_owned();
        let (given, files) = self
            .writer
            .write(move |connection| -> BoxFuture<'_, Result<(u64, Vec<BlobId>), LedgerError>> {
                let rater = rater.clone();
                Box::pin(async move {
                    let held = "SELECT blob FROM holds WHERE holder IN (SELECT id FROM feedback WHERE rater = $1)";
                    let held = blobs(connection, held, &rater).await?;
                    run(
                        connection,
                        "DELETE FROM holds WHERE holder IN (SELECT id FROM feedback WHERE rater = $1)",
                        &rater,
                    )
                    .await?;
                    let given = run(connection, "DELETE FROM feedback WHERE rater = $1", &rater).await?;
                    Ok((given, unheld(connection, held).await?))
                })
            })
            .await?;
        self.blobs.sweep(&files).await;
        purged.feedback += given;
        purged.files += files.len() as u64;
        Ok(purged)
    }

    /// Deletes what was asked before a time, in Unix milliseconds.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn purge_before(&self, time_ms: i64) -> Result<Purged, LedgerError> {
        // Text compares as the number does: the number is cast in the statement, since values are bound as texts here.
        self.purge("created_ms < CAST($1 AS BIGINT)", time_ms.to_string()).await
    }

    /// Deletes the oldest requests until files and rows take at most `bytes` of files.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn purge_to(&self, bytes: u64) -> Result<Purged, LedgerError> {
        let mut purged = Purged::default();
        loop {
            let stats = self.stats().await?;
            if stats.file_bytes <= bytes || stats.calls == 0 {
                return Ok(purged);
            }
            let row = sqlx::query("SELECT id FROM calls ORDER BY created_ms, id LIMIT 1 OFFSET $1")
                .bind(i64::try_from(stats.calls / 100).unwrap_or(0))
                .fetch_one(&self.reads)
                .await?;
            let some = self.purge("id <= $1", row.try_get("id")?).await?;
            purged.calls += some.calls;
            purged.samples += some.samples;
            purged.feedback += some.feedback;
            purged.files += some.files;
            purged.versions.extend(some.versions);
            purged.versions.sort();
            purged.versions.dedup();
        }
    }

    /// Deletes the calls that `condition` holds of, with one value for `$1`.
    async fn purge(&self, condition: &'static str, value: String) -> Result<Purged, LedgerError> {
        let (purged, files) = self
            .writer
            .write(move |connection| -> BoxFuture<'_, Result<(Purged, Vec<BlobId>), LedgerError>> {
                let value = value.clone();
                Box::pin(async move {
                    let calls = format!("SELECT id FROM calls WHERE {condition}");
                    let samples = format!("SELECT id FROM samples WHERE call_id IN ({calls})");
                    let about = format!("SELECT feedback_id FROM feedback_samples WHERE sample_id IN ({samples})");
                    let holders = format!("holder IN ({calls}) OR holder IN ({about})");
                    let held = blobs(connection, &format!("SELECT blob FROM holds WHERE {holders}"), &value).await?;
                    let trained =
                        format!("SELECT DISTINCT version FROM trained WHERE sample_id IN ({samples}) ORDER BY version");
                    let trained =
                        sqlx::query(AssertSqlSafe(trained)).bind(value.clone()).fetch_all(&mut *connection).await?;
                    run(connection, &format!("DELETE FROM holds WHERE {holders}"), &value).await?;
                    let purged = Purged {
                        feedback: run(connection, &format!("DELETE FROM feedback WHERE id IN ({about})"), &value)
                            .await?,
                        samples: run(connection, &format!("DELETE FROM samples WHERE call_id IN ({calls})"), &value)
                            .await?,
                        calls: run(connection, &format!("DELETE FROM calls WHERE {condition}"), &value).await?,
                        files: 0,
                        versions: trained
                            .iter()
                            .map(|row| Ok(row.try_get("version")?))
                            .collect::<Result<_, LedgerError>>()?,
                    };
                    let files = unheld(connection, held).await?;
                    Ok((Purged { files: files.len() as u64, ..purged }, files))
                })
            })
            .await?;
        self.blobs.sweep(&files).await;
        Ok(purged)
    }

    /// Counts a request that is not kept.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn count(&self, day: String, name: &'static str) -> Result<(), LedgerError> {
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<(), LedgerError>> {
                let day = day.clone();
                Box::pin(async move {
                    let sql = "INSERT INTO counters (day, name, value) VALUES ($1, $2, 1) \
                               ON CONFLICT (day, name) DO UPDATE SET value = counters.value + 1";
                    sqlx::query(sql).bind(day).bind(name).execute(connection).await?;
                    Ok(())
                })
            })
            .await
    }

    /// What is kept.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn stats(&self) -> Result<Stats, LedgerError> {
        let counts = "SELECT (SELECT COUNT(*) FROM calls) AS calls, (SELECT COUNT(*) FROM samples) AS samples, \
                      (SELECT COUNT(*) FROM samples WHERE picture IS NOT NULL) AS pictures, \
                      (SELECT COUNT(*) FROM feedback WHERE withdrawn = 0) AS feedback, \
                      (SELECT COUNT(*) FROM feedback WHERE withdrawn <> 0) AS withdrawn, \
                      (SELECT COUNT(DISTINCT blob) FROM holds WHERE holder NOT IN (SELECT id FROM versions) \
                      AND holder NOT IN (SELECT id FROM files) AND holder NOT IN (SELECT id FROM rounds)) AS files, \
                      (SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM (SELECT MAX(bytes) AS bytes FROM holds \
                      WHERE holder NOT IN (SELECT id FROM versions) AND holder NOT IN (SELECT id FROM files) \
                      AND holder NOT IN (SELECT id FROM rounds) GROUP BY blob) AS sizes) AS file_bytes, \
                      (SELECT COUNT(*) FROM files) AS uploads, \
                      (SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM files) AS upload_bytes, \
                      (SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM versions WHERE weights IS NOT NULL) AS weight_bytes, \
                      (SELECT MIN(created_ms) FROM calls) AS first_ms, (SELECT MAX(created_ms) FROM calls) AS last_ms";
        let row = sqlx::query(counts).fetch_one(&self.reads).await?;
        let count = |column: &str| -> Result<u64, LedgerError> {
            Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
        };
        let group = async |sql: &'static str| -> Result<BTreeMap<String, u64>, LedgerError> {
            let rows = sqlx::query(sql).fetch_all(&self.reads).await?;
            let pair = |row: &sqlx::any::AnyRow| {
                Ok((row.try_get("name")?, u64::try_from(row.try_get::<i64, _>("value")?).unwrap_or(0)))
            };
            rows.iter().map(pair).collect()
        };
        Ok(Stats {
            calls: count("calls")?,
            samples: count("samples")?,
            pictures: count("pictures")?,
            feedback: count("feedback")?,
            withdrawn: count("withdrawn")?,
            files: count("files")?,
            file_bytes: count("file_bytes")?,
            uploads: count("uploads")?,
            upload_bytes: count("upload_bytes")?,
            weight_bytes: count("weight_bytes")?,
            first_ms: row.try_get("first_ms")?,
            last_ms: row.try_get("last_ms")?,
            versions: group("SELECT version AS name, COUNT(*) AS value FROM samples GROUP BY version").await?,
            not_kept: group("SELECT name, CAST(SUM(value) AS BIGINT) AS value FROM counters GROUP BY name").await?,
        })
    }
}

async fn run(connection: &mut AnyConnection, sql: &str, value: &str) -> Result<u64, LedgerError> {
    let query = sqlx::query(AssertSqlSafe(sql.to_owned())).bind(value.to_owned());
    Ok(query.execute(connection).await?.rows_affected())
}

async fn blobs(connection: &mut AnyConnection, sql: &str, value: &str) -> Result<Vec<BlobId>, LedgerError> {
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).bind(value.to_owned()).fetch_all(connection).await?;
    rows.iter().map(|row| rows::id("holds.blob", row.try_get("blob")?)).collect()
}

/// Ends all that `holder` holds; gives back the files that nobody holds any more.
pub(super) async fn release(connection: &mut AnyConnection, holder: &str) -> Result<Vec<BlobId>, LedgerError> {
    let held = blobs(connection, "SELECT blob FROM holds WHERE holder = $1", holder).await?;
    run(connection, "DELETE FROM holds WHERE holder = $1", holder).await?;
    unheld(connection, held).await
}

/// Those that nobody holds any more.
async fn unheld(connection: &mut AnyConnection, mut held: Vec<BlobId>) -> Result<Vec<BlobId>, LedgerError> {
    held.sort();
    held.dedup();
    let mut free = Vec::new();
    for blob in held {
        let query = sqlx::query("SELECT 1 FROM holds WHERE blob = $1 LIMIT 1").bind(blob.to_string());
        if query.fetch_optional(&mut *connection).await?.is_none() {
            free.push(blob);
        }
    }
    Ok(free)
}
