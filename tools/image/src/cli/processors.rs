//! The processors of a launch, by the options of `sev-snp-measure`.

use super::number;
use crate::plan::{VmsaScope, ZeroPages};
use crate::vcpu::{CpuSignature, VCPUS_MAX, Vcpus};
use anyhow::{Context as _, bail};

/// How many processors, and of which model.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Processors {
    /// Number of processors.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(VCPUS_MAX)))]
    vcpus: Option<u32>,
    /// QEMU's name of their model, such as EPYC-Milan or EPYC-Genoa-v1.
    #[arg(long, value_name = "CPUTYPE")]
    vcpu_type: Option<String>,
    /// Their signature instead: CPUID function 1, EAX.
    #[arg(long, value_name = "VALUE", value_parser = number)]
    vcpu_sig: Option<u64>,
    /// Their family instead; with model and stepping.
    #[arg(long, value_name = "FAMILY", requires_all = ["vcpu_model", "vcpu_stepping"])]
    vcpu_family: Option<u32>,
    /// Their model; with family.
    #[arg(long, value_name = "MODEL", requires = "vcpu_family")]
    vcpu_model: Option<u32>,
    /// Their stepping; with family.
    #[arg(long, value_name = "STEPPING", requires = "vcpu_family")]
    vcpu_stepping: Option<u32>,
    /// SEV features of processors out of reset.
    #[arg(long, value_name = "VALUE", value_parser = number, default_value = "0x1")]
    guest_features: u64,
}

/// How an IGVM file is measured.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Loader {
    /// Measure zeros without data as the processor's own zero pages. QEMU does not; other loaders may.
    #[arg(long)]
    native_zero: bool,
    /// Measure only the VMSAs in the file, for hosts whose KVM starts the other processors later. KVM as released
    /// measures one for each processor.
    #[arg(long)]
    file_vmsas_only: bool,
}

impl Loader {
    pub(super) const fn zeros(self) -> ZeroPages {
        if self.native_zero { ZeroPages::Native } else { ZeroPages::AsContent }
    }

    pub(super) const fn vmsas(self) -> VmsaScope {
        if self.file_vmsas_only { VmsaScope::FileOnly } else { VmsaScope::All }
    }
}

impl Processors {
    /// The processors, whose model must be given.
    pub(super) fn known(&self) -> anyhow::Result<Vcpus> {
        let missing =
            "which processors? give --vcpu-type, --vcpu-sig, or --vcpu-family with model and stepping";
        self.maybe()?.1.then_some(()).context(missing)?;
        Ok(self.maybe()?.0)
    }

    /// The processors, and whether their model was given.
    pub(super) fn maybe(&self) -> anyhow::Result<(Vcpus, bool)> {
        let count = self.vcpus.context("how many processors? give --vcpus: the digest depends on it")?;
        let signature = self.signature()?;
        let known = signature.is_some();
        let signature = signature.unwrap_or(CpuSignature(0));
        Ok((Vcpus { count, signature, features: self.guest_features }, known))
    }

    fn signature(&self) -> anyhow::Result<Option<CpuSignature>> {
        if let (Some(family), Some(model), Some(stepping)) =
            (self.vcpu_family, self.vcpu_model, self.vcpu_stepping)
        {
            return Ok(Some(CpuSignature::of(family, model, stepping)));
        }
        if let Some(value) = self.vcpu_sig {
            let value = u32::try_from(value).context("--vcpu-sig has 32 bits")?;
            return Ok(Some(CpuSignature(value)));
        }
        let Some(name) = &self.vcpu_type else { return Ok(None) };
        let Some(signature) = CpuSignature::of_model(name) else {
            let known: Vec<&str> = CpuSignature::models().collect();
            bail!(
                "{name} is no model that runs SEV-SNP under QEMU; known are {}, each also with -v1 and so on",
                known.join(", ")
            );
        };
        Ok(Some(signature))
    }
}
