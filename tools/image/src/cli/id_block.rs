//! `husk image id-block`

use super::measure::igvm_digest;
use super::processors::{Loader, Processors};
use super::{hex, number, print, read};
use crate::id_block::{EcdsaKey, IdAuth, IdBlock, IdBlockError, IdentityKey, PolicyRule, Statement, sign};
use crate::igvm_file::FILE_BYTES_MAX;
use crate::rewrite;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use husk_files::write_new;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes as _;

/// `husk image id-block`
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["digest", "igvm"])))]
pub struct IdBlockArgs {
    /// The launch digest to sign, as `husk image measure` prints it.
    #[arg(long, value_name = "HEX", value_parser = hex::<48>, requires = "policy", conflicts_with_all = ["igvm_out", "native_zero", "file_vmsas_only"])]
    digest: Option<[u8; 48]>,
    /// Sign the digest of this IGVM file instead, under its own guest policy.
    #[arg(long, value_name = "PATH")]
    igvm: Option<PathBuf>,
    /// Write the IGVM file with the ID block in it. QEMU takes ID blocks of IGVM launches from there alone.
    #[arg(long, value_name = "PATH")]
    igvm_out: Option<PathBuf>,
    #[command(flatten)]
    processors: Processors,
    #[command(flatten)]
    loader: Loader,
    /// The guest policy, such as 0x30000.
    #[arg(long, value_name = "VALUE", value_parser = number)]
    policy: Option<u64>,
    /// Sign even a policy under which the host can read the guest. For development alone.
    #[arg(long)]
    allow_weak_policy: bool,
    /// The tenant's word for the family of images: 16 bytes.
    #[arg(long, value_name = "HEX", value_parser = hex::<16>, default_value = "00000000000000000000000000000000")]
    family_id: [u8; 16],
    /// The tenant's word for the image: 16 bytes.
    #[arg(long, value_name = "HEX", value_parser = hex::<16>, default_value = "00000000000000000000000000000000")]
    image_id: [u8; 16],
    /// The image's security version, which brokers can demand a floor for.
    #[arg(long, value_name = "N")]
    guest_svn: u32,
    /// The file with the ID key: P-384, PEM, readable by its owner alone.
    #[arg(long, value_name = "FILE")]
    id_key: PathBuf,
    /// The file with the author key, which vouches for the ID key.
    #[arg(long, value_name = "FILE")]
    author_key: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// A key file; what is wrong with the file itself shows as such, and so does its exit code.
fn key(path: &Path) -> anyhow::Result<IdentityKey> {
    IdentityKey::read(path).map_err(|error| match error {
        IdBlockError::File(file) => file.into(),
        other => other.into(),
    })
}

impl IdBlockArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let file = self.igvm.as_deref().map(|path| read(path, FILE_BYTES_MAX)).transpose()?;
        let statement = self.statement(file.as_deref())?;
        let rule = if self.allow_weak_policy { PolicyRule::EvenWeak } else { PolicyRule::Strong };
        let id_key = key(&self.id_key)?;
        let author_key = self.author_key.as_deref().map(key).transpose()?;
        let (block, auth) = sign(&statement, rule, &id_key, author_key.as_ref())?;
        if let (Some(path), Some(file)) = (&self.igvm_out, &file) {
            write_new(path, &rewrite::with_id_block(file, &block, &auth)?, 0o644)?;
        } else if file.is_some() {
            eprintln!(
                "husk: note: QEMU ignores id-block= and id-auth= when it starts an IGVM file; give --igvm-out"
            );
        }
        print(&self.shown(&block, &auth, author_key.is_some()), self.json);
        Ok(())
    }

    fn statement(&self, file: Option<&[u8]>) -> anyhow::Result<Statement> {
        let (launch_digest, policy) = match (file, self.digest) {
            (Some(file), _) => {
                let (digest, policy) = igvm_digest(file, &self.processors, self.loader)?;
                let own = policy.context("the file has no guest policy, so that no ID block can match it")?;
                if self.policy.is_some_and(|wanted| wanted != own) {
                    bail!("--policy differs from the file's own {own:#x}, which QEMU launches with");
                }
                (digest, own)
            }
            (None, Some(digest)) => (digest, self.policy.context("which policy? give --policy")?),
            (None, None) => bail!("what is to be signed? give --digest or --igvm"),
        };
        Ok(Statement {
            launch_digest,
            family_id: self.family_id,
            image_id: self.image_id,
            guest_svn: self.guest_svn,
            policy,
        })
    }

    fn shown(&self, block: &IdBlock, auth: &IdAuth, has_author: bool) -> Value {
        let digest = |key: &EcdsaKey| hex::encode(key.digest());
        json!({
            "author_key_digest": has_author.then(|| digest(&auth.author_key)),
            "auth_key_enabled": has_author,
            "id_auth": STANDARD.encode(auth.as_bytes()),
            "id_block": STANDARD.encode(block.as_bytes()),
            "id_key_digest": digest(&auth.id_key),
            "igvm": self.igvm_out.as_ref().map(|path| path.display().to_string()),
            "launch_digest": hex::encode(block.launch_digest),
            "policy": format!("{:#x}", block.policy.get()),
        })
    }
}
