//! The arguments of the attributes, read and checked.

use syn::meta::ParseNestedMeta;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{Attribute, ExprArray, Lit, LitBool, LitInt, LitStr, Meta, Result};

/// Arguments of `#[transform(..)]`.
#[derive(Default)]
pub(crate) struct Arguments {
    pub(crate) inputs: Vec<String>,
    pub(crate) wants: Vec<String>,
    pub(crate) migrates: bool,
}

impl Parse for Arguments {
    fn parse(input: ParseStream) -> Result<Self> {
        let mut arguments = Self::default();
        let parser = syn::meta::parser(|meta| {
            if meta.path.is_ident("inputs") {
                arguments.inputs = strings(&meta)?;
            } else if meta.path.is_ident("wants") {
                arguments.wants = strings(&meta)?;
            } else if meta.path.is_ident("migrates") {
                arguments.migrates = true;
            } else {
                return Err(meta.error("expected `inputs`, `wants` or `migrates`"));
            }
            Ok(())
        });
        parser.parse2(input.parse()?)?;
        Ok(arguments)
    }
}

fn strings(meta: &ParseNestedMeta<'_>) -> Result<Vec<String>> {
    let array: ExprArray = meta.value()?.parse()?;
    let strings = array.elems.into_iter().map(|element| match element {
        syn::Expr::Lit(syn::ExprLit { lit: Lit::Str(text), .. }) => Ok(text.value()),
        other => Err(syn::Error::new_spanned(other, "expected a string")),
    });
    strings.collect()
}

/// Arguments of `#[output(..)]`.
#[derive(Default)]
pub(crate) struct OutputArguments {
    pub(crate) name: Option<String>,
    pub(crate) optional: bool,
    pub(crate) description: Option<String>,
}

impl OutputArguments {
    pub(crate) fn parse(attribute: &Attribute) -> Result<Self> {
        let mut arguments = Self::default();
        each(attribute, |meta| {
            if meta.path.is_ident("name") {
                arguments.name = Some(meta.value()?.parse::<LitStr>()?.value());
            } else if meta.path.is_ident("optional") {
                arguments.optional = true;
            } else if meta.path.is_ident("description") {
                arguments.description = Some(meta.value()?.parse::<LitStr>()?.value());
            } else {
                return Err(meta.error("expected `name`, `optional` or `description`"));
            }
            Ok(())
        })?;
        Ok(arguments)
    }
}

/// Entries kept in the guest, and changed ones held back, unless the attribute says otherwise.
const ENTRIES_MAX: usize = 131_072;

/// Arguments of `#[store(..)]`.
pub(crate) struct StoreArguments {
    pub(crate) name: Option<String>,
    pub(crate) schema: u32,
    pub(crate) entries_max: usize,
    pub(crate) dirty_max: usize,
    pub(crate) prefetch: bool,
    pub(crate) description: Option<String>,
}

impl StoreArguments {
    pub(crate) fn parse(attribute: &Attribute) -> Result<Self> {
        let mut schema = None;
        let mut arguments = Self {
            name: None,
            schema: 0,
            entries_max: ENTRIES_MAX,
            dirty_max: ENTRIES_MAX,
            prefetch: true,
            description: None,
        };
        each(attribute, |meta| {
            if meta.path.is_ident("schema") {
                schema = Some(positive::<u32>(&meta)?);
            } else if meta.path.is_ident("name") {
                arguments.name = Some(meta.value()?.parse::<LitStr>()?.value());
            } else if meta.path.is_ident("entries") {
                arguments.entries_max = positive(&meta)?;
            } else if meta.path.is_ident("dirty") {
                arguments.dirty_max = positive(&meta)?;
            } else if meta.path.is_ident("prefetch") {
                arguments.prefetch = meta.value()?.parse::<LitBool>()?.value;
            } else if meta.path.is_ident("description") {
                arguments.description = Some(meta.value()?.parse::<LitStr>()?.value());
            } else {
                return Err(meta.error("expected `schema`, `name`, `entries`, `dirty`, `prefetch` or `description`"));
            }
            Ok(())
        })?;
        let missing =
            || syn::Error::new_spanned(attribute, "say which version the encoding of the values has: `schema = 1`");
        arguments.schema = schema.ok_or_else(missing)?;
        Ok(arguments)
    }
}

fn each(attribute: &Attribute, read: impl FnMut(ParseNestedMeta<'_>) -> Result<()>) -> Result<()> {
    match &attribute.meta {
        Meta::Path(_) => Ok(()),
        _ => attribute.parse_nested_meta(read),
    }
}

fn positive<T: std::str::FromStr<Err: std::fmt::Display> + PartialEq + Default>(
    meta: &ParseNestedMeta<'_>,
) -> Result<T> {
    let literal: LitInt = meta.value()?.parse()?;
    let number: T = literal.base10_parse()?;
    if number == T::default() {
        return Err(syn::Error::new_spanned(literal, "must be at least 1"));
    }
    Ok(number)
}
