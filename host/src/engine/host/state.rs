//! `state`: the stores of the task and transform. Keys and values are read in the guest's memory and copied once, into
//! the store; answers are built in one buffer that every call uses again.

use std::sync::Arc;

use wasmtime::component::{Linker, Resource, ResourceType, WasmList, WasmStr};
use wasmtime::{AsContext, StoreContextMut};

use crate::engine::abi::{ColumnIn, ColumnOut, PageOut, reuse};
use crate::engine::error::Misuse;
use crate::engine::guest::{Guest, Phase, StoreHandle};
use crate::engine::interface::STATE;
use crate::record::{NULL, ShapeError};
use crate::state::{ENTRY_BYTES_MAX, ENTRY_OVERHEAD_BYTES, Store as KeyedStore};

/// Bytes of one page of a scan; a page holds at least one entry.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Entries of one page of a scan.
const PAGE_ENTRIES_MAX: usize = 65_536;

type Store<'a> = StoreContextMut<'a, Guest>;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut state = linker.instance(STATE)?;
    state.resource("store", ResourceType::host::<StoreHandle>(), |_, _| Ok(()))?;
    state.func_wrap("[constructor]store", |store: Store<'_>, (name,): (WasmStr,)| Ok((open(&store, &name)?,)))?;
    state.func_wrap(
        "[method]store.get",
        |mut store: Store<'_>, (handle, keys): (Resource<StoreHandle>, ColumnIn)| {
            Ok((get(&mut store, &handle, &keys)?,))
        },
    )?;
    state.func_wrap(
        "[method]store.put",
        |mut store: Store<'_>, (handle, keys, values): (Resource<StoreHandle>, ColumnIn, ColumnIn)| {
            put(&mut store, &handle, &keys, &values)
        },
    )?;
    state.func_wrap(
        "[method]store.scan",
        |mut store: Store<'_>,
         (handle, prefix, after, limit): (Resource<StoreHandle>, WasmList<u8>, Option<WasmList<u8>>, u32)| {
            Ok((scan(&mut store, &handle, &prefix, after.as_ref(), limit)?,))
        },
    )
}

fn open(store: &Store<'_>, name: &WasmStr) -> wasmtime::Result<Resource<StoreHandle>> {
    let name = name.to_str(store)?;
    match store.data().stores.iter().position(|declared| *declared == name) {
        Some(number) => Ok(Resource::new_own(u32::try_from(number)?)),
        None => Err(Misuse::UndeclaredStore { name: name.into_owned() }.into()),
    }
}

fn get(store: &mut Store<'_>, handle: &Resource<StoreHandle>, keys: &ColumnIn) -> wasmtime::Result<Arc<ColumnOut>> {
    expect_state(store, "store.get")?;
    let mut reply = std::mem::take(&mut store.data_mut().reply);
    let filled = fill(store, number(handle), keys, reuse(&mut reply));
    store.data_mut().reply = Arc::clone(&reply);
    filled?;
    Ok(reply)
}

fn fill(store: &Store<'_>, number: usize, keys: &ColumnIn, reply: &mut ColumnOut) -> Result<(), Misuse> {
    let guest = store.data();
    let keyed = expect_store(&guest.state.stores, &guest.stores, number)?;
    let lengths = keys.lengths.as_le_slice(store);
    let mut keys = Reader { column: "keys", bytes: keys.bytes.as_le_slice(store), lengths };
    reply.lengths.reserve(lengths.len());
    for index in 0..lengths.len() {
        let key = keys.entry(index)?.ok_or_else(|| null_key(&guest.stores, number, index))?;
        let value = keyed.get(key);
        if let Some(value) = value {
            // The answer has to fit into the guest anyway; a long value asked for often would fill the host instead.
            if (reply.bytes.len() + value.len()) as u64 > guest.limits.memory_bytes {
                return Err(Misuse::ReplyLimit { function: "store.get", limit: guest.limits.memory_bytes });
            }
            reply.bytes.extend_from_slice(value);
        }
        reply.lengths.push(value.map_or(NULL, |value| i32::try_from(value.len()).unwrap_or(i32::MAX)));
    }
    keys.end()
}

fn put(
    store: &mut Store<'_>,
    handle: &Resource<StoreHandle>,
    keys: &ColumnIn,
    values: &ColumnIn,
) -> wasmtime::Result<()> {
    expect_state(store, "store.put")?;
    // Taken out, because the guest's memory and what belongs to the store are borrowed together.
    let mut stores = std::mem::take(&mut store.data_mut().state.stores);
    let written = write(store, &mut stores, number(handle), keys, values);
    store.data_mut().state.stores = stores;
    Ok(written?)
}

