//! `input`: the batch, pulled column by column. The handle is borrowed, so it exists in `process` only.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType, WasmStr};

use crate::engine::guest::{BatchHandle, Guest};
use crate::engine::interface::INPUT;

type Store<'a> = StoreContextMut<'a, Guest>;
type Batch = (Resource<BatchHandle>,);

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut input = linker.instance(INPUT)?;
    input.resource("batch", ResourceType::host::<BatchHandle>(), |_, _| Ok(()))?;
    input.func_wrap("[method]batch.count", |store: Store<'_>, _: Batch| {
        Ok((u32::try_from(store.data().input.count())?,))
    })?;
    input.func_wrap("[method]batch.runs", |store: Store<'_>, _: Batch| Ok((store.data().input.runs(),)))?;
    input.func_wrap("[method]batch.offsets", |store: Store<'_>, _: Batch| {
        Ok((Arc::clone(&store.data().input.offsets),))
    })?;
    input.func_wrap("[method]batch.timestamps", |store: Store<'_>, _: Batch| {
        Ok((Arc::clone(&store.data().input.timestamps),))
    })?;
    input.func_wrap("[method]batch.keys", |store: Store<'_>, _: Batch| Ok((Arc::clone(&store.data().input.keys),)))?;
    input.func_wrap("[method]batch.values", |store: Store<'_>, _: Batch| {
        Ok((Arc::clone(&store.data().input.values),))
    })?;
    input.func_wrap("[method]batch.headers", |store: Store<'_>, _: Batch| {
        Ok((Arc::clone(&store.data().input.headers),))
    })?;
    input.func_wrap("[method]batch.header", |store: Store<'_>, (_, name): (Resource<BatchHandle>, WasmStr)| {
        Ok((store.data().input.header(&name.to_str(&store)?),))
    })?;
    input.func_wrap("[method]batch.watermark", |store: Store<'_>, _: Batch| Ok((store.data().input.watermark(),)))
}
