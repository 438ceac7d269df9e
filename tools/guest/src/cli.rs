//! `husk guest`: its arguments, and what it prints.
//!
//! **What.** Arguments and what they do; progress on standard error, the result on standard output.
//! **Trust.** None in the files named.
//! **Laws.** No secret in an argument or in the output. Nothing is ever overwritten.
//! **Not here.** The build itself.

use crate::build::build;
use crate::config::{ConfigError, GuestConfig};
use crate::expect::{ExpectArgs, LEFT_OUT};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::PathBuf;

/// `husk guest …`
#[derive(clap::Subcommand, Debug)]
pub enum GuestCommand {
    /// Build a Debian disk with a signed kernel image, a verity root, and room for a volume that encrypts itself at the first boot.
    Build(BuildArgs),
    /// Tell what the guest's PCRs will hold behind a boot as it should be, for `husk evidence ask --expected`, and why others cannot be told.
    Pcrs(PcrsArgs),
}

/// `husk guest pcrs`
#[derive(clap::Args, Debug)]
pub struct PcrsArgs {
    #[command(flatten)]
    expect: ExpectArgs,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// `husk guest build`
#[derive(clap::Args, Debug)]
pub struct BuildArgs {
    /// What the guest is made of; the handbook's page on the encrypted disk shows one.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The folder to make, with `disk.raw`, `uki.efi` and `manifest.json`.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Where installed trees are kept for the next build; remove it to fetch packages anew.
    #[arg(long, value_name = "DIR", default_value = "guest-cache")]
    cache: PathBuf,
    /// Print the manifest as one JSON object.
    #[arg(long)]
    json: bool,
}

impl GuestCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Build(args) => args.run(),
            Self::Pcrs(args) => args.run(),
        }
    }
}

impl PcrsArgs {
    fn run(&self) -> anyhow::Result<()> {
        let expectation = self.expect.read()?.context("name the guest's manifest (--guest)")?;
        if self.json {
            let pcr = |one: &crate::expect::Expected| json!({"pcr": one.pcr, "of": one.of, "sha256": hex::encode(one.value)});
            let pcrs: Value = expectation.values.iter().map(pcr).collect();
            println!("{}", json!({"root_hash": expectation.root_hash, "pcrs": pcrs}));
            return Ok(());
        }
        println!("# root {}", expectation.root_hash);
        for one in &expectation.values {
            println!("sha256:{}={} # {}", one.pcr, hex::encode(one.value), one.of);
        }
        for (pcr, why) in LEFT_OUT {
            println!("# PCR {pcr} does not follow: {why}");
        }
        Ok(())
    }
}

impl BuildArgs {
    fn run(&self) -> anyhow::Result<()> {
        let config = GuestConfig::read(&self.config).map_err(|error| match error {
            ConfigError::File(file) => anyhow::Error::from(file),
            other => other.into(),
        })?;
        let manifest = build(&config, &self.output, &self.cache)?;
        if self.json {
            println!("{manifest}");
            return Ok(());
        }
        println!("output               {}", self.output.display());
        for name in ["root_hash", "kernel_image_sha256", "disk_sha256"] {
            println!("{name:20} {}", manifest.get(name).and_then(|value| value.as_str()).unwrap_or("-"));
        }
        Ok(())
    }
}
