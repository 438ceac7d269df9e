//! Entries for fuzzers: any bytes, no verdict but that they end.
//!
//! **What.** [`igvm()`] and [`ovmf`] run everything that outside bytes reach: reading, planning, describing, rewriting;
//! [`sealed`] makes a file of headers.
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
use core::mem::offset_of;
use igvm_defs::IGVM_FIXED_HEADER;
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

/// The headers of an IGVM file, followed by a page of data, with sizes and checksum made right: so that what fuzzers
/// change behind them is read.
#[must_use]
pub fn sealed(headers: &[u8]) -> Vec<u8> {
    const FIXED_BYTES: usize = size_of::<IGVM_FIXED_HEADER>();
    const CHECKSUM_AT: usize = offset_of!(IGVM_FIXED_HEADER, checksum);
    let mut file = headers.to_vec();
    file.resize(headers.len().max(FIXED_BYTES), 0);
    let end = file.len();
    file.resize(end + PAGE_BYTES, 0x5A);
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let put = |at: usize, number: u32, file: &mut Vec<u8>| {
        file.iter_mut().skip(at).zip(number.to_le_bytes()).for_each(|(place, byte)| *place = byte);
    };
    let total = size(file.len());
    put(offset_of!(IGVM_FIXED_HEADER, variable_header_size), size(end - FIXED_BYTES), &mut file);
    put(offset_of!(IGVM_FIXED_HEADER, total_file_size), total, &mut file);
    put(CHECKSUM_AT, 0, &mut file);
    let sum = crc32fast::hash(file.get(..end).unwrap_or_default());
    put(CHECKSUM_AT, sum, &mut file);
    file
}
