//! What a launch of an IGVM file is: its measurement, policy and ID block.

use super::machine::Identity;
use anyhow::{Context as _, bail};
use husk_image::id_block::from_header;
use husk_image::igvm_file::{FILE_BYTES_MAX, IdBlockHeader, IgvmFile};
use husk_image::plan::{IgvmLaunch, Plan, Remark, VmsaScope, ZeroPages};
use husk_image::vcpu::{CpuSignature, FEATURE_SNP, Vcpus};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use zerocopy::IntoBytes as _;

/// A launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// MEASUREMENT of its report.
    pub measurement: [u8; 48],
    /// The guest policy.
    pub policy: u64,
    /// The ID block, where the file has one.
    pub identity: Option<Identity>,
    /// What an operator may not expect.
    pub remarks: Vec<String>,
}

impl Launch {
    /// The launch of the file at `path` by QEMU and KVM, with `vcpus` processors of `model`.
    ///
    /// # Errors
    /// What keeps it from starting: the file, its policy or the processors.
    pub fn of(path: &Path, vcpus: u32, model: &str) -> anyhow::Result<Self> {
        let shown = || path.display().to_string();
        let mut bytes = Vec::new();
        let limit = FILE_BYTES_MAX as u64 + 1;
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).with_context(shown)?;
        Self::of_bytes(&bytes, vcpus, model).with_context(shown)
    }

    fn of_bytes(bytes: &[u8], vcpus: u32, model: &str) -> anyhow::Result<Self> {
        let Some(signature) = CpuSignature::of_model(model) else {
            let models: Vec<&str> = CpuSignature::models().collect();
            bail!("{model} is no model that runs SEV-SNP under QEMU; known are {}", models.join(", "));
        };
        let file = IgvmFile::parse(bytes)?;
        let vcpus = Vcpus { count: vcpus, signature, features: FEATURE_SNP };
        let launch = IgvmLaunch { vcpus, zeros: ZeroPages::AsContent, vmsas: VmsaScope::All };
        let plan = Plan::of(&file, &launch)?;
        let policy = plan.policy.context("the file has no guest policy; build it with one")?;
        let measured = plan.measurement();
        let mut remarks: Vec<String> = measured.remarks.iter().map(Remark::text).collect();
        if measured.from_reset {
            remarks
                .push("some processors start out of reset, and their model counts in the measurement".into());
        }
        Ok(Self {
            measurement: measured.digest,
            policy,
            identity: plan.id_block.map(|header| identity(header, policy)),
            remarks,
        })
    }
}

/// The file's ID block in the form in which the processor takes it.
fn identity(header: &IdBlockHeader, policy: u64) -> Identity {
    let (block, auth) = from_header(header, policy);
    let author = header.author_key_enabled != 0;
    Identity { block: block.as_bytes().to_vec(), auth: auth.as_bytes().to_vec(), author }
}
