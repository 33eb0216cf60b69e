//! Trials of versions: begun behind a promotion, at most one at a time, ended once. Of several servers that would end one, one does, and what
//! follows (a promotion, the end of a round) is of the same transaction. Knows nothing of why a version is better or worse.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use uuid::Uuid;

use super::{Ledger, LedgerError, Promoted, rows, versions};
use crate::domain::id::RoundId;
use crate::domain::round::{Promotion, RoundState};
use crate::domain::sample::Version;
use crate::domain::trial::{Share, Terms, Trial, TrialState};

/// A trial to be begun.
#[derive(Clone, Debug, PartialEq)]
pub struct Beginning {
    pub version: Version,
    /// The promotion that must still be the last.
    pub after: i64,
    pub terms: Terms,
    pub by: String,
    pub why: String,
    pub round: Option<RoundId>,
    pub now_ms: i64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    Running(Trial),
    /// Another version is on trial, or was promoted.
    Lost,
    /// There is no such version.
    Unknown,
}

/// How a trial is to end.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    pub number: i64,
    pub state: TrialState,
    /// Why, in words.
    pub said: String,
    /// Who makes the version live, where it is not yet.
    pub promoter: Option<String>,
    pub now_ms: i64,
}

/// What became of that.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// It has ended so.
    Ended(TrialState),
    /// It had ended before.
    Lost,
}

impl Ledger {
    /// Begins a trial, if no other version is on trial or was promoted meanwhile.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn begin_trial(&self, beginning: Beginning) -> Result<Begun, LedgerError> {
        let work = Arc::new((beginning, Uuid::now_v7().simple().to_string()));
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<Begun, LedgerError>> {
                let work = Arc::clone(&work);
                Box::pin(async move { begin(connection, &work.0, &work.1).await })
            })
            .await
    }

    /// Ends a trial. Where that makes its version live and another became so meanwhile, it is overtaken.
    ///
    /// # Errors
    /// When it is not durable.
    pub async fn settle_trial(&self, ending: Ending) -> Result<Settled, LedgerError> {
        let work = Arc::new((ending, Uuid::now_v7().simple().to_string()));
        self.writer
            .write(move |connection| -> BoxFuture<'_, Result<Settled, LedgerError>> {
                let work = Arc::clone(&work);
                Box::pin(async move { settle(connection, &work.0, &work.1).await })
            })
            .await
    }

    /// Trials that nobody has ended, newest first. Those that a promotion follows run no more.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn running_trials(&self) -> Result<Vec<Trial>, LedgerError> {
        let query = sqlx::query("SELECT * FROM trials WHERE state = 'running' ORDER BY number DESC");
        query.fetch_all(&self.reads).await?.iter().map(trial).collect()
    }

    /// The last trials, newest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn trials(&self, limit: u32) -> Result<Vec<Trial>, LedgerError> {
        let query = sqlx::query("SELECT * FROM trials ORDER BY number DESC LIMIT $1").bind(i64::from(limit));
        query.fetch_all(&self.reads).await?.iter().map(trial).collect()
    }

    /// The trial that a round began.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn trial_of(&self, round: RoundId) -> Result<Option<Trial>, LedgerError> {
        let sql = "SELECT * FROM trials WHERE round = $1 ORDER BY number DESC LIMIT 1";
        let row = sqlx::query(sql).bind(round.to_string()).fetch_optional(&self.reads).await?;
        row.as_ref().map(trial).transpose()
    }
}

/// Whether a version is on trial.
pub(super) async fn is_on_trial(connection: &mut AnyConnection, version: &str) -> Result<bool, LedgerError> {
    let query = sqlx::query("SELECT 1 FROM trials WHERE version = $1 AND state = 'running'").bind(version.to_owned());
    Ok(query.fetch_optional(connection).await?.is_some())
}

