//! The manifest of a plugin: JSON in parts, some of which only the compiler of the plugin knows (the formats of keys).

use crate::arguments::Arguments;
use crate::declaration::{Declaration, Kind, StoreTypes};
use proc_macro2::TokenStream;
use quote::{ToTokens, quote};

/// The package version of the interface that the SDK is made for.
const INTERFACE: &str = "0.1.0";

/// Text and expressions that are joined when the plugin is compiled.
#[derive(Default)]
struct Parts {
    text: String,
    tokens: Vec<TokenStream>,
}

impl Parts {
    fn expression(&mut self, tokens: TokenStream) {
        let text = std::mem::take(&mut self.text);
        self.tokens.push(quote!(#text));
        self.tokens.push(tokens);
    }

    fn finish(mut self) -> Vec<TokenStream> {
        let text = self.text;
        self.tokens.push(quote!(#text));
        self.tokens
    }
}

/// Expressions of type `&str` that make up the manifest, one after the other.
pub(crate) fn parts(arguments: &Arguments, declarations: &[Declaration]) -> Vec<TokenStream> {
    // Cargo sets these for the crate that is being compiled.
    let cargo = |variable: &str| std::env::var(variable).unwrap_or_default();
    let mut parts = Parts::default();
    let name = string(&cargo("CARGO_PKG_NAME"));
    let version = string(&cargo("CARGO_PKG_VERSION"));
    let sdk = string(concat!("sluicegate-sdk ", env!("CARGO_PKG_VERSION")));
    parts.text = format!(r#"{{"name":{name},"version":{version},"interface":"{INTERFACE}","sdk":{sdk}"#);
    let description = cargo("CARGO_PKG_DESCRIPTION");
    if !description.is_empty() {
        parts.text += &format!(r#","description":{}"#, string(&description));
    }
    if !arguments.inputs.is_empty() {
        let inputs = arguments.inputs.iter().map(|input| format!(r#"{{"name":{}}}"#, string(input)));
        parts.text += &format!(r#","inputs":[{}]"#, inputs.collect::<Vec<_>>().join(","));
    }
    outputs(&mut parts.text, declarations);
    stores(&mut parts, declarations);
    if !arguments.wants.is_empty() {
        let wants = arguments.wants.iter().map(|want| string(want));
        parts.text += &format!(r#","wants":[{}]"#, wants.collect::<Vec<_>>().join(","));
    }
    parts.text.push('}');
    parts.finish()
}

fn outputs(text: &mut String, declarations: &[Declaration]) {
    let outputs = declarations.iter().filter_map(|declaration| {
        let Kind::Output(arguments) = &declaration.kind else {
            return None;
        };
        let optional = if arguments.optional { r#","optional":true"# } else { "" };
        Some(format!(r#"{{"name":{}{optional}{}}}"#, string(&declaration.name()), described(&arguments.description)))
    });
    let outputs: Vec<_> = outputs.collect();
    if !outputs.is_empty() {
        *text += &format!(r#","outputs":[{}]"#, outputs.join(","));
    }
    if declarations.iter().any(|declaration| matches!(declaration.kind, Kind::Outputs)) {
        *text += r#","dynamic-outputs":true"#;
    }
}

fn stores(parts: &mut Parts, declarations: &[Declaration]) {
    let mut before = r#","stores":["#;
    for declaration in declarations {
        let Kind::Store(arguments, types) = &declaration.kind else {
            continue;
        };
        let (name, schema) = (string(&declaration.name()), arguments.schema);
        parts.text += &format!(r#"{before}{{"name":{name},"schema":{schema},"key-format":""#);
        key_format(parts, types);
        let value = types.value.to_token_stream().to_string().replace(' ', "");
        let value = string(&format!("postcard:{value}"));
        parts.text += &format!(r#"","value-format":{value}{}}}"#, described(&arguments.description));
        before = ",";
    }
    if before == "," {
        parts.text.push(']');
    }
}

fn key_format(parts: &mut Parts, types: &StoreTypes) {
    match types.keys.as_slice() {
        [outer, inner] => {
            parts.text += "map(";
            parts.expression(quote!(<#outer as ::sluicegate_sdk::Key>::FORMAT));
            parts.text.push(',');
            parts.expression(quote!(<#inner as ::sluicegate_sdk::Key>::FORMAT));
            parts.text.push(')');
        }
        keys => {
            for key in keys {
                parts.expression(quote!(<#key as ::sluicegate_sdk::Key>::FORMAT));
            }
        }
    }
}

fn described(description: &Option<String>) -> String {
    description.as_ref().map(|text| format!(r#","description":{}"#, string(text))).unwrap_or_default()
}

/// A JSON string.
fn string(text: &str) -> String {
    let mut json = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            control if control.is_control() => json += &format!("\\u{:04x}", u32::from(control)),
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_json() {
        let text = "a\"\\\n\u{1}é";
        assert_eq!(serde_json::from_str::<String>(&string(text)).unwrap(), text);
    }
}
