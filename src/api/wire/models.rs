//! `GET /v1/models` and `GET /v1/models/{id}`.
//! OpenAI's fields, and the content hash of the weights beside them.
//! Only shapes; `api` makes the list.

use serde::Serialize;
use utoipa::ToSchema;

/// Everything that may be named as `model`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<ModelCard>,
}

/// The served model under its name, or one version of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelCard {
    /// The name, or `name@` and the first twelve digits of the version.
    #[schema(example = "ulm-demo")]
    pub id: String,
    #[schema(example = "model")]
    pub object: &'static str,
    /// Unix seconds; when the server started.
    pub created: u64,
    #[schema(example = "ulm")]
    pub owned_by: &'static str,
    /// Extension: content hash of the weights (SHA-256).
    pub version: String,
}
