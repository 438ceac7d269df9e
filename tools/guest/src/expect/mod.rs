//! What a guest's PCRs hold behind a boot that went as it should, worked out from what its tenant has.
//!
//! **What.** [`ExpectArgs`] name the manifest of the build, and the variables and the firmware that the guest begins with;
//! [`Expectation`] is what follows: values of the SHA-256 bank, and what another value would mean.
//! **Trust.** The tenant's own files. What the host chose is in none of them.
//! **Laws.** A PCR is expected only if it follows from what was named, under `husk run`'s machine; the others are listed with why not.
//! **Not here.** What a guest's PCRs are: a quote, judged by `husk evidence`.

mod built;
mod pcr;
mod variables;

use anyhow::Context as _;
use built::Built;
use clap::Args;
use pcr::{Pcr, digest, separator};
use std::path::{Path, PathBuf};
use variables::Variables;

/// Longer than any firmware, or its variables.
const FILE_BYTES_MAX: usize = 64 << 20;
/// What a UEFI firmware measures before it starts a program (TCG PC Client Platform Firmware Profile 1.06, section 10.4.4 "EV_ACTION Event Types").
const CALLING: &[u8] = b"Calling EFI Application from Boot Option";

/// What does not follow, and why.
pub const LEFT_OUT: [(u8, &str); 5] = [
    (
        0,
        "the image, and what its firmware says of itself, which differs with memory and processors; PCR 8 has the firmware's file alone",
    ),
    (1, "processors, memory and ACPI tables: the host chooses them"),
    (5, "the disk's partition table, which the first boot changes, and the boot's end"),
    (9, "what the kernel's own loader was handed; PCR 11 has the same, by the kernel image"),
    (10, "the kernel's own measurements, which grow"),
];

/// Why nothing can be expected.
#[derive(Debug, thiserror::Error)]
pub enum ExpectError {
    /// The file of variables cannot be used.
    #[error("the firmware's variables: {0}")]
    Variables(&'static str),
    /// The manifest cannot be used.
    #[error("{path}: it is no manifest of this version's `husk guest build`: {why}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is missing or wrong, and where.
        why: String,
    },
    /// The manifest has no value of PCR 11 for the phase.
    #[error("the manifest has no value of PCR 11 for the phase `{0}`")]
    Phase(String),
}

/// From what a guest's PCRs are worked out.
#[derive(Args, Clone, Debug)]
pub struct ExpectArgs {
    /// The guest's manifest, as `husk guest build` wrote it: what PCR 2, 3, 4, 6, 11, 12, 13 and 14 must hold.
    #[arg(long, value_name = "FILE")]
    pub guest: Option<PathBuf>,
    /// How far the guest's boot has come: enter-initrd, leave-initrd, sysinit or ready.
    #[arg(long, value_name = "PHASE", default_value = "ready", requires = "guest")]
    phase: String,
    /// The variables that its firmware began with, as they were enrolled (`husk vm enroll --firmware-vars`): what PCR 7 must hold.
    #[arg(long, value_name = "FILE", requires = "guest")]
    pub firmware_vars: Option<PathBuf>,
    /// Its firmware, as `husk run --firmware` takes it: what PCR 8 must hold. Without, another one could have measured all the rest.
    #[arg(long, value_name = "FILE", requires = "guest")]
    pub firmware: Option<PathBuf>,
}

/// A PCR of the SHA-256 bank that must have this value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its number.
    pub pcr: u8,
    /// Its value.
    pub value: [u8; 32],
    /// What it says.
    pub of: &'static str,
    /// What another value means.
    pub otherwise: &'static str,
}

/// All that follows.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// By their numbers.
    pub values: Vec<Expected>,
    /// The hash of the root, which the kernel image's command line names.
    pub root_hash: String,
}

