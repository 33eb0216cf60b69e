//! Jobs: rounds with what they were asked as, opened once however often the request comes; and what happens in a round, told step by
//! step. Knows nothing of training.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::batch::{Batch, Value};
use super::rounds::{insert_round, round};
use super::{Ledger, LedgerError, rows};
use crate::domain::id::{BlobId, EventId, FileId, JobId, RoundId};
use crate::domain::job::{Job, Level, RoundEvent};

/// What became of a job that was to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is open.
    New,
    /// The same request opened this one before.
    Before(JobId),
    /// The file is gone.
    NoFile,
}

impl Ledger {
    /// Opens a job, which holds the bytes of `file` until it ends. If the same request came with the same key at `again` (Unix
    /// milliseconds) or later, that job is told of instead.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn open_job(
        &self,
        job: Job,
        file: Option<(FileId, BlobId)>,
        again: Option<i64>,
    ) -> Result<Opened, LedgerError> {
        let work = Arc::new((job, file));
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<Opened, LedgerError>> {
                let work = Arc::clone(&work);
                Box::pin(async move {
                    let (job, file) = &*work;
                    let id = job.round.id.to_string();
                    if let Some(since) = again {
                        let sql = "SELECT round_id FROM jobs WHERE digest = $1 AND key_id = $2 AND created_ms >= $3 \
                                   AND round_id <> $4 ORDER BY round_id LIMIT 1";
                        let query = sqlx::query(sql)
                            .bind(job.digest.clone())
                            .bind(job.key.clone())
                            .bind(since)
                            .bind(id.clone());
                        if let Some(row) = query.fetch_optional(&mut *connection).await? {
                            let before: RoundId = rows::id("jobs.round_id", row.try_get("round_id")?)?;
                            return Ok(Opened::Before(before.into()));
                        }
                    }
                    insert_round(connection, &job.round).await?;
                    if let Some((file, blob)) = file {
                        // It may have been deleted since it was read.
                        let sql = "INSERT INTO holds (blob, holder, bytes) SELECT blob, $1, bytes FROM files \
                                   WHERE id = $2 AND blob = $3 ON CONFLICT DO NOTHING";
                        let held = sqlx::query(sql).bind(id.clone()).bind(file.to_string()).bind(blob.to_string());
                        held.execute(&mut *connection).await?;
                        let held = sqlx::query("SELECT 1 FROM holds WHERE holder = $1").bind(id.clone());
                        if held.fetch_optional(&mut *connection).await?.is_none() {
                            let sql = "DELETE FROM rounds WHERE id = $1";
                            sqlx::query(sql).bind(id).execute(connection).await?;
                            return Ok(Opened::NoFile);
                        }
                    }
                    let mut batch = Batch::default();
                    batch.add(
                        "INSERT INTO jobs (round_id, asked, key_id, digest, created_ms) VALUES ($1, $2, $3, $4, $5) \
                         ON CONFLICT DO NOTHING",
                        vec![
                            Value::Text(id.clone()),
                            Value::Text(job.asked.clone()),
                            Value::Text(job.key.clone()),
                            Value::Text(job.digest.clone()),
                            Value::Number(job.round.created_ms),
                        ],
                    );
                    for (name, value) in &job.metadata {
                        batch.add(
                            "INSERT INTO job_metadata (round_id, name, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                            vec![Value::Text(id.clone()), Value::Text(name.clone()), Value::Text(value.clone())],
                        );
                    }
                    batch.run(connection).await?;
                    Ok(Opened::New)
                })
            })
            .await
    }

    /// A job.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, LedgerError> {
        let sql = "SELECT * FROM jobs JOIN rounds ON rounds.id = jobs.round_id WHERE rounds.id = $1";
        let row = sqlx::query(sql).bind(RoundId::from(id).to_string()).fetch_optional(&self.reads).await?;
        Ok(self.with_notes(row.as_slice()).await?.pop())
    }

    /// A page of the jobs older than `before`, newest first, that have all these notes; and whether there are more.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn jobs(
        &self,
        before: Option<JobId>,
        limit: u32,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(Vec<Job>, bool), LedgerError> {
        let mut sql = String::from("SELECT * FROM jobs JOIN rounds ON rounds.id = jobs.round_id WHERE rounds.id < $1");
        // No id sorts after this.
        let mut values = vec![before.map_or_else(|| "s".to_owned(), |id| RoundId::from(id).to_string())];
        for (name, value) in metadata {
            let at = values.len();
            sql += &format!(
                " AND rounds.id IN (SELECT round_id FROM job_metadata WHERE name = ${} AND value = ${})",
                at + 1,
                at + 2
            );
            values.extend([name.clone(), value.clone()]);
        }
        sql += &format!(" ORDER BY rounds.id DESC LIMIT {}", limit.saturating_add(1));
        let query = values.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), sqlx::query::Query::bind);
        let rows = query.fetch_all(&self.reads).await?;
        let (page, more) = rows.split_at(rows.len().min(limit as usize));
        Ok((self.with_notes(page).await?, !more.is_empty()))
    }

    async fn with_notes(&self, found: &[AnyRow]) -> Result<Vec<Job>, LedgerError> {
        let mut jobs = Vec::with_capacity(found.len());
        for row in found {
            let round = round(row)?;
            let notes = sqlx::query("SELECT name, value FROM job_metadata WHERE round_id = $1");
            let notes = notes.bind(round.id.to_string()).fetch_all(&self.reads).await?;
            let note = |row: &AnyRow| Ok::<_, LedgerError>((row.try_get("name")?, row.try_get("value")?));
            jobs.push(Job {
                asked: row.try_get("asked")?,
                metadata: notes.iter().map(note).collect::<Result<_, _>>()?,
                key: row.try_get("key_id")?,
                digest: row.try_get("digest")?,
                round,
            });
        }
        Ok(jobs)
    }

    /// Keeps what happened in a round; a step that was told of before stays as it was told.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn tell(&self, event: RoundEvent) -> Result<(), LedgerError> {
        let event = Arc::new(event);
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<(), LedgerError>> {
                let event = Arc::clone(&event);
                Box::pin(async move { insert_event(connection, &event).await })
            })
            .await
    }

    /// A page of what happened in a round before `before`, newest first, and whether there is more.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn events(
        &self,
        round: RoundId,
        before: Option<EventId>,
        limit: u32,
    ) -> Result<(Vec<RoundEvent>, bool), LedgerError> {
        let sql = "SELECT * FROM round_events WHERE round_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
        // No id sorts after this.
        let before = before.map_or_else(|| "g".to_owned(), |id| id.to_string());
        let query = sqlx::query(sql).bind(round.to_string()).bind(before).bind(i64::from(limit) + 1);
        let rows = query.fetch_all(&self.reads).await?;
        let (page, more) = rows.split_at(rows.len().min(limit as usize));
        Ok((page.iter().map(event).collect::<Result<_, _>>()?, !more.is_empty()))
    }

    /// The last step that a round told of.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn last_step(&self, round: RoundId) -> Result<Option<RoundEvent>, LedgerError> {
        let sql = "SELECT * FROM round_events WHERE round_id = $1 AND step IS NOT NULL ORDER BY step DESC LIMIT 1";
        let row = sqlx::query(sql).bind(round.to_string()).fetch_optional(&self.reads).await?;
        row.as_ref().map(event).transpose()
    }
}

/// Keeps what happened, once.
pub(super) async fn insert_event(connection: &mut AnyConnection, event: &RoundEvent) -> Result<(), LedgerError> {
    let sql = "INSERT INTO round_events (id, round_id, at_ms, level, message, step, data) \
               VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
    sqlx::query(sql)
        .bind(event.id.to_string())
        .bind(event.round.to_string())
        .bind(event.at_ms)
        .bind(event.level.word())
        .bind(event.message.clone())
        .bind(event.step)
        .bind(event.data.clone())
        .execute(connection)
        .await?;
    Ok(())
}

fn event(row: &AnyRow) -> Result<RoundEvent, LedgerError> {
    let word: &str = row.try_get("level")?;
    let level = Level::ALL.into_iter().find(|level| level.word() == word);
    Ok(RoundEvent {
        id: rows::id("round_events.id", row.try_get("id")?)?,
        round: rows::id("round_events.round_id", row.try_get("round_id")?)?,
        at_ms: row.try_get("at_ms")?,
        level: level.ok_or_else(|| LedgerError::Corrupt(format!("column round_events.level: {word}")))?,
        message: row.try_get("message")?,
        step: row.try_get("step")?,
        data: row.try_get("data")?,
    })
}
