//! `husk image measure`

use super::processors::{Loader, Processors};
use super::{hex, read};
use crate::hashes::KernelHashes;
use crate::igvm_file::{FILE_BYTES_MAX, IgvmFile};
use crate::ovmf::{IMAGE_BYTES_MAX, Ovmf};
use crate::ovmf_launch::{OvmfLaunch, image_digest};
use crate::plan::{IgvmLaunch, Plan, Remark};
use crate::vcpu::Vcpus;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What is launched.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A guest.
    Snp,
    /// Only the pages of the OVMF image, for --snp-ovmf-hash.
    #[value(name = "snp:ovmf-hash")]
    OvmfHash,
}

/// How the digest is printed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum OutputFormat {
    /// Hexadecimal.
    Hex,
    /// Base64.
    Base64,
}

/// Who launches.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Vmm {
    /// QEMU with KVM.
    #[value(name = "QEMU")]
    Qemu,
}

/// `husk image measure`
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("image").required(true).args(["ovmf", "igvm"])))]
pub struct MeasureArgs {
    /// What is launched. SEV and SEV-ES without SNP cannot hold a TPM and are not measured here.
    #[arg(long, value_enum, default_value = "snp")]
    mode: Mode,
    /// The IGVM file.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["kernel", "initrd", "append", "snp_ovmf_hash"])]
    igvm: Option<PathBuf>,
    /// The OVMF image.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["native_zero", "file_vmsas_only"])]
    ovmf: Option<PathBuf>,
    /// The kernel that QEMU hands to OVMF (kernel-hashes=on).
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Its initrd.
    #[arg(long, value_name = "PATH", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(long, value_name = "CMDLINE", requires = "kernel")]
    append: Option<String>,
    /// The digest of the image's pages, as --mode snp:ovmf-hash prints it: only the image's metadata is then read.
    #[arg(long, value_name = "HASH", value_parser = hex::<48>)]
    snp_ovmf_hash: Option<[u8; 48]>,
    #[command(flatten)]
    processors: Processors,
    #[command(flatten)]
    loader: Loader,
    /// Who launches; nobody else's digests are known here.
    #[arg(long, value_enum, default_value = "QEMU")]
    vmm_type: Vmm,
    /// How the digest is printed.
    #[arg(long, value_enum, default_value = "hex", conflicts_with = "json")]
    output_format: OutputFormat,
    /// Say what the digest is.
    #[arg(short, long)]
    verbose: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was found out.
struct Measurement {
    digest: [u8; 48],
    policy: Option<u64>,
    remarks: Vec<Remark>,
}

impl MeasureArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let measurement = match (&self.igvm, &self.ovmf) {
            (Some(path), _) if self.mode == Mode::Snp => self.igvm(path)?,
            (None, Some(path)) => self.ovmf(path)?,
            _ => bail!("--mode snp:ovmf-hash measures an OVMF image; give --ovmf"),
        };
        let digest = hex::encode(measurement.digest);
        for remark in &measurement.remarks {
            eprintln!("husk: note: {}", remark.text());
        }
        if self.json {
            let remarks: Vec<String> = measurement.remarks.iter().map(Remark::text).collect();
            let policy = measurement.policy.map(|policy| format!("{policy:#x}"));
            println!("{}", json!({ "digest": digest, "policy": policy, "remarks": remarks }));
            return Ok(());
        }
        let shown = match self.output_format {
            OutputFormat::Hex => digest,
            OutputFormat::Base64 => STANDARD.encode(measurement.digest),
        };
        let words = if self.verbose { "Calculated SEV_SNP guest measurement: " } else { "" };
        println!("{words}{shown}");
        Ok(())
    }

    fn igvm(&self, path: &Path) -> anyhow::Result<Measurement> {
        let bytes = read(path, FILE_BYTES_MAX)?;
        let (vcpus, known) = self.processors.maybe()?;
        igvm_measurement(&bytes, vcpus, known, self.loader).with_context(|| path.display().to_string())
    }

    fn ovmf(&self, path: &Path) -> anyhow::Result<Measurement> {
        let named = || path.display().to_string();
        let bytes = read(path, IMAGE_BYTES_MAX)?;
        let ovmf = Ovmf::parse(&bytes).with_context(named)?;
        let digest = if self.mode == Mode::OvmfHash {
            image_digest(&ovmf)
        } else {
            let vcpus = self.processors.known()?;
            let kernel = self.kernel()?;
            let launch = OvmfLaunch { ovmf: &ovmf, image_digest: self.snp_ovmf_hash, kernel, vcpus };
            launch.digest().with_context(named)?
        };
        Ok(Measurement { digest: digest.value(), policy: None, remarks: Vec::new() })
    }

    fn kernel(&self) -> anyhow::Result<Option<KernelHashes>> {
        let Some(kernel) = &self.kernel else { return Ok(None) };
        let kernel = file_hash(kernel)?;
        let initrd = self.initrd.as_deref().map(file_hash).transpose()?;
        Ok(Some(KernelHashes::new(kernel, initrd, self.append.as_deref().unwrap_or_default())))
    }
}

fn igvm_measurement(bytes: &[u8], vcpus: Vcpus, known: bool, loader: Loader) -> anyhow::Result<Measurement> {
    let file = IgvmFile::parse(bytes)?;
    let launch = IgvmLaunch { vcpus, zeros: loader.zeros(), vmsas: loader.vmsas() };
    let plan = Plan::of(&file, &launch)?;
    let measured = plan.measurement();
    if measured.from_reset && !known {
        bail!(
            "the file has no VMSA for some of the processors, and what they find after reset depends on their model; give --vcpu-type"
        );
    }
    Ok(Measurement { digest: measured.digest, policy: plan.policy, remarks: measured.remarks })
}

/// The digest of an IGVM launch, and the policy that the file asks for.
pub(super) fn igvm_digest(
    bytes: &[u8],
    processors: &Processors,
    loader: Loader,
) -> anyhow::Result<([u8; 48], Option<u64>)> {
    let (vcpus, known) = processors.maybe()?;
    let measurement = igvm_measurement(bytes, vcpus, known, loader)?;
    for remark in &measurement.remarks {
        eprintln!("husk: note: {}", remark.text());
    }
    Ok((measurement.digest, measurement.policy))
}

/// SHA-256 of a file of any length.
fn file_hash(path: &Path) -> anyhow::Result<[u8; 32]> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut chunk).with_context(|| path.display().to_string())?;
        if read == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(chunk.get(..read).unwrap_or_default());
    }
}
