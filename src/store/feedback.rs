//! What people say of samples: given once however often it is sent, changed and withdrawn with its history kept.
//! Whether it fits its sample is decided in the transaction that keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::batch::{Batch, Value};
use super::{Fresh, Ledger, LedgerError, calls, rows};
use crate::domain::id::{BlobId, CallId, FeedbackId, SampleId};
use crate::domain::record::{Feedback, Opinion};

/// A sample by its own id, or by its place in a call (which may be left out where there is but one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Sample(SampleId),
    Of(CallId, Option<u32>),
}

/// A feedback to be kept; the ledger finds its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Rating {
    /// `sample` and the samples of a preference are still to be found.
    pub target: Target,
    pub opinion: Said,
    pub id: FeedbackId,
    pub client_key: Option<String>,
    pub rater: Option<String>,
    pub key: String,
    pub metadata: BTreeMap<String, String>,
    pub created_ms: i64,
}

/// An opinion whose samples are still to be found.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Preferred { over: Vec<Target> },
    Other(Opinion),
}

/// What became of a feedback.
#[derive(Clone, Debug, PartialEq)]
pub enum Rated {
    /// It is kept.
    New(Feedback),
    /// It was kept before, under the same key.
    Known(Feedback),
    /// Its key was used for something else.
    Taken,
    /// There is no such sample; which one.
    NoSample(String),
    /// It does not fit its sample; why.
    Unfit(&'static str),
    /// There is no such feedback (any more), or another key gave it.
    NoFeedback,
}

/// A sample as feedback sees it.
struct Found {
    id: SampleId,
    asked: String,
    picture: bool,
}

impl Ledger {
    /// Keeps a feedback. Its samples are found and checked in the same transaction.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn rate(&self, rating: Rating, files: &[Fresh]) -> Result<Rated, LedgerError> {
        let work = Arc::new((rating, calls::sizes(files)));
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<Rated, LedgerError>> {
                let work = Arc::clone(&work);
                Box::pin(async move { keep(connection, &work.0, &work.1).await })
            })
            .await
    }

    /// Replaces what a feedback says; what it said before is kept as its history.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn revise(
        &self,
        id: FeedbackId,
        key: String,
        opinion: Said,
        now_ms: i64,
        files: &[Fresh],
    ) -> Result<Rated, LedgerError> {
        let work = Arc::new((key, opinion, calls::sizes(files)));
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<Rated, LedgerError>> {
                let work = Arc::clone(&work);
                Box::pin(async move { change(connection, id, &work.0, &work.1, now_ms, &work.2).await })
            })
            .await
    }

    /// Withdraws a feedback: it is no longer shown or learned from. False when there is no such feedback.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn withdraw(&self, id: FeedbackId, key: String, now_ms: i64) -> Result<bool, LedgerError> {
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<bool, LedgerError>> {
                let key = key.clone();
                Box::pin(async move {
                    let Some((feedback, false)) = read(connection, id).await?.filter(|(f, _)| f.key == key) else {
                        return Ok(false);
                    };
                    remember(connection, &feedback, now_ms).await?;
                    let sql = "UPDATE feedback SET withdrawn = 1, revised_ms = $1 WHERE id = $2";
                    sqlx::query(sql).bind(now_ms).bind(id.to_string()).execute(connection).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// A feedback that was not withdrawn.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn feedback(&self, id: FeedbackId) -> Result<Option<Feedback>, LedgerError> {
        let mut connection = self.reads.acquire().await?;
        Ok(read(&mut connection, id).await?.and_then(|(feedback, withdrawn)| (!withdrawn).then_some(feedback)))
    }

    /// All that speaks of a sample and was not withdrawn, oldest first; `None` when there is no such sample.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn feedback_on(&self, target: Target) -> Result<Option<Vec<Feedback>>, LedgerError> {
        let mut connection = self.reads.acquire().await?;
        let samples = match target {
            Target::Of(call, None) => {
                let sql = "SELECT id FROM samples WHERE call_id = $1";
                let rows = sqlx::query(sql).bind(call.to_string()).fetch_all(&mut *connection).await?;
                rows.iter().map(|row| Ok(row.try_get("id")?)).collect::<Result<Vec<String>, LedgerError>>()?
            }
            target => find(&mut connection, target).await?.into_iter().map(|found| found.id.to_string()).collect(),
        };
        if samples.is_empty() {
            return Ok(None);
        }
        let mut ids = BTreeMap::new();
        for sample in samples {
            let sql = "SELECT feedback.* FROM feedback JOIN feedback_samples ON feedback_id = id \
                       WHERE feedback_samples.sample_id = $1 AND withdrawn = 0";
            for row in sqlx::query(sql).bind(sample).fetch_all(&mut *connection).await? {
                let (feedback, _) = feedback(&row)?;
                ids.insert(feedback.id, feedback);
            }
        }
        Ok(Some(ids.into_values().collect()))
    }
}

