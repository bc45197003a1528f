//! What `wit-bindgen` makes of the `transform` world: for plugins that need the interface itself. Wasm only.
//!
//! Most plugins never look in here; [`crate::transform`] uses it for them.

#![allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated")]

wit_bindgen::generate!({
    path: "../wit",
    world: "transform",
    pub_export_macro: true,
    default_bindings_module: "sluicegate_sdk::bindings",
    runtime_path: "::sluicegate_sdk::__private::rt",
    generate_all,
});
