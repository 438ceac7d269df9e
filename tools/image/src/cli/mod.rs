//! `husk image`: what a launch measures, and what a tenant signs about it.
//!
//! **What.** Arguments and what they do; results on standard output, as text or with `--json`; remarks on standard error.
//! **Trust.** None in the files named.
//! **Laws.** No secret in an argument or in the output. No file is ever overwritten.
//! **Not here.** The computations: the rest of this crate.

mod config;
mod id_block;
mod measure;
mod processors;
mod show;

pub use config::ConfigArgs;
pub use id_block::IdBlockArgs;
pub use measure::MeasureArgs;
pub use show::InspectArgs;

use anyhow::{Context as _, bail};
use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// `husk image …`
#[derive(clap::Subcommand, Debug)]
pub enum ImageCommand {
    /// Compute the SNP launch digest of an IGVM file, or of OVMF with a kernel. Takes the long options of
    /// sev-snp-measure; the digest is the last word of the last line.
    Measure(Box<MeasureArgs>),
    /// Write or read a launch configuration, print the HOST_DATA to launch with, put it into an IGVM file.
    Config(Box<ConfigArgs>),
    /// Sign an ID block: the processor then refuses any other image, policy or age.
    IdBlock(Box<IdBlockArgs>),
    /// Show what is in an IGVM file, what is measured, and what the host may still choose.
    Inspect(InspectArgs),
}

impl ImageCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Measure(args) => args.run(),
            Self::Config(args) => args.run(),
            Self::IdBlock(args) => args.run(),
            Self::Inspect(args) => args.run(),
        }
    }
}

/// The bytes of a file of at most `bytes_max` bytes.
fn read(path: &Path, bytes_max: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = bytes_max as u64 + 1;
    let file = File::open(path).with_context(|| path.display().to_string())?;
    file.take(limit).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
    if bytes.len() > bytes_max {
        bail!("{} has more than {bytes_max} bytes; it is the wrong file", path.display());
    }
    Ok(bytes)
}

/// As JSON, or one field a line.
fn print(value: &Value, json: bool) {
    match value.as_object().filter(|_| !json) {
        None => println!("{value}"),
        Some(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            for (name, value) in fields {
                match value {
                    Value::String(text) => println!("{name:width$}  {text}"),
                    Value::Null => println!("{name:width$}  -"),
                    other => println!("{name:width$}  {other}"),
                }
            }
        }
    }
}

/// Exactly `N` bytes in hexadecimal.
fn hex<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(format!("{} hexadecimal digits are expected", 2 * N)),
    }
}

/// A number, decimal or with 0x hexadecimal.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a number is expected, decimal or with 0x hexadecimal".to_owned())
}
