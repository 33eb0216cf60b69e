//! Files that clients sent to learn from: kept, listed, deleted, gone when their time is over. Knows not what is in them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::batch::{Batch, Value};
use super::{Fresh, Ledger, LedgerError, Order, calls, purge, rows};
use crate::domain::id::{BlobId, FileId};
use crate::domain::job::File;

/// Which files.
#[derive(Clone, Debug)]
pub struct FileFilter {
    pub purpose: Option<String>,
    pub order: Order,
    /// Only those behind this one, in the order asked for.
    pub after: Option<FileId>,
    pub limit: u32,
}

impl Ledger {
    /// Keeps a file, whose bytes are `fresh`. If the same was sent with the same key at `again` (Unix milliseconds) or later, that
    /// one is given back instead.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn add_file(&self, new: File, fresh: &Fresh, again: Option<i64>) -> Result<File, LedgerError> {
        let work = Arc::new((new, calls::sizes(std::slice::from_ref(fresh))));
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<File, LedgerError>> {
                let work = Arc::clone(&work);
                Box::pin(async move {
                    let (new, sizes) = &*work;
                    if let Some(since) = again {
                        let sql = "SELECT * FROM files WHERE key_id = $1 AND blob = $2 AND name = $3 AND purpose = $4 \
                                   AND created_ms >= $5 ORDER BY id LIMIT 1";
                        let query = sqlx::query(sql)
                            .bind(new.key.clone())
                            .bind(new.blob.to_string())
                            .bind(new.name.clone())
                            .bind(new.purpose.clone())
                            .bind(since);
                        if let Some(row) = query.fetch_optional(&mut *connection).await? {
                            return file(&row);
                        }
                    }
                    let sql = "INSERT INTO files (id, created_ms, key_id, name, purpose, blob, bytes, expires_ms) \
                               VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING";
                    sqlx::query(sql)
                        .bind(new.id.to_string())
                        .bind(new.created_ms)
                        .bind(new.key.clone())
                        .bind(new.name.clone())
                        .bind(new.purpose.clone())
                        .bind(new.blob.to_string())
                        .bind(new.bytes)
                        .bind(new.expires_ms)
                        .execute(&mut *connection)
                        .await?;
                    let mut batch = Batch::default();
                    calls::hold(&mut batch, &new.blob, &new.id.to_string(), sizes);
                    batch.run(connection).await?;
                    Ok(new.clone())
                })
            })
            .await
    }

    /// A file that is still there at `now_ms`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn file(&self, id: FileId, now_ms: i64) -> Result<Option<File>, LedgerError> {
        let sql = "SELECT * FROM files WHERE id = $1 AND (expires_ms IS NULL OR expires_ms > $2)";
        let row = sqlx::query(sql).bind(id.to_string()).bind(now_ms);
        row.fetch_optional(&self.reads).await?.as_ref().map(file).transpose()
    }

    /// A page of the files that are there at `now_ms`, and whether there are more.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn files(&self, filter: &FileFilter, now_ms: i64) -> Result<(Vec<File>, bool), LedgerError> {
        let (beyond, order, first) = match filter.order {
            Order::Oldest => (">", "ASC", ""),
            // No id sorts after this.
            Order::Newest => ("<", "DESC", "g"),
        };
        let sql = format!(
            "SELECT * FROM files WHERE id {beyond} $1 AND (expires_ms IS NULL OR expires_ms > $2) \
             AND ($3 = '' OR purpose = $4) ORDER BY id {order} LIMIT $5"
        );
        let purpose = filter.purpose.clone().unwrap_or_default();
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(filter.after.map_or_else(|| first.to_owned(), |id| id.to_string()))
            .bind(now_ms)
            .bind(purpose.clone())
            .bind(purpose)
            .bind(i64::from(filter.limit) + 1);
        let rows = query.fetch_all(&self.reads).await?;
        let (page, more) = rows.split_at(rows.len().min(filter.limit as usize));
        Ok((page.iter().map(file).collect::<Result<_, _>>()?, !more.is_empty()))
    }

    /// Deletes a file; false when there is none. What learns from it keeps the bytes until it has ended.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn delete_file(&self, id: FileId) -> Result<bool, LedgerError> {
        Ok(self.delete_files("id = $1", Value::Text(id.to_string())).await? > 0)
    }

    /// Deletes files whose time is over at `now_ms`; how many.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn expire_files(&self, now_ms: i64) -> Result<u64, LedgerError> {
        self.delete_files("expires_ms <= $1", Value::Number(now_ms)).await
    }

    async fn delete_files(&self, condition: &'static str, value: Value) -> Result<u64, LedgerError> {
        let (count, free) = self
            .writer
            .write(move |connection| -> BoxFuture<'_, Result<(u64, Vec<BlobId>), LedgerError>> {
                let value = value.clone();
                Box::pin(async move {
                    let find = sqlx::query(AssertSqlSafe(format!("SELECT id FROM files WHERE {condition}")));
                    let find = match value {
                        Value::Number(number) => find.bind(number),
                        Value::Text(text) => find.bind(text),
                        other => return Err(LedgerError::Corrupt(format!("{other:?} finds no file"))),
                    };
                    let (mut count, mut free) = (0, Vec::new());
                    for row in find.fetch_all(&mut *connection).await? {
                        let id: String = row.try_get("id")?;
                        let gone = sqlx::query("DELETE FROM files WHERE id = $1").bind(id.clone());
                        count += gone.execute(&mut *connection).await?.rows_affected();
                        free.extend(purge::release(connection, &id).await?);
                    }
                    Ok((count, free))
                })
            })
            .await?;
        self.blobs.sweep(&free).await;
        Ok(count)
    }
}

fn file(row: &AnyRow) -> Result<File, LedgerError> {
    Ok(File {
        id: rows::id("files.id", row.try_get("id")?)?,
        created_ms: row.try_get("created_ms")?,
        key: row.try_get("key_id")?,
        name: row.try_get("name")?,
        purpose: row.try_get("purpose")?,
        blob: rows::id("files.blob", row.try_get("blob")?)?,
        bytes: row.try_get("bytes")?,
        expires_ms: row.try_get("expires_ms")?,
    })
}