async fn begin(connection: &mut AnyConnection, new: &Beginning, token: &str) -> Result<Begun, LedgerError> {
    let known = sqlx::query("SELECT 1 FROM versions WHERE id = $1").bind(new.version.0.clone());
    if known.fetch_optional(&mut *connection).await?.is_none() {
        return Ok(Begun::Unknown);
    }
    // Of two at once the second has the number of the first, or sees it run. Run again, it sees itself run.
    let sql = "INSERT INTO trials (number, token, version, after, share, votes, began_ms, time_ms, author, why, round, state) \
               SELECT (SELECT COALESCE(MAX(number), 0) + 1 FROM trials), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'running' \
               WHERE (SELECT COALESCE(MAX(number), 0) FROM promotions) = $11 \
               AND NOT EXISTS (SELECT 1 FROM trials WHERE state = 'running' AND after = $12) ON CONFLICT DO NOTHING";
    sqlx::query(sql)
        .bind(token.to_owned())
        .bind(new.version.0.clone())
        .bind(new.after)
        .bind(new.terms.share.millionths())
        .bind(i64::from(new.terms.votes))
        .bind(new.now_ms)
        .bind(new.terms.time_ms)
        .bind(new.by.clone())
        .bind(new.why.clone())
        .bind(new.round.map(|round| round.to_string()))
        .bind(new.after)
        .bind(new.after)
        .execute(&mut *connection)
        .await?;
    let query = sqlx::query("SELECT * FROM trials WHERE token = $1").bind(token.to_owned());
    let ours = query.fetch_optional(connection).await?;
    Ok(match ours {
        Some(row) => Begun::Running(trial(&row)?),
        None => Begun::Lost,
    })
}

async fn settle(connection: &mut AnyConnection, ending: &Ending, token: &str) -> Result<Settled, LedgerError> {
    let sql =
        "UPDATE trials SET state = $1, ended_ms = $2, said = $3, ender = $4 WHERE number = $5 AND state = 'running'";
    sqlx::query(sql)
        .bind(ending.state.word())
        .bind(ending.now_ms)
        .bind(ending.said.clone())
        .bind(token.to_owned())
        .bind(ending.number)
        .execute(&mut *connection)
        .await?;
    // Run again, it finds what it has written.
    let query = sqlx::query("SELECT * FROM trials WHERE number = $1 AND ender = $2");
    let ours = query.bind(ending.number).bind(token.to_owned()).fetch_optional(&mut *connection).await?;
    let Some(ended) = ours.as_ref().map(trial).transpose()? else { return Ok(Settled::Lost) };
    let mut state = ended.state;
    if let (TrialState::Promoted, Some(by)) = (state, &ending.promoter) {
        let next = Promotion {
            number: ended.after + 1,
            version: ended.version.clone(),
            at_ms: ending.now_ms,
            by: by.clone(),
            why: ending.said.clone(),
        };
        if !matches!(versions::promote(connection, &next, token.to_owned()).await?, Promoted::Live(_)) {
            state = TrialState::Overtaken;
            let sql = "UPDATE trials SET state = $1 WHERE number = $2";
            sqlx::query(sql).bind(state.word()).bind(ended.number).execute(&mut *connection).await?;
        }
    }
    if let Some(round) = ended.round {
        let end = if state == TrialState::Promoted { RoundState::Promoted } else { RoundState::Refused };
        // It may not have been written yet that the round waits.
        let sql = "UPDATE rounds SET state = $1, changed_ms = $2 WHERE id = $3 AND state IN ('judging', 'trying')";
        let query = sqlx::query(sql).bind(end.word()).bind(ending.now_ms).bind(round.to_string());
        query.execute(connection).await?;
    }
    Ok(Settled::Ended(state))
}

fn trial(row: &AnyRow) -> Result<Trial, LedgerError> {
    let bad = |column: &str| LedgerError::Corrupt(format!("column trials.{column} holds what it cannot"));
    let word: &str = row.try_get("state")?;
    let state = TrialState::ALL.into_iter().find(|state| state.word() == word);
    let round: Option<String> = row.try_get("round")?;
    Ok(Trial {
        number: row.try_get("number")?,
        version: Version(row.try_get("version")?),
        after: row.try_get("after")?,
        terms: Terms {
            share: Share::of_millionths(row.try_get("share")?).ok_or_else(|| bad("share"))?,
            votes: u32::try_from(row.try_get::<i64, _>("votes")?).map_err(|_| bad("votes"))?,
            time_ms: row.try_get("time_ms")?,
        },
        began_ms: row.try_get("began_ms")?,
        by: row.try_get("author")?,
        why: row.try_get("why")?,
        round: round.map(|round| rows::id("trials.round", &round)).transpose()?,
        state: state.ok_or_else(|| bad("state"))?,
        ended_ms: row.try_get("ended_ms")?,
        said: row.try_get("said")?,
    })
}
