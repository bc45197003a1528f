//! The code that makes a plugin of a type: the SDK's `Plugin`, the manifest's section and the exports.

use crate::arguments::Arguments;
use crate::declaration::{Declaration, Kind};
use crate::manifest;
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Ident, Result};

/// What differs between functions and structs: what happens after the fields are made, and with a record.
pub(crate) struct Calls {
    pub(crate) opened: TokenStream,
    pub(crate) prefetch: TokenStream,
    pub(crate) process: TokenStream,
}

/// Everything but the type itself.
pub(crate) fn expand(
    r#type: &Ident,
    arguments: &Arguments,
    declarations: &[Declaration],
    calls: &Calls,
) -> Result<TokenStream> {
    let plugin = plugin(r#type, declarations, calls)?;
    let parts = manifest::parts(arguments, declarations);
    let exports = exports(r#type);
    let migration = if arguments.migrates { migration(r#type) } else { TokenStream::new() };
    Ok(quote! {
        #[allow(unsafe_code, reason = "the exports of a component are raw functions")]
        const _: () = {
            use ::sluicegate_sdk::__private as sdk;

            const PARTS: &[&str] = &[#(#parts),*];
            const MANIFEST: [u8; sdk::manifest::length(PARTS)] = sdk::manifest::join(PARTS);

            #plugin
            #exports
            #migration

            // Outside a component nothing opens a plugin but its tests.
            const _: fn(&str) -> ::std::result::Result<#r#type, ::sluicegate_sdk::Unfit> = <#r#type as sdk::Plugin>::open;
        };
    })
}

fn plugin(r#type: &Ident, declarations: &[Declaration], calls: &Calls) -> Result<TokenStream> {
    let Calls { opened, prefetch, process } = calls;
    let mut config = quote!(::sluicegate_sdk::__private::NoConfig);
    let mut makes = Vec::new();
    let mut store_id = 0_u32;
    for declaration in declarations {
        let Declaration { field, r#type, kind } = declaration;
        let name = declaration.name();
        makes.push(match kind {
            Kind::Config => {
                config = quote!(#r#type);
                quote!(#field: __config)
            }
            Kind::Output(_) => quote!(#field: sdk::Output::open(#name)),
            Kind::Outputs | Kind::Memory => quote!(#field: ::std::default::Default::default()),
            Kind::Store(arguments, _) => {
                store_id += 1;
                let (entries_max, dirty_max, prefetch) =
                    (arguments.entries_max, arguments.dirty_max, arguments.prefetch);
                quote!(#field: <#r#type>::open(sdk::StoreOptions {
                    name: #name,
                    id: #store_id,
                    entries_max: #entries_max,
                    dirty_max: #dirty_max,
                    prefetch: #prefetch,
                }))
            }
        });
    }
    if let Some(second) = declarations.iter().filter(|declaration| matches!(declaration.kind, Kind::Config)).nth(1) {
        return Err(syn::Error::new_spanned(&second.field, "there is one configuration"));
    }
    let (parts, part_types): (Vec<_>, Vec<_>) =
        declarations.iter().filter(|declaration| declaration.is_part()).map(|part| (&part.field, &part.r#type)).unzip();
    Ok(quote! {
        impl sdk::Plugin for #r#type {
            const MANIFEST: &'static str = sdk::manifest::text(&MANIFEST);
            const PREFETCHES: bool = false #(|| <#part_types as sdk::Part>::PREFETCHES)*;

            fn open(config: &str) -> ::std::result::Result<Self, ::sluicegate_sdk::Unfit> {
                #[allow(unused_variables, reason = "a plugin need not have a configuration")]
                let __config: #config = sdk::parse_config(config)?;
                #[allow(unused_mut)]
                let mut this = Self { #(#makes),* };
                #opened
                ::std::result::Result::Ok(this)
            }

            #[inline(always)]
            fn visit<V: sdk::Visit>(&mut self, visit: &mut V) -> ::sluicegate_sdk::Outcome {
                #(sdk::Visit::part(visit, &mut self.#parts)?;)*
                let _ = visit;
                ::std::result::Result::Ok(())
            }

            #[inline(always)]
            fn prefetch(&self, record: ::sluicegate_sdk::Record<'_>, want: &mut ::sluicegate_sdk::Want) {
                let _ = (&record, &want);
                #prefetch
            }

            #[inline(always)]
            fn process(&mut self, record: ::sluicegate_sdk::Record<'_>) -> ::sluicegate_sdk::Outcome {
                #process
            }
        }
    })
}

fn exports(r#type: &Ident) -> TokenStream {
    quote! {
        #[cfg(target_family = "wasm")]
        #[used]
        #[unsafe(link_section = "sluicegate:manifest")]
        static SECTION: [u8; sdk::manifest::length(PARTS)] = MANIFEST;

        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::sluicegate_sdk::bindings::exports::sluicegate::transform::processor;
            use ::sluicegate_sdk::bindings::sluicegate::transform::{input, types};

            ::std::thread_local! {
                static INSTANCE: sdk::Instance<#r#type> = const { sdk::Instance::new() };
            }

            struct Component;

            impl processor::Guest for Component {
                fn open(config: ::std::string::String) -> ::std::result::Result<(), processor::Unfit> {
                    INSTANCE.with(|instance| instance.open(&config))
                }

                fn process(batch: &input::Batch) -> ::std::result::Result<(), types::Failure> {
                    INSTANCE.with(|instance| instance.process(batch))
                }

                fn flush() -> ::std::result::Result<(), types::Failure> {
                    INSTANCE.with(|instance| instance.flush())
                }
            }

            ::sluicegate_sdk::bindings::export!(Component with_types_in ::sluicegate_sdk::bindings);
        };
    }
}

/// The export of a plugin that converts state.
fn migration(r#type: &Ident) -> TokenStream {
    quote! {
        // Also where nothing is exported: whoever says that it migrates has to say how.
        const _: fn(&str, u32, u32) -> ::std::option::Option<::sluicegate_sdk::Step> =
            <#r#type as ::sluicegate_sdk::Migrate>::step;

        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::sluicegate_sdk::bindings::sluicegate::transform::types::Column;
            use ::sluicegate_sdk::migrating::{self, bindings};
            use bindings::exports::sluicegate::transform::migration;

            struct Migration;

            impl migration::Guest for Migration {
                fn migrate(
                    store: ::std::string::String,
                    from_version: u32,
                    to_version: u32,
                    keys: Column,
                    values: Column,
                ) -> ::std::result::Result<Column, migration::Stuck> {
                    migrating::migrate::<#r#type>(&store, from_version, to_version, &keys, &values)
                }
            }

            bindings::export!(Migration with_types_in bindings);
        };
    }
}
