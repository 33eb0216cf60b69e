//! Versions of the weights as the interface shows them. Only shapes; the ledger knows the facts.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::super::error::ApiError;
use crate::domain::round::{KnownVersion, Promotion};
use crate::domain::trial::{Share, Trial};
use crate::trial::evidence::LIMIT;
use crate::trial::{Arm, Standing};

/// How a version is to answer people.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PromoteRequest)]
pub struct Request {
    /// Let it answer this share of the people first, until their ratings tell whether it answers all; left out, it answers everybody at once.
    #[schema(minimum = 0, maximum = 1, exclusive_minimum = 0, exclusive_maximum = 1, example = 0.1)]
    share: Option<f64>,
}

impl Request {
    /// # Errors
    /// When the share is nobody or everybody.
    pub fn parse(self) -> Result<Option<Share>, ApiError> {
        let share = |share| {
            let message = || format!("`share` must be above 0 and below 1, not {share}.");
            Share::new(share).ok_or_else(|| ApiError::invalid("share", message()))
        };
        self.share.map(share).transpose()
    }
}

/// Weights that were served, or may be.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionCard {
    /// Content hash of the weights (SHA-256).
    pub id: String,
    #[schema(example = "version")]
    pub object: &'static str,
    /// Unix seconds.
    pub created: i64,
    /// What it was trained from; null of what came from outside.
    #[schema(required)]
    pub parent: Option<String>,
    /// The round that made it.
    #[schema(required)]
    pub round: Option<String>,
    /// It answers what names no version.
    pub live: bool,
    /// Its weights are kept, or loaded in the server that replies; else it cannot be promoted.
    pub available: bool,
    /// Size of its weights; 0 where they are not kept.
    pub bytes: i64,
    /// It is kept whatever comes.
    pub pinned: bool,
    /// What was measured of it.
    #[schema(value_type = Object)]
    pub scores: Value,
    /// The last time that it was on trial.
    #[schema(required)]
    pub trial: Option<TrialCard>,
}

impl VersionCard {
    /// `live` is the version that is; `loaded` says whether this server holds it in memory.
    pub fn new(known: KnownVersion, live: Option<&Promotion>, loaded: bool, trial: Option<TrialCard>) -> Self {
        Self {
            live: live.is_some_and(|live| live.version == known.version),
            available: loaded || known.weights.is_some(),
            id: known.version.0,
            object: "version",
            created: known.created_ms / 1000,
            parent: known.parent.map(|parent| parent.0),
            round: known.round.map(|round| round.to_string()),
            bytes: if known.weights.is_some() { known.bytes } else { 0 },
            pinned: known.pinned,
            scores: serde_json::from_str(&known.scores).unwrap_or(Value::Null),
            trial,
        }
    }
}

/// A version on trial: it answers a share of the people, and what they say is held against what the others say of the live version.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TrialCard {
    /// Counted from 1.
    pub number: i64,
    #[schema(example = "trial")]
    pub object: &'static str,
    pub version: String,
    /// `running`, `promoted`, `withdrawn`, or `overtaken` by another promotion.
    #[schema(example = "running")]
    pub status: &'static str,
    /// Of the people, above 0 and below 1.
    pub share: f64,
    /// Unix seconds.
    pub began: i64,
    /// When it ends at the latest, Unix seconds.
    pub until: i64,
    #[schema(required)]
    pub ended: Option<i64>,
    /// Whose hand, or which round.
    pub by: String,
    pub why: String,
    /// How it stands; null once it has ended.
    #[schema(required)]
    pub standing: Option<StandingCard>,
    /// What it came to; null while it runs.
    #[schema(required)]
    pub said: Option<String>,
}

/// What people have said of two versions. One rater counts once for each.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StandingCard {
    /// The version on trial.
    pub candidate: ArmCard,
    /// The live version, in the same time.
    pub live: ArmCard,
    /// Raters of the candidate who count so far, each beside so many of the live version.
    pub votes: usize,
    pub beside: usize,
    /// More of them that are wanted before it answers everybody.
    pub missing: usize,
    /// Evidence that it is rated worse (an e-value), and how much of it ends the trial.
    pub against: f64,
    pub limit: f64,
}

/// What is said of one version.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ArmCard {
    pub version: String,
    pub raters: usize,
    /// Mean of their first words, 0 (bad) to 1 (good); null of none.
    #[schema(required)]
    pub mean: Option<f64>,
}

impl TrialCard {
    /// `standing` is known of one that runs.
    pub fn new(trial: Trial, standing: Option<Standing>) -> Self {
        let wanted = usize::try_from(trial.terms.votes).unwrap_or(usize::MAX);
        let arm = |Arm { version, words, mean }| ArmCard {
            version: version.0,
            raters: words,
            mean: (words > 0).then_some(mean),
        };
        let standing = standing.map(|Standing { other, new, evidence, beside }| StandingCard {
            candidate: arm(new),
            live: arm(other),
            votes: evidence.pairs,
            beside,
            missing: wanted.saturating_sub(evidence.pairs),
            against: evidence.against,
            limit: LIMIT,
        });
        Self {
            number: trial.number,
            object: "trial",
            status: trial.state.word(),
            share: trial.terms.share.get(),
            began: trial.began_ms / 1000,
            until: trial.until_ms() / 1000,
            ended: trial.ended_ms.map(|ms| ms / 1000),
            version: trial.version.0,
            by: trial.by,
            why: trial.why,
            standing,
            said: trial.said,
        }
    }
}

/// All versions, and how they came to be live.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionList {
    #[schema(example = "list")]
    pub object: &'static str,
    /// Newest first.
    pub data: Vec<VersionCard>,
    /// The last promotions, newest first.
    pub promotions: Vec<PromotionCard>,
}

/// That a version became live.
#[derive(Debug, Serialize, ToSchema)]
pub struct PromotionCard {
    /// Counted from 1.
    pub number: i64,
    pub version: String,
    /// Unix seconds.
    pub at: i64,
    /// Whose hand, or which round.
    pub by: String,
    pub why: String,
}

impl From<Promotion> for PromotionCard {
    fn from(promotion: Promotion) -> Self {
        let Promotion { number, version, at_ms, by, why } = promotion;
        Self { number, version: version.0, at: at_ms / 1000, by, why }
    }
}
