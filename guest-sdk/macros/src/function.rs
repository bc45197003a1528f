//! `#[transform]` on a function: the parameters declare, and a struct of the function's name holds what they stand for.

use crate::arguments::{Arguments, OutputArguments};
use crate::declaration::{Declaration, Kind, kind, last_name};
use crate::glue::{self, Calls};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{FnArg, ItemFn, Pat, Result, Type};

pub(crate) fn expand(arguments: &Arguments, mut function: ItemFn) -> Result<TokenStream> {
    if !function.sig.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(&function.sig.generics, "a plugin has no type parameters"));
    }
    let mut declarations = Vec::new();
    let mut passed = Vec::new();
    for parameter in &mut function.sig.inputs {
        let FnArg::Typed(parameter) = parameter else {
            return Err(syn::Error::new_spanned(
                parameter,
                "a transform with `self` is a struct that implements `Transform`",
            ));
        };
        let Type::Reference(reference) = &*parameter.ty else {
            passed.push(quote!(record));
            continue;
        };
        let r#type = (*reference.elem).clone();
        let Pat::Ident(name) = &*parameter.pat else {
            return Err(syn::Error::new_spanned(&parameter.pat, "give the parameter a name"));
        };
        let field = name.ident.clone();
        let declared = kind(&mut parameter.attrs, &r#type)?;
        let kind = match declared {
            _ if reference.mutability.is_none() => Kind::Config,
            Some(Kind::Output(arguments)) => Kind::Output(arguments),
            Some(Kind::Store(arguments, types)) => Kind::Store(arguments, types),
            None if last_name(&r#type).is_some_and(|name| name == "Output") => {
                let main = field == "out" || field == "output";
                Kind::Output(OutputArguments { name: main.then(|| "main".into()), ..OutputArguments::default() })
            }
            _ => {
                let message = "expected `&mut Output`, or `#[store(schema = 1)]` before `&mut Value<K, V>` or `&mut Map<K, U, V>`";
                return Err(syn::Error::new_spanned(&parameter.ty, message));
            }
        };
        passed.push(if matches!(kind, Kind::Config) { quote!(&self.#field) } else { quote!(&mut self.#field) });
        declarations.push(Declaration { field, r#type, kind });
    }
    let name = &function.sig.ident;
    let calls =
        Calls { opened: TokenStream::new(), prefetch: TokenStream::new(), process: quote!(#name(#(#passed),*)) };
    let glue = glue::expand(name, arguments, &declarations, &calls)?;
    let fields = declarations.iter().map(|Declaration { field, r#type, .. }| quote!(#field: #r#type));
    let documentation = format!("What the transform `{name}` works with, for its tests.");
    Ok(quote! {
        #function

        #[doc = #documentation]
        #[allow(non_camel_case_types, reason = "the function's name")]
        pub struct #name {
            #(#fields),*
        }

        #glue
    })
}
