//! Sends each record to the output that a header or a JSON field names.
//!
//! `routes` maps contents to outputs, which the pipeline binds to sinks. What matches no route goes to `main`, or is
//! rejected or dropped, as `otherwise` says. Records are passed on as they are.

use serde_json::Value as Json;
use sluicegate_sdk::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    by: By,
    routes: BTreeMap<String, String>,
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    /// Name of a header.
    Header(String),
    /// JSON pointer into the value, like `/order/country`.
    Field(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Otherwise {
    #[default]
    Main,
    Reject,
    Drop,
}

#[transform]
struct Route {
    #[config]
    config: Config,
    #[output(description = "what matches no route")]
    main: Output,
    #[output]
    routed: Outputs,
}

impl Transform for Route {
    fn open(&mut self) -> Result<(), Unfit> {
        if let By::Field(pointer) = &self.config.by
            && !pointer.starts_with('/')
        {
            return Err(Unfit::config("by.field", format!("`{pointer}` is no JSON pointer: write `/order/country`")));
        }
        self.config.routes.values().filter(|output| *output != "main").try_for_each(|output| self.routed.open(output))
    }

    fn process(&mut self, record: Record) -> Outcome {
        let found = self.config.by.contents(record)?;
        match found.as_deref().and_then(|contents| self.config.routes.get(contents)) {
            Some(output) if output == "main" => self.main.send(record),
            Some(output) => self.routed.get(output)?.send(record),
            None => match self.config.otherwise {
                Otherwise::Main => self.main.send(record),
                Otherwise::Drop => Ok(()),
                Otherwise::Reject => Err(reject(format!("no route for `{}`", found.as_deref().unwrap_or_default()))),
            },
        }
    }
}

impl By {
    /// What the record says; `None`: nothing.
    fn contents<'a>(&self, record: Record<'a>) -> Result<Option<Cow<'a, str>>, sluicegate_sdk::Failure> {
        match self {
            Self::Header(name) => Ok(record.header(name).map(std::str::from_utf8).transpose()?.map(Cow::Borrowed)),
            Self::Field(_) if record.value().is_none() => Ok(None),
            Self::Field(pointer) => Ok(match record.json::<Json>()?.pointer(pointer) {
                None | Some(Json::Null) => None,
                Some(Json::String(text)) => Some(Cow::Owned(text.clone())),
                Some(other) => Some(Cow::Owned(other.to_string())),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluicegate_sdk::testing::{TestHost, record, tombstone};

    #[test]
    fn a_header_names_the_output() {
        let mut host =
            TestHost::<Route>::new(json!({ "by": { "header": "to" }, "routes": { "x": "left", "y": "right" } }));
        let sent = ["x", "y", "z"].map(|to| record("k", to).header("to", to));
        let done = host.process(sent);
        assert_eq!((done.values("left"), done.values("right")), (vec!["x".into()], vec!["y".into()]));
        assert_eq!(done.values("main"), ["z"]);
    }

    #[test]
    fn a_field_names_the_output() {
        let mut host = TestHost::<Route>::new(
            json!({ "by": { "field": "/a/b" }, "routes": { "7": "seven" }, "otherwise": "drop" }),
        );
        let done = host.process([record("k", r#"{"a":{"b":7}}"#), record("k", "{}"), tombstone("k")]);
        assert_eq!(done.output("seven").len(), 1);
        assert!(done.output("main").is_empty());
    }

    #[test]
    fn what_has_no_route_can_be_rejected() {
        let mut host = TestHost::<Route>::new(json!({ "by": { "header": "to" }, "routes": {}, "otherwise": "reject" }));
        assert_eq!(host.process([record("k", "v").header("to", "q")]).rejects()[0].1, "no route for `q`");
    }

    #[test]
    fn a_pointer_that_is_none_is_refused() {
        let unfit =
            TestHost::<Route>::try_new(json!({ "by": { "field": "a" }, "routes": {} })).err().expect("it is refused");
        assert!(unfit.to_string().starts_with("configuration: by.field: "), "{unfit}");
    }
}
