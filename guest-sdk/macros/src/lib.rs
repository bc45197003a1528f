//! The attribute of `sluicegate-sdk`: `#[transform]` on a function or a struct makes a plugin of the crate.
//!
//! Reads declarations ([`declaration`]), writes the manifest ([`manifest`]) and the glue ([`glue`]). Decides nothing about how
//! records are processed: that is the SDK's runtime.

mod arguments;
mod declaration;
mod function;
mod glue;
mod manifest;
mod structure;

use arguments::Arguments;
use proc_macro::TokenStream;
use syn::{Item, parse_macro_input};

/// Makes a plugin of a function or a struct. One per crate.
///
/// On a **function** of one record, the parameters say by their types what it has: `&Config` (any type with
/// `Deserialize`; left out: no configuration), `Record`, `&mut Output` (called `out` or `output`: the output `main`; any other
/// name: the output of that name), and with `#[store(..)]` `&mut Value<K, V>` or `&mut Map<K, U, V>`.
///
/// On a **struct** that implements `Transform`, the fields do: `#[config]`, `#[output]`, `#[store(..)]`. A field without an
/// attribute is made by `Default` and lasts as long as the instance, which the host may replace after any commit.
///
/// - `#[transform(inputs = ["orders", "payments"], wants = ["clocks"])]`: several inputs; grants it cannot work without.
/// - `#[transform(migrates)]`, on a struct: it implements `Migrate`, which converts the state of other schema versions.
/// - `#[output(name = "late", optional, description = "..")]`: another name than the field's; need not be bound. On a field of
///   type `Outputs`: the outputs that the pipeline binds, whatever their names.
/// - `#[store(schema = 1, name = "..", entries = 131072, dirty = 131072, prefetch = false, description = "..")]`: the version
///   of the encoding of its values, which rises when their type changes; entries kept in the guest and changed ones held
///   back; whether the keys of the batch's records are fetched ahead, on unless they are no keys of the store.
#[proc_macro_attribute]
pub fn transform(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = parse_macro_input!(arguments as Arguments);
    let expanded = match parse_macro_input!(item as Item) {
        Item::Fn(function) => function::expand(&arguments, function),
        Item::Struct(structure) => structure::expand(&arguments, structure),
        other => Err(syn::Error::new_spanned(other, "`#[transform]` goes on a function or a struct")),
    };
    expanded.unwrap_or_else(syn::Error::into_compile_error).into()
}
