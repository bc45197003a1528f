//! `/api/v1`: what the cluster is and does, and changes of it, as JSON over HTTP.
//!
//! Any node answers for the whole cluster: it reads and writes the same metadata store as the commands do. Whoever wants to change
//! something shows the token of the cluster file; errors are `application/problem+json`. The OpenAPI description is made
//! from these functions, so that it has what is served and nothing else.

mod host;
mod problem;
mod rollouts;
mod token;

use std::path::Path;
use std::sync::Arc;

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path as InPath, Query, State};
use axum::http::header;
use axum::routing::{any, get};
use axum::{Json, Router, body::Bytes, middleware};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::info;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};
use utoipa::{IntoParams, OpenApi as _, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::problem::{Code, Problem, Problems};
use self::token::Token;
use super::deploy::{self, Deployment};
use super::status::{self, NodeStatus, PipelineStatus, RATES_OVER};
use crate::cluster::leader::Left;
use crate::cluster::pipelines::{self, Desired, PipelineRecord, Revision};
use crate::cluster::registry::{PluginEntry, Registry};
use crate::config::{Cluster, Pipeline, PluginReference};
use crate::engine::Engine;
use crate::meta::MetaStore;
use crate::meta::layout::Segment;

/// Below this everything is served.
const PREFIX: &str = "/api/v1";
/// Largest pipeline file, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Requests that take clients of Kafka, or plugins, at the same time.
pub(super) const TURNS: usize = 4;
const SECURITY: &str = "token";

/// What the API works with.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) cluster: Arc<Cluster>,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) engine: Arc<Engine>,
    /// Whether only this machine can ask.
    pub(super) on_loopback: bool,
    /// What takes clients and threads is done for so many at a time: it must not keep tasks from coming up.
    pub(super) turns: Arc<Semaphore>,
}

impl Api {
    fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = |_| Problem::new(Code::Unavailable, "this node answers others at the moment: ask again");
        Arc::clone(&self.turns).try_acquire_owned().map_err(busy)
    }

    /// That there is such a pipeline. What stays of one that is gone is not shown.
    async fn known(&self, name: &Segment) -> Result<(), Problem> {
        let known = pipelines::read(&*self.store, name).await?;
        match known.is_some_and(|known| known.record.desired != Desired::Gone) {
            true => Ok(()),
            false => Err(super::NodeError::UnknownPipeline { pipeline: name.to_string() }.into()),
        }
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Sluicegate",
        description = "Pipelines, nodes and plugins of a cluster. Any node answers for all of it.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
    ),
    components(schemas(Problem))
)]
struct Document;

type Answer<T> = Result<Json<T>, Problem>;

/// The routes, and their description at `/api/v1/openapi.json`.
pub(super) fn router(api: Api) -> Router {
    let token = Token::new(api.cluster.http_token.as_ref());
    let (routes, document) = described(token);
    let document = Bytes::from(serde_json::to_vec(&document).expect("a description has string keys only"));
    let describe = get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) });
    let fallback =
        || async { Problem::new(Code::NotFound, "there is nothing at this address; see /api/v1/openapi.json") };
    let wrong_method =
        || async { Problem::new(Code::MethodNotAllowed, "this address takes other methods; see /api/v1/openapi.json") };
    let on_loopback = api.on_loopback;
    let routes = routes
        .route("/openapi.json", describe)
        .fallback(fallback)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api);
    let routes = Router::new().nest(PREFIX, routes).route(&format!("{PREFIX}/"), any(fallback));
    match on_loopback {
        true => routes.layer(middleware::from_fn(host::demand_own)),
        false => routes,
    }
}

fn described(token: Token) -> (Router<Api>, OpenApi) {
    let reads = OpenApiRouter::new()
        .routes(routes!(list_nodes))
        .routes(routes!(list_pipelines))
        .routes(routes!(show_pipeline))
        .routes(routes!(list_revisions))
        .routes(routes!(rollouts::list_rollouts))
        .routes(routes!(list_plugins));
    let changes = OpenApiRouter::new()
        .routes(routes!(deploy_pipeline, undeploy_pipeline))
        .routes(routes!(pause_pipeline))
        .routes(routes!(resume_pipeline))
        .routes(routes!(rollouts::begin_rollout))
        .routes(routes!(rollouts::roll_back))
        .routes(routes!(rollouts::promote_rollout))
        .routes(routes!(rollouts::call_off_rollout))
        .route_layer(middleware::from_fn_with_state(token, token::demand))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let (router, paths) = reads.merge(changes).split_for_parts();
    let document = Document::openapi().nest(PREFIX, paths);
    (router, with_security(document))
}

