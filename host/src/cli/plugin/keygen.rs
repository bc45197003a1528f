//! `sluicegate plugin keygen`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::cli::{CommandError, table};
use crate::signing::{KeyId, PrivateKey};

/// Arguments of `plugin keygen`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The keys are Ed25519, in the PEM files that OpenSSL writes: `openssl genpkey -algorithm ed25519` makes the same, and
`openssl pkey -pubout` the public key of a private one. Nothing is overwritten.

Examples:
  sluicegate plugin keygen                                # sluicegate.key and sluicegate.pub
  sluicegate plugin keygen release                        # release.key and release.pub
  sluicegate plugin keygen --out /etc/keys/release.pem    # and /etc/keys/release.pub")]
pub(in crate::cli) struct KeygenArgs {
    /// What the files are called: NAME.key, for this user alone, and NAME.pub
    #[arg(default_value = "sluicegate")]
    name: String,
    /// Where to write the private key; the public one goes beside it
    #[arg(long, value_name = "PATH", conflicts_with = "name")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Made {
    private_key: PathBuf,
    public_key: PathBuf,
    id: KeyId,
}

pub(super) fn run(args: &KeygenArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let private_key = match &args.out {
        Some(path) => path.clone(),
        None if args.name.is_empty() || args.name.contains(['/', '\\']) => {
            let what = format!("`{}` is no name of a file: --out says where the private key goes", args.name);
            return Err(CommandError::BadInput(what));
        }
        None => PathBuf::from(format!("{}.key", args.name)),
    };
    let public_key = private_key.with_extension("pub");
    if public_key == private_key {
        let what = format!("{} is where the public key goes: choose another ending", public_key.display());
        return Err(CommandError::BadInput(what));
    }
    let mut seed = Zeroizing::new([0; 32]);
    OsRng
        .try_fill_bytes(&mut *seed)
        .map_err(|error| CommandError::Failed(format!("the system has no random numbers: {error}")))?;
    let key = PrivateKey::from_seed(&seed);
    let public = key.public();
    create(&public_key, public.to_pem().as_bytes(), 0o644)?;
    if let Err(error) = create(&private_key, key.to_pem().as_bytes(), 0o600) {
        // Of no use alone; and it was not there before.
        let _ = fs::remove_file(&public_key);
        return Err(error);
    }
    let made = Made { private_key, public_key, id: public.id() };
    if args.json {
        return Ok(table::json(out, &made)?);
    }
    writeln!(out, "private key {}: whoever can read it can sign", made.private_key.display())?;
    writeln!(out, "public key {}: {}", made.public_key.display(), made.id)?;
    writeln!(out, "\nA node loads only what was signed with it when its cluster file has this:\n")?;
    writeln!(out, "[plugins]\ntrusted-keys = [\"\"\"\n{}\"\"\"]", public.to_pem())?;
    Ok(())
}

/// Writes a file that is not there yet.
fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CommandError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let shown = path.display();
    let written = options.open(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CommandError::BadInput(format!(
            "{shown} is there already, and keys are not overwritten: choose another name"
        )),
        io::ErrorKind::NotFound => CommandError::BadInput(format!("cannot write {shown}: there is no such folder")),
        _ => CommandError::Failed(format!("cannot write {shown}: {error}")),
    })
}
