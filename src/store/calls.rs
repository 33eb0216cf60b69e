//! Requests and their samples: kept, found again, listed page by page, annotated, deleted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::batch::{Batch, Value};
use super::{Fresh, Ledger, LedgerError, rows};
use crate::domain::id::{BlobId, CallId, SampleId};
use crate::domain::record::{By, Call, Record};
use crate::domain::sample::{Output, Sample, Timings, Version};

/// A request with its samples, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub call: Call,
    pub records: Vec<Record>,
}

/// Oldest or newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Oldest,
    Newest,
}

/// Which requests to list.
#[derive(Clone, Debug)]
pub struct CallFilter {
    /// `chat` or `images`.
    pub task: Task,
    pub model: Option<String>,
    /// Only those with these notes.
    pub metadata: BTreeMap<String, String>,
    pub order: Order,
    /// Only those behind this one, in the order asked for.
    pub after: Option<CallId>,
    pub limit: u32,
}

/// What kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Chat,
    Images,
}

impl Task {
    fn of(id: CallId) -> Self {
        match id {
            CallId::Chat(_) => Self::Chat,
            CallId::Images(_) => Self::Images,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Images => "images",
        }
    }
}

impl Ledger {
    /// Keeps a request before its samples are there, so that its id may be told. `files` are those it holds.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn begin(&self, call: Call, files: &[Fresh]) -> Result<(), LedgerError> {
        self.keep(Some(call), Vec::new(), files).await
    }

    /// Keeps the samples of a request that was begun.
    ///
    /// # Errors
    /// When they are not durable.
    pub async fn finish(&self, call: CallId, records: Vec<Record>, files: &[Fresh]) -> Result<(), LedgerError> {
        let records = records.into_iter().map(|record| (call, record)).collect();
        self.keep(None, records, files).await
    }

    /// Keeps a request and its samples at once.
    ///
    /// # Errors
    /// When they are not durable.
    pub async fn append(&self, kept: Kept, files: &[Fresh]) -> Result<(), LedgerError> {
        let id = kept.call.id;
        let records = kept.records.into_iter().map(|record| (id, record)).collect();
        self.keep(Some(kept.call), records, files).await
    }

    async fn keep(
        &self,
        call: Option<Call>,
        records: Vec<(CallId, Record)>,
        files: &[Fresh],
    ) -> Result<(), LedgerError> {
        let work = Arc::new((call, records, sizes(files)));
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<(), LedgerError>> {
                let work = Arc::clone(&work);
                Box::pin(async move {
                    let (call, records, sizes) = &*work;
                    let mut batch = Batch::default();
                    if let Some(call) = call {
                        insert_call(&mut batch, call, sizes)?;
                    }
                    for (call, record) in records {
                        insert_record(&mut batch, *call, record, sizes)?;
                    }
                    batch.run(connection).await
                })
            })
            .await
    }

    /// A request with its samples.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn call(&self, id: CallId) -> Result<Option<Kept>, LedgerError> {
        let query = sqlx::query("SELECT * FROM calls WHERE id = $1").bind(id.to_string());
        let row = query.fetch_optional(&self.reads).await?;
        Ok(self.whole(row.as_slice()).await?.pop())
    }

    /// The request that a sample belongs to, with all its samples.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn call_of(&self, sample: SampleId) -> Result<Option<Kept>, LedgerError> {
        let sql = "SELECT calls.* FROM calls JOIN samples ON samples.call_id = calls.id WHERE samples.id = $1";
        let row = sqlx::query(sql).bind(sample.to_string()).fetch_optional(&self.reads).await?;
        Ok(self.whole(row.as_slice()).await?.pop())
    }

    /// Up to `limit` requests that have samples, and whether there are more.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn calls(&self, filter: &CallFilter) -> Result<(Vec<Kept>, bool), LedgerError> {
        let mut sql = String::from(
            "SELECT * FROM calls WHERE task = $1 AND EXISTS (SELECT 1 FROM samples WHERE samples.call_id = calls.id)",
        );
        let mut values = vec![filter.task.word().to_owned()];
        let mut and = |condition: &str, value: &str| {
            values.push(value.to_owned());
            sql += &condition.replace('?', &format!("${}", values.len()));
        };
        if let Some(model) = &filter.model {
            and(" AND model = ?", model);
        }
        if let Some(after) = filter.after {
            and(if filter.order == Order::Oldest { " AND id > ?" } else { " AND id < ?" }, &after.to_string());
        }
        for (name, value) in &filter.metadata {
            and(" AND id IN (SELECT call_id FROM call_metadata WHERE name = ?", name);
            and(" AND value = ?)", value);
        }
        sql += if filter.order == Order::Oldest { " ORDER BY id" } else { " ORDER BY id DESC" };
        sql += &format!(" LIMIT {}", filter.limit.saturating_add(1));
        let query = values.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), sqlx::query::Query::bind);
        let rows = query.fetch_all(&self.reads).await?;
        let limit = rows.len().min(filter.limit as usize);
        let (page, more) = rows.split_at(limit);
        Ok((self.whole(page).await?, !more.is_empty()))
    }

    /// Replaces the notes of a request; false when there is no such request.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn annotate(&self, id: CallId, metadata: BTreeMap<String, String>) -> Result<bool, LedgerError> {
        let metadata = Arc::new(metadata);
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<bool, LedgerError>> {
                let metadata = Arc::clone(&metadata);
                Box::pin(async move {
                    let known = sqlx::query("SELECT 1 FROM calls WHERE id = $1").bind(id.to_string());
                    if known.fetch_optional(&mut *connection).await?.is_none() {
                        return Ok(false);
                    }
                    let (mut batch, id) = (Batch::default(), id.to_string());
                    batch.add("DELETE FROM call_metadata WHERE call_id = $1", vec![Value::Text(id.clone())]);
                    insert_metadata(&mut batch, &id, &metadata);
                    batch.run(connection).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// The requests of these rows, with their notes and samples.
    pub(super) async fn whole(&self, rows: &[AnyRow]) -> Result<Vec<Kept>, LedgerError> {
        let ids = rows.iter().map(|row| row.try_get("id")).collect::<Result<Vec<String>, _>>()?;
        let mut notes: HashMap<String, BTreeMap<String, String>> = HashMap::new();
        for row in self.of("SELECT * FROM call_metadata WHERE call_id IN (?)", &ids).await? {
            let of: String = row.try_get("call_id")?;
            notes.entry(of).or_default().insert(row.try_get("name")?, row.try_get("value")?);
        }
        let mut records: HashMap<String, Vec<Record>> = HashMap::new();
        for row in self.of("SELECT * FROM samples WHERE call_id IN (?) ORDER BY at", &ids).await? {
            let of: String = row.try_get("call_id")?;
            records.entry(of).or_default().push(record(&row)?);
        }
        let kept = |(row, id): (&AnyRow, &String)| {
            let metadata = notes.remove(id).unwrap_or_default();
            Ok(Kept { call: call(row, metadata)?, records: records.remove(id).unwrap_or_default() })
        };
        rows.iter().zip(&ids).map(kept).collect()
    }

    /// What `sql` says of these ids, which stand for its `?`.
    pub(super) async fn of(&self, sql: &str, ids: &[String]) -> Result<Vec<AnyRow>, LedgerError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let places: Vec<String> = (1..=ids.len()).map(|place| format!("${place}")).collect();
        let query = sqlx::query(AssertSqlSafe(sql.replace('?', &places.join(", ")))).persistent(false);
        Ok(ids.iter().cloned().fold(query, sqlx::query::Query::bind).fetch_all(&self.reads).await?)
    }
}

fn call(row: &AnyRow, metadata: BTreeMap<String, String>) -> Result<Call, LedgerError> {
    Ok(Call {
        id: rows::id("calls.id", row.try_get("id")?)?,
        created_ms: row.try_get("created_ms")?,
        asked: rows::asked(row.try_get("asked")?)?,
        model: row.try_get("model")?,
        version: Version(row.try_get("version")?),
        config: row.try_get("config")?,
        prompt_tokens: u32::try_from(row.try_get::<i64, _>("prompt_tokens")?).unwrap_or(u32::MAX),
        by: By { person: row.try_get("person")?, key: row.try_get("key_id")? },
        metadata,
    })
}

fn record(row: &AnyRow) -> Result<Record, LedgerError> {
    let numbers = |column: &'static str| -> Result<Vec<f32>, LedgerError> {
        rows::unpack(column, row.try_get(column)?, f32::from_le_bytes)
    };
    let micros = |column| -> Result<Duration, LedgerError> {
        Ok(Duration::from_micros(row.try_get::<i64, _>(column)?.unsigned_abs()))
    };
    let sampling = rows::sampling(row.try_get("sampling")?)?;
    let picture: Option<String> = row.try_get("picture")?;
    let output = match picture {
        Some(blob) => Output::Picture(rows::id("picture", &blob)?),
        None => Output::Text(rows::parse("said", row.try_get("said")?)?),
    };
    Ok(Record {
        id: rows::id("samples.id", row.try_get("id")?)?,
        at: u32::try_from(row.try_get::<i64, _>("at")?).unwrap_or(u32::MAX),
        sample: Sample {
            tokens: rows::unpack("tokens", row.try_get("tokens")?, u32::from_le_bytes)?,
            log_probs: numbers("log_probs")?,
            conditional_log_probs: numbers("conditional")?,
            seed: sampling.seed,
            version: Version(row.try_get("version")?),
            finish: rows::finish(row.try_get("finish")?)?,
            output,
            timings: Timings {
                admitted: micros("admitted_us")?,
                first_token: micros("first_token_us")?,
                finished: micros("finished_us")?,
            },
        },
        sampling,
        millis: row.try_get("millis")?,
    })
}