fn with_security(mut document: OpenApi) -> OpenApi {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The token that `token-env` or `token-file` under [http] of the cluster file name."))
        .build();
    document.components.get_or_insert_with(Components::new).add_security_scheme(SECURITY, SecurityScheme::Http(scheme));
    document
}

/// The nodes of the cluster.
#[utoipa::path(get, path = "/nodes", tag = "nodes", responses((status = 200, body = Vec<NodeStatus>), Problems))]
async fn list_nodes(State(api): State<Api>) -> Answer<Vec<NodeStatus>> {
    Ok(Json(status::nodes(&*api.store).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LookParams {
    /// Ask the nodes for records a second too, which takes a second.
    #[serde(default)]
    rates: bool,
}

/// How all pipelines are.
#[utoipa::path(get, path = "/pipelines", tag = "pipelines", params(LookParams),
    responses((status = 200, body = Vec<PipelineStatus>), Problems))]
async fn list_pipelines(
    State(api): State<Api>,
    params: Result<Query<LookParams>, QueryRejection>,
) -> Answer<Vec<PipelineStatus>> {
    look(&api, None, &params?.0).await.map(Json)
}

/// How a pipeline is, with its tasks.
#[utoipa::path(get, path = "/pipelines/{pipeline}", tag = "pipelines",
    params(("pipeline" = String, Path, description = "Name of the pipeline."), LookParams),
    responses((status = 200, body = PipelineStatus), Problems))]
async fn show_pipeline(
    State(api): State<Api>,
    name: Result<InPath<String>, PathRejection>,
    params: Result<Query<LookParams>, QueryRejection>,
) -> Answer<PipelineStatus> {
    let name = segment(&name?)?;
    let status = look(&api, Some(&name), &params?.0).await?.pop();
    status.map(Json).ok_or_else(|| Problem::new(Code::Internal, "the pipeline was looked at, and is not there"))
}

async fn look(api: &Api, only: Option<&Segment>, params: &LookParams) -> Result<Vec<PipelineStatus>, Problem> {
    let _turn = api.turn()?;
    if let Some(name) = only {
        api.known(name).await?;
    }
    let before = match params.rates {
        true => {
            let before = status::rate(&*api.store, &mut [], None).await?;
            tokio::time::sleep(RATES_OVER).await;
            Some(before)
        }
        false => None,
    };
    let mut statuses = status::pipelines(&api.cluster, &api.store, only).await?;
    if before.is_some() {
        status::rate(&*api.store, &mut statuses, before.as_ref()).await?;
    }
    Ok(statuses)
}

/// The revisions that are kept of a pipeline, each with its file, the oldest first.
#[utoipa::path(get, path = "/pipelines/{pipeline}/revisions", tag = "pipelines",
    params(("pipeline" = String, Path, description = "Name of the pipeline.")),
    responses((status = 200, body = Vec<Revision>), Problems))]
async fn list_revisions(State(api): State<Api>, name: Result<InPath<String>, PathRejection>) -> Answer<Vec<Revision>> {
    let name = segment(&name?)?;
    api.known(&name).await?;
    Ok(Json(pipelines::revisions(&*api.store, &name).await?))
}

