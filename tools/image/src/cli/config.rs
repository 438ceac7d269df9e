//! `husk image config`

use super::{hex, number, print, read};
use crate::igvm_file::FILE_BYTES_MAX;
use crate::{config_page, rewrite};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve, Staleness};
use husk::seams::DerivedKeyRequest;
use husk_files::{StalenessArgs, VariablesArgs, read_config, variables_word, write_config, write_new};
use serde_json::json;
use std::path::PathBuf;

/// `husk image config`
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["from", "out"])))]
pub struct ConfigArgs {
    /// A launch configuration that is there, as `husk vm enroll` wrote it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tenant", "vm", "root", "mode", "serve", "kbs", "min_key_generation", "processor", "staleness_commits", "firmware_vars"])]
    from: Option<PathBuf>,
    /// Where to write a new launch configuration.
    #[arg(long, value_name = "FILE", requires_all = ["tenant", "vm", "root"])]
    out: Option<PathBuf>,
    /// The tenant.
    #[arg(long, value_name = "HEX", value_parser = hex::<16>)]
    tenant: Option<[u8; 16]>,
    /// The VM.
    #[arg(long, value_name = "HEX", value_parser = hex::<16>)]
    vm: Option<[u8; 16]>,
    /// The digest of the tenant's root key, as `husk tenant init` prints it.
    #[arg(long, value_name = "HEX", value_parser = hex::<48>)]
    root: Option<[u8; 48]>,
    /// What protects against rollback: strict (a broker), ephemeral (a broker, and a TPM that keeps nothing), or hw-sealed: NOTHING. There is no broker then, the key is the
    /// processor's alone (--processor), and whoever has an old copy of the volume can put it back.
    #[arg(long, value_name = "WORD", default_value = "strict", value_parser = mode)]
    mode: Mode,
    /// What keeps a second instance from answering [default: lease; with hw-sealed none, the only word there].
    #[arg(long, value_name = "WORD", value_parser = serve)]
    serve: Option<Serve>,
    /// Whether a static key of a CoCo KBS goes into the state's key.
    #[arg(long, value_name = "WORD", default_value = "none", value_parser = kbs)]
    kbs: Kbs,
    /// Broker keys of an older generation are refused.
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_key_generation: u32,
    /// Make a key of the chip an input of the volume's key: the volume opens on this chip and under this very image only.
    #[arg(long)]
    processor: bool,
    /// Mix this GUEST_SVN into the chip's key: an image of a lower one does not get it.
    #[arg(long, value_name = "N", requires = "processor")]
    processor_svn: Option<u32>,
    /// Mix this TCB_VERSION (8 bytes as in a report) into the chip's key: a platform below it does not get it, one above it does.
    #[arg(long, value_name = "HEX", value_parser = hex::<8>, requires = "processor")]
    processor_tcb: Option<[u8; 8]>,
    #[command(flatten)]
    staleness: StalenessArgs,
    #[command(flatten)]
    variables: VariablesArgs,
    /// Also put the configuration into this IGVM file, as a measured page.
    #[arg(long, value_name = "PATH", requires_all = ["igvm_out", "at"])]
    igvm: Option<PathBuf>,
    /// Where to write the IGVM file with the page.
    #[arg(long, value_name = "PATH", requires = "igvm")]
    igvm_out: Option<PathBuf>,
    /// Guest-physical address of the page, where the firmware looks for it.
    #[arg(long, value_name = "ADDRESS", value_parser = number, requires = "igvm")]
    at: Option<u64>,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// The value of a word, or the words there are.
fn word<T: Copy>(text: &str, all: &[T], word: fn(T) -> &'static str) -> Result<T, String> {
    let found = all.iter().copied().find(|value| word(*value) == text);
    found.ok_or_else(|| {
        let words: Vec<&str> = all.iter().copied().map(word).collect();
        format!("one of {} is expected", words.join(", "))
    })
}

fn mode(text: &str) -> Result<Mode, String> {
    word(text, Mode::ALL, Mode::word)
}

fn serve(text: &str) -> Result<Serve, String> {
    word(text, Serve::ALL, Serve::word)
}

fn kbs(text: &str) -> Result<Kbs, String> {
    word(text, Kbs::ALL, Kbs::word)
}

impl ConfigArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let config = match &self.from {
            Some(path) => read_config(path)?,
            None => self.config()?,
        };
        let rewritten = self.rewritten(&config)?;
        if let Some(path) = &self.out {
            write_config(path, &config)?;
        }
        if let (Some(path), Some(bytes)) = (&self.igvm_out, rewritten) {
            write_new(path, &bytes, 0o644)?;
        }
        let host_data = config.host_data();
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let supported =
            if config.supported().is_ok() { "yes" } else { "no: this version refuses to start with it" };
        let value = json!({
            "config": shown(&self.out).or_else(|| shown(&self.from)),
            "host_data": hex::encode(host_data),
            "host_data_base64": STANDARD.encode(host_data),
            "igvm": shown(&self.igvm_out),
            "firmware_variables": variables_word(&config),
            "mode": config.mode.word(),
            "rollback_protection": match (config.mode, config.staleness) {
                (Mode::Strict, None) => "every commit is anchored at the broker".to_owned(),
                (Mode::Strict, Some(Staleness { commits, indices, .. })) => {
                    format!("BOUNDED: each boot can lose the newest commits of indices {indices}, {commits} at most")
                }
                (Mode::Ephemeral, _) => "nothing is kept: the TPM ends with each launch".to_owned(),
                (Mode::HwSealed, _) => "NONE: an old copy of the volume can be put back".to_owned(),
            },
            "supported": supported,
        });
        print(&value, self.json);
        Ok(())
    }

    fn config(&self) -> anyhow::Result<LaunchConfig> {
        let missing = "a new configuration needs --tenant, --vm and --root";
        Ok(LaunchConfig {
            tenant: self.tenant.context(missing)?,
            vm: self.vm.context(missing)?,
            root: self.root.context(missing)?,
            mode: self.mode,
            serve: self.serve.unwrap_or(match self.mode {
                Mode::Strict | Mode::Ephemeral => Serve::Lease,
                Mode::HwSealed => Serve::Nothing,
            }),
            kbs: self.kbs,
            min_key_generation: self.min_key_generation,
            processor: self
                .processor
                .then_some(DerivedKeyRequest { guest_svn: self.processor_svn, tcb: self.processor_tcb }),
            staleness: self.staleness.staleness(),
            variables: self.variables.digest()?,
        })
    }

    fn rewritten(&self, config: &LaunchConfig) -> anyhow::Result<Option<Vec<u8>>> {
        let (Some(path), Some(gpa)) = (&self.igvm, self.at) else { return Ok(None) };
        let page = config_page::page(config).context("the configuration does not fit into a page")?;
        let bytes = rewrite::with_page(&read(path, FILE_BYTES_MAX)?, gpa, &page);
        Ok(Some(bytes.with_context(|| path.display().to_string())?))
    }
}
