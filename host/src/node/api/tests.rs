//! What is served is described, changes want the token, and whatever goes wrong is a problem. Against real servers it is tested in
//! the suite.

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::cluster::rollout::{Phase, Rollout};
use crate::config::{ClusterArgs, Secret};
use crate::engine::EngineOptions;
use crate::meta::local::LocalStore;

const OPENAPI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
const TOKEN: &str = "0123456789abcdef";

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    cluster: ClusterArgs,
}

struct Served {
    store: Arc<LocalStore>,
    base: String,
    agent: ureq::Agent,
    _folder: tempfile::TempDir,
}

impl Served {
    async fn new(token: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(folder.path()).await.unwrap());
        // Nobody listens there: what needs Kafka says so.
        let arguments = Arguments::parse_from(["test", "--kafka-bootstrap-servers", "127.0.0.1:1"]);
        let mut cluster = Cluster::parse(Path::new("test"), "", &arguments.cluster).unwrap();
        cluster.http_token = token.map(|token| Secret::new(token.to_owned()));
        let engine = Arc::new(Engine::new(EngineOptions { cache_dir: None }).unwrap());
        let router = router(Api {
            cluster: Arc::new(cluster),
            store: Arc::clone(&store) as Arc<dyn MetaStore>,
            engine,
            on_loopback: true,
            turns: Arc::new(Semaphore::new(TURNS)),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        Self { store, base, agent, _folder: folder }
    }

    /// Status, kind of content, body.
    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String, Value) {
        let mut request = axum::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request.body(body.to_owned()).unwrap();
        let mut response = tokio::task::block_in_place(|| self.agent.run(request)).unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = response.body_mut().read_to_string().unwrap();
        (
            response.status().as_u16(),
            kind,
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")),
        )
    }

    fn problem(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String, String) {
        let (status, kind, problem) = self.ask(method, path, token, body);
        assert_eq!(kind, "application/problem+json", "{method} {path}: {problem}");
        assert_eq!(problem["status"], status);
        let text = |field: &str| problem[field].as_str().unwrap().to_owned();
        (status, text("code"), text("detail"))
    }
}

fn description() -> Value {
    serde_json::to_value(described(Token::new(None)).1).unwrap()
}

/// Method, path with a name filled in, and description of every operation.
fn operations() -> Vec<(String, String, Value)> {
    let document = description();
    let paths = document["paths"].as_object().unwrap().clone();
    let of = |(path, item): (String, Value)| {
        let path = path.replace("{pipeline}", "orders");
        let operations = item.as_object().unwrap().clone();
        operations.into_iter().map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
    };
    paths.into_iter().flat_map(of).collect()
}