/// The plugins of the registry, by name and version.
#[utoipa::path(get, path = "/plugins", tag = "plugins", responses((status = 200, body = Vec<PluginEntry>), Problems))]
async fn list_plugins(State(api): State<Api>) -> Answer<Vec<PluginEntry>> {
    Ok(Json(Registry::new(api.store).list().await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
struct DeployParams {
    /// Check everything and say what would change, but change nothing.
    #[serde(default)]
    dry_run: bool,
    /// Begin without state, and where `start` says.
    #[serde(default)]
    discard_state: bool,
}

/// Lets the cluster run a pipeline, or changes one that it runs.
///
/// The body is the pipeline file. Its plugins are named as in the registry: a path would mean a file of the node that answers.
#[utoipa::path(put, path = "/pipelines/{pipeline}", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline, the same as in the file."), DeployParams),
    request_body(content = String, content_type = "application/toml", description = "The pipeline file."),
    responses((status = 200, body = Deployment), Problems))]
async fn deploy_pipeline(
    State(api): State<Api>,
    name: Result<InPath<String>, PathRejection>,
    params: Result<Query<DeployParams>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Deployment> {
    let (name, params, body) = (segment(&name?)?, params?, body?);
    let text = std::str::from_utf8(&body)
        .map_err(|error| Problem::new(Code::InvalidPipeline, format!("the pipeline file is no UTF-8 text: {error}")))?;
    let pipeline = Pipeline::parse(Path::new("request"), text).map_err(super::NodeError::Config)?;
    if pipeline.name.as_str() != name.to_string() {
        let message =
            format!("the file is of pipeline `{}`, and the address of `{name}`: change one of them", pipeline.name);
        return Err(Problem::new(Code::InvalidPipeline, message));
    }
    if let Some(at) = pipeline.transforms.iter().position(|it| matches!(it.plugin, PluginReference::Path(_))) {
        let message = "a path names a file of the node that answers, not one of yours";
        let help = "push the plugin, and write \"name@version\"";
        return Err(super::NodeError::Config(pipeline.plugin_error(at, message, help)).into());
    }
    let _turn = api.turn()?;
    let Api { cluster, store, engine, .. } = api;
    let deployable = deploy::check(&cluster, store, Some(engine), pipeline, params.discard_state).await?;
    let mut deployment = deployable.deployment();
    if !params.dry_run {
        let record = deployable.deploy(&mut deployment).await?;
        info!(pipeline = %name, revision = record.revision, "deployed over http");
    }
    Ok(Json(deployment))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
struct UndeployParams {
    /// Whether state and offsets stay for a later deployment; without it, they are deleted for good. Has to be said.
    keep_state: bool,
}

/// What has become of a pipeline that was taken off the cluster.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum StateIs {
    /// It stays for a later deployment.
    Kept,
    /// It is deleted.
    Deleted,
    /// It is deleted when the last node has let go of it.
    BeingDeleted,
}

/// How a pipeline was taken off the cluster.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct Undeployed {
    /// What becomes of its state.
    state: StateIs,
}

/// Takes a pipeline off the cluster.
#[utoipa::path(delete, path = "/pipelines/{pipeline}", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline."), UndeployParams),
    responses((status = 200, body = Undeployed), Problems))]
async fn undeploy_pipeline(
    State(api): State<Api>,
    name: Result<InPath<String>, PathRejection>,
    params: Result<Query<UndeployParams>, QueryRejection>,
) -> Answer<Undeployed> {
    let (name, params) = (segment(&name?)?, params?);
    info!(pipeline = %name, keep_state = params.keep_state, "to be taken off the cluster, over http");
    let state = match deploy::undeploy(&api.cluster, &*api.store, &name, params.keep_state).await? {
        None => StateIs::Kept,
        Some(Left::Nothing) => StateIs::Deleted,
        Some(Left::Something) => StateIs::BeingDeleted,
    };
    Ok(Json(Undeployed { state }))
}

/// What is wanted of a pipeline now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct Wanted {
    /// What is wanted.
    desired: Desired,
    /// Its revision.
    revision: u64,
    /// The life of its state.
    incarnation: u64,
}

impl From<PipelineRecord> for Wanted {
    fn from(record: PipelineRecord) -> Self {
        Self { desired: record.desired, revision: record.revision, incarnation: record.incarnation }
    }
}

/// Lets a deployed pipeline commit and stop.
#[utoipa::path(post, path = "/pipelines/{pipeline}/pause", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline.")),
    responses((status = 200, body = Wanted), Problems))]
async fn pause_pipeline(State(api): State<Api>, name: Result<InPath<String>, PathRejection>) -> Answer<Wanted> {
    let name = segment(&name?)?;
    info!(pipeline = %name, "to be paused, over http");
    Ok(Json(deploy::pause(&*api.store, &name).await?.into()))
}

/// Lets a paused pipeline go on, and one that has failed be tried again.
#[utoipa::path(post, path = "/pipelines/{pipeline}/resume", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline.")),
    responses((status = 200, body = Wanted), Problems))]
async fn resume_pipeline(State(api): State<Api>, name: Result<InPath<String>, PathRejection>) -> Answer<Wanted> {
    let name = segment(&name?)?;
    info!(pipeline = %name, "to be resumed, over http");
    Ok(Json(deploy::resume(&*api.store, &name).await?.into()))
}

fn segment(name: &InPath<String>) -> Result<Segment, Problem> {
    Segment::new(name.0.as_str()).map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))
}

#[cfg(test)]
mod tests;
