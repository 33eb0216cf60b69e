//! Versions of the weights, and which of them is live. A version becomes live by being the next promotion; of two that would be
//! the next one is refused. Knows no tensors.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use uuid::Uuid;

use super::batch::{Batch, Value};
use super::{Fresh, Ledger, LedgerError, calls, purge, rows, trials};
use crate::domain::id::BlobId;
use crate::domain::round::{KnownVersion, Promotion};
use crate::domain::sample::Version;

/// What became of a promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promoted {
    /// It is live.
    Live(Promotion),
    /// Another came first; which.
    Lost(Promotion),
    /// There is no such version.
    Unknown,
}

impl Ledger {
    /// Keeps a version; one that is known stays as it is. `files` has the file of its weights.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn know(&self, version: KnownVersion, files: &[Fresh]) -> Result<(), LedgerError> {
        let work = Arc::new((version, calls::sizes(files)));
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<(), LedgerError>> {
                let work = Arc::clone(&work);
                Box::pin(async move {
                    let (known, sizes) = &*work;
                    let mut batch = Batch::default();
                    let id = known.version.0.clone();
                    batch.add(
                        "INSERT INTO versions (id, parent, round, created_ms, weights, bytes, scores, pinned) \
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
                        vec![
                            Value::Text(id.clone()),
                            Value::MayText(known.parent.as_ref().map(|parent| parent.0.clone())),
                            Value::MayText(known.round.map(|round| round.to_string())),
                            Value::Number(known.created_ms),
                            Value::MayText(known.weights.as_ref().map(BlobId::to_string)),
                            Value::Number(known.bytes),
                            Value::Text(known.scores.clone()),
                            Value::Number(i64::from(known.pinned)),
                        ],
                    );
                    if let Some(weights) = &known.weights {
                        calls::hold(&mut batch, weights, &id, sizes);
                    }
                    batch.run(connection).await
                })
            })
            .await
    }

    /// A version.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn version(&self, version: &Version) -> Result<Option<KnownVersion>, LedgerError> {
        let query = sqlx::query("SELECT * FROM versions WHERE id = $1").bind(version.0.clone());
        query.fetch_optional(&self.reads).await?.as_ref().map(known).transpose()
    }

    /// All versions, newest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn versions(&self) -> Result<Vec<KnownVersion>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM versions ORDER BY created_ms DESC, id").fetch_all(&self.reads).await?;
        rows.iter().map(known).collect()
    }

    /// Notes what was measured of a version, JSON.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn score(&self, version: Version, scores: String) -> Result<(), LedgerError> {
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<(), LedgerError>> {
                let (id, scores) = (version.0.clone(), scores.clone());
                Box::pin(async move {
                    let sql = "UPDATE versions SET scores = $1 WHERE id = $2";
                    sqlx::query(sql).bind(scores).bind(id).execute(connection).await?;
                    Ok(())
                })
            })
            .await
    }

    /// Keeps a version whatever comes, or no longer; false when there is no such version.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn pin(&self, version: Version, pinned: bool) -> Result<bool, LedgerError> {
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<bool, LedgerError>> {
                let id = version.0.clone();
                Box::pin(async move {
                    let sql = "UPDATE versions SET pinned = $1 WHERE id = $2";
                    let done = sqlx::query(sql).bind(i64::from(pinned)).bind(id).execute(connection).await?;
                    Ok(done.rows_affected() > 0)
                })
            })
            .await
    }

    /// Forgets the weights of a version, whose row stays to tell what it was. Those of the live version, of one on trial and of pinned
    /// ones are not forgotten: false.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn shed(&self, version: Version) -> Result<bool, LedgerError> {
        let files = self
            .writer
            .write(move |connection| -> BoxFuture<'_, Result<Option<Vec<BlobId>>, LedgerError>> {
                let id = version.0.clone();
                Box::pin(async move {
                    let live = last(connection).await?;
                    if live.is_some_and(|live| live.version.0 == id) || trials::is_on_trial(connection, &id).await? {
                        return Ok(None);
                    }
                    let sql = "UPDATE versions SET weights = NULL WHERE id = $1 AND pinned = 0";
                    if sqlx::query(sql).bind(id.clone()).execute(&mut *connection).await?.rows_affected() == 0 {
                        return Ok(None);
                    }
                    purge::release(connection, &id).await.map(Some)
                })
            })
            .await?;
        let Some(files) = files else { return Ok(false) };
        self.blobs.sweep(&files).await;
        Ok(true)
    }

    /// The last promotion: which version is live.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn live(&self) -> Result<Option<Promotion>, LedgerError> {
        let mut connection = self.reads.acquire().await?;
        last(&mut connection).await
    }

    /// The last promotions, newest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn promotions(&self, limit: u32) -> Result<Vec<Promotion>, LedgerError> {
        let query = sqlx::query("SELECT * FROM promotions ORDER BY number DESC LIMIT $1").bind(i64::from(limit));
        query.fetch_all(&self.reads).await?.iter().map(promotion).collect()
    }

    /// Makes a version live, if promotion number `after` (0 for none) is still the last.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn promote(
        &self,
        version: Version,
        after: i64,
        by: String,
        why: String,
        now_ms: i64,
    ) -> Result<Promoted, LedgerError> {
        let work = Arc::new(Promotion { number: after + 1, version, at_ms: now_ms, by, why });
        let token = Uuid::now_v7().simple().to_string();
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<Promoted, LedgerError>> {
                let (next, token) = (Arc::clone(&work), token.clone());
                Box::pin(async move { promote(connection, &next, token).await })
            })
            .await
    }
}

