//! What people judged: requests with the feedback on their samples, by the time it was given, and what was said of a version. Withdrawn
//! feedback is not among it.

use std::collections::HashMap;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::{Kept, Ledger, LedgerError, Order, feedback, rows};
use crate::domain::id::CallId;
use crate::domain::record::{Feedback, Opinion};
use crate::domain::sample::Version;

/// A request with all that was said of its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct RatedCall {
    pub kept: Kept,
    /// Oldest first.
    pub feedback: Vec<Feedback>,
}

/// What somebody said of a sample, with what tells whose word on which version it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Remark {
    /// Who said it: the rater, or else the person the sample was made for, or else all who use a key together.
    pub rater: String,
    /// The model as it was asked for.
    pub model: String,
    pub opinion: Opinion,
}

impl Ledger {
    /// Up to `limit` requests behind `after` of which something was said after `since_ms` and not after `until_ms`, in the order of
    /// their ids.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn rated(
        &self,
        since_ms: i64,
        until_ms: i64,
        after: Option<CallId>,
        limit: u32,
    ) -> Result<Vec<RatedCall>, LedgerError> {
        let sql = "SELECT DISTINCT samples.call_id AS id FROM feedback \
                   JOIN feedback_samples ON feedback_samples.feedback_id = feedback.id \
                   JOIN samples ON samples.id = feedback_samples.sample_id \
                   WHERE feedback.created_ms > $1 AND feedback.created_ms <= $2 AND feedback.withdrawn = 0 \
                   AND samples.call_id > $3 ORDER BY samples.call_id LIMIT $4";
        let query = sqlx::query(sql).bind(since_ms).bind(until_ms);
        let query = query.bind(after.map(|id| id.to_string()).unwrap_or_default()).bind(i64::from(limit));
        let ids = query.fetch_all(&self.reads).await?;
        let ids = ids.iter().map(|row| row.try_get("id")).collect::<Result<Vec<String>, _>>()?;
        let rows = self.of("SELECT * FROM calls WHERE id IN (?) ORDER BY id", &ids).await?;
        let all = self.whole(&rows).await?;
        let sql = "SELECT feedback.*, samples.call_id AS of_call FROM feedback \
                   JOIN feedback_samples ON feedback_samples.feedback_id = feedback.id \
                   JOIN samples ON samples.id = feedback_samples.sample_id \
                   WHERE feedback.withdrawn = 0 AND samples.call_id IN (?) ORDER BY feedback.id";
        let mut said: HashMap<String, Vec<Feedback>> = HashMap::new();
        for row in self.of(sql, &ids).await? {
            let (feedback, _) = feedback::feedback(&row)?;
            let of = said.entry(row.try_get("of_call")?).or_default();
            // One that speaks of several samples comes with each.
            if of.last().is_none_or(|last| last.id != feedback.id) && feedback.created_ms <= until_ms {
                of.push(feedback);
            }
        }
        let rated = |kept: Kept| {
            let feedback = said.remove(&kept.call.id.to_string()).unwrap_or_default();
            RatedCall { kept, feedback }
        };
        Ok(all.into_iter().map(rated).collect())
    }

    /// Up to `limit` things that were said after `since_ms`, and not after `until_ms`, of what `version` made for requests that came
    /// after `asked_ms`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn remarks(
        &self,
        version: &Version,
        asked_ms: i64,
        [since_ms, until_ms]: [i64; 2],
        order: Order,
        limit: u32,
    ) -> Result<Vec<Remark>, LedgerError> {
        let sql = "SELECT feedback.opinion, feedback.rater, feedback.key_id, calls.person, calls.model FROM feedback \
                   JOIN samples ON samples.id = feedback.sample_id JOIN calls ON calls.id = samples.call_id \
                   WHERE feedback.created_ms > $1 AND feedback.created_ms <= $2 AND feedback.withdrawn = 0 \
                   AND calls.created_ms > $3 AND calls.version = $4 ";
        let order = match order {
            Order::Oldest => "ORDER BY feedback.created_ms, feedback.id LIMIT $5",
            Order::Newest => "ORDER BY feedback.created_ms DESC, feedback.id DESC LIMIT $5",
        };
        let query = sqlx::query(AssertSqlSafe(format!("{sql}{order}"))).bind(since_ms).bind(until_ms);
        let query = query.bind(asked_ms).bind(version.0.clone()).bind(i64::from(limit));
        let remark = |row: &AnyRow| {
            let (rater, person): (Option<String>, Option<String>) = (row.try_get("rater")?, row.try_get("person")?);
            let rater = match rater.or(person) {
                Some(rater) => rater,
                None => format!("key {}", row.try_get::<&str, _>("key_id")?),
            };
            Ok(Remark { rater, model: row.try_get("model")?, opinion: rows::opinion(row.try_get("opinion")?)? })
        };
        query.fetch_all(&self.reads).await?.iter().map(remark).collect()
    }

    /// How much was said after `since_ms`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn said_since(&self, since_ms: i64) -> Result<u64, LedgerError> {
        let sql = "SELECT COUNT(*) AS n FROM feedback WHERE created_ms > $1 AND withdrawn = 0";
        let row = sqlx::query(sql).bind(since_ms).fetch_one(&self.reads).await?;
        Ok(u64::try_from(row.try_get::<i64, _>("n")?).unwrap_or(0))
    }
}
