//! What a plugin declares, whether by the fields of a struct or the parameters of a function.

use crate::arguments::{OutputArguments, StoreArguments};
use syn::{Attribute, GenericArgument, Ident, PathArguments, Result, Type};

/// One thing a plugin has.
pub(crate) struct Declaration {
    /// The field that holds it.
    pub(crate) field: Ident,
    pub(crate) r#type: Type,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Config,
    Output(OutputArguments),
    /// Whatever the pipeline binds.
    Outputs,
    Store(Box<StoreArguments>, StoreTypes),
    /// Made by `Default`.
    Memory,
}

/// The types of a store's keys and values, as written.
pub(crate) struct StoreTypes {
    /// One for `Value`, two for `Map`.
    pub(crate) keys: Vec<Type>,
    pub(crate) value: Box<Type>,
}

impl Declaration {
    /// The name by which a pipeline and the host know it.
    pub(crate) fn name(&self) -> String {
        let given = match &self.kind {
            Kind::Output(arguments) => arguments.name.clone(),
            Kind::Store(arguments, _) => arguments.name.clone(),
            Kind::Config | Kind::Outputs | Kind::Memory => None,
        };
        given.unwrap_or_else(|| self.field.to_string())
    }

    /// Whether it takes part in the life of a batch.
    pub(crate) fn is_part(&self) -> bool {
        matches!(self.kind, Kind::Output(_) | Kind::Outputs | Kind::Store(..))
    }
}

/// Takes the one attribute that declares something out of `attributes`. `None`: there is none.
pub(crate) fn kind(attributes: &mut Vec<Attribute>, r#type: &Type) -> Result<Option<Kind>> {
    let ours = |attribute: &Attribute| ["config", "output", "store"].iter().any(|name| attribute.path().is_ident(name));
    let Some(at) = attributes.iter().position(ours) else {
        return Ok(None);
    };
    let attribute = attributes.remove(at);
    if let Some(second) = attributes.iter().find(|attribute| ours(attribute)) {
        return Err(syn::Error::new_spanned(second, "one of `config`, `output` and `store` is enough"));
    }
    let kind = if attribute.path().is_ident("config") {
        Kind::Config
    } else if attribute.path().is_ident("store") {
        Kind::Store(Box::new(StoreArguments::parse(&attribute)?), store_types(r#type)?)
    } else if last_name(r#type).is_some_and(|name| name == "Outputs") {
        Kind::Outputs
    } else {
        Kind::Output(OutputArguments::parse(&attribute)?)
    };
    Ok(Some(kind))
}

/// The last segment of a type's path.
pub(crate) fn last_name(r#type: &Type) -> Option<&Ident> {
    match r#type {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }
}

fn store_types(r#type: &Type) -> Result<StoreTypes> {
    let wrong = || syn::Error::new_spanned(r#type, "a store is a `Value<K, V>` or a `Map<K, U, V>`, written out");
    let Type::Path(path) = r#type else {
        return Err(wrong());
    };
    let segment = path.path.segments.last().ok_or_else(wrong)?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return Err(wrong());
    };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(r#type) => Some(r#type.clone()),
        _ => None,
    });
    let mut keys: Vec<Type> = types.collect();
    let value = keys.pop().ok_or_else(wrong)?;
    match (segment.ident.to_string().as_str(), keys.len()) {
        ("Value", 1) | ("Map", 2) => Ok(StoreTypes { keys, value: Box::new(value) }),
        _ => Err(wrong()),
    }
}
