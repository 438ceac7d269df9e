//! Entries for fuzzers: any bytes, no verdict but that they end.
//!
//! **What.** [`igvm`] and [`ovmf`] run everything that outside bytes reach: reading, planning, describing, rewriting.
//! **Trust.** None.
//! **Laws.** No panic, whatever the bytes; no memory beyond a small multiple of them.
//! **Not here.** The fuzzers.

use crate::digest::PAGE_BYTES;
use crate::id_block::{IdAuth, IdBlock};
use crate::igvm_file::IgvmFile;
use crate::inspect::inspect;
use crate::ovmf::Ovmf;
use crate::ovmf_launch::OvmfLaunch;
use crate::plan::{IgvmLaunch, Plan, VmsaScope, ZeroPages};
use crate::rewrite;
use crate::run::Run;
use crate::vcpu::{CpuSignature, FEATURE_SNP, Vcpus};
use zerocopy::FromZeros as _;

/// Launches of more pages are planned but not hashed: hashing has no surprises, and takes long.
const PAGES_HASHED: u64 = 256;

const VCPUS: Vcpus = Vcpus { count: 2, signature: CpuSignature(0x00A0_0F11), features: FEATURE_SNP };

fn few(runs: &[Run<'_>]) -> bool {
    runs.iter().map(Run::pages).sum::<u64>() <= PAGES_HASHED
}

/// Takes any bytes as an IGVM file. Yields whether they were one.
pub fn igvm(bytes: &[u8]) -> bool {
    let Ok(file) = IgvmFile::parse(bytes) else { return false };
    let description = inspect(&file);
    let said = description.text().len() + description.json().to_string().len();
    let launch = IgvmLaunch { vcpus: VCPUS, zeros: ZeroPages::AsContent, vmsas: VmsaScope::All };
    let planned =
        Plan::of(&file, &launch).is_ok_and(|plan| few(&plan.runs) && plan.digest().value() != [0; 48]);
    let page = rewrite::with_page(bytes, 0x7_F000, &[1; PAGE_BYTES]).is_ok();
    let block = rewrite::with_id_block(bytes, &IdBlock::new_zeroed(), &IdAuth::new_zeroed()).is_ok();
    said > 0 || planned || page || block
}

/// Takes any bytes as an OVMF image. Yields whether they were one.
pub fn ovmf(bytes: &[u8]) -> bool {
    let Ok(ovmf) = Ovmf::parse(bytes) else { return false };
    let launch = OvmfLaunch { ovmf: &ovmf, image_digest: Some([0; 48]), kernel: None, vcpus: VCPUS };
    launch.sections().is_ok_and(|sections| few(&sections) && launch.digest().is_ok())
        || ovmf.sections.is_empty()
}
