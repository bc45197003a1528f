//! Errors of the API, as RFC 9457 has them.

use std::collections::BTreeMap;

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder, response};
use utoipa::{IntoResponses, ToSchema};

use crate::cluster::imports::ImportError;
use crate::cluster::registry::RegistryError;
use crate::config::Errors;
use crate::kafka::topics::TopicsError;
use crate::meta::MetaError;
use crate::node::NodeError;

const KIND: &str = "application/problem+json";

/// Which problem it is, for programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Code {
    /// 400: a parameter is missing or wrong.
    InvalidRequest,
    /// 401: the token is missing or another one.
    Unauthorized,
    /// 403: no token is configured, so that nothing can be changed over HTTP.
    NoToken,
    /// 404: no such address.
    NotFound,
    /// 404: no such pipeline.
    UnknownPipeline,
    /// 405: the address takes other methods.
    MethodNotAllowed,
    /// 409: it cannot be done now, or on top of what there is.
    Conflict,
    /// 413: the pipeline file is too large.
    TooLarge,
    /// 421: asked for under a name that need not be this machine's, as by a page in a browser.
    WrongHost,
    /// 422: the pipeline file, or a plugin that it names, is wrong; `errors` has each with its line.
    InvalidPipeline,
    /// 503: a server that is needed does not answer. The same again may work.
    Unavailable,
    /// 500: anything else.
    Internal,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NoToken => StatusCode::FORBIDDEN,
            Self::NotFound | Self::UnknownPipeline => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::WrongHost => StatusCode::MISDIRECTED_REQUEST,
            Self::InvalidPipeline => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// What went wrong, as RFC 9457 has it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// The HTTP status.
    status: u16,
    /// The status in words.
    title: &'static str,
    /// What went wrong and what to do, for people.
    detail: String,
    /// Which problem it is, for programs.
    code: Code,
    /// Everything that is wrong with a pipeline file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FileError>,
}

/// One thing that is wrong with a pipeline file.
#[derive(Debug, Serialize, ToSchema)]
struct FileError {
    /// What.
    message: String,
    /// Where, counted from 1; absent for what concerns the file as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// What to write instead.
    #[serde(skip_serializing_if = "String::is_empty")]
    help: String,
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = code.status();
        let title = status.canonical_reason().unwrap_or_default();
        Self { status: status.as_u16(), title, detail: detail.into(), code, errors: Vec::new() }
    }

    fn of_file(errors: &Errors) -> Self {
        let list = errors.by_line().map(|(diagnostic, line)| FileError {
            message: match diagnostic.label.as_str() {
                "" => diagnostic.message.clone(),
                label => format!("{}: {label}", diagnostic.message),
            },
            line,
            help: diagnostic.help.clone(),
        });
        Self { errors: list.collect(), ..Self::new(Code::InvalidPipeline, errors.to_string()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("a problem has strings and numbers alone");
        let mut response = (self.code.status(), [(header::CONTENT_TYPE, KIND)], body).into_response();
        if self.code == Code::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// That every operation may answer with a problem, for the description.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<response::Response>> {
        let of = |status: &str, what: &str| {
            let content = Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem"))));
            (status.to_owned(), ResponseBuilder::new().description(what).content(KIND, content).build().into())
        };
        BTreeMap::from([
            of("4XX", "What was asked for is wrong, or cannot be done now."),
            of("5XX", "It failed; the same again may work."),
        ])
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        let code = match &error {
            NodeError::Config(errors) => return Self::of_file(errors),
            NodeError::Meta(error) => return meta(error),
            NodeError::TakeBack(error) => not_taken_back(error),
            NodeError::UnknownPipeline { .. } => Code::UnknownPipeline,
            NodeError::Deployed { .. }
            | NodeError::ByItself { .. }
            | NodeError::Incompatible { .. }
            | NodeError::FromBefore(_)
            | NodeError::ChangedMeanwhile { .. }
            | NodeError::Gate(_)
            | NodeError::Refused(_) => Code::Conflict,
            error if error.is_bad_input() => Code::InvalidPipeline,
            NodeError::Topics(TopicsError::TimedOut { .. } | TopicsError::Refused { .. }) => Code::InvalidPipeline,
            NodeError::Topics(_) | NodeError::Kafka(_) => Code::Unavailable,
            NodeError::State(error) if error.is_outage() => Code::Unavailable,
            NodeError::Load(error) if error.is_outage() => Code::Unavailable,
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<MetaError> for Problem {
    fn from(error: MetaError) -> Self {
        meta(&error)
    }
}

fn not_taken_back(error: &ImportError) -> Code {
    match error {
        ImportError::State(error) if !error.is_outage() => Code::Internal,
        ImportError::State(_) | ImportError::Kafka(_) => Code::Unavailable,
        _ => Code::Conflict,
    }
}

fn meta(error: &MetaError) -> Problem {
    let code = if error.is_outage() { Code::Unavailable } else { Code::Internal };
    Problem::new(code, error.to_string())
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Meta(error) => meta(&error),
            error => Self::new(Code::Internal, error.to_string()),
        }
    }
}

macro_rules! invalid_request {
    ($($rejection:ty),*) => {$(
        impl From<$rejection> for Problem {
            fn from(rejection: $rejection) -> Self {
                let code = match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
                    _ => Code::InvalidRequest,
                };
                Self::new(code, rejection.body_text())
            }
        }
    )*};
}

invalid_request!(PathRejection, QueryRejection, BytesRejection);
