//! `husk vm prepare`: a VM's TPM, made by its tenant before there is a VM.

use anyhow::{Context as _, bail};
use clap::Args;
use husk::attest::launch::{LaunchConfig, Mode};
use husk_broker::cli::AuthorityArgs;
use husk_broker::vault::RecoveryKey;
use husk_files::{PrivateFileError, read_config, write_new};
use husk_vtpmd::prepare::{Prepared, SRK_HANDLE};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// `husk vm prepare`
#[derive(Args, Debug)]
pub(crate) struct PrepareArgs {
    /// The VM's launch configuration: the TPM is made for that VM alone.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The tenant's recovery key: it alone opens what is written, for `husk tenant open-backup`.
    #[arg(long, value_name = "FILE")]
    recovery: PathBuf,
    /// Where to write the TPM, sealed, as a backup; `husk vm restore` has the VM's first launch take it over.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The folder to make for its public keys (TPM2B_PUBLIC): srk.pub, ek-rsa2048.pub, ek-p256.pub, ek-p384.pub; and, with --database, for the
    /// endorsement keys' certificates (DER): ek-rsa2048.crt and so on.
    #[arg(long, value_name = "FOLDER")]
    public_out: PathBuf,
    #[command(flatten)]
    authority: AuthorityArgs,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

impl PrepareArgs {
    /// Does it.
    ///
    /// # Errors
    /// One line: what, whose fault, what to do.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let config = read_config(&self.config)?;
        if config.mode == Mode::HwSealed {
            bail!("the launch configuration names hw-sealed: no broker hands a TPM over to such a VM");
        }
        if config.mode == Mode::Ephemeral {
            bail!(
                "the launch configuration names ephemeral: such a VM's TPM is made at each launch, and cannot be prepared"
            );
        }
        let recovery = RecoveryKey::read(&self.recovery)?.key()?;
        if self.out.exists() {
            return Err(PrivateFileError::Exists(self.out.clone()).into());
        }
        let prepared = match self.authority.certifier(&config)? {
            None => Prepared::make(None)?,
            Some(mut certifier) => {
                Prepared::make(Some(&mut |maker, keys| Ok(certifier.certify(maker, keys)?)))?
            }
        };
        let mut id = [0; 16];
        getrandom::fill(&mut id).context("the machine's entropy source failed")?;
        let file = prepared.sealed((config.tenant, config.vm), id, &recovery)?;
        self.written(&prepared, &file)?;
        self.show(&config, &prepared, id);
        Ok(())
    }

    /// The sealed TPM comes last: where it is, its public keys are.
    fn written(&self, prepared: &Prepared, file: &[u8]) -> anyhow::Result<()> {
        let folder = &self.public_out;
        std::fs::create_dir(folder).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => PrivateFileError::Exists(folder.clone()),
            _ => PrivateFileError::Io { path: folder.clone(), source: error },
        })?;
        let keys = prepared.keys.iter().map(|(name, public)| (public_path(folder, name), &public[..], 0o644));
        let certificates = &prepared.certificates;
        let certificates =
            certificates.iter().map(|(name, der)| (certificate_path(folder, name), &der[..], 0o644));
        let mut files = keys.chain(certificates).chain([(self.out.clone(), file, 0o600)]);
        let written = files.try_for_each(|(path, bytes, mode)| write_new(&path, bytes, mode));
        if written.is_err() {
            std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Ok(written?)
    }

    fn show(&self, config: &LaunchConfig, prepared: &Prepared, id: [u8; 16]) {
        let path = |path: &Path| path.display().to_string();
        let keys: Map<String, Value> = prepared
            .keys
            .iter()
            .map(|(name, _)| ((*name).to_owned(), path(&public_path(&self.public_out, name)).into()))
            .collect();
        let certificates: Map<String, Value> = prepared
            .certificates
            .iter()
            .map(|(name, _)| ((*name).to_owned(), path(&certificate_path(&self.public_out, name)).into()))
            .collect();
        let shown = json!({
            "tenant": hex::encode(config.tenant),
            "vm": hex::encode(config.vm),
            "id": hex::encode(id),
            "backup": path(&self.out),
            "srk_handle": format!("{SRK_HANDLE:#x}"),
            "keys": keys,
            "certificates": certificates,
        });
        if self.json {
            println!("{shown}");
        } else {
            print!("{}", crate::evidence::text(&shown, 0));
        }
    }
}

fn public_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.pub"))
}

fn certificate_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.crt"))
}
