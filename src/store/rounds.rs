//! Training rounds: opened, held by whoever works on them, moved from state to state, found again after a crash. Every change
//! names the state it expects, so that of two workers one is told that the round is no longer its own. Knows nothing of training.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::batch::{Batch, Value};
use super::jobs::insert_event;
use super::{Ledger, LedgerError, purge, rows};
use crate::domain::id::{BlobId, RoundId, SampleId};
use crate::domain::job::RoundEvent;
use crate::domain::round::{Round, RoundState};
use crate::domain::sample::Version;

/// A change of a round by whoever holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    pub id: RoundId,
    /// Who holds it.
    pub owner: String,
    pub from: RoundState,
    pub to: RoundState,
    /// What is known from now on; `None` leaves it as it is.
    pub base: Option<Version>,
    pub candidate: Option<Version>,
    pub report: Option<String>,
    pub now_ms: i64,
    /// What is told of it.
    pub tell: Option<RoundEvent>,
}

impl Ledger {
    /// Keeps a new round.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn open_round(&self, round: Round) -> Result<(), LedgerError> {
        let round = Arc::new(round);
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<(), LedgerError>> {
                let round = Arc::clone(&round);
                Box::pin(async move { insert_round(connection, &round).await })
            })
            .await
    }

    /// The oldest unfinished round that nobody holds at `now_ms`, held from now on by `owner` until `until_ms`.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn claim_round(&self, owner: String, now_ms: i64, until_ms: i64) -> Result<Option<Round>, LedgerError> {
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<Option<Round>, LedgerError>> {
                let owner = owner.clone();
                Box::pin(async move {
                    let sql = "SELECT * FROM rounds WHERE state IN ('open', 'rolling', 'training', 'judging') \
                               AND (held_ms < $1 OR owner = $2) AND paused = 0 ORDER BY id LIMIT 1";
                    let query = sqlx::query(sql).bind(now_ms).bind(owner.clone());
                    let Some(row) = query.fetch_optional(&mut *connection).await? else { return Ok(None) };
                    let found = round(&row)?;
                    // Another process may have taken it since it was read.
                    let sql = "UPDATE rounds SET owner = $1, held_ms = $2 WHERE id = $3 \
                               AND (held_ms < $4 OR owner = $5) AND paused = 0";
                    let held = sqlx::query(sql)
                        .bind(owner.clone())
                        .bind(until_ms)
                        .bind(found.id.to_string())
                        .bind(now_ms)
                        .bind(owner)
                        .execute(connection)
                        .await?;
                    Ok((held.rows_affected() > 0).then_some(found))
                })
            })
            .await
    }

    /// Holds a round until `until_ms`; false when it has ended, is paused or another's.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn hold_round(&self, id: RoundId, owner: String, until_ms: i64) -> Result<bool, LedgerError> {
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<bool, LedgerError>> {
                let owner = owner.clone();
                Box::pin(async move {
                    let sql = "UPDATE rounds SET held_ms = $1 WHERE id = $2 AND owner = $3 AND paused = 0 \
                               AND state IN ('open', 'rolling', 'training', 'judging')";
                    let held = sqlx::query(sql).bind(until_ms).bind(id.to_string()).bind(owner);
                    Ok(held.execute(connection).await?.rows_affected() > 0)
                })
            })
            .await
    }

    /// Moves a round on; false when it is no longer where its owner thinks, or no longer its owner's. One that ends holds no file any
    /// more.
    ///
    /// # Errors
    /// When it is not durable, or a round may not go that way.
    pub async fn move_round(&self, change: Move) -> Result<bool, LedgerError> {
        if !change.from.may_become(change.to) {
            let (from, to) = (change.from.word(), change.to.word());
            return Err(LedgerError::Corrupt(format!("a round that is {from} cannot become {to}")));
        }
        let change = Arc::new(change);
        let done = self
            .writer
            .write(move |connection| -> BoxFuture<'_, Result<Option<Vec<BlobId>>, LedgerError>> {
                let change = Arc::clone(&change);
                Box::pin(async move {
                    // Run again, it finds itself where it was going.
                    let sql = "UPDATE rounds SET state = $1, changed_ms = $2, base = COALESCE($3, base), \
                               candidate = COALESCE($4, candidate), report = COALESCE($5, report) \
                               WHERE id = $6 AND owner = $7 AND state IN ($8, $9)";
                    let moved = sqlx::query(sql)
                        .bind(change.to.word())
                        .bind(change.now_ms)
                        .bind(change.base.as_ref().map(|base| base.0.clone()))
                        .bind(change.candidate.as_ref().map(|candidate| candidate.0.clone()))
                        .bind(change.report.clone())
                        .bind(change.id.to_string())
                        .bind(change.owner.clone())
                        .bind(change.from.word())
                        .bind(change.to.word())
                        .execute(&mut *connection)
                        .await?;
                    if let Some(event) = change.tell.as_ref().filter(|_| moved.rows_affected() > 0) {
                        insert_event(connection, event).await?;
                    }
                    match moved.rows_affected() {
                        0 => Ok(None),
                        // Who waits for a trial has learned already.
                        _ if change.to.is_final() || change.to == RoundState::Trying => {
                            purge::release(connection, &change.id.to_string()).await.map(Some)
                        }
                        _ => Ok(Some(vec![])),
                    }
                })
            })
            .await?;
        self.swept(done).await
    }

    async fn swept(&self, done: Option<Vec<BlobId>>) -> Result<bool, LedgerError> {
        let Some(free) = done else { return Ok(false) };
        self.blobs.sweep(&free).await;
        Ok(true)
    }

    /// Ends an unfinished round by a person's hand, and the trial of its candidate; false when it has ended already, or there is none.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn cancel_round(&self, id: RoundId, now_ms: i64) -> Result<bool, LedgerError> {
        let done = self
            .writer
            .write(move |connection| -> BoxFuture<'_, Result<Option<Vec<BlobId>>, LedgerError>> {
                Box::pin(async move {
                    let sql = "UPDATE rounds SET state = 'cancelled', changed_ms = $1 WHERE id = $2 \
                               AND state IN ('open', 'rolling', 'training', 'judging', 'trying')";
                    let ended = sqlx::query(sql).bind(now_ms).bind(id.to_string());
                    if ended.execute(&mut *connection).await?.rows_affected() == 0 {
                        return Ok(None);
                    }
                    let sql = "UPDATE trials SET state = 'withdrawn', ended_ms = $1, said = 'its round was cancelled' \
                               WHERE round = $2 AND state = 'running'";
                    sqlx::query(sql).bind(now_ms).bind(id.to_string()).execute(&mut *connection).await?;
                    purge::release(connection, &id.to_string()).await.map(Some)
                })
            })
            .await?;
        self.swept(done).await
    }

    /// Takes an unfinished round from whoever works on it, until it is resumed; false when it has ended, is paused, or there is none.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn pause_round(&self, id: RoundId) -> Result<bool, LedgerError> {
        let sql = "UPDATE rounds SET paused = 1 WHERE id = $1 AND paused = 0 \
                   AND state IN ('open', 'rolling', 'training', 'judging')";
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<bool, LedgerError>> {
                Box::pin(async move {
                    Ok(sqlx::query(sql).bind(id.to_string()).execute(connection).await?.rows_affected() > 0)
                })
            })
            .await
    }

    /// Lets a paused round go on; until `until_ms` it is for its last worker, who has its checkpoint. False when it is not paused.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn resume_round(&self, id: RoundId, until_ms: i64) -> Result<bool, LedgerError> {
        let sql = "UPDATE rounds SET paused = 0, held_ms = CASE WHEN owner IS NULL THEN 0 ELSE CAST($1 AS BIGINT) END \
                   WHERE id = $2 AND paused <> 0 AND state IN ('open', 'rolling', 'training', 'judging')";
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<bool, LedgerError>> {
                Box::pin(async move {
                    let resumed = sqlx::query(sql).bind(until_ms).bind(id.to_string());
                    Ok(resumed.execute(connection).await?.rows_affected() > 0)
                })
            })
            .await
    }

    /// A round.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn round(&self, id: RoundId) -> Result<Option<Round>, LedgerError> {
        let row = sqlx::query("SELECT * FROM rounds WHERE id = $1").bind(id.to_string());
        row.fetch_optional(&self.reads).await?.as_ref().map(round).transpose()
    }

    /// Up to `limit` rounds older than `before`, newest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn rounds(&self, before: Option<RoundId>, limit: u32) -> Result<Vec<Round>, LedgerError> {
        // No id sorts after this.
        let before = before.map_or_else(|| "s".to_owned(), |id| id.to_string());
        let query = sqlx::query("SELECT * FROM rounds WHERE id < $1 ORDER BY id DESC LIMIT $2");
        let rows = query.bind(before).bind(i64::from(limit)).fetch_all(&self.reads).await?;
        rows.iter().map(round).collect()
    }

    /// Up to when what was said has been learned: by the last round whose candidate was promoted. What a refused one learned from is
    /// learned from again.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn learned_until(&self) -> Result<i64, LedgerError> {
        let sql = "SELECT COALESCE(MAX(until_ms), 0) AS learned FROM rounds WHERE state = 'promoted'";
        Ok(sqlx::query(sql).fetch_one(&self.reads).await?.try_get("learned")?)
    }

    /// Up to when what was said has been looked at by a round of any end.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn heard_until(&self) -> Result<i64, LedgerError> {
        let sql = "SELECT COALESCE(MAX(until_ms), 0) AS heard FROM rounds";
        Ok(sqlx::query(sql).fetch_one(&self.reads).await?.try_get("heard")?)
    }

    /// Notes which samples a version was trained with.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn note_trained(&self, version: Version, samples: Vec<SampleId>) -> Result<(), LedgerError> {
        let work = Arc::new((version, samples));
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<(), LedgerError>> {
                let work = Arc::clone(&work);
                Box::pin(async move {
                    // Few enough parameters for one statement of SQLite.
                    for some in work.1.chunks(1000) {
                        let mut batch = Batch::default();
                        for sample in some {
                            batch.add(
                                "INSERT INTO trained (version, sample_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                                vec![Value::Text(work.0.0.clone()), Value::Text(sample.to_string())],
                            );
                        }
                        batch.run(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// Keeps a round, once.
pub(super) async fn insert_round(connection: &mut AnyConnection, round: &Round) -> Result<(), LedgerError> {
    let sql = "INSERT INTO rounds (id, state, created_ms, changed_ms, author, plan, since_ms, until_ms, base, candidate, report, held_ms) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0) ON CONFLICT (id) DO NOTHING";
    sqlx::query(sql)
        .bind(round.id.to_string())
        .bind(round.state.word())
        .bind(round.created_ms)
        .bind(round.changed_ms)
        .bind(round.by.clone())
        .bind(round.plan.clone())
        .bind(round.since_ms)
        .bind(round.until_ms)
        .bind(round.base.as_ref().map(|base| base.0.clone()))
        .bind(round.candidate.as_ref().map(|candidate| candidate.0.clone()))
        .bind(round.report.clone())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) fn round(row: &AnyRow) -> Result<Round, LedgerError> {
    let word: &str = row.try_get("state")?;
    let state = RoundState::ALL.into_iter().find(|state| state.word() == word);
    Ok(Round {
        id: rows::id("rounds.id", row.try_get("id")?)?,
        state: state.ok_or_else(|| LedgerError::Corrupt(format!("column rounds.state: {word}")))?,
        created_ms: row.try_get("created_ms")?,
        changed_ms: row.try_get("changed_ms")?,
        by: row.try_get("author")?,
        plan: row.try_get("plan")?,
        since_ms: row.try_get("since_ms")?,
        until_ms: row.try_get("until_ms")?,
        base: row.try_get::<Option<String>, _>("base")?.map(Version),
        candidate: row.try_get::<Option<String>, _>("candidate")?.map(Version),
        report: row.try_get("report")?,
        paused: row.try_get::<i64, _>("paused")? != 0,
    })
}