fn insert_call(batch: &mut Batch, call: &Call, sizes: &BTreeMap<BlobId, i64>) -> Result<(), LedgerError> {
    let id = call.id.to_string();
    batch.add(
        "INSERT INTO calls (id, created_ms, task, asked, model, version, config, prompt_tokens, person, key_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING",
        vec![
            Value::Text(id.clone()),
            Value::Number(call.created_ms),
            Value::Text(Task::of(call.id).word().to_owned()),
            Value::Text(rows::asked_text(&call.asked)?),
            Value::Text(call.model.clone()),
            Value::Text(call.version.0.clone()),
            Value::Text(call.config.clone()),
            Value::Number(i64::from(call.prompt_tokens)),
            Value::MayText(call.by.person.clone()),
            Value::Text(call.by.key.clone()),
        ],
    );
    insert_metadata(batch, &id, &call.metadata);
    for blob in rows::pictures(&call.asked) {
        hold(batch, blob, &id, sizes);
    }
    Ok(())
}

fn insert_metadata(batch: &mut Batch, id: &str, metadata: &BTreeMap<String, String>) {
    for (name, value) in metadata {
        batch.add(
            "INSERT INTO call_metadata (call_id, name, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            vec![Value::Text(id.to_owned()), Value::Text(name.clone()), Value::Text(value.clone())],
        );
    }
}

