//! `#[transform]` on a struct: the fields declare.

use crate::arguments::Arguments;
use crate::declaration::{Declaration, Kind, kind};
use crate::glue::{self, Calls};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Fields, ItemStruct, Result};

pub(crate) fn expand(arguments: &Arguments, mut structure: ItemStruct) -> Result<TokenStream> {
    if !structure.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(&structure.generics, "a plugin has no type parameters"));
    }
    let mut declarations = Vec::new();
    match &mut structure.fields {
        Fields::Named(fields) => {
            for field in &mut fields.named {
                let kind = kind(&mut field.attrs, &field.ty)?.unwrap_or(Kind::Memory);
                let name = field.ident.clone().expect("named fields have names");
                declarations.push(Declaration { field: name, r#type: field.ty.clone(), kind });
            }
        }
        Fields::Unit => {}
        Fields::Unnamed(fields) => {
            return Err(syn::Error::new_spanned(fields, "give the fields names: they name outputs and stores"));
        }
    }
    if matches!(structure.fields, Fields::Unit) {
        structure.fields = Fields::Named(syn::parse_quote!({}));
        structure.semi_token = None;
    }
    let calls = Calls {
        opened: quote!(::sluicegate_sdk::Transform::open(&mut this)?;),
        prefetch: quote!(::sluicegate_sdk::Transform::prefetch(self, record, want);),
        process: quote!(::sluicegate_sdk::Transform::process(self, record)),
    };
    let glue = glue::expand(&structure.ident, arguments, &declarations, &calls)?;
    Ok(quote!(#structure #glue))
}