/// The sample of a target; `None` when there is none, or it is one of several.
async fn find(connection: &mut AnyConnection, target: Target) -> Result<Option<Found>, LedgerError> {
    const SELECT: &str = "SELECT samples.id, samples.picture, calls.task, calls.asked FROM samples \
                          JOIN calls ON calls.id = samples.call_id WHERE";
    let rows = match target {
        Target::Sample(id) => {
            let sql = format!("{SELECT} samples.id = $1");
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.to_string()).fetch_all(connection).await?
        }
        Target::Of(call, at) => {
            let sql = format!("{SELECT} samples.call_id = $1 AND (samples.at = $2 OR $2 < 0) LIMIT 2");
            let at = at.map_or(-1, i64::from);
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(call.to_string()).bind(at).fetch_all(connection).await?
        }
    };
    let [row] = rows.as_slice() else { return Ok(None) };
    let task: String = row.try_get("task")?;
    Ok(Some(Found {
        id: rows::id("samples.id", row.try_get("id")?)?,
        asked: task + row.try_get::<&str, _>("asked")?,
        picture: row.try_get::<Option<String>, _>("picture")?.is_some(),
    }))
}

/// The opinion with its samples found, or why it does not fit.
async fn fit(
    connection: &mut AnyConnection,
    about: &Found,
    said: &Said,
) -> Result<Result<Opinion, Rated>, LedgerError> {
    Ok(match said {
        Said::Preferred { over } => {
            let mut ids = Vec::with_capacity(over.len());
            for &target in over {
                let Some(other) = find(connection, target).await? else {
                    return Ok(Err(Rated::NoSample(name(target))));
                };
                if other.asked != about.asked {
                    return Ok(Err(Rated::Unfit("a sample can only be preferred to others of the same request")));
                }
                if other.id == about.id {
                    return Ok(Err(Rated::Unfit("a sample cannot be preferred to itself")));
                }
                ids.push(other.id);
            }
            Ok(Opinion::Preferred { over: ids })
        }
        Said::Other(Opinion::CorrectAnswer(_)) if about.picture => {
            Err(Rated::Unfit("a picture is corrected with a picture"))
        }
        Said::Other(Opinion::CorrectPicture(_)) if !about.picture => {
            Err(Rated::Unfit("an answer is corrected with a text"))
        }
        Said::Other(opinion) => Ok(opinion.clone()),
    })
}

/// How a target is called.
fn name(target: Target) -> String {
    match target {
        Target::Sample(id) => id.to_string(),
        Target::Of(call, Some(at)) => format!("{call}, {at}"),
        Target::Of(call, None) => call.to_string(),
    }
}

async fn keep(
    connection: &mut AnyConnection,
    rating: &Rating,
    sizes: &BTreeMap<BlobId, i64>,
) -> Result<Rated, LedgerError> {
    let Some(about) = find(connection, rating.target).await? else { return Ok(Rated::NoSample(name(rating.target))) };
    let opinion = match fit(connection, &about, &rating.opinion).await? {
        Ok(opinion) => opinion,
        Err(refusal) => return Ok(refusal),
    };
    let feedback = Feedback {
        id: rating.id,
        client_key: rating.client_key.clone(),
        sample: about.id,
        opinion,
        rater: rating.rater.clone(),
        key: rating.key.clone(),
        metadata: rating.metadata.clone(),
        created_ms: rating.created_ms,
        revised_ms: None,
    };
    // A write that is run again finds itself.
    let sql = "INSERT INTO feedback (id, key_id, client_key, sample_id, opinion, rater, metadata, created_ms, withdrawn) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0) ON CONFLICT DO NOTHING";
    let kept = sqlx::query(sql)
        .bind(feedback.id.to_string())
        .bind(feedback.key.clone())
        .bind(feedback.client_key.clone())
        .bind(feedback.sample.to_string())
        .bind(rows::opinion_text(&feedback.opinion)?)
        .bind(feedback.rater.clone())
        .bind(rows::json(&feedback.metadata)?)
        .bind(feedback.created_ms)
        .execute(&mut *connection)
        .await?;
    if kept.rows_affected() == 0 {
        if read(connection, feedback.id).await?.is_some() {
            return Ok(Rated::New(feedback));
        }
        let sql = "SELECT * FROM feedback WHERE key_id = $1 AND client_key = $2";
        let query = sqlx::query(sql).bind(feedback.key.clone()).bind(feedback.client_key.clone());
        let Some(row) = query.fetch_optional(connection).await? else { return Ok(Rated::Taken) };
        let (before, withdrawn) = self::feedback(&row)?;
        let same = Feedback { id: before.id, created_ms: before.created_ms, revised_ms: before.revised_ms, ..feedback };
        return Ok(if !withdrawn && before == same { Rated::Known(before) } else { Rated::Taken });
    }
    about_samples(connection, &feedback, sizes).await?;
    Ok(Rated::New(feedback))
}

