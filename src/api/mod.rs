//! The OpenAI-style interface: the whole route table, and what the handlers share. Knows HTTP, the engine and the
//! domain; computes nothing on the device and keeps nothing.
//!
//! A request is read (`body`), proved (`wire`), prepared on the blocking pool (pictures decoded, prompt tokenised) and
//! submitted to the engine; its samples come back as events. A handler that is dropped, because the client has left,
//! drops its events and so cancels the work.

pub mod auth;
pub mod body;
mod chat;
pub mod error;
mod feedback;
mod files;
mod form;
mod graders;
mod health;
mod images;
mod jobs;
mod keep;
mod links;
mod models;
mod named;
mod observe;
pub mod openapi;
mod rounds;
mod sse;
mod stored;
pub mod ui;
mod versions;
pub mod wire;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, Route, guard, web};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use self::auth::Keys;
use self::body::Bodies;
use self::error::ApiError;
use self::feedback::Pace;
use self::links::Links;
use self::named::Named;
use crate::domain::sample::{Sample, Version};
use crate::domain::trial::Terms;
use crate::engine::EngineHandle;
use crate::engine::command::{Event, Events};
use crate::store::Ledger;

pub use self::keep::now_ms;
pub use self::observe::observe;
pub use self::wire::feedback::Scale;

/// What the served checkpoint does when a request does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// Guidance weight of pictures.
    pub guidance: f32,
    /// Temperature of pictures.
    pub temperature: f32,
    /// Temperature of answers; 0 is greedy.
    pub answer_temperature: f32,
}

/// How the interface is set up.
pub struct Options {
    /// The model's name to the world.
    pub name: String,
    pub defaults: Defaults,
    /// Keys that open `/v1`; none lets everyone in.
    pub keys: Vec<String>,
    /// Keys that change what is served; none lets whoever may come in do so.
    pub admin_keys: Vec<String>,
    /// Largest request body in bytes.
    pub body_limit: usize,
    /// What links to pictures are signed with.
    pub secret: [u8; 64],
    /// This server works on training rounds.
    pub learns: bool,
    /// How versions are tried by hand; the share is the request's.
    pub trials: Terms,
    /// The range of ratings.
    pub scale: Scale,
}

/// What all handlers share.
pub struct Service {
    engine: EngineHandle,
    name: String,
    defaults: Defaults,
    keys: Keys,
    admins: Keys,
    bodies: Bodies,
    ledger: Ledger,
    links: Links,
    pace: Pace,
    learns: bool,
    trials: Terms,
    scale: Scale,
    /// Places for slow work (decoding, tokenising, encoding): no more of it at once than there are cores, and than eight,
    /// so that a flood of large pictures waits in its small files.
    desks: Arc<Semaphore>,
    loaded: Named,
    started: u64,
}

impl Service {
    pub fn new(engine: EngineHandle, ledger: Ledger, options: Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            engine,
            name: options.name,
            defaults: options.defaults,
            keys: Keys::new(&options.keys).with(&options.admin_keys),
            admins: Keys::new(&options.admin_keys),
            bodies: Bodies::new(options.body_limit),
            ledger,
            links: Links::new(options.secret),
            pace: Pace::new(),
            learns: options.learns,
            trials: options.trials,
            scale: options.scale,
            desks: Arc::new(Semaphore::new(cores.min(8))),
            loaded: Named::default(),
            started: now(),
        }
    }

    /// Runs slow work on the blocking pool. Once begun it keeps its place to its end, even when nobody waits any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let desk = Arc::clone(&self.desks).acquire_owned().await.map_err(|cause| ApiError::internal(&cause))?;
        let done = web::block(move || {
            let _desk = desk;
            work()
        });
        done.await.map_err(|cause| ApiError::internal(&cause))?
    }
}

/// The digits of a version that names show.
fn short(version: &Version) -> &str {
    version.0.get(..12).unwrap_or(&version.0)
}

