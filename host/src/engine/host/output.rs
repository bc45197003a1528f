//! `output`: outlets, emitted records, rejected records.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType, WasmStr};

use crate::engine::abi::RecordsIn;
use crate::engine::error::Misuse;
use crate::engine::guest::{Guest, OutletHandle, Phase};
use crate::engine::interface::OUTPUT;

type Store<'a> = StoreContextMut<'a, Guest>;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut output = linker.instance(OUTPUT)?;
    output.resource("outlet", ResourceType::host::<OutletHandle>(), |_, _| Ok(()))?;
    output.func_wrap("[constructor]outlet", |store: Store<'_>, (name,): (WasmStr,)| Ok((outlet(&store, &name)?,)))?;
    output.func_wrap(
        "[method]outlet.emit",
        |mut store: Store<'_>, (outlet, records): (Resource<OutletHandle>, RecordsIn)| {
            emit(&mut store, &outlet, &records)
        },
    )?;
    output
        .func_wrap("reject", |mut store: Store<'_>, (index, reason): (u32, WasmStr)| reject(&mut store, index, &reason))
}

fn outlet(store: &Store<'_>, name: &WasmStr) -> wasmtime::Result<Resource<OutletHandle>> {
    let name = name.to_str(store)?;
    match store.data().outlets.iter().position(|outlet| *outlet == name) {
        Some(number) => Ok(Resource::new_own(u32::try_from(number)?)),
        None => Err(Misuse::UnknownOutlet { name: name.into_owned() }.into()),
    }
}

fn emit(store: &mut Store<'_>, outlet: &Resource<OutletHandle>, records: &RecordsIn) -> wasmtime::Result<()> {
    expect_process(store, "outlet.emit")?;
    // Taken out, because the guest's memory and what belongs to the store are borrowed together.
    let mut emitter = std::mem::take(&mut store.data_mut().emitter);
    let emitted = emitter.emit(store, outlet.rep(), records);
    store.data_mut().emitter = emitter;
    Ok(emitted?)
}

fn reject(store: &mut Store<'_>, index: u32, reason: &WasmStr) -> wasmtime::Result<()> {
    expect_process(store, "reject")?;
    let count = u32::try_from(store.data().input.count())?;
    if index >= count {
        return Err(Misuse::RejectedIndex { index, count }.into());
    }
    let reason = reason.to_str(&*store)?.into_owned();
    Ok(store.data_mut().emitter.reject(index, &reason)?)
}

fn expect_process(store: &Store<'_>, function: &'static str) -> Result<(), Misuse> {
    if store.data().phase == Phase::Process { Ok(()) } else { Err(Misuse::OutsideProcess { function }) }
}