/// Notes which samples and files a feedback is about.
async fn about_samples(
    connection: &mut AnyConnection,
    feedback: &Feedback,
    sizes: &BTreeMap<BlobId, i64>,
) -> Result<(), LedgerError> {
    let over = if let Opinion::Preferred { over } = &feedback.opinion { over.as_slice() } else { &[] };
    let (mut batch, id) = (Batch::default(), feedback.id.to_string());
    for sample in over.iter().chain([&feedback.sample]) {
        batch.add(
            "INSERT INTO feedback_samples (feedback_id, sample_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            vec![Value::Text(id.clone()), Value::Text(sample.to_string())],
        );
    }
    if let Opinion::CorrectPicture(blob) = &feedback.opinion {
        calls::hold(&mut batch, blob, &id, sizes);
    }
    batch.run(connection).await
}

async fn change(
    connection: &mut AnyConnection,
    id: FeedbackId,
    key: &str,
    said: &Said,
    now_ms: i64,
    sizes: &BTreeMap<BlobId, i64>,
) -> Result<Rated, LedgerError> {
    let Some((before, false)) = read(connection, id).await?.filter(|(feedback, _)| feedback.key == key) else {
        return Ok(Rated::NoFeedback);
    };
    let Some(about) = find(connection, Target::Sample(before.sample)).await? else {
        return Ok(Rated::NoSample(before.sample.to_string()));
    };
    let opinion = match fit(connection, &about, said).await? {
        Ok(opinion) => opinion,
        Err(refusal) => return Ok(refusal),
    };
    if opinion == before.opinion {
        return Ok(Rated::Known(before));
    }
    remember(connection, &before, now_ms).await?;
    let feedback = Feedback { opinion, revised_ms: Some(now_ms), ..before };
    let sql = "UPDATE feedback SET opinion = $1, revised_ms = $2 WHERE id = $3";
    let update = sqlx::query(sql).bind(rows::opinion_text(&feedback.opinion)?).bind(now_ms).bind(id.to_string());
    update.execute(&mut *connection).await?;
    for table in ["DELETE FROM feedback_samples WHERE feedback_id = $1", "DELETE FROM holds WHERE holder = $1"] {
        sqlx::query(table).bind(id.to_string()).execute(&mut *connection).await?;
    }
    about_samples(connection, &feedback, sizes).await?;
    Ok(Rated::New(feedback))
}

/// Puts what a feedback says now into its history.
async fn remember(connection: &mut AnyConnection, feedback: &Feedback, now_ms: i64) -> Result<(), LedgerError> {
    let sql = "INSERT INTO feedback_history (feedback_id, revision, opinion, until_ms) \
               SELECT $1, COUNT(*), $2, $3 FROM feedback_history WHERE feedback_id = $4";
    let id = feedback.id.to_string();
    let opinion = rows::opinion_text(&feedback.opinion)?;
    sqlx::query(sql).bind(id.clone()).bind(opinion).bind(now_ms).bind(id).execute(connection).await?;
    Ok(())
}

/// A feedback, and whether it was withdrawn.
async fn read(connection: &mut AnyConnection, id: FeedbackId) -> Result<Option<(Feedback, bool)>, LedgerError> {
    let row =
        sqlx::query("SELECT * FROM feedback WHERE id = $1").bind(id.to_string()).fetch_optional(connection).await?;
    row.as_ref().map(feedback).transpose()
}

/// A feedback, and whether it was withdrawn.
pub(super) fn feedback(row: &AnyRow) -> Result<(Feedback, bool), LedgerError> {
    let feedback = Feedback {
        id: rows::id("feedback.id", row.try_get("id")?)?,
        client_key: row.try_get("client_key")?,
        sample: rows::id("feedback.sample_id", row.try_get("sample_id")?)?,
        opinion: rows::opinion(row.try_get("opinion")?)?,
        rater: row.try_get("rater")?,
        key: row.try_get("key_id")?,
        metadata: rows::metadata(row.try_get("metadata")?)?,
        created_ms: row.try_get("created_ms")?,
        revised_ms: row.try_get("revised_ms")?,
    };
    Ok((feedback, row.try_get::<i64, _>("withdrawn")? != 0))
}