fn insert_record(
    batch: &mut Batch,
    call: CallId,
    record: &Record,
    sizes: &BTreeMap<BlobId, i64>,
) -> Result<(), LedgerError> {
    let sample = &record.sample;
    let micros = |time: Duration| Value::Number(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    let (said, picture) = match &sample.output {
        Output::Text(text) => (Some(rows::json(text)?), None),
        Output::Picture(blob) => (None, Some(blob)),
    };
    batch.add(
        "INSERT INTO samples (id, call_id, at, sampling, version, tokens, log_probs, conditional, finish, said, picture, \
         admitted_us, first_token_us, finished_us, millis) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT DO NOTHING",
        vec![
            Value::Text(record.id.to_string()),
            Value::Text(call.to_string()),
            Value::Number(i64::from(record.at)),
            Value::Text(rows::sampling_text(&record.sampling)?),
            Value::Text(sample.version.0.clone()),
            Value::Bytes(rows::pack(&sample.tokens, u32::to_le_bytes)),
            Value::Bytes(rows::pack(&sample.log_probs, f32::to_le_bytes)),
            Value::Bytes(rows::pack(&sample.conditional_log_probs, f32::to_le_bytes)),
            Value::Text(rows::finish_text(sample.finish).to_owned()),
            Value::MayText(said),
            Value::MayText(picture.map(BlobId::to_string)),
            micros(sample.timings.admitted),
            micros(sample.timings.first_token),
            micros(sample.timings.finished),
            Value::Number(record.millis),
        ],
    );
    if let Some(blob) = picture {
        hold(batch, blob, &call.to_string(), sizes);
    }
    Ok(())
}

/// What files weigh, in bytes.
pub(super) fn sizes(files: &[Fresh]) -> BTreeMap<BlobId, i64> {
    files.iter().map(|file| (file.id().clone(), file.bytes() as i64)).collect()
}

/// Notes that `holder` needs a file.
pub(super) fn hold(batch: &mut Batch, blob: &BlobId, holder: &str, sizes: &BTreeMap<BlobId, i64>) {
    batch.add(
        "INSERT INTO holds (blob, holder, bytes) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        vec![
            Value::Text(blob.to_string()),
            Value::Text(holder.to_owned()),
            Value::Number(sizes.get(blob).copied().unwrap_or(0)),
        ],
    );
}
