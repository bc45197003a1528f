//! `/api/v1`: what the cluster is and does, and changes of it, as JSON over HTTP.
//!
//! Any node answers for the whole cluster: it reads and writes the same metadata store as the commands do. Whoever wants to change
//! something shows the token of the cluster file; errors are `application/problem+json`. The OpenAPI description is made
//! from these functions, so that it has what is served and nothing else.

mod host;
mod problem;
mod token;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
use super::status::{self, NodeStatus, PipelineStatus, RATES_OVER, Rollouts};
use super::swap::{self, Finding, Rehearsal, Rehearsed};
use crate::cluster::leader::Left;
use crate::cluster::pipelines::{self, Desired, PipelineRecord, Revision};
use crate::cluster::registry::{PluginEntry, Registry};
use crate::cluster::rollout::{Rollout, Strategy};
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
/// How long versions are tried on recorded records: somebody waits for the answer.
const REHEARSAL: Duration = Duration::from_secs(5);
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
        .routes(routes!(list_rollouts))
        .routes(routes!(list_plugins));
    let changes = OpenApiRouter::new()
        .routes(routes!(deploy_pipeline, undeploy_pipeline))
        .routes(routes!(pause_pipeline))
        .routes(routes!(resume_pipeline))
        .routes(routes!(begin_rollout))
        .routes(routes!(call_off_rollout))
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

/// The rollouts of a pipeline: the one under way, and those that have ended and are kept, the oldest first.
#[utoipa::path(get, path = "/pipelines/{pipeline}/rollouts", tag = "pipelines",
    params(("pipeline" = String, Path, description = "Name of the pipeline.")),
    responses((status = 200, body = Rollouts), Problems))]
async fn list_rollouts(State(api): State<Api>, name: Result<InPath<String>, PathRejection>) -> Answer<Rollouts> {
    let name = segment(&name?)?;
    api.known(&name).await?;
    Ok(Json(status::rollouts(&*api.store, &name).await?))
}

/// Calls off the rollout that is under way: its tasks go back to what they ran before.
#[utoipa::path(delete, path = "/pipelines/{pipeline}/rollouts/current", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline.")),
    responses((status = 200, body = Rollout), Problems))]
async fn call_off_rollout(State(api): State<Api>, name: Result<InPath<String>, PathRejection>) -> Answer<Rollout> {
    let name = segment(&name?)?;
    api.known(&name).await?;
    info!(pipeline = %name, "its rollout is to be called off, over http");
    Ok(Json(swap::call_off_current(&*api.store, &name, "called off over http").await?))
}

/// A version that a transform is to go over to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NewRollout {
    /// Name of the transform.
    transform: String,
    /// A plugin of the registry: `name@1.2.3`, `name@1` or `sha256:..`.
    #[schema(example = "mask-json@1.3.0")]
    plugin: String,
    /// Its configuration from now on; the same as before if it is left out.
    #[serde(default)]
    config: Option<serde_json::Value>,
    /// How carefully; what is left out is as with the command.
    #[serde(default)]
    #[schema(value_type = Option<Strategy>)]
    strategy: serde_json::Map<String, serde_json::Value>,
    /// Both versions are tried on so many records of each task first; 0 tries none.
    #[serde(default = "records_tried")]
    records: usize,
    /// Check everything, and begin nothing.
    #[serde(default)]
    dry_run: bool,
}

fn records_tried() -> usize {
    1000
}

/// Refuses what is not known: a limit that is misspelt would be none.
fn strategy(given: serde_json::Map<String, serde_json::Value>) -> Result<Strategy, String> {
    let keys: Vec<String> = given.keys().cloned().collect();
    let strategy: Strategy = serde_json::from_value(given.into()).map_err(|error| error.to_string())?;
    match keys.iter().find(|key| !Strategy::KEYS.contains(&key.as_str())) {
        None => Ok(strategy),
        Some(unknown) => Err(format!("there is no `{unknown}`; there are {}", Strategy::KEYS.join(", "))),
    }
}

/// What was found of a rollout before anything is touched.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct Begun {
    /// Whether it was begun.
    begun: bool,
    /// What was looked at.
    findings: Vec<Finding>,
    /// How both versions did on recorded records, if that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    rehearsed: Option<Rehearsed>,
    /// The rollout.
    rollout: Rollout,
}

/// Lets a transform of a running pipeline go over to another version, as `sluicegate plugin swap` does.
///
/// Answers when it has begun; how it goes on is told by the rollouts of the pipeline. What does not pass the gate is a conflict.
#[utoipa::path(post, path = "/pipelines/{pipeline}/rollouts", tag = "pipelines", security(("token" = [])),
    params(("pipeline" = String, Path, description = "Name of the pipeline.")), request_body = NewRollout,
    responses((status = 200, body = Begun), Problems))]
async fn begin_rollout(
    State(api): State<Api>,
    name: Result<InPath<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Begun> {
    let (name, body) = (segment(&name?)?, body?);
    let wrong = |problem: String| Problem::new(Code::InvalidRequest, problem);
    let new: NewRollout = serde_json::from_slice(&body).map_err(|error| wrong(format!("the body: {error}")))?;
    let reference = new.plugin.parse().map_err(|error| wrong(format!("`plugin`: {error}")))?;
    let strategy = strategy(new.strategy).map_err(|problem| wrong(format!("`strategy`: {problem}")))?;
    if new.config.as_ref().is_some_and(|config| !config.is_object()) {
        return Err(wrong("`config` has to be an object".to_owned()));
    }
    api.known(&name).await?;
    let _turn = api.turn()?;
    let rehearsal = (new.records > 0).then_some(Rehearsal { records: new.records, time: REHEARSAL });
    let request = swap::Request {
        transform: new.transform,
        source: swap::Source::Registry(reference),
        config: new.config,
        strategy,
        rehearsal,
    };
    let swap = swap::check(&api.cluster, Arc::clone(&api.store), &name, request).await?;
    if !new.dry_run {
        swap.begin().await?;
        info!(pipeline = %name, rollout = swap.rollout.number, "rollout begun over http");
    }
    let swap::Swap { findings, rehearsed, rollout, .. } = swap;
    Ok(Json(Begun { begun: !new.dry_run, findings, rehearsed, rollout }))
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