/// Waits for the samples of a submission, in order; every token event is shown to `token`.
async fn collect(mut events: Events, n: usize, mut token: impl FnMut(Event)) -> Result<Vec<Sample>, ApiError> {
    let mut samples: Vec<Option<Sample>> = vec![None; n];
    while let Some(event) = events.next().await {
        match event {
            Event::Finished { index, sample } => {
                if let Some(place) = samples.get_mut(index) {
                    *place = Some(sample);
                }
            }
            Event::Failed(error) => return Err(ApiError::engine(&error)),
            Event::Done => break,
            other => token(other),
        }
    }
    samples.into_iter().collect::<Option<_>>().ok_or_else(|| ApiError::internal(&"the engine lost a sample"))
}

/// The query of a request.
fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    web::Query::<T>::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| ApiError::malformed(format!("The query cannot be read: {error}.")))
}

/// Unix seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}

/// The route table. Wrap the application in [`observe`] as well.
pub fn routes(service: web::Data<Service>) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config
            .app_data(service)
            .service(page("/", ui::index))
            .service(page("/ui/style.css", ui::style))
            .service(page("/ui/app.js", ui::script))
            .service(page("/ui/learn.js", ui::learning))
            .service(web::resource("/openapi.yaml").route(get().to(openapi::serve)).default_service(only("GET, HEAD")))
            .service(web::resource("/health").route(get().to(health::health)).default_service(only("GET, HEAD")))
            .service(web::resource("/ready").route(get().to(health::ready)).default_service(only("GET, HEAD")))
            .service(
                web::scope("/v1")
                    .wrap(from_fn(auth::guard))
                    .service(web::resource("/models").route(get().to(models::list)).default_service(only("GET, HEAD")))
                    .service(
                        web::resource("/models/{id}")
                            .route(get().to(models::retrieve))
                            .route(web::delete().to(models::delete))
                            .default_service(only("GET, HEAD, DELETE")),
                    )
                    .service(
                        web::resource("/images/generations")
                            .route(web::post().to(images::generate))
                            .route(get().to(stored::list_images))
                            .default_service(only("GET, HEAD, POST")),
                    )
                    .service(
                        web::resource(["/images/edits", "/images/variations"])
                            .route(web::post().to(images::edit))
                            .default_service(only("POST")),
                    )
                    .service(
                        web::resource("/chat/completions")
                            .route(web::post().to(chat::create))
                            .route(get().to(stored::list_chats))
                            .default_service(only("GET, HEAD, POST")),
                    )
                    .service(
                        web::resource("/chat/completions/{id}")
                            .route(get().to(stored::chat))
                            .route(web::post().to(stored::annotate))
                            .route(web::delete().to(stored::delete_chat))
                            .default_service(only("GET, HEAD, POST, DELETE")),
                    )
                    .service(
                        web::resource("/chat/completions/{id}/messages")
                            .route(get().to(stored::messages))
                            .default_service(only("GET, HEAD")),
                    )
                    .service(
                        web::resource("/images/generations/{id}")
                            .route(get().to(stored::images))
                            .route(web::delete().to(stored::delete_images))
                            .default_service(only("GET, HEAD, DELETE")),
                    )
                    .service(
                        web::resource("/samples/{id}/image")
                            .route(get().to(stored::image))
                            .default_service(only("GET, HEAD")),
                    )
                    .service(
                        web::resource("/feedback")
                            .route(web::post().to(feedback::create))
                            .route(get().to(feedback::list))
                            .default_service(only("GET, HEAD, POST")),
                    )
                    .service(
                        web::resource("/feedback/{id}")
                            .route(get().to(feedback::retrieve))
                            .route(web::put().to(feedback::update))
                            .route(web::delete().to(feedback::withdraw))
                            .default_service(only("GET, HEAD, PUT, DELETE")),
                    )
                    .service(
                        web::resource("/rounds")
                            .route(web::post().to(rounds::create))
                            .route(get().to(rounds::list))
                            .default_service(only("GET, HEAD, POST")),
                    )
                    .service(
                        web::resource("/rounds/{id}")
                            .route(get().to(rounds::retrieve))
                            .default_service(only("GET, HEAD")),
                    )
                    .service(
                        web::resource("/rounds/{id}/cancel")
                            .route(web::post().to(rounds::cancel))
                            .default_service(only("POST")),
                    )
                    .configure(fine_tuning)
                    .service(
                        web::resource("/versions").route(get().to(versions::list)).default_service(only("GET, HEAD")),
                    )
                    .service(
                        web::resource("/versions/{id}")
                            .route(get().to(versions::retrieve))
                            .default_service(only("GET, HEAD")),
                    )
                    .service(
                        web::resource("/versions/{id}/promote")
                            .route(web::post().to(versions::promote))
                            .default_service(only("POST")),
                    )
                    .service(
                        web::resource("/versions/{id}/rollback")
                            .route(web::post().to(versions::rollback))
                            .default_service(only("POST")),
                    )
                    .service(
                        web::resource("/users/{user}/data")
                            .route(web::delete().to(stored::forget))
                            .default_service(only("DELETE")),
                    )
                    .default_service(web::route().to(absent)),
            )
            .default_service(web::route().to(absent));
    }
}