/// Makes `next` the next promotion, if it is; written twice with the same token it is the same.
pub(super) async fn promote(
    connection: &mut AnyConnection,
    next: &Promotion,
    token: String,
) -> Result<Promoted, LedgerError> {
    let known = sqlx::query("SELECT 1 FROM versions WHERE id = $1").bind(next.version.0.clone());
    if known.fetch_optional(&mut *connection).await?.is_none() {
        return Ok(Promoted::Unknown);
    }
    // One that skips a number would not be the next.
    let sql = "INSERT INTO promotions (number, token, version, at_ms, author, why) \
               SELECT $1, $2, $3, $4, $5, $6 WHERE (SELECT COALESCE(MAX(number), 0) FROM promotions) = $7 \
               ON CONFLICT DO NOTHING";
    sqlx::query(sql)
        .bind(next.number)
        .bind(token.clone())
        .bind(next.version.0.clone())
        .bind(next.at_ms)
        .bind(next.by.clone())
        .bind(next.why.clone())
        .bind(next.number - 1)
        .execute(&mut *connection)
        .await?;
    let query = sqlx::query("SELECT token FROM promotions WHERE number = $1").bind(next.number);
    let ours = match query.fetch_optional(&mut *connection).await? {
        Some(row) => row.try_get::<String, _>("token")? == token,
        None => false,
    };
    if ours {
        return Ok(Promoted::Live(next.clone()));
    }
    let first = last(connection).await?;
    first.map(Promoted::Lost).ok_or_else(|| LedgerError::Corrupt("a promotion failed and there is none".into()))
}

/// The last promotion.
pub(super) async fn last(connection: &mut AnyConnection) -> Result<Option<Promotion>, LedgerError> {
    let query = sqlx::query("SELECT * FROM promotions ORDER BY number DESC LIMIT 1");
    query.fetch_optional(connection).await?.as_ref().map(promotion).transpose()
}

fn promotion(row: &AnyRow) -> Result<Promotion, LedgerError> {
    Ok(Promotion {
        number: row.try_get("number")?,
        version: Version(row.try_get("version")?),
        at_ms: row.try_get("at_ms")?,
        by: row.try_get("author")?,
        why: row.try_get("why")?,
    })
}

fn known(row: &AnyRow) -> Result<KnownVersion, LedgerError> {
    let round: Option<String> = row.try_get("round")?;
    let weights: Option<String> = row.try_get("weights")?;
    Ok(KnownVersion {
        version: Version(row.try_get("id")?),
        parent: row.try_get::<Option<String>, _>("parent")?.map(Version),
        round: round.map(|round| rows::id("versions.round", &round)).transpose()?,
        created_ms: row.try_get("created_ms")?,
        weights: weights.map(|weights| rows::id("versions.weights", &weights)).transpose()?,
        bytes: row.try_get("bytes")?,
        scores: row.try_get("scores")?,
        pinned: row.try_get::<i64, _>("pinned")? != 0,
    })
}