#[test]
fn everything_that_the_description_refers_to_is_in_it() {
    let document = description();
    let text = document.to_string();
    let names: Vec<&str> = text.split("#/components/schemas/").skip(1).filter_map(|it| it.split('"').next()).collect();
    assert!(names.contains(&"Problem") && names.contains(&"PipelineStatus"), "{names:?}");
    for name in names {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

/// With `BLESS=1` it is written.
#[test]
fn the_description_in_the_documents_is_what_is_served() {
    let described = serde_json::to_string_pretty(&description()).unwrap() + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(OPENAPI, &described).unwrap();
    }
    // Both are long: what differs shows `git diff` when it is written.
    assert!(
        std::fs::read_to_string(OPENAPI).unwrap() == described,
        "docs/openapi.json is older: BLESS=1 writes it anew"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_served_too() {
    let (status, _, document) = Served::new(None).await.ask("GET", "/api/v1/openapi.json", None, "");
    assert_eq!((status, document), (200, description()));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_something_wants_the_token() {
    let (open, closed) = (Served::new(Some(TOKEN)).await, Served::new(None).await);
    let mut changes = 0;
    for (method, path, operation) in operations() {
        assert_eq!(operation["security"].is_array(), method != "GET", "{method} {path}");
        if method == "GET" {
            continue;
        }
        changes += 1;
        assert_eq!(closed.problem(&method, &path, Some(TOKEN), "").0, 403, "{method} {path}");
        assert_eq!(open.problem(&method, &path, None, "").0, 401, "{method} {path}");
        assert_eq!(open.problem(&method, &path, Some("0123456789abcdeg"), "").0, 401, "{method} {path}");
        let status = open.problem(&method, &path, Some(TOKEN), "").0;
        assert!([400, 404, 422].contains(&status), "{method} {path}: {status}");
    }
    assert!(changes >= 4, "{changes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrong_is_a_problem_that_says_how() {
    let served = Served::new(Some(TOKEN)).await;
    let cases = [
        ("GET", "/api/v1/pipelines/orders", "", 404, "unknown-pipeline", "`orders`"),
        ("GET", "/api/v1/pipelines/orders/revisions", "", 404, "unknown-pipeline", "`orders`"),
        ("GET", "/api/v1/pipelines/orders/rollouts", "", 404, "unknown-pipeline", "`orders`"),
        ("POST", "/api/v1/pipelines/orders/rollouts", "", 400, "invalid-request", "the body: EOF"),
        ("POST", "/api/v1/pipelines/orders/rollouts", SWAP, 404, "unknown-pipeline", "`orders`"),
        ("POST", "/api/v1/pipelines/orders/rollouts", SWAP_OF_A_FILE, 400, "invalid-request", "`plugin`: "),
        ("POST", "/api/v1/pipelines/orders/rollouts", SWAP_MISSPELT, 400, "invalid-request", "no `max-eror-ppm`"),
        ("POST", "/api/v1/pipelines/orders/rollouts", SWAP_WITHOUT_SHADOW, 400, "invalid-request", "say with `shadow`"),
        ("POST", "/api/v1/pipelines/orders/rollouts", SWAP_NEVER_SLOW, 400, "invalid-request", "at least 1"),
        ("POST", "/api/v1/pipelines/orders/rollouts/rollback", "", 400, "invalid-request", "the body: EOF"),
        ("POST", "/api/v1/pipelines/orders/rollouts/rollback", BACK, 404, "unknown-pipeline", "`orders`"),
        ("POST", "/api/v1/pipelines/orders/rollouts/rollback", SWAP, 400, "invalid-request", "unknown field `plugin`"),
        ("POST", "/api/v1/pipelines/orders/rollouts/rollback", BACK_YES, 400, "invalid-request", "`from-copy`"),
        ("POST", "/api/v1/pipelines/orders/rollouts/current/promote", "", 404, "unknown-pipeline", "`orders`"),
        ("POST", "/api/v1/pipelines/orders/pause", "", 404, "unknown-pipeline", "`orders`"),
        ("GET", "/api/v1/pipelines?watch=true", "", 400, "invalid-request", "`watch`"),
        ("GET", "/api/v1/pipelines/a%2Fb", "", 400, "invalid-request", "a/b"),
        ("DELETE", "/api/v1/pipelines/orders", "", 400, "invalid-request", "keep-state"),
        ("GET", "/api/v1/orders", "", 404, "not-found", "openapi.json"),
        ("GET", "/api/v1/", "", 404, "not-found", "openapi.json"),
        ("PATCH", "/api/v1/pipelines", "", 405, "method-not-allowed", "other methods"),
        ("PUT", "/api/v1/pipelines/orders", "name = 3", 422, "invalid-pipeline", "name"),
        ("PUT", "/api/v1/pipelines/orders", PIPELINE, 422, "invalid-pipeline", "`words`"),
        ("PUT", "/api/v1/pipelines/words", PIPELINE, 422, "invalid-pipeline", "a path names a file of the node"),
    ];
    for (method, path, body, status, code, word) in cases {
        let (found, its_code, detail) = served.problem(method, path, Some(TOKEN), body);
        assert_eq!((found, its_code.as_str()), (status, code), "{method} {path}: {detail}");
        assert!(detail.contains(word), "{method} {path}: {detail}");
    }
    let huge = "#".repeat(BODY_BYTES_MAX + 1);
    let (status, code, _) = served.problem("PUT", "/api/v1/pipelines/words", Some(TOKEN), &huge);
    assert_eq!((status, code.as_str()), (413, "too-large"));
}

const SWAP: &str = r#"{"transform": "a", "plugin": "mask@1"}"#;
const SWAP_OF_A_FILE: &str = r#"{"transform": "a", "plugin": "/srv/a.wasm"}"#;
const SWAP_MISSPELT: &str = r#"{"transform": "a", "plugin": "mask@1", "strategy": {"max-eror-ppm": 1}}"#;
const SWAP_WITHOUT_SHADOW: &str = r#"{"transform": "a", "plugin": "mask@1", "strategy": {"max-differences-ppm": 1}}"#;
const SWAP_NEVER_SLOW: &str = r#"{"transform": "a", "plugin": "mask@1", "strategy": {"max-slowdown": 0}}"#;
const BACK: &str = r#"{"transform": "a"}"#;
const BACK_YES: &str = r#"{"transform": "a", "yes": true}"#;
const PIPELINE: &str = r#"
name = "words"
[[source]]
topic = "in"
[[transform]]
name = "a"
plugin = "/srv/a.wasm"
[[sink]]
topic = "out"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_is_told_line_by_line() {
    let served = Served::new(Some(TOKEN)).await;
    let (_, _, problem) = served.ask("PUT", "/api/v1/pipelines/words", Some(TOKEN), "name = 3\nnmae = 4\n[sink]\n");
    let errors = problem["errors"].as_array().unwrap();
    let line_1 = errors.iter().find(|error| error["line"] == 1).unwrap();
    assert!(line_1["message"].is_string() && errors.len() > 2, "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_cluster_has_lists_without_entries() {
    let served = Served::new(None).await;
    for path in ["/api/v1/nodes", "/api/v1/pipelines", "/api/v1/plugins"] {
        assert_eq!(served.ask("GET", path, None, ""), (200, "application/json".into(), Value::Array(Vec::new())));
    }
}

/// A pipeline `orders` in this rollout.
async fn record(served: &Served, rollout: &Rollout) -> Segment {
    let name = Segment::new("orders").unwrap();
    let begin = |_: Option<&PipelineRecord>| {
        let record = PipelineRecord::first(rollout.candidate.clone(), Desired::Running);
        Ok::<_, crate::meta::MetaError>(Some(PipelineRecord { rollout: Some(rollout.clone()), ..record }))
    };
    pipelines::change(&*served.store, &name, begin).await.unwrap();
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_under_way_is_shown_and_called_off_and_one_that_has_ended_is_kept() {
    let served = Served::new(Some(TOKEN)).await;
    let rollout = crate::cluster::rollout::tests::rollout(None);
    let name = record(&served, &rollout).await;

    let path = "/api/v1/pipelines/orders/rollouts";
    let shown = || served.ask("GET", path, None, "").2;
    assert_eq!(shown()["under-way"]["transform"], rollout.transform.as_str());
    assert_eq!(shown()["ended"], Value::Array(Vec::new()));
    let (status, _, off) = served.ask("DELETE", &format!("{path}/current"), Some(TOKEN), "");
    assert_eq!((status, &off["phase"], &off["reason"]), (200, &"return".into(), &"called off over http".into()));
    assert_eq!(shown()["under-way"], off);

    let now = pipelines::read(&*served.store, &name).await.unwrap().unwrap().record.rollout.unwrap();
    pipelines::end_rollout(&*served.store, &name, &now, &now, crate::cluster::rollout::Outcome::Returned)
        .await
        .unwrap();
    assert_eq!((&shown()["under-way"], &shown()["ended"][0]["outcome"]), (&Value::Null, &"returned".into()));
    let (status, code, detail) = served.problem("DELETE", &format!("{path}/current"), Some(TOKEN), "");
    assert_eq!((status, code.as_str()), (409, "conflict"), "{detail}");
    assert!(detail.contains("no rollout of pipeline `orders` is under way"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_of_the_transform_that_is_being_changed_calls_it_off() {
    let served = Served::new(Some(TOKEN)).await;
    let rollout = crate::cluster::rollout::tests::rollout(None);
    record(&served, &rollout).await;
    let path = "/api/v1/pipelines/orders/rollouts/rollback";
    let body = format!(r#"{{"transform": "{}"}}"#, rollout.transform);
    let (status, _, back) = served.ask("POST", path, Some(TOKEN), &body);
    assert_eq!((status, &back["called-off"]["phase"]), (200, &"return".into()), "{back}");
    let (status, code, detail) = served.problem("POST", path, Some(TOKEN), r#"{"transform": "other"}"#);
    assert_eq!((status, code.as_str()), (409, "conflict"), "{detail}");
    assert!(detail.contains("there is nothing to go back to"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_rollout_that_is_held_is_promoted() {
    let (served, path) = (Served::new(Some(TOKEN)).await, "/api/v1/pipelines/orders/rollouts/current/promote");
    let mut rollout = crate::cluster::rollout::tests::rollout(Some("25%"));
    (rollout.phase, rollout.strategy.no_return) = (Phase::Canary, true);
    let name = record(&served, &rollout).await;
    let (status, code, detail) = served.problem("POST", path, Some(TOKEN), "");
    assert_eq!((status, code.as_str()), (409, "conflict"), "{detail}");
    assert!(detail.contains("no rollout of pipeline `orders` is held"), "{detail}");
    let held = |known: Option<&PipelineRecord>| {
        let rollout = Some(Rollout { held: Some("too slow".to_owned()), ..rollout.clone() });
        Ok::<_, crate::meta::MetaError>(known.map(|known| PipelineRecord { rollout, ..known.clone() }))
    };
    pipelines::change(&*served.store, &name, held).await.unwrap();
    let (status, _, promoted) = served.ask("POST", path, Some(TOKEN), "");
    assert_eq!((status, &promoted["phase"]), (200, &"everywhere".into()), "{promoted}");
    assert!(promoted["promoted-by"].is_string(), "{promoted}");
    assert_eq!(served.problem("POST", path, Some(TOKEN), "").0, 409, "it is decided");
}
