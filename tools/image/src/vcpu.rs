//! Virtual processors: what a hypervisor is told of them, and the VMSA that each starts with.
//!
//! **What.** [`CpuSignature`] by model name or by numbers; [`Vcpus`]; [`reset_vmsa`], the save area of a processor out of
//! reset as QEMU and KVM leave it (AMD APM volume 2, table B-4 for the layout, section 14.1.3 for the reset state).
//! **Trust.** None.
//! **Laws.** A name that is not in the table has no signature; nothing is guessed.
//! **Not here.** VMSAs that an IGVM file brings along.

use crate::digest::{PAGE_BYTES, Page};
use core::mem::{offset_of, size_of};
use igvm::snp_defs::{SevFeatures, SevSelector, SevVmsa};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// As many as KVM takes.
pub const VCPUS_MAX: u32 = 4096;
/// Where KVM says that every VMSA lies, whatever the launcher thought.
pub const KVM_VMSA_GPA: u64 = 0xFFFF_FFFF_F000;
/// Where the boot processor starts.
pub const RESET_VECTOR: u32 = 0xFFFF_FFF0;
/// SEV_FEATURES, bit 0: SNP is active.
pub const FEATURE_SNP: u64 = 1;
/// EFER.SVME, which KVM sets for itself.
pub const EFER_SVME: u64 = 1 << 12;
/// CR0.ET, which no processor lets one clear.
pub const CR0_ET: u64 = 1 << 4;
/// CR4.MCE, which KVM sets for itself.
const CR4_MCE: u64 = 1 << 6;

/// CPUID function 1, EAX: family, model and stepping, which a processor finds in EDX after reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSignature(pub u32);

/// Model names of QEMU without their version suffix: family, model, stepping.
const MODELS: &[(&str, [u32; 3])] = &[
    ("EPYC", [23, 1, 2]),
    ("EPYC-IBPB", [23, 1, 2]),
    ("EPYC-Rome", [23, 49, 0]),
    ("EPYC-Milan", [25, 1, 1]),
    ("EPYC-Genoa", [25, 17, 0]),
    ("EPYC-Turin", [26, 0, 0]),
];

impl CpuSignature {
    /// By family, model and stepping, as CPUID packs them (AMD 25481, Fn0000_0001_EAX). Numbers that do not fit lose
    /// their upper bits, as there.
    #[must_use]
    pub const fn of(family: u32, model: u32, stepping: u32) -> Self {
        let (base, extended) = if family > 0xF { (0xF, (family - 0xF) & 0xFF) } else { (family, 0) };
        Self(extended << 20 | (model >> 4 & 0xF) << 16 | base << 8 | (model & 0xF) << 4 | stepping & 0xF)
    }

    /// By QEMU's name of a model, with or without a version (`EPYC-Milan-v2`): versions differ in features, never in
    /// the signature.
    #[must_use]
    pub fn of_model(name: &str) -> Option<Self> {
        let plain = match name.rsplit_once("-v") {
            Some((model, version)) if version.parse::<u8>().is_ok() => model,
            _ => name,
        };
        let found = MODELS.iter().find(|(model, _)| *model == plain);
        found.map(|(_, [family, model, stepping])| Self::of(*family, *model, *stepping))
    }

    /// The names that [`of_model`](Self::of_model) knows, without versions.
    pub fn models() -> impl Iterator<Item = &'static str> {
        MODELS.iter().map(|(name, _)| *name)
    }
}

/// The virtual processors of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpus {
    /// How many: 1 to [`VCPUS_MAX`].
    pub count: u32,
    /// What they say they are.
    pub signature: CpuSignature,
    /// SEV_FEATURES of a processor out of reset.
    pub features: u64,
}

const _: () = assert!(size_of::<SevVmsa>() == PAGE_BYTES);
const _: () = assert!(offset_of!(SevVmsa, efer) == 0xD0);
const _: () = assert!(offset_of!(SevVmsa, cr0) == 0x158);
const _: () = assert!(offset_of!(SevVmsa, rip) == 0x178);
const _: () = assert!(offset_of!(SevVmsa, pat) == 0x268);
const _: () = assert!(offset_of!(SevVmsa, rdx) == 0x310);
const _: () = assert!(offset_of!(SevVmsa, sev_features) == 0x3B0);
const _: () = assert!(offset_of!(SevVmsa, xcr0) == 0x3E8);
const _: () = assert!(offset_of!(SevVmsa, mxcsr) == 0x408);
const _: () = assert!(offset_of!(SevVmsa, x87_fcw) == 0x410);

/// The VMSA of a processor that starts at `entry` in real mode.
#[must_use]
pub fn reset_vmsa(entry: u32, vcpus: &Vcpus) -> Box<Page> {
    let segment = |selector, attrib, base| SevSelector { selector, attrib, limit: 0xFFFF, base };
    let data = segment(0, 0x93, 0);
    let mut vmsa = SevVmsa::new_zeroed();
    vmsa.cs = segment(0xF000, 0x9B, u64::from(entry & 0xFFFF_0000));
    for register in [&mut vmsa.es, &mut vmsa.ss, &mut vmsa.ds, &mut vmsa.fs, &mut vmsa.gs] {
        *register = data;
    }
    for register in [&mut vmsa.gdtr, &mut vmsa.idtr] {
        *register = segment(0, 0, 0);
    }
    vmsa.ldtr = segment(0, 0x82, 0);
    vmsa.tr = segment(0, 0x8B, 0);
    vmsa.efer = EFER_SVME;
    vmsa.cr4 = CR4_MCE;
    vmsa.cr0 = CR0_ET;
    vmsa.dr7 = 0x400;
    vmsa.dr6 = 0xFFFF_0FF0;
    vmsa.rflags = 2;
    vmsa.rip = u64::from(entry & 0xFFFF);
    vmsa.pat = 0x0007_0406_0007_0406;
    vmsa.rdx = u64::from(vcpus.signature.0);
    vmsa.sev_features = SevFeatures::from_bits(vcpus.features);
    vmsa.xcr0 = 1;
    vmsa.mxcsr = 0x1F80;
    vmsa.x87_fcw = 0x37F;
    let mut page = Box::new([0; PAGE_BYTES]);
    page.copy_from_slice(vmsa.as_bytes());
    page
}

#[cfg(test)]
mod tests {
    use super::CpuSignature;

    #[test]
    fn a_model_has_the_signature_of_its_numbers() {
        assert_eq!(CpuSignature::of_model("EPYC-Milan"), Some(CpuSignature(0x00A0_0F11)));
        assert_eq!(CpuSignature::of_model("EPYC-Milan-v2"), CpuSignature::of_model("EPYC-Milan"));
        assert_eq!(CpuSignature::of_model("EPYC-v4"), Some(CpuSignature::of(23, 1, 2)));
        for unknown in ["", "epyc", "EPYC-", "EPYC-v", "EPYC-vx", "Milan", "EPYC-Milan-v2-v1"] {
            assert_eq!(CpuSignature::of_model(unknown), None, "{unknown}");
        }
    }
}
