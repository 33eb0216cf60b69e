//! Versions of the weights as the interface shows them. Only shapes; the ledger knows the facts.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::round::{KnownVersion, Promotion};

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
}

impl VersionCard {
    /// `live` is the version that is; `loaded` says whether this server holds it in memory.
    pub fn new(known: KnownVersion, live: Option<&Promotion>, loaded: bool) -> Self {
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