fn write(
    store: &Store<'_>,
    stores: &mut [KeyedStore],
    number: usize,
    keys: &ColumnIn,
    values: &ColumnIn,
) -> Result<(), Misuse> {
    let guest = store.data();
    let Some(keyed) = stores.get_mut(number) else { return Err(undeclared(&guest.stores, number)) };
    let count = keys.lengths.len();
    if values.lengths.len() != count {
        let found = values.lengths.len();
        return Err(ShapeError::Count { column: "values", found, expected: count }.into());
    }
    let mut keys =
        Reader { column: "keys", bytes: keys.bytes.as_le_slice(store), lengths: keys.lengths.as_le_slice(store) };
    let mut values =
        Reader { column: "values", bytes: values.bytes.as_le_slice(store), lengths: values.lengths.as_le_slice(store) };
    for index in 0..count {
        let key = keys.entry(index)?.ok_or_else(|| null_key(&guest.stores, number, index))?;
        let value = values.entry(index)?;
        let bytes = key.len() + value.map_or(0, <[u8]>::len);
        if bytes > ENTRY_BYTES_MAX {
            return Err(Misuse::EntryLimit { store: name(&guest.stores, number), bytes });
        }
        keyed.put(key, value);
    }
    keys.end()?;
    values.end()?;
    let limit = guest.limits.state_bytes;
    let used = |store: &KeyedStore| store.bytes() + ENTRY_OVERHEAD_BYTES * store.len() as u64;
    if stores.iter().map(used).sum::<u64>() > limit {
        return Err(Misuse::StateLimit { limit });
    }
    Ok(())
}

fn scan(
    store: &mut Store<'_>,
    handle: &Resource<StoreHandle>,
    prefix: &WasmList<u8>,
    after: Option<&WasmList<u8>>,
    limit: u32,
) -> wasmtime::Result<PageOut> {
    expect_state(store, "store.scan")?;
    let number = number(handle);
    let mut stores = std::mem::take(&mut store.data_mut().state.stores);
    let page = stores.get_mut(number).map(|keyed| {
        let prefix = prefix.as_le_slice(store.as_context());
        let after = after.map(|after| after.as_le_slice(store.as_context()));
        keyed.scan(prefix, after, (limit as usize).min(PAGE_ENTRIES_MAX), PAGE_BYTES_MAX)
    });
    store.data_mut().state.stores = stores;
    let page = page.ok_or_else(|| undeclared(&store.data().stores, number))?;
    Ok(PageOut { keys: page.keys.into(), values: page.values.into(), more: page.more })
}

fn number(handle: &Resource<StoreHandle>) -> usize {
    handle.rep() as usize
}

fn expect_state(store: &Store<'_>, function: &'static str) -> Result<(), Misuse> {
    match store.data().phase {
        Phase::Process | Phase::Flush => Ok(()),
        Phase::Open | Phase::Migrate => Err(Misuse::StateOutside { function }),
    }
}

fn expect_store<'a>(stores: &'a [KeyedStore], names: &[String], number: usize) -> Result<&'a KeyedStore, Misuse> {
    stores.get(number).ok_or_else(|| undeclared(names, number))
}

/// Cannot happen while the caller hands over the state that belongs to the manifest; better than a panic if it does.
fn undeclared(names: &[String], number: usize) -> Misuse {
    Misuse::UndeclaredStore { name: name(names, number) }
}

fn null_key(names: &[String], number: usize, index: usize) -> Misuse {
    Misuse::NullKey { store: name(names, number), index }
}

fn name(names: &[String], number: usize) -> String {
    names.get(number).cloned().unwrap_or_default()
}

/// Reads a guest's column once, from front to back, trusting nothing.
struct Reader<'a> {
    column: &'static str,
    bytes: &'a [u8],
    lengths: &'a [i32],
}

impl<'a> Reader<'a> {
    #[inline]
    fn entry(&mut self, index: usize) -> Result<Option<&'a [u8]>, ShapeError> {
        let length = self.lengths[index];
        match usize::try_from(length) {
            Ok(wanted) => match self.bytes.split_at_checked(wanted) {
                Some((entry, rest)) => {
                    self.bytes = rest;
                    Ok(Some(entry))
                }
                None => Err(self.bad_sum(index)),
            },
            Err(_) if length == NULL => Ok(None),
            Err(_) => Err(ShapeError::Length { column: self.column, index, length }),
        }
    }

    fn end(&self) -> Result<(), Misuse> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.bad_sum(self.lengths.len()).into()) }
    }

    /// `index` is the entry that does not fit, or the number of entries when bytes are left.
    fn bad_sum(&self, index: usize) -> ShapeError {
        let sum = |lengths: &[i32]| lengths.iter().map(|&length| u64::from(length.max(0).unsigned_abs())).sum::<u64>();
        let read = sum(&self.lengths[..index]);
        ShapeError::Sum {
            column: self.column,
            sum: sum(self.lengths),
            bytes: usize::try_from(read).unwrap_or(usize::MAX).saturating_add(self.bytes.len()),
        }
    }
}