/// Files, jobs and graders.
fn fine_tuning(config: &mut web::ServiceConfig) {
    let jobs = |path: &str| web::resource(format!("/fine_tuning/jobs{path}"));
    config
        .service(
            web::resource("/files")
                .route(web::post().to(files::create))
                .route(get().to(files::list))
                .default_service(only("GET, HEAD, POST")),
        )
        .service(
            web::resource("/files/{id}")
                .route(get().to(files::retrieve))
                .route(web::delete().to(files::delete))
                .default_service(only("GET, HEAD, DELETE")),
        )
        .service(
            web::resource("/files/{id}/content").route(get().to(files::content)).default_service(only("GET, HEAD")),
        )
        .service(
            jobs("")
                .route(web::post().to(jobs::create))
                .route(get().to(jobs::list))
                .default_service(only("GET, HEAD, POST")),
        )
        .service(jobs("/{id}").route(get().to(jobs::retrieve)).default_service(only("GET, HEAD")))
        .service(jobs("/{id}/cancel").route(web::post().to(jobs::cancel)).default_service(only("POST")))
        .service(jobs("/{id}/pause").route(web::post().to(jobs::pause)).default_service(only("POST")))
        .service(jobs("/{id}/resume").route(web::post().to(jobs::resume)).default_service(only("POST")))
        .service(jobs("/{id}/events").route(get().to(jobs::events)).default_service(only("GET, HEAD")))
        .service(jobs("/{id}/checkpoints").route(get().to(jobs::checkpoints)).default_service(only("GET, HEAD")))
        .service(
            web::resource("/fine_tuning/alpha/graders/run")
                .route(web::post().to(graders::run))
                .default_service(only("POST")),
        )
        .service(
            web::resource("/fine_tuning/alpha/graders/validate")
                .route(web::post().to(graders::validate))
                .default_service(only("POST")),
        );
}

/// A file of the page.
fn page(path: &str, file: fn() -> HttpResponse) -> actix_web::Resource {
    web::resource(path).route(get().to(move || std::future::ready(file()))).default_service(only("GET, HEAD"))
}

/// GET, and HEAD with it.
fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// What answers the methods that a route does not know.
fn only(allow: &'static str) -> Route {
    web::route().to(move |request: HttpRequest| {
        std::future::ready(Err::<HttpResponse, _>(ApiError::method(request.method().as_str(), allow)))
    })
}

/// What answers where there is no route.
async fn absent(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::absent(request.path()))
}
