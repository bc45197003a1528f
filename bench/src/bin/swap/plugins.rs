//! Versions of plugins: other bytes that do the same, and more code than a small plugin has.

use anyhow::{Context, Result};
use wasm_encoder::{ComponentSection, CustomSection, Encode, Function, ValType};
use wasmparser::BinaryReader;

/// Magic number and version: what stands before the first section, in components and in modules.
const PREAMBLE_BYTES: usize = 8;
/// Numbers of sections: in a component, and in a module.
const CORE_MODULE: u8 = 1;
const TYPES: u8 = 1;
const FUNCTIONS: u8 = 3;
const CODE: u8 = 10;
/// Bytes of an added function, about. That of a function in Rust which is not small.
const FUNCTION_BYTES: usize = 4_000;

/// Another version of a plugin, which does the same: its bytes differ, and so does its digest.
pub(crate) fn version(component: &[u8], name: &str) -> Vec<u8> {
    let mut other = component.to_vec();
    CustomSection { name: "version".into(), data: name.as_bytes().into() }.append_to_component(&mut other);
    other
}

/// A plugin with so many bytes of code more, in its largest module. It is validated, compiled, cached and mapped as the rest of the
/// code is; nothing calls it.
pub(crate) fn with_code(component: &[u8], bytes: usize) -> Result<Vec<u8>> {
    let sections = sections(component).context("read the component")?;
    let modules = sections.iter().filter(|(number, _)| *number == CORE_MODULE);
    let largest = modules.map(|(_, contents)| contents.len()).max().context("the component has a module")?;
    let mut larger = component[..PREAMBLE_BYTES].to_vec();
    for (number, contents) in sections {
        match number == CORE_MODULE && contents.len() == largest {
            true => append(&mut larger, number, &module_with_code(contents, bytes)?),
            false => append(&mut larger, number, contents),
        }
    }
    Ok(larger)
}

fn module_with_code(module: &[u8], bytes: usize) -> Result<Vec<u8>> {
    let functions = functions(bytes);
    let mut larger = module[..PREAMBLE_BYTES].to_vec();
    let mut new_type = 0;
    for (number, contents) in sections(module).context("read the module")? {
        let mut reader = BinaryReader::new(contents, 0);
        let mut section = Vec::new();
        // A number of entries, and the entries.
        match number {
            TYPES => {
                new_type = reader.read_var_u32()?;
                (new_type + 1).encode(&mut section);
                section.extend_from_slice(&contents[reader.original_position()..]);
                // Takes a number and returns one.
                section.push(0x60);
                [ValType::I32].encode(&mut section);
                [ValType::I32].encode(&mut section);
            }
            FUNCTIONS | CODE => {
                (reader.read_var_u32()? + u32::try_from(functions.len())?).encode(&mut section);
                section.extend_from_slice(&contents[reader.original_position()..]);
                for function in &functions {
                    match number {
                        FUNCTIONS => new_type.encode(&mut section),
                        _ => function.encode(&mut section),
                    }
                }
            }
            _ => section.extend_from_slice(contents),
        }
        append(&mut larger, number, &section);
    }
    Ok(larger)
}

/// Functions that compute something from what they are given, each something else.
fn functions(bytes: usize) -> Vec<Function> {
    let mut seed = 1_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 32) as i32
    };
    let (mut functions, mut total) = (Vec::new(), 0);
    while total < bytes {
        let mut function = Function::new([]);
        function.instructions().local_get(0);
        while function.byte_len() < FUNCTION_BYTES {
            let (one, other) = (random(), random());
            let mut code = function.instructions();
            code.i32_const(one).i32_xor().local_tee(0).i32_const(other).i32_mul().local_get(0).i32_rotl();
        }
        function.instructions().end();
        total += function.byte_len();
        functions.push(function);
    }
    functions
}

/// Numbers and contents, in their order.
fn sections(bytes: &[u8]) -> wasmparser::Result<Vec<(u8, &[u8])>> {
    let mut reader = BinaryReader::new(bytes, 0);
    reader.read_bytes(PREAMBLE_BYTES)?;
    let mut sections = Vec::new();
    while !reader.eof() {
        let number = reader.read_u8()?;
        let mut contents = reader.read_reader()?;
        sections.push((number, contents.read_bytes(contents.bytes_remaining())?));
    }
    Ok(sections)
}

fn append(to: &mut Vec<u8>, number: u8, contents: &[u8]) {
    to.push(number);
    contents.encode(to);
}
