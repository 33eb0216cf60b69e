//! The interface's description, made from the wire types and the handlers' own attributes, so that it cannot say
//! anything else than the code. `openapi/openapi.yaml` is its committed copy, held equal by a test.
//! Only the general parts are written here.

use actix_web::HttpResponse;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::error::ApiError;

/// What `ulm openapi` prints.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "ULM Server",
        description = "Unified multimodal models that draw and answer, behind OpenAI's interface. Official OpenAI SDKs work unmodified; \
                       what a model cannot honour is refused by name. Extensions are marked as such.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "This server")),
    paths(
        super::images::generate,
        super::chat::create,
        super::stored::list_chats,
        super::stored::chat,
        super::stored::annotate,
        super::stored::delete_chat,
        super::stored::messages,
        super::stored::list_images,
        super::stored::images,
        super::stored::delete_images,
        super::stored::image,
        super::stored::forget,
        super::feedback::create,
        super::feedback::list,
        super::feedback::retrieve,
        super::feedback::update,
        super::feedback::withdraw,
        super::rounds::create,
        super::rounds::list,
        super::rounds::retrieve,
        super::rounds::cancel,
        super::files::create,
        super::files::list,
        super::files::retrieve,
        super::files::delete,
        super::files::content,
        super::jobs::create,
        super::jobs::list,
        super::jobs::retrieve,
        super::jobs::cancel,
        super::jobs::pause,
        super::jobs::resume,
        super::jobs::events,
        super::jobs::checkpoints,
        super::graders::run,
        super::graders::validate,
        super::versions::list,
        super::versions::retrieve,
        super::versions::promote,
        super::versions::rollback,
        super::models::list,
        super::models::retrieve,
        super::models::delete,
        super::health::health,
        super::health::ready
    ),
    tags(
        (name = "Images", description = "Pictures of a prompt."),
        (name = "Chat", description = "Answers about pictures and text."),
        (name = "Feedback", description = "What people say of answers and pictures."),
        (name = "Rounds", description = "Training rounds: what users said becomes better weights."),
        (name = "Fine-tuning", description = "Files, graders and jobs: a round with data and a judge of its own."),
        (name = "Versions", description = "Weights: which are live, which were, and how to change that."),
        (name = "Models", description = "What may be named as `model`."),
        (name = "Operations", description = "For those who run the server.")
    ),
    security(("key" = [])),
    modifiers(&Key)
)]
struct Description;

/// Declares the bearer key.
struct Key;

impl Modify for Key {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Asked for only where the server was started with keys."))
            .build();
        openapi.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

/// The description as YAML.
///
/// # Errors
/// When it cannot be written, which is a fault of this program.
pub fn yaml() -> Result<String, ApiError> {
    Description::openapi().to_yaml().map_err(|cause| ApiError::internal(&cause))
}

/// Serves the description.
pub async fn serve() -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().content_type("application/yaml").body(yaml()?))
}
