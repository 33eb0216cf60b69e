//! What all servers of one ledger must agree on.

use futures_util::future::BoxFuture;
use sqlx::Row as _;

use super::{Ledger, LedgerError};

impl Ledger {
    /// The value of a setting: the one that is kept, or else `fresh`, which is kept from now on.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub async fn setting(&self, name: &'static str, fresh: String) -> Result<String, LedgerError> {
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<String, LedgerError>> {
                let fresh = fresh.clone();
                Box::pin(async move {
                    let sql = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
                    sqlx::query(sql).bind(name).bind(fresh).execute(&mut *connection).await?;
                    let row = sqlx::query("SELECT value FROM settings WHERE name = $1").bind(name);
                    Ok(row.fetch_one(connection).await?.try_get("value")?)
                })
            })
            .await
    }
}