impl ExpectArgs {
    /// Reads what was named, and works out what follows; nothing, if no manifest was named.
    ///
    /// # Errors
    /// Which file cannot be read or used, and why.
    pub fn read(&self) -> anyhow::Result<Option<Expectation>> {
        let Some(manifest) = &self.guest else { return Ok(None) };
        let built = Built::read(manifest)?;
        let mut values = of_the_build(&built, &self.phase)?;
        if let Some(file) = &self.firmware_vars {
            values.push(expected(7, of_variables(file, &built.secure_boot_certificate_sha256)?));
        }
        if let Some(file) = &self.firmware {
            values.push(expected(8, of_firmware(file)?));
        }
        values.sort_by_key(|value| value.pcr);
        Ok(Some(Expectation { values, root_hash: built.root_hash }))
    }
}

/// PCR 7 and 8 of a guest that begins in that firmware with those variables, and starts what the certificate with that SHA-256 signs.
pub(crate) fn begun(
    firmware: &Path,
    variables: &Path,
    certificate: &str,
) -> anyhow::Result<[(u8, [u8; 32]); 2]> {
    let mut sha256 = [0; 32];
    hex::decode_to_slice(certificate, &mut sha256).context("a certificate's digest")?;
    Ok([(7, of_variables(variables, &sha256)?.0), (8, of_firmware(firmware)?.0)])
}

fn of_variables(file: &Path, certificate: &[u8; 32]) -> anyhow::Result<Pcr> {
    let bytes = husk_files::read_public(file, FILE_BYTES_MAX)?;
    let pcr = Variables::parse(&bytes).and_then(|variables| variables.pcr_7(certificate));
    pcr.with_context(|| file.display().to_string())
}

/// What the layer measures before it enters the firmware: the file as it is.
fn of_firmware(file: &Path) -> anyhow::Result<Pcr> {
    Ok(Pcr::of(&[digest(&[&husk_files::read_public(file, FILE_BYTES_MAX)?])]))
}

/// What follows from the kernel image alone, in a machine whose devices bring no code.
fn of_the_build(built: &Built, phase: &str) -> Result<Vec<Expected>, ExpectError> {
    let started = [digest(&[CALLING]), separator(), built.kernel_image_authenticode_sha256];
    let pcr_11 = built.pcr_11(phase).ok_or_else(|| ExpectError::Phase(phase.to_owned()))?;
    let nothing = Pcr::of(&[separator()]);
    Ok(vec![
        expected(2, nothing),
        expected(3, nothing),
        expected(4, Pcr::of(&started)),
        expected(6, nothing),
        expected(11, Pcr(pcr_11)),
        expected(12, Pcr::default()),
        expected(13, Pcr::default()),
        expected(14, Pcr::default()),
    ])
}

fn expected(pcr: u8, value: Pcr) -> Expected {
    let (of, otherwise) = meaning(pcr);
    Expected { pcr, value: value.0, of, otherwise }
}

/// What a PCR says, and what another value than the expected one means (UAPI group, "Linux TPM PCR Registry", for 11 to 15).
#[must_use]
pub const fn meaning(pcr: u8) -> (&'static str, &'static str) {
    match pcr {
        0 => ("image and firmware", "another image, firmware, or size of the machine"),
        1 => ("the machine", "other processors, memory, tables, launch configuration or boot order"),
        2 => ("code of devices", "a device brought code of its own, which ran before the kernel"),
        3 => ("settings of devices", "a device brought settings of its own"),
        4 => ("what the firmware started", "the firmware started another program, or one more before it"),
        5 => (
            "the disk's partitions",
            "the disk has other partitions, or the firmware did not end as it should",
        ),
        6 => ("the machine's maker", "the firmware resumed, or its maker measured something"),
        7 => ("Secure Boot", "Secure Boot is off, has other keys, or was satisfied by another one of them"),
        8 => (
            "the firmware's file",
            "another firmware started the guest, and what it measured is its own word",
        ),
        11 => (
            "kernel image and phase of the boot",
            "another kernel, initrd, command line or root was started, or the boot has not come to that phase",
        ),
        12 => (
            "what was given beside the kernel image",
            "a command line, credential or addon was given beside it",
        ),
        13 => ("extensions of the system", "a system extension was given beside the kernel image"),
        14 => ("shim's keys", "something measured that this guest does not have"),
        15 => ("the volume's key", "another volume was opened than at the first boot, or none, or one more"),
        _ => ("", "something else was measured"),
    }
}
