//! What a plugin may import and must export, by name, as `wit/` has it.
//!
//! Names only: that the types fit is checked by wasmtime against the linked functions. Both are needed: this table works
//! on bytes that are never compiled and says which function a host lacks, wasmtime's check cannot be fooled.

/// Exported by every plugin; versions within 0.1 fit each other.
pub(super) const PROCESSOR: &str = "sluicegate:transform/processor@0.1.0";
/// Exported by plugins that convert their state.
pub(super) const MIGRATION: &str = "sluicegate:transform/migration@0.1.0";
pub(super) const TYPES: &str = "sluicegate:transform/types@0.1.0";
pub(super) const CONTEXT: &str = "sluicegate:transform/context@0.1.0";
pub(super) const INPUT: &str = "sluicegate:transform/input@0.1.0";
pub(super) const OUTPUT: &str = "sluicegate:transform/output@0.1.0";
pub(super) const STATE: &str = "sluicegate:transform/state@0.1.0";
pub(super) const LOGGING: &str = "wasi:logging/logging@0.1.0-draft";

/// Package of the plugin interface.
const PACKAGE: &str = "sluicegate:transform/";

/// Every interface that a plugin may import from `sluicegate:transform`, with its functions.
const IMPORTS: &[(&str, &[&str])] = &[
    (TYPES, &[]),
    (CONTEXT, &["task", "inputs", "now", "log-level"]),
    (
        INPUT,
        &[
            "[method]batch.count",
            "[method]batch.runs",
            "[method]batch.offsets",
            "[method]batch.timestamps",
            "[method]batch.keys",
            "[method]batch.values",
            "[method]batch.headers",
            "[method]batch.header",
            "[method]batch.watermark",
        ],
    ),
    (OUTPUT, &["[constructor]outlet", "[method]outlet.emit", "reject"]),
    (STATE, &["[constructor]store", "[method]store.get", "[method]store.put", "[method]store.scan"]),
    (LOGGING, &["log"]),
];

/// WASI 0.2: what a command may import, HTTP excluded. All of it is linked, none of it reaches anything.
const WASI: &[(&str, &[&str])] = &[
    (
        "wasi:cli/",
        &[
            "environment",
            "exit",
            "stderr",
            "stdin",
            "stdout",
            "terminal-input",
            "terminal-output",
            "terminal-stderr",
            "terminal-stdin",
            "terminal-stdout",
        ],
    ),
    ("wasi:clocks/", &["monotonic-clock", "wall-clock"]),
    ("wasi:filesystem/", &["preopens", "types"]),
    ("wasi:io/", &["error", "poll", "streams"]),
    ("wasi:random/", &["insecure", "insecure-seed", "random"]),
    (
        "wasi:sockets/",
        &["instance-network", "ip-name-lookup", "network", "tcp", "tcp-create-socket", "udp", "udp-create-socket"],
    ),
];

/// How this host stands to an interface that a plugin names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Ours, with these functions.
    Functions(&'static [&'static str]),
    /// Part of WASI 0.2.
    Wasi,
    /// An interface of ours in a version that this host does not speak.
    OtherVersion,
    /// Nothing this host has.
    No,
}

/// Looks an import up.
pub(super) fn import(name: &str) -> Known {
    if let Some((_, functions)) = IMPORTS.iter().find(|(known, _)| compatible(known, name)) {
        return Known::Functions(functions);
    }
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    let is_wasi = WASI.iter().any(|(package, interfaces)| {
        interface.strip_prefix(package).is_some_and(|interface| interfaces.contains(&interface))
    });
    if is_wasi && version.starts_with("0.2.") {
        return Known::Wasi;
    }
    let same_interface =
        IMPORTS.iter().any(|(known, _)| known.split_once('@').is_some_and(|(known, _)| known == interface));
    if same_interface || is_wasi || interface.starts_with(PACKAGE) && !version.starts_with("0.1.") {
        Known::OtherVersion
    } else {
        Known::No
    }
}

/// Whether `found` is the export `wanted` in a version that fits.
pub(super) fn compatible(wanted: &str, found: &str) -> bool {
    let (Some((wanted, version)), Some((interface, found))) = (wanted.split_once('@'), found.split_once('@')) else {
        return false;
    };
    wanted == interface
        && (version == found || !version.contains('-') && found.starts_with("0.1.") && !found.contains('-'))
}

/// Whether an export is a [`PROCESSOR`] of another version.
pub(super) fn is_other_processor(name: &str) -> bool {
    name.strip_prefix(PACKAGE).is_some_and(|interface| interface.starts_with("processor@"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patch_versions_fit_and_others_are_told_apart() {
        assert!(matches!(import("sluicegate:transform/input@0.1.7"), Known::Functions(_)));
        assert_eq!(import("sluicegate:transform/input@0.2.0"), Known::OtherVersion);
        assert_eq!(import("sluicegate:transform/teleport@0.1.0"), Known::No);
        assert_eq!(import("wasi:clocks/wall-clock@0.2.9"), Known::Wasi);
        assert_eq!(import("wasi:clocks/wall-clock@0.3.0"), Known::OtherVersion);
        assert_eq!(import("wasi:http/outgoing-handler@0.2.0"), Known::No);
        assert!(matches!(import(LOGGING), Known::Functions(_)));
    }

    #[test]
    fn the_table_names_every_function_of_the_interface_files() {
        let wit =
            |name: &str| std::fs::read_to_string(format!("{}/../wit/{name}.wit", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for (interface, file) in [(CONTEXT, "context"), (INPUT, "input"), (OUTPUT, "output"), (STATE, "state")] {
            let text = wit(file);
            let declared = text
                .lines()
                .map(str::trim_start)
                .filter(|line| line.contains(": func(") || line.starts_with("constructor("))
                .filter(|line| !line.starts_with("//"))
                .count();
            let Known::Functions(functions) = import(interface) else { panic!("{interface} is not in the table") };
            assert_eq!(functions.len(), declared, "functions of {interface}");
        }
    }
}
